//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	registryPause = 50 * time.Millisecond // before each answer
	registryRate  = 2_500_000             // bytes a second, of each connection
)

// registry is one that may be far away: then each answer takes a while, and each
// connection is slow. It reads nothing but blobs of its folder.
type registry struct {
	far       bool
	dir       string
	host      string
	server    *http.Server
	manifests map[string][]byte // by repository
	entries   []plugin
}

func startRegistry(dir string) (*registry, error) {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &registry{dir: dir, host: listener.Addr().String(), manifests: map[string][]byte{}}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	go func() { _ = r.server.Serve(listener) }() // until it is closed
	return r, nil
}

func (r *registry) stop() { _ = r.server.Close() }

// add puts a plugin there, in the shape of the official ones: a tar.gz with
// plugin.wasm in it, behind documents.
func (r *registry) add(p plugin) error {
	layer, err := archive(p.module)
	if err != nil {
		return err
	}
	manifest := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Annotations: map[string]string{ocispec.AnnotationCreated: "2026-01-01T00:00:00Z"},
	}
	for _, part := range []struct {
		mediaType, title string
		content          []byte
	}{
		{"application/vnd.unknown.config.v1+json", "", []byte("{}")},
		{"application/vnd.module.wasm.doc.v1+markdown", "README.md", []byte("# " + p.name + "\n")},
		{"application/vnd.module.wasm.spec.v1+yaml", "spec.yaml", []byte("apiVersion: 1.0.0 # " + p.name + "\n")},
		{ocispec.MediaTypeImageLayerGzip, "plugin.tar.gz", layer},
	} {
		d := ocispec.Descriptor{MediaType: part.mediaType, Digest: digest.FromBytes(part.content), Size: int64(len(part.content))}
		if err := os.WriteFile(filepath.Join(r.dir, d.Digest.Encoded()), part.content, 0o600); err != nil {
			return err
		}
		if part.title == "" {
			manifest.Config = d
			continue
		}
		d.Annotations = map[string]string{ocispec.AnnotationTitle: part.title}
		manifest.Layers = append(manifest.Layers, d)
	}
	r.manifests["plugins/"+p.name], err = json.Marshal(manifest)
	p.module = nil
	r.entries = append(r.entries, p)
	return err
}

func archive(module []byte) ([]byte, error) {
	var out bytes.Buffer
	zipped, err := gzip.NewWriterLevel(&out, gzip.HuffmanOnly)
	if err != nil {
		return nil, err
	}
	w := tar.NewWriter(zipped)
	err = w.WriteHeader(&tar.Header{Name: "plugin.wasm", Mode: 0o644, Size: int64(len(module))})
	if err == nil {
		_, err = w.Write(module)
	}
	err = errors.Join(err, w.Close(), zipped.Close())
	return out.Bytes(), err
}

// ServeHTTP answers as a registry does.
func (r *registry) ServeHTTP(w http.ResponseWriter, request *http.Request) {
	if r.far {
		time.Sleep(registryPause)
	}
	path := strings.TrimPrefix(request.URL.Path, "/v2/")
	if path == "" {
		return
	}
	if repository, _, ok := strings.Cut(path, "/manifests/"); ok && r.manifests[repository] != nil {
		content := r.manifests[repository]
		w.Header().Set("Content-Type", ocispec.MediaTypeImageManifest)
		w.Header().Set("Docker-Content-Digest", fmt.Sprintf("sha256:%x", sha256.Sum256(content)))
		w.Header().Set("Content-Length", strconv.Itoa(len(content)))
		if request.Method != http.MethodHead {
			_, _ = w.Write(content) // the client sees what is wrong
		}
		return
	}
	_, blob, ok := strings.Cut(path, "/blobs/sha256:")
	file := filepath.Join(r.dir, filepath.Base(blob))
	w.Header().Set("Content-Type", "application/octet-stream")
	if ok && !r.far {
		http.ServeFile(w, request, file)
		return
	}
	content, err := os.ReadFile(file)
	if !ok || err != nil {
		http.NotFound(w, request)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	if request.Method != http.MethodHead {
		trickle(w, content)
	}
}

// trickle sends at the rate of a connection.
func trickle(w http.ResponseWriter, content []byte) {
	const step = 10 * time.Millisecond
	piece := int(registryRate * step / time.Second)
	began := time.Now()
	for sent := 0; sent < len(content); sent += piece {
		if _, err := w.Write(content[sent:min(sent+piece, len(content))]); err != nil {
			return
		}
		time.Sleep(time.Until(began.Add(time.Duration(sent+piece) * time.Second / registryRate)))
	}
}
