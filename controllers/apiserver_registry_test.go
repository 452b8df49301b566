//go:build envtest

package controllers_test

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"

	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

const (
	user, password = "robot", "s3cret-of-the-robot"
	wasmLayer      = "application/vnd.module.wasm.content.layer.v1+wasm"
)

// registryServer is a real registry behind TLS, with a login and a CA of its
// own. Repositories are told apart by the world's namespace.
type registryServer struct {
	*httptest.Server
	mu     sync.Mutex
	faults map[string]http.HandlerFunc // answers to GET by path
}

var sharedRegistry = sync.OnceValue(newRegistry)

func newRegistry() *registryServer {
	r := &registryServer{faults: map[string]http.HandlerFunc{}}
	content := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	r.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, request *http.Request) {
		if name, secret, _ := request.BasicAuth(); name != user || secret != password {
			w.Header().Set("WWW-Authenticate", `Basic realm="test"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		r.mu.Lock()
		fault := r.faults[request.URL.Path]
		r.mu.Unlock()
		if fault != nil && request.Method == http.MethodGet {
			fault(w, request)
			return
		}
		content.ServeHTTP(w, request)
	}))
	r.Config.ErrorLog = log.New(io.Discard, "", 0)
	r.StartTLS()
	return r
}

// host is the registry's address.
func (r *registryServer) host() string { return strings.TrimPrefix(r.URL, "https://") }

// ca is the certificate to trust, in PEM.
func (r *registryServer) ca() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: r.Certificate().Raw})
}

// fail replaces the answer to GETs of a path.
func (r *registryServer) fail(path string, handler http.HandlerFunc) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[path] = handler
}

// pushed is what stands in the registry.
type pushed struct {
	url    string // oci://…:tag
	digest string // of the manifest
	layer  string // path of the layer in the registry
	sha256 string // of the module
	module []byte
}

// repository is one of the world's.
func (w *world) repository(path string) *remote.Repository {
	w.t.Helper()
	repo, err := remote.NewRepository(w.registry.host() + "/" + w.namespace + "/" + path)
	if err != nil {
		w.t.Fatal(err)
	}
	repo.Client = &auth.Client{Client: w.registry.Client(), Credential: auth.StaticCredential(w.registry.host(), auth.Credential{Username: user, Password: password})}
	return repo
}

// push puts a module into the registry, as one raw layer, and gives its url.
func (w *world) push(repository, tag string, module []byte, mediaType ...string) pushed {
	w.t.Helper()
	repo := w.repository(repository)
	kind := append(mediaType, wasmLayer)[0]
	layer, err := oras.PushBytes(w.t.Context(), repo, kind, module)
	if err != nil {
		w.t.Fatal(err)
	}
	manifest, err := oras.PackManifest(w.t.Context(), repo, oras.PackManifestVersion1_1, "application/vnd.test", oras.PackManifestOptions{
		Layers: []ocispec.Descriptor{layer}, ManifestAnnotations: map[string]string{ocispec.AnnotationCreated: "2024-01-01T00:00:00Z"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := repo.Tag(w.t.Context(), manifest, tag); err != nil {
		w.t.Fatal(err)
	}
	return pushed{
		url: "oci://" + repo.Reference.Registry + "/" + repo.Reference.Repository + ":" + tag, digest: manifest.Digest.String(), module: module, sha256: sha(module),
		layer: "/v2/" + w.namespace + "/" + repository + "/blobs/" + layer.Digest.String(),
	}
}

// module makes a Wasm module that has nothing but a custom section.
func module(content string) []byte {
	section := append([]byte{1, 't'}, content...)
	return append([]byte{0, 'a', 's', 'm', 1, 0, 0, 0, 0, byte(len(section))}, section...)
}

func sha(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// createLogin creates the Secrets login and ca of a namespace.
func (w *world) createLogin(namespace string) {
	w.t.Helper()
	w.create(w.login(namespace, "login", password))
	w.create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "ca"}, Data: map[string][]byte{"ca.crt": w.registry.ca()},
	})
}

func (w *world) login(namespace, name, secret string) *corev1.Secret {
	login := base64.StdEncoding.EncodeToString([]byte(user + ":" + secret))
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: fmt.Appendf(nil, `{"auths":{%q:{"auth":%q}}}`, w.registry.host(), login)},
	}
}

// source makes a PluginSource with the login and the CA.
func (w *world) source(name string, plugins ...v1alpha1.Plugin) *v1alpha1.PluginSource {
	return &v1alpha1.PluginSource{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name},
		Spec: v1alpha1.PluginSourceSpec{
			Plugins: plugins, SecretRef: &v1alpha1.LocalObjectReference{Name: "login"}, CertSecretRef: &v1alpha1.LocalObjectReference{Name: "ca"},
		},
	}
}

// server makes a PluginServer whose spec is empty.
func (w *world) server(name string) *v1alpha1.PluginServer {
	return &v1alpha1.PluginServer{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}}
}

func (p pushed) as(name, version string) v1alpha1.Plugin {
	return v1alpha1.Plugin{Name: name, Version: version, URL: p.url}
}
