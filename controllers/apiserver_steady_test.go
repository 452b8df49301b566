//go:build envtest

package controllers_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
)

// TestSteadyState shows that nothing is written while nothing changes: with a
// resync each second and reconciles forced in between, with good plugins and bad
// ones, in a server that integrates and one that may not.
func TestSteadyState(t *testing.T) {
	w := newWorld(t, 0)
	w.resync = time.Second
	w.higress()
	good := w.push("good", "1", module("good"))
	source := w.source("own", good.as("good", "1"), v1alpha1.Plugin{Name: "bad", Version: "1", URL: strings.TrimSuffix(good.url, ":1") + ":none"})
	server, second := w.server(name), w.server("second")
	w.create(source)
	w.create(server)
	o := w.start()
	w.replicas.rollOut(server)
	w.settled(nil, server)
	w.awaitCondition(server, "ConsoleConfigured", yes, "Configured")
	w.create(second)
	w.replicas.rollOut(second)
	w.settled(nil, second)
	w.awaitCondition(second, "ConsoleConfigured", no, "HeldByAnother")
	w.awaitCondition(source, "Fetched", no, "PluginsFailed", "404")
	w.event(source, "NotFound")

	w.quiet(o, 15*time.Second, func() {
		o.wakes.Source(w.namespace + "/own")
		o.wakes.Server(w.namespace + "/" + name)
		o.wakes.Server(w.namespace + "/second")
	})
}

// drifts are changes by somebody else, and how one sees that they are gone.
func drifts(w *world) map[string]func() error {
	t := w.t
	labelGone := func(object client.Object) func() error {
		edit(w, object, func(o client.Object) {
			labels := o.GetLabels()
			delete(labels, "higress")
			o.SetLabels(labels)
		})
		return func() error {
			if err := w.admin.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil || object.GetLabels()["higress"] != name {
				return fmt.Errorf("labels are %v: %w", object.GetLabels(), err)
			}
			return nil
		}
	}
	checks := map[string]func() error{}
	for _, object := range w.objects(name) {
		if err := w.admin.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			t.Fatal(err)
		}
		checks[fmt.Sprintf("label of %T", object)] = labelGone(object)
	}
	edit(w, get[corev1.ConfigMap](w, desired.CatalogName(name)), func(c *corev1.ConfigMap) { c.BinaryData[desired.CatalogKey] = []byte("nonsense") })
	checks["catalog"] = func() error { _, err := w.catalog(t.Context(), name); return err }
	edit(w, get[corev1.ServiceAccount](w, name), func(s *corev1.ServiceAccount) { mount := true; s.AutomountServiceAccountToken = &mount })
	checks["token of the ServiceAccount"] = func() error { return wrong(*get[corev1.ServiceAccount](w, name).AutomountServiceAccountToken) }
	edit(w, get[corev1.Service](w, name), func(s *corev1.Service) { s.Spec.Ports[0].TargetPort = intstr.FromInt32(1) })
	checks["port of the Service"] = func() error {
		return wrong(get[corev1.Service](w, name).Spec.Ports[0].TargetPort.IntVal != desired.HTTPPort)
	}
	edit(w, get[appsv1.Deployment](w, name), func(d *appsv1.Deployment) { d.Spec.Template.Spec.Containers[0].Image = "evil.example/x" })
	checks["image of the Deployment"] = func() error {
		return wrong(get[appsv1.Deployment](w, name).Spec.Template.Spec.Containers[0].Image != w.settings.Image)
	}
	edit(w, get[policyv1.PodDisruptionBudget](w, name), func(p *policyv1.PodDisruptionBudget) { max := intstr.FromInt32(2); p.Spec.MaxUnavailable = &max })
	checks["PodDisruptionBudget"] = func() error { return wrong(get[policyv1.PodDisruptionBudget](w, name).Spec.MaxUnavailable.IntVal != 1) }
	edit(w, get[networkingv1.NetworkPolicy](w, name), func(p *networkingv1.NetworkPolicy) { p.Spec.Egress = p.Spec.Egress[:1] })
	checks["NetworkPolicy"] = func() error { return wrong(len(get[networkingv1.NetworkPolicy](w, name).Spec.Egress) != 3) }
	return checks
}

func wrong(still bool) error {
	if still {
		return fmt.Errorf("it is still wrong")
	}
	return nil
}

// TestDrift shows that what somebody changed in the server's objects is
// repaired, and what somebody deleted is made again.
func TestDrift(t *testing.T) {
	w := newWorld(t, 0)
	server := w.server(name)
	w.create(server)
	w.start()
	w.replicas.rollOut(server)
	w.settled(nil, server)
	for what, check := range drifts(w) {
		w.eventually(what+" is repaired", func(context.Context) error { return check() })
	}
	for _, object := range w.objects(name) {
		w.delete(object)
	}
	for _, object := range w.objects(name) {
		w.eventually(fmt.Sprintf("%T is there again", object), func(ctx context.Context) error {
			return w.admin.Get(ctx, client.ObjectKeyFromObject(object), object)
		})
	}
}

// TestMarkRemoved removes the very label by which the operator finds its
// objects, and by which the admission policy knows them: it comes back.
func TestMarkRemoved(t *testing.T) {
	w := newWorld(t, 0)
	server := w.server(name)
	w.create(server)
	w.start()
	w.replicas.rollOut(server)
	w.settled(nil, server)
	for _, object := range w.objects(name) {
		if err := w.admin.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil {
			t.Fatal(err)
		}
		edit(w, object, func(o client.Object) {
			labels := o.GetLabels()
			delete(labels, desired.ManagedByLabel)
			o.SetLabels(labels)
		})
	}
	for _, object := range w.objects(name) {
		w.eventually(fmt.Sprintf("%T is marked again", object), func(ctx context.Context) error {
			err := w.admin.Get(ctx, client.ObjectKeyFromObject(object), object)
			if err == nil && object.GetLabels()[desired.ManagedByLabel] != desired.ManagedBy {
				err = fmt.Errorf("labels are %v", object.GetLabels())
			}
			return err
		})
	}
	w.settled(nil, server)
}

// TestNotOwned shows that an object of somebody else is left alone, and said so.
func TestNotOwned(t *testing.T) {
	w := newWorld(t, 0)
	config := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: desired.CatalogName("config")}, Data: map[string]string{"mine": "1"}}
	// With the operator's own mark: labels are not what makes an object ours.
	marked := w.deployment("marked", corev1.Container{Name: "c"})
	marked.Labels = desired.Labels("marked")
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "service"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}}}
	foreign := map[string]client.Object{"config": config, "deployment": w.deployment("deployment", corev1.Container{Name: "c"}), "marked": marked, "service": service}
	for _, object := range foreign {
		w.create(object)
	}
	w.start()
	for of, object := range foreign {
		version := object.GetResourceVersion()
		server := w.server(of)
		w.create(server)
		kind := strings.TrimPrefix(fmt.Sprintf("%T", object), "*v1.")
		w.awaitCondition(server, "Ready", no, "NotOwned", kind+" "+w.namespace+"/"+object.GetName(), "is left alone: delete or rename it, or give the PluginServer another name")
		w.awaitCondition(server, "Stalled", yes, "NotOwned")
		if err := w.admin.Get(t.Context(), client.ObjectKeyFromObject(object), object); err != nil || object.GetResourceVersion() != version {
			t.Errorf("%s was touched: %v", of, err)
		}
	}
	var all appsv1.DeploymentList
	if err := w.admin.List(t.Context(), &all, client.InNamespace(w.namespace)); err != nil {
		t.Fatal(err)
	}
	for _, d := range all.Items {
		if d.Name == "config" {
			t.Error("a server without a catalog of its own has a Deployment")
		}
	}
}
