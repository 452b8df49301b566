package desired_test

import (
	"bytes"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestObjects holds the objects of each PluginServer in testdata against what
// was written down: NAME.in.yaml gives NAME.out.yaml.
func TestObjects(t *testing.T) {
	t.Parallel()
	cases, err := filepath.Glob("testdata/*.in.yaml")
	if err != nil || len(cases) == 0 {
		t.Fatalf("no cases: %v", err)
	}
	for _, in := range cases {
		t.Run(strings.TrimSuffix(filepath.Base(in), ".in.yaml"), func(t *testing.T) {
			t.Parallel()
			golden := strings.TrimSuffix(in, ".in.yaml") + ".out.yaml"
			got := render(t, in)
			if *update {
				if err := os.WriteFile(golden, got, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), string(got)); diff != "" {
				t.Errorf("the objects differ from %s; if that is meant, run go test ./controllers/desired -update (-want +got):\n%s", golden, diff)
			}
		})
	}
}

func render(t *testing.T, path string) []byte {
	t.Helper()
	in, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var server v1alpha1.PluginServer
	if err := yaml.UnmarshalStrict(in, &server); err != nil {
		t.Fatal(err)
	}
	before := server.DeepCopy()
	objects := desired.Objects(desired.Parameters{
		Server: &server, Catalog: []byte("catalog"),
		Image: "example.com/plugin-server-operator:1.0.0", ImagePullSecrets: []string{"operator-default"},
		ArtifactURL: "http://artifacts.higress-system.svc:8082", OperatorNamespace: "higress-system",
	})
	if diff := cmp.Diff(before, &server); diff != "" {
		t.Errorf("the PluginServer was changed:\n%s", diff)
	}
	var out bytes.Buffer
	for _, object := range objects {
		encoded, err := yaml.Marshal(object)
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString("---\n")
		out.Write(encoded)
	}
	return out.Bytes()
}

func TestConsolePattern(t *testing.T) {
	t.Parallel()
	server := &v1alpha1.PluginServer{}
	server.Name, server.Namespace = "s", "n"
	if got, want := desired.ConsolePattern(server), "http://s.n.svc/plugins/${name}/${version}/plugin.wasm"; got != want {
		t.Errorf("ConsolePattern() = %s, want %s", got, want)
	}
	server.Spec.URLPattern = "https://x/${name}/${version}"
	if got := desired.ConsolePattern(server); got != server.Spec.URLPattern {
		t.Errorf("ConsolePattern() = %s, want the server's own", got)
	}
}
