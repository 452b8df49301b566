package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/healthz"
	"sigs.k8s.io/controller-runtime/pkg/manager"
	metricsserver "sigs.k8s.io/controller-runtime/pkg/metrics/server"

	corev1 "k8s.io/api/core/v1"

	"github.com/higress-group/plugin-server-operator/controllers"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/handout"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

const (
	// collectEvery and collectAge: what no catalog names and no source wants any
	// more leaves the store; young modules stay, their catalog may be on its way.
	collectEvery = 10 * time.Minute
	collectAge   = time.Hour
)

// The operator's rights in its own namespace: the lease of its leader election.
//
// +kubebuilder:rbac:groups=coordination.k8s.io,namespace=higress-system,roleName=plugin-server-operator-leader,resources=leases,verbs=get;create;update;patch
// +kubebuilder:rbac:groups=events.k8s.io,namespace=higress-system,roleName=plugin-server-operator-leader,resources=events,verbs=create;patch
// +kubebuilder:rbac:groups="",namespace=higress-system,roleName=plugin-server-operator-leader,resources=events,verbs=create;patch

// operate runs the operator until ctx ends.
func operate(ctx context.Context, o options) error {
	if o.settings.Image == "" || o.settings.ArtifactURL == "" {
		return errors.New("--server-image and --artifact-url are needed")
	}
	config, err := ctrl.GetConfig()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()

	content, err := store.Open(o.storeDir, o.storeBudget)
	if err != nil {
		return fmt.Errorf("open the store: %w", err)
	}
	mgr, err := newManager(config, o)
	if err != nil {
		return err
	}
	fetcher := fetch.New(fetch.Options{
		Store: content, AllowLoopback: o.allowLoopback, UserAgent: "plugin-server-operator/" + version,
		ConfigMaps: controllers.ConfigMapOpener(mgr.GetAPIReader()),
	})
	defer fetcher.Close()
	wakes := controllers.NewWakes(ctx)
	known := &controllers.Knowledge{}
	queue := pipeline.New(fetcher, content, pipeline.Options{
		Workers: o.maxFetches, PerHost: o.maxFetches, Notify: wakes.Source, Copies: controllers.Copies(mgr.GetClient(), known),
	})
	artifacts := handout.New(handout.Options{
		Blobs: content, Missing: queue.Missing, Lost: queue.Lost,
		Polled: func(server, pod, revision string) {
			if known.Polled(controllers.ParseName(server), pod, revision) {
				wakes.Server(server)
			}
		},
	})
	err = controllers.Setup(mgr, o.settings, controllers.Parts{
		Queue: queue, Catalogs: artifacts, Artifact: content.Artifact, Rewrite: o.rules.Rewrite, Known: known, Wakes: wakes,
	})
	if err != nil {
		return err
	}
	// Handing out does not wait for leadership: pods of a server ask whoever is there.
	return errors.Join(
		mgr.Add(everywhere(queue.Run)),
		mgr.Add(everywhere(func(ctx context.Context) error { return listen(ctx, o.artifactListen, artifacts) })),
		mgr.Add(manager.RunnableFunc(func(ctx context.Context) error {
			return collect(ctx, content, func(sha256 string) bool { return known.Named(sha256) || queue.Wanted(sha256) })
		})),
		mgr.Start(ctx),
	)
}

func newManager(config *rest.Config, o options) (ctrl.Manager, error) {
	mgr, err := ctrl.NewManager(config, ctrl.Options{
		Scheme:                        controllers.Scheme(),
		Cache:                         controllers.CacheOptions(o.watchNamespaces, o.settings, o.resync),
		Client:                        client.Options{Cache: &client.CacheOptions{DisableFor: []client.Object{&corev1.Secret{}}}},
		LeaderElection:                o.leaderElect,
		LeaderElectionID:              o.leaseName,
		LeaderElectionNamespace:       o.settings.Namespace,
		LeaderElectionReleaseOnCancel: true, // the process ends with its manager
		HealthProbeBindAddress:        o.healthListen,
		Metrics:                       metricsserver.Options{BindAddress: o.metricsListen},
	})
	if err != nil {
		return nil, err
	}
	return mgr, errors.Join(mgr.AddHealthzCheck("ping", healthz.Ping), mgr.AddReadyzCheck("ping", healthz.Ping))
}

// listen serves handler until ctx ends. Polls are ended first: they would keep
// the server for up to a minute.
func listen(ctx context.Context, address string, handler *handout.Handler) error {
	server := &http.Server{Addr: address, Handler: handler, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	ended := make(chan error, 1)
	go func() { ended <- server.ListenAndServe() }()
	select {
	case err := <-ended:
		return fmt.Errorf("listen on %s: %w", address, err)
	case <-ctx.Done():
	}
	handler.Close()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 10*time.Second)
	defer cancel()
	if err := server.Shutdown(ctx); err != nil {
		return server.Close()
	}
	return nil
}

// collect removes from the store what no catalog names and no source wants.
func collect(ctx context.Context, content *store.Store, keep func(sha256 string) bool) error {
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(collectEvery):
		}
		freed, err := content.Collect(keep, collectAge)
		if err != nil {
			slog.Error("clear the store of what nobody needs", "error", err)
		} else if freed > 0 {
			slog.Info("cleared the store of what nobody needs", "bytes", freed)
		}
	}
}

// everywhere is a runnable that does not wait for leadership.
type everywhere func(context.Context) error

// Start runs it.
func (f everywhere) Start(ctx context.Context) error { return f(ctx) }

// NeedLeaderElection says no.
func (everywhere) NeedLeaderElection() bool { return false }
