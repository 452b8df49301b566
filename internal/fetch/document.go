package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/list"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

// Document is a list of plugins as it was published.
type Document struct {
	Digest  string // of the artifact's manifest, or of the file
	Content []byte
}

// FetchDocument reads a list: the only layer of an artifact (what oras push
// makes of a file), or a file. SHA256 of the request is that of the list itself. The error
// is a *failure.Error.
func (f *Fetcher) FetchDocument(ctx context.Context, r Request) (Document, error) {
	return firstThere(r, func(r Request) (document Document, err error) {
		switch {
		case r.unsigned():
			return Document{}, errUnsigned(r)
		case reference.IsFile(r.URL):
			document, err = f.readFile(ctx, r)
		default:
			err = f.do(ctx, r, func(ctx context.Context, s *session) (err error) {
				document, err = s.readDocument(ctx)
				return err
			})
		}
		if err != nil {
			return Document{}, err
		}
		if sum := hexSum(document.Content); r.SHA256 != "" && r.SHA256 != sum {
			return Document{}, failure.New(failure.Upstream, failure.DigestMismatch, nil,
				"%s has the sha256 %s, expected is %s: correct sha256, or publish the expected list", reference.Shown(r.URL), sum, r.SHA256)
		}
		return document, nil
	})
}

func hexSum(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func (s *session) readDocument(ctx context.Context) (Document, error) {
	im, err := s.fetchImage(ctx)
	if err != nil {
		return Document{}, err
	}
	if err := s.verifySignature(ctx, im.subject); err != nil {
		return Document{}, err
	}
	layers := im.manifest.Layers
	if len(layers) != 1 || layers[0].Digest.Validate() != nil || layers[0].Size < 0 {
		return Document{}, failure.New(failure.Upstream, failure.UnsupportedArtifact, nil,
			"it has %d layers, and a list is the only one: push the file alone (oras push REFERENCE FILE)", len(layers))
	}
	if layers[0].Size > list.MaxSize {
		return Document{}, longList()
	}
	body, err := s.repo.Blobs().Fetch(ctx, layers[0])
	if err != nil {
		return Document{}, &layerError{layers[0].Digest.String(), err}
	}
	defer body.Close()
	content, err := readVerified(body, layers[0])
	if err != nil {
		return Document{}, &layerError{layers[0].Digest.String(), err}
	}
	return Document{im.digest, content}, nil
}

func (f *Fetcher) readFile(ctx context.Context, r Request) (document Document, err error) {
	d, err := f.openFile(ctx, r)
	if err != nil {
		return Document{}, err
	}
	err = f.run(ctx, d.session, func(ctx context.Context, _ *session) error {
		resp, err := d.get(ctx, nil)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		document.Content, err = io.ReadAll(io.LimitReader(resp.Body, list.MaxSize+1))
		if err == nil && len(document.Content) > list.MaxSize {
			err = longList()
		}
		document.Digest = "sha256:" + hexSum(document.Content)
		return err
	})
	return document, err
}

func longList() error {
	return failure.New(failure.Upstream, failure.InvalidList, nil, "the list has more than %d KiB: split it", list.MaxSize>>10)
}
