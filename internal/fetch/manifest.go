package fetch

import (
	"cmp"
	"context"
	"encoding/json"
	"io"
	"mime"
	"slices"
	"strings"
	"time"
	"unicode"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

const (
	// maxManifest is the size of a manifest in bytes (distribution specification: registries should take 4 MiB).
	maxManifest = 4 << 20
	// maxConfig is the size of an image configuration in bytes that is read for its date.
	maxConfig = 1 << 20
	// maxLayers is how many layers of one artifact are looked into.
	maxLayers = 32
	// maxDescription is the number of characters of a description that are kept; the API has the same limit.
	maxDescription = 512
)

const (
	dockerManifestType = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndexType    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfigType   = "application/vnd.docker.container.image.v1+json"
	// attestationKey marks manifests in an index that are about another one (BuildKit).
	attestationKey = "vnd.docker.reference.type"
)

var (
	manifestTypes = []string{ocispec.MediaTypeImageManifest, dockerManifestType}
	indexTypes    = []string{ocispec.MediaTypeImageIndex, dockerIndexType}
	// companions are parts of the media types of layers that stand beside a module.
	companions = []string{".wasm.doc.", ".wasm.spec.", ".wasm.icon.", ".wasm.config.", "+json", "+yaml", "/json", "/yaml"}
)

// image is a manifest, with what is known about it.
type image struct {
	digest      string             // what the reference points to: the manifest, or the index that names it
	subject     ocispec.Descriptor // of that
	manifest    ocispec.Manifest
	annotations map[string]string // of the manifest, else of the index
}

// fetchImage reads the manifest, through an index if there is one.
func (s *session) fetchImage(ctx context.Context) (*image, error) {
	desc, raw, err := s.fetchManifest(ctx, s.ref.Target())
	if err != nil {
		return nil, err
	}
	im := &image{digest: desc.Digest.String(), subject: desc}
	if slices.Contains(indexTypes, desc.MediaType) {
		chosen, err := im.readIndex(raw)
		if err != nil {
			return nil, err
		}
		if desc, raw, err = s.fetchManifest(ctx, chosen); err != nil {
			return nil, err
		}
	}
	if !slices.Contains(manifestTypes, desc.MediaType) {
		return nil, failure.New(failure.Upstream, failure.UnsupportedArtifact, nil,
			"its media type %s is no image manifest: push it as an OCI artifact or a Docker schema 2 image", printable(desc.MediaType))
	}
	return im, im.readManifest(raw)
}

// readIndex takes in an index, and gives the digest of the manifest to read.
func (im *image) readIndex(raw []byte) (digest string, err error) {
	var index ocispec.Index
	if err := json.Unmarshal(raw, &index); err != nil {
		return "", malformed("index")
	}
	im.annotations = index.Annotations
	chosen, found := choose(index.Manifests)
	if !found {
		return "", failure.New(failure.Upstream, failure.UnsupportedArtifact, nil, "its index names no image: push the plugin for linux/amd64 or without a platform")
	}
	return chosen, nil
}

func (im *image) readManifest(raw []byte) error {
	if err := json.Unmarshal(raw, &im.manifest); err != nil {
		return malformed("manifest")
	}
	if len(im.manifest.Annotations) > 0 {
		im.annotations = im.manifest.Annotations
	}
	return nil
}

func malformed(what string) error {
	return failure.New(failure.Upstream, failure.UnsupportedArtifact, nil, "its %s is malformed: push it again", what)
}

// fetchManifest reads a manifest or an index, whole and verified.
func (s *session) fetchManifest(ctx context.Context, target string) (ocispec.Descriptor, []byte, error) {
	desc, body, err := s.repo.FetchReference(ctx, target)
	if err != nil {
		return ocispec.Descriptor{}, nil, err
	}
	defer body.Close()
	if desc.Size > maxManifest {
		return ocispec.Descriptor{}, nil, failure.New(failure.Upstream, failure.TooLarge, nil, "its manifest has %d bytes, %d are allowed", desc.Size, maxManifest)
	}
	raw, err := readVerified(body, desc)
	return desc, raw, err
}

// readVerified reads a small content whose declared size was checked. It allocates as the bytes come.
func readVerified(r io.Reader, desc ocispec.Descriptor) ([]byte, error) {
	verified := content.NewVerifyReader(r, desc)
	raw, err := io.ReadAll(verified)
	if err == nil {
		err = verified.Verify()
	}
	return raw, err
}

// choose picks an image from an index: linux/amd64 if it is there, else the first that is one. Wasm is
// the same on every platform.
func choose(manifests []ocispec.Descriptor) (digest string, found bool) {
	images := slices.DeleteFunc(slices.Clone(manifests), func(d ocispec.Descriptor) bool {
		unknown := d.Platform != nil && d.Platform.OS == "unknown"
		return d.Annotations[attestationKey] != "" || unknown || d.Digest.Validate() != nil
	})
	if len(images) == 0 {
		return "", false
	}
	preferred := slices.IndexFunc(images, func(d ocispec.Descriptor) bool {
		return d.Platform != nil && d.Platform.OS == "linux" && d.Platform.Architecture == "amd64"
	})
	return images[max(preferred, 0)].Digest.String(), true
}

// candidates are the layers that may hold the module, the likeliest first: what is declared as Wasm, then
// the others from the last to the first.
func (im *image) candidates() []ocispec.Descriptor {
	var layers []ocispec.Descriptor
	for _, layer := range slices.Backward(im.manifest.Layers) {
		if likelihood(layer) > 0 {
			layers = append(layers, layer)
		}
	}
	slices.SortStableFunc(layers, func(a, b ocispec.Descriptor) int { return cmp.Compare(likelihood(b), likelihood(a)) })
	return layers
}

func likelihood(layer ocispec.Descriptor) int {
	kind, _, err := mime.ParseMediaType(layer.MediaType)
	if err != nil {
		return 0
	}
	if kind == "application/wasm" || strings.HasSuffix(kind, "+wasm") {
		return 3
	}
	if strings.HasSuffix(layer.Annotations[ocispec.AnnotationTitle], ".wasm") { // oras push plugin.wasm
		return 2
	}
	companion := slices.ContainsFunc(companions, func(part string) bool { return strings.Contains(kind, part) })
	if companion || strings.HasPrefix(kind, "text/") || strings.HasPrefix(kind, "image/") {
		return 0
	}
	return 1
}

// layerTypes lists the media types for a message.
func (im *image) layerTypes() string {
	var types []string
	for _, layer := range im.manifest.Layers {
		if t := printable(layer.MediaType); !slices.Contains(types, t) {
			types = append(types, t)
		}
	}
	switch {
	case len(types) == 0:
		return "it has no layers"
	case len(types) > 3:
		types = append(types[:3], "…")
	}
	return "layers: " + strings.Join(types, ", ")
}

// created is when the artifact says that it was made: by its annotation, else by the configuration of the
// image. Nothing depends on it, so an error is no failure.
func (s *session) created(ctx context.Context, im *image) time.Time {
	if t, err := time.Parse(time.RFC3339, im.annotations[ocispec.AnnotationCreated]); err == nil {
		return t.UTC()
	}
	config := im.manifest.Config
	if config.MediaType != ocispec.MediaTypeImageConfig && config.MediaType != dockerConfigType ||
		config.Size < 0 || config.Size > maxConfig || config.Digest.Validate() != nil {
		return time.Time{}
	}
	body, err := s.repo.Blobs().Fetch(ctx, config)
	if err != nil {
		return time.Time{}
	}
	defer body.Close()
	raw, err := readVerified(body, config)
	var image ocispec.Image
	if err != nil || json.Unmarshal(raw, &image) != nil || image.Created == nil {
		return time.Time{}
	}
	return image.Created.UTC()
}

// description is a line for people.
func (im *image) description() string { return line(im.annotations[ocispec.AnnotationDescription]) }

// line makes a foreign text one line of a bounded length that can be printed.
func line(text string) string {
	text = strings.Join(strings.FieldsFunc(strings.ToValidUTF8(text, "\uFFFD"), func(r rune) bool {
		return unicode.IsSpace(r) || !unicode.IsPrint(r)
	}), " ")
	if characters := []rune(text); len(characters) > maxDescription {
		text = string(characters[:maxDescription])
	}
	return text
}

// printable makes a foreign word fit for a message.
func printable(word string) string {
	word = strings.Map(func(r rune) rune {
		if r > unicode.MaxASCII || !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, word)
	if len(word) > 80 {
		word = word[:80] + "…"
	}
	return cmp.Or(word, "(none)")
}
