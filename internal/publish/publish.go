package publish

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// ErrOlder says that the volume serves a newer catalog already.
var ErrOlder = errors.New("the volume serves a newer catalog")

// Publish makes a generation of a catalog, whole and durable, and then serves
// it. Of an entry whose module the volume lacks, the older module is served on
// if the present generation serves one under the same name and version; otherwise the
// entry is left out. Either way it is Missing in the generation. Nothing is done where
// the present generation is the same already. A catalog of a lower sequence than
// the present one is refused (ErrOlder), and so is a generation that does not fit (a
// *FullError); the present one then stays.
func (v *Volume) Publish(ctx context.Context, c *catalog.Catalog) (g *Generation, err error) {
	c.Normalize()
	if err := check(c); err != nil {
		return nil, err
	}
	err = v.exclusively(func() error {
		g, err = v.publish(ctx, c)
		return err
	})
	return g, err
}

// check keeps out what could not be a path. Decoded catalogs are checked
// already.
func check(c *catalog.Catalog) error {
	for i, e := range c.Entries {
		switch {
		case !catalog.NamePattern.MatchString(e.Name), !catalog.VersionPattern.MatchString(e.Version),
			!e.Pending() && !catalog.SHA256Pattern.MatchString(e.SHA256):
			return fmt.Errorf("malformed entry %q %q %q", e.Name, e.Version, e.SHA256)
		case i > 0 && c.Entries[i-1].Key() == e.Key():
			return fmt.Errorf("entry %s stands in the catalog twice", e.Key())
		}
	}
	return nil
}

func (v *Volume) publish(ctx context.Context, c *catalog.Catalog) (*Generation, error) {
	id, err := Current(v.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// A generation that cannot be read is replaced like one that is not there.
	old, _ := v.loadCurrent()
	if old != nil && old.Catalog.Sequence > c.Sequence {
		return nil, fmt.Errorf("%w: sequence %d, not %d", ErrOlder, old.Catalog.Sequence, c.Sequence)
	}
	s := v.plan(c, old)
	next := newGeneration("", &catalog.Catalog{
		Sequence: c.Sequence, Entries: slices.Clone(c.Entries), Superseded: slices.Clone(c.Superseded),
	}, s)
	if old != nil && v.equal(old, next) {
		return old, nil
	}
	b := &build{volume: v, generation: next, served: s, oldID: id, old: map[catalog.Key]catalog.Entry{}}
	if old != nil && old.ID != v.suspect { // nothing is taken over from damaged files
		for _, e := range old.Entries {
			b.old[e.Key()] = e
		}
	}
	cost := b.cost()
	if err := v.budget.reserve(cost); err != nil {
		return nil, err
	}
	if err := b.run(ctx); err != nil {
		v.budget.settle(cost, 0)
		return nil, full(err, cost)
	}
	v.budget.settle(cost, cost)
	v.current = next
	return next, nil
}

// plan finds out which entries are not served as the catalog wants them, and
// what is served instead.
func (v *Volume) plan(c *catalog.Catalog, old *Generation) served {
	var s served
	before := map[catalog.Key]catalog.Entry{}
	if old != nil {
		for _, e := range old.Entries {
			before[e.Key()] = e
		}
	}
	for _, e := range c.Entries {
		if e.Pending() || v.Has(e.SHA256, e.Size) {
			continue
		}
		s.Missing = append(s.Missing, key(e.Key()))
		if older, ok := before[e.Key()]; ok && v.Has(older.SHA256, older.Size) {
			s.Older = append(s.Older, older)
		}
	}
	return s
}

// same says whether two generations serve the same.
func (g *Generation) same(other *Generation) bool {
	return g.Revision == other.Revision && g.Catalog.Sequence == other.Catalog.Sequence &&
		slices.Equal(g.Missing, other.Missing) && slices.Equal(g.Entries, other.Entries)
}

// equal says whether a generation serves the same as another one, and has all
// its files.
func (v *Volume) equal(old, next *Generation) bool {
	if old.ID == v.suspect || !old.same(next) {
		return false
	}
	_, err := os.Stat(filepath.Join(generationPath(v.dir, old.ID), linkName))
	return err == nil
}

// swap makes a generation the one that is served. Whoever looks sees the old
// one or the new one.
func (v *Volume) swap(old, id string) error {
	if old != "" {
		// Its ten minutes begin now. Before the swap: a crash between the two must not
		// leave a superseded generation that looks old already.
		if err := v.disk.touch(generationPath(v.dir, old)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	link := filepath.Join(v.tmp, linkName)
	if err := v.disk.remove(link); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := v.disk.symlink(filepath.Join(generationsDir, id, linkName), link); err != nil {
		return err
	}
	if err := v.disk.rename(link, filepath.Join(v.dir, linkName)); err != nil {
		return fmt.Errorf("cannot switch to the new generation: %w", err)
	}
	return v.disk.sync(v.dir)
}
