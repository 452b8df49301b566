//go:build envtest

package charts

import (
	"context"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// Parts of the messages by which each policy refuses.
const (
	notOwn    = "only touch objects that carry the label"
	notItself = "only scale itself"
	notLeaf   = "may change one variable of"
	notExist  = "neither create nor delete"
)

// runPolicyCases acts with all rights, so that only the policies can refuse.
func runPolicyCases(t *testing.T, operator client.Client) {
	ordered := []struct {
		name string
		verdict
	}{
		{"create own", verdict{"it carries the mark", createObject(configMap("own", own())), ""}},
		{"change own", verdict{"it carries the mark before and after", updateConfigMap("own", own(), "x"), ""}},
		{"give own away", verdict{"an object that loses the mark is lost", updateConfigMap("own", nil, "y"), notOwn}},
		{"delete own", verdict{"it carries the mark", deleteObject(configMap("own", nil)), ""}},
		{"create own Deployment", verdict{"it carries the mark", createObject(deployment("server", own(), corev1.Container{Name: "plugin-server"})), ""}},
		{"change own Deployment", verdict{"it carries the mark", patch("server", types.MergePatchType, `{"spec":{"replicas":3}}`), ""}},
		{"scale own Deployment by its subresource", verdict{"only the operator itself is scaled so", scale("server"), notItself}},
		{"create own StatefulSet", verdict{"it carries the mark", createObject(statefulSet("server", own())), ""}},
		{"delete own StatefulSet", verdict{"it carries the mark", deleteObject(statefulSet("server", nil)), ""}},
		{"create own claim", verdict{"it carries the mark", createObject(claim("server", own())), ""}},
		{"delete own Deployment", verdict{"it carries the mark", deleteObject(deployment("server", nil)), ""}},
	}
	for _, tc := range ordered {
		t.Run(tc.name, func(t *testing.T) { check(t, operator, tc.verdict) })
	}
	for name, tc := range foreignCases() {
		t.Run(name, func(t *testing.T) { check(t, operator, tc) })
	}
	for name, tc := range targetCases() {
		t.Run(name, func(t *testing.T) { check(t, operator, tc) })
	}
	for _, tc := range leafCases() {
		t.Run(tc.name, func(t *testing.T) { check(t, operator, tc.verdict) })
	}
}

// foreignCases touch what belongs to other people.
func foreignCases() map[string]verdict {
	return map[string]verdict{
		"create foreign ConfigMap":      {"it lacks the mark", createObject(configMap("new", nil)), notOwn},
		"create foreign Service":        {"it lacks the mark", createObject(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "new", Namespace: namespace}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}), notOwn},
		"create foreign ServiceAccount": {"it lacks the mark", createObject(&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "new", Namespace: namespace}}), notOwn},
		"change foreign":                {"it lacks the mark", updateConfigMap("foreign", nil, "x"), notOwn},
		"adopt foreign":                 {"the mark may not be put on what exists", updateConfigMap("foreign", own(), ""), notOwn},
		"delete foreign":                {"it lacks the mark", deleteObject(configMap("foreign", nil)), notOwn},
		"other people's mark":           {"somebody else's mark is not the operator's", createObject(configMap("helm", map[string]string{"app.kubernetes.io/managed-by": "Helm"})), notOwn},
		"patch the gateway":             {"it is no target", applyEnv("higress-gateway", "higress-gateway", consoleEnv, "x"), notOwn},
		"delete the gateway":            {"it is somebody else's", deleteObject(deployment("higress-gateway", nil)), notOwn},
		"delete itself":                 {"its own Deployment is Helm's", deleteObject(deployment("almighty", nil)), notOwn},
		"create foreign StatefulSet":    {"it lacks the mark", createObject(statefulSet("new", nil)), notOwn},
		"create foreign claim":          {"it lacks the mark", createObject(claim("new", nil)), notOwn},
		"scale the gateway":             {"it is not the operator", scale("higress-gateway"), notItself},
		"scale the Console":             {"it is not the operator", scale("higress-console"), notItself},
		"scale itself":                  {"the release before an uninstall does", scale("almighty"), ""},
		"change itself":                 {"its own Deployment is Helm's", patch("almighty", types.MergePatchType, `{"metadata":{"labels":{"x":"1"}}}`), notOwn},
	}
}

// targetCases try what the operator may not do to the Console and the controller.
func targetCases() map[string]verdict {
	console := func(body string) func(context.Context, client.Client) error {
		return patch("higress-console", types.StrategicMergePatchType, body)
	}
	container := func(fields string) func(context.Context, client.Client) error {
		return console(`{"spec":{"template":{"spec":{"containers":[{"name":"higress-console",` + fields + `}]}}}}`)
	}
	return map[string]verdict{
		"delete the Console":        {"it is somebody else's", deleteObject(deployment("higress-console", nil)), notExist},
		"label":                     {"metadata is somebody else's", console(`{"metadata":{"labels":{"x":"1"}}}`), notLeaf},
		"mark":                      {"the mark gives no right to a target", console(`{"metadata":{"labels":{"app.kubernetes.io/managed-by":"plugin-server-operator"}}}`), notLeaf},
		"drop a label":              {"metadata is somebody else's", console(`{"metadata":{"labels":{"app.kubernetes.io/version":null}}}`), notLeaf},
		"annotation":                {"metadata is somebody else's", console(`{"metadata":{"annotations":{"x":"1"}}}`), notLeaf},
		"finalizer":                 {"metadata is somebody else's", console(`{"metadata":{"finalizers":["example.com/x"]}}`), notLeaf},
		"replicas":                  {"the spec is somebody else's", console(`{"spec":{"replicas":0}}`), notLeaf},
		"paused":                    {"a field that was not there counts too", console(`{"spec":{"paused":true}}`), notLeaf},
		"pods' annotation":          {"the template is somebody else's", console(`{"spec":{"template":{"metadata":{"annotations":{"x":"1"}}}}}`), notLeaf},
		"service account":           {"it would run with other rights", console(`{"spec":{"template":{"spec":{"serviceAccountName":"x"}}}}`), notLeaf},
		"host network":              {"the pods' spec is somebody else's", console(`{"spec":{"template":{"spec":{"hostNetwork":true}}}}`), notLeaf},
		"init container":            {"it would run other code", console(`{"spec":{"template":{"spec":{"initContainers":[{"name":"i","image":"example.com/i:1"}]}}}}`), notLeaf},
		"second container":          {"it would run other code", console(`{"spec":{"template":{"spec":{"containers":[{"name":"evil","image":"example.com/evil:1"}]}}}}`), notLeaf},
		"image":                     {"it would run other code", container(`"image":"example.com/evil:1"`), notLeaf},
		"command":                   {"it would run other code", container(`"command":["/bin/sh"]`), notLeaf},
		"another variable":          {"only one variable is the operator's", container(`"env":[{"name":"OTHER","value":"1"}]`), notLeaf},
		"change another variable":   {"only one variable is the operator's", container(`"env":[{"name":"FIRST","value":"2"}]`), notLeaf},
		"remove another variable":   {"only one variable is the operator's", container(`"env":[{"name":"FIRST","$patch":"delete"}]`), notLeaf},
		"the variable of a Secret":  {"the operator sets plain values; a reference could read a Secret", container(`"env":[{"name":"` + consoleEnv + `","valueFrom":{"secretKeyRef":{"name":"harbor","key":"x"}}}]`), notLeaf},
		"envFrom":                   {"it could read a Secret", container(`"envFrom":[{"secretRef":{"name":"harbor"}}]`), notLeaf},
		"port":                      {"the container is somebody else's", container(`"ports":[{"containerPort":9090}]`), notLeaf},
		"the controller's variable": {"the Console has another", container(`"env":[{"name":"MCP_SERVER_WASM_IMAGE_URL","value":"x"}]`), notLeaf},
		"the other container":       {"only higress-core reads the variable", applyEnvForced("higress-controller", "discovery", "MCP_SERVER_WASM_IMAGE_URL", "x"), notLeaf},
	}
}

// leafCases set and release the two variables, in this order.
func leafCases() []struct {
	name string
	verdict
} {
	const mcp = "MCP_SERVER_WASM_IMAGE_URL"
	return []struct {
		name string
		verdict
	}{
		{"set the Console's variable", verdict{"it is the leaf", applyEnv("higress-console", "higress-console", consoleEnv, "http://a/${name}/${version}"), ""}},
		{"change it", verdict{"it is the leaf", applyEnv("higress-console", "higress-console", consoleEnv, "http://b/${name}/${version}"), ""}},
		{"image beside it", verdict{"two changes at once are no loophole", patch("higress-console", types.StrategicMergePatchType,
			`{"spec":{"template":{"spec":{"containers":[{"name":"higress-console","image":"example.com/evil:1","env":[{"name":"`+consoleEnv+`","value":"http://c"}]}]}}}}`), notLeaf}},
		{"release it", verdict{"it is the leaf", applyEnv("higress-console", "higress-console", consoleEnv, ""), ""}},
		{"set the controller's variable", verdict{"the container had no variables", applyEnv("higress-controller", "higress-core", mcp, "http://a"), ""}},
		{"release the controller's variable", verdict{"the container has no variables again", applyEnv("higress-controller", "higress-core", mcp, ""), ""}},
	}
}

// runRoleCases acts with the rights that the chart gives, and no others.
func runRoleCases(t *testing.T, operator client.Client) {
	ordered := []struct {
		name string
		verdict
	}{
		{"create own Deployment", verdict{"a plugin server runs in it", createObject(deployment("server-2", own(), corev1.Container{Name: "plugin-server"})), ""}},
		{"create own ConfigMap", verdict{"it holds the catalog", createObject(configMap("server-2", own())), ""}},
		{"set the Console's variable", verdict{"it is the leaf", applyEnv("higress-console", "higress-console", consoleEnv, "http://a/${name}/${version}"), ""}},
		{"release the Console's variable", verdict{"it is the leaf", applyEnv("higress-console", "higress-console", consoleEnv, ""), ""}},
		{"patch the gateway", verdict{"it is no target", applyEnv("higress-gateway", "higress-gateway", consoleEnv, "x"), notOwn}},
		{"get a Secret", verdict{"logins are read by name", func(ctx context.Context, c client.Client) error {
			return c.Get(ctx, client.ObjectKey{Namespace: namespace, Name: "harbor"}, &corev1.Secret{})
		}, ""}},
		{"list Secrets", verdict{"Secrets are never listed", func(ctx context.Context, c client.Client) error {
			return c.List(ctx, &corev1.SecretList{}, client.InNamespace(namespace))
		}, `cannot list resource "secrets"`}},
		{"patch a pod", verdict{"it would be code execution", func(ctx context.Context, c client.Client) error {
			return c.Patch(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "pod", Namespace: namespace}},
				client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"x":"1"}}}`)))
		}, `cannot patch resource "pods"`}},
		{"scale itself", verdict{"the release before an uninstall does", scale("plugin-server-operator"), ""}},
		{"other namespaces", verdict{"it is not watched", func(ctx context.Context, c client.Client) error {
			return c.List(ctx, &corev1.PodList{}, client.InNamespace("default"))
		}, `cannot list resource "pods"`}},
	}
	for _, tc := range ordered {
		t.Run(tc.name, func(t *testing.T) { check(t, operator, tc.verdict) })
	}
}

func createObject(object client.Object) func(context.Context, client.Client) error {
	return func(ctx context.Context, c client.Client) error { return c.Create(ctx, object) }
}

func deleteObject(object client.Object) func(context.Context, client.Client) error {
	return func(ctx context.Context, c client.Client) error { return c.Delete(ctx, object) }
}

func updateConfigMap(name string, labels map[string]string, value string) func(context.Context, client.Client) error {
	return func(ctx context.Context, c client.Client) error {
		object := configMap(name, labels)
		object.Data = map[string]string{"key": value}
		return c.Update(ctx, object)
	}
}

func scale(name string) func(context.Context, client.Client) error {
	return func(ctx context.Context, c client.Client) error {
		return c.SubResource("scale").Patch(ctx, deployment(name, nil), client.RawPatch(types.MergePatchType, []byte(`{"spec":{"replicas":0}}`)),
			&client.SubResourcePatchOptions{SubResourceBody: &autoscalingv1.Scale{}})
	}
}

// applyEnvForced takes over a variable that somebody else owns.
func applyEnvForced(target, container, variable, value string) func(context.Context, client.Client) error {
	return patch(target, types.StrategicMergePatchType, `{"spec":{"template":{"spec":{"containers":[{"name":"`+container+`","env":[{"name":"`+variable+`","value":"`+value+`"}]}]}}}}`)
}
