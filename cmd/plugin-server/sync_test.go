package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/publish"
)

// TestOpenVolume: a disk without any room is waited for, anything else ends sync.
func TestOpenVolume(t *testing.T) {
	t.Parallel()
	full := fmt.Errorf("cannot prepare the volume: %w", &fs.PathError{Op: "mkdir", Path: "/data", Err: syscall.ENOSPC})
	broken := errors.New("the disk is broken")
	volume := &publish.Volume{}
	for name, c := range map[string]struct {
		errs  []error
		want  *publish.Volume
		err   error
		after time.Duration
	}{
		"there is room":      {[]error{nil}, volume, nil, 0},
		"there is room soon": {[]error{full, full, nil}, volume, nil, 2 * roomPause},
		"it is broken":       {[]error{full, broken}, nil, broken, roomPause},
		"it is told to end":  {[]error{full, full, full, full, full}, nil, nil, 4*roomPause - time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 4*roomPause-time.Second)
				defer cancel()
				began, tries := time.Now(), 0
				told := 0
				got, err := openVolume(ctx, func(error) { told++ }, func() (*publish.Volume, error) {
					tries++
					if err := c.errs[tries-1]; err != nil {
						return nil, err
					}
					return volume, nil
				})
				if got != c.want || !errors.Is(err, c.err) || time.Since(began) != c.after {
					t.Errorf("got %p and %v after %s", got, err, time.Since(began))
				}
				if waited := int((c.after + roomPause - 1) / roomPause); told != waited {
					t.Errorf("told %d times that there is no room, want %d", told, waited)
				}
			})
		})
	}
}

// TestNoRoom: pods that serve a volume learn from it that they are behind.
func TestNoRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	v, err := publish.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(v.SetStatus(publish.Status{Damaged: 3}), v.Close()); err != nil {
		t.Fatal(err)
	}
	noRoom(dir, syscall.ENOSPC, slog.New(slog.DiscardHandler))
	if got, err := publish.ReadStatus(dir); err != nil || !got.Behind || got.Damaged != 3 || !strings.Contains(got.Error, "free space there") {
		t.Errorf("got %+v, %v", got, err)
	}
}
