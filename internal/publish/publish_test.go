package publish_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// TestPlainReader: whoever mounts the volume, an nginx for example, finds the
// same paths by reading files.
func TestPlainReader(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	a, b := publishtest.New("key-auth", "1.0.0", 5000, 1), publishtest.New("key-auth", "2.0.0+x", 6000, 2)
	a.Entry.Created, a.Entry.Source, a.Entry.Description = "2024-01-01T00:00:00Z", "oci://r.example/key-auth:1", "Checks\nkeys"
	publishtest.Put(t, v, a, b)
	publishtest.Publish(t, v, publishtest.Catalog(1, a, b))

	root := os.DirFS(dir)
	for _, m := range []publishtest.Module{a, b} {
		folder := "plugins/" + m.Entry.Name + "/" + m.Entry.Version + "/"
		for file, want := range map[string][]byte{"plugin.wasm": m.Bytes, "plugin.wasm.gz": m.Gzip, "metadata.txt": publish.Metadata(m.Entry)} {
			if got, err := fs.ReadFile(root, folder+file); err != nil || !bytes.Equal(got, want) {
				t.Errorf("%s: %d bytes, want %d: %v", folder+file, len(got), len(want), err)
			}
			if info, err := os.Stat(filepath.Join(dir, folder+file)); err != nil || info.Mode().Perm() != 0o444 {
				t.Errorf("%s is not readable for everybody: %v %v", folder+file, info, err)
			}
		}
		one, _ := os.Stat(filepath.Join(dir, folder, "plugin.wasm"))
		other, _ := os.Stat(filepath.Join(dir, "blobs/sha256", m.Entry.SHA256))
		if !os.SameFile(one, other) {
			t.Error("the module takes space twice")
		}
	}
	link, err := os.Readlink(filepath.Join(dir, "plugins"))
	if err != nil || filepath.IsAbs(link) {
		t.Errorf("plugins -> %s %v: must be relative, the volume is mounted elsewhere by others", link, err)
	}
}

func TestMetadata(t *testing.T) {
	t.Parallel()
	whole := catalog.Entry{
		Name: "key-auth", Version: "1.0.0", Size: 1234567, MD5: "0f343b0931126a20f133d67c2b018a3b",
		Created: "2024-01-01T00:00:00Z", SHA256: "abc", Source: "oci://h/p:1", Digest: "sha256:def", Description: "Checks keys",
	}
	hostile := whole
	hostile.Description = "a\nsha256: forged\r\n\x00\u2028b\xff"
	for name, tt := range map[string]struct {
		entry catalog.Entry
		want  string
	}{
		"everything known": {whole, `name: key-auth
version: 1.0.0
size: 1234567
md5: 0f343b0931126a20f133d67c2b018a3b
created: 2024-01-01T00:00:00Z
sha256: abc
source: oci://h/p:1
digest: sha256:def
description: Checks keys
`},
		"little known: the five lines stay": {catalog.Entry{Name: "a", Version: "1", Size: 9, SHA256: "abc"}, `name: a
version: 1
size: 9
md5:
created:
sha256: abc
`},
		"line breaks forge no lines": {hostile, strings.Replace(string(publish.Metadata(whole)), "Checks keys", "a sha256: forged    b\uFFFD", 1)},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if d := cmp.Diff(tt.want, string(publish.Metadata(tt.entry))); d != "" {
				t.Error(d)
			}
		})
	}
}

// FuzzMetadata: run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzMetadata(f *testing.F) {
	f.Add("a", "1", "text", "oci://x")
	f.Add("a\nb", "1\r", "\u2029", "\x00")
	f.Fuzz(func(t *testing.T, name, version, description, source string) {
		text := string(publish.Metadata(catalog.Entry{Name: name, Version: version, Size: 1, Description: description, Source: source}))
		lines := strings.Split(strings.TrimSuffix(text, "\n"), "\n")
		if len(lines) < 5 || len(lines) > 7 || strings.ContainsAny(text, "\r\x00\u2028\u2029") {
			t.Fatalf("%q", text)
		}
		for i, want := range []string{"name:", "version:", "size: 1", "md5:", "created:"} {
			if !strings.HasPrefix(lines[i], want) {
				t.Fatalf("line %d is %q", i, lines[i])
			}
		}
	})
}

// TestOlderModuleIsServedOn: bytes and metadata of an entry always belong
// together, and what was served is not lost while its successor is on its way.
func TestOlderModuleIsServedOn(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	first, second, third := publishtest.New("a", "1", 5000, 1), publishtest.New("a", "1", 6000, 2), publishtest.New("a", "1", 7000, 3)
	fresh := publishtest.New("b", "1", 5000, 4)
	publishtest.Put(t, v, first)
	publishtest.Publish(t, v, publishtest.Catalog(1, first))

	serves := func(g *publish.Generation, want ...publishtest.Module) {
		t.Helper()
		var entries []catalog.Entry
		for _, m := range want {
			entries = append(entries, m.Entry)
			folder := filepath.Join(dir, "plugins", m.Entry.Name, m.Entry.Version)
			wasm, err := os.ReadFile(filepath.Join(folder, "plugin.wasm"))
			if err != nil || !bytes.Equal(wasm, m.Bytes) {
				t.Errorf("%s has other bytes: %v", folder, err)
			}
			text, err := os.ReadFile(filepath.Join(folder, "metadata.txt"))
			if d := cmp.Diff(string(publish.Metadata(m.Entry)), string(text)); d != "" || err != nil {
				t.Error(d, err)
			}
		}
		if d := cmp.Diff(entries, g.Entries); d != "" {
			t.Error(d)
		}
		read, err := publish.LoadCurrent(dir)
		if d := cmp.Diff(g, read); d != "" || err != nil {
			t.Errorf("another one is read than was published: %s %v", d, err)
		}
	}
	keyA, keyB := catalog.Key{Name: "a", Version: "1"}, catalog.Key{Name: "b", Version: "1"}

	g := publishtest.Publish(t, v, publishtest.Catalog(2, second, fresh))
	serves(g, first)
	if d := cmp.Diff([]catalog.Key{keyA, keyB}, g.Missing); d != "" {
		t.Error(d)
	}
	g = publishtest.Publish(t, v, publishtest.Catalog(3, third, fresh)) // the one before never arrived
	serves(g, first)
	publishtest.Put(t, v, fresh)
	g = publishtest.Publish(t, v, publishtest.Catalog(3, third, fresh))
	serves(g, first, fresh)
	if d := cmp.Diff([]catalog.Key{keyA}, g.Missing); d != "" {
		t.Error(d)
	}
	publishtest.Put(t, v, third)
	g = publishtest.Publish(t, v, publishtest.Catalog(3, third, fresh))
	serves(g, third, fresh)
	if !g.Whole() {
		t.Errorf("missing: %v", g.Missing)
	}
}

func TestPendingIsNeitherServedNorMissing(t *testing.T) {
	t.Parallel()
	v := publishtest.Open(t, t.TempDir(), 0)
	m := publishtest.New("a", "1", 5000, 1)
	publishtest.Put(t, v, m)
	c := publishtest.Catalog(1, m)
	c.Entries = append(c.Entries, catalog.Entry{Name: "b", Version: "1"})
	g := publishtest.Publish(t, v, c)
	if !g.Whole() || len(g.Entries) != 1 {
		t.Errorf("missing %v, served %v", g.Missing, g.Entries)
	}
}

// TestBackAndForth: a revision that comes back is served again, although its
// first generation is still there.
func TestBackAndForth(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	a, b := publishtest.New("a", "1", 5000, 1), publishtest.New("a", "1", 5000, 2)
	publishtest.Put(t, v, a, b)
	ids := map[string]bool{}
	for i, m := range []publishtest.Module{a, b, a, b, a} {
		g := publishtest.Publish(t, v, publishtest.Catalog(int64(i), m))
		if ids[g.ID] {
			t.Error("a generation changed while somebody may have read it")
		}
		ids[g.ID] = true
		got, err := os.ReadFile(filepath.Join(dir, "plugins/a/1/plugin.wasm"))
		if err != nil || !bytes.Equal(got, m.Bytes) {
			t.Errorf("step %d: other bytes: %v", i, err)
		}
		again := publishtest.Publish(t, v, publishtest.Catalog(int64(i), m))
		if again.ID != g.ID {
			t.Error("the same was published twice")
		}
	}
}

func TestPublishRefuses(t *testing.T) {
	t.Parallel()
	m := publishtest.New("a", "1", 5000, 1)
	for name, tt := range map[string]struct {
		c     func(c *catalog.Catalog)
		older bool
	}{
		"an older catalog":      {func(c *catalog.Catalog) { c.Sequence = 4 }, true},
		"a name that climbs":    {func(c *catalog.Catalog) { c.Entries[0].Name = ".." }, false},
		"a version that climbs": {func(c *catalog.Catalog) { c.Entries[0].Version = "../x" }, false},
		"a malformed hash":      {func(c *catalog.Catalog) { c.Entries[0].SHA256 = "../x" }, false},
		"a key twice":           {func(c *catalog.Catalog) { c.Entries = append(c.Entries, c.Entries[0]) }, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := publishtest.Open(t, t.TempDir(), 0)
			publishtest.Put(t, v, m)
			before := publishtest.Publish(t, v, publishtest.Catalog(5, m))
			c := publishtest.Catalog(6, m)
			tt.c(c)
			if _, err := v.Publish(t.Context(), c); err == nil || errors.Is(err, publish.ErrOlder) != tt.older {
				t.Errorf("got %v", err)
			}
			if after, err := v.Current(); err != nil || after.ID != before.ID {
				t.Errorf("served something else: %v %v", after, err)
			}
		})
	}
}

// TestDamagedGenerationIsReplaced: what cannot be read must not keep the
// volume from getting better.
func TestDamagedGenerationIsReplaced(t *testing.T) {
	t.Parallel()
	m := publishtest.New("a", "1", 5000, 1)
	for name, damage := range map[string]func(generation string) error{
		"its folder is gone":     os.RemoveAll,
		"its catalog is no gzip": func(g string) error { return replace(filepath.Join(g, "catalog.json.gz"), "x") },
		"its list is no JSON":    func(g string) error { return replace(filepath.Join(g, "served.json"), "x") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			v := publishtest.Open(t, dir, 0)
			publishtest.Put(t, v, m)
			old := publishtest.Publish(t, v, publishtest.Catalog(5, m))
			if err := damage(filepath.Join(dir, ".gen", old.ID)); err != nil {
				t.Fatal(err)
			}
			if _, err := publish.LoadCurrent(dir); err == nil || errors.Is(err, fs.ErrNotExist) {
				t.Errorf("a damaged volume is not an empty one: %v", err)
			}
			again := publishtest.Open(t, dir, 0)
			publishtest.Publish(t, again, publishtest.Catalog(5, m))
			if got, err := os.ReadFile(filepath.Join(dir, "plugins/a/1/plugin.wasm")); err != nil || !bytes.Equal(got, m.Bytes) {
				t.Errorf("not mended: %v", err)
			}
		})
	}
}

func replace(path, content string) error {
	return errors.Join(os.Remove(path), os.WriteFile(path, []byte(content), 0o600))
}

func TestForeignLinkIsLeftAlone(t *testing.T) {
	t.Parallel()
	for _, target := range []string{"/etc", ".gen/../x/plugins", ".gen/plugins", ".gen//plugins"} {
		dir := t.TempDir()
		v := publishtest.Open(t, dir, 0)
		if err := os.Symlink(target, filepath.Join(dir, "plugins")); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Publish(t.Context(), publishtest.Catalog(1)); err == nil || !strings.Contains(err.Error(), "somebody else") {
			t.Errorf("%s: got %v", target, err)
		}
	}
}

// TestTwoWriters: by accident two processes may write to one volume.
func TestTwoWriters(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	modules := []publishtest.Module{publishtest.New("a", "1", 50_000, 1), publishtest.New("a", "1", 60_000, 2)}
	var writing sync.WaitGroup
	for range 2 {
		v := publishtest.Open(t, dir, 0)
		writing.Go(func() {
			for i := range 30 {
				m := modules[i%2]
				if err := v.PutGzip(t.Context(), m.Entry.SHA256, m.Entry.Size, bytes.NewReader(m.Gzip)); err != nil {
					t.Error(err)
				}
				if _, err := v.Publish(t.Context(), publishtest.Catalog(int64(i), m)); err != nil && !errors.Is(err, publish.ErrOlder) {
					t.Error(err)
				}
				if err := v.Collect(farFuture, nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writing.Wait()
	g, err := publish.LoadCurrent(dir)
	if err != nil || !g.Whole() || g.Catalog.Sequence != 29 {
		t.Fatalf("%+v %v", g, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "plugins/a/1/plugin.wasm")); err != nil || !bytes.Equal(got, modules[1].Bytes) {
		t.Errorf("other bytes: %v", err)
	}
}

func TestStatus(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	if s, err := publish.ReadStatus(dir); err != nil || s.Error != "" {
		t.Errorf("before the first: %+v %v", s, err)
	}
	for _, want := range []string{"disk \"full\"\n", ""} {
		if err := v.SetStatus(publish.Status{Error: want}); err != nil {
			t.Fatal(err)
		}
		if s, err := publish.ReadStatus(dir); err != nil || s.Error != want {
			t.Errorf("%+v %v", s, err)
		}
	}
}
