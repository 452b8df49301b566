package publish_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// flip turns one bit in the middle of a file, as a disk does it: nothing else
// changes.
func flip(path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return errors.Join(os.Chmod(path, 0o600), os.WriteFile(path, b, 0o600), os.Chmod(path, 0o444), os.Chtimes(path, info.ModTime(), info.ModTime()))
}

func cut(path string) error { return errors.Join(os.Chmod(path, 0o600), os.Truncate(path, 1000)) }

// exchange puts another file of the same size into a file's place.
func exchange(path string) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	b[len(b)/2] ^= 1
	return errors.Join(os.WriteFile(path+".new", b, 0o600), os.Rename(path+".new", path))
}

func dangle(path string) error { return errors.Join(os.Remove(path), os.Symlink("nothing", path)) }

func folder(path string) error {
	return errors.Join(os.Remove(path), os.Mkdir(path, 0o700), os.WriteFile(filepath.Join(path, "x"), nil, 0o600))
}

// TestDamageIsFoundAndMended: whatever happens to a file, by a look or by
// reading, after a restart or without.
func TestDamageIsFoundAndMended(t *testing.T) {
	t.Parallel()
	m, other, old := publishtest.New("a", "1", 50_000, 1), publishtest.New("b", "1", 60_000, 2), publishtest.New("a", "1", 40_000, 3)
	const byReading, fetched = true, true
	blob, link := "blobs/sha256/"+m.Entry.SHA256, "plugins/a/1/plugin.wasm"
	for name, tt := range map[string]struct {
		damage  func(path string) error
		path    string
		reading bool // only found by reading
		fetched bool // the module has to come again
	}{
		"a bit":                  {flip, blob, byReading, fetched},
		"a bit of the gzip":      {flip, blob + ".gz", byReading, fetched},
		"cut":                    {cut, blob, !byReading, fetched},
		"replaced":               {exchange, blob, !byReading, fetched},
		"a replaced gzip":        {exchange, blob + ".gz", !byReading, fetched},
		"gone":                   {os.Remove, blob, !byReading, fetched},
		"the gzip is gone":       {os.Remove, blob + ".gz", !byReading, fetched},
		"a link to nothing":      {dangle, blob, !byReading, fetched},
		"a folder":               {folder, blob, !byReading, fetched},
		"superseded, cut":        {cut, "blobs/sha256/" + old.Entry.SHA256, !byReading, fetched},
		"link replaced":          {exchange, link, !byReading, !fetched},
		"gzip's link replaced":   {exchange, link + ".gz", !byReading, !fetched},
		"link gone":              {os.Remove, link, !byReading, !fetched},
		"metadata gone":          {os.Remove, "plugins/a/1/metadata.txt", !byReading, !fetched},
		"metadata cut":           {func(path string) error { return os.Truncate(path, 3) }, "plugins/a/1/metadata.txt", !byReading, !fetched},
		"a bit of metadata":      {flip, "plugins/a/1/metadata.txt", byReading, !fetched},
		"folder of version gone": {os.RemoveAll, "plugins/a/1", !byReading, !fetched},
		"switch gone":            {os.Remove, "plugins", !byReading, !fetched},
	} {
		for after, restarted := range map[string]bool{"": false, " after a restart": true} {
			t.Run(name+after, func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				v := publishtest.Open(t, dir, 0)
				publishtest.Put(t, v, m, other, old)
				c := publishtest.Catalog(1, m, other)
				c.Superseded = []catalog.Superseded{{SHA256: old.Entry.SHA256, Size: old.Entry.Size}}
				publishtest.Publish(t, v, c)
				if restarted {
					v = publishtest.Open(t, dir, 0)
				}
				expectNoDamage(t, v)
				path := filepath.Join(dir, tt.path)
				if err := tt.damage(path); err != nil {
					t.Fatal(err)
				}
				found := damages(t, v)
				if (len(found) == 0) != tt.reading {
					t.Errorf("without reading: %+v", found)
				}
				if tt.reading {
					found = reread(t, v)
				}
				if len(found) == 0 || (found[0].SHA256 != "") != tt.fetched {
					t.Fatalf("found %+v", found)
				}
				// Without the module nobody reads anything wrong, and the others are served on.
				g := publishtest.Publish(t, v, c)
				if gone := len(g.Entries) == 1; gone != (tt.fetched && found[0].SHA256 == m.Entry.SHA256) {
					t.Errorf("serves %+v", g.Entries)
				}
				requireWhole(t, dir, g)
				for _, m := range []publishtest.Module{m, old} {
					if !v.Has(m.Entry.SHA256, m.Entry.Size) {
						publishtest.Put(t, v, m)
					}
				}
				if g = publishtest.Publish(t, v, c); !g.Whole() {
					t.Errorf("missing %v", g.Missing)
				}
				requireWhole(t, dir, g)
				expectNoDamage(t, v)
				expectNoDamage(t, publishtest.Open(t, dir, 0))
			})
		}
	}
}

func damages(t *testing.T, v *publish.Volume) (found []publish.Damage) {
	t.Helper()
	if err := v.Examine(t.Context(), func(d publish.Damage) { found = append(found, d) }); err != nil {
		t.Error(err)
	}
	return found
}

func reread(t *testing.T, v *publish.Volume) (found []publish.Damage) {
	t.Helper()
	if err := v.Reread(t.Context(), 0, func(d publish.Damage) { found = append(found, d) }); err != nil {
		t.Error(err)
	}
	return found
}

func expectNoDamage(t *testing.T, v *publish.Volume) {
	t.Helper()
	if found := slices.Concat(damages(t, v), reread(t, v), damages(t, v)); len(found) > 0 {
		t.Errorf("found damage where there is none: %+v", found)
	}
}

// TestDamagedLists: a generation that cannot be read any more is made again.
func TestDamagedLists(t *testing.T) {
	t.Parallel()
	m := publishtest.New("a", "1", 50_000, 1)
	for _, file := range []string{"catalog.json.gz", "served.json"} {
		dir := t.TempDir()
		v := publishtest.Open(t, dir, 0)
		publishtest.Put(t, v, m)
		first := publishtest.Publish(t, v, publishtest.Catalog(1, m))
		if err := flip(filepath.Join(dir, ".gen", first.ID, file)); err != nil {
			t.Fatal(err)
		}
		if found := damages(t, publishtest.Open(t, dir, 0)); len(found) != 1 || found[0].SHA256 != "" {
			t.Errorf("%s after a restart: %+v", file, found)
		}
		if found := reread(t, v); len(found) != 1 || found[0].SHA256 != "" {
			t.Errorf("%s: %+v", file, found)
		}
		requireWhole(t, dir, publishtest.Publish(t, v, publishtest.Catalog(1, m)))
		expectNoDamage(t, v)
	}
}

// TestDamageInAllGenerations: the file of a superseded generation is the same
// one; neither its wrong bytes nor its space stay.
func TestDamageInAllGenerations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 16<<20)
	m := publishtest.New("a", "1", 4<<20, 1)
	publishtest.Put(t, v, m)
	generations := []*publish.Generation{publishtest.Publish(t, v, publishtest.Catalog(1, m)), publishtest.Publish(t, v, publishtest.Catalog(2, m))}
	if err := flip(filepath.Join(dir, "blobs/sha256", m.Entry.SHA256)); err != nil {
		t.Fatal(err)
	}
	if found := reread(t, v); len(found) != 1 || found[0].SHA256 != m.Entry.SHA256 || !errors.Is(found[0].Err, publish.ErrDamaged) {
		t.Fatalf("found %+v", found)
	}
	for _, g := range generations {
		if _, err := os.Stat(filepath.Join(dir, ".gen", g.ID, "plugins/a/1/plugin.wasm")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("still there: %v", err)
		}
	}
	publishtest.Put(t, v, m) // would not fit twice
}

// TestReadersKeepWhatTheyHave: who has the file open reads what was there.
func TestReadersKeepWhatTheyHave(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	m := publishtest.New("a", "1", 50_000, 1)
	publishtest.Put(t, v, m)
	publishtest.Publish(t, v, publishtest.Catalog(1, m))
	reading, err := v.Open(m.Entry.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer reading.Close()
	if err := exchange(filepath.Join(dir, "blobs/sha256", m.Entry.SHA256)); err != nil {
		t.Fatal(err)
	}
	damages(t, v)
	publishtest.Put(t, v, m)
	publishtest.Publish(t, v, publishtest.Catalog(1, m))
	if got, err := io.ReadAll(reading); err != nil || !bytes.Equal(got, m.Bytes) {
		t.Errorf("something else: %v", err)
	}
}

// TestOtherWriterMends: what one writer has mended is no damage for the other,
// and is not removed by it.
func TestOtherWriterMends(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v, other := publishtest.Open(t, dir, 0), publishtest.Open(t, dir, 0)
	m := publishtest.New("a", "1", 200_000, 1)
	c := publishtest.Catalog(1, m)
	publishtest.Put(t, v, m)
	publishtest.Publish(t, v, c)
	expectNoDamage(t, other)
	for i := range 6 {
		if err := flip(filepath.Join(dir, "blobs/sha256", m.Entry.SHA256)); err != nil {
			t.Fatal(err)
		}
		var both sync.WaitGroup
		for _, v := range []*publish.Volume{v, other} {
			both.Go(func() {
				if err := v.Reread(t.Context(), 0, func(publish.Damage) {}); err != nil {
					t.Error(err)
				}
				if !v.Has(m.Entry.SHA256, m.Entry.Size) {
					if err := v.PutGzip(t.Context(), m.Entry.SHA256, m.Entry.Size, bytes.NewReader(m.Gzip)); err != nil {
						t.Error(err)
					}
				}
				if _, err := v.Publish(t.Context(), c); err != nil {
					t.Error(err)
				}
			})
		}
		both.Wait()
		for _, v := range []*publish.Volume{v, other} {
			for range 2 { // the files of the one may have replaced those of the other
				damages(t, v)
				publishtest.Publish(t, v, c)
			}
		}
		g, err := v.Current()
		if err != nil || !g.Whole() {
			t.Fatalf("round %d: %+v %v", i, g, err)
		}
		requireWhole(t, dir, g)
		expectNoDamage(t, v)
		expectNoDamage(t, other)
	}
}

// TestPace: reading takes its time, and ends at once when it is told to.
func TestPace(t *testing.T) {
	t.Parallel()
	v := publishtest.Open(t, t.TempDir(), 0)
	m := publishtest.New("a", "1", 1<<20, 1)
	publishtest.Put(t, v, m)
	publishtest.Publish(t, v, publishtest.Catalog(1, m))
	synctest.Test(t, func(t *testing.T) {
		const rate = 64 << 10
		want := time.Duration(len(m.Bytes)+len(m.Gzip)) * time.Second / rate
		began := time.Now()
		if err := v.Reread(t.Context(), rate, func(d publish.Damage) { t.Errorf("%+v", d) }); err != nil {
			t.Error(err)
		}
		if took := time.Since(began); (took - want).Abs() > time.Second {
			t.Errorf("took %s, want %s", took, want)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		began = time.Now()
		if err := v.Reread(ctx, rate, func(d publish.Damage) { t.Errorf("%+v", d) }); !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != 10*time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// TestNotArrivedIsNoDamage: half of it, from a writer that was killed, neither.
func TestNotArrivedIsNoDamage(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	m, absent, half := publishtest.New("a", "1", 50_000, 1), publishtest.New("b", "1", 50_000, 2), publishtest.New("c", "1", 50_000, 3)
	publishtest.Put(t, v, m)
	if err := os.WriteFile(filepath.Join(dir, "blobs/sha256", half.Entry.SHA256+".gz"), half.Gzip, 0o600); err != nil {
		t.Fatal(err)
	}
	c := publishtest.Catalog(1, m, absent, half)
	c.Entries = append(c.Entries, catalog.Entry{Name: "pending", Version: "1"})
	publishtest.Publish(t, v, c)
	expectNoDamage(t, v)
}

// requireWhole reads a generation as others do.
func requireWhole(t *testing.T, dir string, g *publish.Generation) {
	t.Helper()
	if id, err := publish.Current(dir); err != nil || id != g.ID {
		t.Fatalf("%s is served, want %s: %v", id, g.ID, err)
	}
	for _, e := range g.Entries {
		requireEntry(t, filepath.Join(dir, "plugins", e.Name, e.Version), e)
	}
}

// requireEntry reads the files of one entry.
func requireEntry(t *testing.T, folder string, e catalog.Entry) {
	t.Helper()
	module, err := os.ReadFile(filepath.Join(folder, "plugin.wasm"))
	if err != nil {
		t.Fatal(err)
	}
	zipped, err := os.ReadFile(filepath.Join(folder, "plugin.wasm.gz"))
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(folder, "metadata.txt"))
	if err != nil || !bytes.Equal(text, publish.Metadata(e)) {
		t.Fatalf("%s: other metadata: %v", folder, err)
	}
	for _, b := range [][]byte{module, publishtest.Unzip(t, zipped)} {
		if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != e.SHA256 {
			t.Fatalf("%s: the module is not what the metadata says", folder)
		}
	}
}
