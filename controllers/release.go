package controllers

import (
	"context"
	"errors"

	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
)

// ReleaseAll lets go of everything outside, for good: whatever PluginServers
// claim, and their finalizers. It is for the end of the operator; the client must not read
// from a cache.
func ReleaseAll(ctx context.Context, c client.Client, settings Settings, namespaces []string) error {
	integrator := &integration.Integrator{Client: c, Live: c, Clock: clock.RealClock{}}
	errs := []error{
		releaseTarget(ctx, integrator, settings.Console, nil),
		releaseTarget(ctx, integrator, settings.Controller, nil),
	}
	for _, namespace := range namespaces {
		var servers v1alpha1.PluginServerList
		if err := c.List(ctx, &servers, client.InNamespace(namespace)); err != nil {
			errs = append(errs, err)
			continue
		}
		for i := range servers.Items {
			before := servers.Items[i].DeepCopy()
			if controllerutil.RemoveFinalizer(&servers.Items[i], desired.Finalizer) {
				errs = append(errs, client.IgnoreNotFound(c.Patch(ctx, &servers.Items[i], client.MergeFrom(before))))
			}
		}
	}
	return errors.Join(errs...)
}
