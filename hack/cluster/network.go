//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// createNetns makes the network namespace of a node. A pair of veth devices
// carries its address: both ends stay inside, so the machine's own network
// does not change. The default route leads nowhere, but kubelet and kube-proxy
// want one.
func createNetns(name, address string) error {
	peer := "node0p"
	steps := [][]string{
		{"netns", "add", name},
		{"-n", name, "link", "set", "lo", "up"},
		{"-n", name, "link", "add", "node0", "type", "veth", "peer", "name", peer},
		{"-n", name, "addr", "add", address + "/24", "dev", "node0"},
		{"-n", name, "link", "set", "node0", "up"},
		{"-n", name, "link", "set", peer, "up"},
		{"-n", name, "route", "add", "default", "via", gateway, "dev", "node0"},
	}
	for _, args := range steps {
		if err := ip(args...); err != nil {
			return fmt.Errorf("create the network namespace %s: %w", name, err)
		}
	}
	return nil
}

func ip(args ...string) error {
	output, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}

// setKernelSwitches sets what belongs to the network namespace in which this
// process runs. Without bridge-nf-call-iptables an answer from a pod to a pod
// of the same node would go past kube-proxy's rules, with the wrong sender.
func setKernelSwitches() error {
	const bridge = "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if !exists(bridge) {
		_ = exec.Command("modprobe", "br_netfilter").Run()
	}
	for _, file := range []string{"/proc/sys/net/ipv4/ip_forward", bridge} {
		if err := os.WriteFile(file, []byte("1"), 0o644); err != nil {
			return fmt.Errorf("switch on %s: %w (for net/bridge the kernel module br_netfilter is needed)", filepath.Base(file), err)
		}
	}
	return nil
}
