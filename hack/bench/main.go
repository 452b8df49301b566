//go:build linux

// Command bench measures the plugin server beside its peers, on the same files
// and the same machine and in the same run, and writes what it found:
//
//	go run ./hack/bench [-only PART,…] [-short] [-out FOLDER]
//
// It needs root, two processors, and nginx, which it fetches on Debian where it
// is missing. The servers have one processor, the clients the other one. What
// was started or made is removed when it ends, also when it is killed.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// part is one of the benchmarks.
type part struct {
	name string
	run  func(*bench) (section, error)
}

var parts = []part{
	{"throughput", (*bench).throughput},
	{"slow", (*bench).slow},
	{"downloads", (*bench).downloads},
	{"fleet", (*bench).fleet},
	{"cold", (*bench).cold},
}

// bench is one run.
type bench struct {
	guard  *guard
	dir    string // for everything temporary
	out    string // for the results
	server string // the program plugin-server
	nginx  string // the program nginx
	short  bool
	began  time.Time
	load   string // of the machine before the run

	serverCPU, clientCPU int
}

func main() {
	if len(os.Args) == 2 {
		if run := inner[os.Args[1]]; run != nil {
			exit(run())
		}
	}
	only := flag.String("only", "", "which parts, with commas between them (default: all)")
	short := flag.Bool("short", false, "a few seconds each, to try the programs")
	out := flag.String("out", "", "folder for RESULTS.md and raw/ (default: hack/bench after a whole run, else none)")
	flag.Parse()
	b := &bench{out: *out, short: *short, began: time.Now(), load: lineOf("/proc/loadavg", "")}
	exit(b.main(*only))
}

// inner are the programs that a run starts from itself.
var inner = map[string]func() error{"__guard": runGuard, "__exec": runExec, "__load": runLoad, "__crowd": runCrowd}

func exit(err error) {
	if err == nil {
		os.Exit(0)
	}
	fmt.Fprintln(os.Stderr, "bench:", err)
	os.Exit(1)
}

func (b *bench) main(only string) (err error) {
	chosen, err := choose(only)
	if err != nil {
		return err
	}
	if b.out == "" && only == "" && !b.short {
		b.out = filepath.Join("hack", "bench")
	}
	if os.Getuid() != 0 {
		return errors.New("cgroups and network namespaces need root")
	}
	if b.serverCPU, b.clientCPU, err = processors(); err != nil {
		return err
	}
	if b.guard, err = startGuard(); err != nil {
		return err
	}
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	ended := make(chan error, 1)
	go func() { ended <- b.all(chosen) }()
	select {
	case err = <-ended:
	case s := <-signals:
		err = fmt.Errorf("interrupted: %s", s)
	}
	return errors.Join(err, b.guard.close())
}

func choose(only string) ([]part, error) {
	if only == "" {
		return parts, nil
	}
	var chosen []part
	for name := range strings.SplitSeq(only, ",") {
		i := slices.IndexFunc(parts, func(p part) bool { return p.name == name })
		if i < 0 {
			return nil, fmt.Errorf("there is no part %q", name)
		}
		chosen = append(chosen, parts[i])
	}
	return chosen, nil
}

func (b *bench) all(chosen []part) error {
	if err := b.prepare(); err != nil {
		return err
	}
	var failed error
	var done []section
	for _, p := range chosen {
		b.say("== %s", p.name)
		began := time.Now()
		s, err := p.run(b)
		if err != nil {
			failed = errors.Join(failed, fmt.Errorf("%s: %w", p.name, err))
			b.say("%s failed: %v", p.name, err)
			continue
		}
		s.name, s.took = p.name, time.Since(began)
		fmt.Println(s.markdown())
		done = append(done, s)
	}
	return errors.Join(failed, b.write(done))
}

func (b *bench) prepare() (err error) {
	if b.dir, err = b.guard.folder(); err != nil {
		return err
	}
	if b.nginx, err = b.findNginx(); err != nil {
		return err
	}
	b.say("building plugin-server")
	b.server = filepath.Join(b.dir, "plugin-server")
	build := exec.Command("go", "build", "-trimpath", "-ldflags=-s -w", "-o", b.server, "./cmd/plugin-server")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // as in the image
	if output, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, output)
	}
	return nil
}

// say reports the progress.
func (b *bench) say(format string, values ...any) {
	fmt.Fprintf(os.Stderr, "%6.1fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, values...))
}

// shorter is the value for a run that only tries the programs, or the other.
func shorter[T any](b *bench, short, full T) T {
	if b.short {
		return short
	}
	return full
}
