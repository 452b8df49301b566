//go:build envtest

package controllers_test

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
)

// awaitConsole waits until the Console has a value.
func (w *world) awaitConsole(value string) *appsv1.Deployment {
	w.t.Helper()
	var console *appsv1.Deployment
	w.eventually(fmt.Sprintf("the Console has %q", value), func(context.Context) error {
		console = get[appsv1.Deployment](w, "higress-console")
		if got := env(console, integration.ConsoleVariable); got != value {
			return fmt.Errorf("it has %q", got)
		}
		return nil
	})
	return console
}

// TestHandOver shows that the oldest server has the Console, and that the next
// one gets it in one write.
func TestHandOver(t *testing.T) {
	w := newWorld(t, 0)
	w.higress()
	w.start()
	// Their creation times may be the same second: then the name decides.
	older := w.serving("a", nil)
	w.awaitConsole(w.pattern("a"))
	younger := w.serving("b", nil)
	w.awaitCondition(younger, "ConsoleConfigured", no, "HeldByAnother", "PluginServer "+w.namespace+"/a is older", "set the mode to Off here or there")
	before := get[appsv1.Deployment](w, "higress-console").Generation
	w.delete(older)
	console := w.awaitConsole(w.pattern("b"))
	if console.Generation != before+1 {
		t.Errorf("the hand-over took %d changes, want one", console.Generation-before)
	}
	w.gone(older)
	w.awaitCondition(younger, "ConsoleConfigured", yes, "Configured")

	third := w.serving("c", nil)
	w.awaitCondition(third, "ConsoleConfigured", no, "HeldByAnother")
	edit(w, get[v1alpha1.PluginServer](w, "b"), func(s *v1alpha1.PluginServer) { s.Spec.Higress.Console.Mode = v1alpha1.IntegrationOff })
	if console := w.awaitConsole(w.pattern("c")); console.Generation != before+2 {
		t.Errorf("the second hand-over took %d changes, want one", console.Generation-before-1)
	}
}

// TestNamespaceNotAllowed has a server in a namespace that may not integrate.
func TestNamespaceNotAllowed(t *testing.T) {
	w := newWorld(t, 1)
	w.higress()
	other := w.watched[1]
	w.createLogin(other)
	p := w.push("p", "1", module("p"))
	source, server := w.source("own", p.as("p", "1")), w.server(name)
	source.Namespace, server.Namespace = other, other
	w.create(source)
	w.create(server)
	w.start()
	w.replicas.rollOut(server)
	w.settled(source, server)
	w.awaitCondition(server, "ConsoleConfigured", no, "NamespaceNotAllowed", other, "allowed are: "+w.namespace, "Set the mode to Off")
	w.awaitCondition(server, "Degraded", yes, "Incomplete")
	if got := env(get[appsv1.Deployment](w, "higress-console"), integration.ConsoleVariable); got != "" {
		t.Errorf("the Console has %q", got)
	}
}

// TestContested shows that the operator does not fight.
func TestContested(t *testing.T) {
	w := newWorld(t, 0)
	w.higress()
	w.start()
	server := w.serving(name, nil)
	revert := func() {
		console := w.awaitConsole(w.pattern(name))
		before := console.DeepCopy()
		console.Spec.Template.Spec.Containers[0].Env = console.Spec.Template.Spec.Containers[0].Env[:1]
		if err := w.admin.Patch(t.Context(), console, client.StrategicMergeFrom(before)); err != nil {
			t.Fatal(err)
		}
	}
	for range 3 {
		revert()
	}
	w.awaitCondition(server, "ConsoleConfigured", no, "FieldContested", "3 times within 10m", "set the mode to Observe")
	w.awaitCondition(server, "Degraded", yes, "Incomplete")
	if got := env(get[appsv1.Deployment](w, "higress-console"), integration.ConsoleVariable); got != "" {
		t.Errorf("the Console has %q, although the operator gave up", got)
	}
	edit(w, server, func(s *v1alpha1.PluginServer) { s.Spec.PodAnnotations = map[string]string{"a": "b"} })
	w.awaitConsole(w.pattern(name))
	w.awaitCondition(server, "ConsoleConfigured", yes, "Configured")
}

// TestReleaseAtStart shows that what carries our field manager is let go when
// there is no PluginServer any more.
func TestReleaseAtStart(t *testing.T) {
	w := newWorld(t, 0)
	w.higress()
	leaf := appsv1ac.Deployment("higress-console", w.namespace).WithSpec(appsv1ac.DeploymentSpec().WithTemplate(corev1ac.PodTemplateSpec().
		WithSpec(corev1ac.PodSpec().WithContainers(corev1ac.Container().WithName("higress-console").
			WithEnv(corev1ac.EnvVar().WithName(integration.ConsoleVariable).WithValue("http://gone"))))))
	if err := w.admin.Apply(t.Context(), leaf, client.FieldOwner(desired.FieldManager)); err != nil {
		t.Fatal(err)
	}
	w.awaitConsole("http://gone")
	w.start()
	w.awaitConsole("")
}
