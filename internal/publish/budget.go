package publish

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"sync"
	"syscall"
)

const (
	// maxHeadroom is how many bytes below its limit a volume stays. The kubelet
	// measures about once a minute and evicts all replicas together, since all have the
	// same content; logs and the like on the same volume have to fit as well.
	maxHeadroom = 64 << 20
	// minFree is how many bytes the file system below keeps free in any case.
	minFree = 8 << 20
	// forGenerations is how many bytes modules leave, at most, to generations: a
	// volume that is full of modules can still take up a catalog, and so knows which
	// modules are declared and lacking.
	forGenerations = 8 << 20
	// block is what a small file or folder takes in bytes, at most, on the file
	// systems of nodes.
	block = 4 << 10
)

// FullError says that something does not fit into the volume.
type FullError struct {
	// Needed is what it takes in bytes, Free what may still be written, and
	// Limit the volume's limit (0: the file system itself is full).
	Needed, Free, Limit int64

	err error // of the file system, if it said so
}

// Unwrap gives the file system's own error, if it was the one that refused.
func (e *FullError) Unwrap() error { return e.err }

func (e *FullError) Error() string {
	if e.Limit == 0 {
		return fmt.Sprintf("the file system below the volume is full: %s more are needed, %d MiB are free", megabytes(e.Needed), e.Free>>20)
	}
	return fmt.Sprintf("the volume is full: %s more are needed, %d MiB of its %s are free", megabytes(e.Needed), e.Free>>20, megabytes(e.Limit))
}

// megabytes rounds up, so that what is needed is never said to fit.
func megabytes(n int64) string { return fmt.Sprintf("%d MiB", (max(n, 0)+1<<20-1)>>20) }

// budget counts what a volume holds.
type budget struct {
	dir   string
	limit int64

	mu       sync.Mutex
	used     int64
	reserved int64 // by what is being written
}

// allowed is what the volume may hold, in bytes; 0 where there is no limit.
func (b *budget) allowed() int64 { return b.limit - min(b.limit/10, maxHeadroom) }

// Usage is what the volume holds and what it may hold, in bytes; the latter is 0
// where there is no limit.
func (v *Volume) Usage() (used, allowed int64) {
	v.budget.mu.Lock()
	defer v.budget.mu.Unlock()
	return v.budget.used, v.budget.allowed()
}

// reserve takes n bytes for a generation, or gives a *FullError. What is
// reserved must be settled.
func (b *budget) reserve(n int64) error { return b.take(n, 0, minFree) }

// reserveModule is reserve for a module.
func (b *budget) reserveModule(n int64) error {
	return b.take(n, min(b.limit/20, forGenerations), minFree+forGenerations)
}

// take takes n bytes and leaves others free, of the limit and of the file system.
func (b *budget) take(n, ofLimit, ofDisk int64) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.limit > 0 {
		if free := b.allowed() - ofLimit - b.used - b.reserved; n > free {
			return &FullError{Needed: n, Free: max(free, 0), Limit: b.limit}
		}
	}
	var fs syscall.Statfs_t
	if err := syscall.Statfs(b.dir, &fs); err == nil {
		if free := int64(fs.Bavail)*int64(fs.Bsize) - ofDisk; n > free { //nolint:unconvert // other systems have other types
			return &FullError{Needed: n, Free: max(free, 0)}
		}
	}
	b.reserved += n
	return nil
}

// settle replaces a reservation by what was really written.
func (b *budget) settle(reserved, written int64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reserved -= reserved
	b.used += written
}

// measure counts the volume anew, after something was removed. What is being
// written at the same time is counted twice at worst, until the next time.
func (b *budget) measure() error {
	used, err := usage(b.dir)
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used = used
	return nil
}

// usage is what a folder takes on disk, in bytes, each file once however many
// links it has: the way the kubelet counts.
func usage(dir string) (int64, error) {
	var sum int64
	seen := map[uint64]bool{}
	err := filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil {
			return ignoreGone(err)
		}
		info, err := d.Info()
		if err != nil {
			return ignoreGone(err)
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			sum += info.Size()
			return nil
		}
		if !d.IsDir() && stat.Nlink > 1 {
			if seen[stat.Ino] {
				return nil
			}
			seen[stat.Ino] = true
		}
		sum += stat.Blocks * 512
		return nil
	})
	return sum, err
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// full turns the file system's "no space" into a FullError.
func full(err error, needed int64) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return &FullError{Needed: needed, err: err}
	}
	return err
}
