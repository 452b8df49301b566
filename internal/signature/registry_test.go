package signature

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/errcode"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// What the registry does not answer must not be taken for "there is nothing", and comes as it is.
func TestRegistryFails(t *testing.T) {
	t.Parallel()
	key := p256(t)
	for scheme, attach := range schemes {
		for _, path := range []string{"/manifests/", "/blobs/", "/referrers/"} {
			for _, status := range []int{http.StatusInternalServerError, http.StatusUnauthorized, http.StatusForbidden, http.StatusTooManyRequests} {
				t.Run(fmt.Sprint(scheme, path, status), func(t *testing.T) {
					t.Parallel()
					r := newRegistry(t, withReferrers())
					attach(r, key)
					failed := false
					r.front = func(w http.ResponseWriter, req *http.Request) bool {
						if !strings.Contains(req.URL.Path, path) {
							return false
						}
						failed = true
						w.WriteHeader(status)
						return true
					}
					err := key.verifier().Verify(t.Context(), r.repo(), r.image)
					if !failed { // the scheme does without
						requireError(t, err, "", "")
						return
					}
					requireTransport(t, err)
				})
			}
		}
	}
}

func requireTransport(t *testing.T, err error) {
	t.Helper()
	var e *failure.Error
	if err == nil || errors.As(err, &e) {
		t.Fatalf("got %v, want an error of the registry as it is", err)
	}
}

// A good referrer does not help if it is not known what is at the tag.
func TestTagFails(t *testing.T) {
	t.Parallel()
	r, key := newRegistry(t, withReferrers()), p256(t)
	r.bundle(r.statement(key))
	r.front = func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, ".sig") {
			return false
		}
		w.WriteHeader(http.StatusInternalServerError)
		return true
	}
	err := key.verifier().Verify(t.Context(), r.repo(), r.image)
	var answer *errcode.ErrorResponse
	if !errors.As(err, &answer) || answer.StatusCode != http.StatusInternalServerError {
		t.Fatalf("got %v", err)
	}
	requireTransport(t, err)
}

// A registry that hides what is not there behind 401 or 403 may still list a
// referrer; without one its answer comes as it is.
func TestTagRefused(t *testing.T) {
	t.Parallel()
	for _, status := range []int{http.StatusUnauthorized, http.StatusForbidden} {
		r, key := newRegistry(t, withReferrers()), p256(t)
		r.front = func(w http.ResponseWriter, req *http.Request) bool {
			if !strings.HasSuffix(req.URL.Path, ".sig") {
				return false
			}
			w.WriteHeader(status)
			return true
		}
		requireTransport(t, key.verifier().Verify(t.Context(), r.repo(), r.image))
		r.bundle(r.statement(p256(t)))
		requireTransport(t, key.verifier().Verify(t.Context(), r.repo(), r.image))
		r.bundle(r.statement(key))
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), "", "")
	}
}

func TestRegistryLies(t *testing.T) {
	t.Parallel()
	key := p256(t)
	setup := func(t *testing.T, attach func(r *testRegistry) ocispec.Descriptor) (*testRegistry, ocispec.Descriptor) {
		r := newRegistry(t, withReferrers())
		return r, attach(r)
	}
	byTag := func(r *testRegistry) ocispec.Descriptor {
		layer := r.signedBy(key)
		r.tag(r.image, layer)
		return layer
	}
	t.Run("a payload with another digest", func(t *testing.T) {
		t.Parallel()
		r, layer := setup(t, byTag)
		r.lie("/blobs/"+layer.Digest.String(), "application/octet-stream", layer.Digest, make([]byte, layer.Size))
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "other bytes")
	})
	t.Run("a longer payload", func(t *testing.T) {
		t.Parallel()
		r, layer := setup(t, byTag)
		r.lie("/blobs/"+layer.Digest.String(), "application/octet-stream", layer.Digest, make([]byte, layer.Size+1))
		requireTransport(t, key.verifier().Verify(t.Context(), r.repo(), r.image))
	})
	t.Run("a manifest with another digest at the tag", func(t *testing.T) {
		t.Parallel()
		r, layer := setup(t, byTag)
		r.lie(".sig", ocispec.MediaTypeImageManifest, layer.Digest, []byte("{}"))
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "other bytes")
	})
	t.Run("an index at the tag", func(t *testing.T) {
		t.Parallel()
		r, _ := setup(t, byTag)
		r.lie(".sig", ocispec.MediaTypeImageIndex, digest.FromString("{}"), []byte("{}"))
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "no image manifest")
	})
	t.Run("nonsense at the tag", func(t *testing.T) {
		t.Parallel()
		r, _ := setup(t, byTag)
		r.lie(".sig", ocispec.MediaTypeImageManifest, digest.FromString("["), []byte("["))
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "malformed")
	})
	t.Run("a huge manifest at the tag", func(t *testing.T) {
		t.Parallel()
		r, _ := setup(t, byTag)
		huge := make([]byte, maxManifest+1)
		r.lie(".sig", ocispec.MediaTypeImageManifest, digest.FromBytes(huge), huge)
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "1048577 bytes")
	})
	t.Run("another manifest of a referrer", func(t *testing.T) {
		t.Parallel()
		r, referrer := setup(t, func(r *testRegistry) ocispec.Descriptor { return r.bundle(r.statement(key)) })
		r.lie(referrer.Digest.String(), ocispec.MediaTypeImageManifest, referrer.Digest, make([]byte, referrer.Size))
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "other bytes")
	})
	t.Run("another manifest of the image", func(t *testing.T) {
		t.Parallel()
		r, _ := setup(t, func(r *testRegistry) ocispec.Descriptor { return r.bundle(r.message(key)) })
		r.lie("/manifests/"+r.image.Digest.String(), ocispec.MediaTypeImageManifest, r.image.Digest, make([]byte, r.image.Size))
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "other bytes")
	})
	t.Run("a referrer that is not there", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t)
		r.fallback(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1})
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "listed but not there")
	})
	t.Run("a referrer without a digest", func(t *testing.T) {
		t.Parallel()
		r := newRegistry(t)
		r.fallback(ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "latest", Size: 1})
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "without a proper digest")
	})
	t.Run("a broken connection", func(t *testing.T) {
		t.Parallel()
		r, layer := setup(t, byTag)
		r.front = func(w http.ResponseWriter, req *http.Request) bool {
			if strings.Contains(req.URL.Path, "/blobs/") {
				w.Header().Set("Content-Length", fmt.Sprint(layer.Size))
				_, _ = io.WriteString(w, "{")
				w.(http.Flusher).Flush()
				panic(http.ErrAbortHandler)
			}
			return false
		}
		err := key.verifier().Verify(t.Context(), r.repo(), r.image)
		requireTransport(t, err)
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("got %v", err)
		}
	})
}

// Some registries say of a list of referrers that they do not have, that they do not know the repository.
func TestUnknownRepository(t *testing.T) {
	t.Parallel()
	r, key := newRegistry(t), p256(t)
	r.front = func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(http.StatusNotFound)
		_, _ = io.WriteString(w, `{"errors":[{"code":"NAME_UNKNOWN"}]}`)
		return true
	}
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureMissing, "no signature")
}

// The message tells some of the problems, and each only once.
func TestProblems(t *testing.T) {
	t.Parallel()
	r, key := newRegistry(t), p256(t)
	sign := func(payload []byte) ocispec.Descriptor { return r.simple(payload, key.sign(payload)) }
	nothing, large := sign(nil), sign(make([]byte, maxPayload+1))
	r.tag(r.image, r.signedBy(p256(t)), r.signedBy(p256(t)), nothing, sign([]byte("{}")), large)
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid,
		"(it is by another key; its payload is malformed; its payload is not a signature of cosign; …)")
}

// otherRepository gives another manifest, with a digest of its own, than the one that was asked for.
type otherRepository struct {
	*remote.Repository
	other string
}

func (r otherRepository) FetchReference(ctx context.Context, reference string) (ocispec.Descriptor, io.ReadCloser, error) {
	if strings.HasPrefix(reference, "sha256:") {
		reference = r.other
	}
	return r.Repository.FetchReference(ctx, reference)
}

// Nothing depends on the client comparing digests.
func TestAnotherManifest(t *testing.T) {
	t.Parallel()
	r, key := newRegistry(t, withReferrers()), p256(t)
	good := r.bundle(r.statement(key))
	signed := otherRepository{r.repo(), good.Digest.String()}
	requireError(t, key.verifier().Verify(t.Context(), signed, r.image), "", "")
	signed.other = r.image.Digest.String()
	requireError(t, key.verifier().Verify(t.Context(), signed, r.image), failure.SignatureInvalid, "another manifest")
}

func TestTooMany(t *testing.T) {
	t.Parallel()
	key, other := p256(t), p256(t)
	layers := func(r *testRegistry, n int) []ocispec.Descriptor {
		var all []ocispec.Descriptor
		for range n - 1 {
			all = append(all, r.signedBy(other))
		}
		return append(all, r.signedBy(key))
	}
	r := newRegistry(t, withReferrers())
	r.tag(r.image, layers(r, maxSignatures)...)
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), "", "")
	r.tag(r.image, layers(r, maxSignatures+1)...)
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "more than 32")

	// The tag's and the referrers' are counted together.
	r = newRegistry(t, withReferrers())
	r.tag(r.image, layers(r, maxSignatures)[:maxSignatures-1]...)
	r.refer(r.signedBy(key))
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), "", "")
	r.refer(r.signedBy(key), r.signedBy(key))
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "more than 32")
	r = newRegistry(t, withReferrers())
	r.refer(layers(r, maxSignatures+1)...)
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "more than 32")
}

// Artifacts that say that they are something else are not looked at, but not without end either.
func TestManyReferrers(t *testing.T) {
	t.Parallel()
	r, key := newRegistry(t), p256(t)
	good := r.bundle(r.statement(key))
	good.ArtifactType = bundleType
	list := func(n int, annotations map[string]string) {
		all := []ocispec.Descriptor{good, good} // twice the same is one
		for i := range n - 2 {
			all = append(all, ocispec.Descriptor{
				MediaType: ocispec.MediaTypeImageManifest, ArtifactType: bundleType, Annotations: annotations, Digest: digest.FromString(fmt.Sprint(i)),
			})
		}
		r.fallback(all...)
	}
	list(maxListed, map[string]string{predicateKey: "https://slsa.dev/provenance/v1"})
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), "", "")
	list(maxListed+1, map[string]string{predicateKey: "https://slsa.dev/provenance/v1"})
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "more than 1024")
	list(maxSignatures+1, nil)
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), "", "")
	list(maxSignatures+2, nil)
	requireError(t, key.verifier().Verify(t.Context(), r.repo(), r.image), failure.SignatureInvalid, "more than 32")
}

func TestOtherDigests(t *testing.T) {
	t.Parallel()
	r, key := newRegistry(t), p256(t)
	for _, d := range []digest.Digest{"", "sha256:x", "latest", digest.SHA512.FromBytes(r.raw)} {
		requireError(t, key.verifier().Verify(t.Context(), r.repo(), ocispec.Descriptor{Digest: d}), failure.SignatureMissing, "sha256")
	}
}

func TestCanceled(t *testing.T) {
	t.Parallel()
	r, key := newRegistry(t), p256(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := key.verifier().Verify(ctx, r.repo(), r.image); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}
