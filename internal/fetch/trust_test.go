package fetch

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/pem"
	"fmt"
	"math/big"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// signingKey is a key as cosign generates them.
type signingKey struct {
	*ecdsa.PrivateKey
	public []byte // in PEM
}

func newSigningKey(t *testing.T) signingKey {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	return signingKey{private, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})}
}

// sign puts a signature of a digest beside it, under its tag.
func (r *testRegistry) sign(k signingKey, repository, digest string) {
	r.t.Helper()
	payload := fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"x"},"image":{"docker-manifest-digest":%q},"type":"cosign container image signature"},"optional":null}`, digest)
	hash := sha256.Sum256(payload)
	signature, err := k.Sign(rand.Reader, hash[:], crypto.SHA256)
	if err != nil {
		r.t.Fatal(err)
	}
	m := r.image(repository, layer{"application/vnd.dev.cosign.simplesigning.v1+json", payload, ""})
	m.Layers[0].Annotations = map[string]string{"dev.cosignproject.cosign/signature": base64.StdEncoding.EncodeToString(signature)}
	r.manifest(repository, strings.Replace(digest, ":", "-", 1)+".sig", m.MediaType, m)
}

// TestSignatures: where keys are given, nothing that they have not signed gets
// into the store, whatever way leads to it.
func TestSignatures(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	ours, theirs := newSigningKey(t), newSigningKey(t)
	r.sign(ours, "signed", r.push("signed:1", layer{wasmType, wasm("signed"), ""}))
	r.sign(theirs, "theirs", r.push("theirs:1", layer{wasmType, wasm("theirs"), ""}))
	r.push("unsigned:1", layer{wasmType, wasm("unsigned"), ""})
	child := r.manifest("index", "", ocispec.MediaTypeImageManifest, r.image("index", layer{wasmType, wasm("index"), ""}))
	index := r.manifest("index", "1", ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{child}})
	r.sign(ours, "index", child.Digest.String()) // the index itself is not signed

	s := newStore(t)
	f := newFetcher(t, Options{Store: s, AllowLoopback: true})
	fetch := func(name string) error {
		request := r.request(name)
		request.Access.PublicKeys = ours.public
		_, err := f.Fetch(t.Context(), request)
		return err
	}
	requireFailure(t, fetch("unsigned:1"), failure.Upstream, failure.SignatureMissing, "unsigned")
	requireFailure(t, fetch("theirs:1"), failure.Upstream, failure.SignatureInvalid, "by another key")
	requireFailure(t, fetch("index:1"), failure.Upstream, failure.SignatureMissing, "index")
	if s.Used() != 0 {
		t.Errorf("%d bytes are in the store before anything was verified", s.Used())
	}
	if err := fetch("signed:1"); err != nil {
		t.Error(err)
	}
	r.sign(ours, "index", index.Digest.String())
	if err := fetch("index:1"); err != nil {
		t.Error(err)
	}

	// A registry that has a problem does not open the door.
	request := r.request("signed:1")
	request.Access.PublicKeys = ours.public
	r.front = func(w http.ResponseWriter, req *http.Request) bool {
		if strings.HasSuffix(req.URL.Path, ".sig") {
			w.WriteHeader(http.StatusInternalServerError)
			return true
		}
		return false
	}
	_, err := f.Fetch(t.Context(), request)
	requireFailure(t, err, failure.Transient, failure.RegistryError, "problem of its own")

	request.Access.PublicKeys = []byte("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n")
	_, err = f.Fetch(t.Context(), request)
	requireFailure(t, err, failure.Spec, failure.SignatureInvalid, "publicKeys cannot be used")
	_, err = f.Fetch(t.Context(), Request{URL: "https://r.example/a.wasm", Access: request.Access})
	requireFailure(t, err, failure.Spec, failure.SignatureMissing, "only artifacts in registries have")
}

// clientCertificate makes a certificate and its key, in PEM.
func clientCertificate(t *testing.T) (certificate, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "operator"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// TestClientCertificate: it is shown to the registry, and to nobody that it
// sends us to.
func TestClientCertificate(t *testing.T) {
	t.Parallel()
	certificate, key := clientCertificate(t)
	stranger := newFileServer(t, wasm("elsewhere"))
	var shown atomic.Int32
	stranger.Config.ConnState = nil
	stranger.before = func(_ http.ResponseWriter, req *http.Request) bool {
		shown.Add(int32(len(req.TLS.PeerCertificates)))
		return false
	}
	stranger.TLS.ClientAuth = tls.RequestClientCert
	server := newFileServer(t, wasm("x"))
	server.TLS.ClientAuth = tls.RequestClientCert
	server.before = func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case len(req.TLS.PeerCertificates) != 1 || req.TLS.PeerCertificates[0].Subject.CommonName != "operator":
			w.WriteHeader(http.StatusForbidden)
		case req.URL.Path == "/away":
			http.Redirect(w, req, stranger.URL+"/x.wasm", http.StatusFound)
		default:
			return false
		}
		return true
	}
	f := newFetcher(t, Options{Store: newStore(t), AllowLoopback: true})
	r := server.request("/a.wasm")
	r.Access.CA = append(r.Access.CA, stranger.ca()...)
	_, err := f.Fetch(t.Context(), r)
	requireFailure(t, err, failure.Upstream, failure.Unauthorized, "403")
	r.Access.Certificate, r.Access.Key = certificate, key
	if _, err := f.Fetch(t.Context(), r); err != nil {
		t.Error(err)
	}
	r.URL = server.URL + "/away"
	if _, err := f.Fetch(t.Context(), r); err != nil || shown.Load() != 0 {
		t.Errorf("%v; it was shown to a stranger %d times", err, shown.Load())
	}
	r.Access.Key = []byte("canary")
	_, err = f.Fetch(t.Context(), r)
	requireFailure(t, err, failure.Waiting, failure.InvalidSecret, "no certificate with its key")
}
