//go:build node

package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// plugin is a genuine plugin that was built and pushed.
type plugin struct {
	name, version string
	file          string
	sha256        string
	size          int64
	shape         string // in the registry, see hack/push
	digest        string // of the manifest
	url           string
}

// build builds a plugin from source, or takes it from the cache.
func build(t *testing.T, name, version string) plugin {
	t.Helper()
	out, err := run(t.Context(), "hack/plugins/build.sh", name, version)
	if err != nil {
		t.Fatal(err)
	}
	p := plugin{name: name, version: version, file: strings.TrimSpace(out)}
	content, err := os.ReadFile(p.file)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(content)
	p.sha256, p.size = hex.EncodeToString(sum[:]), int64(len(content))
	return p
}

// push builds a plugin and pushes it to the registry, in one of hack/push's shapes.
func push(t *testing.T, name, version, shape string) plugin {
	t.Helper()
	p := build(t, name, version)
	return pushAs(t, p, shape, fmt.Sprintf("%s/plugins/%s:%s", registry(), name, version))
}

func pushAs(t testing.TB, p plugin, shape, reference string) plugin {
	t.Helper()
	out, err := run(t.Context(), "bin/push", "-shape", shape, "-ca", os.Getenv("REGISTRY_CA"),
		"-user", os.Getenv("REGISTRY_USER"), "-description", "a test plugin", p.file, reference)
	if err != nil {
		t.Fatal(err)
	}
	p.shape, p.digest, p.url = shape, strings.TrimSpace(out), "oci://"+reference
	return p
}

// source declares plugins, with the login and the CA of the registry.
func source(name string, plugins ...plugin) *v1alpha1.PluginSource {
	s := &v1alpha1.PluginSource{}
	s.Name, s.Namespace = name, namespace
	s.Spec.SecretRef = &v1alpha1.LocalObjectReference{Name: "registry"}
	s.Spec.CertSecretRef = &v1alpha1.LocalObjectReference{Name: "registry-ca"}
	for _, p := range plugins {
		s.Spec.Plugins = append(s.Spec.Plugins, v1alpha1.Plugin{Name: p.name, Version: p.version, URL: p.url})
	}
	return s
}

func server(name string) *v1alpha1.PluginServer {
	s := &v1alpha1.PluginServer{}
	s.Name, s.Namespace = name, namespace
	return s
}

// quiet is a server that points Higress to nothing.
func quiet(name string, storage v1alpha1.Storage) *v1alpha1.PluginServer {
	srv := server(name)
	srv.Spec.Storage = storage
	srv.Spec.Higress.Console.Mode, srv.Spec.Higress.Controller.Mode = v1alpha1.IntegrationOff, v1alpha1.IntegrationOff
	return srv
}

// create makes an object that is deleted, and gone, before the test ends.
func create(t testing.TB, o client.Object) {
	t.Helper()
	if err := env.client.Create(t.Context(), o); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { remove(t, o) })
}

// answer and summary are what the client prints.
type answer struct {
	Status  int     `json:"status"`
	Size    int64   `json:"size"`
	SHA256  string  `json:"sha256"`
	Seconds float64 `json:"seconds"`
	Type    string  `json:"type"`
	Text    string  `json:"text"`
	Error   string  `json:"error"`
}

type summary struct {
	Requests int            `json:"requests"`
	Failures map[string]int `json:"failures"`
	FailedAt [2]float64     `json:"failedAt"`
	Slowest  float64        `json:"slowest"`
	Retried  int            `json:"retried"`
}

// get downloads from inside a pod, by the Service's DNS name.
func get(t *testing.T, url string) answer {
	t.Helper()
	out, err := run(t.Context(), "kubectl", "exec", clientPod, "--", "/client", "get", url)
	if err != nil {
		t.Fatal(err)
	}
	var a answer
	if err := json.Unmarshal([]byte(out), &a); err != nil {
		t.Fatalf("client printed %q: %v", out, err)
	}
	return a
}

func url(server string, p plugin) string { return url2(server, p.name, p.version) }

func url2(server, name, version string) string {
	return fmt.Sprintf("http://%s.%s.svc/plugins/%s/%s/plugin.wasm", server, namespace, name, version)
}

// load downloads from inside a pod until stop is called. It begins once the
// Service answers at all: kube-proxy takes a moment after the pods are ready.
func load(t *testing.T, url, sha256 string, workers int, flags ...string) (stop func() summary) {
	t.Helper()
	eventually(t, 30*time.Second, "the Service answers", func() error {
		if a := get(t, url); a.Status != 200 {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	args := append([]string{"exec", "-i", clientPod, "--", "/client", "load", fmt.Sprintf("-workers=%d", workers), "-pause=20ms", "-sha256=" + sha256}, flags...)
	return startLoad(t, exec.Command("kubectl", append(args, url)...))
}

// startLoad runs a client's load until stop is called.
func startLoad(t *testing.T, cmd *exec.Cmd) (stop func() summary) {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	cmd.Stdout, cmd.Stderr = &out, os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() summary {
		t.Helper()
		_ = stdin.Close()
		if err := cmd.Wait(); err != nil {
			t.Fatalf("the load ended: %v", err)
		}
		var s summary
		if err := json.Unmarshal([]byte(out.String()), &s); err != nil {
			t.Fatalf("the load printed %q: %v", out.String(), err)
		}
		return s
	}
}

// eventually waits until check gives no error.
func eventually(t testing.TB, within time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %s: %v", what, within, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
}
