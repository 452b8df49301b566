package controllers

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	clientgoscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/utils/clock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/cache"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller"
	"sigs.k8s.io/controller-runtime/pkg/event"

	appsv1 "k8s.io/api/apps/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/apply"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/serve"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// maxState is the size of a pod's answer to what it serves.
const maxState = 1 << 20

// Scheme knows Kubernetes' own kinds and ours.
func Scheme() *runtime.Scheme {
	scheme := runtime.NewScheme()
	utilruntime.Must(clientgoscheme.AddToScheme(scheme))
	utilruntime.Must(v1alpha1.AddToScheme(scheme))
	return scheme
}

// CacheOptions limits what the operator watches: its own objects in the
// namespaces of servers, and Deployments in Higress's namespace too. Secrets are
// never cached.
func CacheOptions(namespaces []string, settings Settings, resync time.Duration) cache.Options {
	watched := map[string]cache.Config{}
	for _, namespace := range namespaces {
		watched[namespace] = cache.Config{}
	}
	deployments := map[string]cache.Config{}
	for _, namespace := range append(slices.Clone(namespaces), settings.Console.Deployment.Namespace, settings.Controller.Deployment.Namespace) {
		deployments[namespace] = cache.Config{}
	}
	ours := cache.ByObject{Label: labels.SelectorFromSet(labels.Set{desired.ManagedByLabel: desired.ManagedBy})}
	return cache.Options{
		SyncPeriod:        &resync,
		DefaultNamespaces: watched,
		ByObject: map[client.Object]cache.ByObject{
			&appsv1.Deployment{}:            {Namespaces: deployments},
			&appsv1.StatefulSet{}:           ours,
			&corev1.PersistentVolumeClaim{}: ours,
			&corev1.ConfigMap{}:             ours,
			&corev1.Service{}:               ours,
			&corev1.ServiceAccount{}:        ours,
			&corev1.Pod{}:                   ours,
			&policyv1.PodDisruptionBudget{}: ours,
			&networkingv1.NetworkPolicy{}:   ours,
		},
	}
}

// Parts are what the reconcilers need besides the API server.
type Parts struct {
	Queue    Queue
	Catalogs Catalogs
	Artifact func(digest, member string) (store.Artifact, bool)
	Rewrite  func(fetch.Request) fetch.Request
	// State asks a pod what it serves; by default over HTTP on the ops port.
	State func(ctx context.Context, pod *corev1.Pod) (serve.State, error)
	// Probe asks a pod that runs somebody's image whether it serves a plugin; by default over HTTP.
	Probe func(ctx context.Context, pod *corev1.Pod, key catalog.Key) (bool, error)
	Known *Knowledge
	Wakes *Wakes
}

// Wakes carries news from outside the API server to the reconcilers.
type Wakes struct {
	done    context.Context //nolint:containedctx // the life of the process, which ends every send
	sources chan event.TypedGenericEvent[types.NamespacedName]
	servers chan event.TypedGenericEvent[types.NamespacedName]
}

// NewWakes makes the channels. Sends end with ctx.
func NewWakes(ctx context.Context) *Wakes {
	return &Wakes{
		done:    ctx,
		sources: make(chan event.TypedGenericEvent[types.NamespacedName], 1024),
		servers: make(chan event.TypedGenericEvent[types.NamespacedName], 1024),
	}
}

// Source wakes a PluginSource, by the name that it has in the queue.
func (w *Wakes) Source(owner string) { w.send(w.sources, strings.TrimSuffix(owner, publishedSuffix)) }

// Server wakes a PluginServer, by namespace/name.
func (w *Wakes) Server(name string) { w.send(w.servers, name) }

func (w *Wakes) send(to chan<- event.TypedGenericEvent[types.NamespacedName], name string) {
	select {
	case to <- event.TypedGenericEvent[types.NamespacedName]{Object: ParseName(name)}:
	case <-w.done.Done():
	}
}

// ParseName reads namespace/name.
func ParseName(name string) types.NamespacedName {
	namespace, base, _ := strings.Cut(name, "/")
	return types.NamespacedName{Namespace: namespace, Name: base}
}

// Setup registers all reconcilers with a manager.
func Setup(manager ctrl.Manager, settings Settings, parts Parts) error {
	if parts.State == nil {
		parts.State = httpState(&http.Client{})
	}
	if parts.Probe == nil {
		parts.Probe = httpProbe(&http.Client{})
	}
	integrator := &integration.Integrator{Client: manager.GetClient(), Live: manager.GetAPIReader(), Clock: clock.RealClock{}}
	sources := &PluginSourceReconciler{
		Client: manager.GetClient(), Live: manager.GetAPIReader(),
		Recorder: manager.GetEventRecorder(desired.FieldManager), Clock: clock.RealClock{},
		Queue: parts.Queue, Rewrite: parts.Rewrite, Known: parts.Known, Wake: parts.Wakes.sources,
	}
	servers := &PluginServerReconciler{
		Client: manager.GetClient(), Recorder: manager.GetEventRecorder(desired.FieldManager), Clock: clock.RealClock{},
		Settings: settings, Applier: &apply.Applier{Client: manager.GetClient(), Live: manager.GetAPIReader()},
		Integrator: integrator, Catalogs: parts.Catalogs, Artifact: parts.Artifact, State: parts.State, Probe: parts.Probe,
		Known: parts.Known, WakeSource: parts.Wakes.Source, Wake: parts.Wakes.servers,
	}
	release := &ReleaseReconciler{Client: manager.GetClient(), Integrator: integrator, Settings: settings}
	for _, setup := range []func(ctrl.Manager) error{sources.SetupWithManager, servers.SetupWithManager, release.SetupWithManager} {
		if err := setup(manager); err != nil {
			return fmt.Errorf("set up the controllers: %w", err)
		}
	}
	return nil
}

// controllerOptions are the same for all controllers.
func controllerOptions() controller.Options {
	return controller.Options{MaxConcurrentReconciles: 4}
}

// httpState asks a pod for its state.
func httpState(c *http.Client) func(ctx context.Context, pod *corev1.Pod) (serve.State, error) {
	return func(ctx context.Context, pod *corev1.Pod) (serve.State, error) {
		var state serve.State
		url := "http://" + net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(desired.OpsPort)) + "/state"
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return state, err
		}
		response, err := c.Do(request)
		if err != nil {
			return state, err
		}
		defer response.Body.Close()
		if response.StatusCode != http.StatusOK {
			return state, fmt.Errorf("%s answered %s", url, response.Status)
		}
		return state, json.NewDecoder(io.LimitReader(response.Body, maxState)).Decode(&state)
	}
}
