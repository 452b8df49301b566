package serve

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

func TestPreferredWait(t *testing.T) {
	t.Parallel()
	const most = 8 * time.Second
	for value, want := range map[string]time.Duration{
		"": most, "wait=0": 0, "wait=3": 3 * time.Second, "wait=100": most, `respond-async, Wait = "2"; x=y`: 2 * time.Second,
		"wait=-1": most, "wait=x": most, "wait": most, "waiting=0": most, "wait=99999999999999999999": most, "wait=1, wait=2": time.Second,
	} {
		if got := preferredWait(http.Header{"Prefer": {value}}, most); got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
}

// TestSiblingIsAnsweredAtOnce: with what is on the volume, published or not.
func TestSiblingIsAnsweredAtOnce(t *testing.T) {
	t.Parallel()
	m, unpublished, absent, gone := publishtest.New("a", "1", 5000, 1), publishtest.New("b", "1", 5000, 2), publishtest.New("c", "1", 5000, 3), publishtest.New("d", "1", 5000, 4)
	for name, tt := range map[string]struct {
		never  bool // a catalog was never seen
		sha256 string
		status int
	}{
		"served":                  {false, m.Entry.SHA256, 200},
		"not published":           {false, unpublished.Entry.SHA256, 200},
		"before the first":        {true, unpublished.Entry.SHA256, 200},
		"declared, not here":      {false, absent.Entry.SHA256, 503},
		"lost":                    {false, gone.Entry.SHA256, 503},
		"unknown":                 {false, strings.Repeat("0", 64), 404},
		"not here, never a thing": {true, absent.Entry.SHA256, 503},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			inBubble(t, func(t *testing.T, s *Server, v *publish.Volume) {
				publishtest.Put(t, v, m, unpublished, gone)
				if !tt.never {
					publishtest.Publish(t, v, publishtest.Catalog(1, m, absent, gone))
					s.volume.look()
				}
				if err := os.Remove(filepath.Join(s.options.DataDir, "blobs/sha256", gone.Entry.SHA256+".gz")); err != nil {
					t.Fatal(err)
				}
				request := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/blobs/sha256/"+tt.sha256, nil)
				request.Header.Set("Prefer", "wait=0")
				request.Header.Set("Accept-Encoding", "gzip")
				began, w := time.Now(), httptest.NewRecorder()
				s.plugins.ServeHTTP(w, request)
				if w.Code != tt.status || time.Since(began) != 0 || (w.Code == 200) != (w.Header().Get("Content-Encoding") == "gzip") {
					t.Errorf("%d after %s", w.Code, time.Since(began))
				}
			})
		})
	}
}
