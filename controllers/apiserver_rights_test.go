//go:build envtest

package controllers_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// TestRights shows what the operator may not do, with its generated Roles and
// policies.
func TestRights(t *testing.T) {
	w := newWorld(t, 0)
	w.higress()
	w.create(w.deployment("higress-gateway", corev1.Container{Name: "higress-gateway"}))
	w.create(&corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "pod"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	})
	source, server := w.source("own"), w.server(name)
	w.create(source)
	w.create(server)
	operator := w.operatorClient()
	label := client.RawPatch(types.MergePatchType, []byte(`{"metadata":{"labels":{"a":"b"}}}`))
	at := func(name string) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: w.namespace, Name: name} }
	patch := func(object client.Object) func(context.Context) error {
		return func(ctx context.Context) error { return operator.Patch(ctx, object, label) }
	}
	list := func(objects client.ObjectList) func(context.Context) error {
		return func(ctx context.Context) error { return operator.List(ctx, objects, client.InNamespace(w.namespace)) }
	}
	remove := func(object client.Object) func(context.Context) error {
		return func(ctx context.Context) error { return operator.Delete(ctx, object) }
	}
	// A policy is taken up after another one.
	w.eventually("the policy about Higress is in force", func(ctx context.Context) error {
		console := &appsv1.Deployment{ObjectMeta: at("higress-console")}
		return wrong(!apierrors.IsForbidden(operator.Patch(ctx, console, label, client.DryRunAll)))
	})
	for what, do := range map[string]func(context.Context) error{
		"patch the gateway":                  patch(&appsv1.Deployment{ObjectMeta: at("higress-gateway")}),
		"patch more of the Console":          patch(&appsv1.Deployment{ObjectMeta: at("higress-console")}),
		"patch a pod":                        patch(&corev1.Pod{ObjectMeta: at("pod")}),
		"patch a source's spec":              patch(source.DeepCopy()),
		"patch a Secret":                     patch(&corev1.Secret{ObjectMeta: at("login")}),
		"list Secrets":                       list(&corev1.SecretList{}),
		"list Secrets of all namespaces":     func(ctx context.Context) error { return operator.List(ctx, &corev1.SecretList{}) },
		"list Deployments of all namespaces": func(ctx context.Context) error { return operator.List(ctx, &appsv1.DeploymentList{}) },
		"read a Secret of another namespace": func(ctx context.Context) error {
			return operator.Get(ctx, types.NamespacedName{Namespace: "kube-system", Name: "x"}, &corev1.Secret{})
		},
		"create a pod": func(ctx context.Context) error {
			return operator.Create(ctx, &corev1.Pod{ObjectMeta: at("new"), Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}}})
		},
		"create a Secret": func(ctx context.Context) error { return operator.Create(ctx, &corev1.Secret{ObjectMeta: at("new")}) },
		"create a Deployment without its mark": func(ctx context.Context) error {
			return operator.Create(ctx, w.deployment("new", corev1.Container{Name: "c"}))
		},
		"delete a Deployment": remove(&appsv1.Deployment{ObjectMeta: at("higress-gateway")}),
		"delete a Secret":     remove(&corev1.Secret{ObjectMeta: at("login")}),
		"delete a ConfigMap":  remove(&corev1.ConfigMap{ObjectMeta: at("x")}),
		"delete a Service":    remove(&corev1.Service{ObjectMeta: at("x")}),
		"delete a pod":        remove(&corev1.Pod{ObjectMeta: at("pod")}),
		"delete a server":     remove(server.DeepCopy()),
		"delete a source":     remove(source.DeepCopy()),
	} {
		t.Run(what, func(t *testing.T) {
			if err := do(t.Context()); !apierrors.IsForbidden(err) {
				t.Errorf("it is not forbidden: %v", err)
			}
		})
	}
	if err := operator.Get(t.Context(), types.NamespacedName{Namespace: w.namespace, Name: "login"}, &corev1.Secret{}); err != nil {
		t.Errorf("a Secret that is named may be read: %v", err)
	}
}

// TestRestart lets an operator with an empty store take over, after the tag was
// moved: what was good stays in the catalog as it is, and is fetched again by
// its digest.
func TestRestart(t *testing.T) {
	w := newWorld(t, 0)
	w.higress()
	o := w.start()
	server := w.serving(name, nil)
	w.awaitCondition(server, "ConsoleConfigured", yes, "Configured")
	before, err := w.catalog(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	source := &v1alpha1.PluginSource{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "own"}}
	w.awaitCondition(source, "Ready", yes, "Succeeded")
	readySince := conditionsOf(source)
	o.end()

	moved := w.push("p", "1", module("p, moved"))
	w.storeDir = t.TempDir()
	o = w.start()
	w.eventually("the new operator has fetched the module by its digest", func(ctx context.Context) error {
		got, err := ask(ctx, o.url+"/blobs/sha256/"+before.Entries[0].SHA256, 1<<20)
		return errors.Join(err, wrong(err == nil && !bytes.Equal(got, module("p"))))
	})
	w.settled(source, server)
	after, err := w.catalog(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	if after.Revision() != before.Revision() || after.Sequence != before.Sequence {
		t.Errorf("the catalog changed from %+v to %+v", before, after)
	}
	if w.replicas.has(moved.sha256) {
		t.Error("the tag that moved was followed")
	}
	if !slices.Equal(readySince, conditionsOf(source)) {
		t.Errorf("the restart shows in the source's conditions:\nbefore %+v\nafter  %+v", readySince, conditionsOf(source))
	}
	// What is declared anew comes too.
	edit(w, source, func(s *v1alpha1.PluginSource) { s.Spec.Plugins = append(s.Spec.Plugins, moved.as("q", "1")) })
	w.awaitEntry(name, "q", "1", "there", func(e catalog.Entry) bool { return e.SHA256 == moved.sha256 })
	w.settled(source, server)
	if made := get[appsv1.Deployment](w, "higress-console").Generation; made != 2 {
		t.Errorf("the Console was changed %d times, want once", made-1)
	}
}

// TestRestartBetweenWrites has an operator that ended after it wrote the
// server's status, and before it wrote the source's.
func TestRestartBetweenWrites(t *testing.T) {
	w := newWorld(t, 0)
	o := w.start()
	server := w.serving(name, nil)
	source := &v1alpha1.PluginSource{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "own"}}
	w.awaitCondition(source, "Ready", yes, "Succeeded")
	o.end()
	before := source.DeepCopy()
	for i := range source.Status.Conditions {
		if c := &source.Status.Conditions[i]; c.Type == "Ready" || c.Type == "Served" {
			c.Status, c.Reason = no, "ReplicasCatchingUp"
		}
	}
	if err := w.admin.Status().Patch(t.Context(), source, client.MergeFrom(before)); err != nil {
		t.Fatal(err)
	}
	w.start()
	w.settled(source, server)
}
