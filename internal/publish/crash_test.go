package publish_test

import (
	"bytes"

	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

const (
	victimVariable = "PUBLISH_TEST_VICTIM"
	stepVariable   = "PUBLISH_TEST_STEP"
)

// What a run meets: a volume with a generation of a1, b1 and d, of which d is
// damaged, one that is superseded for long, and what a dead writer left. It is to
// bring the volume to a1, b2, c and d.
var (
	crashA1, crashB1 = publishtest.New("a", "1", 5000, 1), publishtest.New("b", "1", 5000, 2)
	crashB2, crashC  = publishtest.New("b", "1", 6000, 3), publishtest.New("c", "1", 5000, 4)
	crashD, crashOld = publishtest.New("d", "1", 5000, 5), publishtest.New("x", "1", 5000, 6)

	crashModules = map[string]publishtest.Module{
		crashA1.Entry.SHA256: crashA1, crashB1.Entry.SHA256: crashB1, crashB2.Entry.SHA256: crashB2, crashC.Entry.SHA256: crashC, crashD.Entry.SHA256: crashD,
	}
)

func crashVolume(t *testing.T, dir string) {
	t.Helper()
	v, err := publish.Open(dir, 0)
	if err != nil {
		t.Fatal(err)
	}
	publishtest.Put(t, v, crashOld, crashA1, crashB1, crashD)
	first := publishtest.Publish(t, v, publishtest.Catalog(1, crashOld))
	publishtest.Publish(t, v, publishtest.Catalog(2, crashA1, crashB1, crashD))
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	long, dead := time.Now().Add(-time.Hour), filepath.Join(dir, ".tmp", "w-dead")
	for _, path := range []string{".gen/" + first.ID, "blobs/sha256/" + crashOld.Entry.SHA256, "blobs/sha256/" + crashOld.Entry.SHA256 + ".gz"} {
		if err := os.Chtimes(filepath.Join(dir, path), long, long); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(
		os.Mkdir(dead, 0o700), os.WriteFile(filepath.Join(dead, "half"), []byte("half"), 0o600),
		flip(filepath.Join(dir, "blobs/sha256", crashD.Entry.SHA256)),
	); err != nil {
		t.Fatal(err)
	}
}

// crashRun is what sync does, from its start to its end, step by step.
func crashRun(dir string, fault func(string) error) error {
	v, err := publish.OpenFaulty(dir, 0, fault)
	if err != nil {
		return err
	}
	return errors.Join(crashSync(v), v.Close())
}

func crashSync(v *publish.Volume) error {
	ctx := context.Background()
	if err := v.Reread(ctx, 0, func(publish.Damage) {}); err != nil {
		return err
	}
	c := publishtest.Catalog(3, crashA1, crashB2, crashC, crashD)
	if _, err := v.Publish(ctx, c); err != nil { // a1, and b1 instead of b2
		return err
	}
	for _, m := range []publishtest.Module{crashA1, crashB2, crashC, crashD} {
		if v.Has(m.Entry.SHA256, m.Entry.Size) {
			continue
		}
		if err := v.PutGzip(ctx, m.Entry.SHA256, m.Entry.Size, bytes.NewReader(m.Gzip)); err != nil {
			return err
		}
	}
	if _, err := v.Publish(ctx, c); err != nil {
		return err
	}
	return errors.Join(v.SetStatus(publish.Status{Error: "none"}), v.Collect(time.Now(), nil))
}

// stepAt counts steps and does something at one of them.
func stepAt(at int64, then func() error) (fault func(string) error, steps *atomic.Int64) {
	steps = &atomic.Int64{}
	return func(string) error {
		if steps.Add(1) == at {
			return then()
		}
		return nil
	}, steps
}

// beVictim is the process that is killed.
func beVictim(dir string) int {
	at, err := strconv.ParseInt(os.Getenv(stepVariable), 10, 64)
	if err != nil {
		panic(err)
	}
	fault, _ := stepAt(at, func() error {
		if err := syscall.Kill(os.Getpid(), syscall.SIGKILL); err != nil {
			return err
		}
		select {} // until it arrives
	})
	if err := crashRun(dir, fault); err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	return 1 // it should not have lived
}

// TestCrashPoints kills a run, lets it find the disk full, or lets a step fail,
// at each single step. Whoever reads meanwhile finds a whole generation, the
// old one or a new one; the next run completes, and nothing is left over.
func TestCrashPoints(t *testing.T) {
	t.Parallel()
	began := time.Now()
	dir := t.TempDir()
	crashVolume(t, dir)
	fault, count := stepAt(0, nil)
	if err := crashRun(dir, fault); err != nil {
		t.Fatal(err)
	}
	requireNothingLeft(t, dir)
	var points, ended atomic.Int64
	var working sync.WaitGroup
	for kind, crash := range map[string]func(t *testing.T, dir string, at int64) error{"killed": killAt, "full": fillAt, "failing": failAt} {
		next := &atomic.Int64{}
		for range map[string]int{"killed": 3}[kind] + 1 {
			base := t.TempDir()
			mountSmall(t, base) // also because it is fast
			working.Go(func() {
				for at := next.Add(1); at <= count.Load() && !t.Failed(); at = next.Add(1) {
					dir := filepath.Join(base, fmt.Sprint(at))
					crashVolume(t, dir)
					if err := crash(t, dir, at); err != nil {
						ended.Add(1)
					}
					requireNothingLeft(t, dir)
					if t.Failed() {
						t.Errorf("%s at step %d of %d", kind, at, count.Load())
					}
					if err := os.RemoveAll(dir); err != nil {
						t.Error(err)
					}
					points.Add(1)
				}
			})
		}
	}
	working.Wait()
	t.Logf("%d points, %d of which ended the run; %d steps in a run; %s", points.Load(), ended.Load(), count.Load(), time.Since(began).Round(time.Second))
	if ended.Load() < 200 {
		t.Errorf("only %d runs were ended: the test shows little", ended.Load())
	}
}

func killAt(t *testing.T, dir string, at int64) error {
	victim := exec.Command(os.Args[0])
	var said bytes.Buffer
	victim.Env, victim.Stderr = append(os.Environ(), victimVariable+"="+dir, fmt.Sprintf("%s=%d", stepVariable, at)), &said
	stop := readAllTheTime(t, dir)
	killed := victim.Run()
	stop()
	if status, ok := victim.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != syscall.SIGKILL {
		t.Errorf("ended by itself: %s %s", victim.ProcessState, said.String())
	}
	if err := crashRun(dir, nil); err != nil {
		t.Error(err)
	}
	return killed
}

// fillAt takes all space and all inodes of a real file system, where the test
// may mount one.
func fillAt(t *testing.T, dir string, at int64) error {
	return again(t, dir, at, func() error { return fill(filepath.Dir(dir)) }, func() error { return empty(filepath.Dir(dir)) })
}

// failAt is for the steps that only fail on other file systems.
func failAt(t *testing.T, dir string, at int64) error {
	return again(t, dir, at, func() error { return syscall.ENOSPC }, func() error { return nil })
}

// again lets a run meet something, and then runs again in the same process, as
// sync does.
func again(t *testing.T, dir string, at int64, meet, end func() error) error {
	fault, steps := stepAt(at, meet)
	stop := readAllTheTime(t, dir)
	defer stop()
	v, err := publish.OpenFaulty(dir, 0, fault)
	if err == nil {
		if err = crashSync(v); err == nil && steps.Load() < at { // what is met at the last step is met at the end
			err = v.Close()
			v = nil
		}
	}
	var full *publish.FullError
	if err != nil && !errors.As(err, &full) && !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("another error than a full disk: %v", err)
	}
	if err := end(); err != nil {
		t.Error(err)
	}
	var next error
	if v == nil {
		next = crashRun(dir, nil)
	} else {
		next = errors.Join(crashSync(v), v.Close())
	}
	if next != nil {
		t.Errorf("the next run: %v", next)
	}
	return err
}

// readAllTheTime reads what is served until it is told to stop, and once more.
func readAllTheTime(t *testing.T, dir string) (stop func()) {
	ending := make(chan struct{})
	var reading sync.WaitGroup
	reading.Go(func() {
		for {
			select {
			case <-ending:
				readWhole(t, dir)
				return
			default:
				readWhole(t, dir)
				time.Sleep(4 * time.Millisecond)
			}
		}
	})
	return func() {
		close(ending)
		reading.Wait()
	}
}

// readWhole reads what is served now, as files of one generation: everything
// that it names is there and right, apart from what was damaged before.
func readWhole(t *testing.T, dir string) {
	t.Helper()
	id, err := publish.Current(dir)
	if err != nil {
		t.Errorf("nothing is served: %v", err)
		return
	}
	g, err := publish.Load(dir, id)
	if err != nil {
		t.Errorf("generation %s is not whole: %v", id, err)
		return
	}
	names := ""
	for _, e := range g.Entries {
		names += e.Name
		if e.Name == "d" && g.Catalog.Sequence < 3 {
			continue
		}
		folder := filepath.Join(dir, ".gen", id, "plugins", e.Name, "1")
		b, err := os.ReadFile(filepath.Join(folder, "plugin.wasm"))
		zipped, err2 := os.ReadFile(filepath.Join(folder, "plugin.wasm.gz"))
		text, err3 := os.ReadFile(filepath.Join(folder, "metadata.txt"))
		m := crashModules[e.SHA256]
		if !bytes.Equal(b, m.Bytes) || !bytes.Equal(zipped, m.Gzip) || !bytes.Equal(text, publish.Metadata(m.Entry)) {
			t.Errorf("%s is not whole: %v", e.Key(), errors.Join(err, err2, err3))
		}
	}
	if !strings.HasPrefix(names, "ab") {
		t.Errorf("served: %q", names)
	}
}

// requireNothingLeft says whether a volume is at its goal and has nothing else.
func requireNothingLeft(t *testing.T, dir string) {
	t.Helper()
	v, err := publish.Open(dir, 0)
	if err != nil {
		t.Error(err)
		return
	}
	g, err := v.Current()
	if err := errors.Join(err, v.Collect(farFuture, nil), v.Close()); err != nil || g == nil || !g.Whole() {
		t.Errorf("%+v %v", g, err)
		return
	}
	want := map[string]bool{"plugins": true, "sync-status.json": true, ".gen/" + g.ID + "/catalog.json.gz": true, ".gen/" + g.ID + "/served.json": true}
	for _, m := range []publishtest.Module{crashA1, crashB2, crashC, crashD} {
		want["blobs/sha256/"+m.Entry.SHA256], want["blobs/sha256/"+m.Entry.SHA256+".gz"] = true, true
		for _, file := range []string{"plugin.wasm", "plugin.wasm.gz", "metadata.txt"} {
			want[".gen/"+g.ID+"/plugins/"+m.Entry.Name+"/1/"+file] = true
		}
	}
	got := map[string]bool{}
	if err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		relative, _ := filepath.Rel(dir, path)
		if err == nil && (!d.IsDir() || filepath.Dir(relative) == ".tmp") {
			got[relative] = true
		}
		return err
	}); err != nil {
		t.Error(err)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("left over or missing: %s", d)
	}
	readWhole(t, dir)
}
