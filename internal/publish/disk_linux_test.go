package publish_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// TestFullDisk runs out of space for real where the test may mount a small file
// system, and otherwise by the limit of the file size that a process may write.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	limit := int64(24 << 20)
	if err := mountSmall(t, dir, 24<<20); err == nil {
		limit = 0
	} else {
		t.Logf("no file system of its own (%v): with the volume's limit", err)
	}
	v := publishtest.Open(t, dir, limit)
	m := publishtest.New("a", "1", 1<<20, 1)
	publishtest.Put(t, v, m)
	before := publishtest.Publish(t, v, publishtest.Catalog(1, m))
	if limit == 0 { // past the budget's own look at the free space
		if err := os.WriteFile(filepath.Join(dir, "ballast"), make([]byte, 5<<20), 0o600); err != nil {
			t.Fatal(err)
		}
	}
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

func mountSmall(t *testing.T, dir string, bytes int) error {
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%d", bytes)); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return nil
}
