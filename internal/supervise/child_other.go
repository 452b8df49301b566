//go:build !linux

package supervise

import (
	"os"
	"os/exec"
	"runtime/debug"
)

func endWithParent(*exec.Cmd) {}

func terminate(process *os.Process) error { return process.Signal(os.Interrupt) }

// Yield limits the memory that Go uses; the rest is only done on Linux.
func Yield(memory int64) error {
	debug.SetMemoryLimit(memory / 2)
	return nil
}
