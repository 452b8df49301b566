//go:build envtest

package controllers_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// await waits until an object is there.
func await[T any, P interface {
	*T
	client.Object
}](w *world, name string) P {
	w.t.Helper()
	object := P(new(T))
	w.eventually(fmt.Sprintf("there is %T %s", object, name), func(ctx context.Context) error {
		return w.admin.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: name}, object)
	})
	return object
}

// gone waits until an object is no longer there.
func gone[T any, P interface {
	*T
	client.Object
}](w *world, name string) {
	w.t.Helper()
	object := P(new(T))
	w.eventually(fmt.Sprintf("%T %s is gone", object, name), func(ctx context.Context) error {
		err := w.admin.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: name}, object)
		if err == nil {
			return fmt.Errorf("it is there")
		}
		return client.IgnoreNotFound(err)
	})
}

// there fails if an object is not there.
func there[T any, P interface {
	*T
	client.Object
}](w *world, name string) {
	w.t.Helper()
	get[T, P](w, name)
}

// rollOutSet is rollOut for a StatefulSet.
func (r *replicas) rollOutSet(server client.Object) {
	r.w.t.Helper()
	set := await[appsv1.StatefulSet](r.w, server.GetName())
	n, template := *set.Spec.Replicas, set.Spec.Template.DeepCopy()
	template.Spec.Volumes = append(template.Spec.Volumes, corev1.Volume{Name: set.Spec.VolumeClaimTemplates[0].Name}) // its claim's
	r.startPods(server, "set", n, *template)
	before := set.DeepCopy()
	set.Status = appsv1.StatefulSetStatus{ObservedGeneration: set.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n}
	if err := r.w.admin.Status().Patch(r.w.t.Context(), set, client.MergeFrom(before)); err != nil {
		r.w.t.Fatal(err)
	}
}

// TestStorage: each type of storage is there before the one before it goes,
// and nothing is written once it is.
func TestStorage(t *testing.T) {
	w := newWorld(t, 0)
	one := w.push("one", "1", module("one"))
	source, server := w.source("s", one.as("one", "1")), w.server(name)
	w.create(source)
	w.create(server)
	o := w.start()
	w.replicas.rollOut(server)
	w.settled(source, server)

	edit(w, server, func(s *v1alpha1.PluginServer) {
		s.Spec.Storage = v1alpha1.Storage{Type: v1alpha1.StoragePerReplica, ClaimPolicy: v1alpha1.ClaimDelete}
	})
	set := await[appsv1.StatefulSet](w, name)
	if p := set.Spec.PersistentVolumeClaimRetentionPolicy; p.WhenDeleted != appsv1.DeletePersistentVolumeClaimRetentionPolicyType || p.WhenScaled != p.WhenDeleted {
		t.Errorf("the claims' fate is %+v", p)
	}
	time.Sleep(2 * time.Second)
	there[appsv1.Deployment](w, name) // nothing of the new storage is there yet
	w.replicas.rollOutSet(server)
	gone[appsv1.Deployment](w, name)
	w.settled(source, server)
	w.quiet(o, 3*time.Second, func() { o.wakes.Server(w.namespace + "/" + name) })

	edit(w, server, func(s *v1alpha1.PluginServer) {
		s.Spec.Storage.Type, s.Spec.Storage.ClaimPolicy = v1alpha1.StorageShared, v1alpha1.ClaimRetain
	})
	claim := await[corev1.PersistentVolumeClaim](w, name+"-plugins")
	if !slices.Equal(claim.Spec.AccessModes, []corev1.PersistentVolumeAccessMode{corev1.ReadWriteMany}) || len(claim.OwnerReferences) > 0 {
		t.Errorf("the shared claim is %+v of %v", claim.Spec, claim.OwnerReferences)
	}
	writer := await[appsv1.Deployment](w, name+"-writer")
	if writer.Spec.Template.Labels["app"] == name || *writer.Spec.Replicas != 1 {
		t.Errorf("the writer is behind the Service, or more than one: %+v", writer.Spec)
	}
	there[appsv1.StatefulSet](w, name)
	shared := await[appsv1.Deployment](w, name)
	for _, v := range shared.Spec.Template.Spec.Containers[0].VolumeMounts {
		if !v.ReadOnly {
			t.Errorf("a server may write: %+v", v)
		}
	}
	w.replicas.available(shared)
	gone[appsv1.StatefulSet](w, name)
	w.settled(source, server)
	w.quiet(o, 3*time.Second, func() { o.wakes.Server(w.namespace + "/" + name) })

	// An existing claim, and then none: the writer goes, the claims stay.
	edit(w, server, func(s *v1alpha1.PluginServer) { s.Spec.Storage.ExistingClaim = "plugins" })
	w.eventually("the existing claim is used", func(ctx context.Context) error {
		if err := w.admin.Get(ctx, client.ObjectKeyFromObject(shared), shared); err != nil {
			return err
		}
		return wrong(shared.Spec.Template.Spec.Volumes[0].PersistentVolumeClaim.ClaimName != "plugins")
	})
	edit(w, server, func(s *v1alpha1.PluginServer) { s.Spec.Storage = v1alpha1.Storage{Type: v1alpha1.StorageEmptyDir} })
	w.eventually("the volume is an emptyDir again", func(ctx context.Context) error {
		if err := w.admin.Get(ctx, client.ObjectKeyFromObject(shared), shared); err != nil {
			return err
		}
		return wrong(shared.Spec.Template.Spec.Volumes[0].EmptyDir == nil)
	})
	w.replicas.available(shared)
	gone[appsv1.Deployment](w, name+"-writer")
	there[corev1.PersistentVolumeClaim](w, name+"-plugins")
	w.settled(source, server)
}

// TestKeptClaim: a claim that was kept is taken again by a server of the same
// name, and somebody else's is not touched.
func TestKeptClaim(t *testing.T) {
	w := newWorld(t, 0)
	server := w.server(name)
	server.Spec.Storage = v1alpha1.Storage{Type: v1alpha1.StorageShared}
	foreign := w.server("second")
	foreign.Spec.Storage = server.Spec.Storage
	theirs := &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "second-plugins"},
		Spec:       await[corev1.PersistentVolumeClaim](w.with(server), name+"-plugins").Spec,
	}
	w.create(theirs)
	w.create(foreign)
	w.awaitCondition(foreign, "Ready", no, "NotOwned", "PersistentVolumeClaim", "second-plugins")

	before := get[corev1.PersistentVolumeClaim](w, name+"-plugins").UID
	w.delete(server)
	w.eventually("the server is gone", func(ctx context.Context) error {
		return wrong(!apierrors.IsNotFound(w.admin.Get(ctx, client.ObjectKeyFromObject(server), &v1alpha1.PluginServer{})))
	})
	w.delete(get[corev1.ConfigMap](w, name+"-catalog")) // as the garbage collector does
	again := w.server(name)
	again.Spec.Storage = v1alpha1.Storage{Type: v1alpha1.StorageShared, ClaimPolicy: v1alpha1.ClaimDelete}
	w.create(again)
	w.eventually("the claim goes with the new server", func(ctx context.Context) error {
		claim := &corev1.PersistentVolumeClaim{}
		if err := w.admin.Get(ctx, types.NamespacedName{Namespace: w.namespace, Name: name + "-plugins"}, claim); err != nil {
			return err
		}
		return wrong(claim.UID != before || !metav1.IsControlledBy(claim, again))
	})
}

// with creates a server and starts the operator.
func (w *world) with(server *v1alpha1.PluginServer) *world {
	w.t.Helper()
	w.create(server)
	w.start()
	return w
}

// TestScaledElsewhere: who scales the Deployment owns the number of replicas.
func TestScaledElsewhere(t *testing.T) {
	w := newWorld(t, 0)
	server := w.server(name)
	w.create(server)
	o := w.start()
	w.replicas.rollOut(server)
	w.settled(nil, server)
	deployment := get[appsv1.Deployment](w, name)
	scale := &autoscalingv1.Scale{Spec: autoscalingv1.ScaleSpec{Replicas: 3}}
	if err := w.admin.SubResource("scale").Update(t.Context(), deployment, client.WithSubResourceBody(scale), client.FieldOwner("autoscaler")); err != nil {
		t.Fatal(err)
	}
	deployment = get[appsv1.Deployment](w, name)
	w.replicas.available(deployment)
	w.awaitCondition(server, "Available", yes, "Succeeded", "3 of 3", "autoscaler")
	w.quiet(o, 3*time.Second, func() { o.wakes.Server(w.namespace + "/" + name) })
	if n := *get[appsv1.Deployment](w, name).Spec.Replicas; n != 3 {
		t.Errorf("%d replicas, and somebody asked for 3", n)
	}
}
