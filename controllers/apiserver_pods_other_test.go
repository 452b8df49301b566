//go:build envtest && !linux

package controllers_test

import "os/exec"

// endWithTest is only done on Linux.
func endWithTest(*exec.Cmd) {}
