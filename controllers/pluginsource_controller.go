package controllers

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"
	"k8s.io/client-go/util/workqueue"
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
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

// retryWaiting is how soon something that is named but not there, and cannot
// be watched (a Secret), is looked for again.
const retryWaiting = 5 * time.Second

// gatherFor is how long a fetch that ended waits for others.
const gatherFor = 50 * time.Millisecond

// takeMoved is how soon a tag that was seen to move is taken over, where the
// source wants that: once the status that says so can be read.
const takeMoved = 100 * time.Millisecond

// defaultInterval is the CRD's default, for objects that came without one.
const defaultInterval = 10 * time.Minute

// maxRequestedAt is the length of an annotation that the status takes.
const maxRequestedAt = 256

// Queue fetches plugins in the background; *pipeline.Queue is one.
type Queue interface {
	Want(owner string, interval time.Duration, items []pipeline.Item) []pipeline.Result
	Refresh(owner string)
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

	lists sync.Map // parsedList by place
}

// SetupWithManager registers the reconciler.
func (r *PluginSourceReconciler) SetupWithManager(manager ctrl.Manager) error {
	return ctrl.NewControllerManagedBy(manager).
		Named("pluginsource").
		For(&v1alpha1.PluginSource{}, builder.WithPredicates(
			predicate.Or(predicate.GenerationChangedPredicate{}, predicate.AnnotationChangedPredicate{}))).
		// What its pods serve comes by Wake, to the sources that it is about.
		Watches(&v1alpha1.PluginServer{}, handler.EnqueueRequestsFromMapFunc(r.sourcesOfNamespace),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&v1alpha1.PluginSource{}, handler.EnqueueRequestsFromMapFunc(r.rivals)).
		WatchesRawSource(source.TypedChannel(r.Wake, handler.TypedFuncs[types.NamespacedName, reconcile.Request]{GenericFunc: gather})).
		WithOptions(controllerOptions()).
		Complete(r)
}

// gather lets fetches that end shortly after one another wake the reconciler
// once: of a thousand plugins most arrive within seconds.
func gather(_ context.Context, e event.TypedGenericEvent[types.NamespacedName], queue workqueue.TypedRateLimitingInterface[reconcile.Request]) {
	queue.AddAfter(reconcile.Request{NamespacedName: e.Object}, gatherFor)
}

// Reconcile wants the source's plugins, and reports how far they have come. The
// fetching itself happens in the queue.
func (r *PluginSourceReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var src v1alpha1.PluginSource
	if err := r.Client.Get(ctx, request.NamespacedName, &src); err != nil {
		r.forget(request.String())
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !src.DeletionTimestamp.IsZero() {
		r.forget(request.String())
		return reconcile.Result{}, nil
	}
	observed := observedSource{source: &src}
	var lists declared.Lists
	lists, observed.listFailures = r.observeLists(ctx, &src)
	var access fetch.Access
	access, observed.accessFailure = r.observeAccess(ctx, &src)
	if observed.accessFailure == nil {
		r.observePublished(&observed, access, &lists)
	}
	plugins, left := declared.Expand(&src, lists)
	observed.plugins, observed.left = r.targets(plugins, access, src.Spec.Gateway), left
	if observed.accessFailure == nil {
		observed.results = r.want(&observed)
	}
	if err := r.observeServers(ctx, &observed); err != nil {
		return reconcile.Result{}, err
	}

	status := sourceStatus(observed)
	wait, err := r.writeStatus(ctx, &src, status)
	if err != nil || wait > 0 {
		return reconcile.Result{RequeueAfter: wait}, err
	}
	r.recordImages(&observed)
	return reconcile.Result{RequeueAfter: observed.lookAgain(status)}, nil
}

// forget lets go of everything that a source wanted.
func (r *PluginSourceReconciler) forget(owner string) {
	r.Queue.Forget(owner)
	r.Queue.Forget(owner + publishedSuffix)
}

// lookAgain says when to read again what is not watched.
func (o *observedSource) lookAgain(status v1alpha1.PluginSourceStatus) time.Duration {
	waiting := func(f listFailure) bool {
		return !f.queued && (f.Class == failure.Waiting || f.Class == failure.Transient)
	}
	inConfigMap := func(l v1alpha1.PluginList) bool { return l.ConfigMapKeyRef != nil }
	known := declared.Statuses(o.source)
	auto := o.source.Spec.UpdatePolicy == v1alpha1.UpdateAuto
	renewed := func(p v1alpha1.PluginStatus) bool {
		return (auto || p.Digest == "") && p.MovedTo != "" && p.MovedTo != known[keyOf(p)].MovedTo
	}
	switch {
	case slices.ContainsFunc(status.Plugins, renewed):
		return takeMoved
	case o.accessFailure != nil, slices.ContainsFunc(o.listFailures, waiting):
		return retryWaiting
	case slices.ContainsFunc(o.source.Spec.PluginsFrom, inConfigMap), o.source.Spec.Official != nil && o.source.Spec.Official.TableRef != nil:
		return readLists
	}
	return 0
}

// want wants the plugins, and gives what is known of each.
func (r *PluginSourceReconciler) want(o *observedSource) []pipeline.Result {
	owner := ownerOf(o.source)
	recorded := declared.Statuses(o.source)
	var items []pipeline.Item
	for _, t := range o.plugins {
		if !t.InImage {
			items = append(items, t.items(o.source, recorded[t.Key])...)
		}
	}
	known := make(map[catalog.Key]pipeline.Result, len(items))
	for _, result := range r.Queue.Want(owner, interval(o.source), items) {
		known[result.Key] = result
	}
	results := make([]pipeline.Result, len(o.plugins))
	for i, t := range o.plugins {
		results[i] = known[t.Key]
		if t.InImage {
			results[i] = o.ofImage(t)
		}
	}
	if !o.source.Spec.Suspend && requestedAt(o.source) != o.source.Status.RequestedAt {
		r.Queue.Refresh(owner)
		r.Queue.Refresh(owner + publishedSuffix)
		o.refreshed = true
	}
	return results
}

// requestedAt is what the annotation asks for.
func requestedAt(src *v1alpha1.PluginSource) string {
	value := src.Annotations[v1alpha1.RequestedAtAnnotation]
	return strings.ToValidUTF8(value[:min(len(value), maxRequestedAt)], "")
}

// target is a plugin with what is asked for to have it.
type target struct {
	declared.Plugin
	request fetch.Request
	// mirror is the place that is asked instead of the url, if one is.
	mirror string
	// gateway says which gateways will load the plugin.
	gateway *v1alpha1.Gateway
	// published is the digest that a list gives for another place than the one that is asked.
	published string
}

// targets says what is asked for. The digest of a list holds where the list
// says; a copy may have another one.
func (r *PluginSourceReconciler) targets(plugins []declared.Plugin, access fetch.Access, gateway *v1alpha1.Gateway) []target {
	targets := make([]target, 0, len(plugins))
	for _, p := range plugins {
		t := target{Plugin: p, gateway: gateway, published: p.Published}
		t.request = fetch.Request{URL: p.URL, Alternatives: p.Alternatives, SHA256: p.SHA256, Access: access}
		if r.Rewrite != nil {
			t.request = r.Rewrite(t.request)
		}
		switch {
		case t.request.URL != p.URL:
			t.mirror, t.published = t.request.URL, cmp.Or(p.Digest, p.Published)
		case p.Digest != "":
			t.request.URL += "@" + p.Digest
		}
		targets = append(targets, t)
	}
	return targets
}

// items is what the queue fetches for a plugin. A digest that was found for the
// same url before pins it: a tag that moves changes nothing by itself. Of a
// suspended source, and of a list that cannot be read, only what was fetched
// before is wanted.
func (t target) items(src *v1alpha1.PluginSource, known v1alpha1.PluginStatus) []pipeline.Item {
	if src.Spec.Suspend || t.Recorded {
		if !t.keeps(known) {
			return nil
		}
		return []pipeline.Item{t.served(t.Key, known)}
	}
	item := pipeline.Item{Key: t.Key, Request: t.request, Follow: !t.fixed()}
	if !t.keeps(known) {
		if known.Digest == "" && item.Follow {
			item.Renew = known.MovedTo // nothing of it was good so far
		}
		return []pipeline.Item{item}
	}
	auto := src.Spec.UpdatePolicy == v1alpha1.UpdateAuto && item.Follow
	switch {
	case t.Digest != "" && t.mirror == "" && t.Digest != known.Digest: // the list names another one now
	case auto && (known.MovedTo != "" || known.Mirror != t.mirror):
		item.Renew = known.MovedTo
	case known.Mirror != t.mirror:
		item.Request.SHA256 = known.SHA256 // the same module from another place
	default:
		item.Request.Digest, item.Recorded = known.Digest, recordedModule(known)
		return []pipeline.Item{item}
	}
	beside := t.Key
	beside.Version += servedVersion
	return []pipeline.Item{item, t.served(beside, known)}
}

// served asks for what is served, whatever else is fetched to replace it: the
// store may lose it.
func (t target) served(key catalog.Key, known v1alpha1.PluginStatus) pipeline.Item {
	item := pipeline.Item{Key: key, Request: t.request, Recorded: recordedModule(known)}
	item.Request.URL = cmp.Or(t.mirror, t.URL)
	item.Request.Digest, item.Request.SHA256 = known.Digest, known.SHA256
	return item
}

// recordedModule is what the queue has to know of the module in a status.
func recordedModule(known v1alpha1.PluginStatus) map[string]string {
	return map[string]string{"": known.SHA256}
}

// fixed says whether the source itself says which bytes it wants.
func (t target) fixed() bool { return t.SHA256 != "" || reference.Fixed(t.request.URL) }

// keeps says whether what was found before is served until there is something
// else: it was found where the plugin is declared to be, and is what is expected.
func (t target) keeps(known v1alpha1.PluginStatus) bool {
	return known.URL == t.URL && known.Digest != "" && (t.SHA256 == "" || t.SHA256 == known.SHA256)
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
		if moved(p) && p.MovedTo != old.MovedTo {
			r.Recorder.Eventf(after, nil, corev1.EventTypeWarning, v1alpha1.ReasonTagsMoved, "Resolve", "%s: %s", key, movedMessage(p, after.Spec.UpdatePolicy))
		}
	}
	recordReady(r.Recorder, after, before.Status.Conditions, after.Status.Conditions)
}

// sourcesOfNamespace wakes the sources of a server's namespace: which servers
// select them is part of their status.
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

// rivals wakes the other sources that declare something that a source declares:
// who wins, and whether that makes a difference, is part of their status.
func (r *PluginSourceReconciler) rivals(ctx context.Context, object client.Object) []reconcile.Request {
	changed, ok := object.(*v1alpha1.PluginSource)
	var list v1alpha1.PluginSourceList
	if !ok || r.Client.List(ctx, &list, client.InNamespace(object.GetNamespace())) != nil {
		return nil
	}
	keys := declared.Keys(changed)
	var requests []reconcile.Request
	for i := range list.Items {
		shares := func(key catalog.Key) bool { _, there := keys[key]; return there }
		if other := &list.Items[i]; other.Name != changed.Name && len(keys) > 0 && declaresAny(other, shares) {
			requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(other)})
		}
	}
	return requests
}

// declaresAny says whether a source declares any of some keys.
func declaresAny(source *v1alpha1.PluginSource, some func(catalog.Key) bool) bool {
	for key := range declared.Keys(source) {
		if some(key) {
			return true
		}
	}
	return false
}

func interval(src *v1alpha1.PluginSource) time.Duration {
	if src.Spec.Interval == nil {
		return defaultInterval
	}
	return src.Spec.Interval.Duration
}
