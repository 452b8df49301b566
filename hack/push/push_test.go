package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content"
	"oras.land/oras-go/v2/registry/remote"
)

const user, password = "plugins", "s3cret"

// startRegistry starts a registry with TLS and a login, and returns its host and
// the file with its CA.
func startRegistry(t *testing.T) (host, ca string) {
	t.Helper()
	handler := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if u, p, ok := r.BasicAuth(); !ok || u != user || p != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="plugins"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		handler.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	ca = filepath.Join(t.TempDir(), "ca.crt")
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	if err := os.WriteFile(ca, block, 0o600); err != nil {
		t.Fatal(err)
	}
	return strings.TrimPrefix(server.URL, "https://"), ca
}

// pull reads back the manifest of what was pushed, and its last layer.
func pull(t *testing.T, to target) (ocispec.Descriptor, ocispec.Manifest, []byte) {
	t.Helper()
	repository, err := remote.NewRepository(to.reference)
	if err != nil {
		t.Fatal(err)
	}
	if repository.Client, err = to.client(); err != nil {
		t.Fatal(err)
	}
	descriptor, data, err := oras.FetchBytes(t.Context(), repository, to.reference, oras.DefaultFetchBytesOptions)
	if err != nil {
		t.Fatal(err)
	}
	var manifest ocispec.Manifest
	if err := json.Unmarshal(data, &manifest); err != nil {
		t.Fatal(err)
	}
	layer, err := content.FetchAll(t.Context(), repository, manifest.Layers[len(manifest.Layers)-1])
	if err != nil {
		t.Fatal(err)
	}
	return descriptor, manifest, layer
}

// untar gives the one file of a tar.gz.
func untar(t *testing.T, content []byte) []byte {
	t.Helper()
	plain, err := gzip.NewReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	reader := tar.NewReader(plain)
	header, err := reader.Next()
	if err != nil {
		t.Fatal(err)
	}
	if header.Name != "plugin.wasm" {
		t.Errorf("the file is named %s, not plugin.wasm", header.Name)
	}
	file, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	return file
}

func TestShapes(t *testing.T) {
	host, ca := startRegistry(t)
	module := []byte("\x00asm\x01\x00\x00\x00 and so on")
	cases := map[string]struct {
		manifest    string
		layers      []string // media types; the module is in the last
		tar         bool
		description string
	}{
		"raw":    {"application/vnd.oci.image.manifest.v1+json", []string{typeWasmLayer}, false, "a line"},
		"tar":    {"application/vnd.oci.image.manifest.v1+json", []string{typeDocLayer, typeSpecLayer, typeTarLayer}, true, "a line"},
		"docker": {typeDockerManifest, []string{typeDockerLayer}, true, ""},
	}
	for shape, tc := range cases {
		t.Run(shape, func(t *testing.T) {
			reference := host + "/plugins/" + shape + ":1.0.0"
			to := target{reference: reference, ca: ca, user: user, password: password}
			digest, err := push(t.Context(), shapes[shape], module, "a line", to)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := push(t.Context(), shapes[shape], module, "a line", to); err != nil || again != digest {
				t.Errorf("the same module gets another digest: %s, then %s (%v)", digest, again, err)
			}
			descriptor, manifest, layer := pull(t, to)
			if descriptor.Digest.String() != digest {
				t.Errorf("the registry has digest %s, printed was %s", descriptor.Digest, digest)
			}
			if descriptor.MediaType != tc.manifest {
				t.Errorf("manifest has type %s, want %s", descriptor.MediaType, tc.manifest)
			}
			if got := manifest.Annotations["org.opencontainers.image.description"]; got != tc.description {
				t.Errorf("description is %q, want %q", got, tc.description)
			}
			var types []string
			for _, layer := range manifest.Layers {
				types = append(types, layer.MediaType)
			}
			if diff := cmp.Diff(tc.layers, types); diff != "" {
				t.Fatalf("layers (-want +got):\n%s", diff)
			}
			if tc.tar {
				layer = untar(t, layer)
			}
			if !bytes.Equal(layer, module) {
				t.Errorf("the module came back as %q", layer)
			}
		})
	}
}

func TestPushFails(t *testing.T) {
	host, ca := startRegistry(t)
	cases := map[string]struct {
		to   target
		want string
	}{
		"unknown CA":     {target{reference: host + "/p/x:1", user: user, password: password}, "certificate"},
		"wrong password": {target{reference: host + "/p/x:1", ca: ca, user: user, password: "wrong"}, "401"},
		"no tag":         {target{reference: host + "/p/x", ca: ca, user: user, password: password}, "no tag"},
		"no certificate": {target{reference: host + "/p/x:1", ca: "push_test.go", user: user, password: password}, "no PEM certificate"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := push(t.Context(), packRaw, []byte("\x00asm"), "", tc.to)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("error is %v, want one with %q", err, tc.want)
			}
			if err != nil && strings.Contains(err.Error(), password) {
				t.Errorf("the error contains the password: %v", err)
			}
		})
	}
}
