package fetch

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	wasmType      = "application/vnd.module.wasm.content.layer.v1+wasm"
	wasmTarType   = "application/vnd.module.wasm.content.layer.v1.tar+gzip"
	wasmDocType   = "application/vnd.module.wasm.doc.v1+markdown"
	dockerTarType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// wasm makes a module that no other name gives.
func wasm(name string) []byte {
	return inspecttest.Filled(strings.Repeat("module "+name+"; ", 200))
}

func sum(b []byte) string {
	hash := sha256.Sum256(b)
	return hex.EncodeToString(hash[:])
}

// testRegistry is a registry with TLS. Handlers that are put in front of it may fake faults.
type testRegistry struct {
	t       testing.TB
	content http.Handler
	server  *httptest.Server
	front   func(w http.ResponseWriter, r *http.Request) (done bool)
}

func newRegistry(t testing.TB) *testRegistry {
	r := unstartedRegistry(t)
	r.server.StartTLS()
	return r
}

func unstartedRegistry(t testing.TB) *testRegistry {
	r := &testRegistry{t: t, content: registry.New(registry.Logger(log.New(io.Discard, "", 0)))}
	r.server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.front == nil || !r.front(w, req) {
			r.content.ServeHTTP(w, req)
		}
	}))
	r.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	t.Cleanup(r.server.Close)
	return r
}

func (r *testRegistry) host() string { return r.server.Listener.Addr().String() }

func (r *testRegistry) url(name string) string { return "oci://" + r.host() + "/" + name }

// ca is the certificate to trust.
func (r *testRegistry) ca() []byte {
	if r.server.TLS == nil || len(r.server.TLS.Certificates) == 0 {
		return nil
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.server.TLS.Certificates[0].Certificate[0]})
}

func (r *testRegistry) request(name string) Request {
	return Request{URL: r.url(name), Access: Access{CA: r.ca()}}
}

// send puts something into the registry, past the network.
func (r *testRegistry) send(method, path, contentType string, body []byte) {
	r.t.Helper()
	req := httptest.NewRequest(method, path, bytes.NewReader(body))
	req.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	r.content.ServeHTTP(w, req)
	if w.Code/100 != 2 {
		r.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
}

// blob puts a blob into the registry.
func (r *testRegistry) blob(repository, mediaType string, content []byte) ocispec.Descriptor {
	r.t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	r.send(http.MethodPost, "/v2/"+repository+"/blobs/uploads/?digest="+desc.Digest.String(), "application/octet-stream", content)
	return desc
}

// manifest puts a manifest, an index or what is made of v into the registry, under a tag or, if that is empty, its digest.
func (r *testRegistry) manifest(repository, tag, mediaType string, v any) ocispec.Descriptor {
	r.t.Helper()
	raw, err := json.Marshal(v)
	if err != nil {
		r.t.Fatal(err)
	}
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if tag == "" {
		tag = desc.Digest.String()
	}
	r.send(http.MethodPut, "/v2/"+repository+"/manifests/"+tag, mediaType, raw)
	return desc
}

type layer struct {
	mediaType string
	content   []byte
	title     string
}

// push puts an artifact of these layers into the registry and gives its digest.
func (r *testRegistry) push(name string, layers ...layer) string {
	r.t.Helper()
	repository, tag, _ := strings.Cut(name, ":")
	m := r.image(repository, layers...)
	return r.manifest(repository, tag, m.MediaType, m).Digest.String()
}

// image puts layers into the registry and gives a manifest of them.
func (r *testRegistry) image(repository string, layers ...layer) ocispec.Manifest {
	r.t.Helper()
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: r.blob(repository, "application/vnd.unknown.config.v1+json", []byte("{}")),
	}
	for _, l := range layers {
		desc := r.blob(repository, l.mediaType, l.content)
		if l.title != "" {
			desc.Annotations = map[string]string{ocispec.AnnotationTitle: l.title}
		}
		m.Layers = append(m.Layers, desc)
	}
	return m
}

// file is one file of a tar.
type file struct {
	name    string
	content []byte
}

func tarOf(t testing.TB, files ...file) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		header := &tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.content)), Typeflag: tar.TypeReg}
		if strings.HasSuffix(f.name, "/") {
			header.Typeflag = tar.TypeDir
		}
		if err := w.WriteHeader(header); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(f.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func gzipOf(t testing.TB, content []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(content); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func newStore(t testing.TB) *store.Store {
	t.Helper()
	s, err := store.Open(t.TempDir(), 0)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newFetcher(t testing.TB, o Options) *Fetcher {
	t.Helper()
	if o.Store == nil {
		o.Store = newStore(t)
	}
	f := New(o)
	f.proxy = func(*http.Request) (*url.URL, error) { return nil, nil }
	t.Cleanup(f.Close)
	return f
}

// certificate makes a self-signed certificate.
func certificate(t testing.TB, until time.Time, hosts ...string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: until.Add(-24 * time.Hour), NotAfter: until,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	for _, h := range hosts {
		if ip := net.ParseIP(h); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, h)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// newProxy is an HTTP proxy that leads every host to a server of the test, and the rest nowhere.
func newProxy(t testing.TB, leads map[string]string) *url.URL {
	t.Helper()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		target, known := leads[r.Host]
		if r.Method != http.MethodConnect || !known {
			http.Error(w, "no", http.StatusForbidden)
			return
		}
		there, err := (&net.Dialer{}).DialContext(context.WithoutCancel(r.Context()), "tcp", target)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer there.Close()
		here, _, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer here.Close()
		if _, err := io.WriteString(here, "HTTP/1.1 200 OK\r\n\r\n"); err != nil {
			return
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, _ = io.Copy(there, bufio.NewReader(here))
			_ = there.(*net.TCPConn).CloseWrite()
		}()
		_, _ = io.Copy(here, there)
		_ = here.Close()
		<-ended
	}))
	t.Cleanup(server.Close)
	address, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	return address
}
