package fetch

import (
	"bytes"
	"io"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/compression"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/oci"
	"oras.land/oras-go/v2/registry/remote"
)

// built makes an image as FROM scratch; COPY does, a layer for each tar.
func built(t *testing.T, kind compression.Compression, tars ...[]byte) v1.Image {
	t.Helper()
	image := empty.Image // Docker's media types
	for _, content := range tars {
		options := []tarball.LayerOption{tarball.WithCompression(kind)}
		if kind == compression.ZStd {
			options = append(options, tarball.WithMediaType(types.OCILayerZStd))
		}
		layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }, options...)
		if err != nil {
			t.Fatal(err)
		}
		if image, err = mutate.AppendLayers(image, layer); err != nil {
			t.Fatal(err)
		}
	}
	return image
}

// withAttestation makes the index that BuildKit pushes: an image for each
// platform, and beside each a manifest with its provenance.
func withAttestation(t *testing.T, images map[string]v1.Image) v1.ImageIndex {
	t.Helper()
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for architecture, image := range images {
		digest, err := image.Digest()
		if err != nil {
			t.Fatal(err)
		}
		statement := static.NewLayer([]byte(`{"_type":"https://in-toto.io/Statement/v0.1"}`), "application/vnd.in-toto+json")
		attestation, err := mutate.AppendLayers(mutate.MediaType(empty.Image, types.OCIManifestSchema1), statement)
		if err != nil {
			t.Fatal(err)
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: attestation, Descriptor: v1.Descriptor{
			Platform:    &v1.Platform{OS: "unknown", Architecture: "unknown"},
			Annotations: map[string]string{attestationKey: "attestation-manifest", "vnd.docker.reference.digest": digest.String()},
		}}, mutate.IndexAddendum{Add: image, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: "linux", Architecture: architecture}}})
	}
	return index
}

// TestFetchBuiltImages: images that a library of the field made and pushed,
// by way of an OCI layout, with a module in them and with a plugin server's modules.
func TestFetchBuiltImages(t *testing.T) {
	t.Parallel()
	files := func(of string) [][]byte {
		return [][]byte{
			tarOf(t, file{"plugin.wasm", []byte("below")}, file{"etc/os-release", []byte("none")}),
			tarOf(t, file{"plugin.wasm", wasm(of)}, file{root + "key-auth/1.0.0/plugin.wasm", wasm(of)}),
		}
	}
	for name, push := range map[string]func(l layout.Path) error{
		"docker build":        func(l layout.Path) error { return l.AppendImage(built(t, compression.GZip, files("amd64")...)) },
		"with zstd":           func(l layout.Path) error { return l.AppendImage(built(t, compression.ZStd, files("amd64")...)) },
		"without compression": func(l layout.Path) error { return l.AppendImage(built(t, compression.None, files("amd64")...)) },
		"an index": func(l layout.Path) error {
			return l.AppendIndex(withAttestation(t, map[string]v1.Image{"amd64": built(t, compression.GZip, files("amd64")...)}))
		},
		"two, and one is arm64": func(l layout.Path) error {
			return l.AppendIndex(withAttestation(t, map[string]v1.Image{
				"arm64": built(t, compression.GZip, files("arm64")...), "amd64": built(t, compression.GZip, files("amd64")...),
			}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := filepath.Join(t.TempDir(), "layout")
			l, err := layout.Write(dir, empty.Index)
			if err != nil {
				t.Fatal(err)
			}
			if err := push(l); err != nil {
				t.Fatal(err)
			}
			r, s := newRegistry(t), newStore(t)
			digest := copyLayout(t, r, l, dir, "built:1")
			f := newFetcher(t, Options{Store: s, AllowLoopback: true})
			got, err := f.Fetch(t.Context(), r.request("built:1"))
			if err != nil {
				t.Fatal(err)
			}
			requireModule(t, s, got, wasm("amd64"))
			image, err := f.FetchImage(t.Context(), r.request("built:1"))
			if err != nil {
				t.Fatal(err)
			}
			requireModules(t, s, image, map[string]string{"key-auth:1.0.0": "amd64"})
			if got.Digest != digest || image.Digest != digest {
				t.Errorf("the digests are %s and %s, want %s", got.Digest, image.Digest, digest)
			}
		})
	}
}

// copyLayout pushes what stands in a layout, all of it, and gives its digest.
func copyLayout(t *testing.T, r *testRegistry, l layout.Path, dir, name string) string {
	t.Helper()
	index, err := l.ImageIndex()
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	from, err := oci.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	repository, tag, _ := strings.Cut(name, ":")
	to, err := remote.NewRepository(r.host() + "/" + repository)
	if err != nil {
		t.Fatal(err)
	}
	client := r.server.Client()
	t.Cleanup(client.CloseIdleConnections)
	to.Client = &http.Client{Transport: client.Transport}
	digest := manifest.Manifests[0].Digest.String()
	if _, err := oras.Copy(t.Context(), from, digest, to, tag, oras.DefaultCopyOptions); err != nil {
		t.Fatal(err)
	}
	return digest
}
