package fetch

import (
	"context"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/signature"
)

const (
	// maxReferrers is the size of a list of referrers in bytes, and maxReferrerPages their number: nobody signs so much.
	maxReferrers     = 1 << 20
	maxReferrerPages = 8
)

// verifySignature lets nothing of an artifact through that is not signed, where
// that is asked for: what is verified is the digest that is fetched and recorded.
func (s *session) verifySignature(ctx context.Context, subject ocispec.Descriptor) error {
	if len(s.access.PublicKeys) == 0 {
		return nil
	}
	verifier, err := signature.New(s.access.PublicKeys)
	if err != nil {
		return failure.New(failure.Spec, failure.SignatureInvalid, nil, "spec.signature.publicKeys cannot be used: %s", err)
	}
	return verifier.Verify(ctx, &remote.Repository{
		Client: s.repo.Client, Reference: s.repo.Reference, PlainHTTP: s.repo.PlainHTTP, ManifestMediaTypes: s.repo.ManifestMediaTypes,
		MaxMetadataBytes: maxReferrers, ReferrerListMaxPages: maxReferrerPages,
	}, subject)
}
