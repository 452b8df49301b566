//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// process is a process that was started for a cluster. The number alone does
// not name it for long, since the kernel uses numbers again; number and start
// time together do.
type process struct {
	Name  string
	PID   int
	Start uint64 // in clock ticks since the machine started
}

// daemon is a process started by this run of the command.
type daemon struct {
	process
	log    string
	exited chan struct{}
}

// start starts a program of the cluster inside a network namespace, in a
// session of its own so that no terminal's signal reaches it, and records it.
func (c *cluster) start(netns, name string, env []string, argv ...string) (*daemon, error) {
	logFile := c.path("log", name+".log")
	if err := os.MkdirAll(filepath.Dir(logFile), 0o755); err != nil {
		return nil, err
	}
	log, err := os.OpenFile(logFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, err
	}
	defer log.Close()
	// nsenter replaces itself by the program, so the process stays the same.
	cmd := exec.Command("nsenter", append([]string{"--net=" + netnsPath(netns), "--"}, argv...)...)
	cmd.Env = env
	cmd.Dir = c.State
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	d := &daemon{process: process{Name: name, PID: cmd.Process.Pid}, log: logFile, exited: make(chan struct{})}
	d.Start, _, err = processState(d.PID)
	if err == nil {
		err = c.record(d.process)
	}
	if err != nil {
		_ = cmd.Process.Kill()
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		_ = cmd.Wait()
		close(d.exited)
	}()
	return d, nil
}

// failed returns an error with the end of the log if the daemon has ended.
func (d *daemon) failed() error {
	if d == nil {
		return nil
	}
	select {
	case <-d.exited:
		content, _ := os.ReadFile(d.log)
		return fmt.Errorf("%s ended; the end of %s:\n%s", d.Name, d.log, lastLines(string(content), 15))
	default:
		return nil
	}
}

// record appends to the list of the cluster's processes.
func (c *cluster) record(p process) error {
	f, err := os.OpenFile(c.path("processes"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(p.line())
	return err
}

// line is what the list says of a process.
func (p process) line() string { return fmt.Sprintf("%s %d %d %s\n", p.Name, p.PID, p.Start, bootID()) }

// bootID changes with every start of the machine, and start times count from
// there.
func bootID() string {
	content, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(content))
}

// recorded returns the processes that were started for the cluster.
func (c *cluster) recorded() []process {
	content, err := os.ReadFile(c.path("processes"))
	if err != nil {
		return nil
	}
	var all []process
	for line := range strings.Lines(string(content)) {
		var p process
		var boot string
		if _, err := fmt.Sscanf(line, "%s %d %d %s", &p.Name, &p.PID, &p.Start, &boot); err == nil && boot == bootID() {
			all = append(all, p)
		}
	}
	return all
}

// processState reads when a process was started, and whether it has ended and
// only waits for its parent to take notice.
func processState(pid int) (start uint64, ended bool, err error) {
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, true, err
	}
	return parseStat(content)
}

// parseStat reads a line of /proc/PID/stat. The second field is the program's
// name in parentheses, and may hold anything, parentheses too.
func parseStat(content []byte) (start uint64, ended bool, err error) {
	fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
	if len(fields) < 20 {
		return 0, true, errors.New("/proc/PID/stat has too few fields")
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return start, fields[0] == "Z" || fields[0] == "X", err
}

// alive reports whether the process still runs, and not another one that was
// given its number.
func (p process) alive() bool {
	start, ended, err := processState(p.PID)
	return err == nil && !ended && start == p.Start
}

// kill ends processes the hard way, which is right for everything here, as all
// that they could save is about to be deleted; and waits until they are gone.
func kill(processes []process) error {
	for _, p := range processes {
		if p.alive() {
			_ = syscall.Kill(p.PID, syscall.SIGKILL)
		}
	}
	deadline := time.Now().Add(15 * time.Second)
	for _, p := range processes {
		for p.alive() {
			if time.Now().After(deadline) {
				return fmt.Errorf("process %d (%s) does not end although it was killed: look for what it waits for in /proc/%d/stack", p.PID, p.Name, p.PID)
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	return nil
}

// allProcesses lists the machine's processes that match, except this one and
// those above it: a "down" may be called from a shell inside the cluster.
func allProcesses(match func(pid int) bool) []process {
	own := ancestors()
	entries, _ := os.ReadDir("/proc")
	var found []process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || own[pid] || !match(pid) {
			continue
		}
		if start, ended, err := processState(pid); err == nil && !ended {
			name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			found = append(found, process{strings.TrimSpace(string(name)), pid, start})
		}
	}
	return found
}

func ancestors() map[int]bool {
	own := map[int]bool{}
	for pid := os.Getpid(); pid > 0 && !own[pid]; {
		own[pid] = true
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		fields := strings.Fields(string(content[bytes.LastIndexByte(content, ')')+1:]))
		if len(fields) < 2 {
			break
		}
		pid, _ = strconv.Atoi(fields[1])
	}
	return own
}

// inNetns matches the processes inside a network namespace.
func inNetns(path string) func(pid int) bool {
	info, err := os.Stat(path)
	if err != nil {
		return func(int) bool { return false }
	}
	want := fmt.Sprintf("net:[%d]", info.Sys().(*syscall.Stat_t).Ino)
	host, _ := os.Readlink("/proc/1/ns/net")
	if want == host {
		return func(int) bool { return false } // a file that is no namespace of ours
	}
	return func(pid int) bool {
		link, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", pid))
		return err == nil && link == want
	}
}
