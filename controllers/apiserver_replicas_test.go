//go:build envtest

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/serve"
)

// replicas stands in for the kubelet and the Deployment controller: pods that
// follow the operator's handout over HTTP, as sync does, and say what they have.
type replicas struct {
	w *world

	mu      sync.Mutex
	base    string // of the handout; empty while no operator runs
	moved   chan struct{}
	modules map[string][]byte               // by SHA-256: what any pod got
	states  map[string]serve.State          // by pod
	actual  sync.Map                        // *pod by name: those that are processes
	images  map[string]map[catalog.Key]bool // by somebody's image: what pods serve that run it
	probes  int
}

func newReplicas(w *world) *replicas {
	return &replicas{
		w: w, moved: make(chan struct{}), modules: map[string][]byte{}, states: map[string]serve.State{}, images: map[string]map[catalog.Key]bool{},
	}
}

// follow lets the pods ask another operator.
func (r *replicas) follow(base string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	close(r.moved)
	r.base, r.moved = base, make(chan struct{})
}

// state is what the operator learns of a pod.
func (r *replicas) state(ctx context.Context, object *corev1.Pod) (serve.State, error) {
	if process, found := r.actual.Load(object.Name); found {
		return process.(*pod).state(ctx)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	state, found := r.states[object.Name]
	if !found {
		return state, errors.New("no answer")
	}
	return state, nil
}

// probe is what the operator learns of a pod that runs somebody's image.
func (r *replicas) probe(_ context.Context, object *corev1.Pod, key catalog.Key) (bool, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.probes++
	return r.images[object.Spec.Containers[0].Image][key], nil
}

// probed is how often pods were asked.
func (r *replicas) probed() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.probes
}

// serveImage lets the pods of somebody's image serve one more plugin.
func (r *replicas) serveImage(image string, key catalog.Key) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.images[image] == nil {
		r.images[image] = map[catalog.Key]bool{}
	}
	r.images[image][key] = true
}

// has says whether a pod got a module.
func (r *replicas) has(sha256 string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.modules[sha256] != nil
}

// rollOut waits for the Deployment of a server, and makes its pods and its
// status as a cluster would.
func (r *replicas) rollOut(server client.Object) {
	r.w.t.Helper()
	deployment := &appsv1.Deployment{}
	r.w.eventually("there is Deployment "+server.GetName(), func(ctx context.Context) error {
		return r.w.admin.Get(ctx, client.ObjectKeyFromObject(server), deployment)
	})
	r.startPods(server, "pod", *deployment.Spec.Replicas, deployment.Spec.Template)
	r.available(deployment)
}

// startPods makes the pods of a server.
func (r *replicas) startPods(server client.Object, suffix string, n int32, template corev1.PodTemplateSpec) {
	r.w.t.Helper()
	for i := range n {
		pod := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: server.GetNamespace(), Name: fmt.Sprintf("%s-%s-%d", server.GetName(), suffix, i), Labels: template.Labels,
			},
			Spec: template.Spec,
		}
		r.w.create(pod)
		pod.Status = corev1.PodStatus{
			Phase: corev1.PodRunning, PodIP: "192.0.2.1",
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}},
		}
		if err := r.w.admin.Status().Update(r.w.t.Context(), pod); err != nil {
			r.w.t.Fatal(err)
		}
		r.run(server.GetNamespace()+"/"+server.GetName(), pod.Name)
	}
}

// available sets the status of a Deployment whose pods are all there.
func (r *replicas) available(deployment *appsv1.Deployment) {
	r.w.t.Helper()
	n := *deployment.Spec.Replicas
	before := deployment.DeepCopy()
	deployment.Status = appsv1.DeploymentStatus{
		ObservedGeneration: deployment.Generation, Replicas: n, UpdatedReplicas: n, ReadyReplicas: n, AvailableReplicas: n,
	}
	if err := r.w.admin.Status().Patch(r.w.t.Context(), deployment, client.MergeFrom(before)); err != nil {
		r.w.t.Fatal(err)
	}
}

// run lets a pod follow until the end of the test.
func (r *replicas) run(server, pod string) {
	ctx, cancel := context.WithCancel(r.w.t.Context())
	var running sync.WaitGroup
	running.Go(func() {
		for ctx.Err() == nil {
			r.mu.Lock()
			base, moved := r.base, r.moved
			r.mu.Unlock()
			if base == "" {
				select {
				case <-moved:
				case <-ctx.Done():
				}
				continue
			}
			if err := r.poll(ctx, base, server, pod); err != nil {
				select { // the pause of a client that was told "later"
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
	})
	r.w.t.Cleanup(func() { cancel(); running.Wait() })
}

// poll asks for the next catalog and for the modules that it names.
func (r *replicas) poll(ctx context.Context, base, server, pod string) error {
	r.mu.Lock()
	state := r.states[pod]
	r.mu.Unlock()
	known := state.Revision
	if len(state.Missing) > 0 {
		known = "" // no hold: there is something left to get
	}
	query := url.Values{"revision": {known}, "served": {state.Revision}, "pod": {pod}}
	encoded, err := ask(ctx, base+"/catalogs/"+server+"?"+query.Encode(), catalog.MaxEncoded)
	if err != nil {
		return err
	}
	next, err := catalog.Decode(encoded)
	if err != nil {
		r.w.t.Errorf("the handout gave a catalog that cannot be read: %v", err)
		return err
	}
	got := serve.State{Revision: next.Revision(), Sequence: next.Sequence, Plugins: len(next.Entries)}
	var missing error
	for _, entry := range next.Entries {
		if entry.Pending() {
			continue
		}
		if err := r.fetch(ctx, base, entry.SHA256); err != nil {
			missing = err
			got.Missing = append(got.Missing, serve.Missing{Name: entry.Name, Version: entry.Version})
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.states[pod] = got
	return missing
}

func (r *replicas) fetch(ctx context.Context, base, sha256 string) error {
	if r.has(sha256) {
		return nil
	}
	module, err := ask(ctx, base+"/blobs/sha256/"+sha256, 1<<20)
	if err != nil {
		return err
	}
	if sha(module) != sha256 {
		r.w.t.Errorf("the handout gave other bytes for %s", sha256)
		return errors.New("other bytes")
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.modules[sha256] = module
	return nil
}

func ask(ctx context.Context, address string, limit int64) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return nil, errors.New(response.Status)
	}
	return io.ReadAll(io.LimitReader(response.Body, limit))
}
