//go:build envtest

package controllers_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/rest"
	"k8s.io/utils/ptr"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/config"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	"github.com/higress-group/plugin-server-operator/controllers"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/handout"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// operator is a running operator: as cmd/operator wires it, with the rights of
// the generated Roles.
type operator struct {
	wakes *controllers.Wakes
	url   string // of the handout
	calls *calls
	end   func()
}

// calls counts the requests that change something, at the HTTP transport.
type calls struct {
	http.RoundTripper
	mu   sync.Mutex
	made []string
}

// RoundTrip counts a request.
func (c *calls) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.Method != http.MethodGet && !strings.Contains(request.URL.Path, "/leases") {
		c.mu.Lock()
		c.made = append(c.made, request.Method+" "+request.URL.Path)
		c.mu.Unlock()
	}
	return c.RoundTripper.RoundTrip(request)
}

// list gives the requests that were made.
func (c *calls) list() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.made)
}

// start runs the operator until end, or the end of the test.
func (w *world) start() *operator {
	w.t.Helper()
	ctx, cancel := context.WithCancel(w.t.Context())
	o := &operator{wakes: controllers.NewWakes(ctx), calls: &calls{}}
	content, err := store.Open(w.storeDir, 1<<30)
	if err != nil {
		w.t.Fatal(err)
	}
	fetcher := fetch.New(fetch.Options{Store: content, AllowLoopback: true, ConfigMaps: controllers.ConfigMapOpener(w.operatorClient())})
	known := &controllers.Knowledge{}
	queue := pipeline.New(fetcher, content, pipeline.Options{Notify: o.wakes.Source})
	artifacts := handout.New(handout.Options{
		Blobs: content, Missing: queue.Missing, Lost: queue.Lost,
		Polled: func(server, pod, revision string) {
			if known.Polled(controllers.ParseName(server), pod, revision) {
				o.wakes.Server(server)
			}
		},
	})
	endpoint := httptest.NewServer(artifacts)
	o.url = endpoint.URL
	w.replicas.follow(o.url)

	asOperator := rest.CopyConfig(w.config)
	asOperator.Wrap(func(next http.RoundTripper) http.RoundTripper {
		o.calls.RoundTripper = next
		return o.calls
	})
	mgr, err := ctrl.NewManager(asOperator, ctrl.Options{
		Scheme:                 controllers.Scheme(),
		Cache:                  controllers.CacheOptions(w.watched, w.settings, w.resync),
		Client:                 client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		Controller:             config.Controller{SkipNameValidation: ptr.To(true)}, // many managers in one process
		HealthProbeBindAddress: "0",
		Metrics:                metricsserver.Options{BindAddress: "0"},
	})
	if err != nil {
		w.t.Fatal(err)
	}
	err = controllers.Setup(mgr, w.settings, controllers.Parts{
		Queue: queue, Catalogs: artifacts, Artifact: content.Artifact, State: w.replicas.state, Probe: w.replicas.probe, Known: known, Wakes: o.wakes,
	})
	if err != nil {
		w.t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { _ = queue.Run(ctx) })
	running.Go(func() {
		if err := mgr.Start(ctx); err != nil {
			w.t.Errorf("the operator ended: %v", err)
		}
	})
	o.end = sync.OnceFunc(func() {
		cancel()
		running.Wait()
		w.replicas.follow("")
		artifacts.Close()
		endpoint.CloseClientConnections()
		endpoint.Close()
		fetcher.Close()
	})
	w.t.Cleanup(o.end)
	return o
}

// quiet waits until the operator comes to rest, and then fails if it changes
// anything within a time.
func (w *world) quiet(o *operator, within time.Duration, meanwhile func()) {
	w.t.Helper()
	w.eventually("the operator comes to rest", func(ctx context.Context) error {
		before := len(o.calls.list())
		select {
		case <-ctx.Done():
		case <-time.After(2 * time.Second): // longer than the pause between two writes of one object
		}
		if made := o.calls.list()[before:]; len(made) > 0 {
			return fmt.Errorf("%q", made)
		}
		return nil
	})
	before := len(o.calls.list())
	for end := time.After(within); ; {
		select {
		case <-end:
			if made := o.calls.list()[before:]; len(made) > 0 {
				w.t.Errorf("%d changing calls in %s: %q", len(made), within, made)
			}
			return
		case <-time.After(250 * time.Millisecond):
			meanwhile()
		}
	}
}
