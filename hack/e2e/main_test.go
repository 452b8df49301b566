//go:build node

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/controllers"
)

const (
	// namespace of everything: Higress, the operator, the plugin servers.
	namespace = "higress-system"
	release   = "plugin-server-operator"
	// clientPod downloads plugins from inside the cluster.
	clientPod = "client"
	// firstNode has the control plane too; the second one may go.
	firstNode, secondNode = "node-1", "node-2"
)

// root of the checkout: tests run in their package's folder.
const root = "../.."

// env is the cluster under test.
var env struct {
	config *rest.Config
	client client.Client
	image  string
	// before are the objects that were there before the operator.
	before string
}

func TestMain(m *testing.M) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	err := setUp(ctx)
	cancel()
	if err != nil {
		fmt.Fprintln(os.Stderr, "set up the node tests:", err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func setUp(ctx context.Context) error {
	if os.Getenv("CLUSTER_NAME") == "" {
		return errors.New("no cluster: run make test-node")
	}
	var err error
	if env.config, err = ctrl.GetConfig(); err != nil {
		return err
	}
	if env.client, err = client.New(env.config, client.Options{Scheme: controllers.Scheme()}); err != nil {
		return err
	}
	archives := []string{"image", "next", "printenv", "client", "nginx"}
	for _, name := range archives {
		if _, err := run(ctx, "bin/cluster", "load", "--name", os.Getenv("CLUSTER_NAME"), filepath.Join("bin", name+".tar")); err != nil {
			return err
		}
	}
	if env.image, err = imageRef("image"); err != nil {
		return err
	}
	for _, step := range [][]string{
		{"kubectl", "create", "namespace", namespace},
		{"kubectl", "-n", namespace, "create", "secret", "docker-registry", "registry", "--docker-server=" + registry(),
			"--docker-username=" + os.Getenv("REGISTRY_USER"), "--docker-password=" + os.Getenv("REGISTRY_PASSWORD")},
		{"kubectl", "-n", namespace, "create", "secret", "generic", "registry-ca", "--from-file=ca.crt=" + os.Getenv("REGISTRY_CA")},
	} {
		if _, err := run(ctx, step...); err != nil {
			return err
		}
	}
	if err := startHigress(ctx); err != nil {
		return err
	}
	if err := startClient(ctx); err != nil {
		return err
	}
	if env.before, err = objects(ctx); err != nil {
		return err
	}
	return install(ctx)
}

// objects lists what is in the namespace, without Higress's own.
func objects(ctx context.Context) (string, error) {
	kinds := "all,configmaps,secrets,serviceaccounts,networkpolicies,poddisruptionbudgets,roles,rolebindings,leases,persistentvolumeclaims"
	out, err := run(ctx, "kubectl", "-n", namespace, "get", kinds, "-o", "name")
	if err != nil {
		return "", err
	}
	var kept []string
	for line := range strings.Lines(out) {
		if !strings.Contains(line, "/higress-") {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, ""), nil
}

// install installs the operator with its chart, and waits for it.
func install(ctx context.Context, values ...string) error {
	repository, tag, _ := cutLast(env.image, ":")
	args := []string{"helm", "install", release, "charts/plugin-server-operator", "--namespace", namespace,
		"--set", "image.repository=" + repository, "--set", "image.tag=" + tag, "--wait", "--timeout", "2m"}
	for _, v := range values {
		args = append(args, "--set", v)
	}
	_, err := run(ctx, args...)
	return err
}

// startHigress starts the stand-ins for the Console and the controller: real names,
// containers and labels, and programs that print their environment.
func startHigress(ctx context.Context) error {
	image, err := imageRef("printenv")
	if err != nil {
		return err
	}
	manifests, err := filepath.Glob(filepath.Join(root, "hack/higress/*.yaml"))
	if err != nil || len(manifests) == 0 {
		return fmt.Errorf("no manifests in hack/higress: %w", err)
	}
	for _, path := range manifests {
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := applyYAML(ctx, strings.ReplaceAll(string(content), "IMAGE", image)); err != nil {
			return err
		}
	}
	for _, name := range []string{"higress-console", "higress-controller", "higress-gateway"} {
		if _, err := run(ctx, "kubectl", "-n", namespace, "rollout", "status", "deployment", name, "--timeout=1m"); err != nil {
			return err
		}
	}
	return nil
}

func startClient(ctx context.Context) error {
	image, err := imageRef("client")
	if err != nil {
		return err
	}
	if err := applyYAML(ctx, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s, namespace: default}
spec:
  terminationGracePeriodSeconds: 1
  nodeSelector: {kubernetes.io/hostname: %s}
  containers:
  - {name: client, image: %q, imagePullPolicy: IfNotPresent, command: [/client], args: [wait]}
`, clientPod, firstNode, image)); err != nil {
		return err
	}
	_, err = run(ctx, "kubectl", "wait", "--for=condition=Ready", "pod/"+clientPod, "--timeout=1m")
	return err
}

// imageRef reads the reference of an image that make built.
func imageRef(name string) (string, error) {
	ref, err := os.ReadFile(filepath.Join(root, "bin", name+".ref"))
	return strings.TrimSpace(string(ref)), err
}

func registry() string { return os.Getenv("REGISTRY") }

// run runs a command in the root of the checkout and gives its output.
func run(ctx context.Context, args ...string) (string, error) {
	return runWith(ctx, nil, args...)
}

func runWith(ctx context.Context, stdin []byte, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	if strings.HasPrefix(args[0], "bin/") || strings.HasPrefix(args[0], "hack/") {
		path, err := filepath.Abs(filepath.Join(root, args[0]))
		if err != nil {
			return "", err
		}
		cmd = exec.CommandContext(ctx, path, args[1:]...)
	}
	cmd.Dir = root
	cmd.Stdin = bytes.NewReader(stdin)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s: %w\n%s%s", strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	return stdout.String(), nil
}

func applyYAML(ctx context.Context, manifest string) error {
	_, err := runWith(ctx, []byte(manifest), "kubectl", "apply", "-f", "-")
	return err
}

func cutLast(s, sep string) (before, after string, found bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return s, "", false
	}
	return s[:i], s[i+len(sep):], true
}
