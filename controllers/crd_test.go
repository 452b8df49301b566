package controllers_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"sigs.k8s.io/yaml"
)

// kubernetes are the fields whose types are Kubernetes' own: their limits are
// not ours to set.
var kubernetes = []string{
	"apiVersion", "kind", "metadata", "spec.sourceSelector", "spec.resources", "spec.tolerations", "spec.affinity",
	"spec.topologySpreadConstraints", "status.conditions",
}

// TestFieldsAreDocumentedAndLimited reads the generated CRDs: every field says
// what it is, every string, list and number has a limit.
func TestFieldsAreDocumentedAndLimited(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../config/crd/bases/*.yaml")
	if err != nil || len(files) != 2 {
		t.Fatalf("%d CRDs, want 2: %v", len(files), err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			var crd apiextensionsv1.CustomResourceDefinition
			if err := yaml.UnmarshalStrict(content, &crd); err != nil {
				t.Fatal(err)
			}
			for name, field := range crd.Spec.Versions[0].Schema.OpenAPIV3Schema.Properties {
				checkField(t, name, field)
			}
			if !slices.Contains(crd.Spec.Names.Categories, "higress") || len(crd.Spec.Names.ShortNames) == 0 {
				t.Errorf("category or short name is missing: %+v", crd.Spec.Names)
			}
		})
	}
}

func checkField(t *testing.T, path string, field apiextensionsv1.JSONSchemaProps) {
	t.Helper()
	if slices.Contains(kubernetes, path) {
		return
	}
	if field.Description == "" {
		t.Errorf("%s is not documented", path)
	}
	// What is not part of the spec is written by the operator alone.
	inSpec := strings.HasPrefix(path, "spec.")
	switch {
	case field.Type == "string" && field.MaxLength == nil && len(field.Enum) == 0:
		t.Errorf("%s has no maximal length", path)
	case field.Type == "array" && field.MaxItems == nil:
		t.Errorf("%s has no maximal number of items", path)
	case field.Type == "object" && field.AdditionalProperties != nil && field.MaxProperties == nil:
		t.Errorf("%s has no maximal number of properties", path)
	case inSpec && field.Type == "integer" && (field.Maximum == nil || field.Minimum == nil):
		t.Errorf("%s has no bounds", path)
	case field.XIntOrString && len(field.XValidations) == 0:
		t.Errorf("%s has no bounds", path)
	}
	for name, below := range field.Properties {
		checkField(t, path+"."+name, below)
	}
	if field.Items != nil && field.Items.Schema != nil {
		for name, below := range field.Items.Schema.Properties {
			checkField(t, path+"."+name, below)
		}
	}
}
