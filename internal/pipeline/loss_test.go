package pipeline

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// A digest that the owner recorded is enough for what the store has; one that stands in the URL is not.
func TestRecordedDigests(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		b.Want("o", 0, want(a))
		b.pass(2 * time.Second)

		pinned := want(a)
		pinned[0].Request.Digest = digestOf(a)
		requireSummary(t, "recorded", b.Want("o", 0, pinned), a+" Fetched ended has")
		requireSummary(t, "recorded, after a restart", b.Want("again", 0, pinned), a+" Fetched ended has")

		expected := want(a)
		expected[0].Request.Digest, expected[0].Request.SHA256 = digestOf(a), shaOf(c)
		requireSummary(t, "another module is expected", b.Want("expecting", 0, expected), a+" Pending")

		inURL := "oci://h/a@" + digestOf(a)
		requireSummary(t, "known to anybody", b.Want("thief", 0, want(inURL)), inURL+" Pending")

		contradicting := want("oci://h/a@" + digestOf(c))
		contradicting[0].Request.Digest = digestOf(a)
		requireSummary(t, "not of this URL", b.Want("changed", 0, contradicting), contradicting[0].Key.Name+" Pending")
		b.pass(2 * time.Second)
		requireSummary(t, "another module was expected", b.Want("expecting", 0, expected), a+" Failed ended DigestMismatch")
	})
}

// What the store has lost is fetched again, as what it was.
func TestLoss(t *testing.T) {
	for name, notice := range map[string]func(b *bench){
		"noticed by the owner": func(b *bench) { b.Want("o", time.Minute, want(a)) },
		"noticed by a pod": func(b *bench) {
			if !b.Missing(shaOf(a)) {
				b.t.Error("nothing is known of it")
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, b *bench) {
				b.Want("o", time.Minute, want(a))
				b.pass(2 * time.Second)
				b.lose()
				if b.Lost(shaOf(a)) {
					t.Error("it is called lost before anybody tried")
				}
				notice(b)
				b.pass(100 * time.Millisecond)
				if b.Lost(shaOf(a)) {
					t.Error("it is called lost while it is fetched")
				}
				requireSummary(t, "fetching", b.Want("o", time.Minute, want(a)), a+" Pending ended has")
				b.pass(2 * time.Second)
				requireSummary(t, "fetched again", b.Want("o", time.Minute, want(a)), a+" Fetched ended has")
				if last := b.registry.asked[len(b.registry.asked)-1]; b.registry.count() != 2 || last.Digest != digestOf(a) {
					t.Errorf("asked %d times, for %v", b.registry.count(), last)
				}
			})
		})
	}
}

func TestLost(t *testing.T) {
	for name, test := range map[string]struct {
		err  error
		lost bool
	}{
		"gone from the registry":       {upstream(failure.NotFound), true},
		"refused for good":             {failure.New(failure.Spec, failure.InvalidSecret, nil, "x"), true},
		"the registry does not answer": {transient(), false},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, Options{}, func(t *testing.T, b *bench) {
				b.Want("o", time.Minute, want(a))
				b.pass(2 * time.Second)
				b.registry.fault(a, test.err)
				b.lose()
				for range 20 { // pods ask every second
					if !b.Missing(shaOf(a)) {
						t.Error("nothing is known of it")
					}
					b.pass(time.Second)
				}
				if b.Lost(shaOf(a)) != test.lost {
					t.Errorf("Lost() is not %t", test.lost)
				}
				if test.lost && b.registry.count() != 2 {
					t.Errorf("the pods' asking made %d fetches", b.registry.count())
				}
				b.registry.fault(a, nil)
				b.Forget("o")
				b.Want("o", time.Minute, want(a))
				b.pass(2 * time.Second)
				if b.Lost(shaOf(a)) {
					t.Error("it is called lost although it is there")
				}
			})
		})
	}
}

// After a restart with an empty store, what was recorded is known before it is fetched.
func TestLossBeforeTheStart(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		items := want(a)
		items[0].Request.Digest, items[0].Recorded = digestOf(a), map[string]string{"": shaOf(a)}
		b.registry.fault(a, upstream(failure.NotFound))
		b.Want("o", time.Minute, items)
		if !b.Missing(shaOf(a)) || b.Lost(shaOf(a)) {
			t.Error("what was recorded is not known, or called lost before anybody tried")
		}
		b.pass(2 * time.Second)
		if !b.Lost(shaOf(a)) {
			t.Error("it is not called lost")
		}
	})
}

func TestUnknownModules(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		b.Want("o", 0, want(a, "nonsense"))
		for _, sha256 := range []string{shaOf(c), ""} {
			if b.Missing(sha256) || b.Lost(sha256) {
				t.Errorf("%q is known", sha256)
			}
		}
	})
}

// One of two that has it is enough.
func TestLostNeedsEverybody(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		private := want(a)
		private[0].Request.Access.DockerConfig = []byte("login")
		b.Want("public", time.Minute, want(a))
		b.Want("private", time.Minute, private)
		b.pass(2 * time.Second)
		b.registry.fault(a, upstream(failure.NotFound))
		b.lose()
		b.Want("public", time.Minute, want(a))
		b.pass(2 * time.Second)
		if b.Lost(shaOf(a)) {
			t.Error("it is called lost although one owner has not tried")
		}
		b.Missing(shaOf(a))
		b.pass(2 * time.Second)
		if !b.Lost(shaOf(a)) {
			t.Error("it is not called lost although all have tried")
		}
	})
}

func TestConcurrency(t *testing.T) {
	inBubble(t, Options{Workers: 3, PerHost: 2}, func(t *testing.T, b *bench) {
		b.registry.took = time.Millisecond
		b.registry.fault(c, transient())
		var group sync.WaitGroup
		for i := range 8 {
			group.Go(func() {
				for n := range 30 {
					owner := fmt.Sprintf("o%d", i%3)
					b.Want(owner, time.Second, want(a, c, d, fmt.Sprintf("oci://h/x%d:1", n%4))[n%3:])
					b.Missing(shaOf(a))
					b.Lost(shaOf(c))
					if n%10 == 9 {
						b.Forget(owner)
						b.lose()
					}
					time.Sleep(time.Duration(n) * 100 * time.Microsecond)
				}
			})
		}
		group.Wait()
		b.registry.fault(c, nil)
		b.Want("o0", time.Second, want(a, c, d))
		b.pass(time.Minute)
		requireSummary(t, "in the end", b.Want("o0", time.Second, want(a, c, d)), a+" Fetched ended has", c+" Fetched ended has", d+" Fetched ended has")
		if b.running != 0 || len(b.flights) != 0 || len(b.perHost) != 0 {
			t.Errorf("left: %d running, %v, %v", b.running, b.flights, b.perHost)
		}
		if b.registry.most[""] > 3 || b.registry.most["h"] > 2 {
			t.Errorf("too many at the same time: %v", b.registry.most)
		}
	})
}
