//go:build linux

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// A run must leave nothing, even if it is killed in a way that it cannot
// notice. So a second process, the guardian, waits at the reading end of a
// pipe whose writing end only the runner holds. When the runner ends, in
// whatever way, the kernel closes the pipe, and the guardian tears the cluster
// down. There is no other way down, so this one is always tested.

// grace is how long a command may take to end after SIGINT or SIGTERM.
const grace = 10 * time.Second

func verbRun(c *cluster, args []string) error {
	args, err := command("run", args)
	if err != nil {
		return err
	}
	if currentContext() {
		return execCurrent(args)
	}
	if err := needRoot("run"); err != nil {
		return err
	}
	p, err := newParts()
	if err != nil {
		return err
	}
	if err := p.build(); err != nil { // takes long, and needs no guardian
		return err
	}
	followGoRun()
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	if err := c.downLocked(); err != nil {
		return fmt.Errorf("remove what is left of an earlier cluster %s: %w", c.Name, err)
	}
	pipe, guardian, err := c.startGuardian()
	if err != nil {
		return err
	}
	result := c.runCommand(args, signals, pipe)
	_ = pipe.Close()
	if err := guardian.Wait(); err != nil {
		return errors.Join(result, fmt.Errorf("the cluster %s was not removed completely: %w: run \"go run ./hack/cluster down --name %s\"", c.Name, err, c.Name))
	}
	return result
}

// followGoRun lets this process get SIGTERM when "go run" is killed: that
// program does not pass on what it cannot notice.
func followGoRun() {
	name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", os.Getppid()))
	if err == nil && strings.TrimSpace(string(name)) == "go" {
		_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0)
	}
}

func (c *cluster) startGuardian() (*os.File, *exec.Cmd, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, nil, err
	}
	reader, writer, err := os.Pipe() // both ends close when a program is executed
	if err != nil {
		return nil, nil, err
	}
	defer reader.Close()
	cmd := exec.Command(self, "__guardian", "--name", c.Name, "--state-root", c.Root)
	cmd.Stdin = reader
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		_ = writer.Close()
		return nil, nil, fmt.Errorf("start the guardian: %w", err)
	}
	return writer, cmd, nil
}

// runCommand brings the cluster up and runs the command in it, until the
// command ends or a signal comes.
func (c *cluster) runCommand(args []string, signals chan os.Signal, pipe io.Writer) error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	up := make(chan error, 1)
	go func() { up <- c.up(ctx) }()
	select {
	case err := <-up:
		if err != nil {
			return err
		}
	case s := <-signals:
		cancel() // what was started by then is the guardian's
		<-up     //nolint:errcheck // its end is all that counts
		return exitCode(128 + int(s.(syscall.Signal)))
	}
	cmd := exec.Command(c.path("exec"), args...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	if info, err := os.Stdin.Stat(); err == nil && info.Mode()&os.ModeCharDevice != 0 {
		cmd.Stdin = nil // a terminal stops a process group in the background that reads from it
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	done := make(chan error, 1)
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // see inside
		err := cmd.Start()
		started <- err
		if err == nil {
			done <- cmd.Wait()
		}
	}()
	if err := <-started; err != nil {
		return err
	}
	if start, _, err := processState(cmd.Process.Pid); err == nil {
		fmt.Fprintf(pipe, "%d %d\n", cmd.Process.Pid, start)
	}
	return waitForCommand(cmd, done, signals)
}

func waitForCommand(cmd *exec.Cmd, done chan error, signals chan os.Signal) error {
	var err error
	select {
	case err = <-done:
	case s := <-signals:
		_ = syscall.Kill(-cmd.Process.Pid, s.(syscall.Signal))
		select {
		case <-done: //nolint:errcheck // its end is all that counts
		case <-time.After(grace):
		}
		return exitCode(128 + int(s.(syscall.Signal)))
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return exitCode(128 + int(status.Signal()))
		}
		return exitCode(exit.ExitCode())
	}
	return err
}

// verbGuardian waits for the end of the runner and removes the cluster.
func verbGuardian(c *cluster, _ []string) error {
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	var groups []process
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		p := process{Name: "command"}
		if _, err := fmt.Sscanf(lines.Text(), "%d %d", &p.PID, &p.Start); err == nil {
			groups = append(groups, p)
		}
	}
	for _, p := range groups {
		// A group keeps its number as long as it has a member, and only then
		// is the leader's number not given away; so a leader that is someone
		// else now means that the group is empty.
		if start, _, err := processState(p.PID); err != nil || start == p.Start {
			_ = syscall.Kill(-p.PID, syscall.SIGKILL)
		}
	}
	return c.downLocked()
}
