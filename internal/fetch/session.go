package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/reference"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// session is one task with one registry.
type session struct {
	fetcher *Fetcher
	ref     reference.Reference
	access  Access
	login   bool // whether the access has a login for this registry
	repo    *remote.Repository
}

func (f *Fetcher) newSession(ctx context.Context, ref reference.Reference, access Access) (*session, error) {
	client, login, err := f.connect(ctx, ref, access)
	if err != nil {
		return nil, err
	}
	return &session{
		fetcher: f, ref: ref, access: access, login: login,
		repo: &remote.Repository{
			Client:             client,
			Reference:          registry.Reference{Registry: ref.Registry, Repository: ref.Repository},
			PlainHTTP:          access.PlainHTTP,
			ManifestMediaTypes: slices.Concat(manifestTypes, indexTypes),
			MaxMetadataBytes:   maxManifest,
		},
	}, nil
}

// resolve asks which digest the reference has.
func (s *session) resolve(ctx context.Context) (string, error) {
	if s.ref.Digest != "" {
		return s.ref.Digest, nil
	}
	if desc, err := s.repo.Resolve(ctx, s.ref.Target()); err == nil {
		return desc.Digest.String(), nil
	}
	// Some registries do not give the digest in the answer to HEAD; and the body of GET says what is wrong.
	desc, _, err := s.fetchManifest(ctx, s.ref.Target())
	if err != nil {
		return "", err
	}
	return desc.Digest.String(), nil
}

// fetch brings the module into the store.
func (s *session) fetch(ctx context.Context, sha256 string) (store.Artifact, error) {
	image, err := s.fetchImage(ctx)
	if err != nil {
		return store.Artifact{}, err
	}
	if err := s.verifySignature(ctx, image.subject); err != nil {
		return store.Artifact{}, err
	}
	blob, err := s.fetchModule(ctx, image, sha256)
	if err != nil {
		return store.Artifact{}, err
	}
	artifact := store.Artifact{
		Digest:      image.digest,
		Blob:        blob,
		Created:     s.created(ctx, image),
		Description: image.description(),
		Signature:   s.access.SignedBy(),
	}
	return artifact, s.fetcher.store.PutArtifact(artifact)
}

// fetchModule looks for the module in the layers that may have it.
func (s *session) fetchModule(ctx context.Context, image *image, sha256 string) (store.Blob, error) {
	layers := image.candidates()
	if len(layers) > maxLayers {
		return store.Blob{}, failure.New(failure.Upstream, failure.UnsupportedArtifact, nil,
			"it has %d layers that may hold a module, more than %d: publish the module as an artifact of its own", len(layers), maxLayers)
	}
	for _, layer := range layers {
		blob, err := s.fetchLayer(ctx, layer, sha256)
		if !errors.Is(err, errNoModule) {
			return blob, err
		}
	}
	return store.Blob{}, failure.New(failure.Upstream, failure.NoWasmLayer, nil,
		"it has no layer with a Wasm module (%s): push the .wasm file as a layer, or a tar.gz with plugin.wasm in it", image.layerTypes())
}

// fetchLayer puts the module of one layer into the store; the error is errNoModule if it has none.
func (s *session) fetchLayer(ctx context.Context, layer ocispec.Descriptor, sha256 string) (store.Blob, error) {
	blob, err := s.fetcher.storeModule(ctx, sha256, func() (io.ReadCloser, container, error) {
		if layer.Size < 0 || layer.Digest.Validate() != nil {
			return nil, container{}, failure.New(failure.Upstream, failure.UnsupportedArtifact, nil, "the manifest describes a layer without a proper size and digest")
		}
		if layer.Size > maxExpanded {
			return nil, container{}, tooLarge("a layer of %d MiB", layer.Size>>20)
		}
		body, err := s.repo.Blobs().Fetch(ctx, layer)
		if err != nil {
			return nil, container{}, err
		}
		return body, container{content.NewVerifyReader(body, layer), layer.Size, likelihood(layer) > 1}, nil
	})
	if err != nil {
		return store.Blob{}, &layerError{layer.Digest.String(), err}
	}
	return blob, nil
}

// storeModule puts the module of what open gives into the store; the error is errNoModule if it has none.
func (f *Fetcher) storeModule(ctx context.Context, sha256 string, open func() (io.ReadCloser, container, error)) (store.Blob, error) {
	blob, err := f.storeEntry(ctx, sha256, "", open)
	var other *otherEntry
	if errors.As(err, &other) {
		// plugin.wasm came after another .wasm file. That is rare enough to read everything again.
		blob, err = f.storeEntry(ctx, sha256, other.name, open)
	}
	return blob, err
}

func (f *Fetcher) storeEntry(
	ctx context.Context, sha256, entry string, open func() (io.ReadCloser, container, error),
) (_ store.Blob, err error) {
	body, c, err := open()
	if err != nil {
		return store.Blob{}, err
	}
	defer body.Close()
	module, err := openModule(c, entry)
	if err != nil {
		return store.Blob{}, err
	}
	blob, err := f.store.Put(ctx, module, sha256)
	if reason := failure.Of(err); err != nil && (reason.Reason == failure.NotWasm || reason.Reason == failure.TooLarge) {
		// The store stopped reading. What is said about the module holds only if
		// the layer is what its digest says, and the right file in it.
		if endErr := module.end(); endErr != nil {
			return store.Blob{}, endErr
		}
	}
	return blob, err
}

// layerError says which layer an error is about.
type layerError struct {
	digest string
	err    error
}

func (e *layerError) Error() string { return fmt.Sprintf("layer %s: %v", e.digest, e.err) }
func (e *layerError) Unwrap() error { return e.err }

// short is the digest as people compare it by eye.
func short(digest string) string {
	_, hex, _ := strings.Cut(digest, ":")
	return hex[:min(12, len(hex))]
}
