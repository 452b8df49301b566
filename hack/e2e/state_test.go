//go:build node

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

const (
	consoleVariable    = "HIGRESS_ADMIN_WASM_PLUGIN_CUSTOM_IMAGE_URL_PATTERN"
	controllerVariable = "MCP_SERVER_WASM_IMAGE_URL"
)

var errNothing = errors.New("nothing yet")

// increment gives the revision after one.
func increment(revision string) string {
	n, _ := strconv.Atoi(revision)
	return strconv.Itoa(n + 1)
}

// remove deletes an object and waits until it and what belongs to it are gone.
func remove(t testing.TB, o client.Object) {
	t.Helper()
	// Cleanups run after the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	if err := client.IgnoreNotFound(env.client.Delete(ctx, o)); err != nil {
		t.Fatal(err)
	}
	eventually(t, 90*time.Second, "delete "+o.GetName(), func() error {
		if err := env.client.Get(ctx, client.ObjectKeyFromObject(o), o); err == nil {
			return fmt.Errorf("%s is still there, finalizers %v", o.GetName(), o.GetFinalizers())
		} else if client.IgnoreNotFound(err) != nil {
			return err
		}
		if _, isServer := o.(*v1alpha1.PluginServer); !isServer {
			return nil
		}
		var pods corev1.PodList
		if err := env.client.List(ctx, &pods, client.InNamespace(namespace), client.MatchingLabels{"app": o.GetName()}); err != nil {
			return err
		}
		if len(pods.Items) > 0 {
			return fmt.Errorf("%d pods are still there", len(pods.Items))
		}
		return nil
	})
}

// condition reads a condition of a PluginServer or PluginSource.
func condition(t testing.TB, o client.Object, kind string) metav1.Condition {
	t.Helper()
	if err := env.client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
		t.Fatal(err)
	}
	var conditions []metav1.Condition
	var observed int64
	switch o := o.(type) {
	case *v1alpha1.PluginServer:
		conditions, observed = o.Status.Conditions, o.Status.ObservedGeneration
	case *v1alpha1.PluginSource:
		conditions, observed = o.Status.Conditions, o.Status.ObservedGeneration
	}
	if c := meta.FindStatusCondition(conditions, kind); c != nil && observed == o.GetGeneration() {
		return *c
	}
	return metav1.Condition{Type: kind, Status: metav1.ConditionUnknown, Reason: "NotReported"}
}

// expect waits for a condition.
func expect(t testing.TB, within time.Duration, o client.Object, kind string, status metav1.ConditionStatus, reasons ...string) metav1.Condition {
	t.Helper()
	var last metav1.Condition
	eventually(t, within, fmt.Sprintf("%s of %s is %s %v", kind, o.GetName(), status, reasons), func() error {
		last = condition(t, o, kind)
		if last.Status != status || (len(reasons) > 0 && !slices.Contains(reasons, last.Reason)) {
			return fmt.Errorf("it is %s %s: %s", last.Status, last.Reason, last.Message)
		}
		return nil
	})
	return last
}

// variable gives the value that a container of a Deployment of Higress has.
func variable(t *testing.T, deployment, container, name string) string {
	t.Helper()
	var d appsv1.Deployment
	if err := env.client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: deployment}, &d); err != nil {
		t.Fatal(err)
	}
	for _, c := range d.Spec.Template.Spec.Containers {
		for _, e := range c.Env {
			if c.Name == container && e.Name == name {
				return e.Value
			}
		}
	}
	return ""
}

// printed gives what the newest pod of a Deployment of Higress printed of its
// environment. A pod of before may still be ending.
func printed(t *testing.T, deployment, container, name string) (value string) {
	t.Helper()
	mustRun(t, "kubectl", "-n", namespace, "rollout", "status", "deployment", deployment, "--timeout=1m")
	eventually(t, time.Minute, "only the newest pod of "+deployment, func() error {
		if n := strings.Count(mustRun(t, "kubectl", "-n", namespace, "get", "pods", "-o", "name"), "pod/"+deployment+"-"); n != 1 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})
	for line := range strings.Lines(mustRun(t, "kubectl", "-n", namespace, "logs", "deployment/"+deployment, "-c", container)) {
		if value, found := strings.CutPrefix(strings.TrimSpace(line), name+"="); found {
			return value
		}
	}
	return ""
}

// rollouts is how often a Deployment was rolled out.
func rollouts(t *testing.T, deployment string) string {
	t.Helper()
	var d appsv1.Deployment
	if err := env.client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: deployment}, &d); err != nil {
		t.Fatal(err)
	}
	return d.Annotations["deployment.kubernetes.io/revision"]
}

// pods gives the ready pods of a server, by name.
func pods(t testing.TB, server string) map[string]corev1.Pod {
	t.Helper()
	var list corev1.PodList
	if err := env.client.List(t.Context(), &list, client.InNamespace(namespace), client.MatchingLabels{"app": server, "higress": server}); err != nil {
		t.Fatal(err)
	}
	found := map[string]corev1.Pod{}
	for _, p := range list.Items {
		if p.DeletionTimestamp.IsZero() && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
			return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
		}) {
			found[p.Name] = p
		}
	}
	return found
}

// samePods fails unless the pods are the ones of before, and none was
// restarted.
func samePods(t *testing.T, server string, before map[string]corev1.Pod) {
	t.Helper()
	after := pods(t, server)
	for name, pod := range before {
		now, there := after[name]
		if !there || now.UID != pod.UID || now.Status.ContainerStatuses[0].RestartCount != pod.Status.ContainerStatuses[0].RestartCount {
			t.Errorf("pod %s was restarted or replaced", name)
		}
	}
}

// onEveryReplica downloads from each pod by its own address.
func onEveryReplica(t *testing.T, server string, p plugin) error {
	t.Helper()
	for name, pod := range pods(t, server) {
		a := get(t, fmt.Sprintf("http://%s:8080/plugins/%s/%s/plugin.wasm", pod.Status.PodIP, p.name, p.version))
		if a.Status != 200 || a.SHA256 != p.sha256 {
			return fmt.Errorf("pod %s answered %d with sha256 %s, want %s", name, a.Status, a.SHA256, p.sha256)
		}
	}
	return nil
}

// edit changes an object, again where somebody else did meanwhile.
func edit[T client.Object](t testing.TB, o T, change func(T)) {
	t.Helper()
	eventually(t, 10*time.Second, "edit "+o.GetName(), func() error {
		if err := env.client.Get(t.Context(), client.ObjectKeyFromObject(o), o); err != nil {
			return err
		}
		change(o)
		return env.client.Update(t.Context(), o)
	})
}
