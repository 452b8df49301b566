package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// TestLocalFiles serves PluginSource files from a real registry. What cannot be
// had is reported, and the others are served.
func TestLocalFiles(t *testing.T) {
	t.Parallel()
	r := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	t.Cleanup(r.Close)
	host := strings.TrimPrefix(r.URL, "http://")
	one, two := publishtest.New("one", "1.0.0", 100_000, 1), publishtest.New("two", "2.0.0", 100_000, 2)
	push(t, host+"/plugins/one", "1.0.0", one.Bytes)
	push(t, host+"/elsewhere", "latest", two.Bytes)
	three := publishtest.New("three", "3.0.0", 100_000, 3)
	push(t, host+"/list", "1", []byte("listed=oci://"+host+"/plugins/one:1.0.0\n"))
	push(t, host+"/server", "1", serverLayer(t, "three/3.0.0", three.Bytes))

	file := filepath.Join(t.TempDir(), "sources.yaml")
	yaml := fmt.Sprintf(`# two documents, and something else between them
apiVersion: plugins.higress.io/v1alpha1
kind: PluginSource
metadata: {name: first}
spec:
  registry: %[1]s/plugins
  insecure: true
  plugins:
  - {name: one, version: 1.0.0, description: "The first"}
  - {name: absent, version: 1.0.0}
  - {name: ../escape, version: 1.0.0}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
---
apiVersion: plugins.higress.io/v1alpha1
kind: PluginSource
metadata: {name: second}
spec:
  insecure: true
  plugins:
  - {name: two, version: 2.0.0, url: "oci://%[1]s/elsewhere:latest", sha256: %[2]s}
  - {name: wrong, version: 2.0.0, url: "oci://%[1]s/elsewhere:latest", sha256: %[3]s}
  pluginsFrom:
  - {url: "oci://%[1]s/list:1", aliasVersions: [latest]}
  - {image: "oci://%[1]s/server:1"}
  - {image: "oci://%[1]s/none:1"}
  - {configMapKeyRef: {name: list, key: plugins.properties}}
`, host, two.Entry.SHA256, one.Entry.SHA256)
	if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
		t.Fatal(err)
	}
	data := t.TempDir()
	url, said := serving(t, "--data-dir="+data, file)
	client := &http.Client{}
	defer client.CloseIdleConnections()
	for path, want := range map[string]publishtest.Module{
		"one/1.0.0": one, "two/2.0.0": two, "listed/latest": one, "three/3.0.0": three,
	} {
		if status, b, err := get(client, url+"/plugins/"+path+"/plugin.wasm"); err != nil || status != 200 || !bytes.Equal(b, want.Bytes) {
			t.Errorf("%s: %d %v", path, status, err)
		}
	}
	if _, b, err := get(client, url+"/plugins/one/1.0.0/metadata.txt"); err != nil ||
		!strings.Contains(string(b), "description: The first\n") || !strings.Contains(string(b), "source: oci://"+host+"/plugins/one:1.0.0\n") ||
		!strings.Contains(string(b), "digest: sha256:") {
		t.Errorf("%s %v", b, err)
	}
	for _, reported := range []string{"absent:1.0.0", "escape", "wrong:2.0.0", "none:1", "there is no cluster here"} {
		if !strings.Contains(said.String(), reported) {
			t.Errorf("%s is not reported:\n%s", reported, said.String())
		}
	}
	if status, _, err := get(client, url+"/plugins/wrong/2.0.0/plugin.wasm"); err != nil || status != 404 {
		t.Errorf("a module with another hash than declared is served: %d %v", status, err)
	}
}

// serverLayer is a layer of a plugin server's image.
func serverLayer(t *testing.T, path string, module []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	files := tar.NewWriter(&b)
	err := files.WriteHeader(&tar.Header{Name: "usr/share/nginx/html/plugins/" + path + "/plugin.wasm", Mode: 0o644, Size: int64(len(module))})
	if err == nil {
		_, err = files.Write(module)
	}
	if err = errors.Join(err, files.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// push puts a module into a registry, as one raw layer.
func push(t *testing.T, repository, tag string, module []byte) {
	t.Helper()
	repo, err := remote.NewRepository(repository)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{}
	defer transport.CloseIdleConnections()
	repo.PlainHTTP, repo.Client = true, &http.Client{Transport: transport}
	layer, err := oras.PushBytes(t.Context(), repo, "application/vnd.module.wasm.content.layer.v1+wasm", module)
	if err != nil {
		t.Fatal(err)
	}
	manifest, err := oras.PackManifest(t.Context(), repo, oras.PackManifestVersion1_1, "application/vnd.module.wasm", oras.PackManifestOptions{
		Layers: []ocispec.Descriptor{layer},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := repo.Tag(t.Context(), manifest, tag); err != nil {
		t.Fatal(err)
	}
}
