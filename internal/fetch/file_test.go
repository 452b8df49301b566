package fetch

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/pem"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// fileServer serves bytes over HTTPS, with an ETag, and counts what it sent.
type fileServer struct {
	*httptest.Server
	content  atomic.Pointer[[]byte]
	sent     atomic.Int64 // answers with a body
	previous atomic.Pointer[http.Header]
	before   func(w http.ResponseWriter, r *http.Request) bool // answers itself if it gives true
}

func newFileServer(t *testing.T, content []byte) *fileServer {
	t.Helper()
	s := &fileServer{}
	s.content.Store(&content)
	s.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		header := r.Header.Clone()
		s.previous.Store(&header)
		if s.before != nil && s.before(w, r) {
			return
		}
		b := *s.content.Load()
		w.Header().Set("ETag", `"`+sum(b)+`"`)
		if r.Header.Get("If-None-Match") != `"`+sum(b)+`"` {
			s.sent.Add(1)
		}
		http.ServeContent(w, r, "", time.Date(2024, 1, 2, 3, 4, 5, 0, time.UTC), bytes.NewReader(b))
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *fileServer) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// request is for a file of the server.
func (s *fileServer) request(path string) Request {
	return Request{URL: s.URL + path, Access: Access{CA: s.ca()}}
}

func zstdOf(t testing.TB, b []byte) []byte {
	t.Helper()
	e, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return e.EncodeAll(b, nil)
}

func TestFetchFiles(t *testing.T) {
	t.Parallel()
	module := wasm("x")
	for name, content := range map[string][]byte{
		"raw":      module,
		"gzip":     gzipOf(t, module),
		"zstd":     zstdOf(t, module),
		"tar":      tarOf(t, file{"a/readme", nil}, file{"a/main.wasm", module}),
		"tar+gzip": gzipOf(t, tarOf(t, file{"main.wasm", wasm("y")}, file{"plugin.wasm", module})),
		"tar+zstd": zstdOf(t, tarOf(t, file{"plugin.wasm", module})),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newFileServer(t, content)
			s := newStore(t)
			f := newFetcher(t, Options{Store: s, AllowLoopback: true})
			got, err := f.Fetch(t.Context(), server.request("/dir/my-log.wasm?token=canary"))
			if err != nil {
				t.Fatal(err)
			}
			requireModule(t, s, got, module)
			if got.Digest != "sha256:"+sum(content) || got.Created.Year() != 2024 {
				t.Errorf("got %+v", got)
			}
		})
	}
}

// TestFollowFile: a file that has not changed is not sent again.
func TestFollowFile(t *testing.T) {
	t.Parallel()
	server := newFileServer(t, wasm("one"))
	f := newFetcher(t, Options{Store: newStore(t), AllowLoopback: true})
	r := server.request("/a.wasm")
	got, err := f.Fetch(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if digest, err := f.Resolve(t.Context(), r); err != nil || digest != got.Digest {
			t.Fatalf("%s %v", digest, err)
		}
	}
	if n := server.sent.Load(); n != 1 {
		t.Errorf("sent %d times", n)
	}
	two := wasm("two")
	server.content.Store(&two)
	if digest, err := f.Resolve(t.Context(), r); err != nil || digest != "sha256:"+sum(two) {
		t.Errorf("changed: %s %v", digest, err)
	}
	r.Digest = got.Digest
	_, err = f.Fetch(t.Context(), r)
	requireFailure(t, err, failure.Upstream, failure.DigestMismatch, "the file has changed")
}

func TestFileLogins(t *testing.T) {
	t.Parallel()
	const token = "the-token"
	for name, c := range map[string]struct{ login, want string }{
		"basic":  {`{"username":"me","password":"canary-p"}`, "Basic " + base64.StdEncoding.EncodeToString([]byte("me:canary-p"))},
		"bearer": {`{"registrytoken":"` + token + `"}`, "Bearer " + token},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newFileServer(t, wasm("x"))
			stranger := newFileServer(t, wasm("x"))
			server.before = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Header.Get("Authorization") != c.want {
					w.WriteHeader(http.StatusUnauthorized)
					return true
				}
				if r.URL.Path == "/away" {
					http.Redirect(w, r, stranger.URL+"/x.wasm", http.StatusFound)
					return true
				}
				return false
			}
			f := newFetcher(t, Options{Store: newStore(t), AllowLoopback: true})
			r := server.request("/a.wasm")
			r.Access.CA = append(r.Access.CA, stranger.ca()...)
			_, err := f.Fetch(t.Context(), r)
			requireFailure(t, err, failure.Upstream, failure.Unauthorized, "wants a login")
			r.Access.DockerConfig = []byte(`{"auths":{"` + strings.TrimPrefix(server.URL, "https://") + `":` + c.login + `}}`)
			if _, err := f.Fetch(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			r.URL = server.URL + "/away"
			if _, err := f.Fetch(t.Context(), r); err != nil {
				t.Fatal(err)
			}
			if got := stranger.previous.Load().Get("Authorization"); got != "" {
				t.Errorf("the login went past its origin: %q", got)
			}
			r.URL = stranger.URL + "/x.wasm"
			if _, err := f.Fetch(t.Context(), r); err != nil || stranger.previous.Load().Get("Authorization") != "" {
				t.Errorf("the login is for another host: %v", err)
			}
		})
	}
}

// TestPlainFiles: anybody on the way can change what comes by plain HTTP.
func TestPlainFiles(t *testing.T) {
	t.Parallel()
	var authorization atomic.Value
	module := wasm("x")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		authorization.Store(r.Header.Get("Authorization"))
		_, _ = w.Write(module)
	}))
	t.Cleanup(server.Close)
	f := newFetcher(t, Options{Store: newStore(t), AllowLoopback: true})
	r := Request{URL: server.URL + "/a.wasm", Access: Access{DockerConfig: []byte(`{"auths":{"` + strings.TrimPrefix(server.URL, "http://") + `":{"username":"me","password":"p"}}}`)}}
	_, err := f.Fetch(t.Context(), r)
	requireFailure(t, err, failure.Spec, failure.InvalidReference, "needs its sha256")
	r.SHA256 = sum(wasm("y"))
	_, err = f.Fetch(t.Context(), r)
	requireFailure(t, err, failure.Upstream, failure.DigestMismatch, "the module has the sha256")
	r.SHA256 = sum(module)
	if _, err = f.Fetch(t.Context(), r); err != nil || authorization.Load() != "" {
		t.Errorf("%v, the login went out in the clear: %v", err, authorization.Load())
	}
	r.Access.PlainHTTP = true // asked for
	if _, err = f.Fetch(t.Context(), r); err != nil || authorization.Load() == "" {
		t.Errorf("%v, sent %v", err, authorization.Load())
	}
}

func TestFailuresOfFiles(t *testing.T) {
	t.Parallel()
	status := func(code int) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool { w.WriteHeader(code); return true }
	}
	redirect := func(to string) func(http.ResponseWriter, *http.Request) bool {
		return func(w http.ResponseWriter, r *http.Request) bool {
			http.Redirect(w, r, to, http.StatusFound)
			return true
		}
	}
	for name, c := range map[string]struct {
		content []byte
		before  func(http.ResponseWriter, *http.Request) bool
		class   failure.Class
		reason  failure.Reason
		says    string
	}{
		"404":                  {nil, status(404), failure.Upstream, failure.NotFound, "does not have dir/a.wasm (404)"},
		"403":                  {nil, status(403), failure.Upstream, failure.Unauthorized, "(403)"},
		"429":                  {nil, status(429), failure.Transient, failure.TooManyRequests, "come back later"},
		"500":                  {nil, status(500), failure.Transient, failure.RegistryError, "problem of its own"},
		"206 unasked":          {nil, status(206), failure.Upstream, failure.RegistryError, "answered 206"},
		"304 unasked":          {nil, status(304), failure.Upstream, failure.RegistryError, "answered 304"},
		"204":                  {nil, status(204), failure.Upstream, failure.RegistryError, "answered 204"},
		"empty":                {[]byte{}, nil, failure.Upstream, failure.NotWasm, "it is empty"},
		"a login page":         {[]byte("<!DOCTYPE html><title>Sign in</title>"), nil, failure.Upstream, failure.NotWasm, "it is an HTML page"},
		"a zip":                {[]byte("PK\x03\x04 and so on"), nil, failure.Upstream, failure.NotWasm, "it is a zip archive"},
		"a tar without Wasm":   {gzipOf(t, tarOf(t, file{"main.go", nil})), nil, failure.Upstream, failure.NoWasmLayer, "an archive without a .wasm file"},
		"a cut gzip":           {gzipOf(t, wasm("x"))[:60], nil, failure.Upstream, failure.Truncated, "ends too early"},
		"a cut zstd":           {zstdOf(t, wasm("x"))[:40], nil, failure.Upstream, failure.Truncated, "ends too early"},
		"garbage after a zstd": {append(zstdOf(t, wasm("x")), "garbage"...), nil, failure.Upstream, failure.UnsupportedArtifact, "cannot be read"},
		"a zstd bomb":          {zstdOf(t, append(wasm("x"), make([]byte, 64<<20)...)), nil, failure.Upstream, failure.TooLarge, "expands"},
		"a body that is cut": {nil, func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Length", "100000")
			_, _ = w.Write(wasm("x")[:100])
			return true
		}, failure.Transient, failure.Truncated, "broke in the middle"},
		"a redirect to HTTP":         {nil, redirect("http://127.0.0.1:1/canary"), failure.Upstream, failure.RegistryError, "from HTTPS to HTTP"},
		"a redirect to the metadata": {nil, redirect("https://169.254.169.254/canary"), failure.Upstream, failure.ForbiddenAddress, "link-local"},
		"a redirect to another":      {nil, redirect("https://100.100.100.200/canary"), failure.Upstream, failure.ForbiddenAddress, "100.100.100.200"},
		"redirects in a circle":      {nil, redirect("/dir/a.wasm"), failure.Upstream, failure.RegistryError, "more than 5 redirects"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			server := newFileServer(t, c.content)
			server.before = c.before
			s := newStore(t)
			_, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).Fetch(t.Context(), server.request("/dir/a.wasm?canary"))
			requireFailure(t, err, c.class, c.reason, c.says)
			if s.Used() != 0 {
				t.Errorf("%d bytes in the store", s.Used())
			}
		})
	}
}

func TestAddressesOfFiles(t *testing.T) {
	t.Parallel()
	f := newFetcher(t, Options{Store: newStore(t)})
	for _, address := range []string{
		"https://", "https:///a", "https://x", "https://x/", "https://x/dir/", "https://me:canary@x/a", "https://me@x/a", "https://x/a#f",
		"https://x:99999/a", "https://x:0/a", "https://x y/a", "https://x/%zz", "https://[::1/a", "https://[fe80::1%25eth0]/a", "https://x..y/a",
		"https://" + strings.Repeat("a", 2000) + "/a", "HTTPS://x/a", "https:x/a", "ftp://x/a", "file:///etc/passwd", "gopher://x/a", "//x/a", "",
	} {
		_, err := f.Fetch(t.Context(), Request{URL: address})
		requireFailure(t, err, failure.Spec, failure.InvalidReference, "")
	}
	for _, address := range []string{
		"https://127.0.0.1/a", "https://localhost/a", "https://[::1]/a", "https://[::ffff:127.0.0.1]/a", "https://0.0.0.0/a", "https://[::]/a",
		"https://169.254.169.254/latest/meta-data", "https://[fe80::1]/a", "https://100.100.100.200/a", "https://[fd00:ec2::254]/a", "https://224.0.0.1/a", "https://127.1.2.3:8443/a",
	} {
		_, err := f.Fetch(t.Context(), Request{URL: address})
		requireFailure(t, err, failure.Upstream, failure.ForbiddenAddress, "the operator does not connect there")
	}
}

func TestFetchConfigMaps(t *testing.T) {
	t.Parallel()
	module := wasm("x")
	s := newStore(t)
	zipped := gzipOf(t, module)
	f := newFetcher(t, Options{Store: s, ConfigMaps: func(_ context.Context, namespace string, names []string) (io.ReadCloser, error) {
		if namespace != "n" || len(names) == 1 {
			return nil, failure.New(failure.Waiting, failure.ConfigMapNotFound, nil, "missing")
		}
		half := len(zipped) / 2
		return io.NopCloser(io.MultiReader(bytes.NewReader(zipped[:half]), bytes.NewReader(zipped[half:]))), nil
	}})
	got, err := f.Fetch(t.Context(), Request{URL: "configmap://n/a,b", SHA256: sum(module)})
	if err != nil {
		t.Fatal(err)
	}
	requireModule(t, s, got, module)
	_, err = f.Fetch(t.Context(), Request{URL: "configmap://n/a,b", SHA256: sum(nil)})
	requireFailure(t, err, failure.Upstream, failure.DigestMismatch, "ConfigMaps a, b: the module has the sha256")
	_, err = f.Fetch(t.Context(), Request{URL: "configmap://n/a", SHA256: sum(module)})
	requireFailure(t, err, failure.Waiting, failure.ConfigMapNotFound, "missing")
	_, err = f.Fetch(t.Context(), Request{URL: "configmap://n/a,b"})
	requireFailure(t, err, failure.Spec, failure.InvalidReference, "needs its sha256")
	_, err = newFetcher(t, Options{Store: s}).Fetch(t.Context(), Request{URL: "configmap://n/a,b", SHA256: sum(module)})
	requireFailure(t, err, failure.Spec, failure.InvalidReference, "no cluster")
}

// TestAlternatives: mirrors have a plugin under one of several paths.
func TestAlternatives(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.push("plugins/a:1", layer{wasmType, wasm("first"), ""})
	r.push("b:1", layer{wasmType, wasm("second"), ""})
	s := newStore(t)
	f := newFetcher(t, Options{Store: s, AllowLoopback: true})
	request := func(urls ...string) Request {
		q := Request{Access: Access{CA: r.ca()}}
		q.URL = r.url(urls[0])
		for _, url := range urls[1:] {
			q.Alternatives = append(q.Alternatives, r.url(url))
		}
		return q
	}
	for _, c := range []struct {
		urls []string
		want []byte
	}{
		{[]string{"plugins/a:1", "a:1"}, wasm("first")},
		{[]string{"plugins/b:1", "b:1"}, wasm("second")},
		{[]string{"plugins/b:1", "x:1", "b:1"}, wasm("second")},
	} {
		got, err := f.Fetch(t.Context(), request(c.urls...))
		if err != nil {
			t.Fatal(err)
		}
		requireModule(t, s, got, c.want)
		if digest, err := f.Resolve(t.Context(), request(c.urls...)); err != nil || digest != got.Digest {
			t.Errorf("%s %v", digest, err)
		}
		again := request(c.urls...)
		again.Digest = got.Digest
		if got, err = f.Fetch(t.Context(), again); err != nil {
			t.Errorf("by its digest: %v", err)
		} else {
			requireModule(t, s, got, c.want)
		}
	}
	_, err := f.Fetch(t.Context(), request("x:1", "y:1", "z:1"))
	requireFailure(t, err, failure.Upstream, failure.NotFound, "does not have x:1 (404)")
	requireFailure(t, err, failure.Upstream, failure.NotFound, "2 other paths where mirrors have it were tried too")
}
