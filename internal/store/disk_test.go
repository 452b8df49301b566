package store

import (
	"bytes"
	"strings"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/smalldisk"
)

// TestFullVolume runs out of space for real where the test may mount a small
// file system, and otherwise by the budget.
func TestFullVolume(t *testing.T) {
	t.Parallel()
	const size = 4 << 20
	dir, budget, says := t.TempDir(), int64(0), "the volume of the operator's store is full: 9 MiB more are needed for this module"
	if !smalldisk.Mount(t, dir, "size=4m") {
		budget, says = size, "9 MiB more are needed for this module"
	}
	s := open(t, dir, budget)
	first := put(t, s, module(1, 1<<20))
	_, err := s.Put(t.Context(), bytes.NewReader(module(2, 7<<20)), "")
	if f := failure.Of(err); f.Reason != failure.StoreFull || !strings.Contains(err.Error(), says) {
		t.Fatalf("beyond the volume: %v, want %q", err, says)
	}
	requireWhole(t, s, first.SHA256)
	requireWhole(t, s, put(t, s, module(3, 1<<20)).SHA256)
	if left := files(t, dir); len(left) != 6 {
		t.Errorf("files are left: %v", left)
	}
}
