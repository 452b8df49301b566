//go:build chart

package charts

import (
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"
)

var update = flag.Bool("update", false, "write the golden files anew")

// TestGolden compares what the chart renders with testdata/*.golden.yaml.
func TestGolden(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/*.values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases in testdata: %v", err)
	}
	for _, values := range files {
		name := strings.TrimSuffix(filepath.Base(values), ".values.yaml")
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := render(t, operatorChart, "--namespace", "higress-system", "--values", values)
			golden := filepath.Join("testdata", name+".golden.yaml")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("render differs from %s (-want +got); go test -tags chart ./charts -update writes it anew:\n%s", golden, diff)
			}
		})
	}
}

// TestRenderingIsStable renders as GitOps tools do, as an upgrade and without a
// cluster: the result must not differ from an install's, or they would sync for ever.
func TestRenderingIsStable(t *testing.T) {
	t.Parallel()
	args := []string{"--namespace", "higress-system", "--values", "testdata/everything.values.yaml"}
	install := render(t, operatorChart, args...)
	upgrade := render(t, operatorChart, append(args, "--is-upgrade")...)
	if diff := cmp.Diff(install, upgrade); diff != "" {
		t.Errorf("an upgrade renders something else (-install +upgrade):\n%s", diff)
	}
}

// TestFlags follows each value to the operator's command line.
func TestFlags(t *testing.T) {
	t.Parallel()
	cases := map[string]struct {
		set  []string
		want []string // flags that must be there
		none []string // beginnings of flags that must not be there
	}{
		"defaults":               {nil, []string{"--leader-elect", "--namespace=$(POD_NAMESPACE)", "--watch-namespaces=ops", "--higress-namespace=ops", "--store-dir=/store", "--store-budget=3500Mi", "--artifact-listen=:8082", "--artifact-url=http://plugin-server-operator.ops.svc:8082", "--health-listen=:8081", "--metrics-listen=:8080", "--server-image=docker.io/higress/plugin-server-operator:0.1.0", "--max-concurrent-fetches=8", "--resync=10m", "--log-level=info"}, []string{"--integration-namespaces", "--server-image-pull-secrets", "--registries-config", "--allow-loopback"}},
		"namespaces are a union": {[]string{"higress.namespace=gw", "watchNamespaces={a,gw,ops}"}, []string{"--watch-namespaces=ops,gw,a", "--higress-namespace=gw"}, nil},
		"integration":            {[]string{"higress.integrationNamespaces={gw,a}"}, []string{"--integration-namespaces=gw,a"}, nil},
		"targets":                {[]string{"higress.console.deployment=c", "higress.console.container=cc", "higress.controller.deployment=d", "higress.controller.container=dd"}, []string{"--console-deployment=c", "--console-container=cc", "--controller-deployment=d", "--controller-container=dd"}, nil},
		"store":                  {[]string{"store.budget=1Gi"}, []string{"--store-budget=1Gi"}, nil},
		"operator's image":       {[]string{"image.repository=r/i", "image.tag=t"}, []string{"--server-image=r/i:t"}, nil},
		"server's image":         {[]string{"server.image=r/s:t", "server.imagePullSecrets={a,b}"}, []string{"--server-image=r/s:t", "--server-image-pull-secrets=a,b"}, nil},
		"registries":             {[]string{"registries[0].from=a.example.com"}, []string{"--registries-config=/etc/plugin-server-operator/registries.yaml"}, nil},
		"limits":                 {[]string{"maxConcurrentFetches=3", "resync=90s"}, []string{"--max-concurrent-fetches=3", "--resync=90s"}, nil},
		"loopback":               {[]string{"allowLoopback=true"}, []string{"--allow-loopback"}, nil},
		"log level":              {[]string{"logLevel=debug"}, []string{"--log-level=debug"}, nil},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			args := []string{"--namespace", "ops", "--show-only", "templates/deployment.yaml"}
			for _, set := range tc.set {
				args = append(args, "--set", set)
			}
			var deployment appsv1.Deployment
			if err := yaml.UnmarshalStrict([]byte(render(t, operatorChart, args...)), &deployment); err != nil {
				t.Fatal(err)
			}
			flags := deployment.Spec.Template.Spec.Containers[0].Args
			line := " " + strings.Join(flags, " ") + " "
			for _, want := range tc.want {
				if !strings.Contains(line, " "+want+" ") {
					t.Errorf("%s is missing in %q", want, flags)
				}
			}
			for _, none := range tc.none {
				if strings.Contains(line, " "+none) {
					t.Errorf("%s should not be in %q", none, flags)
				}
			}
		})
	}
}

// TestSchema gives values that must be refused before anything is rendered.
func TestSchema(t *testing.T) {
	t.Parallel()
	cases := map[string]struct{ set, reason string }{
		"unknown value":         {"watchNamespace=a", "a typing error must not be ignored"},
		"unknown nested value":  {"store.sizeLimit=1Gi", "a typing error must not be ignored"},
		"namespace":             {"higress.namespace=Higress_System", "it is no name of a namespace"},
		"watched namespace":     {"watchNamespaces={a,*}", "there is no wildcard"},
		"namespaces as text":    {"watchNamespaces=a", "it is a list"},
		"digest":                {"image.digest=sha256:abc", "it is too short"},
		"pull policy":           {"image.pullPolicy=Sometimes", "there is no such policy"},
		"quantity":              {"store.budget=lots", "it is no quantity"},
		"no fetches":            {"maxConcurrentFetches=0", "nothing would ever be fetched"},
		"fetches as text":       {"maxConcurrentFetches=many", "it is a number"},
		"duration":              {"resync=often", "it is no duration"},
		"log level":             {"logLevel=loud", "there is no such level"},
		"registry with scheme":  {"registries[0].from=https://a.example.com", "a host, not a URL"},
		"registry without from": {"registries[0].to=a.example.com", "it says what is replaced"},
		"login as text":         {"registries[0].from=a.example.com,registries[0].password=x", "logins are in Secrets"},
		"source without name":   {"pluginSources[0].spec.registry=a.example.com", "every object has a name"},
		"empty deployment":      {"higress.console.deployment=", "Off is a setting of the PluginServer"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, stderr, err := helm(t, "template", "x", operatorChart, "--kube-version", "1.30.0", "--set", tc.set)
			if err == nil {
				t.Fatalf("--set %s is accepted, but %s", tc.set, tc.reason)
			}
			if !strings.Contains(stderr, "schema") {
				t.Errorf("--set %s is refused by something else than the schema:\n%s", tc.set, stderr)
			}
		})
	}
}

// TestCRDs says that both charts carry what was generated, and that a removal of
// the chart of the CRDs keeps them.
func TestCRDs(t *testing.T) {
	t.Parallel()
	generated, err := filepath.Glob("../config/crd/bases/*.yaml")
	if err != nil || len(generated) != 2 {
		t.Fatalf("config/crd/bases: %v, %v", generated, err)
	}
	chart := render(t, crdChart)
	for _, file := range generated {
		want, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(operatorChart, "crds", filepath.Base(file)))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("crds/%s differs; run make generate (-want +got):\n%s", filepath.Base(file), diff)
		}
		const annotations = "\n  annotations:\n"
		kept := strings.Replace(string(want), annotations, annotations+"    helm.sh/resource-policy: keep\n", 1)
		if !strings.Contains(chart, strings.TrimSpace(strings.TrimPrefix(kept, "---\n"))) {
			t.Errorf("the chart %s does not carry %s with the annotation that keeps it; run make generate", crdChart, filepath.Base(file))
		}
	}
}
