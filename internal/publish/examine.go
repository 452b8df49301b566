package publish

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// Damage is something on a volume that is not what it should be. Whoever is
// told of it finds a damaged module removed already: nobody reads wrong bytes any
// longer. Publishing again mends the rest, and leaves out what is not there.
type Damage struct {
	// Path of the file, below the volume.
	Path string
	// SHA256 of the module to fetch again; empty where it is another file.
	SHA256 string
	// Err says what is wrong.
	Err error
}

// Examine looks at everything that is served, without reading it: what is
// missing, or looks otherwise than when it was last read, is read again at once, and
// removed if it is damaged. A module that has never arrived is no damage. An error is
// the first trouble with looking; it keeps nobody from looking at the rest.
func (v *Volume) Examine(ctx context.Context, found func(Damage)) (failed error) {
	g, err := v.examined(found)
	if g == nil || err != nil {
		return err
	}
	entries := map[string]bool{}
	for _, e := range g.Entries {
		entries[e.SHA256] = true
	}
	for sha256, size := range g.blobs() {
		if !entries[sha256] && !v.arrived(sha256) {
			continue
		}
		for _, f := range forms(sha256, size) {
			info, err := os.Lstat(blobPath(v.dir, f.name()))
			known := v.known.get(f.name())
			if err != nil || !f.fits(info) || (known != nil && !unchanged(known, info)) {
				failed = cmp.Or(failed, v.reread(ctx, f, 0, found))
			}
		}
	}
	for _, e := range g.Entries {
		failed = cmp.Or(failed, v.examineEntry(ctx, g, e, found))
	}
	return failed
}

// Reread reads everything that is served again, rate bytes a second, and
// removes what is damaged. The order is another one each time, so that a process that
// never lives long does not look at the same part again and again.
func (v *Volume) Reread(ctx context.Context, rate int64, found func(Damage)) (failed error) {
	g, err := v.examined(found)
	if g == nil || err != nil {
		return err
	}
	failed = v.rereadGeneration(g, found)
	blobs := g.blobs()
	names := slices.Collect(maps.Keys(blobs))
	rand.Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] }) //nolint:gosec // no secret
	for _, sha256 := range names {
		if !v.arrived(sha256) { // gone is Examine's business
			continue
		}
		for _, f := range forms(sha256, blobs[sha256]) {
			failed = cmp.Or(failed, v.reread(ctx, f, rate, found))
			if ctx.Err() != nil {
				return ctx.Err()
			}
		}
	}
	return failed
}

// examined gives the present generation. One that cannot be found or read any
// more is a damage.
func (v *Volume) examined(found func(Damage)) (*Generation, error) {
	v.publishing.Lock()
	had := v.current != nil
	g, err := v.loadCurrent()
	v.publishing.Unlock()
	switch {
	case err != nil:
		found(Damage{Path: linkName, Err: err})
		return nil, nil
	case g == nil && had:
		found(Damage{Path: linkName, Err: fmt.Errorf("%w: it is gone", ErrDamaged)})
	}
	return g, nil
}

// blobs gives the size of every module that the generation serves or is to
// serve, by its SHA-256.
func (g *Generation) blobs() map[string]int64 {
	blobs := g.Catalog.Blobs()
	for _, e := range g.Entries {
		blobs[e.SHA256] = e.Size
	}
	return blobs
}

// arrived says whether a module is there, or was a moment ago.
func (v *Volume) arrived(sha256 string) bool {
	if v.known.get(sha256) != nil {
		return true
	}
	_, err := os.Lstat(blobPath(v.dir, sha256))
	return err == nil
}

// examineEntry looks whether the files of an entry are those that were linked
// into the generation.
func (v *Volume) examineEntry(ctx context.Context, g *Generation, e catalog.Entry, found func(Damage)) error {
	folder := filepath.Join(generationPath(v.dir, g.ID), linkName, e.Name, e.Version)
	for _, f := range forms(e.SHA256, e.Size) {
		name := moduleFile
		if f.zipped {
			name = gzipFile
		}
		blob, err := os.Lstat(blobPath(v.dir, f.name()))
		if err != nil {
			continue // told already
		}
		link, err := os.Stat(filepath.Join(folder, name))
		if err == nil && os.SameFile(blob, link) {
			continue
		}
		if v.known.get(f.name()) == nil { // before it is linked again
			if err := v.reread(ctx, f, 0, found); err != nil {
				return err
			}
			if v.known.get(f.name()) == nil {
				continue // told now
			}
		}
		return v.suspectGeneration(g, filepath.Join(folder, name), errors.New("it is not the module's file"), found)
	}
	path := filepath.Join(folder, metadataFile)
	if info, err := os.Lstat(path); err != nil || info.Size() != int64(len(Metadata(e))) {
		return v.suspectGeneration(g, path, errors.New("it is not there, or has another size"), found)
	}
	return nil
}

// rereadGeneration reads the small files of a generation again.
func (v *Volume) rereadGeneration(g *Generation, found func(Damage)) error {
	again, err := Load(v.dir, g.ID)
	if err == nil && !again.same(g) {
		err = errors.New("it says something else than when it was published")
	}
	if err != nil {
		return v.suspectGeneration(g, filepath.Join(generationPath(v.dir, g.ID), catalogFile), err, found)
	}
	for _, e := range g.Entries {
		path := filepath.Join(generationPath(v.dir, g.ID), linkName, e.Name, e.Version, metadataFile)
		want := Metadata(e)
		text, err := readBounded(path, int64(len(want)))
		if err == nil && !bytes.Equal(text, want) {
			err = errors.New("it says something else than the catalog")
		}
		if err != nil {
			return v.suspectGeneration(g, path, err, found)
		}
	}
	return nil
}

// suspectGeneration has a generation made anew with the next Publish, if it is
// still the present one.
func (v *Volume) suspectGeneration(g *Generation, path string, why error, found func(Damage)) error {
	v.publishing.Lock()
	now, err := Current(v.dir)
	known := err != nil || now != g.ID || v.suspect == g.ID // told already, or nobody reads it any more
	if !known {
		v.suspect = g.ID
	}
	v.publishing.Unlock()
	if known {
		return nil
	}
	relative, err := filepath.Rel(v.dir, path)
	found(Damage{Path: relative, Err: why})
	return err
}

// reread reads a form again and removes it if it is damaged.
func (v *Volume) reread(ctx context.Context, f form, rate int64, found func(Damage)) error {
	info, err := f.read(ctx, v.dir, rate)
	switch {
	case errors.Is(err, ErrDamaged):
		return v.condemn(f, info, err, found)
	case err == nil:
		v.known.set(f.name(), info)
	}
	return err
}

// condemn removes a damaged file under all its names, in superseded generations
// too: there it would take the space of the one that is fetched again. info is that
// of the file that was read, nil if there was none.
func (v *Volume) condemn(f form, info fs.FileInfo, why error, found func(Damage)) error {
	needed := false
	err := v.exclusively(func() error {
		path := blobPath(v.dir, f.name())
		now, err := os.Lstat(path)
		switch {
		case err == nil && (info == nil || !os.SameFile(info, now)):
			return nil // another one was put into its place meanwhile
		case err == nil:
			err = v.disk.removeAll(path)
		case errors.Is(err, fs.ErrNotExist) && info != nil:
			return nil // somebody else was faster
		case errors.Is(err, fs.ErrNotExist):
			err = nil
		}
		v.known.forget(f.name())
		if info != nil {
			err = errors.Join(err, v.unlink(info), v.disk.sync(filepath.Join(v.dir, blobsDir)), v.budget.measure())
		}
		// It may have been collected since somebody decided to look at it.
		g, _ := v.loadCurrent()
		needed = g == nil || g.blobs()[f.sha256] == f.size
		return err
	})
	if needed {
		found(Damage{Path: filepath.Join(blobsDir, f.name()), SHA256: f.sha256, Err: why})
	}
	return err
}

// unlink removes every link to a file from the generations.
func (v *Volume) unlink(info fs.FileInfo) error {
	return filepath.WalkDir(filepath.Join(v.dir, generationsDir), func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return ignoreGone(err)
		}
		other, err := d.Info()
		if err != nil || !os.SameFile(info, other) {
			return ignoreGone(err)
		}
		return v.disk.remove(path)
	})
}
