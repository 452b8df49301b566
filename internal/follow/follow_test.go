package follow_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/follow"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// quiet is how long a test looks at something that must not happen.
const quiet = 500 * time.Millisecond

func TestFirstGenerationWaits(t *testing.T) {
	t.Parallel()
	there, late := publishtest.New("a", "1", 5000, 1), publishtest.New("b", "1", 5000, 2)
	c := publishtest.Catalog(1, there, late)
	c.Entries = append(c.Entries, catalog.Entry{Name: "c", Version: "1"}) // pending: does not count
	for name, tt := range map[string]struct {
		timeout time.Duration
		event   func(o *operator)
		want    []publishtest.Module
	}{
		"for what is on its way": {time.Hour, func(o *operator) { publishtest.Put(t, o.store, late) }, []publishtest.Module{there, late}},
		"not for what is lost":   {time.Hour, func(o *operator) { o.set(func(o *operator) { o.lost[late.Entry.SHA256] = true }) }, []publishtest.Module{there}},
		"not for ever":           {time.Second, func(*operator) {}, []publishtest.Module{there}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOperator(t)
			publishtest.Put(t, o.store, there)
			o.publish(t, c)
			p := follows(t, setting{operator: o, readyTimeout: tt.timeout})
			eventually(t, 10*time.Second, "the module that is there arrives", func() bool { return p.volume.Has(there.Entry.SHA256, there.Entry.Size) })
			if tt.timeout == time.Hour {
				time.Sleep(quiet)
				if g := p.generation(); g.ID != "" {
					t.Fatal("published before everything was there")
				}
			}
			tt.event(o)
			eventually(t, 10*time.Second, "it is published", p.serves(tt.want...))
		})
	}
}

// TestLaterGenerationsLoseNothing: they come at once, serve the older module
// where the new one has not arrived, and again as modules arrive.
func TestLaterGenerationsLoseNothing(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	old, changed, added := publishtest.New("a", "1", 5000, 1), publishtest.New("a", "1", 5000, 2), publishtest.New("b", "1", 5000, 3)
	publishtest.Put(t, o.store, old)
	o.publish(t, publishtest.Catalog(1, old))
	p := follows(t, setting{operator: o, readyTimeout: time.Hour})
	eventually(t, 10*time.Second, "first", p.serves(old))
	publishtest.Put(t, o.store, added)
	o.publish(t, publishtest.Catalog(2, changed, added))
	eventually(t, 10*time.Second, "the added one, beside the old one", p.serves(old, added))
	if g := p.generation(); len(g.Missing) != 1 || g.Catalog.Sequence != 2 {
		t.Errorf("sequence %d, missing %v", g.Catalog.Sequence, g.Missing)
	}
	publishtest.Put(t, o.store, changed)
	eventually(t, 10*time.Second, "everything", p.serves(changed, added))
	if g := p.generation(); !g.Whole() {
		t.Errorf("missing %v", g.Missing)
	}
	if problem := p.problem(t); problem != "" {
		eventually(t, 5*time.Second, "no problem left", func() bool { return p.problem(t) == "" })
	}
}

// TestArrivalsArePublishedTogether: a hundred modules are not a hundred
// generations.
func TestArrivalsArePublishedTogether(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	first := publishtest.New("first", "1", 5000, 1)
	publishtest.Put(t, o.store, first)
	o.publish(t, publishtest.Catalog(1, first))
	p := follows(t, setting{operator: o})
	eventually(t, 10*time.Second, "first", p.serves(first))
	modules := []publishtest.Module{first}
	for i := range 100 {
		modules = append(modules, publishtest.New("many", fmt.Sprint(i), 5000, uint64(100+i)))
	}
	publishtest.Put(t, o.store, modules...)
	began := time.Now()
	o.publish(t, publishtest.Catalog(2, modules...))
	eventually(t, 30*time.Second, "all", p.serves(modules...))
	most := 4 + int(time.Since(began)/(200*time.Millisecond))
	if entries, err := os.ReadDir(p.dir + "/.gen"); err != nil || len(entries) > most {
		t.Errorf("%d generations in %s: %v", len(entries), time.Since(began), err)
	}
}

func TestNewestWins(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	a, b := publishtest.New("a", "1", 5000, 1), publishtest.New("a", "1", 5000, 2)
	publishtest.Put(t, o.store, a, b)
	p := follows(t, setting{operator: o})
	p.write(t, encode(t, publishtest.Catalog(5, a)))
	eventually(t, 10*time.Second, "the file's", p.serves(a))
	o.publish(t, publishtest.Catalog(4, b)) // an operator that was away for a while
	time.Sleep(quiet)
	if !p.serves(a)() {
		t.Error("an older catalog of the operator was taken")
	}
	o.set(func(o *operator) {
		if n := o.asked["/catalogs/"+server]; n > 20 {
			t.Errorf("%d polls: the older catalog is asked for again and again", n)
		}
	})
	o.publish(t, publishtest.Catalog(6, b))
	eventually(t, 10*time.Second, "the operator's", p.serves(b))
	p.write(t, encode(t, publishtest.Catalog(5, a)))
	time.Sleep(2 * time.Second) // the file is looked at each second
	if !p.serves(b)() {
		t.Error("an older file was taken")
	}
	o.publish(t, publishtest.Catalog(7, a)) // back to what it was
	eventually(t, 10*time.Second, "back", p.serves(a))
	p.stop()
	// The volume remembers.
	again := follows(t, setting{dir: p.dir})
	again.write(t, encode(t, publishtest.Catalog(6, b)))
	time.Sleep(quiet)
	if !again.serves(a)() {
		t.Error("an older catalog was taken after a restart")
	}
}

// TestRevisionComesBack: the pod may miss the revision from between, and must
// not take it for newer when the file brings it later.
func TestRevisionComesBack(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	a, b := publishtest.New("a", "1", 5000, 1), publishtest.New("a", "1", 5000, 2)
	publishtest.Put(t, o.store, a, b)
	o.publish(t, publishtest.Catalog(1, a))
	p := follows(t, setting{operator: o})
	eventually(t, 10*time.Second, "first", p.serves(a))
	o.publish(t, publishtest.Catalog(2, b))
	o.publish(t, publishtest.Catalog(3, a))
	eventually(t, 10*time.Second, "the newest", func() bool { return p.generation().Catalog.Sequence == 3 })
	p.write(t, encode(t, publishtest.Catalog(2, b)))
	time.Sleep(1500 * time.Millisecond) // the file is looked at each second
	if g := p.generation(); g.Catalog.Sequence != 3 || !p.serves(a)() {
		t.Errorf("sequence %d is served", g.Catalog.Sequence)
	}
}

// TestPollsAreHeld: where nothing is new, nobody asks all the time.
func TestPollsAreHeld(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	m := publishtest.New("a", "1", 5000, 1)
	publishtest.Put(t, o.store, m)
	o.publish(t, publishtest.Catalog(1, m))
	p := follows(t, setting{operator: o})
	eventually(t, 10*time.Second, "served", p.serves(m))
	polls := func() (n int) {
		o.set(func(o *operator) { n = o.asked["/catalogs/"+server] })
		return n
	}
	eventually(t, 10*time.Second, "the operator is told what is served", func() (told bool) {
		o.set(func(o *operator) {
			told = len(o.served) > 0 && o.served[len(o.served)-1] == publishtest.Catalog(1, m).Revision()
		})
		return told
	})
	before := polls()
	time.Sleep(2 * quiet)
	if more := polls() - before; more > 0 {
		t.Errorf("%d polls in a second", more)
	}
}

// TestBadCatalog: what is served stays, the status says why, and a good one
// ends it.
func TestBadCatalog(t *testing.T) {
	t.Parallel()
	m, next := publishtest.New("a", "1", 5000, 1), publishtest.New("a", "1", 5000, 2)
	unknown := zip(`{"schemaVersion":99,"entries":[]}`)
	for name, tt := range map[string]struct {
		encoded []byte
		says    string
	}{
		"no gzip":                {[]byte("hello"), "not gzip"},
		"empty":                  {nil, "not gzip"},
		"no JSON":                {zip("hello"), "not JSON"},
		"cut":                    {unknown[:len(unknown)-6], "damaged"},
		"a schema of the future": {unknown, "use the same version"},
		"names that climb":       {zip(`{"schemaVersion":1,"entries":[{"name":"..","version":"1"}]}`), "malformed name"},
		"larger than is allowed": {make([]byte, catalog.MaxEncoded+10), "are allowed"},
		"larger inside":          {zip(strings.Repeat(" ", catalog.MaxDecoded+10)), "more than"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOperator(t)
			publishtest.Put(t, o.store, m, next)
			o.publish(t, publishtest.Catalog(1, m))
			p := follows(t, setting{operator: o})
			eventually(t, 10*time.Second, "first", p.serves(m))
			p.write(t, tt.encoded)
			eventually(t, 10*time.Second, "the file is complained about", func() bool {
				problem := p.problem(t)
				return strings.Contains(problem, "ConfigMap") && strings.Contains(problem, tt.says)
			})
			p.write(t, encode(t, publishtest.Catalog(1, m)))
			eventually(t, 10*time.Second, "the complaint ends", func() bool { return p.problem(t) == "" })
			o.SetCatalog(server, tt.encoded, strings.Repeat("0", 64))
			eventually(t, 20*time.Second, "the operator is complained about", func() bool {
				problem := p.problem(t)
				return strings.Contains(problem, "operator") && strings.Contains(problem, tt.says)
			})
			if !p.serves(m)() {
				t.Error("what was served is not served any more")
			}
			o.publish(t, publishtest.Catalog(2, next))
			eventually(t, 20*time.Second, "the next good one", p.serves(next))
			eventually(t, 10*time.Second, "no problem left", func() bool { return p.problem(t) == "" })
		})
	}
}

func zip(s string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	_, _ = io.WriteString(w, s)
	_ = w.Close()
	return b.Bytes()
}

// TestRestartGoesOn: a follower that was killed goes on where it was, without
// anybody telling it of a catalog.
func TestRestartGoesOn(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	there, late := publishtest.New("a", "1", 5000, 1), publishtest.New("b", "1", 5000, 2)
	publishtest.Put(t, o.store, there)
	o.publish(t, publishtest.Catalog(1, there))
	p := follows(t, setting{operator: o})
	eventually(t, 10*time.Second, "first", p.serves(there))
	o.publish(t, publishtest.Catalog(2, there, late))
	eventually(t, 10*time.Second, "second", func() bool { return p.generation().Catalog.Sequence == 2 })
	p.stop()
	o.DropCatalog(server)
	publishtest.Put(t, o.store, late)
	again := follows(t, setting{operator: o, dir: p.dir})
	eventually(t, 10*time.Second, "the rest", again.serves(there, late))
}

// siblings is an Origin that has what the operator lost.
type siblings struct {
	modules map[string]publishtest.Module
	err     error
	mu      sync.Mutex
	asked   int
}

func (s *siblings) Open(_ context.Context, sha256 string) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked++
	if m, ok := s.modules[sha256]; ok {
		return io.NopCloser(bytes.NewReader(m.Gzip)), nil
	}
	return nil, s.err
}

func TestOriginsInTurn(t *testing.T) {
	t.Parallel()
	m := publishtest.New("a", "1", 5000, 1)
	for name, tt := range map[string]struct {
		first *siblings
		want  []publishtest.Module
	}{
		"the first one has it":                          {&siblings{modules: map[string]publishtest.Module{m.Entry.SHA256: m}}, []publishtest.Module{m}},
		"it is lost even if another one is unreachable": {&siblings{err: errors.New("unreachable")}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOperator(t)
			o.lost[m.Entry.SHA256] = true
			o.publish(t, publishtest.Catalog(1, m))
			p := follows(t, setting{operator: o, origins: []follow.Origin{tt.first}, readyTimeout: time.Hour})
			eventually(t, 10*time.Second, "published", func() bool { return p.generation().ID != "" && p.serves(tt.want...)() })
		})
	}
}

func TestSupersededModulesAreFetched(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	m, old := publishtest.New("a", "1", 5000, 1), publishtest.New("a", "1", 5000, 2)
	publishtest.Put(t, o.store, m, old)
	c := publishtest.Catalog(1, m)
	c.Superseded = []catalog.Superseded{{SHA256: old.Entry.SHA256, Size: old.Entry.Size, RetainedUntil: "2030-01-01T00:00:00Z"}}
	o.publish(t, c)
	p := follows(t, setting{operator: o})
	eventually(t, 10*time.Second, "both", func() bool { return p.serves(m)() && p.volume.Has(old.Entry.SHA256, old.Entry.Size) })
}

func TestNewOperator(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		url, server string
		ok          bool
	}{
		"right":          {"http://operator.ns.svc:8082", "ns/name", true},
		"a slash":        {"http://operator.ns.svc:8082/", "ns/name", true},
		"no scheme":      {"operator:8082", "ns/name", false},
		"another scheme": {"file:///etc", "ns/name", false},
		"a path":         {"http://operator/x", "ns/name", false},
		"a login":        {"http://user:secret@operator", "ns/name", false},
		"nothing":        {"", "ns/name", false},
		"no namespace":   {"http://operator", "name", false},
		"too many parts": {"http://operator", "a/b/c", false},
		"a query":        {"http://operator", "a/b?c", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o, err := follow.NewOperator(tt.url, tt.server, "pod")
			if (err == nil) != tt.ok {
				t.Errorf("got %v", err)
			}
			if o != nil {
				o.Close()
			}
		})
	}
}
