package serve

import (
	"context"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// inBubble runs a test with a server on a clock of its own. The volume is made
// beforehand.
func inBubble(t *testing.T, test func(t *testing.T, s *Server, v *publish.Volume)) {
	t.Helper()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	synctest.Test(t, func(t *testing.T) {
		s := New(Options{DataDir: dir, Logger: slog.New(slog.DiscardHandler)})
		ctx, cancel := context.WithCancel(t.Context())
		var following sync.WaitGroup
		following.Go(func() { s.volume.follow(ctx) })
		test(t, s, v)
		cancel()
		following.Wait()
	})
}

// ask sends a request and gives the answer and how long it took.
func ask(ctx context.Context, s *Server, path string) (*httptest.ResponseRecorder, time.Duration) {
	began := time.Now()
	w := httptest.NewRecorder()
	s.plugins.ServeHTTP(w, httptest.NewRequestWithContext(ctx, http.MethodGet, path, nil))
	return w, time.Since(began)
}

func withPending(sequence int64, modules ...publishtest.Module) *catalog.Catalog {
	c := publishtest.Catalog(sequence, modules...)
	c.Entries = append(c.Entries, catalog.Entry{Name: "pending", Version: "1"})
	return c
}

func TestHoldEnds(t *testing.T) {
	t.Parallel()
	m, absent := publishtest.New("a", "1", 5000, 1), publishtest.New("absent", "1", 5000, 2)
	for name, tt := range map[string]struct {
		catalog *catalog.Catalog
		path    string
		status  int
		says    string
	}{
		"pending":                          {withPending(1), "/plugins/pending/1/plugin.wasm", 503, "declared, but has not arrived"},
		"available, but not on this pod":   {withPending(1, absent), "/plugins/absent/1/plugin.wasm", 503, "declared, but has not arrived"},
		"unknown":                          {withPending(1), "/plugins/unknown/1/plugin.wasm", 404, "no PluginSource declares"},
		"unknown version":                  {withPending(1, m), "/plugins/a/2/plugin.wasm", 404, "no PluginSource declares"},
		"unknown content":                  {withPending(1, m), "/blobs/sha256/" + strings.Repeat("0", 64), 404, "no PluginSource declares"},
		"another content than is served":   {withPending(1, m), "/plugins/a/1/plugin.wasm?sha256=" + strings.Repeat("0", 64), 503, "declared, but has not arrived"},
		"content of something pending":     {withPending(1), "/plugins/pending/1/plugin.wasm?sha256=" + strings.Repeat("0", 64), 503, "declared, but has not arrived"},
		"content of the catalog, not here": {withPending(1, absent), "/blobs/sha256/" + absent.Entry.SHA256, 503, "declared, but has not arrived"},
		"a pod that never saw a catalog":   {nil, "/plugins/a/1/plugin.wasm", 503, "has not seen a catalog"},
		"content, and never saw a catalog": {nil, "/blobs/sha256/" + strings.Repeat("0", 64), 503, "has not seen a catalog"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, s *Server, v *publish.Volume) {
				publishtest.Put(t, v, m)
				if tt.catalog != nil {
					publishtest.Publish(t, v, tt.catalog)
					s.volume.look()
				}
				w, took := ask(t.Context(), s, tt.path)
				if w.Code != tt.status || !strings.Contains(w.Body.String(), tt.says) || took != Hold {
					t.Errorf("after %s: %d %s", took, w.Code, w.Body)
				}
				if (w.Header().Get("Retry-After") != "") != (tt.status == 503) {
					t.Errorf("Retry-After: %q", w.Header().Get("Retry-After"))
				}
			})
		})
	}
}

// TestHoldIsAnsweredAtOnce: as soon as the bytes are there.
func TestHoldIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	m := publishtest.New("pending", "1", 5000, 1)
	for name, tt := range map[string]struct {
		before *catalog.Catalog
		path   string
	}{
		"pending":               {withPending(1), "/plugins/pending/1/plugin.wasm"},
		"unknown":               {publishtest.Catalog(1), "/plugins/pending/1/plugin.wasm"},
		"missing":               {publishtest.Catalog(1, m), "/plugins/pending/1/plugin.wasm"},
		"content, unknown":      {publishtest.Catalog(1), "/plugins/pending/1/plugin.wasm?sha256=" + m.Entry.SHA256},
		"content only, unknown": {publishtest.Catalog(1), "/blobs/sha256/" + m.Entry.SHA256},
		"no catalog yet":        {nil, "/plugins/pending/1/plugin.wasm"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, s *Server, v *publish.Volume) {
				if tt.before != nil {
					publishtest.Publish(t, v, tt.before)
					s.volume.look()
				}
				time.AfterFunc(3*time.Second, func() {
					publishtest.Publish(t, v, withPending(2)) // news of something else
				})
				time.AfterFunc(5*time.Second, func() {
					publishtest.Put(t, v, m)
					publishtest.Publish(t, v, publishtest.Catalog(3, m))
				})
				w, took := ask(t.Context(), s, tt.path)
				if w.Code != 200 || w.Body.String() != string(m.Bytes) || took > 5*time.Second+2*lookEvery {
					t.Errorf("%d with %d bytes after %s", w.Code, w.Body.Len(), took)
				}
			})
		})
	}
}

// TestLostFileIsWaitedFor: the catalog has it, the disk lost it; it is fetched
// again.
func TestLostFileIsWaitedFor(t *testing.T) {
	t.Parallel()
	m := publishtest.New("a", "1", 5000, 1)
	inBubble(t, func(t *testing.T, s *Server, v *publish.Volume) {
		publishtest.Put(t, v, m)
		publishtest.Publish(t, v, publishtest.Catalog(1, m))
		s.volume.look()
		if err := os.Remove(filepath.Join(s.options.DataDir, "blobs/sha256", m.Entry.SHA256)); err != nil {
			t.Fatal(err)
		}
		if w, took := ask(t.Context(), s, "/plugins/a/1/plugin.wasm"); w.Code != 503 || took != Hold {
			t.Errorf("%d after %s", w.Code, took)
		}
		time.AfterFunc(3*time.Second, func() { publishtest.Put(t, v, m) })
		if w, took := ask(t.Context(), s, "/plugins/a/1/plugin.wasm"); w.Code != 200 || took > 3*time.Second+lostEvery {
			t.Errorf("%d after %s", w.Code, took)
		}
	})
}

func TestHoldIsBounded(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, v *publish.Volume) {
		publishtest.Publish(t, v, withPending(1))
		s.volume.look()
		var waiting sync.WaitGroup
		var mu sync.Mutex
		answers := map[string]int{}
		crowd := func(n int, path string) {
			for range n {
				waiting.Go(func() {
					w, took := ask(t.Context(), s, path)
					mu.Lock()
					defer mu.Unlock()
					answers[http.StatusText(w.Code)+" "+took.String()]++
				})
			}
			synctest.Wait()
		}
		crowd(maxHeld, "/plugins/scanned/1/plugin.wasm")
		crowd(maxHeld, "/plugins/pending/1/plugin.wasm")
		waiting.Wait()
		for answer, want := range map[string]int{
			"Not Found 8s": maxHeld / 2, "Service Unavailable 8s": maxHeld / 2, "Service Unavailable 0s": maxHeld,
		} {
			if answers[answer] != want {
				t.Errorf("%d of %q, want %d", answers[answer], answer, want)
			}
		}
		if s.plugins.held.Load() != 0 || s.plugins.heldUnknown.Load() != 0 {
			t.Error("places were not given back")
		}
	})
}

func TestHoldEndsEarly(t *testing.T) {
	t.Parallel()
	inBubble(t, func(t *testing.T, s *Server, v *publish.Volume) {
		publishtest.Publish(t, v, withPending(1))
		s.volume.look()
		leaving, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if w, took := ask(leaving, s, "/plugins/pending/1/plugin.wasm"); w.Code != statusClientLeft || took != time.Second {
			t.Errorf("the client left: %d after %s", w.Code, took)
		}
		time.AfterFunc(2*time.Second, func() { close(s.draining) })
		if w, took := ask(t.Context(), s, "/plugins/unknown/1/plugin.wasm"); w.Code != 503 || took != 2*time.Second {
			t.Errorf("the server ends: %d after %s", w.Code, took)
		}
	})
}
