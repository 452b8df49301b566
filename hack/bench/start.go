//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// command is a program and where it runs.
type command struct {
	Argv   []string
	CPU    int      // the only processor that it gets
	Cgroup []string // folders of its cgroup, may be empty
	Netns  string   // name of a network namespace, may be empty
}

// process is a program of this run that was started.
type process struct {
	cmd    *exec.Cmd
	log    string // file with what it says
	ended  chan struct{}
	failed error // once ended
}

// start starts a program. What it says goes into the file log, unless out is
// given, which then takes what it writes to its standard output.
func (b *bench) start(c command, log string, in []byte, out *bytes.Buffer) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	encoded, err := json.Marshal(c)
	if err != nil {
		return nil, err
	}
	file, err := os.OpenFile(log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	gate, open, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer gate.Close()
	defer open.Close()
	p := &process{cmd: exec.Command(self, "__exec"), log: log, ended: make(chan struct{})}
	p.cmd.Env = append(os.Environ(), "BENCH_COMMAND="+string(encoded))
	p.cmd.ExtraFiles = []*os.File{gate}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Stdout, p.cmd.Stderr = file, file
	if in != nil {
		p.cmd.Stdin = bytes.NewReader(in)
	}
	if out != nil {
		p.cmd.Stdout = out
	}
	if err := p.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		p.failed = p.cmd.Wait()
		close(p.ended)
	}()
	pid := p.cmd.Process.Pid
	if err := b.guard.knows("group", fmt.Sprintf("%d %s", pid, startTime(pid))); err != nil {
		return nil, err
	}
	_, err = open.Write([]byte{1}) // the guard knows it: it may begin
	return p, err
}

// runExec becomes the command, once the guard knows of it.
func runExec() error {
	var c command
	if err := json.Unmarshal([]byte(os.Getenv("BENCH_COMMAND")), &c); err != nil {
		return err
	}
	if err := os.Unsetenv("BENCH_COMMAND"); err != nil {
		return err
	}
	gate := os.NewFile(3, "gate")
	if n, _ := gate.Read(make([]byte, 1)); n == 0 {
		return errors.New("the run has ended")
	}
	// A network namespace and the processors belong to a thread, and the one that
	// executes a program takes them along.
	runtime.LockOSThread()
	for _, dir := range c.Cgroup {
		if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(os.Getpid())), 0o644); err != nil {
			return err
		}
	}
	if c.Netns != "" {
		f, err := os.Open(filepath.Join("/run/netns", c.Netns))
		if err != nil {
			return err
		}
		if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("enter %s: %w", c.Netns, err)
		}
		unix.CloseOnExec(int(f.Fd()))
	}
	var only unix.CPUSet
	only.Set(c.CPU)
	if err := unix.SchedSetaffinity(0, &only); err != nil {
		return err
	}
	unix.CloseOnExec(3)
	return fmt.Errorf("execute %s: %w", c.Argv[0], syscall.Exec(c.Argv[0], c.Argv, os.Environ()))
}

// stop ends a process, gently where it lets itself be told.
func (p *process) stop() {
	_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		_ = syscall.Kill(-p.cmd.Process.Pid, syscall.SIGKILL)
		<-p.ended
	}
}

// says waits until a process has written a text into its log.
func (p *process) says(text string, within time.Duration) error {
	for deadline := time.Now().Add(within); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		content, err := os.ReadFile(p.log)
		if err != nil {
			return err
		}
		if bytes.Contains(content, []byte(text)) {
			return nil
		}
		select {
		case <-p.ended:
			return fmt.Errorf("it ended (%w) and said:\n%s", p.failed, content)
		default:
		}
	}
	return fmt.Errorf("within %s it did not say %s, see %s", within, text, p.log)
}

// peak is the most resident memory that a process and its children had at one
// time, each for itself, in bytes.
func (p *process) peak() (total int64) {
	pids := []int{p.cmd.Process.Pid}
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pids[0], pids[0]))
	for field := range strings.FieldsSeq(string(children)) {
		if pid, err := strconv.Atoi(field); err == nil {
			pids = append(pids, pid)
		}
	}
	for _, pid := range pids {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, rest, _ := strings.Cut(string(status), "VmHWM:")
		var kilobytes int64
		_, _ = fmt.Sscan(rest, &kilobytes)
		total += kilobytes << 10
	}
	return total
}

// processors gives one for the servers and one for the clients.
func processors() (server, client int, err error) {
	var allowed unix.CPUSet
	if err := unix.SchedGetaffinity(0, &allowed); err != nil {
		return 0, 0, err
	}
	var all []int
	for i := range 1024 {
		if allowed.IsSet(i) {
			all = append(all, i)
		}
	}
	if len(all) < 2 {
		return 0, 0, errors.New("two processors are needed, one for the servers and one for the clients")
	}
	return all[1], all[0], nil
}
