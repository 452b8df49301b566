//go:build envtest

package charts

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

const (
	// namespace is where Higress, the operator and the plugin servers are.
	namespace    = "higress-system"
	fieldManager = "plugin-server-operator"
	consoleEnv   = "HIGRESS_ADMIN_WASM_PLUGIN_CUSTOM_IMAGE_URL_PATTERN"
)

// TestAdmission applies the chart's policies and roles to a real API server,
// and then acts as the operator. Twice: once with all the rights in the world, so
// that only the policies can refuse, and once with the chart's roles alone.
func TestAdmission(t *testing.T) {
	environment := &envtest.Environment{CRDDirectoryPaths: []string{"plugin-server-operator/crds"}, ErrorIfCRDPathMissing: true}
	config, err := environment.Start()
	if err != nil {
		t.Fatalf("start the API server (KUBEBUILDER_ASSETS names its folder; \"make test-api\" sets it): %v", err)
	}
	t.Cleanup(func() {
		if err := environment.Stop(); err != nil {
			t.Errorf("stop the API server: %v", err)
		}
	})
	admin := newClient(t, config)
	create(t, admin, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
	for _, object := range higress() {
		create(t, admin, object)
	}

	t.Run("manifests", func(t *testing.T) { dryRun(t, admin) })
	t.Run("policies", func(t *testing.T) {
		install(t, admin, "--set", "fullnameOverride=almighty")
		create(t, admin, &rbacv1.ClusterRoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: "almighty"},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "cluster-admin"},
			Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: namespace, Name: "almighty"}},
		})
		create(t, admin, deployment("almighty", nil, corev1.Container{Name: "operator"}))
		runPolicyCases(t, as(t, config, "almighty"))
	})
	t.Run("roles", func(t *testing.T) {
		install(t, admin)
		create(t, admin, deployment("plugin-server-operator", nil, corev1.Container{Name: "operator"}))
		runRoleCases(t, as(t, config, "plugin-server-operator"))
	})
}

// higress gives the objects that the operator finds: the two targets, the
// gateway, and some that belong to other people.
func higress() []client.Object {
	console := corev1.Container{Name: "higress-console", Env: []corev1.EnvVar{
		{Name: "FIRST", Value: "1"},
		{Name: "SECRET", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
	}, Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}
	// Far more variables than any Higress has: the policies must stay within the
	// API server's limit on the cost of an expression.
	for i := range 150 {
		console.Env = append(console.Env, corev1.EnvVar{Name: fmt.Sprintf("MANY_%d", i), Value: strings.Repeat("x", 200)})
	}
	core := corev1.Container{Name: "higress-core", VolumeMounts: []corev1.VolumeMount{{Name: "config", MountPath: "/config"}}}
	discovery := corev1.Container{Name: "discovery", Env: []corev1.EnvVar{{Name: "MCP_SERVER_WASM_IMAGE_URL", Value: "other"}}}
	controller := deployment("higress-controller", nil, core, discovery)
	controller.Spec.Template.Spec.Volumes = []corev1.Volume{{Name: "config", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}}}
	return []client.Object{
		deployment("higress-console", map[string]string{"app.kubernetes.io/version": "2.2.4"}, console),
		controller,
		deployment("higress-gateway", nil, corev1.Container{Name: "higress-gateway"}),
		configMap("foreign", nil),
		&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "harbor", Namespace: namespace}},
		&corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: namespace},
			Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "example.com/c:1"}}},
		},
	}
}

func deployment(name string, labels map[string]string, containers ...corev1.Container) *appsv1.Deployment {
	for i := range containers {
		containers[i].Image = "example.com/" + containers[i].Name + ":1"
	}
	selector := map[string]string{"app": name}
	return &appsv1.Deployment{
		TypeMeta:   metav1.TypeMeta{APIVersion: "apps/v1", Kind: "Deployment"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: selector},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: selector},
				Spec:       corev1.PodSpec{Containers: containers},
			},
		},
	}
}

func statefulSet(name string, labels map[string]string) *appsv1.StatefulSet {
	pods := deployment(name, labels, corev1.Container{Name: "plugin-server"}).Spec
	return &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels},
		Spec:       appsv1.StatefulSetSpec{Selector: pods.Selector, Template: pods.Template},
	}
}

func claim(name string, labels map[string]string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels},
		Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany},
			Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		},
	}
}

func configMap(name string, labels map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Labels: labels}}
}

// own is the operator's mark.
func own() map[string]string {
	return map[string]string{"app.kubernetes.io/managed-by": "plugin-server-operator"}
}

// applyEnv makes the patch by which the operator sets a variable, or lets go of it.
func applyEnv(deployment, container, variable, value string) func(context.Context, client.Client) error {
	env := ""
	if value != "" {
		env = `,"env":[{"name":"` + variable + `","value":"` + value + `"}]`
	}
	return patch(deployment, types.ApplyPatchType, `{"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"`+deployment+`"},
		"spec":{"template":{"spec":{"containers":[{"name":"`+container+`"`+env+`}]}}}}`)
}

// patch changes a Deployment.
func patch(name string, kind types.PatchType, body string) func(context.Context, client.Client) error {
	return func(ctx context.Context, c client.Client) error {
		target := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
		var options []client.PatchOption
		if kind == types.ApplyPatchType {
			options = append(options, client.FieldOwner(fieldManager))
		}
		return c.Patch(ctx, target, client.RawPatch(kind, []byte(body)), options...)
	}
}

// verdict is how a request should end, and why.
type verdict struct {
	reason string
	do     func(ctx context.Context, c client.Client) error
	denied string // part of the refusal; empty when the request must succeed
}

func check(t *testing.T, c client.Client, tc verdict) {
	t.Helper()
	err := tc.do(t.Context(), c)
	switch {
	case tc.denied == "" && err != nil:
		t.Errorf("refused, but %s: %v", tc.reason, err)
	case tc.denied != "" && err == nil:
		t.Errorf("allowed, but %s", tc.reason)
	case tc.denied != "" && (!apierrors.IsForbidden(err) || !strings.Contains(err.Error(), tc.denied)):
		t.Errorf("refused by something else than expected (%q): %v", tc.denied, err)
	}
}

func newClient(t *testing.T, config *rest.Config) client.Client {
	t.Helper()
	c, err := client.New(config, client.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// as gives a client that acts as a ServiceAccount, once the policies of that
// account are in force.
func as(t *testing.T, config *rest.Config, account string) client.Client {
	t.Helper()
	config = rest.CopyConfig(config)
	config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + namespace + ":" + account,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + namespace, "system:authenticated"},
	}
	c := newClient(t, config)
	// The API server takes up roles and policies some time after they are written.
	probes := []func(context.Context, client.Client) error{
		func(ctx context.Context, c client.Client) error {
			return c.Create(ctx, configMap("probe", nil), client.DryRunAll)
		},
		func(ctx context.Context, c client.Client) error {
			target := &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: "higress-console", Namespace: namespace}}
			return c.Patch(ctx, target, client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"probe":"1"}}}`)), client.DryRunAll)
		},
	}
	err := wait.PollUntilContextTimeout(t.Context(), 100*time.Millisecond, 30*time.Second, true, func(ctx context.Context) (bool, error) {
		for _, probe := range probes {
			if err := probe(ctx, c); err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy") {
				return false, nil
			}
		}
		return true, nil
	})
	if err != nil {
		t.Fatalf("the policies of %s are not in force: %v", account, err)
	}
	return c
}

// dryRun gives all manifests of all cases to the API server, which must know every
// field in them.
func dryRun(t *testing.T, admin client.Client) {
	for _, name := range []string{"gateway", "team-a"} {
		create(t, admin, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}})
	}
	files, err := filepath.Glob("testdata/*.values.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no cases in testdata: %v", err)
	}
	strict := client.WithFieldValidation(admin, metav1.FieldValidationStrict)
	for _, file := range files {
		for _, object := range objects(t, render(t, operatorChart, "--namespace", namespace, "--values", file)) {
			if err := strict.Create(t.Context(), object, client.DryRunAll); err != nil {
				t.Errorf("%s: %s %s is refused: %v", file, object.GetKind(), object.GetName(), err)
			}
		}
	}
}

// install applies the roles and policies that the chart renders.
func install(t *testing.T, admin client.Client, args ...string) {
	t.Helper()
	args = append(args, "--namespace", namespace)
	for _, template := range []string{"serviceaccount", "roles", "rolebindings", "admissionpolicy"} {
		args = append(args, "--show-only", "templates/"+template+".yaml")
	}
	for _, object := range objects(t, render(t, operatorChart, args...)) {
		create(t, admin, object)
	}
}

func create(t *testing.T, c client.Client, object client.Object) {
	t.Helper()
	if err := c.Create(t.Context(), object); err != nil {
		t.Fatalf("create %s: %v", object.GetName(), err)
	}
}
