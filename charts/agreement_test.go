//go:build chart

package charts

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
)

// TestFlagsExist compares the flags that the chart gives to both commands with
// those that the operator knows.
func TestFlagsExist(t *testing.T) {
	t.Parallel()
	// The usage ends with an error, and so does the command.
	usage, _ := exec.CommandContext(t.Context(), "go", "run", "../cmd/operator", "-h").CombinedOutput()
	var known []string
	for _, match := range regexp.MustCompile(`(?m)^  -([a-z-]+)`).FindAllSubmatch(usage, -1) {
		known = append(known, string(match[1]))
	}
	if len(known) == 0 {
		t.Fatalf("the operator lists no flags:\n%s", usage)
	}
	manifests := render(t, operatorChart, "--values", "testdata/everything.values.yaml")
	used := regexp.MustCompile(`(?m)^ +- --([a-z-]+)`).FindAllStringSubmatch(manifests, -1)
	if len(used) < 20 {
		t.Fatalf("only %d flags found in the manifests", len(used))
	}
	for _, match := range used {
		if !slices.Contains(known, match[1]) {
			t.Errorf("the chart gives --%s, which the operator does not know", match[1])
		}
	}
}

// TestKustomize compares config/default with what the chart installs by default.
func TestKustomize(t *testing.T) {
	t.Parallel()
	kubectl := os.Getenv("KUBECTL")
	if kubectl == "" {
		t.Fatal("KUBECTL is not set: run the tests with \"make test-chart\", or set it to a kubectl program")
	}
	built, err := exec.CommandContext(t.Context(), kubectl, "kustomize", "../config/default").Output()
	if err != nil {
		t.Fatalf("kubectl kustomize config/default: %v", err)
	}
	if samples, err := exec.CommandContext(t.Context(), kubectl, "kustomize", "../config/samples").CombinedOutput(); err != nil {
		t.Errorf("kubectl kustomize config/samples: %v\n%s", err, samples)
	}
	chart := render(t, operatorChart, "--namespace", "higress-system", "--no-hooks", "--include-crds")
	if diff := cmp.Diff(index(objects(t, chart)), index(objects(t, string(built)))); diff != "" {
		t.Errorf("config/default differs from the chart; run make generate (-chart +config):\n%s", diff)
	}
}

// index gives the objects by kind and name, without labels: those of the chart
// say that Helm installed them.
func index(objects []*unstructured.Unstructured) map[string]map[string]any {
	result := map[string]map[string]any{}
	for _, object := range objects {
		object.SetLabels(nil)
		result[object.GetKind()+" "+object.GetNamespace()+"/"+object.GetName()] = object.Object
	}
	return result
}
