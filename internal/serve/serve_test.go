package serve

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// running is a server with its volume.
type running struct {
	*Server
	volume       *publish.Volume
	dir          string
	url, ops     string
	client       *http.Client
	log          *lockedBuffer
	stop         context.CancelFunc
	ended        chan error
	plainClients *http.Transport
}

type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

func start(t *testing.T, o Options) *running {
	t.Helper()
	r := &running{dir: t.TempDir(), log: &lockedBuffer{}, ended: make(chan error, 1)}
	r.volume = publishtest.Open(t, r.dir, 0)
	o.DataDir, o.Logger = r.dir, slog.New(slog.NewJSONHandler(r.log, nil))
	if o.Hold == 0 {
		o.Hold = 300 * time.Millisecond
	}
	if o.Grace == 0 {
		o.Grace = 10 * time.Second
	}
	r.Server = New(o)
	var listeners []net.Listener
	for range 2 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
	}
	r.url, r.ops = "http://"+listeners[0].Addr().String(), "http://"+listeners[1].Addr().String()
	r.plainClients = &http.Transport{}
	r.client = &http.Client{Transport: r.plainClients, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	ctx, cancel := context.WithCancel(context.Background())
	r.stop = cancel
	go func() { r.ended <- r.Run(ctx, listeners[0], listeners[1]) }()
	t.Cleanup(func() {
		cancel()
		r.plainClients.CloseIdleConnections()
		if err := <-r.ended; err != nil {
			t.Errorf("the server ended with %v", err)
		}
	})
	return r
}

// publish puts modules on the volume, and waits until they are served.
func (r *running) publish(t *testing.T, c *catalog.Catalog, modules ...publishtest.Module) {
	t.Helper()
	changed := r.Server.volume.current().changed
	publishtest.Put(t, r.volume, modules...)
	publishtest.Publish(t, r.volume, c)
	select {
	case <-changed:
	case <-time.After(10 * time.Second):
		t.Fatal("the new generation is not taken up")
	}
}

func (r *running) get(t *testing.T, path string, header ...string) (*http.Response, []byte) {
	t.Helper()
	return r.do(t, http.MethodGet, r.url+path, header...)
}

func (r *running) do(t *testing.T, method, url string, header ...string) (*http.Response, []byte) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), method, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		request.Header.Set(header[i], header[i+1])
	}
	response, err := r.client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	return response, body
}

func TestModule(t *testing.T) {
	t.Parallel()
	r := start(t, Options{})
	m := publishtest.New("key-auth", "1.0.0+x", 300_000, 1)
	r.publish(t, publishtest.Catalog(1, m), m)
	path := "/plugins/key-auth/1.0.0+x/plugin.wasm"
	etag, zippedTag := `"sha256-`+m.Entry.SHA256+`"`, `"sha256-`+m.Entry.SHA256+`-gzip"`
	length := "300000"
	for name, tt := range map[string]struct {
		method string
		header []string
		status int
		want   []byte
		expect map[string]string
	}{
		"plain": {http.MethodGet, []string{"Accept-Encoding", "identity"}, 200, m.Bytes, map[string]string{
			"Content-Type": "application/wasm", "Content-Length": length, "Etag": etag, "Vary": "Accept-Encoding", "Content-Encoding": "", "Accept-Ranges": "bytes",
		}},
		"gzip": {http.MethodGet, []string{"Accept-Encoding", "br, gzip;q=0.5"}, 200, m.Gzip, map[string]string{
			"Content-Type": "application/wasm", "Etag": zippedTag, "Vary": "Accept-Encoding", "Content-Encoding": "gzip",
		}},
		"anything":                       {http.MethodGet, []string{"Accept-Encoding", "*"}, 200, m.Gzip, map[string]string{"Content-Encoding": "gzip"}},
		"gzip refused":                   {http.MethodGet, []string{"Accept-Encoding", "gzip;q=0, *"}, 200, m.Bytes, map[string]string{"Content-Encoding": ""}},
		"a gateway: Go undoes the gzip":  {http.MethodGet, nil, 200, m.Bytes, map[string]string{"Etag": zippedTag}},
		"head":                           {http.MethodHead, []string{"Accept-Encoding", "identity"}, 200, nil, map[string]string{"Content-Length": length, "Etag": etag}},
		"range":                          {http.MethodGet, []string{"Range", "bytes=8-99"}, 206, m.Bytes[8:100], map[string]string{"Content-Range": "bytes 8-99/300000", "Etag": etag}},
		"a range is never of the gzip":   {http.MethodGet, []string{"Range", "bytes=-10", "Accept-Encoding", "gzip"}, 206, m.Bytes[len(m.Bytes)-10:], map[string]string{"Content-Encoding": "", "Etag": etag}},
		"a range outside":                {http.MethodGet, []string{"Range", "bytes=300000-"}, 416, nil, map[string]string{"Content-Range": "bytes */300000"}},
		"unchanged":                      {http.MethodGet, []string{"If-None-Match", etag, "Accept-Encoding", "identity"}, 304, []byte{}, map[string]string{"Etag": etag}},
		"unchanged gzip":                 {http.MethodGet, []string{"If-None-Match", zippedTag, "Accept-Encoding", "gzip"}, 304, []byte{}, map[string]string{"Etag": zippedTag}},
		"each encoding has its own ETag": {http.MethodGet, []string{"If-None-Match", zippedTag, "Accept-Encoding", "identity"}, 200, m.Bytes, nil},
		"an older part is not continued": {http.MethodGet, []string{"Range", "bytes=8-99", "If-Range", `"sha256-00"`}, 200, m.Bytes, nil},
		"no writing":                     {http.MethodPost, nil, 405, nil, map[string]string{"Allow": "GET, HEAD"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			response, body := r.do(t, tt.method, r.url+path, tt.header...)
			if response.StatusCode != tt.status || (tt.want != nil && !bytes.Equal(body, tt.want)) {
				t.Errorf("%s with %d bytes, want %d with %d", response.Status, len(body), tt.status, len(tt.want))
			}
			for key, want := range tt.expect {
				if got := response.Header.Get(key); got != want {
					t.Errorf("%s: %q, want %q", key, got, want)
				}
			}
		})
	}
}

func TestPaths(t *testing.T) {
	t.Parallel()
	r := start(t, Options{Hold: time.Hour}) // what is held would hang
	m := publishtest.New("a", "1", 5000, 1)
	old := publishtest.New("", "", 6000, 2)
	c := publishtest.Catalog(1, m)
	c.Entries = append(c.Entries, catalog.Entry{Name: "pending", Version: "1"})
	c.Superseded = []catalog.Superseded{{SHA256: old.Entry.SHA256, Size: old.Entry.Size}}
	r.publish(t, c, m, old)
	for path, want := range map[string]struct {
		status int
		body   string
	}{
		"/plugins/a/1/plugin.wasm":                                   {200, string(m.Bytes)},
		"/plugins/a/1/plugin.wasm?sha256=" + m.Entry.SHA256:          {200, string(m.Bytes)},
		"/plugins/a/1/plugin.wasm?sha256=" + old.Entry.SHA256:        {200, string(old.Bytes)},
		"/plugins/removed/1/plugin.wasm?sha256=" + old.Entry.SHA256:  {200, string(old.Bytes)},
		"/plugins/a/1/plugin.wasm?sha256=" + strings.Repeat("A", 64): {404, "sha256 has to be"},
		"/plugins/a/1/plugin.wasm?sha256=":                           {404, "sha256 has to be"},
		"/blobs/sha256/" + old.Entry.SHA256:                          {200, string(old.Bytes)},
		"/blobs/sha256/" + strings.ToUpper(old.Entry.SHA256):         {404, "nothing is served here"},
		"/blobs/sha256/":                                          {404, "nothing is served here"},
		"/plugins/a/1/metadata.txt":                               {200, string(publish.Metadata(m.Entry))},
		"/plugins/pending/1/metadata.txt":                         {503, "pending:1 is declared, but has not arrived here yet"},
		"/plugins/b/1/metadata.txt":                               {404, "no PluginSource declares b:1"},
		"/plugins/a/1/plugin.wasm.gz":                             {404, ""},
		"/plugins/a/1/plugin.wasm/":                               {404, ""},
		"/plugins/A/1/plugin.wasm":                                {404, ""},
		"/plugins/../1/plugin.wasm":                               {404, ""},
		"/plugins/%2e%2e/1/plugin.wasm":                           {404, ""},
		"/plugins/a/..%2f..%2f1/plugin.wasm":                      {404, ""},
		"/plugins/a//plugin.wasm":                                 {404, ""},
		"/plugins//1/plugin.wasm":                                 {404, ""},
		"/plugins/" + strings.Repeat("a", 300) + "/1/plugin.wasm": {404, ""},
		"/plugins/a/\u00e9/plugin.wasm":                           {404, ""},
		"/plugins/b/":                                             {404, ""},
		"/pluginsx":                                               {404, ""},
		"/":                                                       {404, ""},
		"/sync-status.json":                                       {404, ""},
		"/.gen/":                                                  {404, ""},
	} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			response, body := r.get(t, path)
			if response.StatusCode != want.status || !strings.HasPrefix(string(body), want.body) {
				t.Errorf("%s %.80q, want %d %.80q", response.Status, body, want.status, want.body)
			}
		})
	}
}

func TestListings(t *testing.T) {
	t.Parallel()
	r := start(t, Options{})
	if response, _ := r.get(t, "/plugins/"); response.StatusCode != 503 {
		t.Errorf("%s before the first catalog", response.Status)
	}
	one, two, latest := publishtest.New("a", "1.9.0", 5000, 1), publishtest.New("a", "1.10.0", 6000, 2), publishtest.New("b", "latest", 7000, 3)
	two.Entry.Digest, two.Entry.Description = "sha256:abc", `<script>alert("x")</script>`
	c := publishtest.Catalog(1, one, two, latest)
	c.Entries = append(c.Entries, catalog.Entry{Name: "c", Version: "1"})
	r.publish(t, c, one, two, latest)

	text := func(path string, accept ...string) string {
		t.Helper()
		response, body := r.get(t, path, accept...)
		if response.StatusCode != 200 || response.Header.Get("Vary") != "Accept" {
			t.Errorf("%s: %s, Vary %q", path, response.Status, response.Header.Get("Vary"))
		}
		return string(body)
	}
	for path, want := range map[string][]string{
		"/plugins/":          {"a 1.10.0 Available 6000 " + two.Entry.SHA256, "a 1.9.0 Available 5000 " + one.Entry.SHA256, "b latest Available 7000 " + latest.Entry.SHA256, "c 1 Pending 0"},
		"/plugins/a/":        {"a 1.10.0 Available 6000 " + two.Entry.SHA256, "a 1.9.0 Available 5000 " + one.Entry.SHA256},
		"/plugins/a/1.10.0/": {"a 1.10.0 Available 6000 " + two.Entry.SHA256},
	} {
		var got []string
		for line := range strings.Lines(text(path, "Accept", "*/*")) {
			got = append(got, strings.Join(strings.Fields(line), " "))
		}
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%s: %s", path, d)
		}
	}
	var listing struct{ Plugins []listed }
	if err := json.Unmarshal([]byte(text("/plugins/a/1.10.0/", "Accept", "application/json")), &listing); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff([]listed{{
		Name: "a", Version: "1.10.0", State: "Available", Size: 6000, SHA256: two.Entry.SHA256, Digest: "sha256:abc",
		MD5: two.Entry.MD5, Description: two.Entry.Description, Path: "/plugins/a/1.10.0/plugin.wasm",
		Metadata: "/plugins/a/1.10.0/metadata.txt", Content: "/plugins/a/1.10.0/plugin.wasm?sha256=" + two.Entry.SHA256,
	}}, listing.Plugins); d != "" {
		t.Error(d)
	}
	html := text("/plugins/", "Accept", "text/html,application/xhtml+xml,*/*;q=0.8")
	if strings.Contains(html, "<script>") || !strings.Contains(html, "&lt;script&gt;") || !strings.Contains(html, `href="/plugins/a/1.10.0/plugin.wasm"`) {
		t.Errorf("a description is not escaped, or a link is missing:\n%s", html)
	}

	_, body := r.get(t, "/plugins/snapshot-inventory.json")
	var inventory map[string]map[string]string
	if err := json.Unmarshal(body, &inventory); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(map[string]map[string]string{
		"a": {"version": "1.10.0", "digest": "sha256:abc", "wasmSha256": two.Entry.SHA256},
		"b": {"version": "latest", "digest": "", "wasmSha256": latest.Entry.SHA256},
	}, inventory); d != "" {
		t.Error(d)
	}
}

func TestOps(t *testing.T) {
	t.Parallel()
	r := start(t, Options{})
	expect := func(path string, status int, contains ...string) string {
		t.Helper()
		response, body := r.do(t, http.MethodGet, r.ops+path)
		for _, text := range contains {
			if response.StatusCode != status || !strings.Contains(string(body), text) {
				t.Errorf("%s: %s %s, want %d with %q", path, response.Status, body, status, text)
			}
		}
		return string(body)
	}
	expect("/healthz", 200, "ok")
	expect("/readyz", 503, "nothing is published")
	if d := cmp.Diff(`{"revision":"","sequence":0,"missing":[],"plugins":0}`+"\n", expect("/state", 200)); d != "" {
		t.Error(d)
	}
	m, absent := publishtest.New("a", "1", 5000, 1), publishtest.New("b", "2", 5000, 2)
	c := publishtest.Catalog(7, m, absent)
	r.publish(t, c, m)
	if err := r.volume.SetStatus(publish.Status{Error: "the disk is full"}); err != nil {
		t.Fatal(err)
	}
	expect("/readyz", 200, "ok")
	var state State
	if err := json.Unmarshal([]byte(expect("/state", 200)), &state); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(State{
		Revision: c.Revision(), Sequence: 7, Missing: []Missing{{"b", "2"}}, Plugins: 1, SyncError: "the disk is full",
	}, state); d != "" {
		t.Error(d)
	}
	r.get(t, "/plugins/a/1/plugin.wasm", "Accept-Encoding", "identity")
	r.get(t, "/plugins/scan/1/plugin.wasm")
	r.get(t, "/plugins/scan2/1/plugin.wasm")
	if err := r.volume.SetStatus(publish.Status{Behind: true}); err != nil {
		t.Fatal(err)
	}
	if response, body := r.do(t, http.MethodGet, r.url+"/plugins/scan3/1/plugin.wasm"); response.StatusCode != 503 || !strings.Contains(string(body), "newest catalog") {
		t.Errorf("what the newest catalog may declare gives %s %s", response.Status, body)
	}
	metrics := expect("/metrics", 200,
		`plugin_server_requests_total{code="200",plugin="a",version="1"} 1`, `plugin_server_sent_bytes_total{plugin="a",version="1"} 5000`,
		`plugin_server_unknown_plugins_total 2`, `plugin_server_requests_total{code="404",plugin="other",version="other"} 2`,
		`plugin_server_held_requests_total{end="timeout"} 3`, "plugin_server_generation_age_seconds")
	if strings.Contains(metrics, "scan") {
		t.Error("clients can make series")
	}
	r.publish(t, publishtest.Catalog(8))
	if metrics := expect("/metrics", 200); strings.Contains(metrics, `plugin="a"`) {
		t.Error("what is gone is still counted")
	}
	expect("/readyz", 200, "ok")
	var line struct {
		Msg, Method, Path, Agent, Remote string
		Status, Bytes                    int
	}
	for text := range strings.Lines(r.log.String()) {
		if strings.Contains(text, `"request"`) {
			if err := json.Unmarshal([]byte(text), &line); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if line.Method != "GET" || line.Path != "/plugins/a/1/plugin.wasm" || line.Status != 200 || line.Bytes != 5000 || line.Agent == "" || line.Remote == "" {
		t.Errorf("logged %+v", line)
	}
}
