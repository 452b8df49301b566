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
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// user is what the image runs as by default: the number that distroless images
// call nonroot. A number, so that the kubelet can tell that it is not root.
const user = "65532:65532"

// build makes the image of one platform: one layer with the named files of a
// folder, which all belong to root.
func build(platform v1.Platform, folder string, names []string, config v1.Config) (v1.Image, error) {
	var content bytes.Buffer
	archive := tar.NewWriter(&content)
	for _, name := range names {
		if err := add(archive, folder, name); err != nil {
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
	if entrypoint := strings.TrimPrefix(config.Entrypoint[0], "/"); !slices.Contains(names, entrypoint) {
		return nil, fmt.Errorf("-entrypoint %s is none of the files %v", entrypoint, names)
	}
	img, err := mutate.AppendLayers(mutate.ConfigMediaType(mutate.MediaType(empty.Image, types.OCIManifestSchema1), types.OCIConfigJSON), layer)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture = platform.OS, platform.Architecture
	file.Config = config
	return mutate.ConfigFile(img, file)
}

// add writes a file, a folder or a link into the archive. Whoever runs the image
// may read it, and execute it if anybody may here; the time and the rest of its mode
// depend on the machine and are left out.
func add(archive *tar.Writer, folder, name string) error {
	path := filepath.Join(folder, name)
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("%w (build the programs first, with hack/image/build.sh)", err)
	}
	header := &tar.Header{Name: name, Mode: 0o644, ModTime: time.Unix(0, 0)}
	if info.Mode().Perm()&0o111 != 0 {
		header.Mode = 0o755
	}
	var data []byte
	switch info.Mode().Type() {
	case fs.ModeDir:
		header.Typeflag, header.Name = tar.TypeDir, name+"/"
		if info.Mode()&fs.ModeSticky != 0 { // as /tmp has
			header.Mode = 0o1777
		}
	case fs.ModeSymlink:
		header.Typeflag = tar.TypeSymlink
		header.Linkname, err = os.Readlink(path)
	default:
		header.Typeflag = tar.TypeReg
		data, err = os.ReadFile(path)
		header.Size = int64(len(data))
	}
	if err != nil {
		return err
	}
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = archive.Write(data)
	return err
}

// tree gives the names of all that is in a folder.
func tree(folder string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(folder, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || path == folder {
			return err
		}
		name, err := filepath.Rel(folder, path)
		names = append(names, filepath.ToSlash(name))
		return err
	})
	return names, err
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
