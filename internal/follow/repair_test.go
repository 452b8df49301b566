package follow

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
	"github.com/higress-group/plugin-server-operator/internal/serve"
)

// slowOrigin has modules once the test says so.
type slowOrigin struct {
	modules map[string]publishtest.Module
	there   atomic.Bool
	asked   atomic.Int64
}

func (o *slowOrigin) Open(_ context.Context, sha256 string) (io.ReadCloser, error) {
	o.asked.Add(1)
	if m, ok := o.modules[sha256]; ok && o.there.Load() {
		return io.NopCloser(bytes.NewReader(m.Gzip)), nil
	}
	return nil, ErrLater
}

// TestDamageIsMended: a damaged module is served no longer, held instead, never
// answered with 404, and served again once it was fetched; in one step for those who
// read the volume.
func TestDamageIsMended(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	m, other := publishtest.New("a", "1", 50_000, 1), publishtest.New("b", "1", 50_000, 2)
	origin := &slowOrigin{modules: map[string]publishtest.Module{m.Entry.SHA256: m, other.Entry.SHA256: other}}
	origin.there.Store(true)
	f := New(Options{Volume: v, Origins: []Origin{origin}, RereadRate: 1 << 30, Logger: slog.New(slog.DiscardHandler)})
	f.looks, f.rereads = 10*time.Millisecond, 10*time.Millisecond
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { f.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	f.offer(t.Context(), offer{place: "test", catalog: publishtest.Catalog(1, m, other)})
	url, ops := serving(t, dir)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: time.Minute}
	get := func(url string) (int, []byte) {
		response, err := client.Get(url)
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
	right := func() {
		t.Helper()
		for _, m := range []publishtest.Module{m, other} {
			if status, b := get(url + "/plugins/" + m.Entry.Name + "/1/plugin.wasm"); status != 200 || !bytes.Equal(b, m.Bytes) {
				t.Errorf("%d with %d bytes", status, len(b))
			}
		}
	}
	soon(t, "it is served", func() bool { g, err := v.Current(); return err == nil && g != nil && g.Whole() })
	right()
	blob := filepath.Join(dir, "blobs/sha256", m.Entry.SHA256)
	for i, damage := range []func() error{
		func() error { return flip(blob) },
		func() error { return flip(blob + ".gz") },
		func() error { return os.Remove(blob) },
		func() error { return errors.Join(os.Chmod(blob+".gz", 0o600), os.Truncate(blob+".gz", 100)) },
	} {
		origin.there.Store(false)
		if err := damage(); err != nil {
			t.Fatal(err)
		}
		soon(t, "it is served no longer", func() bool {
			_, state := get(ops + "/state")
			return strings.Contains(string(state), `"missing":[{"name":"a"`)
		})
		if status, b := get(url + "/plugins/a/1/plugin.wasm"); status != http.StatusServiceUnavailable {
			t.Errorf("damage %d: %d with %d bytes", i, status, len(b))
		}
		// A gzip that is right may still be served to those who know what they want.
		if status, b := get(url + "/blobs/sha256/" + m.Entry.SHA256); status != http.StatusServiceUnavailable && !bytes.Equal(b, m.Bytes) {
			t.Errorf("damage %d, by content: %d with %d bytes", i, status, len(b))
		}
		if status, b := get(url + "/plugins/b/1/plugin.wasm"); status != 200 || !bytes.Equal(b, other.Bytes) {
			t.Errorf("the other one: %d with %d bytes", status, len(b))
		}
		if _, state := get(ops + "/state"); !strings.Contains(string(state), "were damaged") {
			t.Errorf("nobody is told: %s", state)
		}
		origin.there.Store(true)
		soon(t, "it is mended", func() bool { g, err := v.Current(); return err == nil && g.Whole() })
		right()
		link, err := os.ReadFile(filepath.Join(dir, "plugins/a/1/plugin.wasm"))
		if err != nil || !bytes.Equal(link, m.Bytes) {
			t.Errorf("damage %d is not mended for who reads the volume: %v", i, err)
		}
		soon(t, "no problem left", func() bool { s, err := v.Status(); return err == nil && s.Error == "" })
		if s, err := v.Status(); err != nil || s.Damaged != int64(i+1) {
			t.Errorf("after damage %d %d are counted: %v", i, s.Damaged, err)
		}
	}
	if _, metrics := get(ops + "/metrics"); !strings.Contains(string(metrics), "plugin_server_damaged_files_total 4") {
		t.Errorf("not counted: %s", metrics)
	}
	before := origin.asked.Load()
	time.Sleep(200 * time.Millisecond) // many looks
	if more := origin.asked.Load() - before; more > 0 {
		t.Errorf("%d modules were fetched though all is well", more)
	}
	cancel()
	running.Wait()
	if again := newProblems(v, f.logger); again.damaged != 4 {
		t.Errorf("%d damages are remembered", again.damaged)
	}
}

// TestOlderModuleIsDamaged: what is served in place of a newer one is looked at
// too, and nobody has it any more.
func TestOlderModuleIsDamaged(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	old, changed := publishtest.New("a", "1", 50_000, 1), publishtest.New("a", "1", 50_000, 2)
	publishtest.Put(t, v, old)
	f := New(Options{Volume: v, Logger: slog.New(slog.DiscardHandler)})
	for i, m := range []publishtest.Module{old, changed} {
		f.consider(offer{place: "test", catalog: publishtest.Catalog(int64(i), m)})
		f.publishIfDue(t.Context())
	}
	if len(f.current.Entries) != 1 || f.current.Entries[0] != old.Entry {
		t.Fatalf("serves %+v", f.current.Entries)
	}
	if err := flip(filepath.Join(dir, "blobs/sha256", old.Entry.SHA256)); err != nil {
		t.Fatal(err)
	}
	var found []publish.Damage
	if err := v.Reread(t.Context(), 0, func(d publish.Damage) { found = append(found, d) }); err != nil || len(found) != 1 {
		t.Fatalf("%+v %v", found, err)
	}
	f.repair(found[0])
	f.publishIfDue(t.Context())
	if len(f.current.Entries) != 0 || f.damageProblem() != "" {
		t.Errorf("serves %+v, %q", f.current.Entries, f.damageProblem())
	}
}

// flip turns a bit of a file, in its place.
func flip(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.WriteAt([]byte{b[len(b)/2] ^ 1}, int64(len(b)/2))
	return errors.Join(err, f.Close())
}

// serving serves a volume for real, and holds requests for a moment.
func serving(t *testing.T, dir string) (url, ops string) {
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
		s := serve.New(serve.Options{DataDir: dir, Hold: 300 * time.Millisecond, Grace: time.Second, Logger: slog.New(slog.DiscardHandler)})
		if err := s.Run(ctx, listeners[0], listeners[1]); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		cancel()
		running.Wait()
	})
	return "http://" + listeners[0].Addr().String(), "http://" + listeners[1].Addr().String()
}

func soon(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !holds(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}
