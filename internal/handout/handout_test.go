package handout_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/higress-group/plugin-server-operator/internal/handout"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

type poll struct{ Server, Pod, Revision string }

// operator is a Handler with what it asks and tells.
type operator struct {
	*handout.Handler
	mu    sync.Mutex
	asked []string
	polls []poll
	known map[string]bool
	lost  map[string]bool
}

func newOperator(blobs handout.Blobs) *operator {
	o := &operator{known: map[string]bool{}, lost: map[string]bool{}}
	o.Handler = handout.New(handout.Options{
		Blobs: blobs,
		Missing: func(sha256 string) bool {
			o.mu.Lock()
			defer o.mu.Unlock()
			o.asked = append(o.asked, sha256[:1])
			return o.known[sha256]
		},
		Lost: func(sha256 string) bool {
			o.mu.Lock()
			defer o.mu.Unlock()
			return o.lost[sha256]
		},
		Polled: func(server, pod, revision string) {
			o.SetCatalog("other/server", nil, revision) // not under a lock: this would block for ever
			o.mu.Lock()
			defer o.mu.Unlock()
			o.polls = append(o.polls, poll{server, pod, revision})
		},
		Logger: slog.New(slog.DiscardHandler),
	})
	return o
}

func (o *operator) get(ctx context.Context, target string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	o.ServeHTTP(w, r)
	return w
}

type brokenBlobs struct{}

func (brokenBlobs) Open(string) (*os.File, error)     { return nil, errors.New("the disk is broken") }
func (brokenBlobs) OpenGzip(string) (*os.File, error) { return nil, errors.New("the disk is broken") }

func TestBlobs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	m := publishtest.New("a", "1", 50_000, 1)
	publishtest.Put(t, v, m)
	hash := func(c string) string { return strings.Repeat(c, 64) }
	for name, tt := range map[string]struct {
		blobs  handout.Blobs
		path   string
		header []string
		status int
		body   []byte
		asked  []string
	}{
		"there":             {nil, "/blobs/sha256/" + m.Entry.SHA256, nil, 200, m.Bytes, nil},
		"there, as gzip":    {nil, "/blobs/sha256/" + m.Entry.SHA256, []string{"Accept-Encoding", "gzip"}, 200, m.Gzip, nil},
		"known, on its way": {nil, "/blobs/sha256/" + hash("a"), nil, 503, nil, []string{"a"}},
		"lost":              {nil, "/blobs/sha256/" + hash("b"), nil, 410, nil, nil},
		"known, and lost":   {nil, "/blobs/sha256/" + hash("c"), nil, 410, nil, nil},
		"unknown":           {nil, "/blobs/sha256/" + hash("d"), nil, 404, nil, []string{"d"}},
		"malformed":         {nil, "/blobs/sha256/..%2f..%2fetc", nil, 404, nil, nil},
		"upper case":        {nil, "/blobs/sha256/" + hash("A"), nil, 404, nil, nil},
		"elsewhere":         {nil, "/", nil, 404, nil, nil},
		"a broken store":    {brokenBlobs{}, "/blobs/sha256/" + m.Entry.SHA256, nil, 503, nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			blobs := tt.blobs
			if blobs == nil {
				blobs = publish.Blobs{Dir: dir}
			}
			o := newOperator(blobs)
			o.known = map[string]bool{hash("a"): true, hash("c"): true}
			o.lost = map[string]bool{hash("b"): true, hash("c"): true}
			w := o.get(t.Context(), tt.path, tt.header...)
			if w.Code != tt.status || (tt.body != nil && !bytes.Equal(w.Body.Bytes(), tt.body)) {
				t.Errorf("%d with %d bytes, want %d with %d", w.Code, w.Body.Len(), tt.status, len(tt.body))
			}
			if d := cmp.Diff(tt.asked, o.asked); d != "" {
				t.Errorf("asked for what is missing: %s", d)
			}
			if got := w.Header().Get("Retry-After"); (got == "1") != (tt.status == 503) {
				t.Errorf("Retry-After %q", got)
			}
		})
	}
}

func TestOnlyReading(t *testing.T) {
	t.Parallel()
	o := newOperator(publish.Blobs{})
	for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
		w := httptest.NewRecorder()
		o.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), method, "/blobs/sha256/x", nil))
		if w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
			t.Errorf("%s: %d", method, w.Code)
		}
	}
}

// TestPoll walks through the life of a poll on a clock of its own.
func TestPoll(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		target string
		later  func(o *operator) // after ten seconds
		status int
		body   string
		after  time.Duration
		polled poll
	}{
		"knows nothing":             {"revision=&pod=p", nil, 200, "catalog A", 0, poll{"ns/server", "p", ""}},
		"knows another one":         {"revision=z&pod=p", nil, 200, "catalog A", 0, poll{"ns/server", "p", "z"}},
		"knows it":                  {"revision=a&pod=p", nil, 204, "", 50 * time.Second, poll{"ns/server", "p", "a"}},
		"knows more than it serves": {"revision=a&served=z&pod=p", nil, 204, "", 50 * time.Second, poll{"ns/server", "p", "z"}},
		"serves nothing yet":        {"revision=a&served=&pod=p", nil, 204, "", 50 * time.Second, poll{"ns/server", "p", ""}},
		"another one comes":         {"revision=a", func(o *operator) { o.SetCatalog("ns/server", []byte("catalog B"), "b") }, 200, "catalog B", 10 * time.Second, poll{"ns/server", "", "a"}},
		"the same once more":        {"revision=a", func(o *operator) { o.SetCatalog("ns/server", []byte("catalog A"), "a") }, 204, "", 50 * time.Second, poll{"ns/server", "", "a"}},
		"a higher sequence":         {"revision=a", func(o *operator) { o.SetCatalog("ns/server", []byte("catalog A2"), "a") }, 200, "catalog A2", 10 * time.Second, poll{"ns/server", "", "a"}},
		"one of another server":     {"revision=a", func(o *operator) { o.SetCatalog("ns/server2", []byte("catalog B"), "b") }, 204, "", 50 * time.Second, poll{"ns/server", "", "a"}},
		"the server goes":           {"revision=a", func(o *operator) { o.DropCatalog("ns/server") }, 503, "", 10 * time.Second, poll{"ns/server", "", "a"}},
		"the operator ends":         {"revision=a", func(o *operator) { o.Close() }, 503, "", 10 * time.Second, poll{"ns/server", "", "a"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				o := newOperator(publish.Blobs{})
				o.SetCatalog("ns/server", []byte("catalog A"), "a")
				if tt.later != nil {
					time.AfterFunc(10*time.Second, func() { tt.later(o) })
				}
				began := time.Now()
				w := o.get(t.Context(), "/catalogs/ns/server?"+tt.target)
				if took := time.Since(began); w.Code != tt.status || took != tt.after || (tt.status == 200 && w.Body.String() != tt.body) {
					t.Errorf("after %s: %d %s, want after %s %d %s", took, w.Code, w.Body, tt.after, tt.status, tt.body)
				}
				if tt.status == 200 && (w.Header().Get("Content-Type") != "application/gzip" || w.Header().Get(handout.RevisionHeader) == "") {
					t.Errorf("header %v", w.Header())
				}
				if d := cmp.Diff([]poll{tt.polled}, o.polls); d != "" {
					t.Error(d)
				}
			})
		})
	}
}

// TestPollKnowsTheSequence: a revision that comes back between two polls is
// news for who knows its ETag, and no news for who only knows the revision.
func TestPollKnowsTheSequence(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOperator(publish.Blobs{})
		o.SetCatalog("ns/server", []byte("A, first"), "a")
		tag := o.get(t.Context(), "/catalogs/ns/server").Header().Get("ETag")
		if w := o.get(t.Context(), "/catalogs/ns/server", "If-None-Match", tag); w.Code != 204 {
			t.Errorf("nothing new: %d", w.Code)
		}
		o.SetCatalog("ns/server", []byte("B"), "b")
		o.SetCatalog("ns/server", []byte("A, again"), "a")
		if w := o.get(t.Context(), "/catalogs/ns/server", "If-None-Match", tag); w.Code != 200 || w.Body.String() != "A, again" {
			t.Errorf("A came back: %d %s", w.Code, w.Body)
		}
		if w := o.get(t.Context(), "/catalogs/ns/server?revision=a"); w.Code != 204 {
			t.Errorf("the revision is the same: %d", w.Code)
		}
	})
}

func TestPollOfUnknownServer(t *testing.T) {
	t.Parallel()
	o := newOperator(publish.Blobs{})
	for _, path := range []string{"ns/server", "", "/", "a/b/c", "ns/" + strings.Repeat("x", 5000)} {
		if w := o.get(t.Context(), "/catalogs/"+path+"?revision=a"); w.Code != 503 {
			t.Errorf("%.20s: %d", path, w.Code)
		}
	}
	if len(o.polls) != 0 {
		t.Errorf("told of servers that are none: %v", o.polls)
	}
	o.Close()
	o.SetCatalog("ns/server", []byte("late"), "a")
	if w := o.get(t.Context(), "/catalogs/ns/server"); w.Code != 503 {
		t.Errorf("a poll after the end: %d", w.Code)
	}
}

// TestPollsAreBounded: a pod gone wild takes no more than its server's places,
// and gives them back.
func TestPollsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOperator(publish.Blobs{})
		o.SetCatalog("ns/wild", []byte("A"), "a")
		o.SetCatalog("ns/calm", []byte("A"), "a")
		ctx, leave := context.WithCancel(t.Context())
		var waiting sync.WaitGroup
		for range 500 {
			waiting.Go(func() { o.get(ctx, "/catalogs/ns/wild?revision=a") })
		}
		synctest.Wait()
		began := time.Now()
		if w := o.get(t.Context(), "/catalogs/ns/wild?revision=a"); w.Code != 503 || time.Since(began) != 0 {
			t.Errorf("the 501st: %d after %s", w.Code, time.Since(began))
		}
		if w := o.get(t.Context(), "/catalogs/ns/wild?revision=old"); w.Code != 200 {
			t.Errorf("news for the 501st: %d", w.Code)
		}
		if w := o.get(t.Context(), "/catalogs/ns/calm?revision=a"); w.Code != 204 {
			t.Errorf("another server: %d", w.Code)
		}
		waiting.Go(func() { o.get(ctx, "/catalogs/ns/wild?revision=a") })
		leave()
		waiting.Wait()
		if w := o.get(t.Context(), "/catalogs/ns/wild?revision=a"); w.Code != 204 {
			t.Errorf("places were not given back: %d", w.Code)
		}
	})
}

func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	o := newOperator(publish.Blobs{})
	o.SetCatalog("ns/server", []byte("0"), "0")
	var pods sync.WaitGroup
	for range 8 {
		pods.Go(func() {
			for known := ""; known != "99"; {
				w := o.get(t.Context(), "/catalogs/ns/server?revision="+known)
				if w.Code != 200 || w.Body.String() == known {
					t.Errorf("%d %s, known %s", w.Code, w.Body, known)
					return
				}
				known = w.Header().Get(handout.RevisionHeader)
			}
		})
	}
	for i := range 100 {
		o.SetCatalog("ns/server", fmt.Append(nil, i), fmt.Sprint(i))
	}
	pods.Wait()
}
