// Package apply is the only writer of the objects that belong to a
// PluginServer. It writes by server-side apply, only what differs, and never an
// object that is not controlled by that server.
package apply

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"reflect"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	networkingv1ac "k8s.io/client-go/applyconfigurations/networking/v1"
	policyv1ac "k8s.io/client-go/applyconfigurations/policy/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/controllers/desired"
)

// NotOwnedError says that an object of the needed name belongs to somebody else.
type NotOwnedError struct {
	Kind, Namespace, Name string
	// Owner is who controls it; empty where nobody does.
	Owner string
}

func (e *NotOwnedError) Error() string {
	owner := "was not made by this PluginServer"
	if e.Owner != "" {
		owner = "belongs to " + e.Owner
	}
	return fmt.Sprintf("%s %s/%s %s and is left alone: delete or rename it, or give the PluginServer another name", e.Kind, e.Namespace, e.Name, owner)
}

// Applier writes the objects of servers.
type Applier struct {
	// Client reads from the cache, Live from the API server: the cache only knows
	// objects that carry our label, so what it lacks may still be there.
	Client client.Client
	Live   client.Reader
}

// Apply brings one object to its desired state and says whether it had to write.
func (a *Applier) Apply(ctx context.Context, owner client.Object, config runtime.ApplyConfiguration) (bool, error) {
	current, extract, err := typeOf(config)
	if err != nil {
		return false, err
	}
	named := config.(interface {
		GetName() *string
		GetNamespace() *string
	})
	key := client.ObjectKey{Namespace: *named.GetNamespace(), Name: *named.GetName()}
	err = a.Client.Get(ctx, key, current)
	if apierrors.IsNotFound(err) {
		err = a.Live.Get(ctx, key, current)
	}
	switch {
	case apierrors.IsNotFound(err): // made below
	case err != nil:
		return false, err
	case !metav1.IsControlledBy(current, owner) && !isClaimOf(current, owner):
		return false, notOwned(a.Client, current)
	default:
		leaveReplicas(config, current)
		owned, err := extract()
		if err != nil {
			return false, fmt.Errorf("read the managed fields of %T %s: %w", current, key, err)
		}
		same, err := equal(owned, config)
		if same || err != nil {
			return false, err
		}
	}
	// Forced: the object is ours, so what others changed in it is drift.
	if err := a.Client.Apply(ctx, config, client.FieldOwner(desired.FieldManager), client.ForceOwnership); err != nil {
		return false, fmt.Errorf("apply %T %s: %w", current, key, err)
	}
	return true, nil
}

// ScaledBy gives the field manager that says how many replicas there are, where
// that is not us: an autoscaler, or a person.
func ScaledBy(object client.Object) string {
	for _, entry := range object.GetManagedFields() {
		ofSpec := entry.Subresource == "" || entry.Subresource == "scale"
		if entry.Manager != desired.FieldManager && ofSpec && entry.FieldsV1 != nil && bytes.Contains(entry.FieldsV1.GetRawBytes(), []byte(`"f:replicas":{}`)) {
			return entry.Manager
		}
	}
	return ""
}

// leaveReplicas takes the number of replicas out of a configuration where
// somebody else says it.
func leaveReplicas(config runtime.ApplyConfiguration, current client.Object) {
	if ScaledBy(current) == "" {
		return
	}
	switch c := config.(type) {
	case *appsv1ac.DeploymentApplyConfiguration:
		c.Spec.Replicas = nil
	case *appsv1ac.StatefulSetApplyConfiguration:
		c.Spec.Replicas = nil
	}
}

// isClaimOf says whether an object is a claim that was kept for a server of this name.
func isClaimOf(object, owner client.Object) bool {
	_, claim := object.(*corev1.PersistentVolumeClaim)
	labels := object.GetLabels()
	for key, value := range desired.Members(owner.GetName()) {
		claim = claim && labels[key] == value
	}
	return claim && metav1.GetControllerOf(object) == nil
}

func notOwned(c client.Client, object client.Object) error {
	e := &NotOwnedError{Namespace: object.GetNamespace(), Name: object.GetName()}
	if gvk, err := c.GroupVersionKindFor(object); err == nil {
		e.Kind = gvk.Kind
	}
	if controller := metav1.GetControllerOf(object); controller != nil {
		e.Owner = controller.Kind + " " + controller.Name
	}
	return e
}

// typeOf gives an empty object of the configuration's type, and a function that
// extracts from it what our field manager owns.
func typeOf(config runtime.ApplyConfiguration) (client.Object, func() (any, error), error) {
	switch config.(type) {
	case *appsv1ac.DeploymentApplyConfiguration:
		o := &appsv1.Deployment{}
		return o, func() (any, error) { return appsv1ac.ExtractDeployment(o, desired.FieldManager) }, nil
	case *appsv1ac.StatefulSetApplyConfiguration:
		o := &appsv1.StatefulSet{}
		return o, func() (any, error) { return appsv1ac.ExtractStatefulSet(o, desired.FieldManager) }, nil
	case *corev1ac.PersistentVolumeClaimApplyConfiguration:
		o := &corev1.PersistentVolumeClaim{}
		return o, func() (any, error) { return corev1ac.ExtractPersistentVolumeClaim(o, desired.FieldManager) }, nil
	case *corev1ac.ConfigMapApplyConfiguration:
		o := &corev1.ConfigMap{}
		return o, func() (any, error) { return corev1ac.ExtractConfigMap(o, desired.FieldManager) }, nil
	case *corev1ac.ServiceApplyConfiguration:
		o := &corev1.Service{}
		return o, func() (any, error) { return corev1ac.ExtractService(o, desired.FieldManager) }, nil
	case *corev1ac.ServiceAccountApplyConfiguration:
		o := &corev1.ServiceAccount{}
		return o, func() (any, error) { return corev1ac.ExtractServiceAccount(o, desired.FieldManager) }, nil
	case *policyv1ac.PodDisruptionBudgetApplyConfiguration:
		o := &policyv1.PodDisruptionBudget{}
		return o, func() (any, error) { return policyv1ac.ExtractPodDisruptionBudget(o, desired.FieldManager) }, nil
	case *networkingv1ac.NetworkPolicyApplyConfiguration:
		o := &networkingv1.NetworkPolicy{}
		return o, func() (any, error) { return networkingv1ac.ExtractNetworkPolicy(o, desired.FieldManager) }, nil
	}
	return nil, nil, fmt.Errorf("apply does not know %T", config)
}

// equal compares two apply configurations by what they say in JSON.
func equal(a, b any) (bool, error) {
	var decoded [2]any
	for i, v := range []any{a, b} {
		encoded, err := json.Marshal(v)
		if err != nil {
			return false, err
		}
		if err := json.Unmarshal(encoded, &decoded[i]); err != nil {
			return false, err
		}
	}
	return reflect.DeepEqual(decoded[0], decoded[1]), nil
}
