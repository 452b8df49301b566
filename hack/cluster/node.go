//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// mostNodes is how many the link between them has ends for.
const mostNodes = 2

// node is a machine of the cluster: a network namespace with a containerd, a
// kubelet and a kube-proxy of its own. Nothing below is shared with another
// node.
type node struct {
	Name    string
	Address string
	PodCIDR string
	Netns   string
}

// newNode describes the node with the given index, from 1.
func (c *cluster) newNode(index int) node {
	netns := c.netns()
	if index > 1 {
		netns = fmt.Sprintf("%s.%d", netns, index) // a cluster's name has no dot
	}
	return node{
		Name: fmt.Sprintf("node-%d", index), Netns: netns,
		Address: fmt.Sprintf("10.77.0.%d", 1+index), PodCIDR: fmt.Sprintf("10.201.%d.0/24", index),
	}
}

// nodes are the nodes of the cluster; the first one carries the control plane.
func (c *cluster) nodes() []node {
	count := c.Nodes
	if content, err := os.ReadFile(c.nodesFile()); err == nil {
		count = len(strings.Fields(string(content)))
	}
	var all []node
	for i := range count {
		all = append(all, c.newNode(i+1))
	}
	return all
}

// nodesFile holds the names of the nodes. It is written before anything else is
// made, so that down knows what to remove.
func (c *cluster) nodesFile() string { return c.path("nodes") }

func (c *cluster) saveNodes() error {
	var names []string
	for _, n := range c.nodes() {
		names = append(names, n.Name)
	}
	return c.write(strings.Join(names, "\n")+"\n", "nodes")
}

// cgroup is below a cgroup of the cluster's own, which down removes as a whole.
func (c *cluster) cgroup(n node) string { return c.netns() + "/" + n.Name }

// nodeData is what the templates of a node need.
type nodeData struct {
	State, Dir, Cgroup, DNS, PodNetwork string
	PauseImage, Snapshotter, Runc, CNI  string
	Network                             string
	Node                                node
}

func (c *cluster) nodeData(n node, tools programs) (nodeData, error) {
	runc, err := tools.find("runc")
	if err != nil {
		return nodeData{}, err
	}
	return nodeData{
		State: c.State, Dir: c.path(n.Name), Cgroup: c.cgroup(n), DNS: c.nodes()[0].Address, PodNetwork: podNetwork,
		PauseImage: pauseImage, Snapshotter: snapshotter(c.Root), Runc: runc, CNI: tools.cni,
		Network: c.netns() + "." + n.Name, Node: n,
	}, nil
}

// snapshotter chooses how containerd stacks layers: an overlay does not work
// on top of an overlay, which is what a folder inside a container is.
func snapshotter(dir string) string {
	const overlay = 0x794c7630
	var fs syscall.Statfs_t
	if err := syscall.Statfs(dir, &fs); err == nil && fs.Type == overlay {
		return "native"
	}
	return "overlayfs"
}

// startRuntime starts a node's containerd and loads the pause image. It does
// not need the control plane.
func (s *starter) startRuntime(n node) error {
	data, err := s.c.nodeData(n, s.tools)
	if err != nil {
		return err
	}
	for template, file := range map[string]string{
		"containerd.toml": "containerd.toml", "cni.conflist": "cni/10-pso.conflist",
		"kubelet.yaml": "kubelet.yaml", "kube-proxy.yaml": "kube-proxy.yaml",
	} {
		if err := s.c.writeRendered(template, data, n.Name, file); err != nil {
			return err
		}
	}
	containerd, err := s.tools.find("containerd")
	if err != nil {
		return err
	}
	d, err := s.c.start(n.Netns, "containerd@"+n.Name, s.tools.env(), containerd,
		"--config", s.c.path(n.Name, "containerd.toml"), "--log-level", "warn")
	if err != nil {
		return err
	}
	if err := waitFor("containerd of "+n.Name, d, 20*time.Second, func() error {
		_, err := s.c.ctr(s.tools, n, "version")
		return err
	}); err != nil {
		return err
	}
	archive := s.c.path("pause.tar")
	if err := writePauseArchive(archive, filepath.Join(s.parts.dir("pause"), "pause"), pauseImage); err != nil {
		return fmt.Errorf("write the pause image: %w", err)
	}
	_, err = s.c.importImage(s.tools, n, archive)
	return err
}

// startKubelet makes a node of the machine: from here on it takes pods.
func (s *starter) startKubelet(n node) error {
	if err := createCgroup(s.c.cgroup(n)); err != nil {
		return err
	}
	_, err := s.c.start(n.Netns, "kubelet@"+n.Name, s.tools.env(), s.node("kubelet"),
		"--config="+s.c.path(n.Name, "kubelet.yaml"),
		"--kubeconfig="+s.c.path("pki", n.Name+".kubeconfig"),
		"--root-dir="+s.c.path(n.Name, "kubelet"),
		"--cert-dir="+s.c.path(n.Name, "kubelet", "pki"),
		"--hostname-override="+n.Name,
		"--node-ip="+n.Address,
	)
	if err != nil {
		return err
	}
	_, err = s.c.start(n.Netns, "kube-proxy@"+n.Name, s.tools.env(), s.node("kube-proxy"),
		"--config="+s.c.path(n.Name, "kube-proxy.yaml"))
	return err
}

func (c *cluster) containerdSocket(n node) string { return c.path(n.Name, "containerd.sock") }

// ctr calls containerd's own client, in the namespace of Kubernetes.
func (c *cluster) ctr(tools programs, n node, args ...string) (string, error) {
	program, err := tools.find("ctr")
	if err != nil {
		return "", err
	}
	cmd := exec.Command(program, append([]string{"--address", c.containerdSocket(n), "--namespace", "k8s.io"}, args...)...)
	cmd.Env = tools.env()
	output, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("ctr %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(output)))
	}
	return string(output), nil
}

// importImage loads an archive into a node's containerd and returns the
// references that it holds.
func (c *cluster) importImage(tools programs, n node, archive string) ([]string, error) {
	output, err := c.ctr(tools, n, "images", "import", "--snapshotter", snapshotter(c.Root), archive)
	if err != nil {
		return nil, fmt.Errorf("import %s: %w", archive, err)
	}
	var references []string
	for line := range strings.Lines(output) {
		if fields := strings.Fields(line); len(fields) >= 2 && fields[0] == "unpacking" {
			references = append(references, fields[1])
		}
	}
	return references, c.waitForImages(tools, n, references)
}

// waitForImages waits until the kubelet's side of containerd has noticed the
// images, which it then marks: a pod that is created earlier would be told to
// pull them, and waits 10 s before it looks again.
func (c *cluster) waitForImages(tools programs, n node, references []string) error {
	var seen string
	for range 100 {
		var err error
		if seen, err = c.ctr(tools, n, "images", "list", "--quiet", `labels."io.cri-containerd.image"==managed`); err != nil {
			return err
		}
		known := strings.Fields(seen)
		if !slices.ContainsFunc(references, func(r string) bool { return !slices.Contains(known, r) }) {
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("containerd does not offer all of %s to the kubelet, only %s", strings.Join(references, " "), strings.TrimSpace(seen))
}

func verbLoad(c *cluster, args []string) error {
	if skipForCurrentContext("load") {
		return nil
	}
	if err := needRoot("load"); err != nil {
		return err
	}
	if len(args) == 0 {
		return errors.New("load: name at least one archive: load IMAGE.tar")
	}
	if !exists(c.containerdSocket(c.nodes()[0])) {
		return fmt.Errorf("load: the cluster %s is not up: run \"go run ./hack/cluster up --name %s\" first", c.Name, c.Name)
	}
	p, err := newParts()
	if err != nil {
		return err
	}
	tools, err := newPrograms(p)
	if err != nil {
		return err
	}
	for _, archive := range args {
		if _, err := os.Stat(archive); err != nil {
			return fmt.Errorf("load: %w", err)
		}
		for i, n := range c.nodes() {
			references, err := c.importImage(tools, n, archive)
			if err != nil {
				return err
			}
			if len(references) == 0 {
				return fmt.Errorf("load: %s holds no image with a name: set the annotation org.opencontainers.image.ref.name or io.containerd.image.name in its index.json to the full reference", archive)
			}
			if i == 0 {
				fmt.Println(strings.Join(references, "\n"))
			}
		}
	}
	return nil
}
