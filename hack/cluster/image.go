//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"runtime"
)

// descriptor points to a blob of an OCI image.
type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

// archiveWriter writes an OCI archive: a tar of an OCI layout.
type archiveWriter struct {
	tar *tar.Writer
	err error
}

// blob adds a blob and returns where it is.
func (w *archiveWriter) blob(mediaType string, content []byte) descriptor {
	sum := fmt.Sprintf("%x", sha256.Sum256(content))
	w.file("blobs/sha256/"+sum, 0o644, content)
	return descriptor{MediaType: mediaType, Digest: "sha256:" + sum, Size: len(content)}
}

func (w *archiveWriter) json(mediaType string, value any) descriptor {
	content, err := json.Marshal(value)
	if err != nil && w.err == nil {
		w.err = err
	}
	return w.blob(mediaType, content)
}

func (w *archiveWriter) file(name string, mode int64, content []byte) {
	if w.err == nil {
		w.err = w.tar.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: mode, Size: int64(len(content))})
	}
	if w.err == nil {
		_, w.err = w.tar.Write(content)
	}
}

// pauseArchive makes an image of the single program "pause", since no image
// can be pulled.
func pauseArchive(program []byte, reference string) ([]byte, error) {
	var layer, out bytes.Buffer
	inner := archiveWriter{tar: tar.NewWriter(&layer)}
	inner.file("pause", 0o755, program)
	if inner.err == nil {
		inner.err = inner.tar.Close()
	}
	if inner.err != nil {
		return nil, inner.err
	}
	w := archiveWriter{tar: tar.NewWriter(&out)}
	content := w.blob("application/vnd.oci.image.layer.v1.tar", layer.Bytes())
	config := w.json("application/vnd.oci.image.config.v1+json", map[string]any{
		"architecture": runtime.GOARCH,
		"os":           "linux",
		"config":       map[string]any{"Entrypoint": []string{"/pause"}, "User": "65535:65535"},
		"rootfs":       map[string]any{"type": "layers", "diff_ids": []string{content.Digest}},
	})
	manifest := w.json("application/vnd.oci.image.manifest.v1+json", map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": config, "layers": []descriptor{content},
	})
	manifest.Annotations = map[string]string{"io.containerd.image.name": reference}
	index, err := json.Marshal(map[string]any{
		"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": []descriptor{manifest},
	})
	if err != nil {
		return nil, err
	}
	w.file("index.json", 0o644, index)
	w.file("oci-layout", 0o644, []byte(`{"imageLayoutVersion":"1.0.0"}`))
	if w.err == nil {
		w.err = w.tar.Close()
	}
	return out.Bytes(), w.err
}

func writePauseArchive(file, program, reference string) error {
	content, err := os.ReadFile(program)
	if err != nil {
		return err
	}
	archive, err := pauseArchive(content, reference)
	if err != nil {
		return err
	}
	return os.WriteFile(file, archive, 0o644)
}
