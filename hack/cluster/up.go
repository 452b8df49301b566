//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"
)

// starter holds what is needed while a cluster starts.
type starter struct {
	c     *cluster
	parts *parts
	tools programs
	nodes []node
	api   *api
}

func (c *cluster) newStarter() (*starter, error) {
	p, err := newParts()
	if err != nil {
		return nil, err
	}
	tools, err := newPrograms(p)
	if err != nil {
		return nil, err
	}
	return &starter{c: c, parts: p, tools: tools, nodes: c.nodes()}, nil
}

func (s *starter) envtest(name string) string { return filepath.Join(s.parts.dir("envtest"), name) }
func (s *starter) node(name string) string    { return filepath.Join(s.parts.dir("node"), name) }

// up starts the cluster unless it is there and healthy. One that is there but
// not healthy, after a crash or a restart of the machine, starts anew.
func (c *cluster) up(ctx context.Context) error {
	if err := needRoot("up"); err != nil {
		return err
	}
	p, err := newParts()
	if err != nil {
		return err
	}
	if err := p.build(); err != nil {
		return err
	}
	unlock, err := c.lock()
	if err != nil {
		return err
	}
	defer unlock()
	if exists(c.path("exec")) {
		running := c.running()
		stopped := slices.DeleteFunc(c.units(), func(unit string) bool { return slices.Contains(running, unit) })
		if len(running) > 0 && len(stopped) > 0 {
			return fmt.Errorf("cluster %s is there, but %s was stopped: run \"go run ./hack/cluster start --name %s\"", c.Name, strings.Join(stopped, ", "), c.Name)
		}
	}
	if exists(c.State) || exists(c.netnsPath()) {
		sick := errors.New("it never came up completely")
		if exists(c.path("exec")) {
			sick = c.inside(ctx, "__check")
		}
		if sick == nil && len(c.nodes()) != c.Nodes {
			sick = fmt.Errorf("it has %d nodes, %d are wanted", len(c.nodes()), c.Nodes)
		}
		if sick == nil {
			fmt.Printf("cluster %s is up and healthy (%s)\n", c.Name, c.State)
			return nil
		}
		fmt.Fprintf(os.Stderr, "cluster %s is there but not healthy (%v): starting it anew\n", c.Name, sick)
		if err := c.down(); err != nil {
			return err
		}
	}
	begin := time.Now()
	if err := c.saveNodes(); err != nil {
		return err
	}
	if err := createNetwork(c.nodes()); err != nil {
		return fmt.Errorf("create the network of cluster %s: %w", c.Name, err)
	}
	if err := c.saveSettings(); err != nil {
		return err
	}
	if err := c.inside(ctx, "__up"); err != nil {
		return fmt.Errorf("cluster %s did not start (logs are in %s; remove it with \"go run ./hack/cluster down --name %s\"): %w", c.Name, c.path("log"), c.Name, err)
	}
	fmt.Printf("cluster %s is up after %.1f s\n  export KUBECONFIG=%s\n  enter its network with %s COMMAND\n",
		c.Name, time.Since(begin).Seconds(), c.path("kubeconfig"), c.path("exec"))
	return nil
}

// inside runs a verb of this program inside the cluster's network namespace,
// where the API server and CoreDNS can be reached. It dies with this process,
// so that nothing goes on starting daemons after this one was killed.
func (c *cluster) inside(ctx context.Context, verb string, args ...string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"--net=" + c.netnsPath(), "--", self, verb, "--name", c.Name, "--state-root", c.Root}, args...)...)
	var stderr strings.Builder
	cmd.Stdout, cmd.Stderr = os.Stdout, &stderr
	// The kernel ties this to the thread that starts the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return errors.New(strings.TrimPrefix(strings.TrimSpace(stderr.String()), "cluster: "))
	}
	return err
}

func verbUpInside(c *cluster, _ []string) error {
	s, err := c.newStarter()
	if err != nil {
		return err
	}
	if err := s.prepare(); err != nil {
		return err
	}
	if err := s.start(s.c.units()); err != nil {
		return err
	}
	return s.writeExec()
}

func verbCheckInside(c *cluster, _ []string) error {
	s, err := c.newStarter()
	if err != nil {
		return err
	}
	for _, p := range c.recorded() {
		if !p.alive() {
			return fmt.Errorf("%s is not running", p.Name)
		}
	}
	if s.api, err = c.newAPI(s.nodes[0]); err != nil {
		return err
	}
	return s.check()
}

// check says what the cluster lacks to be healthy. What was stopped does not count.
func (s *starter) check() error {
	running := s.c.running()
	for _, n := range s.nodes {
		if !slices.Contains(running, n.Name) {
			continue
		}
		if err := s.api.checkNode(n.Name); err != nil {
			return err
		}
	}
	if err := s.api.checkServiceAccount(); err != nil {
		return err
	}
	if slices.Contains(running, registryUnit) {
		if err := dial(registryAddress(s.nodes[0]))(); err != nil {
			return fmt.Errorf("registry: %w", err)
		}
	}
	return checkDNS(s.nodes[0].Address)
}

// prepare writes what lasts as long as the cluster.
func (s *starter) prepare() error {
	if err := s.c.writePKI(s.nodes); err != nil {
		return err
	}
	if err := s.c.write("nameserver "+s.nodes[0].Address+"\n", "resolv.conf"); err != nil {
		return err
	}
	return s.prepareRegistry()
}

// start starts units, in an order in which nobody has to wait for a retry of
// his own: that is what makes it fast.
func (s *starter) start(units []string) (err error) {
	if s.api, err = s.c.newAPI(s.nodes[0]); err != nil {
		return err
	}
	wanted := func(unit string) bool { return slices.Contains(units, unit) }
	nodes := slices.DeleteFunc(slices.Clone(s.nodes), func(n node) bool { return !wanted(n.Name) })
	var apiserver *daemon
	if wanted(controlPlane) {
		if apiserver, err = s.startStorage(); err != nil {
			return err
		}
	}
	// While the API server reads itself in, what does not need it can start.
	if wanted(registryUnit) {
		if err := s.startRegistry(); err != nil {
			return err
		}
	}
	for _, n := range nodes {
		if err := s.startRuntime(n); err != nil {
			return err
		}
	}
	if err := waitFor("kube-apiserver", apiserver, time.Minute, func() error { return s.api.get("/readyz", nil) }); err != nil {
		return err
	}
	for _, n := range nodes {
		if err := s.startKubelet(n); err != nil {
			return err
		}
	}
	if wanted(controlPlane) {
		if err := s.startControllers(); err != nil {
			return err
		}
	}
	return waitFor("the cluster", nil, time.Minute, s.check)
}

// waitFor repeats a check until it succeeds, the daemon (which may be nil) ends, or
// the time is over.
func waitFor(what string, d *daemon, limit time.Duration, check func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := check()
		if err == nil {
			return nil
		}
		if failure := d.failed(); failure != nil {
			return failure
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s is not ready after %s: %w", what, limit, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}

func dial(address string) func() error {
	return func() error {
		conn, err := net.DialTimeout("tcp", address, time.Second)
		if err == nil {
			_ = conn.Close()
		}
		return err
	}
}

// writeExec writes the script that enters the cluster's network. It is the
// last file of all: where it exists, the cluster was healthy once.
func (s *starter) writeExec() error {
	password, err := os.ReadFile(s.c.path("registry", "password"))
	if err != nil {
		return err
	}
	folders := []string{shellQuote(s.parts.dir("envtest")), `"$PATH"`}
	for _, folder := range s.tools.binFolders() {
		folders = append(folders, shellQuote(folder)) // last: for ctr, not to replace anything
	}
	first := s.nodes[0]
	script, err := render("exec.sh", map[string]string{
		"Name": s.c.Name, "State": s.c.State, "Path": strings.Join(folders, ":"),
		"Registry": registryAddress(first), "RegistryHost": registryHost + ":" + fmt.Sprint(registryPort),
		"User": registryUser, "Password": string(password),
		"Containerd": s.c.containerdSocket(first), "Netns": s.c.netnsPath(),
	})
	if err != nil {
		return err
	}
	temporary := s.c.path("exec.new")
	if err := os.WriteFile(temporary, []byte(script), 0o700); err != nil {
		return err
	}
	return os.Rename(temporary, s.c.path("exec"))
}
