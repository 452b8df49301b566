package controllers

import (
	"context"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/reconcile"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/serve"
)

const (
	// stateTimeout is how long a pod may take to say what it serves.
	stateTimeout = time.Second
	// lookSoon is when to ask again pods that are behind; they also call by
	// themselves.
	lookSoon = time.Second
	// lookLater is when to look again at what nobody wakes us for: a foreign
	// object that is in the way, a target that is not there.
	lookLater = 30 * time.Second
)

// observedServer is everything that is decided and reported about a server in
// one reconcile: what was read, what was written, what came of it.
type observedServer struct {
	server  *v1alpha1.PluginServer
	sources []v1alpha1.PluginSource
	clashes []declared.Clash
	// written is the catalog in its ConfigMap; nil where there is none.
	written *catalog.Catalog
	// selectorErr: the sourceSelector cannot be read.
	selectorErr error

	// catalog is what the server has to serve; held means that it has to wait
	// because the last revision is too young.
	catalog    *catalog.Catalog
	encoded    []byte
	catalogErr error
	held       bool
	applyErrs  []error

	workload *workload       // nil where it is not there yet
	obsolete []client.Object // workloads that another storage had
	pods     []podState
	served   map[catalog.Key]string

	console, controller integration.Outcome
}

// podState is what one ready pod says of itself.
type podState struct {
	name  string
	state serve.State
	// plugins says of those that were asked for whether it serves them, where it
	// runs somebody's image.
	plugins map[catalog.Key]bool
	err     error
}

// observe reads what the catalog is made from.
func (r *PluginServerReconciler) observe(ctx context.Context, server *v1alpha1.PluginServer) (observedServer, error) {
	o := observedServer{server: server}
	var sources v1alpha1.PluginSourceList
	if err := r.Client.List(ctx, &sources, client.InNamespace(server.Namespace)); err != nil {
		return o, err
	}
	existing := slices.DeleteFunc(sources.Items, func(s v1alpha1.PluginSource) bool { return !s.DeletionTimestamp.IsZero() })
	o.sources, o.selectorErr = selectSources(server, existing)
	o.clashes = declared.Clashes(o.sources)

	var config corev1.ConfigMap
	err := r.Client.Get(ctx, types.NamespacedName{Namespace: server.Namespace, Name: desired.CatalogName(server.Name)}, &config)
	if client.IgnoreNotFound(err) != nil {
		return o, err
	}
	if !metav1.IsControlledBy(&config, server) {
		return o, nil // of a server of that name that was there before
	}
	if written, err := catalog.Decode(config.BinaryData[desired.CatalogKey]); err == nil {
		o.written = written
	}
	return o, nil
}

// observePods asks the ready pods what they serve: all at once, and none of
// them for long.
func (r *PluginServerReconciler) observePods(ctx context.Context, o *observedServer) error {
	key := client.ObjectKeyFromObject(o.server)
	if err := r.observeWorkloads(ctx, o); err != nil {
		return err
	}
	var pods corev1.PodList
	err := r.Client.List(ctx, &pods, client.InNamespace(key.Namespace), client.MatchingLabels(desired.Selector(key.Name)))
	if err != nil {
		return err
	}
	ready := slices.DeleteFunc(pods.Items, func(p corev1.Pod) bool { return !isReady(&p) })
	if runsImage(o.server) {
		r.observeImage(ctx, o, ready)
		return nil
	}
	o.pods = make([]podState, len(ready))
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	var asked sync.WaitGroup
	for i := range ready {
		asked.Go(func() {
			state, err := r.State(ctx, &ready[i])
			o.pods[i] = podState{name: ready[i].Name, state: state, err: err}
		})
	}
	asked.Wait()
	states := r.Known.answered(key, o.server.UID, o.pods, r.Clock.Now())
	served, news := r.Known.observed(key, o.server.UID, states)
	o.served = served
	if news == nil {
		return nil
	}
	for i := range o.sources { // what is served is part of their status
		if len(declared.Keys(&o.sources[i])) == 0 || declaresAny(&o.sources[i], news) {
			r.WakeSource(client.ObjectKeyFromObject(&o.sources[i]).String())
		}
	}
	return nil
}

// lookAgain says when to look at the server again without being woken.
func (o *observedServer) lookAgain(now time.Time) time.Duration {
	var next time.Duration
	if o.catalog != nil {
		if expiry := o.catalog.Expiry(); !expiry.IsZero() {
			next = max(expiry.Sub(now), time.Second)
		}
	}
	if (o.encoded != nil || runsImage(o.server)) && len(o.pods) > 0 && !o.consistent() {
		if o.explained() {
			next = sooner(next, lookLater)
		} else {
			next = sooner(next, lookSoon)
		}
	}
	if len(o.obsolete) > 0 {
		next = sooner(next, lookSoon)
	}
	if len(o.applyErrs) > 0 || !settled(o.console) || !settled(o.controller) {
		next = sooner(next, lookLater)
	}
	return next
}

// settled says whether nothing will happen to an outcome without an event that
// wakes us. What an envFrom supplies is not watched.
func settled(outcome integration.Outcome) bool {
	switch outcome.Reason {
	case v1alpha1.ReasonTargetNotFound, v1alpha1.ReasonForbidden, v1alpha1.ReasonForeignValue, v1alpha1.ReasonFieldContested:
		return false
	}
	return true
}

// consistent says whether every ready pod serves the newest catalog, or, of
// somebody's image, answers at all.
func (o *observedServer) consistent() bool { return !slices.ContainsFunc(o.pods, o.behind) }

func (o *observedServer) behind(p podState) bool {
	return p.err != nil || o.catalog != nil && p.state.Revision != o.catalog.Revision()
}

// explained says whether every pod that is behind says that it cannot follow: that
// may take days, where a disk is full, and the pod calls once it has caught up.
func (o *observedServer) explained() bool {
	return !slices.ContainsFunc(o.pods, func(p podState) bool { return o.behind(p) && !p.state.Behind })
}

func isReady(pod *corev1.Pod) bool {
	return pod.DeletionTimestamp.IsZero() && slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// serversOfNamespace wakes the servers that may select a source.
func (r *PluginServerReconciler) serversOfNamespace(ctx context.Context, source client.Object) []reconcile.Request {
	return r.servers(ctx, client.InNamespace(source.GetNamespace()))
}

// allServers wakes every server when one comes, goes or is edited: another one
// may have the say over a target now.
func (r *PluginServerReconciler) allServers(ctx context.Context, _ client.Object) []reconcile.Request {
	return r.servers(ctx)
}

// serversOfTarget wakes the servers that may integrate when somebody changed the
// Console or the controller.
func (r *PluginServerReconciler) serversOfTarget(ctx context.Context, deployment client.Object) []reconcile.Request {
	key := client.ObjectKeyFromObject(deployment)
	if key != r.Settings.Console.Deployment && key != r.Settings.Controller.Deployment {
		return nil
	}
	return r.servers(ctx)
}

func (r *PluginServerReconciler) servers(ctx context.Context, options ...client.ListOption) []reconcile.Request {
	var list v1alpha1.PluginServerList
	if err := r.Client.List(ctx, &list, options...); err != nil {
		ctrl.LoggerFrom(ctx).Error(err, "list PluginServers to wake them")
		return nil
	}
	requests := make([]reconcile.Request, 0, len(list.Items))
	for i := range list.Items {
		requests = append(requests, reconcile.Request{NamespacedName: client.ObjectKeyFromObject(&list.Items[i])})
	}
	return requests
}

// serverOfPod wakes the server that a pod belongs to.
func serverOfPod(_ context.Context, pod client.Object) []reconcile.Request {
	name := pod.GetLabels()["app.kubernetes.io/instance"]
	if name == "" {
		return nil
	}
	return []reconcile.Request{{NamespacedName: types.NamespacedName{Namespace: pod.GetNamespace(), Name: name}}}
}

// requestOf passes on a name.
func requestOf(_ context.Context, name types.NamespacedName) []reconcile.Request {
	return []reconcile.Request{{NamespacedName: name}}
}
