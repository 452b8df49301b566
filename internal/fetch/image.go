package fetch

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2/content"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// pluginsRoot is where the image of a plugin server has its plugins: below it,
// <name>/<version>/plugin.wasm, and perhaps a metadata.txt beside it.
const pluginsRoot = "usr/share/nginx/html/plugins"

// Limits of images. Official ones have some 10 layers and 100 modules, and take
// about 150 MiB, of which the base image of nginx is a good part.
const (
	maxImageModules = 1000
	maxImageLayers  = 64
	// maxImageCompressed is the size of a layer in bytes as it comes.
	maxImageCompressed = 1 << 30
	// maxImageExpanded is what all layers of an image may become together, in bytes. Also maxRatio holds for each.
	maxImageExpanded = 4 << 30
	// maxImageEntries is the number of files, directories and links in a layer.
	maxImageEntries = 200_000
	// maxImageName is the length of a path in bytes (PATH_MAX of Linux).
	maxImageName = 4096
	// maxImageMemory is what the paths below pluginsRoot and the descriptions may take, in bytes; nodeMemory is what
	// a path takes beside the name of its last part.
	maxImageMemory = 64 << 20
	nodeMemory     = 300
	// maxSkipped is how many lines of Image.Skipped there are; one more says how many are missing.
	maxSkipped = 100
)

var imageLimits = limits{maxImageCompressed, maxImageExpanded, "name a smaller image"}

// Image is what the image of a plugin server serves.
type Image struct {
	Digest string // of what the reference points to
	// Modules are ordered by their member, which is the plugin's key and there
	// once. What a metadata.txt says of them is taken over.
	Modules []store.Artifact
	Skipped []string // what is no plugin although it looks like one, and why: a line for people each
}

// FetchImage brings all plugins of a plugin server's image into the store. The
// layers are read as a stream, and what a later layer deletes or replaces does
// not count. SHA256 of the request is not looked at. As with Fetch, everything
// is read each time. The error is a *failure.Error.
func (f *Fetcher) FetchImage(ctx context.Context, r Request) (Image, error) {
	return firstThere(r, func(r Request) (image Image, err error) {
		err = f.do(ctx, r, func(ctx context.Context, s *session) (err error) {
			image, err = s.fetchPlugins(ctx)
			return err
		})
		return image, err
	})
}

func (s *session) fetchPlugins(ctx context.Context) (Image, error) {
	im, err := s.fetchImage(ctx)
	if err != nil {
		return Image{}, err
	}
	if err := s.verifySignature(ctx, im.subject); err != nil {
		return Image{}, err
	}
	if err := checkImageLayers(im.manifest.Layers); err != nil {
		return Image{}, err
	}
	r := newImageReader(s.fetcher.store.Put)
	for _, layer := range slices.Backward(im.manifest.Layers) {
		err := r.read(ctx, func() (io.Closer, verifier, error) {
			body, err := s.repo.Blobs().Fetch(ctx, layer)
			if err != nil {
				return nil, nil, err
			}
			return body, content.NewVerifyReader(body, layer), nil
		})
		if err != nil {
			return Image{}, &layerError{layer.Digest.String(), err}
		}
	}
	image := r.image(store.Artifact{Digest: im.digest, Signature: s.access.SignedBy()})
	if len(image.Modules) == 0 {
		return Image{}, failure.New(failure.Upstream, failure.NoWasmLayer, nil, "%s%s", noPlugins, leftOut(image.Skipped))
	}
	for _, a := range image.Modules {
		if err := s.fetcher.store.PutArtifact(a); err != nil {
			return Image{}, err
		}
	}
	return image, nil
}

const noPlugins = "it has no /" + pluginsRoot + "/<name>/<version>/" + moduleName + ": name the image of a plugin server, or list the plugin itself"

func leftOut(skipped []string) string {
	if len(skipped) == 0 {
		return ""
	}
	return " (left out: " + strings.Join(skipped[:min(3, len(skipped))], "; ") + ")"
}

func checkImageLayers(layers []ocispec.Descriptor) error {
	if len(layers) > maxImageLayers {
		return failure.New(failure.Upstream, failure.UnsupportedArtifact, nil, "it has %d layers, more than %d", len(layers), maxImageLayers)
	}
	for _, layer := range layers {
		if layer.Size < 0 || layer.Digest.Validate() != nil {
			return failure.New(failure.Upstream, failure.UnsupportedArtifact, nil, "the manifest describes a layer without a proper size and digest")
		}
		if layer.Size > maxImageCompressed {
			return imageLimits.tooLarge("a layer of %d MiB", layer.Size>>20)
		}
	}
	return nil
}

// imageReader reads the layers of an image, the last one first. In memory are
// the paths below pluginsRoot and what metadata.txt says, nothing else.
type imageReader struct {
	put       func(ctx context.Context, module io.Reader, sha256 string) (store.Blob, error)
	above     *node // what the layers that were read stand in the way of
	modules   map[catalog.Key]store.Blob
	metadata  map[catalog.Key]*leaf
	skipped   []string
	unlisted  int // what is left out and not in skipped
	spent     spent
	allowance spent
}

// spent is what reading took. A layer that is read again is counted once.
type spent struct {
	expanded int64 // bytes of layers
	memory   int64
	modules  int // that were put into the store, or tried to
}

func newImageReader(put func(context.Context, io.Reader, string) (store.Blob, error)) *imageReader {
	return &imageReader{
		put: put, above: &node{}, modules: map[catalog.Key]store.Blob{}, metadata: map[catalog.Key]*leaf{},
		allowance: spent{maxImageExpanded, maxImageMemory, maxImageModules},
	}
}

// read takes in the next layer below. Until its end was verified, nothing of it counts.
func (r *imageReader) read(ctx context.Context, open func() (io.Closer, verifier, error)) error {
	l, err := r.readOnce(ctx, nil, open)
	if err == nil && len(l.wanted) > 0 {
		// A link leads to a file that did not look like a module. That is rare enough to read everything again.
		l, err = r.readOnce(ctx, l.wanted, open)
	}
	if err != nil {
		return err
	}
	r.spent = l.spent
	r.skip(l.skipped...)
	r.unlisted += l.unlisted
	if err := r.collect("", l.tree); err != nil {
		return err
	}
	r.above.cover(l.tree)
	for _, path := range l.deleted {
		r.above.hide(path)
	}
	return nil
}

func (r *imageReader) readOnce(ctx context.Context, targets map[string]bool, open func() (io.Closer, verifier, error)) (*imageLayer, error) {
	body, v, err := open()
	if err != nil {
		return nil, err
	}
	defer body.Close()
	buffered := bufio.NewReaderSize(v, 64<<10)
	s := stream{layer: v, limits: imageLimits, raw: buffered, plain: buffered}
	start, err := buffered.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if decompressor := decompressorOf(start); decompressor != nil {
		if _, _, err := s.decompress(decompressor); err != nil {
			return nil, s.broken(err)
		}
	}
	l := &imageLayer{reader: r, tree: &node{}, spent: r.spent, targets: targets, wanted: map[string]bool{}}
	s.plain = &meter{s.plain, l}
	if err := l.walk(ctx, s.plain); err != nil {
		var known *failure.Error
		if errors.As(err, &known) && known.Class == failure.Transient { // of the store: the layer has no part in it
			return nil, err
		}
		return nil, s.broken(err)
	}
	return l, s.finish(nil)
}

// meter counts what the layers of an image become together.
type meter struct {
	reader io.Reader
	layer  *imageLayer
}

func (m *meter) Read(p []byte) (int, error) {
	n, err := m.reader.Read(p)
	spent, allowed := &m.layer.spent.expanded, m.layer.reader.allowance.expanded
	if *spent += int64(n); *spent > allowed {
		return 0, imageLimits.tooLarge("layers that expand to more than %d MiB together", allowed>>20)
	}
	return n, err
}

// collect takes over what is to be seen of a layer in the image.
func (r *imageReader) collect(path string, n *node) error {
	if n.leaf == nil {
		if isNamed(path, moduleName) && !r.above.hides(path) {
			r.skip(skippedLine(path, "it is a directory"))
		}
		for _, name := range slices.Sorted(maps.Keys(n.children)) {
			if err := r.collect(join(path, name), n.children[name]); err != nil {
				return err
			}
		}
		return nil
	}
	if r.above.hides(path) {
		return nil
	}
	if key, found := keyOf(path, metadataName); found && n.leaf.metadata {
		r.metadata[key] = n.leaf
	}
	key, proper := keyOf(path, moduleName)
	switch {
	case proper && n.leaf.blob.SHA256 != "":
		r.modules[key] = n.leaf.blob
		if len(r.modules) > maxImageModules {
			return tooManyModules()
		}
	case proper, n.leaf.symlink && mayLead(path):
		r.skip(skippedLine(path, cmp.Or(n.leaf.problem, "it is no Wasm module")))
	case isNamed(path, moduleName):
		r.skip(skippedLine(path, "its path has no name and version of a plugin"))
	}
	return nil
}

func tooManyModules() error {
	return failure.New(failure.Upstream, failure.UnsupportedArtifact, nil, "it has more than %d modules: name a smaller image", maxImageModules)
}

func (r *imageReader) skip(lines ...string) {
	r.skipped, r.unlisted = bounded(r.skipped, r.unlisted, lines)
}

func bounded(list []string, more int, lines []string) ([]string, int) {
	fits := min(len(lines), maxSkipped-len(list))
	return append(list, lines[:fits]...), more + len(lines) - fits
}

// skippedLine says why something that looks like a plugin is none.
func skippedLine(path, why string) string {
	what := printable(strings.TrimPrefix(path, pluginsRoot+"/"))
	if key, found := keyOf(path, moduleName); found {
		what = key.String()
	}
	return line(what + ": " + why)
}

// image is what the layers that were read have together.
func (r *imageReader) image(of store.Artifact) Image {
	image := Image{Digest: of.Digest}
	for key, blob := range r.modules {
		m := of
		m.Member, m.Blob = key.String(), blob
		if metadata := r.metadata[key]; metadata != nil {
			m.Created, m.Description = metadata.created.UTC(), metadata.description
		}
		image.Modules = append(image.Modules, m)
	}
	slices.SortFunc(image.Modules, func(a, b store.Artifact) int { return cmp.Compare(a.Member, b.Member) })
	image.Skipped = slices.Sorted(slices.Values(r.skipped))
	if r.unlisted > 0 {
		image.Skipped = append(image.Skipped, fmt.Sprintf("and %d more", r.unlisted))
	}
	return image
}
