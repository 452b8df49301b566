//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// limits of a cgroup; zero is none.
type limits struct {
	cpu    float64 // processors
	memory int64   // bytes
}

// defaults are the limits that the operator gives to a pod of a PluginServer.
var defaults = limits{cpu: 0.5, memory: 256 << 20}

// cgroup is one of this run, of version 1 or 2, whichever the machine has.
type cgroup struct {
	dirs map[string]string // by controller; of version 2 all are the same
	two  bool
}

// hierarchies finds where the controllers are mounted.
func hierarchies() (dirs map[string]string, two bool) {
	content, _ := os.ReadFile("/proc/self/mountinfo")
	dirs = map[string]string{}
	var unified string
	for line := range strings.Lines(string(content)) {
		before, after, _ := strings.Cut(line, " - ")
		fields, more := strings.Fields(before), strings.Fields(after)
		if len(fields) < 5 || len(more) < 3 {
			continue
		}
		switch more[0] {
		case "cgroup2":
			unified = fields[4]
		case "cgroup":
			for option := range strings.SplitSeq(more[2], ",") {
				if option == "cpu" || option == "cpuacct" || option == "memory" {
					dirs[option] = fields[4]
				}
			}
		}
	}
	if len(dirs) == 3 {
		return dirs, false
	}
	return map[string]string{"cpu": unified, "cpuacct": unified, "memory": unified}, true
}

// newCgroup makes a cgroup with limits.
func (b *bench) newCgroup(name string, l limits) (*cgroup, error) {
	mounted, two := hierarchies()
	g := &cgroup{dirs: map[string]string{}, two: two}
	parent := fmt.Sprintf("plugin-server-bench-%d", os.Getpid())
	if err := b.guard.knows("cgroup", parent); err != nil {
		return nil, err
	}
	for controller, root := range mounted {
		if root == "" {
			return nil, errors.New("no cgroups are mounted")
		}
		dir := filepath.Join(root, parent, name)
		if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
			return nil, err
		}
		if two {
			for _, above := range []string{root, filepath.Dir(dir)} {
				_ = os.WriteFile(filepath.Join(above, "cgroup.subtree_control"), []byte("+cpu +memory"), 0o644) // else the limits fail below
			}
		}
		if err := os.Mkdir(dir, 0o755); err != nil && !os.IsExist(err) {
			return nil, err
		}
		g.dirs[controller] = dir
	}
	return g, g.limit(l)
}

func (g *cgroup) limit(l limits) error {
	const period = 100_000
	quota := int(l.cpu * period)
	set := func(controller, name, value string) error {
		return os.WriteFile(filepath.Join(g.dirs[controller], name), []byte(value), 0o644)
	}
	var failed error
	if l.cpu > 0 && g.two {
		failed = set("cpu", "cpu.max", fmt.Sprintf("%d %d", quota, period))
	} else if l.cpu > 0 {
		failed = errors.Join(set("cpu", "cpu.cfs_period_us", strconv.Itoa(period)), set("cpu", "cpu.cfs_quota_us", strconv.Itoa(quota)))
	}
	if l.memory > 0 {
		name := "memory.limit_in_bytes"
		if g.two {
			name = "memory.max"
		}
		failed = errors.Join(failed, set("memory", name, strconv.FormatInt(l.memory, 10)))
	}
	return failed
}

// folders are where a process has to enter.
func (g *cgroup) folders() (all []string) {
	if g.two {
		return []string{g.dirs["cpu"]}
	}
	for _, dir := range g.dirs {
		all = append(all, dir)
	}
	return all
}

// value reads a number; with a key, that of its line. It is 0 where it is unknown.
func (g *cgroup) value(controller, file, key string) int64 {
	content, _ := os.ReadFile(filepath.Join(g.dirs[controller], file))
	text := strings.TrimSpace(string(content))
	if key != "" {
		_, text, _ = strings.Cut("\n"+text, "\n"+key+" ")
		text, _, _ = strings.Cut(text, "\n")
	}
	n, _ := strconv.ParseInt(text, 10, 64)
	return n
}

// cpu is the time of processors that was used until now.
func (g *cgroup) cpu() time.Duration {
	if g.two {
		return time.Duration(g.value("cpu", "cpu.stat", "usage_usec")) * time.Microsecond
	}
	return time.Duration(g.value("cpuacct", "cpuacct.usage", ""))
}

// memory is the most that was used, in bytes, pages of files included, and how
// many processes were killed for want of it.
func (g *cgroup) memory() (most, killed int64) {
	if g.two {
		return g.value("memory", "memory.peak", ""), g.value("memory", "memory.events", "oom_kill")
	}
	return g.value("memory", "memory.max_usage_in_bytes", ""), g.value("memory", "memory.oom_control", "oom_kill")
}

// removeCgroup removes a cgroup and those below it, once they are empty: the
// kernel takes a moment to let go of one whose last process was killed.
func removeCgroup(name string) error {
	mounted, _ := hierarchies()
	var last error
	for range 200 {
		last = nil
		for _, root := range mounted {
			below, _ := filepath.Glob(filepath.Join(root, name, "*", "cgroup.procs"))
			for _, file := range below {
				_ = syscall.Rmdir(filepath.Dir(file)) // else the one above fails
			}
			if err := syscall.Rmdir(filepath.Join(root, name)); err != nil && !errors.Is(err, syscall.ENOENT) {
				last = err
			}
		}
		if last == nil {
			return nil
		}
		time.Sleep(20 * time.Millisecond)
	}
	return last
}
