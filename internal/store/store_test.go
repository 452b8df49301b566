package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/gzip"
	"go.uber.org/goleak"

	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
	"github.com/higress-group/plugin-server-operator/internal/smalldisk"
)

// crashVariable tells the test binary to be the program that is killed.
const crashVariable = "STORE_TEST_CRASH"

func TestMain(m *testing.M) {
	if os.Getenv(crashVariable) != "" {
		putUntilKilled()
	}
	smalldisk.Main()
	goleak.VerifyTestMain(m)
}

// module makes bytes that begin like a module and shrink like one.
func module(seed uint64, size int) []byte {
	random := rand.New(rand.NewPCG(seed, 1))
	b := make([]byte, 0, size)
	for len(b) < size {
		word := fmt.Sprintf("local.get %d;", random.IntN(5000))
		b = append(b, word[:min(len(word), size-len(b))]...)
	}
	inspecttest.Frame(b)
	return b
}

func sum(b []byte) string {
	digest := sha256.Sum256(b)
	return hex.EncodeToString(digest[:])
}

func open(t testing.TB, dir string, budget int64) *Store {
	t.Helper()
	s, err := Open(dir, budget)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func put(t testing.TB, s *Store, b []byte) Blob {
	t.Helper()
	blob, err := s.Put(t.Context(), bytes.NewReader(b), sum(b))
	if err != nil {
		t.Fatal(err)
	}
	return blob
}

// files lists everything below the directory of a store.
func files(t testing.TB, dir string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			relative, _ := filepath.Rel(dir, path)
			found = append(found, relative)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

// requireWhole checks that a blob can be read and is what its name says, in both forms.
func requireWhole(t testing.TB, s *Store, sha256 string) {
	t.Helper()
	blob, found := s.Stat(sha256)
	if !found {
		t.Fatalf("%s is not in the store", sha256)
	}
	f, err := s.Open(sha256)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil || sum(b) != sha256 || int64(len(b)) != blob.Size {
		t.Errorf("%s is %d bytes with the hash %s, %v", sha256, len(b), sum(b), err)
	}
	z, err := s.OpenGzip(sha256)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	zr, err := gzip.NewReader(z)
	if err != nil {
		t.Fatal(err)
	}
	unzipped, err := io.ReadAll(zr)
	if err != nil || !bytes.Equal(unzipped, b) {
		t.Errorf("the gzip of %s is of other %d bytes, %v", sha256, len(unzipped), err)
	}
	for _, f := range []*os.File{f, z} {
		if info, err := f.Stat(); err != nil || info.Mode().Perm() != 0o444 {
			t.Errorf("%s has the mode %v, %v", f.Name(), info.Mode(), err)
		}
	}
}

func TestOpenUnknown(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), 0)
	for _, name := range []string{strings.Repeat("0", 64), "", "..", "../../etc/passwd"} {
		if _, err := s.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Open(%q) = %v", name, err)
		}
		if _, err := s.OpenGzip(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("OpenGzip(%q) = %v", name, err)
		}
	}
}

// A file that somebody removed makes the blob be gone, so that it is fetched again.
func TestOpenNoticesLoss(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, 0)
	b := module(1, 1<<17)
	blob := put(t, s, b)
	if err := os.Remove(filepath.Join(dir, blobsDir, blob.SHA256)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Open(blob.SHA256); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Open() = %v", err)
	}
	if _, found := s.Stat(blob.SHA256); found || s.Used() != 0 {
		t.Errorf("the store still has it, %d bytes used", s.Used())
	}
	put(t, s, b)
	requireWhole(t, s, blob.SHA256)
}

// Opening keeps what is whole and removes every kind of leftover.
func TestOpenRemovesLeftovers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, 0)
	whole := put(t, s, module(1, 1<<17))
	artifact := Artifact{Digest: "sha256:" + strings.Repeat("a", 64), Blob: whole}
	lost := Artifact{Digest: "sha256:" + strings.Repeat("b", 64), Blob: put(t, s, module(2, 1<<17))}
	for _, a := range []Artifact{artifact, lost} {
		if err := s.PutArtifact(a); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"artifacts/" + strings.Repeat("a", 64) + ".json",
		"blobs/sha256/" + whole.SHA256, "blobs/sha256/" + whole.SHA256 + ".gz", "blobs/sha256/" + whole.SHA256 + ".json",
	}
	x := strings.Repeat("c", 64)
	for path, content := range map[string]string{
		"tmp/module-123":            "half a module",
		"blobs/sha256/" + x:         "without a record",
		"blobs/sha256/" + x + ".gz": "without a record",
		"blobs/sha256/" + strings.Repeat("d", 64) + ".json": `{"sha256":"` + strings.Repeat("d", 64) + `","size":1,"gzipSize":1}`,
		"blobs/sha256/" + strings.Repeat("e", 64) + ".json": `not JSON`,
		"blobs/sha256/unknown":                              "what is this",
		"artifacts/unknown.json":                            "{}",
		"artifacts/" + strings.Repeat("f", 64) + ".json":    `{"digest":"sha256:` + strings.Repeat("f", 64) + `","sha256":"` + x + `"}`,
		"artifacts/" + strings.Repeat("9", 64) + ".json":    `{"digest":"sha256:` + strings.Repeat("8", 64) + `","sha256":"` + whole.SHA256 + `"}`,
	} {
		if err := os.WriteFile(filepath.Join(dir, path), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(filepath.Join(dir, blobsDir, lost.SHA256), 100); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, 0)
	if diff := cmp.Diff(want, files(t, dir)); diff != "" {
		t.Errorf("unexpected files (-want +got):\n%s", diff)
	}
	requireWhole(t, s, whole.SHA256)
	if got, found := s.Artifact(artifact.Digest, ""); !found || got != artifact {
		t.Errorf("Artifact() = %v, %t", got, found)
	}
	if _, found := s.Artifact(lost.Digest, ""); found || s.Used() != whole.Size+whole.GzipSize {
		t.Errorf("a truncated module is still there, %d bytes used", s.Used())
	}
}

func TestArtifact(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, 0)
	a := Artifact{
		Digest: "sha256:" + strings.Repeat("a", 64), Blob: put(t, s, module(1, 1<<17)),
		Created: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), Description: "checks keys",
	}
	if err := s.PutArtifact(a); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		got, found := s.Artifact(a.Digest, "")
		if diff := cmp.Diff(a, got); !found || diff != "" {
			t.Errorf("unexpected artifact, found: %t (-want +got):\n%s", found, diff)
		}
		s = open(t, dir, 0)
	}
	if err := s.PutArtifact(Artifact{Digest: a.Digest, Blob: Blob{SHA256: strings.Repeat("0", 64)}}); err == nil {
		t.Error("an artifact without its module was recorded")
	}
	if err := s.PutArtifact(Artifact{Digest: "sha256:../../x", Blob: a.Blob}); err == nil {
		t.Error("a malformed digest was recorded")
	}
	if _, err := s.Collect(func(string) bool { return false }, 0); err != nil {
		t.Fatal(err)
	}
	if got, found := s.Artifact(a.Digest, ""); found {
		t.Errorf("the artifact %v outlives its module", got)
	}
	if left := files(t, dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

// What is used while it is about to be collected stays.
func TestCollectLeavesWhatIsUsed(t *testing.T) {
	t.Parallel()
	s := open(t, t.TempDir(), 0)
	blob := put(t, s, module(1, 1<<17))
	freed, err := s.Collect(func(sha256 string) bool {
		f, err := s.Open(sha256)
		if err != nil || f.Close() != nil {
			t.Errorf("Open() = %v", err)
		}
		return false
	}, 0)
	if freed != 0 || err != nil {
		t.Errorf("Collect() = %d, %v", freed, err)
	}
	requireWhole(t, s, blob.SHA256)
}

func TestCollect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := open(t, dir, 0)
	kept, unwanted := put(t, s, module(1, 1<<17)), put(t, s, module(2, 1<<17))
	keep := func(sha256 string) bool { return sha256 == kept.SHA256 }
	if freed, err := s.Collect(keep, time.Hour); freed != 0 || err != nil {
		t.Errorf("what came just now was collected: %d bytes, %v", freed, err)
	}
	reading, err := s.Open(unwanted.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	if freed, err := s.Collect(keep, 0); freed != unwanted.Size+unwanted.GzipSize || err != nil {
		t.Errorf("Collect() = %d, %v", freed, err)
	}
	if b, err := io.ReadAll(reading); err != nil || sum(b) != unwanted.SHA256 {
		t.Errorf("a reader that had begun gets %d bytes, %v", len(b), err)
	}
	requireWhole(t, s, kept.SHA256)
	if s.Used() != kept.Size+kept.GzipSize || len(files(t, dir)) != 3 {
		t.Errorf("%d bytes used in %v", s.Used(), files(t, dir))
	}
}
