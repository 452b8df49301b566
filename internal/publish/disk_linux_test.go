package publish_test

import (
	"errors"
	"fmt"
	"strings"
	"syscall"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
	"github.com/higress-group/plugin-server-operator/internal/smalldisk"
)

// smallSize and smallInodes are what a small file system has: a little more
// than a writer leaves free.
const smallSize, smallInodes = 24 << 20, 600

// TestFullDisk runs out of space for real where the test may mount a small file
// system, and otherwise by the volume's limit.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	limit := int64(smallSize)
	if mountSmall(t, dir) {
		limit = 0
	}
	v := publishtest.Open(t, dir, limit)
	m := publishtest.New("a", "1", 1<<20, 1)
	publishtest.Put(t, v, m)
	before := publishtest.Publish(t, v, publishtest.Catalog(1, m))
	var full *publish.FullError
	large := publishtest.New("b", "1", 20<<20, 2)
	err := v.PutGzip(t.Context(), large.Entry.SHA256, large.Entry.Size, strings.NewReader(string(large.Gzip)))
	if !errors.As(err, &full) {
		t.Fatalf("got %v", err)
	}
	publishtest.Publish(t, v, publishtest.Catalog(2, m, large))
	g, err := v.Current()
	if err != nil || len(g.Entries) != 1 || g.Entries[0] != before.Entries[0] {
		t.Errorf("%+v %v", g, err)
	}
}

// TestStatusOfAFullDisk: that there is no room left is said where there is none.
func TestStatusOfAFullDisk(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if !mountSmall(t, dir) {
		t.Log("the disk is full only by what is said")
	}
	full := false
	v, err := publish.OpenFaulty(dir, 0, func(step string) error {
		if full && step == "write" {
			return fill(dir)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range []publish.Status{{Error: ""}, {Error: strings.Repeat("full ", 200), Used: 1}, {Error: "short"}} {
		if err := v.SetStatus(status); err != nil {
			t.Fatal(err)
		}
		if got, err := publish.ReadStatus(dir); err != nil || got != status {
			t.Errorf("got %+v, %v", got, err)
		}
		full = true
	}
	if err := errors.Join(empty(dir), v.Close()); err != nil {
		t.Error(err)
	}
}

// mountSmall mounts a small file system, where the test may.
func mountSmall(t *testing.T, dir string) bool {
	t.Helper()
	return smalldisk.Mount(t, dir, limits(smallSize, smallInodes))
}

func limits(size, inodes uint64) string { return fmt.Sprintf("size=%d,nr_inodes=%d", size, inodes) }

// fill takes all space and all inodes that are left on a small file system. What
// is none is full only by what is said.
func fill(dir string) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil || fs.Files != smallInodes {
		return errors.Join(err, syscall.ENOSPC)
	}
	used := (fs.Blocks - fs.Bfree) * uint64(fs.Bsize)
	return syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, limits(used, fs.Files-fs.Ffree))
}

// empty gives back what fill took.
func empty(dir string) error {
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err != nil || fs.Type != 0x01021994 { // TMPFS_MAGIC
		return err
	}
	return syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, limits(smallSize, smallInodes))
}
