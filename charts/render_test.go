//go:build chart || envtest

// Package charts tests the charts: what they render, which values they refuse,
// and, on a real API server, what their admission policies and roles allow.
//
// The environment variable HELM names the helm program.
package charts

import (
	"bytes"
	"errors"
	"io"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/util/yaml"
)

const (
	operatorChart = "plugin-server-operator"
	crdChart      = "plugin-server-operator-crds"
)

// helm runs the program and returns what it prints to both outputs.
func helm(t *testing.T, args ...string) (stdout, stderr string, err error) {
	t.Helper()
	program := os.Getenv("HELM")
	if program == "" {
		t.Fatal("HELM is not set: run the tests with \"make test-chart\" or \"make test-api\", or set it to a helm program")
	}
	var out, problems bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, args...)
	cmd.Stdout, cmd.Stderr = &out, &problems
	err = cmd.Run()
	return out.String(), problems.String(), err
}

// render gives the manifests of a chart as the release plugin-server-operator,
// for the oldest Kubernetes that is supported.
func render(t *testing.T, chart string, args ...string) string {
	t.Helper()
	stdout, stderr, err := helm(t, append([]string{"template", "plugin-server-operator", chart, "--kube-version", "1.30.0"}, args...)...)
	if err != nil {
		t.Fatalf("helm template %s %q: %v\n%s", chart, args, err, stderr)
	}
	// Helm 3 and 4 put different numbers of empty lines between manifests.
	return regexp.MustCompile(`\n{2,}(---\n|\z)`).ReplaceAllString(stdout, "\n$1")
}

// objects parses manifests.
func objects(t *testing.T, manifests string) []*unstructured.Unstructured {
	t.Helper()
	var result []*unstructured.Unstructured
	decoder := yaml.NewYAMLOrJSONDecoder(strings.NewReader(manifests), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return result
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(object.Object) > 0 {
			result = append(result, object)
		}
	}
}
