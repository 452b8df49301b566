//go:build envtest

package controllers_test

import (
	"context"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/envtest"

	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// many makes a source with so many plugins.
func (w *world) many(n int) []pushed {
	all := make([]pushed, n)
	source := w.source("many")
	for i := range all {
		all[i] = w.push(fmt.Sprintf("p%d", i), "1", publishtest.New("", "", 10_000+i, uint64(i)).Bytes)
		source.Spec.Plugins = append(source.Spec.Plugins, all[i].as(fmt.Sprintf("p%d", i), "1"))
	}
	w.create(source)
	return all
}

// requireAll asks a pod for plugins of many, by a gateway's rules.
func (p *pod) requireAll(g *gateway, all []pushed, but int) {
	t := p.of.w.t
	t.Helper()
	for i, plugin := range all {
		if i == but {
			continue
		}
		module, _, err := g.download(t.Context(), func() string { return p.at(fmt.Sprintf("/plugins/p%d/1/plugin.wasm", i)) })
		if err != nil || sha(module) != plugin.sha256 {
			t.Errorf("p%d of %s: %d bytes, %v", i, p.object.Name, len(module), err)
		}
	}
}

// remove removes a module from a store or a volume, under all of its names.
func remove(t *testing.T, dir, sha256 string) {
	t.Helper()
	blob := filepath.Join(dir, "blobs", "sha256", sha256)
	lost, err := os.Stat(blob)
	if err != nil {
		t.Fatal(err)
	}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil || !os.SameFile(info, lost) && !strings.HasPrefix(path, blob) {
			return err
		}
		return os.Remove(path)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// TestLostEverywhere: one of 90 modules is lost in the store, on all volumes
// and in the registry, and one volume is lost as a whole; then everything starts
// again, all at once. The others are served all the time, by a gateway's rules, the
// one is named, and it holds nobody back.
func TestLostEverywhere(t *testing.T) {
	const plugins, lost = 90, 41
	w := newWorld(t, 0)
	server := w.server(name)
	server.Spec.Replicas = ptr.To(int32(3))
	w.create(server)
	all := w.many(plugins)
	source := w.source("many")
	o := w.start()
	replicas := runPods(w, server)
	w.settled(source, server)
	replicas.awaitAll(0)

	endLoad := replicas.underLoad(all, lost)
	o.end()
	for _, p := range replicas.all {
		p.kill()
	}
	w.registry.fail(all[lost].layer, http.NotFound)
	remove(t, w.storeDir, all[lost].sha256)
	for _, p := range replicas.all[1:] {
		remove(t, p.dir, all[lost].sha256)
	}
	replicas.all[0].dir = t.TempDir()
	began := time.Now()
	var awaits []func()
	for _, p := range replicas.all {
		awaits = append(awaits, p.begin())
	}
	for _, await := range awaits {
		await()
	}
	w.start()
	for _, p := range slices.Backward(replicas.all) {
		p.awaitReady()
		t.Logf("%s is ready %s after the start", p.object.Name, time.Since(began).Round(time.Millisecond))
	}
	w.awaitCondition(source, "Fetched", no, "PluginsFailed", "89 of 90 plugins fetched, 1 failed: p41:1: NotFound")
	w.awaitCondition(server, "Degraded", yes, "Incomplete", "1 plugin cannot be fetched")
	replicas.awaitAll(1)
	endLoad()
	for _, p := range replicas.all {
		p.requireAll(newGateway(t), all, lost)
		requireLost(t, p, "/plugins/p41/1/plugin.wasm")
	}
	w.registry.fail(all[lost].layer, nil)
	w.lookAgain(source, "1")
	replicas.awaitAll(0)
	for _, p := range replicas.all {
		p.requireAll(newGateway(t), all, -1)
	}
}

// underLoad downloads the plugins but one from every pod, until the returned
// function is called. Each download has to succeed.
func (p *pods) underLoad(all []pushed, but int) (end func()) {
	t := p.w.t
	stop := make(chan struct{})
	var downloads, repeated, slowest atomic.Int64
	var loading sync.WaitGroup
	download := func(g *gateway, one *pod, i int) {
		began := time.Now()
		module, attempts, err := g.download(t.Context(), func() string { return one.at(fmt.Sprintf("/plugins/p%d/1/plugin.wasm", i)) })
		if t.Context().Err() != nil {
			return // the test has failed
		}
		if err != nil || sha(module) != all[i].sha256 {
			t.Errorf("p%d of %s after %s and %d attempts: %d bytes, %v", i, one.object.Name, time.Since(began), attempts, len(module), err)
		}
		downloads.Add(1)
		repeated.Add(int64(attempts - 1))
		slowest.Store(max(slowest.Load(), int64(time.Since(began)))) // about
	}
	for n, one := range p.all {
		g := newGateway(t)
		loading.Go(func() {
			for i := 30 * n; ; i++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond): // what starts shares the processors
				}
				if i%len(all) != but {
					download(g, one, i%len(all))
				}
			}
		})
	}
	end = sync.OnceFunc(func() {
		close(stop)
		loading.Wait()
		t.Logf("%d downloads, %d attempts were repeated, the slowest took %s", downloads.Load(), repeated.Load(), time.Duration(slowest.Load()).Round(time.Millisecond))
	})
	t.Cleanup(end)
	return end
}

// requireLost: what is declared and lost is refused in a way that gateways try
// again.
func requireLost(t *testing.T, p *pod, path string) {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodGet, p.at(path), nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Prefer", "wait=0")
	response, err := newGateway(t).client.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusServiceUnavailable {
		t.Errorf("the lost plugin is answered with %s by %s", response.Status, p.object.Name)
	}
}

// TestAlone: without the operator, the registry and the API server what is
// there is served, and by a server that starts again within five seconds.
func TestAlone(t *testing.T) {
	t.Parallel()
	environment := &envtest.Environment{CRDDirectoryPaths: []string{"../config/crd/bases"}, ErrorIfCRDPathMissing: true}
	config, err := environment.Start()
	if err != nil {
		t.Fatal(err)
	}
	stop := sync.OnceFunc(func() {
		if err := environment.Stop(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	config.QPS = -1
	w := newWorldAt(t, config, newRegistry(), 0)
	server := w.server(name)
	w.create(server)
	all := w.many(20)
	o := w.start()
	replicas := runPods(w, server)
	w.settled(w.source("many"), server)
	replicas.awaitAll(0)

	w.registry.CloseClientConnections()
	w.registry.Close()
	o.end()
	stop()
	if err := w.admin.Get(context.WithoutCancel(t.Context()), client.ObjectKeyFromObject(server), server); err == nil {
		t.Error("the API server still answers")
	}
	g := newGateway(t)
	var slowest time.Duration
	for range 5 {
		for _, p := range replicas.all {
			p.requireAll(g, all, -1)
			p.now().kill(t)
			began := time.Now()
			p.start()
			module, _, err := g.download(t.Context(), func() string { return p.at("/plugins/p7/1/plugin.wasm") })
			took := time.Since(began)
			if err != nil || sha(module) != all[7].sha256 || took > 5*time.Second {
				t.Errorf("%s served after %s: %d bytes, %v", p.object.Name, took, len(module), err)
			}
			slowest = max(slowest, took)
			if _, err := ask(t.Context(), p.now().ops+"/readyz", 100); err != nil {
				t.Errorf("%s is not ready: %v", p.object.Name, err)
			}
			p.requireAll(g, all, -1)
		}
	}
	t.Logf("restarted 10 times, the slowest served after %s", slowest.Round(time.Millisecond))
}
