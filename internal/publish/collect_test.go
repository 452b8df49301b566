package publish_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

var farFuture = time.Now().Add(1000 * time.Hour)

func TestCollect(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	replaced, byContent, wanted, now := publishtest.New("a", "1", 5000, 1), publishtest.New("a", "1", 5000, 2), publishtest.New("x", "1", 5000, 3), publishtest.New("a", "1", 5000, 4)
	publishtest.Put(t, v, replaced, byContent, wanted, now)
	first := publishtest.Publish(t, v, publishtest.Catalog(1, replaced))
	c := publishtest.Catalog(2, now)
	c.Superseded = []catalog.Superseded{{SHA256: byContent.Entry.SHA256, Size: byContent.Entry.Size}}
	second := publishtest.Publish(t, v, c)

	collect := func(at time.Time, want string) {
		t.Helper()
		keep := func(sha256 string) bool { return sha256 == wanted.Entry.SHA256 }
		if err := v.Collect(at, keep); err != nil {
			t.Fatal(err)
		}
		var got []string
		for name, m := range map[string]publishtest.Module{"replaced": replaced, "byContent": byContent, "wanted": wanted, "now": now} {
			if v.Has(m.Entry.SHA256, m.Entry.Size) {
				got = append(got, name)
			}
		}
		for name, g := range map[string]*publish.Generation{"first": first, "second": second} {
			if _, err := publish.Load(dir, g.ID); err == nil {
				got = append(got, name)
			}
		}
		for _, name := range strings.Fields("byContent first now replaced second wanted") {
			has := fmt.Sprint(got)
			if strings.Contains(has, name) != strings.Contains(want, name) {
				t.Errorf("at %s: %s, want %s", at, has, want)
				return
			}
		}
	}
	collect(time.Now(), "byContent first now replaced second wanted")
	collect(time.Now().Add(publish.KeepSuperseded-time.Minute), "byContent first now replaced second wanted")
	collect(time.Now().Add(publish.KeepSuperseded+time.Minute), "byContent now second wanted")
	collect(farFuture, "byContent now second wanted")
	if err := v.Collect(farFuture, nil); err != nil || v.Has(wanted.Entry.SHA256, wanted.Entry.Size) {
		t.Errorf("kept what nobody needs: %v", err)
	}
}

// TestCollectBoundsGenerations: many changes in a short time do not fill the
// volume with folders.
func TestCollectBoundsGenerations(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	m := publishtest.New("a", "1", 5000, 1)
	publishtest.Put(t, v, m)
	for i := range 80 {
		publishtest.Publish(t, v, publishtest.Catalog(int64(i), m))
	}
	if err := v.Collect(time.Now(), nil); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(dir, ".gen"))
	if err != nil || len(entries) != 65 {
		t.Errorf("%d generations, want the present one and 64: %v", len(entries), err)
	}
}

// TestLeftovers: what a dead writer left is removed, what a living one writes
// is not.
func TestLeftovers(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	living := publishtest.Open(t, dir, 0)
	dead := filepath.Join(dir, ".tmp", "w-dead")
	if err := errors.Join(os.MkdirAll(dead, 0o700), os.WriteFile(filepath.Join(dead, "half"), make([]byte, 9999), 0o600)); err != nil {
		t.Fatal(err)
	}
	publishtest.Open(t, dir, 0)
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the dead writer's folder is still there: %v", err)
	}
	m := publishtest.New("a", "1", 5000, 1)
	publishtest.Put(t, living, m)
	publishtest.Publish(t, living, publishtest.Catalog(1, m))
}

func TestBudget(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	const limit = 4 << 20
	v := publishtest.Open(t, dir, limit)
	small, large := publishtest.New("a", "1", 1<<20, 1), publishtest.New("a", "1", 3<<20, 2)
	publishtest.Put(t, v, small)
	before := publishtest.Publish(t, v, publishtest.Catalog(1, small))

	fits := func(m publishtest.Module) error {
		return v.PutGzip(t.Context(), m.Entry.SHA256, m.Entry.Size, strings.NewReader(string(m.Gzip)))
	}
	err := fits(large)
	var full *publish.FullError
	if !errors.As(err, &full) || full.Needed != 3<<20 || full.Limit != limit || !strings.Contains(err.Error(), "3 MiB more are needed") {
		t.Fatalf("got %v, want a FullError that says how much is needed", err)
	}
	g := publishtest.Publish(t, v, publishtest.Catalog(2, large))
	if len(g.Entries) != 1 || g.Entries[0] != before.Entries[0] {
		t.Errorf("the old module is no longer served: %+v", g.Entries)
	}
	// What is no longer needed makes room.
	publishtest.Publish(t, v, publishtest.Catalog(3))
	if err := v.Collect(farFuture, nil); err != nil {
		t.Fatal(err)
	}
	if err := fits(publishtest.New("a", "1", 2<<20, 3)); err != nil {
		t.Error(err)
	}
	// A gzip that is larger than the module counts as well.
	if err := fits(publishtest.New("a", "1", 1<<20, 4)); !errors.As(err, &full) {
		t.Errorf("got %v", err)
	}
	reopened := publishtest.Open(t, dir, limit)
	if err := reopened.PutGzip(t.Context(), large.Entry.SHA256, large.Entry.Size, strings.NewReader(string(large.Gzip))); !errors.As(err, &full) {
		t.Errorf("a new writer does not count what is there: %v", err)
	}
}

// told is a body that says how long it is.
type told struct {
	*strings.Reader
	length int64
}

func (b told) ContentLength() int64 { return b.length }

// TestFullSaysWhatAModuleTakes: a module fits only with its gzip, so the figures
// are of both. One whose gzip has a known length is refused before it is read.
func TestFullSaysWhatAModuleTakes(t *testing.T) {
	t.Parallel()
	const limit = 10 << 20
	m := publishtest.New("a", "1", 8<<20, 1)
	zipped := string(m.Gzip) + strings.Repeat("x", 900_000) // as long as that of a module that hardly shrinks
	for name, c := range map[string]struct {
		length           int64
		needed, unread   int64
		atLeast, damaged bool
	}{
		"known":        {length: int64(len(zipped)), needed: 8<<20 + int64(len(zipped)), unread: int64(len(zipped))},
		"unknown":      {length: -1, needed: 8 << 20, atLeast: true},
		"out of reach": {length: 1 << 50, unread: int64(len(zipped)), damaged: true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			v := publishtest.Open(t, t.TempDir(), limit)
			publishtest.Put(t, v, publishtest.New("b", "1", 100_000, 2))
			used, allowed := v.Usage()
			free := allowed - limit/20 - used // the rest is for generations
			body := told{strings.NewReader(zipped), c.length}
			err := v.PutGzip(t.Context(), m.Entry.SHA256, m.Entry.Size, body)
			var full *publish.FullError
			switch {
			case c.damaged:
				if !errors.Is(err, publish.ErrDamaged) {
					t.Errorf("got %v", err)
				}
			case !errors.As(err, &full) || full.Needed < c.needed || (full.Needed > c.needed && !c.atLeast) || full.Needed <= full.Free || full.Free != free:
				t.Errorf("got %v: %+v, want that %d are needed and %d are free", err, full, c.needed, free)
			}
			if unread := int64(body.Len()); unread < c.unread {
				t.Errorf("%d bytes were read of what cannot fit", int64(len(zipped))-unread)
			}
			if after, _ := v.Usage(); after != used {
				t.Errorf("it holds %d bytes, and %d before", after, used)
			}
		})
	}
}

// TestFullOfModules: a volume that takes no further module takes up a catalog
// that names one.
func TestFullOfModules(t *testing.T) {
	t.Parallel()
	const limit = 10 << 20
	v := publishtest.Open(t, t.TempDir(), limit)
	var full *publish.FullError
	c := publishtest.Catalog(1)
	for i := range limit >> 20 {
		m := publishtest.New("a", fmt.Sprint(i), 1<<20, uint64(i))
		c.Entries = append(c.Entries, m.Entry)
		if err := v.PutGzip(t.Context(), m.Entry.SHA256, m.Entry.Size, strings.NewReader(string(m.Gzip))); errors.As(err, &full) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if full == nil {
		t.Fatal("it was never full")
	}
	c.Normalize()
	want := len(c.Entries) - 1
	if g := publishtest.Publish(t, v, c); len(g.Entries) != want || len(g.Missing) != 1 {
		t.Errorf("%d are served and %d missing, want %d and 1", len(g.Entries), len(g.Missing), want)
	}
}

// TestPublishRefusesWhatDoesNotFit: folders take space too.
func TestPublishRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	v := publishtest.Open(t, t.TempDir(), 2<<20)
	m := publishtest.New("a", "1", 5000, 1)
	publishtest.Put(t, v, m)
	before := publishtest.Publish(t, v, publishtest.Catalog(1, m))
	c := publishtest.Catalog(2)
	for i := range 400 {
		e := m.Entry
		e.Version = fmt.Sprint(i)
		c.Entries = append(c.Entries, e)
	}
	var full *publish.FullError
	if _, err := v.Publish(t.Context(), c); !errors.As(err, &full) {
		t.Errorf("got %v", err)
	}
	if g, err := v.Current(); err != nil || g.ID != before.ID {
		t.Errorf("the old generation is not served any more: %v", err)
	}
}
