package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
)

// Media types of the shapes that are pushed.
const (
	typeWasmLayer      = "application/vnd.module.wasm.content.layer.v1+wasm"
	typeDocLayer       = "application/vnd.module.wasm.doc.v1+markdown"
	typeSpecLayer      = "application/vnd.module.wasm.spec.v1+yaml"
	typeTarLayer       = "application/vnd.oci.image.layer.v1.tar+gzip"
	typeUnknownConfig  = "application/vnd.unknown.config.v1+json"
	typeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	typeDockerConfig   = "application/vnd.docker.container.image.v1+json"
	typeDockerLayer    = "application/vnd.docker.image.rootfs.diff.tar.gzip"
)

// created is the time that every artifact carries, so that the same module
// always gets the same digest.
const created = "2026-01-01T00:00:00Z"

// packer puts a module and all that belongs to it into a store, and returns
// the manifest.
type packer func(ctx context.Context, store content.Pusher, module []byte, annotations map[string]string) (ocispec.Descriptor, error)

var shapes = map[string]packer{"raw": packRaw, "tar": packTar, "docker": packDocker}

func annotations(description string) map[string]string {
	result := map[string]string{ocispec.AnnotationCreated: created}
	if description != "" {
		result[ocispec.AnnotationDescription] = description
	}
	return result
}

func packRaw(ctx context.Context, store content.Pusher, module []byte, annotations map[string]string) (ocispec.Descriptor, error) {
	layer, err := oras.PushBytes(ctx, store, typeWasmLayer, module)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return oras.PackManifest(ctx, store, oras.PackManifestVersion1_1, typeWasmLayer, oras.PackManifestOptions{
		Layers:              []ocispec.Descriptor{layer},
		ManifestAnnotations: annotations,
	})
}

func packTar(ctx context.Context, store content.Pusher, module []byte, annotations map[string]string) (ocispec.Descriptor, error) {
	archive, _, err := tarGzip(module)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	parts := []struct {
		mediaType string
		data      []byte
	}{
		{typeUnknownConfig, []byte("{}")},
		{typeDocLayer, []byte("# A plugin\n")},
		{typeSpecLayer, []byte("apiVersion: 1.0.0\n")},
		{typeTarLayer, archive},
	}
	var pushed []ocispec.Descriptor
	for _, part := range parts {
		descriptor, err := oras.PushBytes(ctx, store, part.mediaType, part.data)
		if err != nil {
			return ocispec.Descriptor{}, err
		}
		pushed = append(pushed, descriptor)
	}
	return oras.PackManifest(ctx, store, oras.PackManifestVersion1_0, "", oras.PackManifestOptions{
		ConfigDescriptor:    &pushed[0],
		Layers:              pushed[1:],
		ManifestAnnotations: annotations,
	})
}

// packDocker writes the manifest by hand: Docker's schema 2 has no annotations,
// so the description is lost, as it is in reality.
func packDocker(ctx context.Context, store content.Pusher, module []byte, _ map[string]string) (ocispec.Descriptor, error) {
	archive, uncompressed, err := tarGzip(module)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config, err := json.Marshal(map[string]any{
		"architecture": "amd64",
		"os":           "linux",
		"created":      created,
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{uncompressed.String()}},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	configDescriptor, err := oras.PushBytes(ctx, store, typeDockerConfig, config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	layer, err := oras.PushBytes(ctx, store, typeDockerLayer, archive)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	manifest, err := json.Marshal(ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: typeDockerManifest,
		Config:    configDescriptor,
		Layers:    []ocispec.Descriptor{layer},
	})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return oras.PushBytes(ctx, store, typeDockerManifest, manifest)
}

// tarGzip packs the module as plugin.wasm, and returns also the digest of the
// tar before compression.
func tarGzip(module []byte) ([]byte, digest.Digest, error) {
	var plain bytes.Buffer
	archive := tar.NewWriter(&plain)
	header := &tar.Header{Name: "plugin.wasm", Mode: 0o644, Size: int64(len(module)), Typeflag: tar.TypeReg, ModTime: time.Unix(0, 0)}
	if err := archive.WriteHeader(header); err != nil {
		return nil, "", err
	}
	if _, err := archive.Write(module); err != nil {
		return nil, "", err
	}
	if err := archive.Close(); err != nil {
		return nil, "", err
	}
	var compressed bytes.Buffer
	writer := gzip.NewWriter(&compressed)
	if _, err := writer.Write(plain.Bytes()); err != nil {
		return nil, "", err
	}
	if err := writer.Close(); err != nil {
		return nil, "", err
	}
	return compressed.Bytes(), digest.FromBytes(plain.Bytes()), nil
}
