//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
)

const (
	defaultName      = "quickstart"
	defaultStateRoot = "/var/lib/plugin-server-operator"

	// Every cluster has network namespaces of its own, so all use the same
	// addresses.
	nodeNetwork  = "10.77.0.0/24"
	gateway      = "10.77.0.1"
	podNetwork   = "10.201.0.0/16"
	serviceCIDR  = "10.96.0.0/16"
	serviceIP    = "10.96.0.1"
	apiPort      = 6443
	registryPort = 5000
	registryHost = "registry.pso.test"
	registryUser = "plugins"
	pauseImage   = "cluster.pso.test/pause:1"

	// A UNIX socket's address has room for 107 bytes, and the longest one
	// below a state folder takes up about 50.
	longestState = 57
)

// cluster is one test cluster: a name, and a folder with all of its state.
type cluster struct {
	Name  string
	Root  string // folder that holds all clusters' state
	State string // this cluster's folder below Root
	Nodes int    // how many a new cluster gets; one that is there has what it has
}

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,22}[a-z0-9])?$`)

func newCluster(name, root string) (*cluster, error) {
	if !validName.MatchString(name) {
		return nil, fmt.Errorf("--name %q: a cluster's name has 1 to 24 lower-case letters, digits and inner dashes", name)
	}
	root, err := filepath.Abs(root)
	if err != nil {
		return nil, fmt.Errorf("--state-root %q: %w", root, err)
	}
	if !regexp.MustCompile(`^/[A-Za-z0-9._/-]+$`).MatchString(root) {
		return nil, fmt.Errorf("--state-root %q: only letters, digits and the signs . _ - / are possible, as the path is written into many configuration files", root)
	}
	c := &cluster{Name: name, Root: root, State: filepath.Join(root, name), Nodes: 1}
	if len(c.State) > longestState {
		return nil, fmt.Errorf("state folder %s has %d bytes, at most %d are possible because of the limit of UNIX socket addresses: choose a shorter --state-root or --name", c.State, len(c.State), longestState)
	}
	return c, nil
}

// path joins a path below the state folder.
func (c *cluster) path(elements ...string) string {
	return filepath.Join(append([]string{c.State}, elements...)...)
}

// netns is the name of the first node's network namespace, and of the cluster's
// cgroup.
func (c *cluster) netns() string { return "pso-" + c.Name }

func (c *cluster) netnsPath() string { return netnsPath(c.netns()) }

func netnsPath(name string) string { return filepath.Join("/run/netns", name) }

// write creates a file below the state folder, readable by root alone, for
// many of them hold keys.
func (c *cluster) write(content string, elements ...string) error {
	file := c.path(elements...)
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return err
	}
	return os.WriteFile(file, []byte(content), 0o600)
}

// lock makes up, down and run of one cluster wait for each other. The kernel
// drops the lock when the process ends, however it ends.
func (c *cluster) lock() (unlock func(), err error) {
	if err := os.MkdirAll(c.Root, 0o755); err != nil {
		return nil, fmt.Errorf("create the folder of the clusters' state: %w (choose another one with --state-root)", err)
	}
	return lockFile(c.State + ".lock")
}

// lockFile takes an exclusive lock. The holder may delete the file, so whoever
// waited for it checks that it is still the one that others find.
func lockFile(name string) (unlock func(), err error) {
	for {
		f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o644)
		if err != nil {
			return nil, fmt.Errorf("open the lock: %w", err)
		}
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", name, err)
		}
		held, err1 := f.Stat()
		found, err2 := os.Stat(name)
		if err == nil && err1 == nil && err2 == nil && os.SameFile(held, found) {
			return func() { _ = f.Close() }, nil
		}
		_ = f.Close()
	}
}

// shellQuote makes a string one word of a POSIX shell.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
