package supervise

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// nice is the priority of a child: about a tenth of the processor where its
// parent wants all of it.
const nice = 10

// endWithParent lets the kernel end the child when its parent dies.
func endWithParent(cmd *exec.Cmd) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
}

func terminate(process *os.Process) error { return process.Signal(syscall.SIGTERM) }

// Yield is what a child does first: it takes care that its parent, in the same
// container, never suffers from it. Its memory is limited to that many bytes,
// below what would reach the container's limit: beyond it the child ends by itself. Where
// memory runs out all the same, the kernel takes the child first. The processor
// goes to the parent first.
func Yield(memory int64) error {
	debug.SetMemoryLimit(memory / 2)
	limit := unix.Rlimit{Cur: uint64(memory), Max: uint64(memory)}
	var errs []error
	if err := unix.Setrlimit(unix.RLIMIT_DATA, &limit); err != nil {
		errs = append(errs, fmt.Errorf("limit the memory: %w", err))
	}
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("1000"), 0); err != nil {
		errs = append(errs, fmt.Errorf("offer to be killed first: %w", err))
	}
	if err := yieldProcessor(); err != nil {
		errs = append(errs, fmt.Errorf("lower the priority: %w", err))
	}
	return errors.Join(errs...)
}

// yieldProcessor lowers the priority of every thread: on Linux it belongs to a
// thread, and new ones take it from the one that starts them.
func yieldProcessor() error {
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil {
		return err
	}
	for _, task := range tasks {
		id, err := strconv.Atoi(task.Name())
		if err != nil {
			return err
		}
		if err := unix.Setpriority(unix.PRIO_PROCESS, id, nice); err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}
