package signature

import (
	"bytes"
	"crypto"
	"crypto/elliptic"
	"encoding/hex"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

var _ Repository = (*remote.Repository)(nil)

// schemes are all ways in which a signature can be attached.
var schemes = map[string]func(r *testRegistry, k *testKey){
	"tag":       func(r *testRegistry, k *testKey) { r.tag(r.image, r.signedBy(k)) },
	"referrer":  func(r *testRegistry, k *testKey) { r.refer(r.signedBy(k)) },
	"statement": func(r *testRegistry, k *testKey) { r.bundle(r.statement(k)) },
	"message":   func(r *testRegistry, k *testKey) { r.bundle(r.message(k)) },
}

func (r *testRegistry) statement(k *testKey) []byte {
	return envelopeBundle(k, payloadType, inToto(signPredicate, r.image.Digest))
}

func (r *testRegistry) message(k *testKey) []byte {
	return messageBundle(keyMaterial, sum(r.image.Digest), k.sign(r.raw))
}

// sum is the digest in bytes.
func sum(d digest.Digest) []byte {
	b, err := hex.DecodeString(d.Encoded())
	if err != nil {
		panic(err)
	}
	return b
}

func TestVerify(t *testing.T) {
	t.Parallel()
	keys := map[string]*testKey{
		"P-256":             p256(t),
		"P-384":             ecdsaKey(t, elliptic.P384(), crypto.SHA384),
		"P-384 and SHA-256": ecdsaKey(t, elliptic.P384(), crypto.SHA256),
		"P-521":             ecdsaKey(t, elliptic.P521(), crypto.SHA512),
		"P-521 and SHA-256": ecdsaKey(t, elliptic.P521(), crypto.SHA256),
		"RSA 2048":          rsaKey(t, 2048),
		"RSA 3072":          rsaKey(t, 3072),
		"Ed25519":           ed25519Key(t, false),
		"Ed25519ph":         ed25519Key(t, true),
	}
	other := p256(t)
	for name, key := range keys {
		for scheme, attach := range schemes {
			t.Run(scheme+"/"+name, func(t *testing.T) {
				t.Parallel()
				r := newRegistry(t, withReferrers())
				requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureMissing, "cosign sign --key")
				attach(r, key)
				requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), "", "")
				both := must(New(append(bytes.Clone(other.pem), key.pem...)))(t)
				requireError(t, both.Verify(t.Context(), r.repo(), r.image), "", "")
				requireError(t, other.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "another key")
				// An image beside it is not signed.
				beside := r.newImage("another plugin")
				requireError(t, key.verifier().Verify(t.Context(), r.repo(), beside), failure.SignatureMissing, "no signature")
			})
		}
	}
}

// Registries without a list of referrers have a tag for it, in which cosign wrote different types.
func TestVerifyFallback(t *testing.T) {
	t.Parallel()
	key := p256(t)
	listed := func(d ocispec.Descriptor, kind string) ocispec.Descriptor {
		d.ArtifactType = kind
		return d
	}
	for _, kind := range []string{bundleType, ocispec.MediaTypeEmptyJSON, ""} {
		r := newRegistry(t)
		r.fallback(listed(r.bundle(r.statement(key)), kind))
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), "", "")
	}
	r := newRegistry(t)
	r.fallback(listed(r.refer(r.signedBy(key)), artifactType))
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), "", "")
	r = newRegistry(t)
	r.fallback(listed(r.bundle(r.statement(key)), "application/spdx+json"))
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureMissing, "no signature")
}

// The signature of an index is by the digest of the index.
func TestVerifyIndex(t *testing.T) {
	t.Parallel()
	for scheme, attach := range schemes {
		r, key := newRegistry(t, withReferrers()), p256(t)
		image := r.image
		r.image = r.manifest("latest", ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{image}})
		r.raw = r.get(r.image)
		attach(r, key)
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), "", "")
		if err := key.verifier().Verify(t.Context(), r.repo(), image); failure.Of(err) == nil || failure.Of(err).Reason != failure.SignatureMissing {
			t.Errorf("%s: the image in the index: %v", scheme, err)
		}
	}
}

// A good signature counts, whatever lies beside it.
func TestVerifyBesideOthers(t *testing.T) {
	t.Parallel()
	key, other := p256(t), p256(t)
	r := newRegistry(t, withReferrers())
	garbage := r.signedBy(key)
	garbage.Annotations = map[string]string{signatureKey: "%"}
	r.tag(r.image, r.blob("text/plain", []byte("x")), garbage, r.signedBy(other), r.signedBy(key))
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), "", "")

	for range 3 { // the order of referrers is random
		r = newRegistry(t, withReferrers())
		r.tag(r.image, r.signedBy(other))
		r.refer(r.signedBy(other))
		r.bundle([]byte("{"))
		r.bundle(envelopeBundle(key, payloadType, inToto("https://slsa.dev/provenance/v1", r.image.Digest)))
		r.bundle(r.statement(key))
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), "", "")
	}
}

func TestSimple(t *testing.T) {
	t.Parallel()
	key := p256(t)
	r := newRegistry(t, withReferrers())
	elsewhere := r.newImage("another plugin").Digest
	good := simplePayload(cosignType, r.image.Digest)
	sign := func(payload []byte) ocispec.Descriptor { return r.simple(payload, key.sign(payload)) }
	annotated := func(annotation string) ocispec.Descriptor {
		layer := sign(good)
		layer.Annotations = map[string]string{signatureKey: annotation}
		return layer
	}
	sized := func(size int64) ocispec.Descriptor {
		layer := sign(good)
		layer.Size = size
		return layer
	}
	absent := sign(good)
	absent.Digest = digest.FromString("not there")
	improper := sign(good)
	improper.Digest = "sha256:../../x"
	bare := sign(good)
	bare.Annotations = nil
	for name, tt := range map[string]struct {
		layer ocispec.Descriptor
		want  string
	}{
		"a replay":              {sign(simplePayload(cosignType, elsewhere)), "another image"},
		"no digest":             {sign(simplePayload(cosignType, "")), "another image"},
		"wrong type":            {sign(simplePayload("atomic container signature", r.image.Digest)), "not a signature of cosign"},
		"no JSON":               {sign([]byte("signed nonsense")), "payload is malformed"},
		"null":                  {sign([]byte("null")), "not a signature of cosign"},
		"more JSON":             {sign(append(bytes.Clone(good), good...)), "payload is malformed"},
		"tampered":              {r.simple(append(bytes.Clone(good), ' '), key.sign(good)), "another key"},
		"signature of nothing":  {r.simple(good, key.sign(nil)), "another key"},
		"garbage":               {annotated("no base64!"), "no base64"},
		"garbage in base64":     {annotated("AAAA"), "another key"},
		"empty":                 {annotated(""), "empty or too long"},
		"no annotation":         {bare, "empty or too long"},
		"too long":              {annotated(strings.Repeat("A", maxEncoded+4)), "empty or too long"},
		"too large":             {sign(bytes.Repeat([]byte(" "), maxPayload+1)), "bytes, 1048576 are allowed"},
		"negative":              {sized(-1), "without a proper size"},
		"improper digest":       {improper, "proper size and digest"},
		"not in the repository": {absent, "not in the repository"},
	} {
		r.tag(r.image, tt.layer)
		err := key.verifier().Verify(t.Context(), r.repo(), r.image)
		if e := failure.Of(err); e == nil || e.Reason != failure.SignatureInvalid || !strings.Contains(e.Message, tt.want) {
			t.Errorf("%s: got %v, want %q", name, err, tt.want)
		}
	}
	// Layers of another kind are no signatures.
	r.tag(r.image, r.blob("text/plain", good))
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureMissing, "no signature")
}
