package controllers

import (
	"context"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/builder"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/event"
	"sigs.k8s.io/controller-runtime/pkg/handler"
	"sigs.k8s.io/controller-runtime/pkg/predicate"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"
	"sigs.k8s.io/controller-runtime/pkg/source"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
)

// retryWaiting is how soon something that is named but not there, and cannot
// be watched (a Secret), is looked for again.
const retryWaiting = 5 * time.Second

// defaultInterval is the CRD's default, for objects that came without one.
const defaultInterval = 10 * time.Minute

// Queue fetches plugins in the background; *pipeline.Queue is one.
type Queue interface {
	Want(owner string, interval time.Duration, items []pipeline.Item) []pipeline.Result
	Forget(owner string)
}

// The rights, in each namespace of servers.
//
// +kubebuilder:rbac:groups=plugins.higress.io,namespace=higress-system,roleName=plugin-server-operator-servers,resources=pluginsources,verbs=get;list;watch
// +kubebuilder:rbac:groups=plugins.higress.io,namespace=higress-system,roleName=plugin-server-operator-servers,resources=pluginsources/status,verbs=patch
// +kubebuilder:rbac:groups="",namespace=higress-system,roleName=plugin-server-operator-servers,resources=secrets,verbs=get
// +kubebuilder:rbac:groups=events.k8s.io,namespace=higress-system,roleName=plugin-server-operator-servers,resources=events,verbs=create;patch

// PluginSourceReconciler fetches what PluginSources declare, and reports it.
type PluginSourceReconciler struct {
	Client   client.Client
	Live     client.Reader // Secrets are read one by one, never listed, watched or cached
	Recorder events.EventRecorder
	Clock    clock.PassiveClock
	Queue    Queue
	// Rewrite applies the operator's own registry defaults to a request.
	Rewrite func(fetch.Request) fetch.Request
	Known   *Knowledge
	// Wake carries the names of sources for which something was fetched.
	Wake <-chan event.TypedGenericEvent[types.NamespacedName]
}

// SetupWithManager registers the reconciler.
func (r *PluginSourceReconciler) SetupWithManager(manager ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(manager).
		Named("pluginsource").
		For(&v1alpha1.PluginSource{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.PluginServer{}, handler.EnqueueRequestsFromMapFunc(r.sourcesOfNamespace)).
		WatchesRawSource(source.TypedChannel(r.Wake, handler.TypedEnqueueRequestsFromMapFunc(requestOf))).
		WithOptions(controllerOptions()).
		Complete(r)
}

// Reconcile wants the source's plugins, and reports how far they have come. The
// fetching itself happens in the queue.
func (r *PluginSourceReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var src v1alpha1.PluginSource
	if err := r.Client.Get(ctx, request.NamespacedName, &src); err != nil {
		r.Queue.Forget(request.String())
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !src.DeletionTimestamp.IsZero() {
		r.Queue.Forget(request.String())
		return reconcile.Result{}, nil
	}
	observed := observedSource{source: &src, plugins: declared.Plugins(&src)}
	var access fetch.Access
	access, observed.accessFailure = r.observeAccess(ctx, &src)
	if observed.accessFailure == nil {
		observed.results = r.want(&src, observed.plugins, access)
	}
	if err := r.observeServers(ctx, &observed); err != nil {
		return reconcile.Result{}, err
	}

	wait, err := r.writeStatus(ctx, &src, sourceStatus(observed))
	if err != nil || wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, err
	}
	if observed.accessFailure != nil {
		return reconcile.Result{RequeueAfter: retryWaiting}, nil
	}
	return reconcile.Result{}, nil
}

// want wants the plugins. Of a suspended source it wants only what was fetched
// before: the store may have lost it, and it stays served.
func (r *PluginSourceReconciler) want(src *v1alpha1.PluginSource, plugins []declared.Plugin, access fetch.Access) []pipeline.Result {
	owner := client.ObjectKeyFromObject(src).String()
	items := r.items(src, plugins, access)
	if !src.Spec.Suspend {
		return r.Queue.Want(owner, interval(src), items)
	}
	fetched := slices.DeleteFunc(slices.Clone(items), func(i pipeline.Item) bool { return i.Request.Digest == "" })
	known := map[catalog.Key]pipeline.Result{}
	for _, result := range r.Queue.Want(owner, interval(src), fetched) {
		known[result.Key] = result
	}
	results := make([]pipeline.Result, len(items))
	for i, item := range items {
		results[i] = known[item.Key]
	}
	return results
}

// items turns plugins into what the queue fetches. A digest that was found for
// the same url before pins the plugin: a tag that moves changes nothing by
// itself.
func (r *PluginSourceReconciler) items(src *v1alpha1.PluginSource, plugins []declared.Plugin, access fetch.Access) []pipeline.Item {
	recorded := declared.Statuses(src)
	items := make([]pipeline.Item, 0, len(plugins))
	for _, p := range plugins {
		item := pipeline.Item{Key: p.Key, Request: fetch.Request{URL: p.URL, SHA256: p.SHA256, Access: access}}
		known := recorded[p.Key]
		if known.URL == p.URL && known.Digest != "" && (p.SHA256 == "" || p.SHA256 == known.SHA256) {
			item.Request.Digest, item.Recorded = known.Digest, known.SHA256
		}
		if r.Rewrite != nil {
			item.Request = r.Rewrite(item.Request)
		}
		items = append(items, item)
	}
	return items
}

// writeStatus writes the status if it changed, and says how long to wait where
// the last write was too short a time ago.
func (r *PluginSourceReconciler) writeStatus(
	ctx context.Context, src *v1alpha1.PluginSource, status v1alpha1.PluginSourceStatus,
) (time.Duration, error) {
	if equality.Semantic.DeepEqual(src.Status, status) {
		return 0, nil
	}
	if wait := r.Known.waitToWrite(src.UID, r.Clock.Now()); wait > 0 {
		return wait, nil
	}
	changed := src.DeepCopy()
	changed.Status = status
	if err := r.Client.Status().Patch(ctx, changed, client.MergeFrom(src)); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	r.record(src, changed)
	return 0, nil
}

// record makes an event of every plugin that failed or came anew, and of a change of
// Ready.
func (r *PluginSourceReconciler) record(before, after *v1alpha1.PluginSource) {
	known := declared.Statuses(before)
	for _, p := range after.Status.Plugins {
		key := keyOf(p)
		old := known[key]
		switch {
		case p.State == v1alpha1.PluginFailed && p.Reason != old.Reason:
			r.Recorder.Eventf(after, nil, corev1.EventTypeWarning, p.Reason, "Fetch", "%s: %s", key, p.Message)
		case p.State == v1alpha1.PluginFetched && (p.SHA256 != old.SHA256 || old.State == v1alpha1.PluginFailed):
			r.Recorder.Eventf(after, nil, corev1.EventTypeNormal, "Fetched", "Fetch", "%s: fetched %s", key, p.Digest)
		}
	}
	recordReady(r.Recorder, after, before.Status.Conditions, after.Status.Conditions)
}

// sourcesOfNamespace wakes the sources of a server's namespace: what a server
// serves is part of their status.
func (r *PluginSourceReconciler) sourcesOfNamespace(ctx context.Context, server client.Object) []reconcile.Request {
	var list v1alpha1.PluginSourceList
	if err := r.Client.List(ctx, &list, client.InNamespace(server.GetNamespace())); err != nil {
		return nil
	}
	requests := make([]reconcile.Request, 0, len(list.Items))
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return requests
}

func interval(src *v1alpha1.PluginSource) time.Duration {
	if src.Spec.Interval == nil {
		return defaultInterval
	}
	return src.Spec.Interval.Duration
}
