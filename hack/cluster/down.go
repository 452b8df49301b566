//go:build linux

package main

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

func (c *cluster) downLocked() error {
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if err := c.down(); err != nil {
		return err
	}
	return os.Remove(c.State + ".lock")
}

// down removes everything that belongs to the cluster. It can be called at any
// moment of a cluster's life, also again after it failed half-way.
func (c *cluster) down() error {
	if err := c.stopProcesses(); err != nil {
		return err
	}
	for _, n := range c.nodes() {
		c.removeSockets(n)
	}
	if err := unmountBelow(c.State); err != nil {
		return err
	}
	for _, file := range c.foreignFiles() {
		if err := os.Remove(file); err != nil && !os.IsNotExist(err) {
			return err
		}
	}
	for _, n := range c.nodes() {
		if exists(netnsPath(n.Netns)) {
			if err := ip("netns", "del", n.Netns); err != nil {
				return err
			}
		}
	}
	if err := removeCgroup(c.netns()); err != nil {
		return err
	}
	if err := os.RemoveAll(c.State); err != nil {
		return fmt.Errorf("remove the state of cluster %s: %w", c.Name, err)
	}
	return c.restoreSettings()
}

// stopProcesses ends what was started for the cluster, and then what is left in
// its network: "exec" started it, it has no network any more, and would keep
// the namespace.
func (c *cluster) stopProcesses() error {
	if err := c.killUnits(c.units()); err != nil {
		return err
	}
	for _, n := range c.nodes() {
		for range 50 {
			strays := allProcesses(inNetns(netnsPath(n.Netns)))
			if len(strays) == 0 {
				break
			}
			if err := kill(strays); err != nil {
				return err
			}
		}
	}
	return nil
}

// killUnits ends the processes of units: the kubelets first, or they would start
// again the pods that end next; then the rest.
func (c *cluster) killUnits(units []string) error {
	recorded := slices.DeleteFunc(c.recorded(), func(p process) bool { return !slices.Contains(units, p.unit()) })
	isKubelet := func(p process) bool { return strings.HasPrefix(p.Name, "kubelet@") }
	if err := kill(slices.DeleteFunc(slices.Clone(recorded), func(p process) bool { return !isKubelet(p) })); err != nil {
		return err
	}
	for _, n := range c.nodes() {
		if !slices.Contains(units, n.Name) {
			continue
		}
		// The shims and the pods are nobody's children any more. Killing may race
		// with a container that just starts, so look until there is none.
		for range 50 {
			pods := append(allProcesses(isShimOf(c.path(n.Name))), cgroupProcesses(c.cgroup(n))...)
			if len(pods) == 0 {
				break
			}
			if err := kill(pods); err != nil {
				return err
			}
		}
	}
	return kill(recorded)
}

// isShimOf matches the shims of a containerd whose folder is below dir, by the
// address that they report to.
func isShimOf(dir string) func(pid int) bool {
	return func(pid int) bool {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil {
			return false
		}
		args := strings.Split(string(content), "\x00")
		if !strings.HasPrefix(filepath.Base(args[0]), "containerd-shim") {
			return false
		}
		return slices.ContainsFunc(args[1:], func(arg string) bool { return strings.HasPrefix(arg, dir+"/") })
	}
}

// removeSockets removes the sockets of a node's shims, which containerd keeps in
// a folder of the machine whatever its own folders are.
func (c *cluster) removeSockets(n node) {
	files, _ := filepath.Glob(c.path(n.Name, "containerd/state/io.containerd.runtime.v2.task/*/*/address"))
	for _, file := range files {
		content, err := os.ReadFile(file)
		socket := strings.TrimPrefix(string(content), "unix://")
		if err == nil && strings.HasPrefix(socket, "/run/containerd/s/") {
			_ = os.Remove(socket)
		}
	}
}

// mountsBelow lists the mounts below a folder, the latest first.
func mountsBelow(dir string) ([]string, error) {
	all, err := mounts()
	if err != nil {
		return nil, err
	}
	var below []string
	for _, m := range all {
		if strings.HasPrefix(m.point, dir+"/") {
			below = append(below, m.point)
		}
	}
	slices.Reverse(below)
	return below, nil
}

// unmountBelow unmounts what kubelet and containerd left below a folder. While
// anything is mounted the state must not be deleted: the deletion would go through
// the mount and empty a folder of the machine.
func unmountBelow(dir string) error {
	below, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	var failures []error
	for _, point := range below {
		if err := syscall.Unmount(point, syscall.MNT_DETACH); err != nil && err != syscall.EINVAL {
			failures = append(failures, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	if below, err = mountsBelow(dir); err != nil {
		return err
	}
	if len(below) > 0 {
		return fmt.Errorf("still mounted: %s: %w", strings.Join(below, ", "), errors.Join(failures...))
	}
	return nil
}

// foreignFiles are files that kubelet and containerd write into folders of the
// machine although all their own folders are elsewhere: links to the pods'
// logs, the results of the network plugins, and the socket of the kubelet for
// device plugins, which is nobody's if nobody answers there.
func (c *cluster) foreignFiles() []string {
	var found []string
	links, _ := filepath.Glob("/var/log/containers/*.log")
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, c.State+"/") {
			found = append(found, link)
		}
	}
	results, _ := filepath.Glob("/var/lib/cni/results/*")
	for _, result := range results {
		content, err := os.ReadFile(result) // holds the path of the pod's network namespace
		if err == nil && bytes.Contains(content, []byte(c.State+"/")) {
			found = append(found, result)
		}
	}
	const socket = "/var/lib/kubelet/device-plugins/kubelet.sock"
	if conn, err := net.Dial("unix", socket); err == nil {
		_ = conn.Close()
	} else if errors.Is(err, syscall.ECONNREFUSED) {
		found = append(found, socket)
	}
	return found
}

// leftovers lists what is there of a cluster.
func (c *cluster) leftovers() []string {
	var found []string
	listed := map[int]bool{}
	add := func(kind string, processes []process) {
		for _, p := range processes {
			if !listed[p.PID] {
				listed[p.PID] = true
				found = append(found, fmt.Sprintf("process %d %s (%s)", p.PID, p.Name, kind))
			}
		}
	}
	add("recorded", slices.DeleteFunc(c.recorded(), func(p process) bool { return !p.alive() }))
	for _, n := range c.nodes() {
		add("in the network namespace", allProcesses(inNetns(netnsPath(n.Netns))))
	}
	add("in the cgroup", cgroupProcesses(c.netns()))
	add("works in the state folder", allProcesses(func(pid int) bool {
		for _, link := range []string{"cwd", "root"} {
			target, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, link))
			if err == nil && strings.HasPrefix(target+"/", c.State+"/") {
				return true
			}
		}
		return isShimOf(c.State)(pid)
	}))
	below, err := mountsBelow(c.State)
	if err != nil {
		found = append(found, "mounts: "+err.Error())
	}
	for _, point := range below {
		found = append(found, "mount "+point)
	}
	for _, n := range c.nodes() {
		if exists(netnsPath(n.Netns)) {
			found = append(found, "network namespace "+n.Netns)
		}
	}
	for _, dir := range cgroupDirs(c.netns()) {
		found = append(found, "cgroup "+dir)
	}
	for _, file := range append(c.foreignFiles(), c.State) {
		if exists(file) {
			found = append(found, "file "+file)
		}
	}
	return found
}
