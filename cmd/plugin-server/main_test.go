package main

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/handout"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// asProgram makes the test's own program plugin-server.
const asProgram = "PLUGIN_SERVER_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
		return
	}
	goleak.VerifyTestMain(m)
}

// program is a running plugin-server.
type program struct {
	cmd      *exec.Cmd
	url, ops string
	children chan int // process IDs of sync, as they are started
	ended    chan error
	log      lockedBuffer
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) add(line []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b.Write(append(line, '\n'))
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func begin(t *testing.T, args ...string) *program {
	t.Helper()
	p := &program{cmd: exec.Command(os.Args[0], args...), children: make(chan int, 1000), ended: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), asProgram+"=1", "POD_NAME=pod-1")
	said, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	serving := make(chan struct{}, 1)
	go func() {
		defer func() { p.ended <- p.cmd.Wait() }()
		for lines := bufio.NewScanner(said); lines.Scan(); {
			p.log.add(lines.Bytes())
			var line struct {
				Msg, Plugins, Ops string
				PID               int
			}
			if json.Unmarshal(lines.Bytes(), &line) != nil && line.Msg != "serving" {
				continue
			}
			switch line.Msg {
			case "serving":
				p.url, p.ops = "http://"+line.Plugins, "http://"+line.Ops
				serving <- struct{}{}
			case "the child was started":
				p.children <- line.PID
			}
		}
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill() // has usually ended
		<-p.ended                //nolint:errcheck // its end is all that counts
	})
	select {
	case <-serving:
	case err := <-p.ended:
		p.ended <- err
		t.Fatalf("ended with %v:\n%s", err, p.log.String())
	}
	return p
}

// pods is what the operator does for them: the real handout on real HTTP.
func pods(t *testing.T) (o *handout.Handler, store *publish.Volume, url string) {
	t.Helper()
	store = publishtest.Open(t, t.TempDir(), 0)
	o = handout.New(handout.Options{
		Blobs: store, Missing: func(string) bool { return true }, Lost: func(string) bool { return false },
		Polled: func(string, string, string) {}, Logger: slog.New(slog.DiscardHandler),
	})
	server := httptest.NewServer(o)
	t.Cleanup(func() {
		o.Close()
		server.CloseClientConnections()
		server.Close()
	})
	return o, store, server.URL
}

func hand(t *testing.T, o *handout.Handler, c *catalog.Catalog) {
	t.Helper()
	b, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	o.SetCatalog("ns/plugins", b, c.Revision())
}

func get(client *http.Client, url string) (int, []byte, error) {
	response, err := client.Get(url)
	if err != nil {
		return 0, nil, err
	}
	defer response.Body.Close()
	b, err := io.ReadAll(response.Body)
	return response.StatusCode, b, err
}

func arguments(dir, url string, more ...string) []string {
	return append([]string{
		"serve", "--data-dir=" + dir, "--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0", "--drain-delay=100ms", "--grace=5s",
		"--", "sync", "--data-dir=" + dir, "--catalog=" + filepath.Join(dir, "none"), "--operator-url=" + url,
		"--server=ns/plugins", "--size-limit=1073741824",
	}, more...)
}

// TestSyncIsKilled: twenty times, under a thousand downloads, while plugins
// change.
func TestSyncIsKilled(t *testing.T) {
	t.Parallel()
	o, store, url := pods(t)
	first := publishtest.New("stable", "1", 200_000, 1)
	publishtest.Put(t, store, first)
	hand(t, o, publishtest.Catalog(1, first))
	dir := t.TempDir()
	// The race detector alone takes more memory than sync may.
	p := begin(t, arguments(dir, url, "--memory-limit=17179869184")...)

	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4}}
	defer client.CloseIdleConnections()
	if status, b, err := get(client, p.url+"/plugins/stable/1/plugin.wasm"); err != nil || status != 200 || !bytes.Equal(b, first.Bytes) {
		t.Fatalf("the first download, held from before the first catalog: %d %v\n%s", status, err, p.log.String())
	}
	if status, _, err := get(client, p.ops+"/readyz"); err != nil || status != 200 {
		t.Fatalf("ready: %d %v", status, err)
	}
	var downloads atomic.Int64
	stop := make(chan struct{})
	var loading sync.WaitGroup
	for range 2 {
		loading.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				if status, b, err := get(client, p.url+"/plugins/stable/1/plugin.wasm"); err != nil || status != 200 || !bytes.Equal(b, first.Bytes) {
					t.Errorf("a download failed: %d with %d bytes: %v", status, len(b), err)
					return
				}
				if status, _, err := get(client, p.ops+"/readyz"); err != nil || status != 200 {
					t.Errorf("no longer ready: %d %v", status, err)
					return
				}
				downloads.Add(1)
			}
		})
	}
	var last publishtest.Module
	for i := range 20 {
		last = publishtest.New("changing", "1", 100_000, uint64(10+i))
		publishtest.Put(t, store, last)
		hand(t, o, publishtest.Catalog(int64(i+2), first, last))
		pid := <-p.children
		time.Sleep(time.Duration(i) * 10 * time.Millisecond) // at another point each time
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	}
	for downloads.Load() < 1000 && !t.Failed() {
		time.Sleep(10 * time.Millisecond)
	}
	close(stop)
	loading.Wait()
	eventually(t, "the last change is served", func() bool {
		_, b, err := get(client, p.url+"/plugins/changing/1/plugin.wasm")
		return err == nil && bytes.Equal(b, last.Bytes)
	})

	pid := <-p.children
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	err := <-p.ended
	p.ended <- err
	if err != nil {
		t.Errorf("told to end, it ended with %v:\n%s", err, p.log.String())
	}
	if err := syscall.Kill(pid, 0); err == nil {
		t.Error("sync lives on")
	}
}

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !holds(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

// TestSyncCannotRun: out of memory, wrong arguments, a volume it cannot write:
// what is on the volume is served.
func TestSyncCannotRun(t *testing.T) {
	t.Parallel()
	for name, more := range map[string][]string{
		"out of memory":  {"--memory-limit=1048576"},
		"a wrong flag":   {"--nonsense"},
		"a wrong volume": {"--data-dir=/dev/null"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			v := publishtest.Open(t, dir, 0)
			m := publishtest.New("a", "1", 200_000, 1)
			publishtest.Put(t, v, m)
			publishtest.Publish(t, v, publishtest.Catalog(1, m))
			p := begin(t, arguments(dir, "http://127.0.0.1:1", more...)...)
			client := &http.Client{}
			defer client.CloseIdleConnections()
			for range 3 {
				<-p.children // it dies and is started again
				if status, b, err := get(client, p.url+"/plugins/a/1/plugin.wasm"); err != nil || status != 200 || !bytes.Equal(b, m.Bytes) {
					t.Errorf("%d %v", status, err)
				}
				if status, _, err := get(client, p.ops+"/readyz"); err != nil || status != 200 {
					t.Errorf("ready: %d %v", status, err)
				}
			}
			if log := p.log.String(); !strings.Contains(log, "the child ended and is started again") {
				t.Errorf("nobody is told:\n%s", log)
			}
		})
	}
}

func TestUsage(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		args []string
		code int
		says string
	}{
		"nothing":                  {nil, 2, "usage:"},
		"an unknown verb":          {[]string{"run"}, 2, "usage:"},
		"help of serve":            {[]string{"serve", "--help"}, 0, "-drain-delay"},
		"help of sync":             {[]string{"sync", "--help"}, 0, "-operator-url"},
		"help of local":            {[]string{"local", "--help"}, 0, "-listen"},
		"version":                  {[]string{"version"}, 0, "dev"},
		"sync without an operator": {[]string{"sync"}, 1, "http://HOST:PORT is expected"},
		"sync without a server":    {[]string{"sync", "--operator-url=http://h:1"}, 1, "NAMESPACE/NAME is expected"},
		"sync with wrong peers":    {[]string{"sync", "--operator-url=http://h:1", "--server=a/b", "--peers=host"}, 1, "HOST:PORT is expected"},
		"local without files":      {[]string{"local"}, 1, "needs PluginSource files"},
		"local without the file":   {[]string{"local", "/nonexistent.yaml"}, 1, "no such file"},
		"a port that is taken":     {[]string{"serve", "--listen=256.0.0.1:1"}, 1, "256.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0], tt.args...)
			cmd.Env = append(os.Environ(), asProgram+"=1")
			out, _ := cmd.CombinedOutput() // the code says it
			if code := cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(string(out), tt.says) {
				t.Errorf("exit code %d, want %d and %q:\n%s", code, tt.code, tt.says, out)
			}
		})
	}
}

// serving runs local and gives its URL.
func serving(t *testing.T, args ...string) (url string, log *lockedBuffer) {
	t.Helper()
	log = &lockedBuffer{}
	addresses := make(chan string, 1)
	logger := slog.New(slog.NewJSONHandler(writerFunc(func(p []byte) (int, error) {
		log.add(bytes.TrimSpace(p))
		var line struct{ Msg, Plugins string }
		if json.Unmarshal(p, &line) == nil && line.Msg == "serving" {
			addresses <- line.Plugins
		}
		return len(p), nil
	}), nil))
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- serveLocal(ctx, append([]string{"--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0"}, args...), logger)
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("local ended with %v", err)
		}
	})
	select {
	case address := <-addresses:
		return "http://" + address, log
	case err := <-ended:
		ended <- nil
		t.Fatalf("local ended with %v:\n%s", err, log.String())
	}
	return "", nil
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestLocalFolder(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	m := publishtest.New("my-auth", "1.0.0", 100_000, 1)
	for path, content := range map[string][]byte{
		"my-auth/1.0.0/plugin.wasm":  m.Bytes,
		"my-auth/1.0.0/metadata.txt": []byte("name: x\ncreated: 2024-01-01T00:00:00Z\ndescription: Mine: all of it\nsha256: forged\n"),
		"broken/1/plugin.wasm":       []byte("not Wasm"),
		"Upper/1/plugin.wasm":        m.Bytes,
	} {
		path = filepath.Join(folder, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	url, log := serving(t, folder)
	client := &http.Client{}
	defer client.CloseIdleConnections()
	if status, b, err := get(client, url+"/plugins/my-auth/1.0.0/plugin.wasm"); err != nil || status != 200 || !bytes.Equal(b, m.Bytes) {
		t.Errorf("%d %v", status, err)
	}
	want := fmt.Sprintf("name: my-auth\nversion: 1.0.0\nsize: 100000\nmd5: %s\ncreated: 2024-01-01T00:00:00Z\nsha256: %x\ndescription: Mine: all of it\n",
		m.Entry.MD5, sha256.Sum256(m.Bytes))
	if status, b, err := get(client, url+"/plugins/my-auth/1.0.0/metadata.txt"); err != nil || status != 200 || string(b) != want {
		t.Errorf("%d %v\n%s", status, err, b)
	}
	if status, _, _ := get(client, url+"/plugins/broken/1/plugin.wasm"); status != 404 {
		t.Errorf("something broken is served: %d", status)
	}
	for _, reported := range []string{"broken/1/plugin.wasm", "Upper/1/plugin.wasm"} {
		if !strings.Contains(log.String(), reported) {
			t.Errorf("%s is not reported:\n%s", reported, log.String())
		}
	}
}
