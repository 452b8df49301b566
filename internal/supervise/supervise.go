// Package supervise runs a program beside a server that must outlive it: the
// program may be killed, run out of memory or crash again and again, and the
// server never notices.
//
// It is a child process, not a container of its own: a container that restarts, a
// native sidecar too, makes its pod unready, and all replicas meet the same
// trouble at once.
package supervise

import (
	"context"
	"errors"
	"log/slog"
	"os/exec"
	"runtime"
	"time"
)

const (
	// minPause and maxPause bound the pause before the child is started again; it
	// doubles with each short life.
	minPause = 100 * time.Millisecond
	maxPause = 3 * time.Second
	// longLife is the life after which a child counts as healthy.
	longLife = time.Minute
	// grace is how long the child may take to end when it is told to.
	grace = 5 * time.Second
)

// Child is a program to run for ever.
type Child struct {
	// Command makes it with exec.CommandContext and the given context; a new one
	// for each life. A child that ends by that context was told to, and gets five seconds.
	Command func(ctx context.Context) *exec.Cmd
	Logger  *slog.Logger
}

// Run starts the child again whenever it ends, until ctx does; then it ends the
// child and returns.
func (c Child) Run(ctx context.Context) {
	// The signal that ends a child with its parent is sent when the thread that
	// started it ends, so that thread has to stay.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	pause := minPause
	for ctx.Err() == nil {
		began := time.Now()
		err := c.live(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > longLife {
			pause = minPause
		}
		c.Logger.Warn("the child ended and is started again", "reason", reason(err), "pause", pause.String())
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

// live runs the child once.
func (c Child) live(ctx context.Context) error {
	cmd := c.Command(ctx)
	endWithParent(cmd)
	cmd.Cancel = func() error { return terminate(cmd.Process) }
	cmd.WaitDelay = grace
	if err := cmd.Start(); err != nil {
		return err
	}
	c.Logger.Info("the child was started", "pid", cmd.Process.Pid)
	return cmd.Wait()
}

// reason says how a child ended.
func reason(err error) string {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return "it returned"
	case errors.As(err, &exit):
		return exit.String()
	}
	return err.Error()
}
