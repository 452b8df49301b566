package follow

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// drip is a body of which one byte arrives at a time.
type drip struct {
	ctx   context.Context
	every time.Duration
	left  int
}

func (d *drip) Read(p []byte) (int, error) {
	if d.left == 0 {
		return 0, io.EOF
	}
	select {
	case <-time.After(d.every):
		d.left--
		p[0] = 'x'
		return 1, nil
	case <-d.ctx.Done():
		return 0, d.ctx.Err()
	}
}

func (d *drip) Close() error { return nil }

// TestStalledBody: one that moves may take its time, one that does not is given
// up.
func TestStalledBody(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		every time.Duration
		want  error
		after time.Duration
	}{
		"slow":    {stallTimeout - time.Second, nil, 100 * (stallTimeout - time.Second)},
		"stalled": {stallTimeout + time.Second, errStalled, stallTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancelCause(t.Context())
				stalled := time.AfterFunc(stallTimeout, func() { cancel(errStalled) })
				b := &body{ctx: ctx, cancel: cancel, stalled: stalled, body: &drip{ctx, tt.every, 100}}
				began := time.Now()
				if _, err := io.Copy(io.Discard, b); !errors.Is(err, tt.want) {
					t.Errorf("got %v, want %v", err, tt.want)
				}
				if took := time.Since(began); took != tt.after {
					t.Errorf("after %s, want %s", took, tt.after)
				}
				if err := b.Close(); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

func TestBackoff(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		failures int
		want     time.Duration
	}{{1, 100 * time.Millisecond}, {2, 200 * time.Millisecond}, {3, 400 * time.Millisecond}, {5, time.Second}, {1 << 30, time.Second}} {
		for range 100 {
			if got := backoff(tt.failures, 100*time.Millisecond, time.Second); got < tt.want*8/10 || got > tt.want*12/10 {
				t.Fatalf("after %d failures %s, want %s and a fifth more or less", tt.failures, got, tt.want)
			}
		}
	}
}

// oneModule is an Origin.
type oneModule struct{ publishtest.Module }

func (o oneModule) Open(context.Context, string) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(o.Gzip)), nil
}

// TestVanishedModuleIsFetchedAgain: somebody may tamper with the volume.
func TestVanishedModuleIsFetchedAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	m := publishtest.New("a", "1", 5000, 1)
	f := New(Options{Volume: v, Origins: []Origin{oneModule{m}}, Logger: slog.New(slog.DiscardHandler)})
	step := func() {
		f.fetch(t.Context())
		if f.running > 0 {
			f.settle(<-f.arrived)
		}
		f.publishIfDue(t.Context())
	}
	f.consider(offer{place: "test", catalog: publishtest.Catalog(1, m)})
	step()
	first := f.current
	if first == nil || !first.Whole() {
		t.Fatalf("not published: %+v", first)
	}
	blob := filepath.Join(dir, "blobs/sha256", m.Entry.SHA256)
	for name, tamper := range map[string]func() error{
		"gone": func() error { return os.Remove(blob) },
		"cut":  func() error { return errors.Join(os.Chmod(blob, 0o600), os.Truncate(blob, 10)) },
	} {
		if err := tamper(); err != nil {
			t.Fatal(err)
		}
		f.tidy()
		step()
		if got, err := os.ReadFile(blob); err != nil || !bytes.Equal(got, m.Bytes) {
			t.Errorf("%s: not mended: %v", name, err)
		}
	}
	f.workers.Wait()
}

// TestUnwantedFetchIsEnded: what no catalog names any more takes no place.
func TestUnwantedFetchIsEnded(t *testing.T) {
	t.Parallel()
	v := publishtest.Open(t, t.TempDir(), 0)
	f := New(Options{Volume: v, Origins: []Origin{hanging{}}, Logger: slog.New(slog.DiscardHandler)})
	f.consider(offer{place: "test", catalog: publishtest.Catalog(1, publishtest.New("a", "1", 5000, 1))})
	f.fetch(t.Context())
	f.consider(offer{place: "test", catalog: publishtest.Catalog(2)})
	f.settle(<-f.arrived) // would hang
	if f.running != 0 || f.fetchProblem() != "" {
		t.Errorf("%d running, %q", f.running, f.fetchProblem())
	}
	f.workers.Wait()
}

type hanging struct{}

func (hanging) Open(ctx context.Context, _ string) (io.ReadCloser, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

// TestOtherWriter: another process on the volume was faster.
func TestOtherWriter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v, other := publishtest.Open(t, dir, 0), publishtest.Open(t, dir, 0)
	f := New(Options{Volume: v, Logger: slog.New(slog.DiscardHandler)})
	newest := publishtest.Publish(t, other, publishtest.Catalog(9))
	f.consider(offer{place: "test", catalog: publishtest.Catalog(5)})
	f.publishIfDue(t.Context())
	if f.revision != newest.Revision || f.target.Sequence != 9 || f.current.ID != newest.ID {
		t.Errorf("follows %d, not the newest", f.target.Sequence)
	}
	if _, err := publish.LoadCurrent(dir); err != nil {
		t.Error(err)
	}
}

// TestWhoIsAsked: siblings last, and not while the operator says that a module
// is on its way, unless it has said so for long.
func TestWhoIsAsked(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		says              error
		patient, siblings bool
		want              bool
	}{
		"unreachable":          {errors.New("refused"), true, true, true},
		"lost":                 {ErrLost, true, true, true},
		"on its way":           {ErrLater, true, true, false},
		"on its way, for long": {ErrLater, false, true, true},
		"asked a moment ago":   {ErrLost, false, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := New(Options{
				Volume: publishtest.Open(t, t.TempDir(), 0), Origins: []Origin{refusing{tt.says}}, Siblings: SiblingsAt(),
				Logger: slog.New(slog.DiscardHandler),
			})
			asked, err := f.fetchOne(t.Context(), attempt{strings.Repeat("0", 64), 1, tt.patient, tt.siblings})
			if asked != tt.want || !errors.Is(err, tt.says) {
				t.Errorf("siblings asked: %v; %v", asked, err)
			}
		})
	}
}

type refusing struct{ err error }

func (r refusing) Open(context.Context, string) (io.ReadCloser, error) { return nil, r.err }

// TestSomeSiblings: a few, in any order, without those that did not answer.
func TestSomeSiblings(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := SiblingsAt("10.0.0.1:1", "10.0.0.2:1", "10.0.0.3:1", "[fd00::4]:1", "10.0.0.5:1")
		first := map[string]bool{}
		for range 200 {
			some := s.some(t.Context())
			if len(some) != mostSiblings {
				t.Fatalf("%d siblings", len(some))
			}
			first[some[0].address.String()] = true
		}
		if len(first) != 5 {
			t.Errorf("always the same: %v", first)
		}
		for _, deaf := range s.found[:3] {
			s.ignore(deaf)
		}
		if some := s.some(t.Context()); len(some) != 2 || slices.Contains(s.found[:3], some[0].address) {
			t.Errorf("asks the deaf: %v", some)
		}
		time.Sleep(deafFor + time.Second)
		if some := s.some(t.Context()); len(some) != mostSiblings {
			t.Errorf("%d siblings later", len(some))
		}
	})
}

// TestOneselfIsLeftOut: the name has this pod's address too.
func TestOneselfIsLeftOut(t *testing.T) {
	t.Parallel()
	if found, err := lookup(t.Context(), "127.0.0.1", 8080); err != nil || len(found) != 0 {
		t.Errorf("%v %v", found, err)
	}
	if found, err := lookup(t.Context(), "192.0.2.1", 8080); err != nil || len(found) != 1 || found[0].String() != "192.0.2.1:8080" {
		t.Errorf("%v %v", found, err)
	}
}
