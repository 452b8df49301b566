package follow_test

import (
	"bytes"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/follow"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
	"github.com/higress-group/plugin-server-operator/internal/serve"
)

// counted is a sibling in front of which the test stands.
type counted struct {
	address string
	asked   atomic.Int64
	waits   atomic.Int64 // of those who asked, that did not say they do not want to be held
}

func sibling(t *testing.T, handler http.Handler) *counted {
	t.Helper()
	c := &counted{}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		if r.Header.Get("Prefer") != "wait=0" || r.Header.Get("Accept-Encoding") != "gzip" {
			c.waits.Add(1)
		}
		handler.ServeHTTP(w, r)
	}))
	c.address = strings.TrimPrefix(server.URL, "http://")
	t.Cleanup(func() {
		server.CloseClientConnections()
		server.Close()
	})
	return c
}

// realSibling is a real server of a volume with some modules. It has never seen
// a catalog.
func realSibling(t *testing.T, modules ...publishtest.Module) *counted {
	t.Helper()
	dir := t.TempDir()
	publishtest.Put(t, publishtest.Open(t, dir, 0), modules...)
	return sibling(t, serve.New(serve.Options{DataDir: dir, Logger: slog.New(slog.DiscardHandler)}).Handler())
}

// away is an operator that does not answer.
func away(t *testing.T) *operator {
	t.Helper()
	o := newOperator(t)
	o.http.Close()
	return o
}

func TestFilledFromSiblings(t *testing.T) {
	t.Parallel()
	m, rare := publishtest.New("a", "1", 300_000, 1), publishtest.New("b", "1", 300_000, 2)
	empty, first, second := realSibling(t), realSibling(t, m), realSibling(t, m, rare)
	p := follows(t, setting{
		operator: away(t), readyTimeout: time.Hour,
		siblings: follow.SiblingsAt(empty.address, first.address, second.address, "127.0.0.1:1"),
	})
	p.write(t, encode(t, publishtest.Catalog(1, m, rare)))
	eventually(t, 20*time.Second, "filled", p.serves(m, rare))
	if n := empty.waits.Load() + first.waits.Load() + second.waits.Load(); n > 0 {
		t.Errorf("%d requests would be held, or take the module unzipped", n)
	}
}

// TestWrongSibling: whatever a sibling sends, the next one is asked.
func TestWrongSibling(t *testing.T) {
	t.Parallel()
	m, other := publishtest.New("a", "1", 300_000, 1), publishtest.New("a", "1", 300_000, 2)
	flipped := bytes.Clone(m.Gzip)
	flipped[len(flipped)/2] ^= 1
	for name, b := range map[string][]byte{"another module": other.Gzip, "damaged": flipped, "cut": m.Gzip[:1000], "no gzip": m.Bytes, "nothing": nil} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			wrong := sibling(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Encoding", "gzip")
				_, _ = w.Write(b)
			}))
			right := realSibling(t, m)
			// Whoever is asked first: with one wrong one, it takes one attempt.
			for range 4 {
				dir := t.TempDir()
				p := follows(t, setting{dir: dir, operator: away(t), readyTimeout: time.Hour, siblings: follow.SiblingsAt(wrong.address, right.address)})
				p.write(t, encode(t, publishtest.Catalog(1, m)))
				eventually(t, 20*time.Second, "filled", p.serves(m))
				got, err := os.ReadFile(filepath.Join(dir, "plugins/a/1/plugin.wasm"))
				if err != nil || !bytes.Equal(got, m.Bytes) {
					t.Errorf("something else: %v", err)
				}
				p.stop()
			}
		})
	}
}

// TestNobodyHasIt: a pod becomes ready with what there is.
func TestNobodyHasIt(t *testing.T) {
	t.Parallel()
	m, nowhere := publishtest.New("a", "1", 5000, 1), publishtest.New("b", "1", 5000, 2)
	deaf, err := net.Listen("tcp", "127.0.0.1:0") // accepts, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	for name, siblings := range map[string]*follow.Siblings{
		"no name":      follow.SiblingsAt(),
		"all away":     follow.SiblingsAt("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3", "127.0.0.1:4"),
		"one is deaf":  follow.SiblingsAt(deaf.Addr().String()),
		"one lacks it": follow.SiblingsAt(realSibling(t).address),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			began := time.Now()
			p := follows(t, setting{operator: away(t), readyTimeout: 2 * time.Second, siblings: siblings})
			publishtest.Put(t, p.volume, m)
			p.write(t, encode(t, publishtest.Catalog(1, m, nowhere)))
			eventually(t, 20*time.Second, "ready", p.serves(m))
			if took := time.Since(began); took < 2*time.Second || took > 10*time.Second {
				t.Errorf("after %s", took)
			}
		})
	}
}

// TestSiblingsAreAskedLast: never while the operator answers.
func TestSiblingsAreAskedLast(t *testing.T) {
	t.Parallel()
	m, coming, lost, damaged := publishtest.New("a", "1", 5000, 1), publishtest.New("b", "1", 5000, 2), publishtest.New("c", "1", 5000, 3), publishtest.New("d", "1", 5000, 4)
	o := newOperator(t)
	publishtest.Put(t, o.store, m)
	s := realSibling(t, m, coming, lost, damaged)
	o.publish(t, publishtest.Catalog(1, m, coming))
	p := follows(t, setting{operator: o, siblings: follow.SiblingsAt(s.address)})
	eventually(t, 10*time.Second, "the first one", func() bool { return p.volume.Has(m.Entry.SHA256, m.Entry.Size) })
	time.Sleep(quiet) // the operator says several times that the other one is on its way
	publishtest.Put(t, o.store, coming)
	eventually(t, 10*time.Second, "both", p.serves(m, coming))
	if n := s.asked.Load(); n > 0 {
		t.Errorf("asked %d times while the operator answered", n)
	}
	o.set(func(o *operator) { o.lost[lost.Entry.SHA256] = true })
	o.publish(t, publishtest.Catalog(2, m, coming, lost))
	eventually(t, 10*time.Second, "what the operator lost", p.serves(m, coming, lost))
	o.set(func(o *operator) {
		o.fault = func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasPrefix(r.URL.Path, "/blobs/") {
				w.Header().Set("Content-Encoding", "gzip")
				_, _ = w.Write(m.Gzip) // the wrong one
				return true
			}
			return false
		}
	})
	o.publish(t, publishtest.Catalog(3, m, coming, lost, damaged))
	eventually(t, 10*time.Second, "what the operator has no more as it should be", p.serves(m, coming, lost, damaged))
	if n := s.asked.Load(); n != 2 {
		t.Errorf("asked %d times, want 2", n)
	}
}

// TestPodsFillEachOther: each has a part, nobody has seen a generation yet.
func TestPodsFillEachOther(t *testing.T) {
	t.Parallel()
	var modules []publishtest.Module
	for i := range 20 {
		modules = append(modules, publishtest.New("p", string(rune('a'+i)), 20_000, uint64(i)))
	}
	var addresses, dirs []string
	for range 3 {
		dir := t.TempDir()
		dirs = append(dirs, dir)
		addresses = append(addresses, strings.TrimPrefix(served(t, dir), "http://"))
	}
	for i, dir := range dirs {
		publishtest.Put(t, publishtest.Open(t, dir, 0), modules[i*6:i*6+8]...)
	}
	for _, dir := range dirs {
		p := follows(t, setting{dir: dir, operator: away(t), readyTimeout: time.Hour, siblings: follow.SiblingsAt(addresses...)})
		p.write(t, encode(t, publishtest.Catalog(1, modules...)))
		t.Cleanup(p.stop)
	}
	for i, dir := range dirs {
		eventually(t, 30*time.Second, "all", func() bool {
			g, err := publish.LoadCurrent(dir)
			return err == nil && g.Whole()
		})
		response, err := http.Get("http://" + addresses[i] + "/plugins/p/a/plugin.wasm")
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(response.Body)
		response.Body.Close()
		if err != nil || !bytes.Equal(b, modules[0].Bytes) {
			t.Errorf("%d bytes: %v", len(b), err)
		}
	}
	http.DefaultClient.CloseIdleConnections()
}

// TestSilentOperator: one that accepts and says nothing holds up the first
// modules, not each one.
func TestSilentOperator(t *testing.T) {
	t.Parallel()
	deaf, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer deaf.Close()
	var modules []publishtest.Module
	for i := range 60 {
		modules = append(modules, publishtest.New("p", string(rune('A'+i/26))+string(rune('a'+i%26)), 5000, uint64(i)))
	}
	s := realSibling(t, modules...)
	o := newOperator(t)
	o.http.URL = "http://" + deaf.Addr().String()
	p := follows(t, setting{operator: o, siblings: follow.SiblingsAt(s.address)})
	p.write(t, encode(t, publishtest.Catalog(1, modules...)))
	began := time.Now()
	eventually(t, 30*time.Second, "all", p.serves(modules...))
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("after %s", took)
	}
}

func TestNewSiblings(t *testing.T) {
	t.Parallel()
	for address, ok := range map[string]bool{
		"plugins-peers.ns.svc:8080": true, "[::1]:8080": true, "plugins-peers.ns.svc": false, ":8080": false, "host:http": false, "host:0": false, "host:65536": false, "": false,
	} {
		if _, err := follow.NewSiblings(address); (err == nil) != ok {
			t.Errorf("%q: %v", address, err)
		}
	}
}
