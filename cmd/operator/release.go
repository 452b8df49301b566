package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	autoscalingv1 "k8s.io/api/autoscaling/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/controllers"
)

// stopWithin is how long the running operator may take to end.
const stopWithin = 2 * time.Minute

// The release's rights: to stop the operator and to see that it has stopped.
//
// +kubebuilder:rbac:groups=apps,namespace=higress-system,roleName=plugin-server-operator-leader,resources=deployments,resourceNames=plugin-server-operator,verbs=get
// +kubebuilder:rbac:groups=apps,namespace=higress-system,roleName=plugin-server-operator-leader,resources=deployments/scale,resourceNames=plugin-server-operator,verbs=get;patch
// +kubebuilder:rbac:groups="",namespace=higress-system,roleName=plugin-server-operator-leader,resources=pods,verbs=list
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=higress-system,roleName=plugin-server-operator-leader,resources=leases,resourceNames=plugin-server-operator,verbs=delete

// release lets go of everything that the operator holds outside: it stops the
// operator, which would take hold again, releases the variables of the Console and the
// controller, takes the finalizers off, which nobody would any more, and removes
// the lease. PluginServers that stay serve on.
func release(ctx context.Context, o options) error {
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	c, err := client.New(config, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		return err
	}
	if o.operatorDeployment != "" {
		if err := stop(ctx, c, client.ObjectKey{Namespace: o.settings.Namespace, Name: o.operatorDeployment}); err != nil {
			return fmt.Errorf("stop the operator: %w", err)
		}
	}
	lease := &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: o.settings.Namespace, Name: o.leaseName}}
	return errors.Join(
		controllers.ReleaseAll(ctx, c, o.settings, o.watchNamespaces),
		client.IgnoreNotFound(c.Delete(ctx, lease)),
	)
}

// stop scales a Deployment to zero and waits until its pods are gone.
func stop(ctx context.Context, c client.Client, key client.ObjectKey) error {
	var deployment appsv1.Deployment
	if err := c.Get(ctx, key, &deployment); err != nil {
		return client.IgnoreNotFound(err)
	}
	selector, err := metav1.LabelSelectorAsSelector(deployment.Spec.Selector)
	if err != nil {
		return err
	}
	zero := &autoscalingv1.Scale{}
	patch := client.RawPatch(client.Merge.Type(), []byte(`{"spec":{"replicas":0}}`))
	if err := c.SubResource("scale").Patch(ctx, &deployment, patch, client.WithSubResourceBody(zero)); err != nil {
		return client.IgnoreNotFound(err)
	}
	slog.Info("waiting for the operator to end", "deployment", key)
	return wait.PollUntilContextTimeout(ctx, time.Second, stopWithin, true, func(ctx context.Context) (bool, error) {
		var pods corev1.PodList
		err := c.List(ctx, &pods, client.InNamespace(key.Namespace), client.MatchingLabelsSelector{Selector: selector})
		return err == nil && len(pods.Items) == 0, err
	})
}
