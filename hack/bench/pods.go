//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/handout"
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

func eventually(what string, is func() bool) error {
	for deadline := time.Now().Add(5 * time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if is() {
			return nil
		}
	}
	return fmt.Errorf("five minutes were not enough for %s", what)
}
