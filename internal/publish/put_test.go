package publish_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"

	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
	"github.com/higress-group/plugin-server-operator/internal/smalldisk"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(victimVariable); dir != "" {
		os.Exit(beVictim(dir))
	}
	smalldisk.Main()
	goleak.VerifyTestMain(m)
}

func TestPutKeepsBothForms(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	m := publishtest.New("a", "1", 300_000, 1)
	if v.Has(m.Entry.SHA256, m.Entry.Size) {
		t.Fatal("there before it was put")
	}
	publishtest.Put(t, v, m)
	if !v.Has(m.Entry.SHA256, m.Entry.Size) || v.Has(m.Entry.SHA256, m.Entry.Size+1) {
		t.Error("Has must be true for this size, and for no other")
	}
	for name, want := range map[string][]byte{m.Entry.SHA256: m.Bytes, m.Entry.SHA256 + ".gz": m.Gzip} {
		path := filepath.Join(dir, "blobs/sha256", name)
		got, err := os.ReadFile(path)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %d bytes, want %d: %v", name, len(got), len(want), err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != 0o444 {
			t.Errorf("%s: %v %v, want a read-only file", name, info.Mode(), err)
		}
	}
}

func TestPutRefuses(t *testing.T) {
	t.Parallel()
	m, other := publishtest.New("a", "1", 200_000, 1), publishtest.New("a", "1", 200_000, 2)
	broken := errors.New("the line is cut")
	flipped := bytes.Clone(m.Gzip)
	flipped[len(flipped)/2] ^= 0x40
	for name, tt := range map[string]struct {
		sha256 string
		size   int64
		body   io.Reader
		want   error
	}{
		"another module":                   {m.Entry.SHA256, m.Entry.Size, bytes.NewReader(other.Gzip), publish.ErrDamaged},
		"a flipped bit":                    {m.Entry.SHA256, m.Entry.Size, bytes.NewReader(flipped), publish.ErrDamaged},
		"not a gzip":                       {m.Entry.SHA256, m.Entry.Size, bytes.NewReader(m.Bytes), publish.ErrDamaged},
		"nothing":                          {m.Entry.SHA256, m.Entry.Size, strings.NewReader(""), publish.ErrDamaged},
		"cut in the middle":                {m.Entry.SHA256, m.Entry.Size, bytes.NewReader(m.Gzip[:len(m.Gzip)/2]), publish.ErrDamaged},
		"cut before the checksum":          {m.Entry.SHA256, m.Entry.Size, bytes.NewReader(m.Gzip[:len(m.Gzip)-4]), publish.ErrDamaged},
		"something behind the end":         {m.Entry.SHA256, m.Entry.Size, bytes.NewReader(append(bytes.Clone(m.Gzip), 0)), publish.ErrDamaged},
		"a second member":                  {m.Entry.SHA256, m.Entry.Size, bytes.NewReader(append(bytes.Clone(m.Gzip), publishtest.Gzip(nil)...)), publish.ErrDamaged},
		"longer than declared":             {m.Entry.SHA256, m.Entry.Size - 1, bytes.NewReader(m.Gzip), publish.ErrDamaged},
		"shorter than declared":            {m.Entry.SHA256, m.Entry.Size + 1, bytes.NewReader(m.Gzip), publish.ErrDamaged},
		"a bomb":                           {m.Entry.SHA256, 1000, bytes.NewReader(publishtest.Gzip(make([]byte, 50<<20))), publish.ErrDamaged},
		"empty blocks for ever":            {m.Entry.SHA256, 1000, io.MultiReader(bytes.NewReader(m.Gzip[:10]), emptyBlocks{}), publish.ErrDamaged},
		"a path instead of a hash":         {"../../etc/passwd", m.Entry.Size, bytes.NewReader(m.Gzip), publish.ErrDamaged},
		"no size":                          {m.Entry.SHA256, 0, bytes.NewReader(m.Gzip), publish.ErrDamaged},
		"larger than gateways read":        {m.Entry.SHA256, publish.MaxModule + 1, bytes.NewReader(m.Gzip), publish.ErrDamaged},
		"a broken connection is no damage": {m.Entry.SHA256, m.Entry.Size, io.MultiReader(bytes.NewReader(m.Gzip[:5000]), iotest.ErrReader(broken)), broken},
		"broken right at the end":          {m.Entry.SHA256, m.Entry.Size, io.MultiReader(bytes.NewReader(m.Gzip), iotest.ErrReader(broken)), broken},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			v := publishtest.Open(t, dir, 0)
			err := v.PutGzip(t.Context(), tt.sha256, tt.size, tt.body)
			if !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
			if errors.Is(tt.want, broken) && errors.Is(err, publish.ErrDamaged) {
				t.Error("a broken connection was taken for a damaged module")
			}
			if files := filesIn(t, dir); len(files) != 0 {
				t.Errorf("left behind: %v", files)
			}
		})
	}
}

// TestBombIsNotUnpacked: not even for a look at what is in it.
func TestBombIsNotUnpacked(t *testing.T) {
	t.Parallel()
	v := publishtest.Open(t, t.TempDir(), 0)
	bomb := publishtest.Gzip(make([]byte, 50<<20))
	rest := readerFunc(func([]byte) (int, error) {
		t.Error("25 MiB were unpacked where 1000 bytes were declared")
		return 0, io.EOF
	})
	err := v.PutGzip(t.Context(), strings.Repeat("a", 64), 1000, io.MultiReader(bytes.NewReader(bomb[:len(bomb)/2]), rest))
	if !errors.Is(err, publish.ErrDamaged) {
		t.Errorf("got %v", err)
	}
}

func TestPutEndsWithItsContext(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	m := publishtest.New("a", "1", 200_000, 1)
	ctx, cancel := context.WithCancel(t.Context())
	body := io.MultiReader(bytes.NewReader(m.Gzip[:100]), readerFunc(func([]byte) (int, error) { cancel(); return 1, nil }))
	if err := v.PutGzip(ctx, m.Entry.SHA256, m.Entry.Size, body); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if files := filesIn(t, dir); len(files) != 0 {
		t.Errorf("left behind: %v", files)
	}
}

// emptyBlocks is a deflate stream of stored blocks with nothing in them.
type emptyBlocks struct{}

func (emptyBlocks) Read(p []byte) (int, error) {
	return copy(p, bytes.Repeat([]byte{0, 0, 0, 0xff, 0xff}, len(p)/5+1)[:len(p)/5*5]), nil
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

// filesIn lists the files below a folder.
func filesIn(t *testing.T, dir string) []string {
	t.Helper()
	var files []string
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, path)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return files
}

func FuzzPutGzip(f *testing.F) {
	m := publishtest.New("a", "1", 500, 1)
	f.Add(m.Gzip)
	f.Add(m.Gzip[:100])
	f.Add(append(bytes.Clone(m.Gzip), m.Gzip...))
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		v := publishtest.Open(t, dir, 0)
		err := v.PutGzip(t.Context(), m.Entry.SHA256, m.Entry.Size, bytes.NewReader(b))
		if (err == nil) != v.Has(m.Entry.SHA256, m.Entry.Size) {
			t.Fatalf("put: %v, there: %v", err, err != nil)
		}
		if err == nil {
			if kept := publishtest.Unzip(t, b); !bytes.Equal(kept, m.Bytes) {
				t.Fatal("took something else")
			}
		} else if !errors.Is(err, publish.ErrDamaged) {
			t.Fatal(err)
		}
	})
}
