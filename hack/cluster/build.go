//go:build linux

package main

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"time"
)

// part is something that is built once and kept in the cache.
type part struct {
	name    string
	version string
	inputs  []string // files below hack/cluster whose content decides whether to build anew
	salt    string   // what else decides
	build   func(p *parts, dir string) error
}

// parts knows where the parts are.
type parts struct {
	source string // the checkout's hack/cluster
	cache  string
	dirs   map[string]string
	all    []part // in the order in which they are built
}

// newParts finds the sources and computes the folder of each part. It builds
// nothing.
func newParts() (*parts, error) {
	source, err := findSource()
	if err != nil {
		return nil, err
	}
	cache, err := cacheFolder()
	if err != nil {
		return nil, err
	}
	p := &parts{source: source, cache: cache, dirs: map[string]string{}}
	if p.all, err = p.list(); err != nil {
		return nil, err
	}
	for _, part := range p.all {
		key, err := p.key(part)
		if err != nil {
			return nil, err
		}
		p.dirs[part.name] = filepath.Join(p.cache, part.name+"-"+part.version+"-"+key)
	}
	return p, nil
}

// cacheFolder is where built parts are kept.
func cacheFolder() (string, error) {
	base := os.Getenv("XDG_CACHE_HOME")
	if base == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("find the cache folder: %w: set XDG_CACHE_HOME", err)
		}
		base = filepath.Join(home, ".cache")
	}
	return filepath.Join(base, "plugin-server-operator"), nil
}

// list describes the parts. What envtest and the chart tests need comes first.
func (p *parts) list() ([]part, error) {
	k8s, err := p.requiredVersion("k8s.io/kubernetes")
	if err != nil {
		return nil, err
	}
	helm, err := p.requiredVersion("helm.sh/helm/v4")
	if err != nil {
		return nil, err
	}
	inputs := []string{"programs/go.mod", "programs/go.sum", "programs/tools.go", "programs/coredns/main.go", "programs/etcd/main.go"}
	flags := kubernetesFlags(k8s) + " -X helm.sh/helm/v4/internal/version.version=" + helm
	packages, err := debianSalt()
	if err != nil {
		return nil, err
	}
	return []part{
		{"envtest", k8s, inputs, flags, goPrograms("programs", flags, "6 min",
			"k8s.io/kubernetes/cmd/kube-apiserver", "./etcd", "k8s.io/kubernetes/cmd/kubectl", "helm.sh/helm/v4/cmd/helm")},
		{"node", k8s, inputs, flags, goPrograms("programs", flags, "3 min",
			"k8s.io/kubernetes/cmd/kubelet", "k8s.io/kubernetes/cmd/kube-controller-manager",
			"k8s.io/kubernetes/cmd/kube-scheduler", "k8s.io/kubernetes/cmd/kube-proxy", "./coredns")},
		{"pause", "1", []string{"pause/main.go"}, "", goPrograms(".", "", "5 s", "./pause")},
		{"debian", "1", nil, packages, buildDebian},
	}, nil
}

// kubernetesFlags are the version that the programs report; without them they
// claim to be v0.0.0 and clients refuse to work with them.
func kubernetesFlags(version string) string {
	const pkg = " -X k8s.io/component-base/version."
	major, minor := "1", ""
	if fields := strings.Split(strings.TrimPrefix(version, "v"), "."); len(fields) == 3 {
		major, minor = fields[0], fields[1]
	}
	return pkg + "gitVersion=" + version + pkg + "gitMajor=" + major + pkg + "gitMinor=" + minor + pkg + "gitTreeState=clean"
}

func (p *parts) dir(name string) string { return p.dirs[name] }

// key is a hash of everything that a part is made from.
func (p *parts) key(part part) (string, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s %s\n", runtime.Version(), runtime.GOARCH, part.salt)
	for _, name := range part.inputs {
		content, err := os.ReadFile(filepath.Join(p.source, name))
		if err != nil {
			return "", fmt.Errorf("part %s: %w", part.name, err)
		}
		fmt.Fprintf(hash, "%s %d\n%s", name, len(content), content)
	}
	return fmt.Sprintf("%x", hash.Sum(nil))[:12], nil
}

// requiredVersion reads the version of a module from the programs' go.mod, so
// that it is written down in one place only.
func (p *parts) requiredVersion(module string) (string, error) {
	file := filepath.Join(p.source, "programs", "go.mod")
	content, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	found := regexp.MustCompile(`(?m)^(?:require)?\s*` + regexp.QuoteMeta(module) + `\s+(v\S+)`).FindSubmatch(content)
	if found == nil {
		return "", fmt.Errorf("%s does not require %s", file, module)
	}
	return string(found[1]), nil
}

// build builds the named parts that are not in the cache yet; all without a
// name.
func (p *parts) build(names ...string) error {
	for _, name := range names {
		if p.dirs[name] == "" {
			return fmt.Errorf("build: there is no part %q", name)
		}
	}
	for _, part := range p.all {
		if len(names) > 0 && !slices.Contains(names, part.name) {
			continue
		}
		if err := p.buildPart(part); err != nil {
			return fmt.Errorf("build %s: %w", part.name, err)
		}
	}
	return nil
}

// buildPart builds into a folder of its own and renames it when it is
// complete, so nobody ever sees half a part, and of two callers one waits.
func (p *parts) buildPart(part part) error {
	dir := p.dirs[part.name]
	if exists(dir) {
		return nil
	}
	if err := os.MkdirAll(p.cache, 0o755); err != nil {
		return fmt.Errorf("create the cache: %w: set XDG_CACHE_HOME to a folder that can be written", err)
	}
	unlock, err := lockFile(filepath.Join(p.cache, part.name+".lock"))
	if err != nil {
		return err
	}
	defer unlock()
	if exists(dir) {
		return nil
	}
	leftover, _ := filepath.Glob(filepath.Join(p.cache, ".building-"+part.name+"-*"))
	for _, old := range leftover {
		_ = os.RemoveAll(old) // of a caller that was killed: we hold the lock
	}
	building, err := os.MkdirTemp(p.cache, ".building-"+part.name+"-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(building)
	if err := part.build(p, building); err != nil {
		return err
	}
	if err := os.Chmod(building, 0o755); err != nil {
		return err
	}
	return os.Rename(building, dir)
}

// goPrograms builds programs of the module in a folder below hack/cluster, in
// one call, so that one is linked while the next is compiled. about says how
// long it takes with an empty build cache and two cores.
func goPrograms(folder, flags, about string, packages ...string) func(p *parts, dir string) error {
	return func(p *parts, dir string) error {
		arguments := []string{"build", "-mod=readonly", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w" + flags, "-o", dir + "/"}
		cmd := exec.Command("go", append(arguments, packages...)...)
		cmd.Dir = filepath.Join(p.source, folder)
		// The caller's settings must not leak into what the cache keeps. The
		// compiler is a fifth faster when it collects its garbage less often.
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH="+runtime.GOARCH, "GOFLAGS=", "GOWORK=off", "GOGC=400")
		names := make([]string, 0, len(packages))
		for _, p := range packages {
			names = append(names, path.Base(p))
		}
		return runWithTicks(cmd, fmt.Sprintf("building %s (about %s when nothing is cached)", strings.Join(names, ", "), about))
	}
}

// runWithTicks runs a command that may take minutes and says every 30 s that
// it is still at it. What the command prints is shown only if it fails.
func runWithTicks(cmd *exec.Cmd, label string) error {
	fmt.Fprintf(os.Stderr, "%s…\n", label)
	begin := time.Now()
	ticker := time.NewTicker(30 * time.Second)
	stop := make(chan struct{})
	go func() {
		for {
			select {
			case <-ticker.C:
				fmt.Fprintf(os.Stderr, "  … %s so far\n", time.Since(begin).Round(time.Second))
			case <-stop:
				return
			}
		}
	}()
	output, err := cmd.CombinedOutput()
	ticker.Stop()
	close(stop)
	if err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return fmt.Errorf("%s is not in PATH: install it", cmd.Path)
		}
		return fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, lastLines(string(output), 20))
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

func exists(name string) bool {
	_, err := os.Lstat(name)
	return err == nil
}

// findSource looks for hack/cluster above the working folder.
func findSource() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for start := dir; ; dir = filepath.Dir(dir) {
		source := filepath.Join(dir, "hack", "cluster")
		if exists(filepath.Join(source, "programs", "go.mod")) {
			return source, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("no folder hack/cluster in %s or above it: call this from within a checkout of the project", start)
		}
	}
}

func verbBuild(_ *cluster, args []string) error {
	p, err := newParts()
	if err != nil {
		return err
	}
	if err := p.build(args...); err != nil {
		return err
	}
	fmt.Println("parts are in", p.cache)
	return nil
}
