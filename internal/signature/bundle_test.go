package signature

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// certificate is a bundle's material with a certificate for the key instead of the key.
func certificate(t *testing.T, key *testKey) string {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "x"}, NotAfter: time.Now().Add(time.Hour)}
	public := must(key.signer.PublicKey())(t)
	authority := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	der := must(x509.CreateCertificate(rand.Reader, template, template, public, authority))(t)
	return fmt.Sprintf(`{"certificate":{"rawBytes":%q}}`, base64.StdEncoding.EncodeToString(der))
}

func TestBundle(t *testing.T) {
	t.Parallel()
	key, other := p256(t), p256(t)
	r := newRegistry(t, withReferrers())
	image := r.image.Digest
	beside := r.newImage("another plugin")
	good := inToto(signPredicate, image)
	signature := key.sign(dsse.PAE(payloadType, good))
	replace := func(old, by string) []byte {
		raw := r.statement(key)
		if !bytes.Contains(raw, []byte(old)) {
			t.Fatalf("no %s in %s", old, raw)
		}
		return bytes.Replace(raw, []byte(old), []byte(by), 1)
	}
	chain := fmt.Sprintf(`{"x509CertificateChain":{"certificates":[%s]}}`, strings.TrimSuffix(strings.TrimPrefix(certificate(t, key), `{"certificate":`), "}"))
	sha512 := digest.SHA512.FromBytes(r.raw)
	for name, tt := range map[string]struct {
		raw    []byte
		reason failure.Reason
		want   string
	}{
		"good":                     {r.statement(key), "", ""},
		"old statement":            {envelopeBundle(key, payloadType, bytes.Replace(good, []byte(statementTypes[0]), []byte(statementTypes[1]), 1)), "", ""},
		"several subjects":         {envelopeBundle(key, payloadType, inToto(signPredicate, beside.Digest, sha512, image)), "", ""},
		"without a predicate":      {envelopeBundle(key, payloadType, bytes.Replace(good, []byte(`,"predicate":{}`), nil, 1)), "", ""},
		"several, not this":        {envelopeBundle(key, payloadType, inToto(signPredicate, beside.Digest, sha512)), failure.SignatureInvalid, "another image"},
		"no subject":               {envelopeBundle(key, payloadType, inToto(signPredicate)), failure.SignatureInvalid, "another image"},
		"too many subjects":        {envelopeBundle(key, payloadType, inToto(signPredicate, append(slices.Repeat([]digest.Digest{beside.Digest}, maxSubjects), image)...)), failure.SignatureInvalid, "another image"},
		"a replay":                 {envelopeBundle(key, payloadType, inToto(signPredicate, beside.Digest)), failure.SignatureInvalid, "another image"},
		"sha512 only":              {envelopeBundle(key, payloadType, inToto(signPredicate, sha512)), failure.SignatureInvalid, "another image"},
		"another key":              {r.statement(other), failure.SignatureInvalid, "another key"},
		"attestation":              {envelopeBundle(key, payloadType, inToto("https://slsa.dev/provenance/v1", image)), failure.SignatureMissing, "no signature"},
		"keyless attestation":      {rawBundle(certificate(t, key), payloadType, inToto("https://slsa.dev/provenance/v1", image), signature), failure.SignatureMissing, "no signature"},
		"other statement":          {envelopeBundle(key, payloadType, bytes.Replace(good, []byte("Statement/v1"), []byte("Statement/v2"), 1)), failure.SignatureInvalid, "in-toto"},
		"statement is no JSON":     {envelopeBundle(key, payloadType, []byte("x")), failure.SignatureInvalid, "statement is malformed"},
		"other payload type":       {envelopeBundle(key, "application/json", good), failure.SignatureInvalid, "envelope is not of the type"},
		"payload type exchanged":   {rawBundle(keyMaterial, payloadType, good, key.sign(dsse.PAE("text/plain", good))), failure.SignatureInvalid, "another key"},
		"signed without encoding":  {rawBundle(keyMaterial, payloadType, good, key.sign(good)), failure.SignatureInvalid, "another key"},
		"tampered":                 {rawBundle(keyMaterial, payloadType, append(bytes.Clone(good), ' '), signature), failure.SignatureInvalid, "another key"},
		"two signatures":           {replace(`"signatures":[`, `"signatures":[{"sig":"AAAA"},`), failure.SignatureInvalid, "2 signatures instead of one"},
		"no signatures":            {rawBundle(keyMaterial, payloadType, good, nil), failure.SignatureInvalid, "another key"},
		"only a certificate":       {rawBundle(certificate(t, key), payloadType, good, signature), failure.SignatureInvalid, "certificate instead of a key"},
		"a chain of certificates":  {rawBundle(chain, payloadType, good, signature), failure.SignatureInvalid, "certificate instead of a key"},
		"a message, certificate":   {messageBundle(certificate(t, key), sum(image), key.sign(r.raw)), failure.SignatureInvalid, "certificate instead of a key"},
		"nothing that says how":    {rawBundle("{}", payloadType, good, signature), failure.SignatureInvalid, "does not say that it is made with a key"},
		"no material":              {replace(`"verificationMaterial":`+keyMaterial+`,`, ``), failure.SignatureInvalid, "does not say that it is made with a key"},
		"other type":               {replace("v0.3", "v0.4"), failure.SignatureInvalid, "not of the type"},
		"no content":               {fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":%s}`, bundleType, keyMaterial), failure.SignatureInvalid, "no signature"},
		"unknown field":            {replace(`"mediaType"`, `"also":1,"mediaType"`), failure.SignatureInvalid, "malformed"},
		"no JSON":                  {[]byte("\x00"), failure.SignatureInvalid, "malformed"},
		"null":                     {[]byte("null"), failure.SignatureInvalid, "malformed"},
		"too large":                {append(r.statement(key), bytes.Repeat([]byte(" "), maxBundle)...), failure.SignatureInvalid, "1048576 are allowed"},
		"message":                  {r.message(key), "", ""},
		"message, no digest":       {fmt.Appendf(nil, `{"mediaType":%q,"verificationMaterial":%s,"messageSignature":{"signature":%q}}`, bundleType, keyMaterial, base64.StdEncoding.EncodeToString(key.sign(r.raw))), "", ""},
		"message, another key":     {r.message(other), failure.SignatureInvalid, "another key"},
		"message, a replay":        {messageBundle(keyMaterial, sum(beside.Digest), key.sign(r.get(beside))), failure.SignatureInvalid, "another image"},
		"message, a false digest":  {messageBundle(keyMaterial, sum(image), key.sign(r.get(beside))), failure.SignatureInvalid, "another key"},
		"message, short digest":    {messageBundle(keyMaterial, []byte{1}, key.sign(r.raw)), failure.SignatureInvalid, "another image"},
		"message, no signature":    {messageBundle(keyMaterial, sum(image), nil), failure.SignatureInvalid, "another key"},
		"message, of the envelope": {messageBundle(keyMaterial, sum(image), signature), failure.SignatureInvalid, "another key"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, withReferrers()) // the image is the same in each
			r.bundle(tt.raw)
			requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), tt.reason, tt.want)
		})
	}
}

// The manifest around a bundle is checked as well.
func TestBundleManifest(t *testing.T) {
	t.Parallel()
	key := p256(t)
	r := newRegistry(t, withReferrers())
	raw := r.statement(key)
	layer := r.blob(bundleType, raw)
	other := layer
	other.MediaType = "application/vnd.dev.sigstore.bundle+json;version=0.2"
	for name, tt := range map[string]struct {
		layers []ocispec.Descriptor
		reason failure.Reason
		want   string
	}{
		"good":            {[]ocispec.Descriptor{layer}, "", ""},
		"two layers":      {[]ocispec.Descriptor{layer, layer}, failure.SignatureInvalid, "2 layers instead of one"},
		"one more":        {[]ocispec.Descriptor{layer, other}, failure.SignatureInvalid, "2 layers instead of one"},
		"another version": {[]ocispec.Descriptor{other}, failure.SignatureMissing, "no signature"},
		"no layer":        {[]ocispec.Descriptor{}, failure.SignatureMissing, "no signature"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t, withReferrers())
			r.blob(bundleType, raw)
			r.manifest("", ocispec.MediaTypeImageManifest, r.signatures(&r.image, bundleType, ocispec.MediaTypeEmptyJSON, tt.layers...))
			requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), tt.reason, tt.want)
		})
	}
}
