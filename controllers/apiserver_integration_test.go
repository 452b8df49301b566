//go:build envtest

package controllers_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
)

// pattern is what the Console gets from a server.
func (w *world) pattern(server string) string {
	return "http://" + server + "." + w.namespace + ".svc/plugins/${name}/${version}/plugin.wasm"
}

// serving makes a source with one plugin and a server that serves it.
func (w *world) serving(name string, change func(*v1alpha1.PluginServer)) *v1alpha1.PluginServer {
	w.t.Helper()
	p := w.push("p", "1", module("p"))
	source := w.source("own", p.as("p", "1"))
	if err := w.admin.Get(w.t.Context(), client.ObjectKeyFromObject(source), source); err != nil {
		w.create(source)
	}
	server := w.server(name)
	if change != nil {
		change(server)
	}
	w.create(server)
	w.replicas.rollOut(server)
	w.settled(source, server)
	return server
}

// consoleCase is a Console as somebody set it up, and what becomes of it.
type consoleCase struct {
	change func(w *world, d *appsv1.Deployment, c *corev1.Container)
	mode   v1alpha1.IntegrationMode
	status metav1.ConditionStatus
	reason string
	says   []string
	// degraded: Degraded says it too.
	degraded bool
}

func consoleCases() map[string]consoleCase {
	variable := integration.ConsoleVariable
	value := func(v string) func(*world, *appsv1.Deployment, *corev1.Container) {
		return func(w *world, _ *appsv1.Deployment, c *corev1.Container) {
			if v == "" {
				v = w.pattern(name)
			}
			c.Env = append(c.Env, corev1.EnvVar{Name: variable, Value: v})
		}
	}
	from := func(source corev1.EnvFromSource, prefix string) func(*world, *appsv1.Deployment, *corev1.Container) {
		return func(_ *world, _ *appsv1.Deployment, c *corev1.Container) {
			source.Prefix = prefix
			c.EnvFrom = append(c.EnvFrom, source)
		}
	}
	configMap := corev1.EnvFromSource{ConfigMapRef: &corev1.ConfigMapEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "console-env"}}}
	secret := corev1.EnvFromSource{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "console-env"}}}
	observe, helm := v1alpha1.IntegrationObserve, "higress-console.podEnvs."+variable
	return map[string]consoleCase{
		"a foreign value":      {change: value("http://mine/${name}"), status: no, reason: "ForeignValue", says: []string{`field manager "helm"`, "left alone", helm}, degraded: true},
		"the same value":       {change: value(""), status: yes, reason: "AlreadyConfigured", says: []string{`"helm"`}},
		"a blank value":        {change: value(" "), status: no, reason: "ForeignValue", degraded: true},
		"an envFrom ConfigMap": {change: from(configMap, ""), status: no, reason: "ForeignValue", says: []string{"an envFrom of ConfigMap console-env"}, degraded: true},
		"an envFrom Secret":    {change: from(secret, ""), status: no, reason: "ForeignValue", says: []string{"an envFrom of Secret console-env"}, degraded: true},
		"a valueFrom": {change: func(_ *world, _ *appsv1.Deployment, c *corev1.Container) {
			c.Env = append(c.Env, corev1.EnvVar{Name: variable, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}})
		}, status: no, reason: "ForeignValue", says: []string{"a valueFrom"}, degraded: true},
		"a missing container": {change: func(_ *world, _ *appsv1.Deployment, c *corev1.Container) { c.Name = "other" },
			status: no, reason: "TargetNotFound", says: []string{"no container higress-console"}, degraded: true},
		"an old version": {change: func(_ *world, d *appsv1.Deployment, _ *corev1.Container) {
			d.Labels["app.kubernetes.io/version"] = "2.0.4"
		},
			status: no, reason: "UnsupportedVersion", says: []string{"2.0.4", "upgrade Higress to 2.0.5 or later"}, degraded: true},
		"observed":                  {mode: observe, status: no, reason: "NotConfigured", says: []string{"set the Helm value " + helm, "/plugins/${name}/${version}/plugin.wasm"}},
		"observed, and it is right": {mode: observe, change: value(""), status: yes, reason: "AlreadyConfigured"},
		"off":                       {mode: v1alpha1.IntegrationOff, status: no, reason: "Off"},
	}
}

// TestConsoleOfSomebody shows that a Console that somebody set up is left alone,
// byte for byte, and what is said about it.
func TestConsoleOfSomebody(t *testing.T) {
	t.Parallel()
	for title, c := range consoleCases() {
		t.Run(title, func(t *testing.T) {
			w := newWorld(t, 0)
			w.create(&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "console-env"}, Data: map[string]string{integration.ConsoleVariable: "x"}})
			w.create(&corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "console-env"}, Data: map[string][]byte{integration.ConsoleVariable: []byte("hidden")}})
			console := w.deployment("higress-console", corev1.Container{Name: "higress-console", Env: []corev1.EnvVar{{Name: "FIRST", Value: "1"}}})
			if c.change != nil {
				c.change(w, console, &console.Spec.Template.Spec.Containers[0])
			}
			if err := w.admin.Create(t.Context(), console, client.FieldOwner("helm")); err != nil {
				t.Fatal(err)
			}
			w.start()
			server := w.serving(name, func(s *v1alpha1.PluginServer) { s.Spec.Higress.Console.Mode = c.mode })
			w.awaitCondition(server, "ConsoleConfigured", c.status, c.reason, c.says...)
			if c.degraded {
				w.awaitCondition(server, "Degraded", yes, "Incomplete")
			}
			if after := get[appsv1.Deployment](w, "higress-console"); after.ResourceVersion != console.ResourceVersion {
				t.Errorf("the Console was written:\n%s", cmp.Diff(console, after))
			}
			if len(get[v1alpha1.PluginServer](w, name).Finalizers) > 0 {
				t.Error("a server that holds nothing has a finalizer")
			}
		})
	}
}

// TestMissingTarget shows that a Console that is not there is never created, and
// patched when it comes.
func TestMissingTarget(t *testing.T) {
	w := newWorld(t, 0)
	w.start()
	server := w.serving(name, nil)
	w.awaitCondition(server, "ConsoleConfigured", no, "TargetNotFound", "does not exist")
	w.awaitCondition(server, "Ready", yes, "Succeeded")
	w.higress()
	w.awaitCondition(server, "ConsoleConfigured", yes, "Configured")
	w.awaitCondition(server, "ControllerConfigured", no, "WaitingForPlugins", "no plugin mcp-server is served")
	if d := get[appsv1.Deployment](w, "higress-controller"); d.Generation != 1 {
		t.Error("the controller was written, although there is no mcp-server")
	}
}

// TestRelease shows that what was set is taken back: when the mode is
// switched, and when the server is deleted.
func TestRelease(t *testing.T) {
	w := newWorld(t, 0)
	w.higress()
	before := get[appsv1.Deployment](w, "higress-console")
	w.start()
	server := w.serving(name, nil)
	released := func(how string) {
		t.Helper()
		w.eventually("the Console is released when "+how, func(context.Context) error {
			now := get[appsv1.Deployment](w, "higress-console")
			if diff := cmp.Diff(before.Spec, now.Spec); diff != "" {
				return fmt.Errorf("it differs:\n%s", diff)
			}
			for _, entry := range now.ManagedFields {
				if entry.Manager == desired.FieldManager {
					return fmt.Errorf("the operator still owns %s", entry.FieldsV1)
				}
			}
			return nil
		})
	}
	held := func() {
		t.Helper()
		w.awaitCondition(server, "ConsoleConfigured", yes, "Configured")
		if now := get[v1alpha1.PluginServer](w, name); len(now.Finalizers) != 1 {
			t.Errorf("finalizers are %v while the Console is held", now.Finalizers)
		}
	}
	for _, mode := range []v1alpha1.IntegrationMode{v1alpha1.IntegrationOff, v1alpha1.IntegrationObserve} {
		held()
		edit(w, server, func(s *v1alpha1.PluginServer) { s.Spec.Higress.Console.Mode = mode })
		released("the mode is " + string(mode))
		w.eventually("the finalizer goes", func(context.Context) error {
			if now := get[v1alpha1.PluginServer](w, name); len(now.Finalizers) > 0 {
				return fmt.Errorf("finalizers are %v", now.Finalizers)
			}
			return nil
		})
		server = get[v1alpha1.PluginServer](w, name)
		edit(w, server, func(s *v1alpha1.PluginServer) { s.Spec.Higress.Console.Mode = v1alpha1.IntegrationPatch })
	}
	held()
	w.delete(server)
	released("the server is deleted")
	w.gone(server)
}

// gone waits until an object is.
func (w *world) gone(object client.Object) {
	w.t.Helper()
	w.eventually(object.GetName()+" is gone", func(ctx context.Context) error {
		err := w.admin.Get(ctx, client.ObjectKeyFromObject(object), object)
		if err == nil {
			return fmt.Errorf("it is there, with finalizers %v", object.GetFinalizers())
		}
		return client.IgnoreNotFound(err)
	})
}
