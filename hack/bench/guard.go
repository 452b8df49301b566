//go:build linux

package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A run must leave nothing, even if it is killed in a way that it cannot
// notice. So a second process, the guard, is told of everything before it exists,
// through a pipe whose writing end only the run holds. When the run ends, in
// whatever way, the kernel closes the pipe, and the guard removes everything. There
// is no other way, so this one is always tested.
type guard struct {
	pipe *os.File
	cmd  *exec.Cmd
}

func startGuard() (*guard, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	reader, writer, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer reader.Close()
	cmd := exec.Command(self, "__guard")
	cmd.Stdin, cmd.Stderr = reader, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(err, writer.Close())
	}
	return &guard{pipe: writer, cmd: cmd}, nil
}

// knows tells the guard of a thing that is made now.
func (g *guard) knows(kind, name string) error {
	_, err := fmt.Fprintf(g.pipe, "%s %s\n", kind, name)
	return err
}

// folder makes the folder for everything temporary.
func (g *guard) folder() (string, error) {
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("plugin-server-bench-%d", os.Getpid()))
	if err := g.knows("folder", dir); err != nil {
		return "", err
	}
	return dir, os.Mkdir(dir, 0o755) // nginx may be another user
}

// close lets the guard remove everything, and waits for it.
func (g *guard) close() error {
	if err := g.pipe.Close(); err != nil {
		return err
	}
	if err := g.cmd.Wait(); err != nil {
		return fmt.Errorf("something was left behind: %w", err)
	}
	return nil
}

// runGuard waits for the end of the run, and removes what it was told of: the
// newest first, but processes before everything.
func runGuard() error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	things := map[string][]string{}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		if kind, name, ok := strings.Cut(lines.Text(), " "); ok {
			things[kind] = append(things[kind], name)
		}
	}
	var failed error
	for _, kind := range []string{"group", "netns", "cgroup", "folder"} {
		for _, name := range slices.Backward(things[kind]) {
			if err := remove[kind](name); err != nil {
				failed = errors.Join(failed, fmt.Errorf("remove %s %s: %w", kind, name, err))
			}
		}
	}
	return failed
}

var remove = map[string]func(name string) error{
	"group": killGroup, "netns": removeNetns, "cgroup": removeCgroup, "folder": os.RemoveAll,
}

// killGroup ends a process that the run started, and what that one started. name
// is its number and its start time: the kernel uses numbers again. A group keeps
// its number as long as it has a member, so another start time under
// that number means that the group is empty.
func killGroup(name string) error {
	var pid int
	var start string
	if _, err := fmt.Sscan(name, &pid, &start); err != nil {
		return err
	}
	if now := startTime(pid); now != "" && now != start {
		return nil
	}
	for range 500 {
		if err := syscall.Kill(-pid, syscall.SIGKILL); errors.Is(err, syscall.ESRCH) {
			return nil
		}
		time.Sleep(10 * time.Millisecond)
	}
	return errors.New("it does not end although it was killed")
}

// startTime is when a process was started; empty if there is none.
func startTime(pid int) string {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	// The name in parentheses may hold anything, parentheses too.
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	if len(fields) < 20 {
		return ""
	}
	return fields[19]
}
