package main

import (
	"errors"
	"flag"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/higress-group/plugin-server-operator/controllers"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
	"github.com/higress-group/plugin-server-operator/internal/mirror"
)

// TestParse has no parallel tests beside it: defaults come from the environment.
func TestParse(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "operators")
	t.Setenv("SERVER_IMAGE", "example.com/operator:1")
	registries := filepath.Join(t.TempDir(), "registries.yaml")
	content := "registries:\n- from: public.example\n  to: harbor.example/higress\n  insecure: true\n  dockerConfigFile: /login\n  caFile: /ca\n- from: plain.example\n"
	if err := os.WriteFile(registries, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	defaults := func() options {
		return options{
			settings: controllers.Settings{
				Namespace: "operators", Image: "example.com/operator:1", ImagePullSecrets: []string{}, IntegrationNamespaces: []string{"higress-system"},
				Console: integration.Target{Kind: "Console", Container: "higress-console",
					Deployment: types.NamespacedName{Namespace: "higress-system", Name: "higress-console"},
					Variable:   "HIGRESS_ADMIN_WASM_PLUGIN_CUSTOM_IMAGE_URL_PATTERN",
					HelmValue:  "higress-console.podEnvs.HIGRESS_ADMIN_WASM_PLUGIN_CUSTOM_IMAGE_URL_PATTERN"},
				Controller: integration.Target{Kind: "controller", Container: "higress-core",
					Deployment: types.NamespacedName{Namespace: "higress-system", Name: "higress-controller"},
					Variable:   "MCP_SERVER_WASM_IMAGE_URL", HelmValue: "higress-core.controller.env.MCP_SERVER_WASM_IMAGE_URL"},
			},
			watchNamespaces: []string{"operators"}, storeDir: "/store", storeBudget: 4 << 30,
			artifactListen: ":8082", healthListen: ":8081", metricsListen: ":8080", maxFetches: 8, resync: 10 * time.Minute,
			logLevel: slog.LevelInfo, leaseName: "plugin-server-operator",
		}
	}
	for name, c := range map[string]struct {
		args []string
		want func(*options)
	}{
		"defaults": {nil, func(*options) {}},
		"lists": {[]string{"--watch-namespaces=a,b,", "--integration-namespaces=c,d", "--server-image-pull-secrets=e,,f"}, func(o *options) {
			o.watchNamespaces, o.settings.IntegrationNamespaces, o.settings.ImagePullSecrets = []string{"a", "b"}, []string{"c", "d"}, []string{"e", "f"}
		}},
		"Higress elsewhere: its servers may integrate": {[]string{"--higress-namespace=gateway", "--console-deployment=c", "--console-container=cc", "--controller-deployment=d", "--controller-container=dd"}, func(o *options) {
			o.settings.IntegrationNamespaces = []string{"gateway"}
			o.settings.Console.Deployment = types.NamespacedName{Namespace: "gateway", Name: "c"}
			o.settings.Controller.Deployment = types.NamespacedName{Namespace: "gateway", Name: "d"}
			o.settings.Console.Container, o.settings.Controller.Container = "cc", "dd"
		}},
		"the flag wins over the environment": {[]string{"--namespace=x", "--server-image=y"}, func(o *options) {
			o.settings.Namespace, o.settings.Image, o.watchNamespaces = "x", "y", []string{"x"}
		}},
		"all the rest": {[]string{"--leader-elect", "--store-dir=/s", "--store-budget=1Gi", "--artifact-listen=:1", "--health-listen=:2", "--metrics-listen=0",
			"--artifact-url=http://a", "--max-concurrent-fetches=3", "--resync=1m", "--allow-loopback", "--log-level=DEBUG", "--operator-deployment=op", "--lease-name=l"}, func(o *options) {
			o.leaderElect, o.storeDir, o.storeBudget, o.artifactListen, o.healthListen, o.metricsListen = true, "/s", 1<<30, ":1", ":2", "0"
			o.leaseName = "l"
			o.settings.ArtifactURL, o.maxFetches, o.resync, o.allowLoopback, o.logLevel, o.operatorDeployment = "http://a", 3, time.Minute, true, slog.LevelDebug, "op"
		}},
		"registries": {[]string{"--registries-config=" + registries}, func(o *options) {
			o.rules = mirror.Rules{
				{From: "public.example", To: "harbor.example/higress", Insecure: true, DockerConfigFile: "/login", CAFile: "/ca"}, {From: "plain.example"},
			}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			want := defaults()
			c.want(&want)
			got, err := parse(c.args)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmp.AllowUnexported(options{})); diff != "" {
				t.Errorf("options (-want +got):\n%s", diff)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Setenv("POD_NAMESPACE", "operators")
	dir := t.TempDir()
	file := func(name, content string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		return "--registries-config=" + path
	}
	for name, c := range map[string]struct {
		args []string
		says string
	}{
		"no namespace":           {[]string{"--namespace="}, "--namespace is needed"},
		"no Higress namespace":   {[]string{"--higress-namespace="}, "--higress-namespace"},
		"no Console":             {[]string{"--console-deployment="}, "--console-deployment"},
		"no controller":          {[]string{"--controller-deployment="}, "--controller-deployment"},
		"a stray word":           {[]string{"releese"}, `"releese"`},
		"an unknown flag":        {[]string{"--no-such-flag"}, "no-such-flag"},
		"a budget":               {[]string{"--store-budget=lots"}, `--store-budget "lots"`},
		"a level":                {[]string{"--log-level=LOUD"}, "log-level"},
		"no registries file":     {[]string{"--registries-config=" + filepath.Join(dir, "missing")}, "--registries-config"},
		"registries: no YAML":    {[]string{file("a", "{")}, "--registries-config"},
		"registries: a typo":     {[]string{file("b", "registries:\n- form: x\n")}, "form"},
		"registries: no prefix":  {[]string{file("c", "registries:\n- to: x\n")}, "registries[0].from"},
		"registries: a scheme":   {[]string{file("d", "registries:\n- from: oci://x\n")}, "registries[0].from"},
		"registries: a bad type": {[]string{file("e", "registries: x\n")}, "--registries-config"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := parse(c.args)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Errorf("parse(%q) = %v, want an error that says %q", c.args, err, c.says)
			}
		})
	}
	if _, err := parse([]string{"--help"}); !errors.Is(err, flag.ErrHelp) {
		t.Errorf("--help = %v", err)
	}
}
