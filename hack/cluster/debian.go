//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

// debianPrograms are the programs that come from the distribution, and the
// Debian package of each.
var debianPrograms = []struct{ program, pkg string }{
	{"containerd", "containerd"},
	{"ctr", "containerd"},
	{"runc", "runc"},
	{"bridge", "containernetworking-plugins"}, // a CNI plugin, see findCNI
	{"iptables", "iptables"},
	{"nft", "nftables"},
	{"conntrack", "conntrack"},
	{"htpasswd", "apache2-utils"},
	{"docker-registry", "docker-registry"},
	{"nginx", "nginx"}, // no part of a cluster: see hack/nginx
}

// missingPackages are the packages of the programs that the machine lacks.
func missingPackages() []string {
	var missing []string
	for _, p := range debianPrograms {
		var err error
		if p.program == "bridge" {
			_, err = findCNI("")
		} else {
			_, err = lookSystem(p.program)
		}
		if err != nil && !slices.Contains(missing, p.pkg) {
			missing = append(missing, p.pkg)
		}
	}
	return missing
}

// lookSystem finds a program of the machine. Folders of administration are
// often not in PATH; the cache is, in commands that run inside a cluster, and does not count.
func lookSystem(name string) (string, error) {
	cache, err := cacheFolder()
	if err != nil {
		return "", err
	}
	for _, dir := range append(filepath.SplitList(os.Getenv("PATH")), "/usr/local/sbin", "/usr/sbin", "/sbin") {
		file := filepath.Join(dir, name)
		if info, err := os.Stat(file); err == nil && !strings.HasPrefix(file, cache) && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return file, nil
		}
	}
	return "", fmt.Errorf("%s: %w", name, exec.ErrNotFound)
}

// findCNI finds the folder with the network plugins; dir is the folder of the
// unpacked packages.
func findCNI(dir string) (string, error) {
	candidates := []string{"/usr/lib/cni", "/opt/cni/bin", "/usr/libexec/cni"}
	if dir != "" {
		candidates = append([]string{filepath.Join(dir, "usr/lib/cni")}, candidates...)
	}
	for _, candidate := range candidates {
		complete := true
		for _, plugin := range []string{"bridge", "host-local", "loopback", "portmap"} {
			complete = complete && exists(filepath.Join(candidate, plugin))
		}
		if complete {
			return candidate, nil
		}
	}
	return "", fmt.Errorf("no CNI plugins bridge, host-local, loopback, portmap in %s", strings.Join(candidates, ", "))
}

// debianSalt changes with the distribution and with what it lacks.
func debianSalt() (string, error) {
	release, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("find out the distribution: %w", err)
	}
	return string(release) + strings.Join(missingPackages(), " "), nil
}

// buildDebian unpacks the missing packages, with the libraries that they need,
// into the cache. Nothing is installed: so no service is started, no file of
// the machine is touched, and root is not needed.
func buildDebian(_ *parts, dir string) error {
	missing := missingPackages()
	if len(missing) == 0 {
		return nil
	}
	if _, err := exec.LookPath("apt-get"); err != nil {
		return fmt.Errorf("these programs' packages are missing and there is no apt-get to fetch them: install %s by hand (names as in Debian)", strings.Join(missing, " "))
	}
	archives, err := os.MkdirTemp("", "cluster-packages-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(archives)
	if err := downloadPackages(archives, missing); err != nil {
		return err
	}
	files, err := filepath.Glob(filepath.Join(archives, "*.deb"))
	if err != nil || len(files) == 0 {
		return fmt.Errorf("apt-get downloaded no package of %s", strings.Join(missing, " "))
	}
	for _, file := range files {
		if output, err := exec.Command("dpkg", "-x", file, dir).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w\n%s", filepath.Base(file), err, output)
		}
	}
	// On an installed system update-alternatives makes this link.
	if exists(filepath.Join(dir, "usr/sbin/iptables-nft")) {
		for _, name := range []string{"iptables", "iptables-save", "iptables-restore", "ip6tables", "ip6tables-save", "ip6tables-restore"} {
			if err := os.Symlink("xtables-nft-multi", filepath.Join(dir, "usr/sbin", name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// downloadPackages lets apt resolve the dependencies and download what is not
// on the machine. Old package lists name packages that are gone, so after a
// failure it is tried once more with new lists.
func downloadPackages(archives string, packages []string) error {
	if err := os.MkdirAll(filepath.Join(archives, "partial"), 0o755); err != nil {
		return err
	}
	_ = os.Chmod(archives, 0o755) // apt downloads as a user of its own
	download := func() error {
		args := append([]string{"install", "--yes", "--no-install-recommends", "--download-only",
			"-o", "Dir::Cache::archives=" + archives, "-o", "Debug::NoLocking=1"}, packages...)
		cmd := exec.Command("apt-get", args...)
		cmd.Env = append(os.Environ(), "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C")
		return runWithTicks(cmd, "downloading packages (10 s): "+strings.Join(packages, " "))
	}
	first := download()
	if first == nil {
		return nil
	}
	if err := runWithTicks(exec.Command("apt-get", "update"), "updating the package lists"); err != nil {
		return fmt.Errorf("%w (and updating the lists failed: %w)", first, err)
	}
	return download()
}

// programs finds the programs of the distribution at run time.
type programs struct {
	dir string // unpacked packages
	cni string
}

func newPrograms(p *parts) (programs, error) {
	dir := p.dir("debian")
	cni, err := findCNI(dir)
	return programs{dir: dir, cni: cni}, err
}

// binFolders are the folders of the unpacked programs.
func (p programs) binFolders() []string {
	return []string{filepath.Join(p.dir, "usr/bin"), filepath.Join(p.dir, "usr/sbin")}
}

// find returns the path of a program: the unpacked one, or the machine's.
func (p programs) find(name string) (string, error) {
	for _, dir := range p.binFolders() {
		if file := filepath.Join(dir, name); exists(file) {
			return file, nil
		}
	}
	return lookSystem(name)
}

// verbWhich prints where a program of the distribution is.
func verbWhich(_ *cluster, args []string) error {
	if len(args) != 1 {
		return errors.New("which: name one program")
	}
	p, err := newParts()
	if err != nil {
		return err
	}
	file, err := programs{dir: p.dir("debian")}.find(args[0])
	if err != nil {
		return fmt.Errorf("which: %w: run \"go run ./hack/cluster build debian\" first", err)
	}
	fmt.Println(file)
	return nil
}

// env is the environment in which unpacked programs find each other, their
// libraries and iptables' extensions.
func (p programs) env() []string {
	path := append(p.binFolders(), os.Getenv("PATH"), "/usr/sbin", "/sbin")
	env := []string{"HOME=/root", "PATH=" + strings.Join(path, ":")}
	triplet := map[string]string{"amd64": "x86_64-linux-gnu", "arm64": "aarch64-linux-gnu"}[runtime.GOARCH]
	lib := filepath.Join(p.dir, "usr/lib", triplet)
	if triplet != "" && exists(lib) {
		env = append(env, "LD_LIBRARY_PATH="+lib)
		if exists(filepath.Join(lib, "xtables")) {
			env = append(env, "XTABLES_LIBDIR="+filepath.Join(lib, "xtables"))
		}
	}
	return env
}
