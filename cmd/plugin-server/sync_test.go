package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
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
				got, err := openVolume(ctx, slog.New(slog.DiscardHandler), func() (*publish.Volume, error) {
					tries++
					if err := c.errs[tries-1]; err != nil {
						return nil, err
					}
					return volume, nil
				})
				if got != c.want || !errors.Is(err, c.err) || time.Since(began) != c.after {
					t.Errorf("got %p and %v after %s", got, err, time.Since(began))
				}
			})
		})
	}
}
