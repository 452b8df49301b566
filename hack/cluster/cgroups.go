//go:build linux

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// mount is one line of /proc/self/mountinfo.
type mount struct{ root, point, kind string }

func mounts() ([]mount, error) {
	content, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	return parseMounts(string(content)), nil
}

func parseMounts(content string) []mount {
	var all []mount
	for line := range strings.Lines(content) {
		before, after, found := strings.Cut(line, " - ")
		fields, kind := strings.Fields(before), strings.Fields(after)
		if found && len(fields) >= 5 && len(kind) > 0 {
			all = append(all, mount{unescapeMount(fields[3]), unescapeMount(fields[4]), kind[0]})
		}
	}
	return all
}

// unescapeMount undoes the kernel's \040 for a space and the like.
func unescapeMount(s string) string {
	var out strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if code, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				out.WriteByte(byte(code))
				i += 3
				continue
			}
		}
		out.WriteByte(s[i])
	}
	return out.String()
}

// cgroupMounts are the mounted hierarchies: one for each controller in version
// 1, a single one in version 2.
func cgroupMounts() []mount {
	all, _ := mounts()
	return slices.DeleteFunc(all, func(m mount) bool { return m.kind != "cgroup" && m.kind != "cgroup2" })
}

// createCgroup makes the cgroup of a node in every hierarchy: the kubelet
// demands that its root exists.
func createCgroup(name string) error {
	hierarchies := cgroupMounts()
	if len(hierarchies) == 0 {
		return fmt.Errorf("no cgroups are mounted: mount them at /sys/fs/cgroup")
	}
	for _, m := range hierarchies {
		dir := m.point
		for element := range strings.SplitSeq(name, "/") {
			parent := dir
			dir = filepath.Join(dir, element)
			if m.kind == "cgroup2" {
				enableControllers(parent)
			}
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("create the cgroup %s: %w", dir, err)
			}
			if err := copyCpuset(parent, dir); err != nil {
				return err
			}
		}
		if m.kind == "cgroup2" {
			enableControllers(dir)
		}
	}
	return nil
}

// enableControllers passes the controllers of version 2 on to the children of
// a cgroup; one by one, for a single one that is missing fails all.
func enableControllers(dir string) {
	content, _ := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
	for name := range strings.FieldsSeq(string(content)) {
		_ = os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+name), 0o644)
	}
}

// copyCpuset passes on the processors of version 1: a new cpuset has none, and
// no process can enter it.
func copyCpuset(parent, dir string) error {
	for _, name := range []string{"cpuset.cpus", "cpuset.mems"} {
		content, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || len(strings.TrimSpace(string(content))) > 0 {
			continue // not a cpuset, or already set
		}
		if content, err = os.ReadFile(filepath.Join(parent, name)); err != nil || len(strings.TrimSpace(string(content))) == 0 {
			continue // version 2 inherits
		}
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			return fmt.Errorf("set %s of %s: %w", name, dir, err)
		}
	}
	return nil
}

// cgroupDirs lists the folders of a cgroup in all hierarchies, inner ones
// first.
func cgroupDirs(name string) []string {
	var dirs []string
	for _, m := range cgroupMounts() {
		var found []string
		_ = filepath.WalkDir(filepath.Join(m.point, name), func(path string, entry os.DirEntry, err error) error {
			if err == nil && entry.IsDir() {
				found = append(found, path)
			}
			return nil
		})
		slices.Reverse(found)
		dirs = append(dirs, found...)
	}
	return dirs
}

// cgroupProcesses lists the processes in a cgroup and below it.
func cgroupProcesses(name string) []process {
	ids := map[int]bool{}
	for _, dir := range cgroupDirs(name) {
		content, _ := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		for field := range strings.FieldsSeq(string(content)) {
			if pid, err := strconv.Atoi(field); err == nil {
				ids[pid] = true
			}
		}
	}
	if len(ids) == 0 {
		return nil
	}
	return allProcesses(func(pid int) bool { return ids[pid] })
}

// removeCgroup removes an empty cgroup. The kernel takes a moment to let go of
// one whose last process was just killed.
func removeCgroup(name string) error {
	var last error
	for range 100 {
		dirs := cgroupDirs(name)
		if len(dirs) == 0 {
			return nil
		}
		for _, dir := range dirs {
			if err := syscall.Rmdir(dir); err != nil && err != syscall.ENOENT {
				last = fmt.Errorf("remove the cgroup %s: %w", dir, err)
			}
		}
		time.Sleep(20 * time.Millisecond)
	}
	if len(cgroupDirs(name)) == 0 {
		return nil
	}
	return last
}
