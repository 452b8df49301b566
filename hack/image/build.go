package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is what the image runs as: the number that distroless images call
// nonroot. A number, so that the kubelet can tell that it is not root.
const user = "65532:65532"

// build makes the image of one platform: one layer with the programs, each
// readable and executable by everybody, with no time in it.
func build(platform v1.Platform, folder string, programs []string, entrypoint string) (v1.Image, error) {
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	for _, program := range programs {
		data, err := os.ReadFile(filepath.Join(folder, program))
		if err != nil {
			return nil, fmt.Errorf("%w (build the programs first, with hack/image/build.sh)", err)
		}
		header := &tar.Header{Name: program, Mode: 0o755, Size: int64(len(data)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
		if err := archive.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := archive.Write(data); err != nil {
			return nil, err
		}
	}
	if err := archive.Close(); err != nil {
		return nil, err
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content.Bytes())), nil
	}, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		return nil, err
	}
	if !slices.Contains(programs, entrypoint) {
		return nil, fmt.Errorf("-entrypoint %s is none of the programs %v", entrypoint, programs)
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
	if err != nil {
		return nil, err
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = platform.OS, platform.Architecture
	config.Config = v1.Config{User: user, Entrypoint: []string{"/" + entrypoint}}
	return mutate.ConfigFile(img, config)
}

// join makes one index of the images of all platforms.
func join(images []v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		config, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{
			Add:        img,
			Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: config.OS, Architecture: config.Architecture}},
		})
	}
	return index, nil
}

// archive writes the layout as a tar. One platform is written as a plain
// image, several as an index of them; the annotations carry the reference to
// the importer.
func archive(out string, ref reference, index v1.ImageIndex, images []v1.Image) error {
	folder, err := os.MkdirTemp("", "image-layout-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(folder) }()
	written, err := layout.Write(folder, mutate.IndexMediaType(empty.Index, types.OCIImageIndex))
	if err != nil {
		return err
	}
	named := layout.WithAnnotations(map[string]string{
		"io.containerd.image.name":          ref.String(),
		"org.opencontainers.image.ref.name": ref.tag,
	})
	if len(images) == 1 {
		err = written.AppendImage(images[0], named)
	} else {
		err = written.AppendIndex(index, named)
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	partial := out + ".partial"
	if err := tarFolder(partial, folder); err != nil {
		return errors.Join(err, os.Remove(partial))
	}
	return os.Rename(partial, out)
}

// tarFolder packs a folder, its files in the order of their names and without
// their times.
func tarFolder(out, folder string) (err error) {
	file, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	writer := tar.NewWriter(file)
	err = filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		inside, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		header := &tar.Header{Name: filepath.ToSlash(inside), Mode: 0o644, Size: int64(len(data)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
		if err := writer.WriteHeader(header); err != nil {
			return err
		}
		_, err = writer.Write(data)
		return err
	})
	if err != nil {
		return err
	}
	return writer.Close()
}
