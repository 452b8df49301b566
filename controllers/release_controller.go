package controllers

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
)

// ReleaseReconciler lets go of what carries our field manager and no server
// claims: at the start, when a server is gone, when a target changes.
type ReleaseReconciler struct {
	Client     client.Client
	Integrator *integration.Integrator
	Settings   Settings
}

// SetupWithManager registers the reconciler.
func (r *ReleaseReconciler) SetupWithManager(manager ctrl.Manager) error {
	all := handler.EnqueueRequestsFromMapFunc(func(context.Context, client.Object) []reconcile.Request {
		return []reconcile.Request{targetRequest}
	})
	changed := builder.WithPredicates(predicate.GenerationChangedPredicate{})
	targets := builder.WithPredicates(predicate.GenerationChangedPredicate{}, predicate.NewPredicateFuncs(func(o client.Object) bool {
		key := client.ObjectKeyFromObject(o)
		return key == r.Settings.Console.Deployment || key == r.Settings.Controller.Deployment
	}))
	return ctrl.NewControllerManagedBy(manager).
		Named("release").
		Watches(&v1alpha1.PluginServer{}, all, changed).
		Watches(&appsv1.Deployment{}, all, targets).
		WithOptions(controllerOptions()).
		Complete(r)
}

// Reconcile releases what nobody claims.
func (r *ReleaseReconciler) Reconcile(ctx context.Context, _ reconcile.Request) (reconcile.Result, error) {
	return reconcile.Result{}, release(ctx, r.Client, r.Integrator, r.Settings)
}
