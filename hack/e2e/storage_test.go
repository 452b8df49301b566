//go:build node

package e2e

import (
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// volumeClass is the storage class of the volumes that a test makes by hand.
const volumeClass = "by-hand"

// makeVolume makes a volume that is a folder of the node.
func makeVolume(t *testing.T, name string, mode corev1.PersistentVolumeAccessMode) {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o777); err != nil { // the pods have a user of their own
		t.Fatal(err)
	}
	makeVolumeAt(t, name, mode, dir)
}

func makeVolumeAt(t *testing.T, name string, mode corev1.PersistentVolumeAccessMode, dir string) {
	t.Helper()
	create(t, &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:                      corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")},
			AccessModes:                   []corev1.PersistentVolumeAccessMode{mode},
			StorageClassName:              volumeClass,
			PersistentVolumeReclaimPolicy: corev1.PersistentVolumeReclaimRetain,
			PersistentVolumeSource:        corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: dir}},
		},
	})
}

// claimed is a storage whose claims are for such volumes.
func claimed(kind v1alpha1.StorageType) v1alpha1.Storage {
	return v1alpha1.Storage{
		Type: kind, StorageClassName: ptr.To(volumeClass), ClaimPolicy: v1alpha1.ClaimDelete, SizeLimit: ptr.To(resource.MustParse("1Gi")),
	}
}

// TestStorage goes through the types of storage under load, and takes the pods
// away while the operator, who alone talks to the registry, is away too.
func TestStorage(t *testing.T) {
	makeVolume(t, "storage-0", corev1.ReadWriteOnce)
	makeVolume(t, "storage-1", corev1.ReadWriteOnce)
	makeVolume(t, "storage-shared", corev1.ReadWriteMany)
	p := push(t, "my-auth", "1.0.0", "raw")
	src, srv := source("storage", p), quiet("storage", v1alpha1.Storage{})
	create(t, src)
	create(t, srv)
	expect(t, time.Minute, srv, v1alpha1.ConditionReplicasConsistent, metav1.ConditionTrue)
	expect(t, time.Minute, srv, v1alpha1.ConditionReady, metav1.ConditionTrue)
	stop := load(t, url(srv.Name, p), p.sha256, 4, "-retry")

	// A pod that starts while the operator is away is filled by the other one.
	withoutOperator(t, func() {
		for name := range pods(t, srv.Name) {
			deletePod(t, name)
			break
		}
		awaitReplicas(t, srv.Name, p, 2)
	})
	for _, change := range []struct {
		kind     v1alpha1.StorageType
		obsolete client.Object
	}{
		{v1alpha1.StoragePerReplica, &appsv1.Deployment{}},
		{v1alpha1.StorageShared, &appsv1.StatefulSet{}},
	} {
		edit(t, srv, func(s *v1alpha1.PluginServer) {
			s.Spec.Storage = claimed(change.kind)
		})
		change.obsolete.SetNamespace(namespace)
		change.obsolete.SetName(srv.Name)
		eventually(t, 2*time.Minute, "the workload of the storage before "+string(change.kind)+" is gone", func() error {
			err := env.client.Get(t.Context(), client.ObjectKeyFromObject(change.obsolete), change.obsolete)
			if err == nil {
				return errors.New("it is there")
			}
			return client.IgnoreNotFound(err)
		})
		awaitReplicas(t, srv.Name, p, 2)
		expect(t, time.Minute, srv, v1alpha1.ConditionReady, metav1.ConditionTrue)
	}
	s := stop()
	t.Logf("%d downloads while the storage changed, the slowest took %.2f s", s.Requests, s.Slowest)
	if len(s.Failures) > 0 || s.Requests < 200 {
		t.Errorf("%d downloads, failures: %v, between %.1f and %.1f s after the start", s.Requests, s.Failures, s.FailedAt[0], s.FailedAt[1])
	}

	// All pods are lost at once, and neither operator nor registry is there.
	withoutOperator(t, func() {
		for name := range pods(t, srv.Name) {
			deletePod(t, name)
		}
		awaitReplicas(t, srv.Name, p, 2)
	})
	next := push(t, "my-log", "0.2.0", "raw")
	edit(t, src, func(s *v1alpha1.PluginSource) {
		s.Spec.Plugins = append(s.Spec.Plugins, v1alpha1.Plugin{Name: next.name, Version: next.version, URL: next.url})
	})
	eventually(t, 30*time.Second, "a plugin after all that", func() error { return onEveryReplica(t, srv.Name, next) })
	givenBack(t, src, p)
	if err := env.client.Get(t.Context(), client.ObjectKeyFromObject(srv), srv); err != nil {
		t.Fatal(err)
	}
	if s := srv.Status.Storage; s.Type != v1alpha1.StorageShared || s.UsedBytes < p.size || s.BudgetBytes <= s.UsedBytes || s.Durability == "" {
		t.Errorf("the status says of the storage %+v", s)
	}
}

// givenBack takes the operator's store and its login away: what a further
// server needs comes from the pods of the first one.
func givenBack(t *testing.T, src *v1alpha1.PluginSource, p plugin) {
	t.Helper()
	wrong := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "storage-wrong"}, Type: corev1.SecretTypeDockerConfigJson}
	wrong.StringData = map[string]string{corev1.DockerConfigJsonKey: fmt.Sprintf(`{"auths":{%q:{"username":"plugins","password":"wrong"}}}`, registry())}
	create(t, wrong)
	edit(t, src, func(s *v1alpha1.PluginSource) { s.Spec.SecretRef.Name = wrong.Name })
	withoutOperator(t, func() {})
	second := quiet("storage-second", v1alpha1.Storage{})
	create(t, second)
	awaitReplicas(t, second.Name, p, 2)
}

// withoutOperator does something while there is no operator.
func withoutOperator(t *testing.T, do func()) {
	t.Helper()
	scaleOperator(t, 0)
	defer scaleOperator(t, 1)
	do()
}

// deletePod kills a pod, without giving it time.
func deletePod(t *testing.T, name string) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := env.client.Delete(t.Context(), pod); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
}

// awaitReplicas waits until so many pods, and no others, serve a plugin.
func awaitReplicas(t *testing.T, server string, p plugin, n int) {
	t.Helper()
	eventually(t, 2*time.Minute, fmt.Sprintf("%d replicas serve %s", n, p.name), func() error {
		if now := pods(t, server); len(now) != n {
			return fmt.Errorf("%d pods are ready", len(now))
		}
		// A moment after a pod is ready the Service sends requests to it.
		if now := endpoints(t, server); now != n {
			return fmt.Errorf("its Service has %d endpoints", now)
		}
		return onEveryReplica(t, server, p)
	})
}
