//go:build envtest

package controllers_test

import (
	"os/exec"
	"syscall"
)

// endWithTest lets the kernel end the program when the test is killed.
func endWithTest(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
