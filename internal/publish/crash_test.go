package publish_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

const (
	victimVariable = "PUBLISH_TEST_VICTIM"
	victims        = 25
)

var sha256Line = regexp.MustCompile(`(?m)^sha256: ([0-9a-f]{64})$`)

// beVictim is the process that is killed: it publishes and collects as fast as
// it can.
func beVictim(dir string) int {
	v, err := publish.Open(dir, 0)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	sequence := time.Now().UnixNano()
	for i := uint64(0); ; i++ {
		// Always a few new modules and a few known ones.
		modules := []publishtest.Module{
			publishtest.New("a", "1", 40_000, i%7), publishtest.New("b", "1", 50_000, 100+i%3), publishtest.New("c", "2", 30_000, uint64(sequence)+i),
		}
		for _, m := range modules {
			if err := v.PutGzip(context.Background(), m.Entry.SHA256, m.Entry.Size, bytes.NewReader(m.Gzip)); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		if _, err := v.Publish(context.Background(), publishtest.Catalog(sequence+int64(i), modules...)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		if err := v.Collect(time.Now().Add(publish.KeepSuperseded-time.Second), nil); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
}

// TestKilledAtAnyPoint: a writer is killed again and again, and whoever reads
// always finds a whole generation whose modules are what their metadata says.
func TestKilledAtAnyPoint(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	generations := map[string]bool{}
	for range victims {
		victim := exec.Command(os.Args[0])
		var said bytes.Buffer
		victim.Env, victim.Stderr = append(os.Environ(), victimVariable+"="+dir), &said
		if err := victim.Start(); err != nil {
			t.Fatal(err)
		}
		// It takes a while to start; then it may die at any moment.
		began := time.Now()
		for before := len(generations); len(generations) == before; {
			readWhole(t, dir, generations)
			if time.Since(began) > time.Minute {
				t.Fatalf("the writer does nothing: %s", said.String())
			}
		}
		for end := time.Now().Add(rand.N(60 * time.Millisecond)); time.Now().Before(end); {
			readWhole(t, dir, generations)
		}
		if err := victim.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = victim.Wait() // killed
		if said.Len() > 0 {
			t.Fatalf("the writer failed by itself: %s", said.String())
		}
		readWhole(t, dir, generations)
	}
	if len(generations) < victims {
		t.Errorf("only %d generations were seen: the test shows nothing", len(generations))
	}
	v := publishtest.Open(t, dir, 0)
	if entries, err := os.ReadDir(filepath.Join(dir, ".tmp")); err != nil || len(entries) != 1 {
		t.Errorf("leftovers: %v %v", entries, err)
	}
	m := publishtest.New("a", "1", 5000, 1)
	publishtest.Put(t, v, m)
	publishtest.Publish(t, v, publishtest.Catalog(time.Now().Add(time.Hour).UnixNano(), m))
}

// readWhole reads what is served now, as files.
func readWhole(t *testing.T, dir string, seen map[string]bool) {
	t.Helper()
	id, err := publish.Current(dir)
	if os.IsNotExist(err) && len(seen) == 0 {
		return // before the first one
	}
	if err != nil {
		t.Fatal(err)
	}
	g, err := publish.Load(dir, id)
	if err != nil {
		t.Fatalf("generation %s is not whole: %v", id, err)
	}
	seen[id] = true
	if len(g.Entries) != 3 {
		t.Fatalf("generation %s has %d entries", id, len(g.Entries))
	}
	for _, e := range g.Entries {
		folder := filepath.Join(dir, ".gen", id, "plugins", e.Name, e.Version)
		module, err := os.ReadFile(filepath.Join(folder, "plugin.wasm"))
		if err != nil {
			t.Fatal(err)
		}
		zipped, err := os.ReadFile(filepath.Join(folder, "plugin.wasm.gz"))
		if err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(folder, "metadata.txt"))
		if err != nil {
			t.Fatal(err)
		}
		want := sha256Line.FindSubmatch(text)
		for _, b := range [][]byte{module, publishtest.Unzip(t, zipped)} {
			if sum := sha256.Sum256(b); want == nil || hex.EncodeToString(sum[:]) != string(want[1]) || e.SHA256 != string(want[1]) {
				t.Fatalf("%s: the module is not what the metadata says", folder)
			}
		}
	}
}
