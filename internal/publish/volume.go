package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
)

// Volume is a volume opened for writing. Its methods may be called from
// several goroutines. Several writers on one volume do each other no harm.
type Volume struct {
	Blobs
	dir   string
	limit int64
	disk  disk

	tmp  string   // the folder of this writer, on the same file system
	held *os.File // tmp, locked as long as this writer lives

	publishing sync.Mutex      // one Publish or Collect at a time
	current    *Generation     // the last one seen; guarded by publishing
	named      map[string]refs // by ID, read once; guarded by publishing

	suspect string // the ID of a generation with damaged files; guarded by publishing

	budget budget
	known  prints
}

// Open opens a volume, makes its folders and removes what dead writers left
// unfinished. limit is what the volume may hold in bytes, 0 for no limit; the writer
// stays below it by itself (see FullError).
func Open(dir string, limit int64) (*Volume, error) { return open(dir, limit, disk{}) }

func open(dir string, limit int64, disk disk) (*Volume, error) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	for _, d := range []string{generationsDir, temporaryDir, blobsDir} {
		if err := disk.mkdirAll(filepath.Join(dir, d)); err != nil {
			return nil, fmt.Errorf("cannot prepare the volume: %w", err)
		}
	}
	v := &Volume{Blobs: Blobs{dir}, dir: dir, limit: limit, disk: disk, named: map[string]refs{}}
	v.removeLeftovers()
	if err := v.enter(); err != nil {
		return nil, fmt.Errorf("cannot prepare the volume: %w", err)
	}
	used, err := usage(dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("cannot measure the volume: %w", err), v.Close())
	}
	v.budget = budget{dir: dir, limit: limit, used: used}
	return v, nil
}

// Close removes what this writer has not finished. The volume stays as it is.
func (v *Volume) Close() error {
	return errors.Join(v.disk.removeAll(v.tmp), v.held.Close())
}

// enter makes this writer's folder for temporary files and locks it.
func (v *Volume) enter() error {
	var err error
	// Another writer may take the new folder for a leftover before it is locked.
	for range 10 {
		var tmp string
		if tmp, err = v.disk.mkdirTemp(filepath.Join(v.dir, temporaryDir), "w-"); err != nil {
			return err
		}
		var f *os.File
		if f, err = lock(tmp, syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
			continue
		}
		if same(f, tmp) {
			v.tmp, v.held = tmp, f
			return nil
		}
		f.Close()
		err = errors.New("another writer removes temporary files all the time")
	}
	return err
}

// removeLeftovers removes the folders of writers that do not live any more.
func (v *Volume) removeLeftovers() {
	entries, err := os.ReadDir(filepath.Join(v.dir, temporaryDir))
	if err != nil {
		return
	}
	for _, e := range entries {
		path := filepath.Join(v.dir, temporaryDir, e.Name())
		f, err := lock(path, syscall.LOCK_EX|syscall.LOCK_NB)
		if err != nil {
			continue
		}
		// What cannot be removed now is tried again at the next start.
		_ = v.disk.removeAll(path)
		f.Close()
	}
}

// lock opens a folder and locks it until it is closed or the process ends.
func lock(path string, how int) (*os.File, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		err := syscall.Flock(int(f.Fd()), how)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EINTR) {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
		}
	}
}

// same says whether an open file is still the one at a path.
func same(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Lstat(path)
	return err == nil && os.SameFile(a, b)
}

// exclusively runs a change of the generations while no other writer, here or
// in another process, makes one.
func (v *Volume) exclusively(change func() error) error {
	v.publishing.Lock()
	defer v.publishing.Unlock()
	f, err := lock(filepath.Join(v.dir, generationsDir), syscall.LOCK_EX)
	if err != nil {
		return err
	}
	defer f.Close()
	return change()
}

// Current gives the generation that the volume serves; nil before the first
// one.
func (v *Volume) Current() (*Generation, error) {
	v.publishing.Lock()
	defer v.publishing.Unlock()
	return v.loadCurrent()
}

func (v *Volume) loadCurrent() (*Generation, error) {
	id, err := Current(v.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if v.current == nil || v.current.ID != id {
		g, err := LoadCurrent(v.dir)
		if err != nil {
			return nil, err
		}
		v.current = g
	}
	return v.current, nil
}
