package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/inspect"
	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
)

// The peak of a process's memory is read from /proc, which other systems lack.

// mostMore is how much more memory the largest content may take than a small
// module does.
const mostMore = 32 << 20

// TestMemory fetches a module of the greatest size, and archives that become
// 10 GiB, with the real program: its resident memory hardly grows.
func TestMemory(t *testing.T) {
	t.Parallel()
	program := filepath.Join(t.TempDir(), "plugin-server")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", program, ".").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	small := inspecttest.Filled("small")
	large := make([]byte, inspect.MaxModuleSize)
	for i := 0; i < len(large); i += 64 { // what shrinks like a module
		copy(large[i:], strconv.Itoa(i*7919))
	}
	inspecttest.Frame(large)
	member := gzipped(t, make([]byte, 64<<20))
	zeros := inspecttest.Module()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/small.wasm":
			_, _ = w.Write(small)
		case "/large.wasm":
			_, _ = w.Write(large)
		case "/bomb.wasm": // a module's header, then 10 GiB of zeros
			_, _ = w.Write(gzipped(t, zeros))
			for range 160 {
				if _, err := w.Write(member); err != nil {
					return
				}
			}
		case "/endless.wasm":
			for r.Context().Err() == nil {
				_, _ = w.Write(large[:1<<20])
			}
		}
	}))
	t.Cleanup(server.Close)

	base := peak(t, program, server.URL+"/small.wasm", sum(small), "plugins\":1")
	for path, c := range map[string]struct{ sha256, says string }{
		"/large.wasm":   {sum(large), "plugins\":1"},
		"/bomb.wasm":    {sum(small), "expands from"},
		"/endless.wasm": {sum(small), "a file of more than 512 MiB"},
	} {
		got := peak(t, program, server.URL+path, c.sha256, c.says)
		t.Logf("%s: %d MiB, a small module takes %d", path, got>>20, base>>20)
		if got-base > mostMore {
			t.Errorf("%s took %d MiB more than a small module, %d are allowed", path, (got-base)>>20, mostMore>>20)
		}
	}
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

func gzipped(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	if err != nil || w.Close() != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

var highWater = regexp.MustCompile(`VmHWM:\s+(\d+) kB`)

// peak lets the program fetch one file, until it says something and serves, and
// gives the most resident memory that it had, in bytes.
func peak(t *testing.T, program, url, sha256, says string) int64 {
	t.Helper()
	file := filepath.Join(t.TempDir(), "source.yaml")
	yaml := fmt.Sprintf("apiVersion: plugins.higress.io/v1alpha1\nkind: PluginSource\nmetadata: {name: s}\nspec: {plugins: [{name: a, version: '1', url: %q, sha256: %s}]}\n", url, sha256)
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, program, "local", "--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", "--data-dir="+t.TempDir(), file)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stdout = cmd.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	var log strings.Builder
	buffer := make([]byte, 4096)
	for !strings.Contains(log.String(), says) || !strings.Contains(log.String(), `"serving"`) {
		n, err := said.Read(buffer)
		log.Write(buffer[:n])
		if err != nil && err != io.EOF {
			break
		}
		if err == io.EOF {
			t.Fatalf("it ended and said\n%s", log.String())
		}
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	found := highWater.FindSubmatch(status)
	if err != nil || found == nil {
		t.Fatalf("%v, it said\n%s", err, log.String())
	}
	kilobytes, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return kilobytes << 10
}
