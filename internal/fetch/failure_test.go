package fetch

import (
	"bytes"
	"crypto/tls"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// requireFailure checks what a user is told.
func requireFailure(t *testing.T, err error, class failure.Class, reason failure.Reason, says string) {
	t.Helper()
	if err == nil {
		t.Fatal("it was fetched")
	}
	f := failure.Of(err)
	if f.Class != class || f.Reason != reason || !strings.Contains(f.Message, says) {
		t.Errorf("got %s %s %q, want %s %s that says %q", f.Class, f.Reason, f.Message, class, reason, says)
	}
	if len(f.Message) > 512 {
		t.Errorf("the message has %d characters", len(f.Message))
	}
	for _, text := range []string{f.Message, fmt.Sprint(f.Err)} {
		if strings.Contains(text, "canary") || strings.ContainsAny(text, "\n\x00") {
			t.Errorf("%q holds a secret or cannot be printed", text)
		}
	}
}

// answer makes a fault: every request for what the path holds is answered with a status.
func answer(part string, status int) func(*testRegistry) {
	return func(r *testRegistry) {
		r.front = func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, part) {
				return false
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = io.WriteString(w, `{"errors":[{"code":"UNKNOWN","message":"canary\n"}]}`)
			return true
		}
	}
}

// body makes a fault: blobs are answered with these bytes and this header.
func body(content []byte, header http.Header) func(*testRegistry) {
	return func(r *testRegistry) {
		r.front = func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, "/blobs/") {
				return false
			}
			for name, values := range header {
				w.Header()[name] = values
			}
			_, _ = w.Write(content)
			return true
		}
	}
}

// manifestBody makes a fault: manifests are answered with this body and type.
func manifestBody(mediaType, content string) func(*testRegistry) {
	return func(r *testRegistry) {
		r.front = func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.Contains(req.URL.Path, "/manifests/") {
				return false
			}
			w.Header().Set("Content-Type", mediaType)
			w.Header().Set("Docker-Content-Digest", digest.FromString(content).String())
			w.Header().Set("Content-Length", strconv.Itoa(len(content)))
			_, _ = io.WriteString(w, content)
			return true
		}
	}
}

func redirect(to string) func(*testRegistry) {
	return func(r *testRegistry) {
		r.front = func(w http.ResponseWriter, req *http.Request) bool {
			http.Redirect(w, req, to, http.StatusTemporaryRedirect)
			return true
		}
	}
}

func TestFailuresOfRegistries(t *testing.T) {
	t.Parallel()
	module := wasm("x")
	chunked := http.Header{"Transfer-Encoding": {"chunked"}}
	for name, test := range map[string]struct {
		fault  func(*testRegistry)
		class  failure.Class
		reason failure.Reason
		says   string
	}{
		"401":                        {answer("/manifests/", 401), failure.Upstream, failure.Unauthorized, "name a Secret in secretRef"},
		"403":                        {answer("/manifests/", 403), failure.Upstream, failure.Unauthorized, "(403)"},
		"404":                        {answer("/manifests/", 404), failure.Upstream, failure.NotFound, "does not have a/b:1 (404)"},
		"404 for the layer":          {answer("/blobs/", 404), failure.Upstream, failure.NotFound, "does not have layer "},
		"429":                        {answer("/manifests/", 429), failure.Transient, failure.TooManyRequests, "(429)"},
		"408":                        {answer("/manifests/", 408), failure.Transient, failure.RegistryError, "(408)"},
		"500":                        {answer("/manifests/", 500), failure.Transient, failure.RegistryError, "(500)"},
		"503 for the layer":          {answer("/blobs/", 503), failure.Transient, failure.RegistryError, "(503)"},
		"418":                        {answer("/manifests/", 418), failure.Upstream, failure.RegistryError, "answered 418"},
		"a page instead":             {manifestBody("text/html", "<html>sign in</html>"), failure.Upstream, failure.UnsupportedArtifact, "text/html is no image manifest"},
		"no type":                    {manifestBody(";", "x"), failure.Upstream, failure.RegistryError, "does not follow the distribution specification"},
		"another type":               {manifestBody("application/vnd.docker.distribution.manifest.v1+json", "{}"), failure.Upstream, failure.UnsupportedArtifact, "manifest.v1+json is no image manifest"},
		"a malformed manifest":       {manifestBody(ocispec.MediaTypeImageManifest, `{"layers":7}`), failure.Upstream, failure.UnsupportedArtifact, "its manifest is malformed"},
		"a malformed index":          {manifestBody(ocispec.MediaTypeImageIndex, `[]`), failure.Upstream, failure.UnsupportedArtifact, "its index is malformed"},
		"an empty index":             {manifestBody(ocispec.MediaTypeImageIndex, `{}`), failure.Upstream, failure.UnsupportedArtifact, "its index names no image"},
		"a manifest of 5 MiB":        {manifestBody(ocispec.MediaTypeImageManifest, strings.Repeat(" ", 5<<20)), failure.Upstream, failure.TooLarge, "its manifest has"},
		"no layers":                  {manifestBody(ocispec.MediaTypeImageManifest, `{}`), failure.Upstream, failure.NoWasmLayer, "it has no layers"},
		"a layer without a size":     {manifestBody(ocispec.MediaTypeImageManifest, `{"layers":[{"mediaType":"application/wasm","size":-1}]}`), failure.Upstream, failure.UnsupportedArtifact, "proper size and digest"},
		"a layer of an exabyte":      {manifestBody(ocispec.MediaTypeImageManifest, `{"layers":[{"mediaType":"application/wasm","size":1152921504606846976,"digest":"sha256:`+sum(nil)+`"}]}`), failure.Upstream, failure.TooLarge, "a layer of"},
		"too many layers":            {manifestBody(ocispec.MediaTypeImageManifest, `{"layers":[`+strings.Repeat(`{"mediaType":"application/wasm"},`, 40)+`{}]}`), failure.Upstream, failure.UnsupportedArtifact, "it has 40 layers"},
		"other bytes":                {body(bytes.ReplaceAll(module, []byte("module"), []byte("Module")), nil), failure.Upstream, failure.DigestMismatch, "other bytes for layer"},
		"other bytes, said openly":   {body(module, http.Header{"Docker-Content-Digest": {"sha256:" + sum(nil)}}), failure.Upstream, failure.DigestMismatch, "other bytes for layer"},
		"bytes that are no module":   {body(bytes.Repeat([]byte("x"), len(module)), nil), failure.Upstream, failure.DigestMismatch, "other bytes for layer"},
		"a shorter body":             {body(module[:100], nil), failure.Upstream, failure.Truncated, "another length"},
		"a shorter body in chunks":   {body(module[:100], chunked), failure.Upstream, failure.Truncated, "another length"},
		"a longer body in chunks":    {body(append(bytes.Clone(module), 'x'), chunked), failure.Upstream, failure.DigestMismatch, "other bytes"},
		"a connection that breaks":   {body(module[:100], http.Header{"Content-Length": {strconv.Itoa(len(module))}}), failure.Transient, failure.Truncated, "broke in the middle of layer"},
		"redirects in a circle":      {redirect("/v2/again"), failure.Upstream, failure.RegistryError, "more than 5 redirects"},
		"a redirect to HTTP":         {redirect("http://127.0.0.1:1/x?canary"), failure.Upstream, failure.RegistryError, "from HTTPS to HTTP"},
		"a redirect to the metadata": {redirect("https://169.254.169.254/x?canary"), failure.Upstream, failure.ForbiddenAddress, "169.254.169.254, which is a link-local address"},
		"a redirect to nowhere":      {redirect("https://127.0.0.1:1/x?canary"), failure.Transient, failure.Unreachable, "refuses connections"},
		"an endless header": {func(r *testRegistry) {
			r.front = func(w http.ResponseWriter, _ *http.Request) bool {
				w.Header().Set("X", strings.Repeat("x", 2*maxResponseHeader))
				return true
			}
		}, failure.Transient, failure.Unreachable, "whole HTTP answer"},
		"a hung up connection": {func(r *testRegistry) {
			r.front = func(http.ResponseWriter, *http.Request) bool { panic(http.ErrAbortHandler) }
		}, failure.Transient, failure.Unreachable, "without an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, s := newRegistry(t), newStore(t)
			r.push("a/b:1", layer{wasmType, module, ""})
			test.fault(r)
			_, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).Fetch(t.Context(), r.request("a/b:1"))
			requireFailure(t, err, test.class, test.reason, test.says)
			if s.Used() != 0 {
				t.Error("something was published")
			}
		})
	}
}

func TestFailuresOfArtifacts(t *testing.T) {
	t.Parallel()
	whole := gzipOf(t, tarOf(t, file{"plugin.wasm", wasm("x")}))
	many := make([]file, maxEntries+1)
	for i := range many {
		many[i].name = strconv.Itoa(i)
	}
	for name, test := range map[string]struct {
		layer  layer
		reason failure.Reason
		says   string
	}{
		"a tar without Wasm":           {layer{wasmTarType, gzipOf(t, tarOf(t, file{"main.go", nil})), ""}, failure.NoWasmLayer, "no layer with a Wasm module (layers: " + wasmTarType + ")"},
		"a directory of the name":      {layer{wasmTarType, gzipOf(t, tarOf(t, file{"plugin.wasm/", nil})), ""}, failure.NoWasmLayer, "no layer with a Wasm module"},
		"a file with holes":            {layer{wasmTarType, gzipOf(t, sparseTar(t)), ""}, failure.NoWasmLayer, "no layer with a Wasm module"},
		"a text":                       {layer{"application/octet-stream", []byte("hello"), ""}, failure.NoWasmLayer, "no layer with a Wasm module"},
		"only documents":               {layer{wasmDocType, wasm("x"), ""}, failure.NoWasmLayer, "no layer with a Wasm module"},
		"several, none of the name":    {layer{wasmTarType, gzipOf(t, tarOf(t, file{"a.wasm", wasm("a")}, file{"b.wasm", wasm("b")})), ""}, failure.NoWasmLayer, "several .wasm files"},
		"a raw layer that is none":     {layer{wasmType, []byte("hello, world"), ""}, failure.NotWasm, "no Wasm module: it begins with"},
		"an empty raw layer":           {layer{wasmType, nil, ""}, failure.NotWasm, "it is empty"},
		"a file that is none":          {layer{wasmTarType, gzipOf(t, tarOf(t, file{"plugin.wasm", []byte("<!doctype html>")})), ""}, failure.NotWasm, "HTML page"},
		"a cut gzip":                   {layer{wasmTarType, whole[:len(whole)-4], ""}, failure.Truncated, "ends too early"},
		"a tar cut in the module":      {layer{wasmTarType, gzipOf(t, tarOf(t, file{"plugin.wasm", wasm("x")})[:1024]), ""}, failure.Truncated, "ends too early"},
		"a gzip with another checksum": {layer{wasmTarType, append(bytes.Clone(whole[:len(whole)-8]), make([]byte, 8)...), ""}, failure.UnsupportedArtifact, "cannot be read"},
		"a tar with a broken header":   {layer{wasmTarType, append(append(tarOf(t, file{"a.wasm", wasm("a")})[:512+2048], bytes.Repeat([]byte("x"), 512)...), make([]byte, 1024)...), ""}, failure.UnsupportedArtifact, "cannot be read"},
		"too many files":               {layer{wasmTarType, gzipOf(t, tarOf(t, many...)), ""}, failure.UnsupportedArtifact, "more than 10000 files"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, s := newRegistry(t), newStore(t)
			r.push("a/b:1", test.layer)
			_, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).Fetch(t.Context(), r.request("a/b:1"))
			requireFailure(t, err, failure.Upstream, test.reason, test.says)
			if s.Used() != 0 {
				t.Error("something was published")
			}
		})
	}
}

// sparseTar has a plugin.wasm of 200 MiB that takes 2 KiB (GNU sparse format 1.0 in pax).
func sparseTar(t *testing.T) []byte {
	content := make([]byte, 512+8)
	copy(content, "1\n0\n8\n")
	copy(content[512:], "\x00asm\x01\x00\x00\x00")
	b := tarOf(t, file{"GNUSparseFile.0/plugin.wasm", content})
	records := "22 GNU.sparse.major=1\n22 GNU.sparse.minor=0\n31 GNU.sparse.name=plugin.wasm\n33 GNU.sparse.realsize=209715200\n"
	pax := tarOf(t, file{"pax", []byte(records)})
	header := pax[:512]
	header[156] = 'x' // the type of the header: one with records for the next
	copy(header[148:156], "        ")
	var checksum int
	for _, c := range header {
		checksum += int(c)
	}
	copy(header[148:156], fmt.Sprintf("%06o\x00 ", checksum))
	return append(pax[:1024], b...)
}

func TestFailuresOfConnections(t *testing.T) {
	t.Parallel()
	hours := func(n time.Duration, hosts ...string) func(*testing.T) *testRegistry {
		return func(t *testing.T) *testRegistry {
			r := unstartedRegistry(t)
			r.server.TLS = &tls.Config{Certificates: []tls.Certificate{certificate(t, time.Now().Add(n*time.Hour), hosts...)}}
			r.server.StartTLS()
			return r
		}
	}
	plainHTTP := func(t *testing.T) *testRegistry {
		r := unstartedRegistry(t)
		r.server.Start()
		return r
	}
	closed := func(t *testing.T) *testRegistry {
		r := newRegistry(t)
		r.server.Close()
		return r
	}
	another := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate(t, time.Now().Add(time.Hour), "127.0.0.1").Certificate[0]})
	for name, test := range map[string]struct {
		registry func(*testing.T) *testRegistry
		change   func(*Request)
		class    failure.Class
		reason   failure.Reason
		says     string
	}{
		"an unknown authority": {func(t *testing.T) *testRegistry { return newRegistry(t) }, func(r *Request) { r.Access.CA = nil },
			failure.Upstream, failure.UntrustedCertificate, "name a Secret with its CA certificate (ca.crt) in certSecretRef"},
		"another authority": {hours(1, "127.0.0.1"), func(r *Request) { r.Access.CA = another },
			failure.Upstream, failure.UntrustedCertificate, "put the CA that signed it there"},
		"another host name":  {hours(1, "harbor.bank.internal"), nil, failure.Upstream, failure.UntrustedCertificate, "not for this host name"},
		"an old certificate": {hours(-1, "127.0.0.1"), nil, failure.Upstream, failure.UntrustedCertificate, "expired"},
		"plain HTTP":         {plainHTTP, nil, failure.Upstream, failure.RegistryError, "set insecure"},
		"HTTPS instead": {func(t *testing.T) *testRegistry { return newRegistry(t) }, func(r *Request) { r.Access.PlainHTTP = true },
			failure.Upstream, failure.RegistryError, "remove insecure"},
		"nobody there":          {closed, nil, failure.Transient, failure.Unreachable, "refuses connections"},
		"no such name":          {plainHTTP, func(r *Request) { r.URL = "oci://registry.invalid/a:1" }, failure.Transient, failure.Unreachable, "cannot be resolved"},
		"a CA that is none":     {plainHTTP, func(r *Request) { r.Access.CA = []byte("canary") }, failure.Waiting, failure.InvalidSecret, "no certificate in PEM form"},
		"a login that is none":  {plainHTTP, func(r *Request) { r.Access.DockerConfig = []byte("canary") }, failure.Spec, failure.InvalidSecret, "does not hold a docker configuration"},
		"a URL that is none":    {plainHTTP, func(r *Request) { r.URL = "ftp://me:canary@x/y" }, failure.Spec, failure.InvalidReference, "does not begin with oci://"},
		"a digest that is none": {plainHTTP, func(r *Request) { r.Digest = "latest" }, failure.Spec, failure.InvalidReference, "is no digest"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := test.registry(t)
			request := r.request("a/b:1")
			if test.change != nil {
				test.change(&request)
			}
			f := newFetcher(t, Options{AllowLoopback: true})
			_, err := f.Fetch(t.Context(), request)
			requireFailure(t, err, test.class, test.reason, test.says)
			_, err = f.Resolve(t.Context(), request)
			if test.reason != failure.InvalidReference || request.Digest == "" {
				requireFailure(t, err, test.class, test.reason, test.says)
			}
		})
	}
}

func TestDigestMismatchOfTheModule(t *testing.T) {
	t.Parallel()
	r, s := newRegistry(t), newStore(t)
	r.push("a:1", layer{wasmType, wasm("x"), ""})
	request := r.request("a:1")
	request.SHA256 = sum(wasm("y"))
	_, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).Fetch(t.Context(), request)
	requireFailure(t, err, failure.Upstream, failure.DigestMismatch, "the module has the sha256 "+sum(wasm("x")))
	if s.Used() != 0 {
		t.Error("something was published")
	}
}

// A registry that goes silent, before or in the middle of an answer, is given up.
func TestStalls(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		after   string
		options Options
		says    string
	}{
		"before the answer":     {"", Options{StallTimeout: 50 * time.Millisecond}, "does not answer"},
		"in the body":           {"\x00asm", Options{StallTimeout: time.Second}, "stopped sending layer"},
		"for too long in whole": {"\x00asm", Options{Timeout: 200 * time.Millisecond}, "within 200ms"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			r.push("a:1", layer{wasmType, wasm("x"), ""})
			r.front = func(w http.ResponseWriter, req *http.Request) bool {
				if !strings.Contains(req.URL.Path, "/blobs/") {
					return false
				}
				if test.after != "" {
					_, _ = io.WriteString(w, test.after)
					_ = http.NewResponseController(w).Flush()
				}
				<-req.Context().Done()
				return true
			}
			test.options.AllowLoopback = true
			_, err := newFetcher(t, test.options).Fetch(t.Context(), r.request("a:1"))
			requireFailure(t, err, failure.Transient, failure.Unreachable, test.says)
		})
	}
}

// Layers that become enormous are stopped early, whatever is declared, without taking memory.
func TestBombs(t *testing.T) {
	bomb := gzipOf(t, tarOf(t, file{"zeros", make([]byte, 20<<20)}, file{"plugin.wasm", wasm("x")}))
	moduleBomb := gzipOf(t, append(wasm("x"), make([]byte, 20<<20)...))
	for name, content := range map[string][]byte{"beside the module": bomb, "the module itself": moduleBomb} {
		t.Run(name, func(t *testing.T) {
			r, s := newRegistry(t), newStore(t)
			r.push("a:1", layer{wasmTarType, content, ""})
			f := newFetcher(t, Options{Store: s, AllowLoopback: true})
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			_, err := f.Fetch(t.Context(), r.request("a:1"))
			runtime.ReadMemStats(&after)
			requireFailure(t, err, failure.Upstream, failure.TooLarge, "a layer that expands")
			if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
				t.Errorf("it took %d MiB of memory", took>>20)
			}
		})
	}
}

// A module beyond the limit is refused before it is downloaded.
func TestTooLargeModule(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	raw := fmt.Sprintf(`{"schemaVersion":2,"layers":[{"mediaType":%q,"size":%d,"digest":%q}]}`, wasmType, 300<<20, digest.FromString("large"))
	r.front = func(w http.ResponseWriter, req *http.Request) bool {
		if strings.Contains(req.URL.Path, "/manifests/") {
			w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
			_, _ = io.WriteString(w, raw)
			return true
		}
		w.Header().Set("Content-Length", strconv.Itoa(300<<20))
		_, _ = w.Write(append(wasm("x"), make([]byte, 1<<20)...))
		<-req.Context().Done() // the rest would take for ever
		return true
	}
	_, err := newFetcher(t, Options{AllowLoopback: true}).Fetch(t.Context(), r.request("a:1"))
	requireFailure(t, err, failure.Upstream, failure.TooLarge, "a module of 300 MiB")
}

// A server that speaks something else entirely.
func TestNoHTTP(t *testing.T) {
	t.Parallel()
	listener, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			c, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "SSH-2.0-OpenSSH_9.2\r\n")
			_ = c.Close()
		}
	}()
	defer func() { _ = listener.Close(); <-ended }()
	for _, plainHTTP := range []bool{false, true} {
		_, err := newFetcher(t, Options{AllowLoopback: true}).Fetch(t.Context(), Request{URL: "oci://" + listener.Addr().String() + "/a:1", Access: Access{PlainHTTP: plainHTTP}})
		if f := failure.Of(err); f.Reason == failure.InternalError || f.Class == failure.Spec {
			t.Errorf("plain HTTP %t: %v", plainHTTP, f)
		}
	}
}
