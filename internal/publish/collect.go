package publish

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// refs are the modules that a generation needs.
type refs map[string]bool

// Collect removes the generations that have been superseded for
// KeepSuperseded, the oldest beyond the number that is kept, and then the modules that
// no generation needs any more and that have been there for as long. keep names
// modules to leave alone nevertheless; it may be nil.
func (v *Volume) Collect(now time.Time, keep func(sha256 string) bool) error {
	return v.exclusively(func() error {
		removed, err := v.collectGenerations(now)
		if err == nil {
			var more bool
			more, err = v.collectBlobs(now, keep)
			removed = removed || more
		}
		if removed {
			return errors.Join(err, v.budget.measure())
		}
		return err
	})
}

func (v *Volume) collectGenerations(now time.Time) (removed bool, err error) {
	current, err := Current(v.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	folders, err := infos(filepath.Join(v.dir, generationsDir))
	if err != nil {
		return false, err
	}
	folders = slices.DeleteFunc(folders, func(f fs.FileInfo) bool { return f.Name() == current })
	slices.SortFunc(folders, func(a, b fs.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for i, f := range folders {
		if i < maxSuperseded && now.Sub(f.ModTime()) < KeepSuperseded {
			continue
		}
		// Out of sight in one step: a reader never sees half a generation.
		away := filepath.Join(v.tmp, "away-"+f.Name())
		if err := v.disk.rename(generationPath(v.dir, f.Name()), away); err != nil {
			return removed, err
		}
		removed = true
		delete(v.named, f.Name())
		if err := v.disk.removeAll(away); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// collectBlobs removes modules. One that is younger than KeepSuperseded may be
// on its way into a generation.
func (v *Volume) collectBlobs(now time.Time, keep func(string) bool) (removed bool, err error) {
	kept, err := v.references()
	if err != nil {
		return false, err
	}
	files, err := infos(filepath.Join(v.dir, blobsDir))
	if err != nil {
		return false, err
	}
	for _, f := range files {
		sha256 := strings.TrimSuffix(f.Name(), gzipSuffix)
		if kept[sha256] || now.Sub(f.ModTime()) < KeepSuperseded || (keep != nil && keep(sha256)) {
			continue
		}
		if err := v.disk.remove(blobPath(v.dir, f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return removed, err
		}
		v.known.forget(f.Name())
		removed = true
	}
	return removed, nil
}

// references gives the modules that the generations on the volume need: those
// that they serve, and those that the present one serves by content. A generation that
// cannot be read needs unknown ones: then nothing may be removed.
func (v *Volume) references() (refs, error) {
	all := refs{}
	current, err := v.loadCurrent()
	if err != nil {
		return nil, err
	}
	if current != nil {
		for _, s := range current.Catalog.Superseded {
			all[s.SHA256] = true
		}
		v.named[current.ID] = needs(current.Entries)
	}
	folders, err := infos(filepath.Join(v.dir, generationsDir))
	if err != nil {
		return nil, err
	}
	for _, f := range folders {
		named, ok := v.named[f.Name()]
		if !ok {
			g, err := Load(v.dir, f.Name())
			if err != nil {
				return nil, err
			}
			named = needs(g.Entries)
			v.named[f.Name()] = named
		}
		for sha256 := range named {
			all[sha256] = true
		}
	}
	return all, nil
}

func needs(entries []catalog.Entry) refs {
	r := make(refs, len(entries))
	for _, e := range entries {
		r[e.SHA256] = true
	}
	return r
}

func infos(dir string) ([]fs.FileInfo, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	files := make([]fs.FileInfo, 0, len(entries))
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		files = append(files, info)
	}
	return files, nil
}
