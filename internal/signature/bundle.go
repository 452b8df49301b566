package signature

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/opencontainers/go-digest"
	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	bundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	common "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"google.golang.org/protobuf/encoding/protojson"
)

const (
	payloadType = "application/vnd.in-toto+json"
	// signPredicate says that a statement is what "cosign sign" says. All others are attestations.
	signPredicate = "https://sigstore.dev/cosign/sign/v1"
	// maxSubjects is how many subjects of a statement are looked at.
	maxSubjects = 1024
)

var statementTypes = []string{"https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"}

// statement is what is needed of an in-toto statement.
type statement struct {
	Type    string `json:"_type"`
	Subject []struct {
		Digest map[string]string `json:"digest"`
	} `json:"subject"`
	PredicateType string `json:"predicateType"`
}

// checkBundle is nil if a key made the signature in the bundle, and it is of the subject.
func (s *search) checkBundle(ctx context.Context, raw []byte) error {
	b, st, err := parseBundle(raw)
	if err != nil {
		return err
	}
	if st != nil {
		return checkStatement(s.keys, b.GetDsseEnvelope(), st, s.subject.Digest)
	}
	message := b.GetMessageSignature()
	if d := message.GetMessageDigest(); d.GetAlgorithm() == common.HashAlgorithm_SHA2_256 &&
		digest.NewDigestFromBytes(digest.SHA256, d.GetDigest()) != s.subject.Digest {
		return anotherImage
	}
	if s.signed == nil {
		if s.signed, err = s.fetchManifest(ctx, s.subject.Digest.String(), maxSubject); err != nil {
			return err
		}
	}
	return verify(s.keys, message.GetSignature(), s.signed)
}

// parseBundle reads a bundle that was made with a key, and the statement in it. Without a statement, it has
// a signature of the image's manifest itself. Nothing of it is verified.
func parseBundle(raw []byte) (*bundle.Bundle, *statement, error) {
	b := &bundle.Bundle{}
	if protojson.Unmarshal(raw, b) != nil {
		return nil, nil, problemf("its bundle is malformed")
	}
	if b.GetMediaType() != bundleType {
		return nil, nil, problemf("its bundle is not of the type %s", bundleType)
	}
	var st *statement
	var err error
	switch {
	case b.GetDsseEnvelope() != nil:
		if st, err = parseEnvelope(b.GetDsseEnvelope()); err != nil {
			return nil, nil, err
		}
	case b.GetMessageSignature() == nil:
		return nil, nil, problemf("its bundle has no signature")
	}
	material := b.GetVerificationMaterial()
	switch {
	case material.GetCertificate() != nil, material.GetX509CertificateChain() != nil:
		return nil, nil, problemf("it is made with a certificate instead of a key")
	case material.GetPublicKey() == nil:
		return nil, nil, problemf("its bundle does not say that it is made with a key")
	}
	return b, st, nil
}

// parseEnvelope reads the statement in an envelope. The error is errOther if it is an attestation.
func parseEnvelope(envelope *protodsse.Envelope) (*statement, error) {
	if envelope.GetPayloadType() != payloadType {
		return nil, problemf("its envelope is not of the type %s", payloadType)
	}
	if n := len(envelope.GetSignatures()); n != 1 {
		return nil, problemf("its envelope has %d signatures instead of one", n)
	}
	st := &statement{}
	if json.Unmarshal(envelope.GetPayload(), st) != nil {
		return nil, problemf("its statement is malformed")
	}
	if st.PredicateType != signPredicate {
		return nil, errOther
	}
	if !slices.Contains(statementTypes, st.Type) {
		return nil, problemf("its statement is not of in-toto's version 1")
	}
	return st, nil
}

// checkStatement is nil if a key signed the envelope, and the statement in it is about the image.
func checkStatement(keys []key, envelope *protodsse.Envelope, st *statement, image digest.Digest) error {
	signed := dsse.PAE(envelope.GetPayloadType(), envelope.GetPayload())
	if err := verify(keys, envelope.GetSignatures()[0].GetSig(), signed); err != nil {
		return err
	}
	for _, subject := range st.Subject[:min(len(st.Subject), maxSubjects)] {
		if subject.Digest["sha256"] == image.Encoded() {
			return nil
		}
	}
	return anotherImage
}
