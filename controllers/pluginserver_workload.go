package controllers

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/apply"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
)

// usedSteps is in how many parts of the budget a change of what a volume holds is reported.
const usedSteps = 20

// workload is what runs the serving pods of a server, of whatever kind.
type workload struct {
	object client.Object
	want   int32
	// scaledBy is who else says how many replicas there are; empty where nobody does.
	scaledBy string
	// observed is the generation that the counts are of.
	observed                            int64
	replicas, updated, ready, available int32
}

func ofDeployment(d *appsv1.Deployment) *workload {
	s := d.Status
	return &workload{d, ptr.Deref(d.Spec.Replicas, 1), apply.ScaledBy(d), s.ObservedGeneration, s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas}
}

func ofStatefulSet(d *appsv1.StatefulSet) *workload {
	s := d.Status
	return &workload{d, ptr.Deref(d.Spec.Replicas, 1), apply.ScaledBy(d), s.ObservedGeneration, s.Replicas, s.UpdatedReplicas, s.ReadyReplicas, s.AvailableReplicas}
}

// whole says whether all replicas are there, and all of them as they should be.
func (w *workload) whole() bool {
	return w.observed >= w.object.GetGeneration() && w.updated >= w.want && w.replicas <= w.updated && w.available >= w.want
}

// observeWorkloads finds the server's own workloads: the one that its storage
// asks for, and those that another storage had.
func (r *PluginServerReconciler) observeWorkloads(ctx context.Context, o *observedServer) error {
	key := client.ObjectKeyFromObject(o.server)
	var deployment, writer appsv1.Deployment
	var set appsv1.StatefulSet
	o.workload, o.obsolete = nil, nil
	kind := o.server.Spec.Storage.Type // of somebody's image always EmptyDir, see the CRD
	for _, found := range []struct {
		object client.Object
		name   string
		wanted bool
		serves func() *workload
	}{
		{&deployment, key.Name, kind != v1alpha1.StoragePerReplica, func() *workload { return ofDeployment(&deployment) }},
		{&set, key.Name, kind == v1alpha1.StoragePerReplica, func() *workload { return ofStatefulSet(&set) }},
		{&writer, desired.WriterName(key.Name), kind == v1alpha1.StorageShared, nil},
	} {
		err := r.Client.Get(ctx, client.ObjectKey{Namespace: key.Namespace, Name: found.name}, found.object)
		switch {
		case client.IgnoreNotFound(err) != nil:
			return err
		case err != nil || !metav1.IsControlledBy(found.object, o.server) || !found.object.GetDeletionTimestamp().IsZero():
		case !found.wanted:
			o.obsolete = append(o.obsolete, found.object)
		case found.serves != nil:
			o.workload = found.serves()
		}
	}
	return nil
}

// retire deletes the workloads of another storage, once those of this one
// serve as much: pods of both stand behind the Service until then.
func (r *PluginServerReconciler) retire(ctx context.Context, o *observedServer) {
	differs := func(p podState) bool { return len(p.state.Missing) != len(o.pods[0].state.Missing) }
	known := o.catalog != nil || runsImage(o.server)
	if !known || o.workload == nil || !o.workload.whole() || len(o.pods) == 0 || !o.consistent() || slices.ContainsFunc(o.pods, differs) {
		return
	}
	for _, object := range o.obsolete {
		uid, version := object.GetUID(), object.GetResourceVersion()
		err := r.Client.Delete(ctx, object, client.Preconditions{UID: &uid, ResourceVersion: &version}, client.PropagationPolicy(metav1.DeletePropagationBackground))
		if client.IgnoreNotFound(err) != nil {
			o.applyErrs = append(o.applyErrs, fmt.Errorf("delete %T %s, which the storage no longer needs: %w", object, object.GetName(), err))
			continue
		}
		ctrl.LoggerFrom(ctx).Info("deleted what another storage had", "object", fmt.Sprintf("%T %s", object, object.GetName()))
	}
}

// storageStatus says what the volumes hold, by what the pods say.
func storageStatus(o *observedServer) v1alpha1.StorageStatus {
	switch {
	case runsImage(o.server):
		return v1alpha1.StorageStatus{}
	case len(o.pods) == 0:
		return o.server.Status.Storage
	}
	status := v1alpha1.StorageStatus{Type: o.server.Spec.Storage.Type, Durability: durability(o.server.Spec.Storage)}
	fullest := slices.MaxFunc(o.pods, func(a, b podState) int { return int(a.state.Used - b.state.Used) })
	status.UsedBytes, status.BudgetBytes = fullest.state.Used, fullest.state.Budget
	// A volume breathes: what is superseded goes some time later. That alone is no news.
	before := o.server.Status.Storage
	same := before.Type == status.Type && before.BudgetBytes == status.BudgetBytes && before.UsedBytes > 0
	if difference := status.UsedBytes - before.UsedBytes; same && max(difference, -difference) < status.BudgetBytes/usedSteps {
		status.UsedBytes = before.UsedBytes
	}
	return status
}

func durability(storage v1alpha1.Storage) string {
	switch storage.Type {
	case v1alpha1.StorageShared, v1alpha1.StoragePerReplica:
		return "plugins survive the loss of all pods and a start of the whole cluster without operator and registry, as far as the claims do"
	case v1alpha1.StorageEmptyDir:
	}
	return "plugins survive restarts of containers and nodes; a pod that is replaced is filled by the operator, else by the other pods; when all pods are lost at once, the operator or the registries are needed"
}
