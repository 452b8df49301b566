package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/yaml"

	"github.com/higress-group/plugin-server-operator/controllers"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
	"github.com/higress-group/plugin-server-operator/internal/mirror"
)

// options are the flags of the operator.
type options struct {
	settings           controllers.Settings
	watchNamespaces    []string
	leaderElect        bool
	storeDir           string
	storeBudget        int64
	artifactListen     string
	healthListen       string
	metricsListen      string
	rules              mirror.Rules
	maxFetches         int
	resync             time.Duration
	allowLoopback      bool
	logLevel           slog.Level
	operatorDeployment string
	leaseName          string
}

func parse(args []string) (options, error) {
	var o options
	var watch, integrate, pullSecrets, registries, budget, higress string
	console := integration.Target{Kind: "Console", Variable: integration.ConsoleVariable,
		HelmValue: "higress-console.podEnvs." + integration.ConsoleVariable}
	controller := integration.Target{Kind: "controller", Variable: integration.ControllerVariable,
		HelmValue: "higress-core.controller.env." + integration.ControllerVariable}

	f := flag.NewFlagSet("operator", flag.ContinueOnError)
	f.StringVar(&o.settings.Namespace, "namespace", os.Getenv("POD_NAMESPACE"), "namespace the operator runs in")
	f.StringVar(&watch, "watch-namespaces", "", "namespaces of PluginSources and PluginServers, comma-separated (default: the operator's own)")
	f.StringVar(&higress, "higress-namespace", "higress-system", "namespace Higress runs in")
	f.StringVar(&integrate, "integration-namespaces", "", "namespaces whose PluginServers may change the Console and the controller, comma-separated (default: Higress's)")
	f.StringVar(&console.Deployment.Name, "console-deployment", "higress-console", "Deployment of the Console")
	f.StringVar(&console.Container, "console-container", "higress-console", "container of the Console")
	f.StringVar(&controller.Deployment.Name, "controller-deployment", "higress-controller", "Deployment of the controller")
	f.StringVar(&controller.Container, "controller-container", "higress-core", "container of the controller")
	f.BoolVar(&o.leaderElect, "leader-elect", false, "reconcile only while holding the lease")
	f.StringVar(&o.storeDir, "store-dir", "/store", "directory of the artifact store")
	f.StringVar(&budget, "store-budget", "4Gi", "size of the artifact store")
	f.StringVar(&o.artifactListen, "artifact-listen", ":8082", "address that pods fetch modules and catalogs from")
	f.StringVar(&o.settings.ArtifactURL, "artifact-url", "", "URL of that address, as pods see it (required)")
	f.StringVar(&o.healthListen, "health-listen", ":8081", "address of /healthz and /readyz")
	f.StringVar(&o.metricsListen, "metrics-listen", ":8080", "address of /metrics; 0 for none")
	f.StringVar(&o.settings.Image, "server-image", os.Getenv("SERVER_IMAGE"), "image of the plugin servers (required)")
	f.StringVar(&pullSecrets, "server-image-pull-secrets", "", "pull secrets of that image, comma-separated")
	f.StringVar(&registries, "registries-config", "", "file with the operator's defaults for registries")
	f.IntVar(&o.maxFetches, "max-concurrent-fetches", 8, "fetches at once")
	f.DurationVar(&o.resync, "resync", 10*time.Minute, "how often everything is looked at again without being woken")
	f.BoolVar(&o.allowLoopback, "allow-loopback", false, "allow registries on loopback addresses")
	f.StringVar(&o.operatorDeployment, "operator-deployment", "", "release: the operator's Deployment, which is stopped first")
	f.StringVar(&o.leaseName, "lease-name", "plugin-server-operator", "lease of the leader election")
	f.TextVar(&o.logLevel, "log-level", slog.LevelInfo, "DEBUG, INFO, WARN or ERROR")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	if f.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", f.Arg(0))
	}

	console.Deployment.Namespace, controller.Deployment.Namespace = higress, higress
	o.settings.Console, o.settings.Controller = console, controller
	o.settings.ImagePullSecrets = list(pullSecrets)
	o.watchNamespaces = list(watch)
	if len(o.watchNamespaces) == 0 {
		o.watchNamespaces = []string{o.settings.Namespace}
	}
	o.settings.IntegrationNamespaces = list(integrate)
	if len(o.settings.IntegrationNamespaces) == 0 {
		o.settings.IntegrationNamespaces = []string{higress}
	}
	return o, errors.Join(o.validate(), o.readBudget(budget), o.readRegistries(registries))
}

func (o *options) validate() error {
	if o.settings.Namespace == "" {
		return errors.New("--namespace is needed (or the environment variable POD_NAMESPACE)")
	}
	if o.resync <= 0 || o.maxFetches <= 0 {
		return errors.New("--resync and --max-concurrent-fetches have to be more than 0")
	}
	for _, target := range []types.NamespacedName{o.settings.Console.Deployment, o.settings.Controller.Deployment} {
		if target.Name == "" || target.Namespace == "" {
			return errors.New("--higress-namespace, --console-deployment and --controller-deployment must not be empty")
		}
	}
	return nil
}

func (o *options) readBudget(budget string) error {
	quantity, err := resource.ParseQuantity(budget)
	if err != nil {
		return fmt.Errorf("--store-budget %q: %w", budget, err)
	}
	if o.storeBudget = quantity.Value(); o.storeBudget <= 0 {
		return fmt.Errorf("--store-budget is %s: it has to be more than 0", budget)
	}
	return nil
}

func (o *options) readRegistries(path string) error {
	if path == "" {
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("--registries-config: %w", err)
	}
	var config struct {
		Registries mirror.Rules `json:"registries"`
	}
	if err := yaml.UnmarshalStrict(content, &config); err != nil {
		return fmt.Errorf("--registries-config %s: %w", path, err)
	}
	o.rules = config.Registries
	return config.Registries.Validate()
}

// list splits a comma-separated flag.
func list(value string) []string {
	return slices.DeleteFunc(strings.Split(value, ","), func(s string) bool { return s == "" })
}
