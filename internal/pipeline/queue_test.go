package pipeline

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
)

func TestFetching(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		b.registry.fault(c, upstream(failure.NotFound))
		items := want(a, c, "nonsense", d)
		requireSummary(t, "at first", b.Want("o", time.Minute, items), a+" Pending", c+" Pending", "nonsense Failed ended InvalidReference", d+" Pending")
		b.pass(2 * time.Second)
		requireSummary(t, "fetched", b.Want("o", time.Minute, items), a+" Fetched ended has", c+" Failed ended NotFound", "nonsense Failed ended InvalidReference", d+" Fetched ended has")
		if diff := cmp.Diff([]string{"o", "o", "o"}, b.notified()); diff != "" {
			t.Errorf("unexpected notifications (-want +got):\n%s", diff)
		}
		if b.registry.count() != 3 {
			t.Errorf("asked %d times", b.registry.count())
		}
		got := b.Want("o", time.Minute, want(d, a))
		if got[0].Artifact.SHA256 != shaOf(d) || got[1].Artifact.Digest != digestOf(a) {
			t.Errorf("the results are of others, or in another order: %v", got)
		}
		b.pass(time.Hour)
		if b.registry.count() != 3 || len(b.notified()) != 0 {
			t.Errorf("without anything to do the registry was asked %d times", b.registry.count())
		}
	})
}

func TestDuplicateKeys(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		items := want(a, c)
		items[1].Key = items[0].Key
		for range 3 {
			b.Want("o", 0, items)
			b.pass(5 * time.Second)
		}
		if b.registry.count() != 1 || b.registry.asked[0].URL != a {
			t.Errorf("asked for %v", b.registry.asked)
		}
	})
}

// What changes is fetched again at once, and nothing of the old is shown with it.
func TestChanges(t *testing.T) {
	for name, change := range map[string]func(*fetch.Request){
		"the URL":           func(r *fetch.Request) { r.URL = c },
		"the hash":          func(r *fetch.Request) { r.SHA256 = shaOf(a) },
		"the login":         func(r *fetch.Request) { r.Access.DockerConfig = []byte("new") },
		"the CA":            func(r *fetch.Request) { r.Access.CA = []byte("new") },
		"the protocol":      func(r *fetch.Request) { r.Access.PlainHTTP = true },
		"an unknown digest": func(r *fetch.Request) { r.Digest = digestOf("x") },
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, b *bench) {
				items := want(a)
				b.Want("o", 0, items)
				b.pass(2 * time.Second)
				change(&items[0].Request)
				requireSummary(t, "changed", b.Want("o", 0, items), a+" Pending")
				b.pass(2 * time.Second)
				requireSummary(t, "fetched again", b.Want("o", 0, items), a+" Fetched ended has")
				if b.registry.count() != 2 {
					t.Errorf("asked %d times", b.registry.count())
				}
			})
		})
	}
}

func TestRetries(t *testing.T) {
	for name, test := range map[string]struct {
		err      error
		interval time.Duration
		pauses   []time.Duration // between attempts, without jitter
	}{
		"what only an edit helps is not tried again": {failure.New(failure.Spec, failure.InvalidSecret, nil, "x"), time.Minute, nil},
		"what the other side has to change":          {upstream(failure.NotFound), time.Minute, []time.Duration{time.Minute, time.Minute, time.Minute}},
		"what goes away by itself":                   {transient(), time.Hour, []time.Duration{1 * time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 16 * time.Second, 32 * time.Second, 64 * time.Second, 128 * time.Second, 256 * time.Second, 300 * time.Second, 300 * time.Second}},
		"what is not there yet":                      {failure.New(failure.Waiting, failure.SecretNotFound, nil, "x"), time.Hour, []time.Duration{1 * time.Second, 2 * time.Second}},
		"what nobody foresaw":                        {errors.New("surprise"), time.Hour, []time.Duration{1 * time.Second, 2 * time.Second}},
		"never less often than the interval":         {transient(), 3 * time.Second, []time.Duration{1 * time.Second, 2 * time.Second, 3 * time.Second, 3 * time.Second}},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, b *bench) {
				b.registry.took = 0
				b.registry.fault(a, test.err)
				b.Want("o", test.interval, want(a))
				b.pass(0)
				for i, pause := range test.pauses {
					b.pass(pause*9/10 - time.Millisecond)
					if got := b.registry.count(); got != i+1 {
						t.Fatalf("%d attempts before the pause %d of %s was over", got, i, pause)
					}
					// Attempts may be a tenth early or late. The next pause is counted from the attempt.
					for range 300 {
						if b.registry.count() == i+2 {
							break
						}
						b.pass(pause / 1000)
					}
					if got := b.registry.count(); got != i+2 {
						t.Fatalf("%d attempts after the pause %d of %s", got, i, pause)
					}
				}
				if test.pauses == nil {
					b.pass(24 * time.Hour)
					if got := b.registry.count(); got != 1 {
						t.Errorf("%d attempts", got)
					}
				}
			})
		})
	}
}

func TestRecovery(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		b.registry.fault(a, transient())
		b.Want("o", time.Hour, want(a))
		b.pass(time.Minute)
		b.registry.fault(a, nil)
		b.pass(2 * time.Minute)
		requireSummary(t, "the registry is back", b.Want("o", time.Hour, want(a)), a+" Fetched ended has")
	})
}

func TestShorterInterval(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		b.registry.fault(a, upstream(failure.NotFound))
		b.Want("o", 24*time.Hour, want(a))
		b.pass(time.Minute)
		b.Want("o", time.Minute, want(a))
		b.pass(2 * time.Minute)
		if b.registry.count() < 2 {
			t.Error("the old interval still counts")
		}
	})
}

// Removed items are cancelled, and what they did is not told to anybody.
func TestCancelling(t *testing.T) {
	inBubble(t, Options{Workers: 1}, func(t *testing.T, b *bench) {
		b.registry.took = time.Hour
		b.Want("o", 0, want(a, c))
		b.pass(time.Second)
		b.Want("o", 0, want(c))
		b.pass(time.Second)
		b.Forget("o")
		b.pass(time.Second)
		b.registry.mu.Lock()
		running := b.registry.running[""]
		b.registry.mu.Unlock()
		if running != 0 || len(b.notified()) != 0 || len(b.flights)+len(b.waiting)+b.running+len(b.perHost) != 0 {
			t.Errorf("%d fetches still run; %v, %v", running, b.flights, b.waiting)
		}
		b.registry.took = time.Second
		b.Want("o", 0, want(a))
		b.pass(2 * time.Second)
		requireSummary(t, "wanted again", b.Want("o", 0, want(a)), a+" Fetched ended has")
	})
}

// Whoever asks for the same with the same access is served by one fetch, also when the one who asked
// first goes away; with another access there is another fetch, or else a digest would open a private registry.
func TestSharing(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		private := want(a)
		private[0].Request.Access.DockerConfig = []byte("login")
		b.Want("first", 0, private)
		b.Want("same", 0, private)
		b.Want("other", 0, want(a))
		b.pass(100 * time.Millisecond)
		if b.registry.count() != 2 {
			t.Errorf("%d fetches", b.registry.count())
		}
		b.Forget("first")
		b.pass(2 * time.Second)
		requireSummary(t, "the same", b.Want("same", 0, private), a+" Fetched ended has")
		told := b.notified()
		slices.Sort(told)
		if diff := cmp.Diff([]string{"other", "same"}, told); diff != "" {
			t.Errorf("unexpected notifications (-want +got):\n%s", diff)
		}
	})
}

func TestLimits(t *testing.T) {
	inBubble(t, Options{Workers: 5, PerHost: 3}, func(t *testing.T, b *bench) {
		var urls []string
		for i := range 20 {
			urls = append(urls, fmt.Sprintf("oci://h/a%d:1", i), fmt.Sprintf("oci://other/a%d:1", i))
		}
		b.Want("o", 0, want(urls...))
		b.pass(8*time.Second + 500*time.Millisecond)
		if diff := cmp.Diff(map[string]int{"": 5, "h": 3, "other": 3}, b.registry.most); diff != "" {
			t.Errorf("unexpected numbers at the same time (-want +got):\n%s", diff)
		}
		b.pass(2 * time.Second)
		for _, r := range b.Want("o", 0, want(urls...)) {
			if r.State != Fetched {
				t.Errorf("%s is %s", r.Key, r.State)
			}
		}
	})
}

func TestFairness(t *testing.T) {
	inBubble(t, Options{Workers: 2, PerHost: 2}, func(t *testing.T, b *bench) {
		var many []string
		for i := range 100 {
			many = append(many, fmt.Sprintf("oci://h/a%d:1", i))
		}
		b.Want("large", 0, want(many...))
		b.pass(500 * time.Millisecond)
		b.Want("small", 0, want(c))
		b.pass(2 * time.Second)
		requireSummary(t, "a small one beside a large one", b.Want("small", 0, want(c)), c+" Fetched ended has")
	})
}
