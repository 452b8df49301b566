package store

import (
	"bytes"
	"context"
	"crypto/md5"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

func TestPut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, 0)
	b := module(1, 3<<17)
	got := put(t, s, b)
	md5sum := md5.Sum(b)
	want := Blob{SHA256: sum(b), MD5: hex.EncodeToString(md5sum[:]), Size: int64(len(b)), GzipSize: got.GzipSize}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("unexpected blob (-want +got):\n%s", diff)
	}
	if got.GzipSize <= 0 || got.GzipSize > got.Size/2 {
		t.Errorf("gzip took %d of %d bytes", got.GzipSize, got.Size)
	}
	requireWhole(t, s, got.SHA256)

	again := put(t, s, b)
	if diff := cmp.Diff(got, again); diff != "" {
		t.Errorf("putting again gave another blob (-first +second):\n%s", diff)
	}
	if s.Used() != got.Size+got.GzipSize {
		t.Errorf("Used() = %d", s.Used())
	}
	wantFiles := []string{"blobs/sha256/" + got.SHA256, "blobs/sha256/" + got.SHA256 + ".gz", "blobs/sha256/" + got.SHA256 + ".json"}
	if diff := cmp.Diff(wantFiles, files(t, dir)); diff != "" {
		t.Errorf("unexpected files (-want +got):\n%s", diff)
	}

	reopened := open(t, dir, 0)
	requireWhole(t, reopened, got.SHA256)
	if reopened.Used() != s.Used() {
		t.Errorf("Used() = %d, and %d after opening again", s.Used(), reopened.Used())
	}
}

func TestGzipIsTheSameEverywhere(t *testing.T) {
	t.Parallel()
	b := module(1, 1<<17)
	read := func() []byte {
		s := open(t, t.TempDir(), 0)
		f, err := s.OpenGzip(put(t, s, b).SHA256)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		z, err := io.ReadAll(f)
		if err != nil {
			t.Fatal(err)
		}
		return z
	}
	if !bytes.Equal(read(), read()) {
		t.Error("the same module was gzipped to different bytes")
	}
}

func TestPutRefuses(t *testing.T) {
	t.Parallel()
	broken := errors.New("the layer is not what its digest says")
	good := module(1, 1<<17)
	for name, test := range map[string]struct {
		r      io.Reader
		expect string
		reason failure.Reason // none: the reader's own error comes back
	}{
		"what is no module":                       {strings.NewReader("hello, world"), "", failure.NotWasm},
		"nothing":                                 {strings.NewReader(""), "", failure.NotWasm},
		"another module than expected":            {bytes.NewReader(good), strings.Repeat("0", 64), failure.DigestMismatch},
		"a reader that fails at the end":          {io.MultiReader(bytes.NewReader(good), iotest.ErrReader(broken)), "", ""},
		"a reader that fails with the last bytes": {iotest.DataErrReader(io.MultiReader(bytes.NewReader(good), iotest.ErrReader(broken))), "", ""},
		"an end that is an error in truth":        {io.MultiReader(bytes.NewReader(good), iotest.ErrReader(fmt.Errorf("%w: %w", broken, io.EOF))), "", ""},
		"an early end":                            {io.MultiReader(bytes.NewReader(good), iotest.ErrReader(errors.Join(broken, io.ErrUnexpectedEOF))), "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			s := open(t, dir, 0)
			_, err := s.Put(t.Context(), test.r, test.expect)
			if test.reason == "" && !errors.Is(err, broken) || test.reason != "" && failure.Of(err).Reason != test.reason {
				t.Errorf("Put() = %v", err)
			}
			if err == nil {
				t.Error("Put() accepted it")
			}
			if left := files(t, dir); len(left) != 0 || s.Used() != 0 || s.writing != 0 {
				t.Errorf("left behind: %v, %d bytes used, %d being written", left, s.Used(), s.writing)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestPutStopsWithItsContext(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), 0)
	ctx, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("no longer wanted")
	cancel(cause)
	if _, err := s.Put(ctx, io.MultiReader(bytes.NewReader(module(1, 8)), zeros{}), ""); !errors.Is(err, cause) {
		t.Errorf("Put() = %v", err)
	}
}

// A hash is not a proof of having the bytes: Put must not give out a module
// to somebody who only names it.
func TestPutReadsWhatIsThereAlready(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), 0)
	secret := put(t, s, module(1, 1<<17))
	if b, err := s.Put(t.Context(), bytes.NewReader(module(2, 1<<17)), secret.SHA256); failure.Of(err).Reason != failure.DigestMismatch {
		t.Errorf("naming the hash of another module gives %v, %v", b, err)
	}
}

func TestBudget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, 3<<20)
	first := put(t, s, module(1, 2<<20))
	_, err := s.Put(t.Context(), bytes.NewReader(module(2, 2<<20)), "")
	if f := failure.Of(err); f.Reason != failure.StoreFull || f.Class != failure.Transient {
		t.Fatalf("beyond the budget: %v", err)
	}
	// The module and its gzip.
	if !strings.Contains(err.Error(), "3 MiB more are needed for this module, 0 MiB of its budget of 3 MiB are free; raise the budget (store.budget") {
		t.Errorf("it does not say how much is needed: %v", err)
	}
	requireWhole(t, s, first.SHA256)
	// What is there needs no room, and what is the wrong module is told first.
	if again, err := s.Put(t.Context(), bytes.NewReader(module(1, 2<<20)), first.SHA256); err != nil || again != first {
		t.Errorf("what is there: %+v, %v", again, err)
	}
	requireWhole(t, s, first.SHA256)
	if _, err := s.Put(t.Context(), bytes.NewReader(module(2, 2<<20)), first.SHA256); failure.Of(err).Reason != failure.DigestMismatch {
		t.Errorf("another module than expected: %v", err)
	}
	if freed, err := s.Collect(func(string) bool { return false }, 0); err != nil || freed != first.Size+first.GzipSize {
		t.Fatalf("Collect() = %d, %v", freed, err)
	}
	put(t, s, module(2, 2<<20))
}

// What is refused takes no room while the rest of it is measured.
func TestRefusedTakesNoRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, 3<<20)
	reader, feed := io.Pipe()
	result := make(chan error)
	go func() {
		_, err := s.Put(t.Context(), reader, "")
		result <- err
	}()
	large := module(1, 8<<20)
	if _, err := feed.Write(large[:len(large)-1]); err != nil { // returns when all of it was read
		t.Fatal(err)
	}
	put(t, s, module(2, 2<<20))
	if _, err := feed.Write(large[len(large)-1:]); err != nil {
		t.Fatal(err)
	}
	if err := feed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; failure.Of(err).Reason != failure.StoreFull || !strings.Contains(err.Error(), "10 MiB more are needed") {
		t.Errorf("Put() = %v", err)
	}
	if left := files(t, dir); len(left) != 3 {
		t.Errorf("files are left: %v", left)
	}
}

// What is being written counts too: otherwise eight downloads at once fill the volume.
func TestBudgetCountsWhatIsWritten(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), 4<<17)
	reader, feed := io.Pipe()
	result := make(chan error)
	go func() {
		_, err := s.Put(t.Context(), reader, "")
		result <- err
	}()
	b := module(1, 3<<17)
	if _, err := feed.Write(b); err != nil { // returns when all of it was read
		t.Fatal(err)
	}
	if _, err := s.Put(t.Context(), bytes.NewReader(module(2, 2<<17)), ""); failure.Of(err).Reason != failure.StoreFull {
		t.Errorf("a second one beside three quarters of the budget being written gives %v", err)
	}
	if err := feed.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-result; err != nil {
		t.Error(err)
	}
	requireWhole(t, s, sum(b))
}

func TestPutConcurrently(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, 0)
	modules := [][]byte{module(1, 1<<17), module(2, 1<<17), module(3, 1<<17)}
	var group sync.WaitGroup
	for i := range 12 {
		group.Go(func() {
			b := modules[i%len(modules)]
			blob, err := s.Put(t.Context(), bytes.NewReader(b), sum(b))
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.PutArtifact(Artifact{Digest: "sha256:" + sum(b[:i+8]), Blob: blob}); err != nil {
				t.Error(err)
			}
			if _, err := s.Collect(func(sha string) bool { return sha != sum(modules[2]) }, time.Hour); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	var want int64
	for _, b := range modules {
		requireWhole(t, s, sum(b))
		blob, _ := s.Stat(sum(b))
		want += blob.Size + blob.GzipSize
	}
	if s.Used() != want || s.writing != 0 {
		t.Errorf("%d bytes used, want %d; %d being written", s.Used(), want, s.writing)
	}
}

func BenchmarkPut(b *testing.B) {
	content := module(1, 8<<20)
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		s := open(b, b.TempDir(), 0)
		put(b, s, content)
	}
}
