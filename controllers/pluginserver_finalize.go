package controllers

import (
	"context"
	"errors"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
)

// finalizeWithin is how long a deletion is held up by something outside that
// cannot be released. Afterwards it is released as soon as that is possible, without the server.
const finalizeWithin = time.Minute

// finalize lets go of what the server holds outside. The objects of its own go
// with it by their owner references.
func (r *PluginServerReconciler) finalize(ctx context.Context, server *v1alpha1.PluginServer) (reconcile.Result, error) {
	if !controllerutil.ContainsFinalizer(server, desired.Finalizer) {
		return reconcile.Result{}, nil
	}
	err := release(ctx, r.Client, r.Integrator, r.Settings)
	overdue := r.Clock.Since(server.DeletionTimestamp.Time) > finalizeWithin
	if err != nil && !overdue {
		ctrl.LoggerFrom(ctx).Error(err, "release what is held outside; it is tried again")
		return reconcile.Result{RequeueAfter: retryWaiting}, nil
	}
	if err != nil {
		r.Recorder.Eventf(server, nil, corev1.EventTypeWarning, v1alpha1.ReasonForbidden, "Finalize",
			"not everything outside could be released, and the deletion goes on: %v", err)
	}
	return reconcile.Result{}, r.setFinalizer(ctx, server, false)
}

// release lets go of every target that no server claims. Where another server
// does, that one takes it over in one write.
func release(ctx context.Context, reader client.Reader, integrator *integration.Integrator, settings Settings) error {
	var servers v1alpha1.PluginServerList
	if err := reader.List(ctx, &servers); err != nil {
		return err
	}
	return errors.Join(
		releaseTarget(ctx, integrator, settings.Console, claimant(servers.Items, settings, consoleMode)),
		releaseTarget(ctx, integrator, settings.Controller, claimant(servers.Items, settings, controllerMode)),
	)
}

func releaseTarget(ctx context.Context, integrator *integration.Integrator, target integration.Target, claimedBy *v1alpha1.PluginServer) error {
	if claimedBy != nil {
		return nil
	}
	outcome, err := integrator.Reconcile(ctx, target, integration.Claim{})
	if err == nil && outcome.Reason == v1alpha1.ReasonForbidden {
		return errors.New(outcome.Message)
	}
	return err
}

// targetRequest is the one request of the release controller: it always looks
// at all targets.
var targetRequest = reconcile.Request{NamespacedName: types.NamespacedName{Name: "targets"}}
