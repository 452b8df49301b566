//go:build browser && linux

package serve

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// chromium runs a real one without a window. All that it asks for, of whatever
// host, goes to one proxy.
type chromium struct {
	program  string
	proxy    string // where all of its requests go
	dir      string // its home; goes with the test, and with what else is in it
	group    int    // its process group
	noScript bool   // the user has switched JavaScript off
}

// withoutScript is the browser of a user who has switched JavaScript off.
func (c chromium) withoutScript() *chromium {
	c.noScript = true
	return &c
}

// newChromium finds the browser and makes its home.
func newChromium(t *testing.T) *chromium {
	t.Helper()
	c := &chromium{program: os.Getenv("CHROMIUM")}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); c.program == "" && err == nil {
			c.program = path
		}
	}
	if c.program == "" {
		t.Fatal("there is no chromium: run make test-page, which installs it, or name the program in CHROMIUM")
	}
	var err error
	if c.dir, err = os.MkdirTemp("", "page-browser-"); err != nil {
		t.Fatal(err)
	}
	c.guard(t)
	return c
}

// guard starts a guardian, in whose process group the browser runs. It waits at
// a pipe that only the test holds: when the test ends, in whatever way, it ends the
// browser and removes its home. There is no other way to the end.
func (c *chromium) guard(t *testing.T) {
	t.Helper()
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	guardian := exec.Command("sh", "-c", `trap "" TERM; read -r _; kill -TERM 0; for i in 1 2 3 4 5 6 7 8 9; do sleep 0.1; rm -rf "$0" && [ "$i" -gt 1 ] && exit; done`, c.dir)
	guardian.Stdin, guardian.SysProcAttr = reader, &syscall.SysProcAttr{Setpgid: true}
	if err := guardian.Start(); err != nil {
		t.Fatal(err)
	}
	_ = reader.Close()
	c.group = guardian.Process.Pid
	t.Cleanup(func() {
		_ = writer.Close()
		if err := guardian.Wait(); err != nil {
			t.Errorf("the browser's home %s was not removed: %v", c.dir, err)
		}
		if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the browser's home %s is still there: %v", c.dir, err)
		}
		for end := time.Now().Add(10 * time.Second); !errors.Is(syscall.Kill(-c.group, 0), syscall.ESRCH); time.Sleep(20 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("a process of the browser is still there, in group %d", c.group)
			}
		}
	})
}

// run loads a page. It gives what the browser writes, and what pages say on
// its console.
func (c *chromium) run(t *testing.T, url string, flags ...string) (out, console string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	args := append([]string{
		"--headless", "--disable-gpu", "--user-data-dir=" + c.profile(t),
		"--proxy-server=" + c.proxy, "--proxy-bypass-list=<-loopback>", "--enable-logging=stderr",
		"--hide-scrollbars", "--force-device-scale-factor=1", "--disable-lcd-text", "--lang=en-US",
		// It has nothing to do of its own.
		"--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
		"--disable-default-apps", "--disable-domain-reliability", "--disable-crash-reporter", "--disable-breakpad",
	}, flags...)
	if os.Getuid() == 0 {
		args = append(args, "--no-sandbox") // it has none for root
	}
	cmd := exec.CommandContext(ctx, c.program, append(args, url)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.dir, "TMPDIR=" + c.dir, "LANG=C.UTF-8", "TZ=Asia/Shanghai"}
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, 5*time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pgid: c.group, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // Pdeathsig is sent when the thread ends
	defer runtime.UnlockOSThread()
	if err := cmd.Run(); err != nil {
		t.Fatalf("chromium %s: %v\n%s", url, err, stderr.String())
	}
	for line := range strings.Lines(stderr.String()) {
		if consoleLine.MatchString(line) {
			console += line
		}
	}
	return stdout.String(), console
}

// profile makes the settings of a new user.
func (c *chromium) profile(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp(c.dir, "profile-")
	if err != nil {
		t.Fatal(err)
	}
	if c.noScript {
		err := os.Mkdir(filepath.Join(dir, "Default"), 0o700)
		err = errors.Join(err, os.WriteFile(filepath.Join(dir, "Default", "Preferences"), []byte(`{"profile":{"default_content_setting_values":{"javascript":2}}}`), 0o600))
		if err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

var consoleLine = regexp.MustCompile(`^\[[^\]]*:CONSOLE\b`)

// dom loads a page and gives its document as the browser has it.
func (c *chromium) dom(t *testing.T, url string, flags ...string) (*element, string) {
	t.Helper()
	out, console := c.run(t, url, append(flags, "--dump-dom")...)
	return parse(t, out), console
}

// element of a document.
type element struct {
	name     string
	attr     map[string]string
	children []*element
	text     string // of a text, which has no name
}

// parse reads what the browser has written, which is well-formed but for
// elements without an end.
func parse(t *testing.T, html string) *element {
	t.Helper()
	root := &element{}
	open := []*element{root}
	d := xml.NewDecoder(strings.NewReader(html))
	d.Strict, d.AutoClose, d.Entity = false, xml.HTMLAutoClose, xml.HTMLEntity
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return root
		}
		if err != nil {
			t.Fatalf("the document cannot be read: %v\n%.2000s", err, html)
		}
		last := open[len(open)-1]
		switch token := token.(type) {
		case xml.StartElement:
			e := &element{name: token.Name.Local, attr: map[string]string{}}
			for _, a := range token.Attr {
				e.attr[a.Name.Local] = a.Value
			}
			last.children = append(last.children, e)
			open = append(open, e)
		case xml.EndElement:
			open = open[:len(open)-1]
		case xml.CharData:
			last.children = append(last.children, &element{text: string(token)})
		}
	}
}

// all gives the elements of a name, in order.
func (e *element) all(name string) []*element {
	var found []*element
	for _, child := range e.children {
		if child.name == name {
			found = append(found, child)
		}
		found = append(found, child.all(name)...)
	}
	return found
}

// words gives the text of an element, spaces folded.
func (e *element) words() string {
	var collect func(e *element) string
	collect = func(e *element) string {
		s := e.text
		for _, child := range e.children {
			s += collect(child)
			if child.name != "" {
				s += " "
			}
		}
		return s
	}
	return strings.Join(strings.Fields(collect(e)), " ")
}

// ownBusiness are the hosts that the browser asks whatever it shows. A host
// with fonts, say, is not among them.
var ownBusiness = map[string]bool{
	"accounts.google.com": true, "clients2.google.com": true, "optimizationguide-pa.googleapis.com": true, "update.googleapis.com": true,
}

// visits notes what is asked for, and answers for one host only.
type visits struct {
	next http.Handler
	mu   sync.Mutex
	seen []string
}

func (v *visits) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if !ownBusiness[r.URL.Hostname()] {
		v.mu.Lock()
		v.seen = append(v.seen, r.Method+" "+r.URL.String())
		v.mu.Unlock()
	}
	if r.Method == http.MethodConnect || r.Host != siteHost {
		http.Error(w, "there is no other host", http.StatusBadGateway)
		return
	}
	v.next.ServeHTTP(w, r)
}

// take gives what was asked for since it was last called.
func (v *visits) take() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	seen := v.seen
	v.seen = nil
	return seen
}
