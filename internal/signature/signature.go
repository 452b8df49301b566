// Package signature verifies signatures of cosign that were made with a key.
// It works offline: nothing is asked but the registry that has the content,
// and all that comes from there is untrusted until a key has confirmed it.
package signature

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/registry"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

const (
	// maxManifest is the size of a signature's manifest in bytes. It is parsed, so it is far less than registries take.
	maxManifest = 1 << 20
	// maxSubject is the size of the signed manifest in bytes. It is only hashed.
	maxSubject = 4 << 20
	// maxPayload is the size of a signed payload in bytes.
	maxPayload = 1 << 20
	// maxBundle is the size of a bundle in bytes.
	maxBundle = 1 << 20
	// maxEncoded is the length of a signature in an annotation. RSA with 8192 bits needs 1368.
	maxEncoded = 8 << 10
	// maxSignatures is how many signatures are looked at.
	maxSignatures = 32
	// maxListed is how many referrers of any kind may be listed.
	maxListed = 1024
	// maxProblems is how many different problems a message tells.
	maxProblems = 3
)

// Repository is what is needed of a registry's repository. *remote.Repository has it.
type Repository interface {
	registry.ReferenceFetcher // of manifests
	registry.ReferrerLister
	Blobs() registry.BlobStore
}

// problem is why one signature does not count. Another one may.
type problem string

func (p problem) Error() string { return string(p) }

func problemf(format string, args ...any) error { return problem(fmt.Sprintf(format, args...)) }

// errOther says that something is no signature of an image, but maybe an attestation.
var errOther = errors.New("not a signature")

const (
	anotherKey   = problem("it is by another key")
	anotherImage = problem("it is for another image")
)

// Verify says whether the manifest with the digest of subject is signed in its
// repository by one of the keys; only then the error is nil. It is a
// *failure.Error if there is no good signature. An error of the registry comes
// as it is.
func (v *Verifier) Verify(ctx context.Context, repo Repository, subject ocispec.Descriptor) error {
	if err := subject.Digest.Validate(); err != nil || subject.Digest.Algorithm() != digest.SHA256 {
		return failure.New(failure.Upstream, failure.SignatureMissing, err, "it has no sha256 digest, and cosign signs nothing else: push it again with one")
	}
	s := &search{keys: v.keys, repo: repo, subject: subject}
	for _, scheme := range []func(context.Context) error{s.byTag, s.byReferrers} {
		if err := scheme(ctx); !errors.Is(err, errNone) {
			return err
		}
	}
	if s.refused != nil {
		return s.refused
	}
	return s.failure()
}

// errNone says that a scheme found no signature that counts.
var errNone = errors.New("no signature counts")

// search is one look for a signature. Its methods give nil only for a verified
// one; errNone, errOther or a problem if it has to go on elsewhere; and
// everything else ends it.
type search struct {
	keys    []key
	repo    Repository
	subject ocispec.Descriptor

	signed   []byte   // the subject's bytes, once they were needed
	looked   int      // signatures that were looked at
	problems []string // why they do not count
	refused  error    // 401 or 403 for the tag: some registries hide what is not there
}

// first tries one signature after the other. check has to give nil only for a verified one.
func first[T any](s *search, candidates []T, check func(T) error) error {
	if s.looked += len(candidates); s.looked > maxSignatures {
		return failure.New(failure.Upstream, failure.SignatureInvalid, nil, "it has more than %d signatures and attestations, and the good one is not looked for among so many: delete the old ones", maxSignatures)
	}
	for _, c := range candidates {
		err := check(c)
		var p problem
		switch {
		case errors.As(err, &p):
			s.problems = append(s.problems, string(p))
		case errors.Is(err, errNone), errors.Is(err, errOther):
		default:
			return err
		}
	}
	return errNone
}

// failure is the result of a search that found no signature that counts.
func (s *search) failure() error {
	if len(s.problems) == 0 {
		return failure.New(failure.Upstream, failure.SignatureMissing, nil,
			"it has no signature of cosign in its repository: sign %s with cosign sign --key, or do not ask for a signature", s.subject.Digest)
	}
	var different []string
	for _, p := range s.problems {
		if !slices.Contains(different, p) {
			different = append(different, p)
		}
	}
	if len(different) > maxProblems {
		different = append(different[:maxProblems], "…")
	}
	return failure.New(failure.Upstream, failure.SignatureInvalid, nil,
		"it is signed, but not so that it can be trusted (%s): sign %s with the private key of a public key that is given here, or give the signer's public key",
		strings.Join(different, "; "), s.subject.Digest)
}
