package controllers

import (
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strconv"
	"sync"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/official"
)

// probesAtOnce is how many plugins a pod is asked for at the same time.
const probesAtOnce = 8

// runsImage says whether the pods run somebody's plugin server with plugins of
// its own.
func runsImage(server *v1alpha1.PluginServer) bool {
	return server.Spec.Server.Type == v1alpha1.ServerImage
}

// builtIns are the plugins that any Console offers.
var builtIns = sync.OnceValue(func() []catalog.Key {
	table := official.Embedded()
	plugins, _ := table.Plugins(table.Releases())
	keys := make([]catalog.Key, 0, len(plugins))
	for _, p := range plugins {
		keys = append(keys, p.Key)
	}
	return keys
})

// observeImage asks the ready pods of such a server, over HTTP, for the plugins
// that Higress may be pointed to. What is in an image does not change, so a pod is
// asked once.
func (r *PluginServerReconciler) observeImage(ctx context.Context, o *observedServer, ready []corev1.Pod) {
	ctx, cancel := context.WithTimeout(ctx, stateTimeout)
	defer cancel()
	wanted := builtIns()
	if version := o.server.Spec.Higress.Controller.MCPServerVersion; version != "" {
		wanted = append(wanted[:len(wanted):len(wanted)], catalog.Key{Name: mcpServer, Version: version})
	}
	o.pods = make([]podState, len(ready))
	var asked sync.WaitGroup
	for i := range ready {
		asked.Go(func() {
			o.pods[i].name = ready[i].Name
			o.pods[i].plugins, o.pods[i].err = r.probed(ctx, &ready[i], wanted)
		})
	}
	asked.Wait()
	o.served = map[catalog.Key]string{}
	for i := range o.pods {
		for key := range o.pods[i].plugins {
			if !slices.ContainsFunc(o.pods, func(p podState) bool { return !p.plugins[key] }) {
				o.served[key] = "" // nobody knows the hash
			}
		}
	}
}

// probed says of the wanted plugins, and of those asked for before, whether a pod
// serves them; where it fails, of some of them.
func (r *PluginServerReconciler) probed(ctx context.Context, pod *corev1.Pod, wanted []catalog.Key) (map[catalog.Key]bool, error) {
	known := r.Known.probes(pod.UID)
	before := maps.Clone(known)
	var mu sync.Mutex
	var asking errgroup.Group
	asking.SetLimit(probesAtOnce)
	for _, key := range wanted {
		if _, asked := before[key]; asked {
			continue
		}
		asking.Go(func() error {
			there, err := r.Probe(ctx, pod, key)
			if err != nil {
				return err
			}
			mu.Lock()
			defer mu.Unlock()
			known[key] = there
			return nil
		})
	}
	err := asking.Wait()
	r.Known.probed(pod.UID, known)
	return known, err
}

// httpProbe asks a pod whether it serves a plugin.
func httpProbe(c *http.Client) func(ctx context.Context, pod *corev1.Pod, key catalog.Key) (bool, error) {
	return func(ctx context.Context, pod *corev1.Pod, key catalog.Key) (bool, error) {
		url := fmt.Sprintf("http://%s/plugins/%s/%s/plugin.wasm", net.JoinHostPort(pod.Status.PodIP, strconv.Itoa(desired.HTTPPort)), key.Name, key.Version)
		request, err := http.NewRequestWithContext(ctx, http.MethodHead, url, nil)
		if err != nil {
			return false, err
		}
		response, err := c.Do(request)
		if err != nil {
			return false, err
		}
		_, err = io.Copy(io.Discard, io.LimitReader(response.Body, maxState))
		_ = response.Body.Close()
		if err == nil && response.StatusCode >= http.StatusInternalServerError {
			err = fmt.Errorf("%s answered %s", url, response.Status)
		}
		return response.StatusCode == http.StatusOK, err
	}
}
