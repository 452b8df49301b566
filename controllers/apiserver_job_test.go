//go:build envtest

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

const (
	yes, no = metav1.ConditionTrue, metav1.ConditionFalse
	name    = "higress-plugin-server"
)

// higress installs the Console and the controller, as their chart has them.
func (w *world) higress() {
	w.t.Helper()
	w.create(w.deployment("higress-console", corev1.Container{Name: "higress-console", Env: []corev1.EnvVar{{Name: "FIRST", Value: "1"}}}))
	w.create(w.deployment("higress-controller", corev1.Container{Name: "higress-core"}, corev1.Container{Name: "discovery"}))
}

func (w *world) deployment(name string, containers ...corev1.Container) *appsv1.Deployment {
	for i := range containers {
		containers[i].Image = "example.com/higress:2.2.4"
	}
	selector := map[string]string{"app": name}
	return &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name, Labels: map[string]string{"app.kubernetes.io/version": "2.2.4"}},
		Spec: appsv1.DeploymentSpec{
			Selector: &metav1.LabelSelector{MatchLabels: selector},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: selector}, Spec: corev1.PodSpec{Containers: containers}},
		},
	}
}

// env gives a variable of the first container of a Deployment.
func env(d *appsv1.Deployment, variable string) string {
	for _, e := range d.Spec.Template.Spec.Containers[0].Env {
		if e.Name == variable {
			return e.Value
		}
	}
	return ""
}

// catalog reads the durable copy of a server's catalog.
func (w *world) catalog(ctx context.Context, server string) (*catalog.Catalog, error) {
	config := &corev1.ConfigMap{}
	if err := w.admin.Get(ctx, client.ObjectKey{Namespace: w.namespace, Name: desired.CatalogName(server)}, config); err != nil {
		return nil, err
	}
	return catalog.Decode(config.BinaryData[desired.CatalogKey])
}

// awaitEntry waits until the catalog has an entry that check finds right.
func (w *world) awaitEntry(server, plugin, version, what string, check func(catalog.Entry) bool) catalog.Entry {
	w.t.Helper()
	var found catalog.Entry
	w.eventually(fmt.Sprintf("%s:%s in the catalog is %s", plugin, version, what), func(ctx context.Context) error {
		c, err := w.catalog(ctx, server)
		if err != nil {
			return err
		}
		for _, e := range c.Entries {
			if e.Key() == (catalog.Key{Name: plugin, Version: version}) && check(e) {
				found = e
				return nil
			}
		}
		return fmt.Errorf("the catalog is %+v", c.Entries)
	})
	return found
}

// settled waits until a source and a server are ready, pods included.
func (w *world) settled(source *v1alpha1.PluginSource, server *v1alpha1.PluginServer) {
	w.t.Helper()
	if source != nil {
		w.awaitCondition(source, "Ready", yes, "Succeeded")
	}
	w.awaitCondition(server, "Ready", yes, "Succeeded")
	w.awaitCondition(server, "ReplicasConsistent", yes, "Succeeded")
}

func TestMainJob(t *testing.T) {
	w := newWorld(t, 0)
	w.higress()
	console, controller := get[appsv1.Deployment](w, "higress-console"), get[appsv1.Deployment](w, "higress-controller")
	keyAuth, mcp := w.push("key-auth", "1.0.0", module("key-auth")), w.push("mcp-server", "1.0.0", module("mcp"))
	w.start()
	source, server := w.source("own", keyAuth.as("key-auth", "1.0.0"), mcp.as("mcp-server", "1.0.0")), w.server(name)
	source.Spec.Plugins[0].Description = "checks keys"
	w.create(source)
	w.create(server)
	w.replicas.rollOut(server)
	w.settled(source, server)
	w.awaitCondition(server, "ConsoleConfigured", yes, "Configured")
	w.awaitCondition(server, "ControllerConfigured", yes, "Configured")

	entry := w.awaitEntry(name, "key-auth", "1.0.0", "there", func(e catalog.Entry) bool { return !e.Pending() })
	want := catalog.Entry{
		Name: "key-auth", Version: "1.0.0", SHA256: keyAuth.sha256, MD5: entry.MD5, Size: int64(len(keyAuth.module)), Created: "2024-01-01T00:00:00Z",
		Description: "checks keys", Source: keyAuth.url, Digest: keyAuth.digest,
	}
	if diff := cmp.Diff(want, entry); diff != "" || len(entry.MD5) != 32 {
		t.Errorf("entry of the catalog (-want +got):\n%s", diff)
	}
	for _, object := range w.objects(name) {
		if err := w.admin.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			t.Errorf("%T: %v", object, err)
		}
		if !metav1.IsControlledBy(object, server) {
			t.Errorf("%T is not controlled by the PluginServer", object)
		}
	}
	url := "http://" + name + "." + w.namespace + ".svc/plugins/"
	patched := get[appsv1.Deployment](w, "higress-console")
	if got, want := env(patched, w.settings.Console.Variable), url+"${name}/${version}/plugin.wasm"; got != want || patched.Generation != console.Generation+1 {
		t.Errorf("the Console has %q after %d changes, want %q after one", got, patched.Generation-console.Generation, want)
	}
	patched = get[appsv1.Deployment](w, "higress-controller")
	if got, want := env(patched, w.settings.Controller.Variable), url+"mcp-server/1.0.0/plugin.wasm"; got != want || patched.Generation != controller.Generation+1 {
		t.Errorf("the controller has %q after %d changes, want %q after one", got, patched.Generation-controller.Generation, want)
	}
	w.plugins(source, server)
	w.event(source, "Fetched")
	w.event(server, "Configured")
}

// plugins adds, changes and removes plugins, and shows that nothing restarts.
func (w *world) plugins(source *v1alpha1.PluginSource, server *v1alpha1.PluginServer) {
	t := w.t
	before := map[string]int64{}
	for _, d := range []string{name, "higress-console", "higress-controller"} {
		before[d] = get[appsv1.Deployment](w, d).Generation
	}
	more, newer := w.push("more", "1", module("more")), w.push("mcp-server", "2.0.0", module("mcp 2"))
	edit(w, source, func(s *v1alpha1.PluginSource) {
		s.Spec.Plugins = append(s.Spec.Plugins, more.as("more", "1"), newer.as("mcp-server", "2.0.0"))
	})
	w.settled(source, server)
	if !w.replicas.has(more.sha256) || !w.replicas.has(newer.sha256) {
		t.Error("the pods do not have the new plugins, although the source is ready")
	}

	updated := w.push("more", "2", module("more, better"))
	edit(w, source, func(s *v1alpha1.PluginSource) { s.Spec.Plugins[2].URL = updated.url })
	w.awaitEntry(name, "more", "1", "updated", func(e catalog.Entry) bool { return e.SHA256 == updated.sha256 })
	c, err := w.catalog(t.Context(), name)
	if err != nil || len(c.Superseded) != 1 || c.Superseded[0].SHA256 != more.sha256 {
		t.Errorf("the replaced module is not kept by its content: %+v, %v", c, err)
	}

	edit(w, source, func(s *v1alpha1.PluginSource) { s.Spec.Plugins = s.Spec.Plugins[:2] })
	w.awaitEntry(name, "more", "1", "retained", func(e catalog.Entry) bool { return e.RetainedUntil != "" && e.SHA256 == updated.sha256 })
	w.settled(source, server)
	w.eventually("status counts the retained", func(ctx context.Context) error {
		if err := w.admin.Get(ctx, client.ObjectKeyFromObject(server), server); err != nil || server.Status.Catalog.Retained != 2 {
			return errors.Join(err, fmt.Errorf("catalog is %+v", server.Status.Catalog))
		}
		return nil
	})
	for d, generation := range before {
		if now := get[appsv1.Deployment](w, d).Generation; now != generation {
			t.Errorf("Deployment %s was changed %d times while plugins came and went", d, now-generation)
		}
	}
}

// objects gives empty objects with the names that a server's have.
func (w *world) objects(server string) []client.Object {
	at := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: w.namespace, Name: name} }
	return []client.Object{
		&corev1.ConfigMap{ObjectMeta: at(desired.CatalogName(server))}, &corev1.ServiceAccount{ObjectMeta: at(server)},
		&corev1.Service{ObjectMeta: at(server)}, &appsv1.Deployment{ObjectMeta: at(server)},
		&policyv1.PodDisruptionBudget{ObjectMeta: at(server)}, &networkingv1.NetworkPolicy{ObjectMeta: at(server)},
	}
}
