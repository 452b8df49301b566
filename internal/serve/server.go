package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/mod/semver"

	"github.com/higress-group/plugin-server-operator/internal/publish"
)

const (
	// readHeaderTimeout and idleTimeout are for clients that do not speak; a
	// gateway's request is a few hundred bytes.
	readHeaderTimeout = 10 * time.Second
	idleTimeout       = 2 * time.Minute
	// maxHeader is the size of a request's header.
	maxHeader = 16 << 10
)

// Options of a Server.
type Options struct {
	// DataDir is the volume.
	DataDir string
	// Hold is how long a request waits for what is not there yet; 0 is the default of 8 s.
	Hold time.Duration
	// DrainDelay is how long connections are accepted after the end was announced:
	// the rest of the cluster learns of it about a second later.
	DrainDelay time.Duration
	// Grace is how long bodies that have begun may take after that.
	Grace  time.Duration
	Logger *slog.Logger
}

// Server serves the plugins of a volume.
type Server struct {
	options  Options
	volume   *volume
	metrics  *metrics
	plugins  *plugins
	draining chan struct{}
}

// New makes a Server.
func New(o Options) *Server {
	if o.Hold == 0 {
		o.Hold = Hold
	}
	s := &Server{options: o, volume: newVolume(o.DataDir, o.Logger), draining: make(chan struct{})}
	s.metrics = newMetrics(s.volume)
	s.volume.forget = s.metrics.forget
	s.plugins = &plugins{
		volume: s.volume, blobs: publish.Blobs{Dir: o.DataDir}, hold: o.Hold, draining: s.draining, metrics: s.metrics, logger: o.Logger,
	}
	return s
}

// Handler serves plugins.
func (s *Server) Handler() http.Handler {
	return record(s.plugins, s.volume, s.metrics, s.options.Logger.Handler())
}

// OpsHandler serves health, state and metrics, for the kubelet and the operator.
func (s *Server) OpsHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, "ok") })
	// Ready once something was published, and never unready again for something
	// newer that is missing.
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if s.volume.current().empty() {
			http.Error(w, "nothing is published on the volume yet", http.StatusServiceUnavailable)
			return
		}
		_, _ = fmt.Fprintln(w, "ok")
	})
	mux.HandleFunc("GET /state", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(s.volume.state())
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

// Run serves on the listeners until ctx ends, and then finishes what has begun.
func (s *Server) Run(ctx context.Context, plugins, ops net.Listener) error {
	following, stop := context.WithCancel(context.WithoutCancel(ctx))
	var background sync.WaitGroup
	background.Go(func() { s.volume.follow(following) })
	defer background.Wait()
	defer stop()

	servers := []*http.Server{newHTTPServer(s.Handler()), newHTTPServer(s.OpsHandler())}
	servers[0].ConnContext = withConn
	// Once nobody is accepted any more, and not before: who comes until then is
	// held like everybody.
	servers[0].RegisterOnShutdown(func() { close(s.draining) })
	ended := make(chan error, len(servers))
	for i, listener := range []net.Listener{connListener{plugins}, ops} {
		background.Go(func() { ended <- servers[i].Serve(listener) })
	}
	s.options.Logger.Info("serving", "plugins", plugins.Addr().String(), "ops", ops.Addr().String())
	var failed error
	select {
	case failed = <-ended:
	case <-ctx.Done():
		s.options.Logger.Info("ending: still accepting for a while", "delay", s.options.DrainDelay.String())
		time.Sleep(s.options.DrainDelay)
	}
	finish, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.options.Grace)
	defer cancel()
	for _, server := range servers {
		if err := server.Shutdown(finish); err != nil {
			failed = errors.Join(failed, fmt.Errorf("some answers were not finished within %s: %w", s.options.Grace, err), server.Close())
		}
	}
	return failed
}

func newHTTPServer(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, ReadHeaderTimeout: readHeaderTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeader}
}

// newer compares versions by semantic versioning; others come before all that
// follow it.
func newer(a, b string) bool { return semver.Compare("v"+a, "v"+b) > 0 || b == "" }
