//go:build envtest

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptrace"
	"sync"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// TestAppliedTogether: a source and the first request for its plugin come
// together, as they do from one commit, in either order, 200 times: gateways get
// the module each time. One 404 would be an outage.
func TestAppliedTogether(t *testing.T) {
	const times, atOnce = 200, 20
	w := newWorld(t, 0)
	server := w.server(name)
	w.create(server)
	plugins := make([]pushed, times)
	for i := range plugins {
		plugins[i] = w.push(fmt.Sprintf("p%d", i), "1", publishtest.New("", "", 20_000, uint64(i)).Bytes)
	}
	w.start()
	replicas := runPods(w, server)

	next := make(chan int)
	var mu sync.Mutex
	var slowest time.Duration
	more := 0 // attempts, beyond the first
	var applying sync.WaitGroup
	for range atOnce {
		applying.Go(func() {
			g := newGateway(t)
			for i := range next {
				began := time.Now()
				attempts, err := w.together(g, replicas.all[i/2%len(replicas.all)], i, plugins[i])
				if err != nil {
					t.Errorf("%d: after %d attempts and %s: %v", i, attempts, time.Since(began), err)
				}
				mu.Lock()
				slowest = max(slowest, time.Since(began))
				more += attempts - 1
				mu.Unlock()
			}
		})
	}
	for i := range times {
		next <- i
	}
	close(next)
	applying.Wait()
	t.Logf("%d times, the slowest download took %s; %d attempts were repeated", times, slowest.Round(time.Millisecond), more)
}

// together applies a source and requests its plugin: first the one when i is
// even, else the other.
func (w *world) together(g *gateway, p *pod, i int, plugin pushed) (attempts int, err error) {
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	key := fmt.Sprintf("plugin-%d", i)
	source := w.source(key, plugin.as(key, "1"))
	requestFirst := i%2 == 1
	if !requestFirst {
		if err := w.admin.Create(ctx, source); err != nil {
			return 0, err
		}
	}
	asked, ended := make(chan struct{}), make(chan struct{})
	said := sync.OnceFunc(func() { close(asked) })
	tracing := httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteRequest: func(httptrace.WroteRequestInfo) { said() }})
	go func() {
		defer close(ended)
		defer said()
		var module []byte
		module, attempts, err = g.download(tracing, func() string { return p.at("/plugins/" + key + "/1/plugin.wasm") })
		if err == nil && sha(module) != plugin.sha256 {
			err = fmt.Errorf("other bytes: %d, with the hash %s", len(module), sha(module))
		}
	}()
	var refused error
	if requestFirst {
		<-asked
		time.Sleep(time.Duration(i*13%400) * time.Millisecond) // how long the request is ahead
		if refused = w.admin.Create(ctx, source); refused != nil {
			cancel()
		}
	}
	<-ended
	return attempts, errors.Join(refused, err)
}
