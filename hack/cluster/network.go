//go:build linux

package main

import (
	"fmt"
	"os/exec"
	"strings"
)

// createNetwork makes the network namespaces of the nodes. A pair of veth devices
// carries their addresses: one end a node, or, where there is no second
// node, both in the first one. So the machine's own network does not change.
func createNetwork(nodes []node) error {
	for _, n := range nodes {
		if err := ip("netns", "add", n.Netns); err != nil {
			return err
		}
		if err := ip("-n", n.Netns, "link", "set", "lo", "up"); err != nil {
			return err
		}
	}
	first := nodes[0].Netns
	pair := []string{"-n", first, "link", "add", "node0", "type", "veth", "peer", "name"}
	if len(nodes) > 1 {
		pair = append(pair, "node0", "netns", nodes[1].Netns)
	} else {
		pair = append(pair, "node0p")
	}
	if err := ip(pair...); err != nil {
		return err
	}
	if len(nodes) == 1 {
		if err := ip("-n", first, "link", "set", "node0p", "up"); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := ip("-n", n.Netns, "addr", "add", n.Address+"/24", "dev", "node0"); err != nil {
			return err
		}
		if err := connect(n, nodes); err != nil {
			return err
		}
	}
	return nil
}

// connect plugs a node in, and says where the other nodes' pods are. The default
// route leads nowhere, but kubelet and kube-proxy want one.
func connect(n node, nodes []node) error {
	if err := ip("-n", n.Netns, "link", "set", "node0", "up"); err != nil {
		return err
	}
	if err := ip("-n", n.Netns, "route", "replace", "default", "via", gateway, "dev", "node0"); err != nil {
		return err
	}
	for _, other := range nodes {
		if other.Name == n.Name {
			continue
		}
		if err := ip("-n", n.Netns, "route", "replace", other.PodCIDR, "via", other.Address, "dev", "node0"); err != nil {
			return err
		}
	}
	return setKernelSwitches(n)
}

// disconnect pulls a node's plug: from now on nobody hears of it.
func disconnect(n node) error { return ip("-n", n.Netns, "link", "set", "node0", "down") }

func ip(args ...string) error {
	output, err := exec.Command("ip", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return nil
}

// setKernelSwitches sets what belongs to a network namespace. Without
// bridge-nf-call-iptables an answer from a pod to a pod of the same node would go
// past kube-proxy's rules, with the wrong sender.
func setKernelSwitches(n node) error {
	const forward, bridge = "/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/bridge/bridge-nf-call-iptables"
	if !exists(bridge) {
		_ = exec.Command("modprobe", "br_netfilter").Run()
	}
	script := "echo 1 >" + forward + " && echo 1 >" + bridge
	if output, err := exec.Command("nsenter", "--net="+netnsPath(n.Netns), "--", "sh", "-c", script).CombinedOutput(); err != nil {
		return fmt.Errorf("switch on forwarding in %s: %w: %s (for net/bridge the kernel module br_netfilter is needed)", n.Netns, err, strings.TrimSpace(string(output)))
	}
	return nil
}
