package supervise

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// role makes the test's own program the child, or the child's parent.
const role = "SUPERVISE_TEST_ROLE"

func TestMain(m *testing.M) {
	switch os.Getenv(role) {
	case "":
		goleak.VerifyTestMain(m)
	case "fails":
		fmt.Println("lived")
		os.Exit(3)
	case "waits":
		fmt.Println("lived")
		wait(syscall.SIGTERM)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("lived")
		wait(syscall.SIGUSR1)
	case "parent":
		child("waits", os.Stdout, slog.New(slog.DiscardHandler)).Run(context.Background())
	case "yields":
		yields()
	case "greedy":
		greedy()
	}
}

func wait(signals ...os.Signal) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, signals...)
	<-c
}

func child(as string, stdout io.Writer, logger *slog.Logger) Child {
	return Child{Logger: logger, Command: func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, os.Args[0])
		cmd.Env, cmd.Stdout = append(os.Environ(), role+"="+as), stdout
		return cmd
	}}
}

// lives counts the lines that children write, and tells of each.
type lives struct{ lived chan struct{} }

func (l lives) Write(p []byte) (int, error) {
	for range bytes.Count(p, []byte("\n")) {
		l.lived <- struct{}{}
	}
	return len(p), nil
}

func run(t *testing.T, as string, logger *slog.Logger) (l lives, stop func()) {
	t.Helper()
	l = lives{make(chan struct{}, 100)}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { child(as, l, logger).Run(ctx) })
	stop = sync.OnceFunc(func() {
		cancel()
		running.Wait()
	})
	t.Cleanup(stop)
	return l, stop
}

func TestStartsAgain(t *testing.T) {
	t.Parallel()
	var log bytes.Buffer
	l, stop := run(t, "fails", slog.New(slog.NewTextHandler(&log, nil)))
	for range 4 {
		<-l.lived
	}
	stop()
	if !strings.Contains(log.String(), `reason="exit status 3" pause=100ms`) || !strings.Contains(log.String(), "pause=400ms") {
		t.Errorf("the log lacks the reason or the growing pause:\n%s", log.String())
	}
}

func TestWhatCannotStartIsTriedAgain(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	tried := make(chan struct{}, 10)
	var running sync.WaitGroup
	running.Go(func() {
		Child{Logger: slog.New(slog.DiscardHandler), Command: func(ctx context.Context) *exec.Cmd {
			tried <- struct{}{}
			return exec.CommandContext(ctx, filepath.Join(t.TempDir(), "nothing"))
		}}.Run(ctx)
	})
	<-tried
	<-tried
	cancel()
	running.Wait()
}

func TestEnds(t *testing.T) {
	t.Parallel()
	for as, most := range map[string]time.Duration{"waits": 4 * time.Second, "stubborn": grace + 10*time.Second} {
		t.Run(as, func(t *testing.T) {
			t.Parallel()
			l, stop := run(t, as, slog.New(slog.DiscardHandler))
			<-l.lived
			began := time.Now()
			stop()
			if took := time.Since(began); took > most || (as == "stubborn" && took < grace) {
				t.Errorf("ended after %s", took)
			}
		})
	}
}

// TestDiesWithItsParent: even if the parent cannot end it any more.
func TestDiesWithItsParent(t *testing.T) {
	t.Parallel()
	parent := exec.Command(os.Args[0])
	parent.Env = append(os.Environ(), role+"=parent")
	said, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(said)
	if line, err := lines.ReadString('\n'); line != "lived\n" {
		t.Fatalf("%q %v", line, err)
	}
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	// The child has the other end of the pipe, so this ends when it does.
	if _, err := io.ReadAll(lines); err != nil {
		t.Error(err)
	}
	_ = parent.Wait() // killed
}

// yields prints what a child is after Yield.
func yields() {
	if err := Yield(512 << 20); err != nil {
		fmt.Println(err)
	}
	score, _ := os.ReadFile("/proc/self/oom_score_adj")
	fmt.Println("score", strings.TrimSpace(string(score)))
	tasks, _ := filepath.Glob("/proc/self/task/*/stat")
	for _, task := range tasks {
		b, _ := os.ReadFile(task)
		// The fields after the name, which may hold anything.
		fields := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
		fmt.Println("nice", fields[16])
	}
}

func TestYield(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"=yields")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if !strings.Contains(string(out), "score 1000\n") || !strings.Contains(string(out), "nice 10\n") || strings.Contains(string(out), "nice 0\n") {
		t.Errorf("not yielding:\n%s", out)
	}
}

// greedy takes memory until it may not any more.
func greedy() {
	// The race detector has taken much already.
	status, _ := os.ReadFile("/proc/self/status")
	_, rest, _ := strings.Cut(string(status), "VmData:")
	before, _ := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
	if err := Yield(before<<10 + 256<<20); err != nil {
		fmt.Println(err)
	}
	var taken [][]byte
	for i := range 64 {
		b := make([]byte, 16<<20)
		for j := 0; j < len(b); j += 4096 {
			b[j] = 1
		}
		taken = append(taken, b)
		fmt.Println((i + 1) * 16)
	}
	fmt.Println(len(taken), "and no end")
}

// TestMemoryEndsTheChildOnly: it meets its own limit long before the
// container's.
func TestMemoryEndsTheChildOnly(t *testing.T) {
	t.Parallel()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), role+"=greedy")
	var out, failed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &failed
	err := cmd.Run()
	lines := strings.Fields(out.String())
	// The race detector has words of its own.
	short := strings.Contains(failed.String(), "out of memory") || strings.Contains(failed.String(), "failed to allocate")
	if err == nil || !short || len(lines) == 0 {
		t.Fatalf("%v\n%s\n%s", err, out.String(), failed.String())
	}
	if most, err := strconv.Atoi(lines[len(lines)-1]); err != nil || most > 256 {
		t.Errorf("took %d MiB: %v", most, err)
	}
}
