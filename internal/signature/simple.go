package signature

import (
	"encoding/base64"
	"encoding/json"

	"github.com/opencontainers/go-digest"
	"github.com/sigstore/sigstore/pkg/signature/payload"
)

// signatureKey is the annotation of a layer with the signature of its payload.
const signatureKey = "dev.cosignproject.cosign/signature"

// decode reads a signature from an annotation.
func decode(encoded string) ([]byte, error) {
	if encoded == "" || len(encoded) > maxEncoded {
		return nil, problemf("its annotation %s is empty or too long", signatureKey)
	}
	signature, err := base64.StdEncoding.Strict().DecodeString(encoded)
	if err != nil {
		return nil, problemf("its annotation %s is no base64", signatureKey)
	}
	return signature, nil
}

// checkSimple is nil if a key signed the payload, and the payload is about the image.
func checkSimple(keys []key, signature, raw []byte, image digest.Digest) error {
	if err := verify(keys, signature, raw); err != nil {
		return err
	}
	var p payload.SimpleContainerImage
	if json.Unmarshal(raw, &p) != nil {
		return problemf("its payload is malformed")
	}
	if p.Critical.Type != payload.CosignSignatureType {
		return problemf("its payload is not a signature of cosign")
	}
	if p.Critical.Image.DockerManifestDigest != image.String() {
		return anotherImage
	}
	return nil
}
