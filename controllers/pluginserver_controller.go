package controllers

import (
	"context"
	"errors"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
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
	"github.com/higress-group/plugin-server-operator/controllers/apply"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/serve"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// defaultRetention is the CRD's default, for objects that came without one.
const defaultRetention = 24 * time.Hour

// Settings of the operator that every server shares.
type Settings struct {
	// Namespace the operator runs in.
	Namespace string
	// Image and ImagePullSecrets of pods whose server names none.
	Image            string
	ImagePullSecrets []string
	// ArtifactURL is where pods find blobs and catalogs.
	ArtifactURL string
	// Console and Controller are the targets of the integration.
	Console, Controller integration.Target
	// IntegrationNamespaces are the namespaces whose servers may integrate.
	IntegrationNamespaces []string
}

// Catalogs hands catalogs to the pods that wait for them.
type Catalogs interface {
	SetCatalog(server string, encoded []byte, revision string)
	DropCatalog(server string)
}

// The rights, in each namespace of servers.
//
// +kubebuilder:rbac:groups=plugins.higress.io,namespace=higress-system,roleName=plugin-server-operator-servers,resources=pluginservers,verbs=get;list;watch;patch
// +kubebuilder:rbac:groups=plugins.higress.io,namespace=higress-system,roleName=plugin-server-operator-servers,resources=pluginservers/status,verbs=patch
// +kubebuilder:rbac:groups=plugins.higress.io,namespace=higress-system,roleName=plugin-server-operator-servers,resources=pluginservers/finalizers,verbs=update
// +kubebuilder:rbac:groups="",namespace=higress-system,roleName=plugin-server-operator-servers,resources=configmaps;services;serviceaccounts,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups=apps,namespace=higress-system,roleName=plugin-server-operator-servers,resources=deployments;statefulsets,verbs=get;list;watch;create;patch;delete
// +kubebuilder:rbac:groups="",namespace=higress-system,roleName=plugin-server-operator-servers,resources=persistentvolumeclaims,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups=policy,namespace=higress-system,roleName=plugin-server-operator-servers,resources=poddisruptionbudgets,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups=networking.k8s.io,namespace=higress-system,roleName=plugin-server-operator-servers,resources=networkpolicies,verbs=get;list;watch;create;patch
// +kubebuilder:rbac:groups="",namespace=higress-system,roleName=plugin-server-operator-servers,resources=pods,verbs=get;list;watch

// PluginServerReconciler brings PluginServers into being.
type PluginServerReconciler struct {
	Client     client.Client
	Recorder   events.EventRecorder
	Clock      clock.PassiveClock
	Settings   Settings
	Applier    *apply.Applier
	Integrator *integration.Integrator
	Catalogs   Catalogs
	// Artifact finds what was fetched by the digest of its manifest.
	Artifact func(digest, member string) (store.Artifact, bool)
	// State asks a pod what it serves.
	State func(ctx context.Context, pod *corev1.Pod) (serve.State, error)
	// Probe asks a pod that runs somebody's image whether it serves a plugin.
	Probe func(ctx context.Context, pod *corev1.Pod, key catalog.Key) (bool, error)
	Known *Knowledge
	// WakeSource wakes a source (namespace/name) whose plugins are served otherwise than before.
	WakeSource func(source string)
	// Wake carries the names of servers whose pods have news.
	Wake <-chan event.TypedGenericEvent[types.NamespacedName]
}

// SetupWithManager registers the reconciler.
func (r *PluginServerReconciler) SetupWithManager(manager ctrl.Manager) error {
	serversOfNamespace := handler.EnqueueRequestsFromMapFunc(r.serversOfNamespace)
	return ctrl.NewControllerManagedBy(manager).
		Named("pluginserver").
		For(&v1alpha1.PluginServer{}, builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Owns(&appsv1.Deployment{}).
		Owns(&appsv1.StatefulSet{}).
		Owns(&corev1.PersistentVolumeClaim{}).
		Owns(&corev1.ConfigMap{}).
		Owns(&corev1.Service{}).
		Owns(&corev1.ServiceAccount{}).
		Owns(&policyv1.PodDisruptionBudget{}).
		Owns(&networkingv1.NetworkPolicy{}).
		Watches(&corev1.Pod{}, handler.EnqueueRequestsFromMapFunc(serverOfPod)).
		Watches(&v1alpha1.PluginSource{}, serversOfNamespace).
		Watches(&v1alpha1.PluginServer{}, handler.EnqueueRequestsFromMapFunc(r.allServers),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		Watches(&appsv1.Deployment{}, handler.EnqueueRequestsFromMapFunc(r.serversOfTarget),
			builder.WithPredicates(predicate.GenerationChangedPredicate{})).
		WatchesRawSource(source.TypedChannel(r.Wake, handler.TypedEnqueueRequestsFromMapFunc(requestOf))).
		WithOptions(controllerOptions()).
		Complete(r)
}

// Reconcile observes a server, publishes its catalog, applies its objects,
// points Higress to it, and reports.
func (r *PluginServerReconciler) Reconcile(ctx context.Context, request reconcile.Request) (reconcile.Result, error) {
	var server v1alpha1.PluginServer
	if err := r.Client.Get(ctx, request.NamespacedName, &server); err != nil {
		if client.IgnoreNotFound(err) == nil {
			r.Known.forget(request.NamespacedName)
			r.Catalogs.DropCatalog(request.String())
		}
		return reconcile.Result{}, client.IgnoreNotFound(err)
	}
	if !server.DeletionTimestamp.IsZero() {
		return r.finalize(ctx, &server)
	}
	observed, err := r.observe(ctx, &server)
	if err != nil {
		return reconcile.Result{}, err
	}
	later := r.publish(&observed)
	if !observed.held {
		r.apply(ctx, &observed)
		if err := r.observePods(ctx, &observed); err != nil {
			return reconcile.Result{}, err
		}
		r.retire(ctx, &observed)
		if err := r.integrate(ctx, &observed); err != nil {
			return reconcile.Result{}, err
		}
		wait, err := r.writeStatus(ctx, &observed)
		if err != nil {
			return reconcile.Result{}, err
		}
		later = sooner(later, wait)
	}
	if err := observed.retry(); err != nil { // the other work of this server has times of its own
		ctrl.LoggerFrom(ctx).Error(err, "apply the server's objects; it is tried again")
		later = sooner(later, retryWaiting)
	}
	return reconcile.Result{RequeueAfter: sooner(later, observed.lookAgain(r.Clock.Now()))}, nil
}

// publish computes the next catalog. Where the last revision is too young it
// keeps the one that is there, and says when to come back.
func (r *PluginServerReconciler) publish(o *observedServer) time.Duration {
	if runsImage(o.server) {
		return 0 // it brings its own plugins
	}
	key := client.ObjectKeyFromObject(o.server)
	previous := r.Known.newest(key, o.server.UID, o.written)
	retention := defaultRetention
	if o.server.Spec.Retention != nil {
		retention = o.server.Spec.Retention.Duration
	}
	if o.selectorErr != nil { // no declaration of nothing: what was served stays
		if o.catalog = previous; previous != nil {
			o.encoded, o.catalogErr = previous.Encode()
		}
		return 0
	}
	entries := declared.Entries(o.sources, r.Artifact, previous)
	o.catalog = catalog.Next(previous, entries, retention, r.Clock.Now())
	if previous == nil || o.catalog.Sequence != previous.Sequence {
		if wait := r.Known.waitToWrite(types.UID("catalog/"+string(o.server.UID)), r.Clock.Now()); wait > 0 {
			o.held = true
			return wait
		}
	}
	encoded, err := o.catalog.Encode()
	if err != nil {
		o.catalogErr = err
		if o.catalog = previous; previous == nil {
			return 0
		}
		if encoded, err = previous.Encode(); err != nil {
			return 0
		}
	}
	o.encoded = encoded
	return 0
}

// apply writes the server's objects. The catalog is handed to the pods only
// after its durable copy is written.
func (r *PluginServerReconciler) apply(ctx context.Context, o *observedServer) {
	if o.encoded == nil && !runsImage(o.server) {
		return
	}
	objects := desired.Objects(desired.Parameters{
		Server: o.server, Catalog: o.encoded,
		Image: r.Settings.Image, ImagePullSecrets: r.Settings.ImagePullSecrets,
		ArtifactURL: r.Settings.ArtifactURL, OperatorNamespace: r.Settings.Namespace,
	})
	for _, object := range objects {
		_, isCatalog := object.(*corev1ac.ConfigMapApplyConfiguration)
		changed, err := r.Applier.Apply(ctx, o.server, object)
		if err != nil {
			o.applyErrs = append(o.applyErrs, err)
			if isCatalog {
				return // without a catalog of our own nothing else is worth having
			}
			continue
		}
		if isCatalog {
			key := client.ObjectKeyFromObject(o.server)
			r.Known.wrote(key, o.server.UID, o.catalog)
			r.Catalogs.SetCatalog(key.String(), o.encoded, o.catalog.Revision())
		}
		if changed {
			ctrl.LoggerFrom(ctx).Info("applied", "object", fmt.Sprintf("%T", object))
		}
	}
}

// writeStatus writes the status if it changed, and says how long to wait where
// the last write was too short a time ago.
func (r *PluginServerReconciler) writeStatus(ctx context.Context, o *observedServer) (time.Duration, error) {
	status := serverStatus(o)
	if equality.Semantic.DeepEqual(o.server.Status, status) {
		return 0, nil
	}
	if wait := r.Known.waitToWrite(o.server.UID, r.Clock.Now()); wait > 0 {
		return wait, nil
	}
	changed := o.server.DeepCopy()
	changed.Status = status
	if err := r.Client.Status().Patch(ctx, changed, client.MergeFrom(o.server)); err != nil {
		return 0, client.IgnoreNotFound(err)
	}
	recordReady(r.Recorder, changed, o.server.Status.Conditions, status.Conditions)
	return 0, nil
}

// retry gives the errors that are tried again after some seconds. Those that
// only somebody else can mend wait for a change.
func (o *observedServer) retry() error {
	var again []error
	for _, err := range o.applyErrs {
		var notOwned *apply.NotOwnedError
		if !errors.As(err, &notOwned) {
			again = append(again, err)
		}
	}
	return errors.Join(again...)
}

func sooner(a, b time.Duration) time.Duration {
	if a == 0 || (b > 0 && b < a) {
		return b
	}
	return a
}
