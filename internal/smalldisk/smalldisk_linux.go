package smalldisk

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"
)

// insideVariable tells a test's program that it has its own mounts.
const insideVariable = "SMALLDISK_INSIDE"

// Main is what TestMain begins with. It runs the program again, with mounts that
// nobody else sees and that are gone when it ends, however it ends.
func Main() {
	if os.Getenv(insideVariable) != "" || os.Geteuid() != 0 {
		return
	}
	cmd := exec.Command(os.Args[0], os.Args[1:]...) // #nosec G702 -- it is this very program
	cmd.Env = append(os.Environ(), insideVariable+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the kernel ties the end of the one to this thread of the other
	err := cmd.Run()
	runtime.UnlockOSThread()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		os.Exit(max(exit.ExitCode(), 1))
	case err == nil:
		os.Exit(0)
	}
	// A root that may not: Mount says so too.
}

// Mount mounts a small file system on a folder until the test ends, where that
// is possible. options are those of tmpfs.
func Mount(t testing.TB, dir, options string) bool {
	t.Helper()
	if os.Getenv(insideVariable) == "" {
		return false
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Logf("no file system of its own: %v", err)
		return false
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return true
}
