package signature

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/errdef"
	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

const (
	dockerManifestType = "application/vnd.docker.distribution.manifest.v2+json"
	// artifactType is what cosign names its signatures when it attaches them as referrers of the older form.
	artifactType = "application/vnd.dev.cosign.artifact.sig.v1+json"
	simpleType   = "application/vnd.dev.cosign.simplesigning.v1+json"
	bundleType   = "application/vnd.dev.sigstore.bundle.v0.3+json"
	// predicateKey is the annotation of a referrer that says what statement is in the bundle.
	predicateKey = "dev.sigstore.bundle.predicateType"
)

var (
	manifestTypes = []string{ocispec.MediaTypeImageManifest, dockerManifestType}
	// artifactTypes are those that referrers with a signature are listed with. cosign listed bundles in
	// the fallback tag, and some registries list them, by the type of their empty configuration.
	artifactTypes = []string{artifactType, bundleType, ocispec.MediaTypeEmptyJSON, ""}
)

// byTag looks for signatures at the tag that cosign makes from the digest.
func (s *search) byTag(ctx context.Context) error {
	layers, err := s.fetchLayers(ctx, "sha256-"+s.subject.Digest.Encoded()+".sig")
	if errors.Is(err, errdef.ErrNotFound) {
		return errNone
	}
	if refuses(err) {
		s.refused = err
		return errNone
	}
	if err != nil {
		return s.orNone(err)
	}
	return s.trySimple(ctx, layersOf(layers, simpleType))
}

func refuses(err error) bool {
	var answer *errcode.ErrorResponse
	return errors.Is(err, auth.ErrBasicCredentialNotFound) ||
		errors.As(err, &answer) && (answer.StatusCode == http.StatusUnauthorized || answer.StatusCode == http.StatusForbidden)
}

// byReferrers looks for signatures that refer to the subject.
func (s *search) byReferrers(ctx context.Context) error {
	listed := 0
	var referrers []string
	err := s.repo.Referrers(ctx, s.subject, "", func(page []ocispec.Descriptor) error {
		if listed += len(page); listed > maxListed {
			return failure.New(failure.Upstream, failure.SignatureInvalid, nil,
				"more than %d artifacts refer to it, and its signature is not looked for among so many: delete the old ones", maxListed)
		}
		for _, d := range page {
			if maySign(d) && !slices.Contains(referrers, d.Digest.String()) {
				referrers = append(referrers, d.Digest.String())
			}
		}
		return nil
	})
	// The client itself turns to the fallback tag, but not if the registry says that it does not know the repository.
	if answer := (*errcode.ErrorResponse)(nil); errors.Is(err, errdef.ErrNotFound) ||
		errors.As(err, &answer) && answer.StatusCode == http.StatusNotFound {
		return errNone
	}
	if err != nil {
		return err
	}
	return first(s, referrers, func(reference string) error { return s.tryReferrer(ctx, reference) })
}

// maySign is whether a referrer may be a signature, as far as the list tells.
func maySign(d ocispec.Descriptor) bool {
	predicate := d.Annotations[predicateKey]
	return slices.Contains(manifestTypes, d.MediaType) && slices.Contains(artifactTypes, d.ArtifactType) &&
		(predicate == "" || predicate == signPredicate)
}

// tryReferrer looks at one artifact that refers to the subject. Its layers say what it is.
func (s *search) tryReferrer(ctx context.Context, reference string) error {
	if digest.Digest(reference).Validate() != nil {
		return problemf("it is listed without a proper digest")
	}
	layers, err := s.fetchLayers(ctx, reference)
	if errors.Is(err, errdef.ErrNotFound) {
		return problemf("it is listed but not there")
	}
	if err != nil {
		return err
	}
	if simple := layersOf(layers, simpleType); len(simple) > 0 {
		s.looked-- // what counts is in it
		return s.trySimple(ctx, simple)
	}
	bundles := layersOf(layers, bundleType)
	switch {
	case len(bundles) == 0:
		return errOther
	case len(layers) != 1:
		return problemf("it has %d layers instead of one bundle", len(layers))
	}
	raw, err := s.fetchBlob(ctx, bundles[0], maxBundle)
	if err != nil {
		return err
	}
	return s.checkBundle(ctx, raw)
}

// trySimple looks at signatures that are layers of one manifest.
func (s *search) trySimple(ctx context.Context, layers []ocispec.Descriptor) error {
	return first(s, layers, func(layer ocispec.Descriptor) error {
		signature, err := decode(layer.Annotations[signatureKey])
		if err != nil {
			return err
		}
		payload, err := s.fetchBlob(ctx, layer, maxPayload)
		if err != nil {
			return err
		}
		return checkSimple(s.keys, signature, payload, s.subject.Digest)
	})
}

// orNone keeps a problem for the message. Every other error ends the search.
func (s *search) orNone(err error) error {
	var p problem
	if !errors.As(err, &p) {
		return err
	}
	s.problems = append(s.problems, string(p))
	return errNone
}

func layersOf(layers []ocispec.Descriptor, mediaType string) []ocispec.Descriptor {
	return slices.DeleteFunc(slices.Clone(layers), func(d ocispec.Descriptor) bool { return d.MediaType != mediaType })
}

// fetchLayers reads the manifest of signatures and gives its layers.
func (s *search) fetchLayers(ctx context.Context, reference string) ([]ocispec.Descriptor, error) {
	raw, err := s.fetchManifest(ctx, reference, maxManifest, manifestTypes...)
	if err != nil {
		return nil, err
	}
	var manifest ocispec.Manifest
	if json.Unmarshal(raw, &manifest) != nil {
		return nil, problemf("its manifest is malformed")
	}
	return manifest.Layers, nil
}

// fetchManifest reads a manifest of at most limit bytes and of one of the types, whole and verified.
func (s *search) fetchManifest(ctx context.Context, reference string, limit int64, types ...string) ([]byte, error) {
	desc, body, err := s.repo.FetchReference(ctx, reference)
	if err != nil {
		return nil, err
	}
	defer body.Close()
	if len(types) > 0 && !slices.Contains(types, desc.MediaType) {
		return nil, problemf("its manifest is no image manifest")
	}
	if want := digest.Digest(reference); want.Validate() == nil && want != desc.Digest {
		return nil, problemf("the registry gave another manifest than the one with its digest")
	}
	return read(body, desc, limit)
}

// fetchBlob reads a blob of at most limit bytes, whole and verified.
func (s *search) fetchBlob(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDescriptor(desc, limit); err != nil {
		return nil, err
	}
	body, err := s.repo.Blobs().Fetch(ctx, desc)
	if errors.Is(err, errdef.ErrNotFound) {
		return nil, problemf("a part of it is not in the repository")
	}
	if err != nil {
		return nil, err
	}
	defer body.Close()
	return read(body, desc, limit)
}

func checkDescriptor(desc ocispec.Descriptor, limit int64) error {
	if desc.Size < 0 || desc.Digest.Validate() != nil {
		return problemf("a part of it is described without a proper size and digest")
	}
	if desc.Size > limit {
		return problemf("a part of it has %d bytes, %d are allowed", desc.Size, limit)
	}
	return nil
}

// read gives what the descriptor describes. It allocates as the bytes come.
func read(body io.Reader, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := checkDescriptor(desc, limit); err != nil {
		return nil, err
	}
	verified := content.NewVerifyReader(body, desc)
	raw, err := io.ReadAll(verified)
	if err == nil {
		err = verified.Verify()
	}
	if errors.Is(err, content.ErrMismatchedDigest) || errors.Is(err, content.ErrTrailingData) {
		return nil, problemf("the registry gave other bytes for a part of it than its digest says")
	}
	if err != nil {
		return nil, err
	}
	return raw, nil
}
