package serve

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// TestEnd: after the end was announced the server still accepts for a while,
// then it answers those who wait and finishes every body that has begun.
func TestEnd(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Hold: time.Hour, DrainDelay: 700 * time.Millisecond})
	m := publishtest.New("a", "1", 24<<20, 1)
	r.publish(t, withPending(1, m), m)

	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.url+"/plugins/a/1/plugin.wasm", nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept-Encoding", "identity")
	slow, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Body.Close()
	held := make(chan int, 1)
	go func() {
		response, err := r.client.Get(r.url + "/plugins/pending/1/plugin.wasm")
		if err != nil {
			t.Error(err)
			held <- 0
			return
		}
		response.Body.Close()
		held <- response.StatusCode
	}()
	for r.plugins.held.Load() == 0 {
		time.Sleep(time.Millisecond)
	}

	r.stop()
	// New connections, as from a node that has not heard of the end yet.
	late := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	if response, err := late.Get(r.url + "/plugins/a/1/metadata.txt"); err != nil || response.StatusCode != 200 {
		t.Errorf("refused while the rest of the cluster may not know: %v", err)
	} else {
		response.Body.Close()
	}
	if response, err := late.Get(r.ops + "/readyz"); err != nil || response.StatusCode != 200 {
		t.Errorf("not ready while it still serves: %v", err)
	} else {
		response.Body.Close()
	}
	if code := <-held; code != 503 {
		t.Errorf("one that waited got %d", code)
	}
	if _, err := late.Get(r.url + "/plugins/"); err == nil {
		t.Error("still accepting at the end")
	}
	body, err := io.ReadAll(slow.Body)
	if err != nil || !bytes.Equal(body, m.Bytes) {
		t.Errorf("a body that had begun was cut after %d bytes: %v", len(body), err)
	}
}

// TestSwitchUnderLoad: while generations change, nobody sees an error, and
// bytes, ETag and metadata belong together.
func TestSwitchUnderLoad(t *testing.T) {
	t.Parallel()
	r := start(t, Options{})
	var modules []publishtest.Module
	for i := range 3 {
		modules = append(modules, publishtest.New("a", "1", 200_000, uint64(i)))
	}
	r.publish(t, publishtest.Catalog(0, modules[0]), modules...)
	stop := make(chan struct{})
	var reading sync.WaitGroup
	for i := range 4 {
		reading.Go(func() {
			for n := 0; ; n++ {
				select {
				case <-stop:
					if n == 0 {
						t.Error("nothing was read")
					}
					return
				default:
				}
				encoding := []string{"identity", ""}[i%2]
				response, body := r.get(t, "/plugins/a/1/plugin.wasm", map[bool][]string{true: {"Accept-Encoding", encoding}}[encoding != ""]...)
				if sum := fmt.Sprintf("%x", sha256.Sum256(body)); response.StatusCode != 200 || !strings.Contains(response.Header.Get("Etag"), sum) {
					t.Errorf("%s: %d bytes that are not %s", response.Status, len(body), response.Header.Get("Etag"))
				}
			}
		})
	}
	for i := range 30 {
		r.publish(t, publishtest.Catalog(int64(i+1), modules[(i+1)%3]))
		if err := r.volume.Collect(time.Now(), nil); err != nil {
			t.Error(err)
		}
	}
	close(stop)
	reading.Wait()
}

// TestFilesStayFiles: the kernel can copy a module to the network only if what
// arrives at the connection is the file itself, piece by piece, each piece with a
// deadline of its own, but where a second holds many.
func TestFilesStayFiles(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "module")
	if err := os.WriteFile(path, make([]byte, 3*piece+5), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for slow, deadlines := range map[bool]int{true: 4, false: 1} {
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		connection := &fileConnection{ResponseWriter: httptest.NewRecorder()}
		w := &recorder{ResponseWriter: connection, control: http.NewResponseController(connection)}
		connection.took = func() {
			if slow { // a piece took a second
				w.extended = w.extended.Add(-time.Second)
			}
		}
		n, err := io.CopyN(w, f, 3*piece+5)
		if err != nil || n != 3*piece+5 || w.sent != n || connection.files != 4 || connection.deadlines != deadlines {
			t.Errorf("slow %t: %d bytes (%d counted), %d as a file, %d deadlines: %v", slow, n, w.sent, connection.files, connection.deadlines, err)
		}
	}
}

type fileConnection struct {
	http.ResponseWriter
	files, deadlines int
	took             func()
}

func (c *fileConnection) SetWriteDeadline(time.Time) error { c.deadlines++; return nil }

func (c *fileConnection) ReadFrom(r io.Reader) (int64, error) {
	if limited, ok := r.(*io.LimitedReader); ok {
		if _, ok := limited.R.(*os.File); ok {
			c.files++
		}
	}
	c.took()
	return io.Copy(io.Discard, r)
}
