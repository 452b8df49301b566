//go:build linux

// Command cluster builds, starts and removes a real Kubernetes cluster of one or
// two nodes on a bare Linux machine, for the acceptance tests and for the quick
// start. It needs root and Go, but no container engine and no registry; see
// README.md next to this file.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

const usage = `usage: go run ./hack/cluster VERB [--name NAME] [--state-root DIR] [--nodes 1|2] [ARGUMENTS]

  build [PART...]     build the parts into the cache (all, or: envtest node coredns helm pause debian)
  up                  start the cluster, or do nothing when it is up and healthy
  down                remove the cluster and everything that belongs to it
  stop [UNIT...]      stop units as a loss of power does (all, or: control-plane registry node-1 node-2)
  start [UNIT...]     start units that were stopped
  load IMAGE.tar...   import OCI or Docker archives as images of the nodes
  exec -- CMD...      run CMD inside the cluster's network, with KUBECONFIG and PATH set
  run  -- CMD...      fresh cluster, CMD as in exec, and down again in any case
  env                 print shell assignments: KUBEBUILDER_ASSETS, KUBECTL, HELM
  which PROGRAM       print where a program of the distribution is, such as nginx
  leftovers           list what is still there of the cluster; exit code 1 if anything is

A new cluster, of up or run, has as many nodes as --nodes says.

With USE_CURRENT_CONTEXT=true in the environment the verbs up, down and load do
nothing, and exec and run only run CMD with the kubeconfig that is in use.
`

// exitCode is an error that carries the exit code of a command that was run
// on behalf of the user, and that has already said what was wrong.
type exitCode int

func (e exitCode) Error() string { return fmt.Sprintf("exit code %d", int(e)) }

func main() {
	err := dispatch(os.Args[1:])
	var code exitCode
	switch {
	case err == nil:
	case errors.As(err, &code):
		os.Exit(int(code))
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "cluster:", err)
		os.Exit(1)
	}
}

// verbs maps each verb to what does it. Those that begin with two underscores
// are for the program itself, which starts itself again inside the cluster's
// network namespace and as the guardian of "run".
var verbs = map[string]func(c *cluster, args []string) error{
	"build":      verbBuild,
	"up":         verbUp,
	"down":       verbDown,
	"stop":       verbStop,
	"start":      verbStart,
	"load":       verbLoad,
	"exec":       verbExec,
	"run":        verbRun,
	"env":        verbEnv,
	"which":      verbWhich,
	"leftovers":  verbLeftovers,
	"__up":       verbUpInside,
	"__start":    verbStartInside,
	"__check":    verbCheckInside,
	"__guardian": verbGuardian,
}

func dispatch(args []string) error {
	if len(args) == 0 {
		fmt.Fprint(os.Stderr, usage)
		return exitCode(2)
	}
	verb, known := verbs[args[0]]
	if !known {
		fmt.Fprint(os.Stderr, usage)
		if args[0] == "help" || args[0] == "-h" || args[0] == "--help" {
			return nil
		}
		return fmt.Errorf("unknown verb %q", args[0])
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	flags.Usage = func() { fmt.Fprint(os.Stderr, usage) }
	name := flags.String("name", defaultName, "name of the cluster")
	root := flags.String("state-root", defaultStateRoot, "folder that holds the clusters' state")
	nodes := flags.Int("nodes", 1, "nodes of a new cluster, 1 or 2")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	c, err := newCluster(*name, *root)
	if err != nil {
		return err
	}
	if c.Nodes = *nodes; c.Nodes < 1 || c.Nodes > mostNodes {
		return fmt.Errorf("--nodes %d: a cluster has 1 or 2 nodes", c.Nodes)
	}
	return verb(c, flags.Args())
}

// currentContext reports whether the user wants the cluster of the kubeconfig
// in use instead of one of ours.
func currentContext() bool { return os.Getenv("USE_CURRENT_CONTEXT") == "true" }

// skipForCurrentContext tells the user that a verb does nothing, and why.
func skipForCurrentContext(verb string) bool {
	if currentContext() {
		fmt.Fprintf(os.Stderr, "%s: nothing to do, USE_CURRENT_CONTEXT=true\n", verb)
	}
	return currentContext()
}

func verbUp(c *cluster, _ []string) error {
	if skipForCurrentContext("up") {
		return nil
	}
	return c.up(context.Background())
}

func verbDown(c *cluster, _ []string) error {
	if skipForCurrentContext("down") {
		return nil
	}
	if err := needRoot("down"); err != nil {
		return err
	}
	return c.downLocked()
}

func verbLeftovers(c *cluster, _ []string) error {
	found := c.leftovers()
	for _, line := range found {
		fmt.Println(line)
	}
	if len(found) > 0 {
		return exitCode(1)
	}
	return nil
}

func verbEnv(_ *cluster, _ []string) error {
	p, err := newParts()
	if err != nil {
		return err
	}
	if _, err := os.Stat(p.dir("envtest")); err != nil {
		return fmt.Errorf("env: part envtest is not in the cache (%w): run \"go run ./hack/cluster build envtest\" first", err)
	}
	fmt.Printf("export KUBEBUILDER_ASSETS=%s\n", shellQuote(p.dir("envtest")))
	fmt.Printf("export KUBECTL=%s\n", shellQuote(filepath.Join(p.dir("envtest"), "kubectl")))
	fmt.Printf("export HELM=%s\n", shellQuote(filepath.Join(p.dir("envtest"), "helm")))
	return nil
}

// needRoot says early and plainly what would otherwise fail somewhere deep.
func needRoot(verb string) error {
	if os.Geteuid() != 0 {
		return fmt.Errorf("%s: a cluster needs root for network namespaces, mounts and cgroups: run it with sudo, or set USE_CURRENT_CONTEXT=true to use a cluster you have", verb)
	}
	for _, tool := range []string{"ip", "nsenter"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s: %s is not in PATH: install iproute2 and util-linux", verb, tool)
		}
	}
	return nil
}
