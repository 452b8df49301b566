//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/handout"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/serve"
)

// benchServer names the PluginServer of the pods.
const benchServer = "bench/plugins"

// operator is the operator's side of the pods: the real handler.
type operator struct {
	*handout.Handler
	url    string
	server *http.Server
}

func startOperator(blobs handout.Blobs) (*operator, error) {
	h := handout.New(handout.Options{
		Blobs: blobs, Missing: func(string) bool { return true }, Lost: func(string) bool { return false },
		Polled: func(string, string, string) {}, Logger: slog.New(slog.DiscardHandler),
	})
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	o := &operator{h, "http://" + listener.Addr().String(), &http.Server{Handler: h, ReadHeaderTimeout: time.Minute}}
	go func() { _ = o.server.Serve(listener) }() // until it is closed
	return o, nil
}

func (o *operator) stop() { _ = o.server.Close() }

// hand gives the pods a catalog.
func (o *operator) hand(c *catalog.Catalog) error {
	c.Normalize()
	encoded, err := c.Encode()
	if err != nil {
		return err
	}
	o.SetCatalog(benchServer, encoded, c.Revision())
	return nil
}

// change measures how long it takes from a changed digest in the catalog until
// all replicas serve the new module.
func (b *bench) change() (section, error) {
	const replicas = 3
	times := shorter(b, 3, 10)
	var plugins []plugin
	for i := range 43 {
		plugins = append(plugins, newPlugin(fmt.Sprintf("other-%d", i), 100_000, 400+uint64(i)))
	}
	for i := range times + 1 { // the catalog has the first one only
		plugins = append(plugins, newPlugin(fmt.Sprintf("version-%d", i), 8e6, 500+uint64(i)))
	}
	var entries []catalog.Entry
	for _, p := range plugins {
		entries = append(entries, p.entry())
	}
	volume, err := b.volume("operator", plugins)
	if err != nil {
		return section{}, err
	}
	operator, err := startOperator(publish.Blobs{Dir: volume})
	if err != nil {
		return section{}, err
	}
	defer operator.stop()
	changing := entries[43]
	changing.Name = "changing"
	c := &catalog.Catalog{Sequence: 1, Entries: append(slices.Clone(entries[:43]), changing)}
	if err := operator.hand(c); err != nil {
		return section{}, err
	}
	all, stop, err := b.pods("change", replicas, operator.url, len(c.Entries))
	defer stop()
	if err != nil {
		return section{}, err
	}
	var took []time.Duration
	for _, next := range entries[44:] {
		began := time.Now()
		next.Name = changing.Name
		c = &catalog.Catalog{Sequence: c.Sequence + 1, Entries: append(slices.Clone(entries[:43]), next)}
		if err := errors.Join(operator.hand(c), replaced(all, next)); err != nil {
			return section{}, err
		}
		took = append(took, time.Since(began))
		time.Sleep(500 * time.Millisecond)
	}
	slices.Sort(took)
	return section{
		title: "From a changed digest to all replicas",
		text: fmt.Sprintf("The operator's handler hands out a catalog of %d plugins in which the digest of one of 8 MB has changed; until %d replicas with the default limits "+
			"(all on one processor) serve the new module, with a new connection. %d changes.", len(c.Entries), replicas, times),
		head: []string{"median s", "fastest s", "slowest s"},
		rows: [][]string{{seconds(took[len(took)/2]), seconds(took[0]), seconds(took[len(took)-1])}},
		raw:  took,
	}, nil
}

// pods starts pods with empty volumes, and waits until each serves so many
// plugins; stop is never nil.
func (b *bench) pods(name string, n int, operator string, plugins int) (all []*served, stop func(), err error) {
	stop = func() {
		for _, s := range all {
			s.stop()
		}
	}
	for i := range n {
		address, err := freePort()
		if err != nil {
			return nil, stop, err
		}
		own := fmt.Sprintf("%s-%d", name, i)
		volume := filepath.Join(b.dir, own)
		if err := os.Mkdir(volume, 0o755); err != nil {
			return nil, stop, err
		}
		pod, err := b.ours(own, volume, place{address: address, pod: true, operator: operator})
		if err != nil {
			return nil, stop, err
		}
		all = append(all, pod)
	}
	for _, pod := range all {
		if err := pod.whole(plugins); err != nil {
			return all, stop, err
		}
	}
	return all, stop, nil
}

// whole waits until a pod serves so many plugins.
func (s *served) whole(plugins int) error {
	return eventually("plugins on "+s.name, func() bool {
		response, err := http.Get("http://" + s.ops + "/state") //nolint:noctx // to this machine
		if err != nil {
			return false
		}
		defer response.Body.Close()
		var state serve.State
		return json.NewDecoder(response.Body).Decode(&state) == nil && state.Plugins == plugins && len(state.Missing) == 0
	})
}

// replaced waits until all replicas serve a module.
func replaced(replicas []*served, e catalog.Entry) error {
	for _, s := range replicas {
		err := eventually("the new module on "+s.name, func() bool {
			request, err := http.NewRequestWithContext(context.Background(), http.MethodHead, "http://"+s.address+"/plugins/"+e.Name+"/"+e.Version+"/plugin.wasm", nil)
			if err != nil {
				return false
			}
			request.Header.Set("Accept-Encoding", "identity")
			response, err := http.DefaultClient.Do(request)
			return err == nil && response.Body.Close() == nil && response.Header.Get("ETag") == `"sha256-`+e.SHA256+`"`
		})
		if err != nil {
			return err
		}
	}
	return nil
}

func eventually(what string, is func() bool) error {
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if is() {
			return nil
		}
	}
	return fmt.Errorf("five minutes were not enough for %s", what)
}
