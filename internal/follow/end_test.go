package follow_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/follow"
	"github.com/higress-group/plugin-server-operator/internal/handout"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
	"github.com/higress-group/plugin-server-operator/internal/serve"
)

const server = "higress-system/plugins"

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// operator is the real handout over real HTTP, with a store that the test
// fills.
type operator struct {
	*handout.Handler
	http  *httptest.Server
	store *publish.Volume

	mu     sync.Mutex
	lost   map[string]bool
	served []string                                                 // revisions that the pod said it serves
	fault  func(w http.ResponseWriter, r *http.Request) (done bool) // in front of the handout
	asked  map[string]int                                           // by path
}

func newOperator(t *testing.T) *operator {
	t.Helper()
	o := &operator{store: publishtest.Open(t, t.TempDir(), 0), lost: map[string]bool{}, asked: map[string]int{}}
	o.Handler = handout.New(handout.Options{
		Blobs:   o.store,
		Missing: func(string) bool { return true },
		Lost: func(sha256 string) bool {
			o.mu.Lock()
			defer o.mu.Unlock()
			return o.lost[sha256]
		},
		Polled: func(_, _, revision string) {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.served = append(o.served, revision)
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	o.http = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		o.mu.Lock()
		fault := o.fault
		o.asked[r.URL.Path]++
		o.mu.Unlock()
		if fault == nil || !fault(w, r) {
			o.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(func() {
		o.Close()
		o.http.Close()
	})
	return o
}

func (o *operator) set(change func(o *operator)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	change(o)
}

func (o *operator) publish(t *testing.T, c *catalog.Catalog) {
	t.Helper()
	o.SetCatalog(server, encode(t, c), c.Revision())
}

func encode(t *testing.T, c *catalog.Catalog) []byte {
	t.Helper()
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// pod is a volume that is followed.
type pod struct {
	dir    string
	volume *publish.Volume
	file   string
	stop   func()
}

type setting struct {
	dir          string
	limit        int64
	readyTimeout time.Duration
	operator     *operator // nil: only the file
	origins      []follow.Origin
	siblings     *follow.Siblings
}

func follows(t *testing.T, s setting) *pod {
	t.Helper()
	if s.dir == "" {
		s.dir = t.TempDir()
	}
	p := &pod{dir: s.dir, file: filepath.Join(t.TempDir(), "catalog.json.gz")}
	var err error
	if p.volume, err = publish.Open(s.dir, s.limit); err != nil {
		t.Fatal(err)
	}
	o := follow.Options{
		Volume: p.volume, CatalogFile: p.file, ReadyTimeout: s.readyTimeout, Origins: s.origins, Siblings: s.siblings,
		Logger: slog.New(slog.DiscardHandler),
	}
	closing := func() {}
	if s.operator != nil {
		far, err := follow.NewOperator(s.operator.http.URL, server, "pod-1")
		if err != nil {
			t.Fatal(err)
		}
		o.Operator, o.Origins, closing = far, append(s.origins, far), far.Close
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { follow.New(o).Run(ctx) })
	p.stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		closing()
		if s.siblings != nil {
			s.siblings.Close()
		}
		if err := p.volume.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(p.stop)
	return p
}

func (p *pod) write(t *testing.T, encoded []byte) {
	t.Helper()
	next := p.file + ".next"
	if err := errors.Join(os.WriteFile(next, encoded, 0o600), os.Rename(next, p.file)); err != nil {
		t.Fatal(err)
	}
}

// eventually waits until something holds.
func eventually(t *testing.T, within time.Duration, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not within %s: %s", within, what)
		}
	}
}

func (p *pod) generation() *publish.Generation {
	g, err := publish.LoadCurrent(p.dir)
	if err != nil {
		return &publish.Generation{Catalog: &catalog.Catalog{}}
	}
	return g
}

func (p *pod) serves(modules ...publishtest.Module) func() bool {
	return func() bool {
		g := p.generation()
		if len(g.Entries) != len(modules) {
			return false
		}
		want := map[catalog.Entry]bool{}
		for _, m := range modules {
			want[m.Entry] = true
		}
		for _, e := range g.Entries {
			if !want[e] {
				return false
			}
		}
		return true
	}
}

func (p *pod) problem(t *testing.T) string {
	t.Helper()
	s, err := publish.ReadStatus(p.dir)
	if err != nil {
		t.Fatal(err)
	}
	return s.Error
}

// serves a pod's volume for real.
func served(t *testing.T, dir string) string {
	t.Helper()
	var listeners []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		s := serve.New(serve.Options{DataDir: dir, Grace: time.Second, Logger: slog.New(slog.DiscardHandler)})
		if err := s.Run(ctx, listeners[0], listeners[1]); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return "http://" + listeners[0].Addr().String()
}

// TestFromCatalogToGateway is the whole data plane over real HTTP.
func TestFromCatalogToGateway(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	first, second, third := publishtest.New("a", "1", 300_000, 1), publishtest.New("a", "1", 300_000, 2), publishtest.New("b", "1", 300_000, 3)
	publishtest.Put(t, o.store, first)
	o.publish(t, publishtest.Catalog(1, first))
	p := follows(t, setting{operator: o})
	url := served(t, p.dir)
	gateway := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}} // undoes gzip by itself
	get := func(path string) (int, []byte) {
		response, err := gateway.Get(url + path)
		if err != nil {
			t.Error(err)
			return 0, nil
		}
		defer response.Body.Close()
		b, err := io.ReadAll(response.Body)
		if err != nil {
			t.Error(err)
		}
		return response.StatusCode, b
	}
	// Held from before the first catalog until it is there.
	if status, b := get("/plugins/a/1/plugin.wasm"); status != 200 || !bytes.Equal(b, first.Bytes) {
		t.Fatalf("%d with %d bytes", status, len(b))
	}
	eventually(t, 2*time.Second, "the operator knows what is served", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return len(o.served) > 0 && o.served[len(o.served)-1] == publishtest.Catalog(1, first).Revision()
	})

	// Something new is served within a second, three on a busy machine.
	publishtest.Put(t, o.store, second)
	began := time.Now()
	o.publish(t, publishtest.Catalog(2, second))
	eventually(t, 5*time.Second, "the new module is served", func() bool {
		_, b := get("/plugins/a/1/plugin.wasm")
		return bytes.Equal(b, second.Bytes)
	})
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("served only after %s", took)
	}

	// One that is asked for before it is declared, declared before it is fetched,
	// and fetched in the end.
	type answer struct {
		status int
		body   []byte
		at     time.Time
	}
	held := make(chan answer, 1)
	go func() {
		status, b := get("/plugins/b/1/plugin.wasm")
		held <- answer{status, b, time.Now()}
	}()
	pending := publishtest.Catalog(3, second)
	pending.Entries = append(pending.Entries, catalog.Entry{Name: "b", Version: "1"})
	o.publish(t, pending)
	eventually(t, 5*time.Second, "pending is known", func() bool { return p.generation().Catalog.Sequence == 3 })
	o.publish(t, publishtest.Catalog(4, second, third)) // fetched, but the store has lost it
	eventually(t, 5*time.Second, "the module is asked for", func() bool {
		o.mu.Lock()
		defer o.mu.Unlock()
		return o.asked["/blobs/sha256/"+third.Entry.SHA256] > 0
	})
	publishtest.Put(t, o.store, third)
	arrived := time.Now()
	got := <-held
	if took := got.at.Sub(arrived); got.status != 200 || !bytes.Equal(got.body, third.Bytes) || took > 2*time.Second {
		t.Errorf("held, then %d with %d bytes %s after it arrived", got.status, len(got.body), took)
	}
}
