package signature

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	sigstore "github.com/sigstore/sigstore/pkg/signature"
)

// fuzzKey is the same in every process. Signatures with Ed25519 cannot be
// varied, so what is accepted has to be what was signed.
func fuzzKey(t testing.TB) *testKey {
	private := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	return newTestKey(t, private, must(sigstore.LoadED25519Signer(private))(t))
}

const fuzzDigest = digest.Digest("sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824")

func requireProblem(t *testing.T, err error) {
	t.Helper()
	var p problem
	if !errors.As(err, &p) && !errors.Is(err, errOther) {
		t.Fatalf("%v would end the search", err)
	}
}

// FuzzPayload signs whatever comes, so that it gets past the signature into the parser.
// Run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzPayload(f *testing.F) {
	key := fuzzKey(f)
	keys := key.verifier().keys
	good := simplePayload(cosignType, fuzzDigest)
	f.Add(good, "AAAA")
	f.Add(simplePayload("atomic container signature", fuzzDigest), "")
	f.Add([]byte(`{"critical":{"image":[]}}`), "=")
	f.Fuzz(func(t *testing.T, raw []byte, annotation string) {
		if signature, err := decode(annotation); err != nil {
			requireProblem(t, err)
		} else if err = checkSimple(keys, signature, raw, fuzzDigest); err == nil && !bytes.Equal(raw, good) {
			t.Fatalf("accepted %q with %q", raw, annotation)
		}
		if err := checkSimple(keys, key.sign(raw), raw, fuzzDigest); err != nil {
			requireProblem(t, err)
		} else if !bytes.Contains(raw, []byte(fuzzDigest.Encoded()[:4])) && !bytes.Contains(raw, []byte(`\u`)) {
			t.Fatalf("accepted without the digest: %q", raw)
		}
	})
}

// FuzzBundle takes a bundle apart, with its own signature and with a good one put in its place.
// Run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzBundle(f *testing.F) {
	key := fuzzKey(f)
	s := &search{keys: key.verifier().keys, signed: []byte("hello")}
	s.subject.Digest = fuzzDigest
	good := inToto(signPredicate, fuzzDigest)
	f.Add(envelopeBundle(key, payloadType, good))
	f.Add(messageBundle(keyMaterial, sum(fuzzDigest), key.sign(s.signed)))
	f.Add(rawBundle(`{"certificate":{"rawBytes":"AAAA"}}`, payloadType, good, nil))
	f.Add([]byte(`{"verificationMaterial":{"tlogEntries":[{}],"publicKey":{}},"messageSignature":{}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		err := s.checkBundle(t.Context(), raw)
		if err != nil {
			requireProblem(t, err)
		}
		b, st, parseErr := parseBundle(raw)
		if parseErr != nil {
			if err == nil {
				t.Fatalf("accepted, but malformed: %v", parseErr)
			}
			return
		}
		if st == nil {
			if err == nil && !bytes.Equal(b.GetMessageSignature().GetSignature(), key.sign(s.signed)) {
				t.Fatalf("accepted %q", raw)
			}
			return
		}
		envelope := b.GetDsseEnvelope()
		if err == nil && !bytes.Equal(envelope.GetPayload(), good) {
			t.Fatalf("accepted the statement %q", envelope.GetPayload())
		}
		// What the signer signed gets past the signature.
		envelope.GetSignatures()[0].Sig = key.sign(dsse.PAE(payloadType, envelope.GetPayload()))
		if err := checkStatement(s.keys, envelope, st, fuzzDigest); err != nil {
			requireProblem(t, err)
		}
	})
}
