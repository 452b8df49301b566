package signature

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	"github.com/sigstore/sigstore/pkg/cryptoutils"
	sigstore "github.com/sigstore/sigstore/pkg/signature"
	orasregistry "oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

const repository = "team/plugin"

// testKey signs as cosign does.
type testKey struct {
	t      testing.TB
	signer sigstore.Signer
	pem    []byte
}

func must[T any](v T, err error) func(testing.TB) T {
	return func(t testing.TB) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func newTestKey(t testing.TB, private crypto.Signer, signer sigstore.Signer) *testKey {
	t.Helper()
	return &testKey{t, signer, must(cryptoutils.MarshalPublicKeyToPEM(private.Public()))(t)}
}

func ecdsaKey(t testing.TB, curve elliptic.Curve, hash crypto.Hash) *testKey {
	private := must(ecdsa.GenerateKey(curve, rand.Reader))(t)
	return newTestKey(t, private, must(sigstore.LoadECDSASigner(private, hash))(t))
}

func p256(t testing.TB) *testKey { return ecdsaKey(t, elliptic.P256(), crypto.SHA256) }

func rsaKey(t testing.TB, bits int) *testKey {
	private := must(rsa.GenerateKey(rand.Reader, bits))(t)
	return newTestKey(t, private, must(sigstore.LoadRSAPKCS1v15Signer(private, crypto.SHA256))(t))
}

func ed25519Key(t testing.TB, hashed bool) *testKey {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if hashed {
		return newTestKey(t, private, must(sigstore.LoadED25519phSigner(private))(t))
	}
	return newTestKey(t, private, must(sigstore.LoadED25519Signer(private))(t))
}

// sign may be called in other tests than the key was made in, and while fuzzing.
func (k *testKey) sign(message []byte) []byte {
	signature, err := k.signer.SignMessage(bytes.NewReader(message))
	if err != nil {
		panic(err)
	}
	return signature
}

func (k *testKey) verifier() *Verifier { return must(New(k.pem))(k.t) }

// testRegistry is a registry with one signed or unsigned image. front may fake faults.
type testRegistry struct {
	t       testing.TB
	content http.Handler
	server  *httptest.Server
	front   func(w http.ResponseWriter, r *http.Request) (done bool)
	image   ocispec.Descriptor
	raw     []byte // of the image
}

func newRegistry(t testing.TB, options ...registry.Option) *testRegistry {
	t.Helper()
	r := &testRegistry{t: t, content: registry.New(append(options, registry.Logger(log.New(io.Discard, "", 0)))...)}
	r.server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		if r.front == nil || !r.front(w, req) {
			r.content.ServeHTTP(w, req)
		}
	}))
	t.Cleanup(r.server.Close)
	r.image = r.newImage("a plugin")
	r.raw = r.get(r.image)
	return r
}

func withReferrers() registry.Option { return registry.WithReferrersSupport(true) }

func (r *testRegistry) repo() *remote.Repository {
	return &remote.Repository{
		Client:    r.server.Client(), // it does not try again
		PlainHTTP: true,
		Reference: orasregistry.Reference{Registry: strings.TrimPrefix(r.server.URL, "http://"), Repository: repository},
	}
}

// do asks the registry, past the network.
func (r *testRegistry) do(method, path, contentType string, body []byte) []byte {
	r.t.Helper()
	req := httptest.NewRequest(method, "/v2/"+repository+path, bytes.NewReader(body))
	req.Header.Set("Content-Type", contentType)
	w := httptest.NewRecorder()
	r.content.ServeHTTP(w, req)
	if w.Code/100 != 2 {
		r.t.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
	return w.Body.Bytes()
}

func (r *testRegistry) get(desc ocispec.Descriptor) []byte {
	return r.do(http.MethodGet, "/manifests/"+desc.Digest.String(), "", nil)
}

func (r *testRegistry) blob(mediaType string, content []byte) ocispec.Descriptor {
	r.t.Helper()
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	r.do(http.MethodPost, "/blobs/uploads/?digest="+desc.Digest.String(), "application/octet-stream", content)
	return desc
}

// manifest puts what is made of v at a tag or, if that is empty, at its digest.
func (r *testRegistry) manifest(tag, mediaType string, v any) ocispec.Descriptor {
	r.t.Helper()
	raw := must(json.Marshal(v))(r.t)
	desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))}
	if tag == "" {
		tag = desc.Digest.String()
	}
	r.do(http.MethodPut, "/manifests/"+tag, mediaType, raw)
	return desc
}

func (r *testRegistry) newImage(content string) ocispec.Descriptor {
	r.t.Helper()
	return r.manifest("", ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/vnd.wasm",
		Config: r.blob(ocispec.MediaTypeEmptyJSON, []byte("{}")),
		Layers: []ocispec.Descriptor{r.blob("application/wasm", []byte(content))},
	})
}

// signatures is the manifest with these layers. With a subject, it refers to it.
func (r *testRegistry) signatures(subject *ocispec.Descriptor, artifact, config string, layers ...ocispec.Descriptor) ocispec.Manifest {
	r.t.Helper()
	return ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifact,
		Config: r.blob(config, []byte("{}")), Layers: layers, Subject: subject,
	}
}

// tag attaches signatures by cosign's tag.
func (r *testRegistry) tag(image ocispec.Descriptor, layers ...ocispec.Descriptor) {
	r.t.Helper()
	tag := strings.Replace(image.Digest.String(), ":", "-", 1) + ".sig"
	r.manifest(tag, ocispec.MediaTypeImageManifest, r.signatures(nil, "", ocispec.MediaTypeImageConfig, layers...))
}

// refer attaches signatures of the older form as a referrer.
func (r *testRegistry) refer(layers ...ocispec.Descriptor) ocispec.Descriptor {
	r.t.Helper()
	return r.manifest("", ocispec.MediaTypeImageManifest, r.signatures(&r.image, "", artifactType, layers...))
}

// bundle attaches a bundle as a referrer.
func (r *testRegistry) bundle(raw []byte) ocispec.Descriptor {
	r.t.Helper()
	layer := r.blob(bundleType, raw)
	return r.manifest("", ocispec.MediaTypeImageManifest, r.signatures(&r.image, bundleType, ocispec.MediaTypeEmptyJSON, layer))
}

// fallback lists referrers in the tag for registries without a list of them.
func (r *testRegistry) fallback(referrers ...ocispec.Descriptor) {
	r.t.Helper()
	raw := must(json.Marshal(ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: referrers,
	}))(r.t)
	// The registry itself would check the list.
	r.lie("/manifests/"+strings.Replace(r.image.Digest.String(), ":", "-", 1), ocispec.MediaTypeImageIndex, digest.FromBytes(raw), raw)
}

// lie answers what is asked for at the end of a path with a body, and with what is said of it.
func (r *testRegistry) lie(path, mediaType string, said digest.Digest, body []byte) {
	r.front = func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, path) {
			return false
		}
		w.Header().Set("Content-Type", mediaType)
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Header().Set("Docker-Content-Digest", said.String())
		_, _ = w.Write(body)
		return true
	}
}

const cosignType = "cosign container image signature"

func simplePayload(kind string, image digest.Digest) []byte {
	return fmt.Appendf(nil, `{"critical":{"identity":{"docker-reference":"example.com/team/plugin"},"image":{"docker-manifest-digest":%q},"type":%q},"optional":null}`, image, kind)
}

// simple is the layer of a signature.
func (r *testRegistry) simple(payload, signature []byte) ocispec.Descriptor {
	r.t.Helper()
	layer := r.blob(simpleType, payload)
	layer.Annotations = map[string]string{signatureKey: base64.StdEncoding.EncodeToString(signature)}
	return layer
}

// signedBy is the layer of a good signature.
func (r *testRegistry) signedBy(k *testKey) ocispec.Descriptor {
	r.t.Helper()
	payload := simplePayload(cosignType, r.image.Digest)
	return r.simple(payload, k.sign(payload))
}

const keyMaterial = `{"publicKey":{"hint":"a hint"}}`

func inToto(predicate string, images ...digest.Digest) []byte {
	var subjects []string
	for _, image := range images {
		subjects = append(subjects, fmt.Sprintf(`{"digest":{%q:%q},"annotations":{}}`, image.Algorithm(), image.Encoded()))
	}
	return fmt.Appendf(nil, `{"_type":%q,"subject":[%s],"predicateType":%q,"predicate":{}}`, statementTypes[0], strings.Join(subjects, ","), predicate)
}

func envelopeBundle(k *testKey, payloadType string, payload []byte) []byte {
	return rawBundle(keyMaterial, payloadType, payload, k.sign(dsse.PAE(payloadType, payload)))
}

func rawBundle(material, payloadType string, payload, signature []byte) []byte {
	return fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":%s,"dsseEnvelope":{"payload":%q,"payloadType":%q,"signatures":[{"sig":%q}]}}`,
		bundleType, material, base64.StdEncoding.EncodeToString(payload), payloadType, base64.StdEncoding.EncodeToString(signature))
}

func messageBundle(material string, sum, signature []byte) []byte {
	return fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":%s,"messageSignature":{"messageDigest":{"algorithm":"SHA2_256","digest":%q},"signature":%q}}`,
		bundleType, material, base64.StdEncoding.EncodeToString(sum), base64.StdEncoding.EncodeToString(signature))
}

// requireError checks the reason and a part of the message; without a reason, that there is no error.
func requireError(t *testing.T, err error, reason failure.Reason, part string) {
	t.Helper()
	if reason == "" {
		if err != nil {
			t.Fatalf("not verified: %v", err)
		}
		return
	}
	var e *failure.Error
	if !errors.As(err, &e) || e.Reason != reason || e.Class != failure.Upstream || !strings.Contains(e.Message, part) {
		t.Fatalf("got %v, want %s with %q", err, reason, part)
	}
}
