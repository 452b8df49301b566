//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"oras.land/oras-go/v2"
	orasfile "oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// cold fills an empty pod from an empty operator, and beside it copies the same
// artifacts with plain oras, one after the other.
func (b *bench) cold() (section, error) {
	count := shorter(b, 8, 90)
	remote, err := startRegistry(filepath.Join(b.dir, "registry"))
	if err != nil {
		return section{}, err
	}
	defer remote.stop()
	total := 0
	for i := range count { // one at a time, for the memory
		p := newPlugin(fmt.Sprintf("plugin-%d", i), 6e6+4e6*i/max(count-1, 1), 700+uint64(i))
		total += p.size
		if err := remote.add(p); err != nil {
			return section{}, err
		}
	}
	b.say("%d plugins are in the registry", count)
	upstream, err := b.orasOneByOne(remote)
	if err != nil {
		return section{}, err
	}
	b.say("oras, one after the other: %s", upstream)
	both, pod, err := b.fill(remote)
	if err != nil {
		return section{}, err
	}
	b.say("operator and pod: %s, another pod: %s", both, pod)
	s := section{
		title: fmt.Sprintf("Cold fill with %d plugins", count),
		text: fmt.Sprintf("%d plugins of 6 to 10 MB, %.0f MB together, in the shape of the official ones (tar.gz), in a registry that takes %d ms for each answer and sends %.1f MB a second on each connection. "+
			"Ours is the way from an empty operator (queue, fetch, inspection, gzip, store, handler; in the process of the benchmark) and an empty pod (default limits) to a pod that serves all of them. "+
			"Upstream's way is a plain oras copy of each artifact, one after the other, each with a new client; nothing is unpacked or checked further.",
			count, float64(total)/1e6, registryPause.Milliseconds(), float64(registryRate)/1e6),
		head: []string{"", "seconds", "times as fast"},
		raw:  map[string]time.Duration{"oras": upstream, "operatorAndPod": both, "pod": pod},
	}
	for _, row := range []struct {
		name string
		took time.Duration
	}{{"oras, one after the other", upstream}, {"empty operator and empty pod", both}, {"an empty pod, the operator has the modules", pod}} {
		s.rows = append(s.rows, []string{row.name, seconds(row.took), fmt.Sprintf("%.1f", upstream.Seconds()/row.took.Seconds())})
	}
	times := upstream.Seconds() / both.Seconds()
	s.check(times >= 5, "an empty operator and an empty pod at least 5 times as fast as oras, one after the other: %.1f", times)
	return s, nil
}

// orasOneByOne copies all artifacts, each as a run of the program oras would.
func (b *bench) orasOneByOne(r *registry) (time.Duration, error) {
	began := time.Now()
	for _, p := range r.entries {
		if err := b.orasCopy(r, p); err != nil {
			return 0, err
		}
	}
	return time.Since(began), nil
}

func (b *bench) orasCopy(r *registry, p plugin) error {
	repository, err := remote.NewRepository(r.host + "/plugins/" + p.name)
	if err != nil {
		return err
	}
	repository.PlainHTTP = true
	folder := filepath.Join(b.dir, "oras", p.name)
	target, err := orasfile.New(folder)
	if err != nil {
		return err
	}
	_, err = oras.Copy(context.Background(), repository, pluginVersion, target, pluginVersion, oras.DefaultCopyOptions)
	return errors.Join(err, target.Close(), os.RemoveAll(folder))
}

// fill fills an empty operator and an empty pod, and then another empty pod.
func (b *bench) fill(r *registry) (both, pod time.Duration, err error) {
	content, err := store.Open(filepath.Join(b.dir, "store"), 1<<40)
	if err != nil {
		return 0, 0, err
	}
	fetcher := fetch.New(fetch.Options{Store: content, AllowLoopback: true, UserAgent: "bench"})
	defer fetcher.Close()
	operator, err := startOperator(content)
	if err != nil {
		return 0, 0, err
	}
	defer operator.stop()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	began := time.Now()
	queue := pipeline.New(fetcher, content, pipeline.Options{})
	go func() { _ = queue.Run(ctx) }() // until it is cancelled
	fetched := make(chan error, 1)
	go func() { fetched <- b.declare(ctx, queue, r, operator) }()
	_, stop, err := b.pods("cold", 1, operator.url, len(r.entries))
	both = time.Since(began)
	stop()
	if err != nil {
		return 0, 0, err
	}
	if err := <-fetched; err != nil {
		return 0, 0, err
	}
	began = time.Now()
	_, stop, err = b.pods("warm", 1, operator.url, len(r.entries))
	stop()
	return both, time.Since(began), err
}

// declare hands out a catalog each second in which what was fetched by then is
// available, as the operator does, until everything is.
func (b *bench) declare(ctx context.Context, queue *pipeline.Queue, r *registry, to *operator) error {
	var items []pipeline.Item
	for _, p := range r.entries {
		items = append(items, pipeline.Item{
			Key:     catalog.Key{Name: p.name, Version: pluginVersion},
			Request: fetch.Request{URL: "oci://" + r.host + "/plugins/" + p.name + ":" + pluginVersion, Access: fetch.Access{PlainHTTP: true}},
		})
	}
	for sequence := int64(1); ; sequence++ {
		c := &catalog.Catalog{Sequence: sequence}
		there := 0
		for _, result := range queue.Want("bench", 0, items) {
			if result.Err != nil {
				return result.Err
			}
			a := result.Artifact
			e := catalog.Entry{Name: result.Key.Name, Version: result.Key.Version}
			if a.SHA256 != "" {
				there++
				e.SHA256, e.MD5, e.Size, e.Digest = a.SHA256, a.MD5, a.Size, a.Digest
			}
			c.Entries = append(c.Entries, e)
		}
		if err := to.hand(c); err != nil || there == len(items) {
			b.say("%d of %d plugins were fetched", there, len(items))
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(time.Second):
		}
	}
}
