package main

import (
	"bytes"
	"encoding/json"
	"encoding/pem"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/hostile"
)

// inNamespaces is set for the test that runs in namespaces of its own.
const inNamespaces = "PLUGIN_SERVER_TEST_IN_NAMESPACES"

// TestHostile gives the whole corpus to the real program, in namespaces in which
// every address leads to this machine, and nothing but /tmp can be written.
func TestHostile(t *testing.T) {
	if os.Getenv(inNamespaces) != "" {
		hostileInside(t)
		return
	}
	t.Parallel()
	runtime.LockOSThread() // the child ends with the thread that started it
	defer runtime.UnlockOSThread()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^TestHostile$", "-test.v", "-test.timeout=2m")
	cmd.Env = append(os.Environ(), inNamespaces+"=1", "TMPDIR=/tmp")
	mapped := func(id int) []syscall.SysProcIDMap { return []syscall.SysProcIDMap{{HostID: id, Size: 1}} }
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWUSER | syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID, // so that all end together
		UidMappings: mapped(os.Getuid()), GidMappings: mapped(os.Getgid()), Pdeathsig: syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(out, []byte("--- PASS: TestHostile")) {
		t.Errorf("%v\n%s", err, out)
	}
}

func hostileInside(t *testing.T) {
	alone(t)
	n := newHostileNet(t)
	var corpus []hostile.Case
	for _, c := range hostile.All() {
		if c.List == "" { // without a cluster there are no lists
			corpus = append(corpus, c)
		}
	}
	n.server = hostile.New(hostileHost, foreignHost, corpus)
	n.server.Turn()
	home := t.TempDir()
	data := filepath.Join(home, "data")
	write := func(path string, content []byte) {
		path = filepath.Join(home, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("source.json", hostileSource(t, corpus))
	write(".docker/config.json", n.server.Login())
	write("ca.pem", pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: n.certificate}))
	t.Setenv("HOME", home)
	t.Setenv("SSL_CERT_FILE", filepath.Join(home, "ca.pem"))
	t.Setenv("GODEBUG", "netdns=go")
	for _, proxy := range []string{"HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"} {
		t.Setenv(proxy, "")
	}

	before := filesBut(t, data)
	p := begin(t, "local", "--allow-loopback=false", "--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", "--data-dir="+data, filepath.Join(home, "source.json"))
	saysWhy(t, p.log.String(), corpus)
	servesTheGood(t, p, corpus)
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	if ended := <-p.ended; ended != nil || err != nil {
		t.Errorf("told to end, it ended with %v, %v", ended, err)
	}
	p.ended <- nil
	if after := filesBut(t, data); !maps.Equal(before, after) {
		t.Errorf("files beside the plugins' were %v, and are %v", before, after)
	}
	said := p.log.String()
	if strings.Contains(said, "panic") || strings.Contains(said, "fatal error") || strings.Contains(said, "DATA RACE") || hostile.Leaks(said) {
		t.Errorf("it says\n%s", said)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.dialed) > 0 || len(n.server.Leaks()) > 0 {
		t.Errorf("forbidden addresses were dialed: %v; the foreign server got %q", n.dialed, n.server.Leaks())
	}
}

// fine are good plugins beside the corpus, with their urls.
var fine = map[string]string{
	"fine":        "oci://" + hostileHost + "/good-then-bad/fine:1",
	"fine-signed": "https://" + hostileHost + "/files/fine-signed.wasm?signature=" + hostile.Canary,
}

// hostileSource is a PluginSource with the corpus, and with what is good.
func hostileSource(t *testing.T, corpus []hostile.Case) []byte {
	t.Helper()
	var plugins []map[string]string
	for _, name := range slices.Sorted(maps.Keys(fine)) {
		plugins = append(plugins, map[string]string{"name": name, "version": "1", "url": fine[name]})
	}
	for _, c := range corpus {
		plugins = append(plugins, map[string]string{"name": c.Name, "version": "1", "url": c.URL(hostileHost, foreignHost), "sha256": c.SHA256})
	}
	b, err := json.Marshal(map[string]any{
		"apiVersion": "plugins.higress.io/v1alpha1", "kind": "PluginSource", "metadata": map[string]string{"name": "hostile"},
		"spec": map[string]any{"plugins": plugins},
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// saysWhy looks for the reason of every case in the log.
func saysWhy(t *testing.T, log string, corpus []hostile.Case) {
	t.Helper()
	said := map[string]string{}
	for line := range strings.Lines(log) {
		var l struct{ Plugin, Error string }
		if json.Unmarshal([]byte(line), &l) != nil {
			t.Errorf("it says %s", line)
		}
		said[l.Plugin] += l.Error
	}
	for _, c := range corpus {
		if !strings.Contains(said[c.Name+":1"], c.Says) {
			t.Errorf("of %s it says %q, want %q", c.Name, said[c.Name+":1"], c.Says)
		}
	}
}

// servesTheGood downloads everything: only what is good is there.
func servesTheGood(t *testing.T, p *program, corpus []hostile.Case) {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{}}
	defer client.CloseIdleConnections()
	look := func(url string) (int, []byte) {
		status, b, err := get(client, url)
		if err != nil || hostile.Leaks(string(b)) {
			t.Errorf("%s: %d %v\n%s", url, status, err, b)
		}
		return status, b
	}
	for name := range fine {
		at := p.url + "/plugins/" + name + "/1/"
		if status, b := look(at + "plugin.wasm"); status != http.StatusOK || !bytes.Equal(b, hostile.Good(name)) {
			t.Errorf("%s: %d with %d bytes", name, status, len(b))
		}
		if status, _ := look(at + "metadata.txt"); status != http.StatusOK {
			t.Errorf("metadata of %s: %d", name, status)
		}
	}
	var asking sync.WaitGroup // at once, since each is held for some time
	for _, c := range corpus {
		asking.Go(func() {
			if status, _ := look(p.url + "/plugins/" + c.Name + "/1/plugin.wasm"); status != http.StatusNotFound {
				t.Errorf("%s is served: %d", c.Name, status)
			}
		})
	}
	asking.Wait()
	for _, url := range []string{p.url + "/plugins", p.ops + "/state", p.ops + "/metrics", p.ops + "/readyz"} {
		look(url)
	}
}

// filesBut gives what is in /tmp, with its size and time, except for a folder.
func filesBut(t *testing.T, folder string) map[string]string {
	t.Helper()
	found := map[string]string{}
	err := filepath.WalkDir("/tmp", func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == folder {
			return fs.SkipDir
		}
		info, err := d.Info()
		if err == nil && !d.IsDir() {
			found[path] = info.Mode().String() + info.ModTime().String()
		} else if err == nil {
			found[path] = info.Mode().String()
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}
