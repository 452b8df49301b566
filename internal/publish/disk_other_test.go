//go:build !linux

package publish_test

import (
	"syscall"
	"testing"
)

func mountSmall(*testing.T, string) bool { return false }

func fill(string) error { return syscall.ENOSPC }

func empty(string) error { return nil }
