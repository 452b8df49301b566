//go:build envtest

package controllers_test

import (
	"context"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// TestImageServer: an existing plugin server's image is run as it is, and
// Higress is pointed to what it serves. Sources have nothing to do with it.
func TestImageServer(t *testing.T) {
	w := newWorld(t, 0)
	w.higress()
	const image = "example.com/plugin-server:2.2.4"
	w.replicas.serveImage(image, catalog.Key{Name: "waf", Version: "1.0.0"})
	source := w.source("s", w.push("one", "1", module("one")).as("one", "1"))
	server := w.server(name)
	server.Spec.Server = v1alpha1.Server{Type: v1alpha1.ServerImage, Image: image}
	w.create(source)
	w.create(server)
	o := w.start()
	w.replicas.rollOut(server)
	w.settled(nil, server)
	w.awaitCondition(server, "CatalogReady", yes, "Succeeded", "brings its own plugins")
	w.awaitCondition(server, "ConsoleConfigured", yes, "Configured", "are not served")
	w.awaitCondition(server, "ControllerConfigured", no, "WaitingForPlugins", "no plugin mcp-server is served")
	w.awaitCondition(source, "Served", no, "NotSelected")
	pod := get[appsv1.Deployment](w, name).Spec.Template.Spec
	if len(pod.Volumes) > 0 || pod.SecurityContext.RunAsNonRoot != nil || pod.Containers[0].Command != nil {
		t.Errorf("the pods are not as the image wants them: %+v", pod)
	}
	w.quiet(o, 0, func() {}) // each pod was asked
	before := w.replicas.probed()
	w.quiet(o, 3*time.Second, func() { o.wakes.Server(w.namespace + "/" + name) })
	if after := w.replicas.probed(); before == 0 || after != before {
		t.Errorf("pods were asked %d times, and then %d times more", before, after-before)
	}

	// A version that no Console knows, in pods of a newer image.
	w.replicas.serveImage(image, catalog.Key{Name: "mcp-server", Version: "7.0.0"})
	edit(w, server, func(s *v1alpha1.PluginServer) { s.Spec.Higress.Controller.MCPServerVersion = "7.0.0" })
	w.awaitCondition(server, "ControllerConfigured", yes, "Configured")
	value := variableOf(get[appsv1.Deployment](w, "higress-controller"), integration.ControllerVariable)
	if want := "http://" + name + "." + w.namespace + ".svc/plugins/mcp-server/7.0.0/plugin.wasm"; value != want {
		t.Errorf("the controller was given %q, want %q", value, want)
	}

	// And back: the same pods' labels, the sources' plugins.
	edit(w, server, func(s *v1alpha1.PluginServer) { s.Spec.Server = v1alpha1.Server{} })
	w.eventually("the operator's own image runs", func(ctx context.Context) error {
		d := get[appsv1.Deployment](w, name)
		return wrong(d.Spec.Template.Spec.Containers[0].Image != w.settings.Image || len(d.Spec.Template.Spec.Volumes) != 2)
	})
	w.replicas.available(get[appsv1.Deployment](w, name))
	w.awaitEntry(name, "one", "1", "served", func(e catalog.Entry) bool { return !e.Pending() })
	w.settled(source, server)
}

// TestImageIsReplaced: while the pods of an image are replaced by those of a newer
// one, with another version of mcp-server, no version is served by all. The
// controller keeps the one it has until every pod has the other, and is written once.
func TestImageIsReplaced(t *testing.T) {
	w := newWorld(t, 0)
	w.higress()
	images := []string{"example.com/plugin-server:2.2.3", "example.com/plugin-server:2.2.4"}
	versions := []string{"1.0.0", "2.0.1"}
	for i, image := range images {
		w.replicas.serveImage(image, catalog.Key{Name: "mcp-server", Version: versions[i]})
	}
	server := w.server(name)
	server.Spec.Server = v1alpha1.Server{Type: v1alpha1.ServerImage, Image: images[0]}
	w.create(server)
	o := w.start()
	w.replicas.rollOut(server)
	pointsTo := func(version string) {
		t.Helper()
		value := variableOf(get[appsv1.Deployment](w, "higress-controller"), integration.ControllerVariable)
		if want := "http://" + name + "." + w.namespace + ".svc/plugins/mcp-server/" + version + "/plugin.wasm"; value != want {
			t.Errorf("the controller has %q, want %q", value, want)
		}
	}
	w.awaitCondition(server, "ControllerConfigured", yes, "Configured")
	pointsTo(versions[0])
	before := get[appsv1.Deployment](w, "higress-controller")

	edit(w, server, func(s *v1alpha1.PluginServer) { s.Spec.Server.Image = images[1] })
	var template corev1.PodTemplateSpec
	w.eventually("the Deployment has the newer image", func(context.Context) error {
		template = get[appsv1.Deployment](w, name).Spec.Template
		return wrong(template.Spec.Containers[0].Image != images[1])
	})
	w.replicas.startPods(server, "newer", 1, template)
	w.delete(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name + "-pod-0"}})
	w.quiet(o, 3*time.Second, func() { o.wakes.Server(w.namespace + "/" + name) })
	pointsTo(versions[0])

	w.replicas.startPods(server, "newest", 1, template)
	w.delete(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name + "-pod-1"}})
	w.replicas.available(get[appsv1.Deployment](w, name))
	w.settled(nil, server)
	w.eventually("the controller is pointed to the newer version", func(context.Context) error {
		return wrong(get[appsv1.Deployment](w, "higress-controller").Generation == before.Generation)
	})
	w.quiet(o, 0, func() {})
	pointsTo(versions[1])
	if after := get[appsv1.Deployment](w, "higress-controller"); after.Generation != before.Generation+1 {
		t.Errorf("the controller was changed %d times, want once", after.Generation-before.Generation)
	}
}

// variableOf gives the value of a variable in any container.
func variableOf(d *appsv1.Deployment, variable string) string {
	for _, c := range d.Spec.Template.Spec.Containers {
		for _, e := range c.Env {
			if e.Name == variable {
				return e.Value
			}
		}
	}
	return ""
}
