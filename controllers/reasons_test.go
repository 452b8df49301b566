package controllers

import (
	"go/ast"
	"go/parser"
	"go/token"
	"slices"
	"strconv"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// TestReasons shows that every reason of the content pipeline, which ends up
// in status.plugins and events as it is, is documented in the API.
func TestReasons(t *testing.T) {
	t.Parallel()
	file, err := parser.ParseFile(token.NewFileSet(), "../api/v1alpha1/conditions.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var documented []string
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Values) != 1 {
			return true
		}
		value, err := strconv.Unquote(spec.Values[0].(*ast.BasicLit).Value)
		if err != nil {
			t.Fatal(err)
		}
		if spec.Doc == nil {
			t.Errorf("%s has no documentation", spec.Names[0])
		}
		documented = append(documented, value)
		return true
	})
	if len(failure.Reasons) == 0 {
		t.Error("no reasons")
	}
	for _, reason := range failure.Reasons {
		if !slices.Contains(documented, string(reason)) {
			t.Errorf("reason %s is not in the API", reason)
		}
	}
}
