//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"oras.land/oras-go/v2"
	orasfile "oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/registry/remote"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// cold fills an empty pod from an empty operator, and beside it copies the same
// artifacts with plain oras: from a registry that is far away one after the
// other, as upstream's way is, and from one that is near eight at a time.
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
	s := section{
		title: fmt.Sprintf("Cold fill with %d plugins", count),
		text: fmt.Sprintf("%d plugins of 6 to 10 MB, %.0f MB together, in the shape of the official ones (tar.gz). The far registry takes %d ms for each answer and sends %.1f MB a second on each connection; "+
			"the near one is the loopback device. Ours is the way from an empty operator (queue, fetch, inspection, gzip, store, handler; in the process of the benchmark) and an empty pod (default limits) to a pod that serves all of them. "+
			"Upstream's way is a plain oras copy of each artifact, each with a new client; nothing is unpacked or checked further. Medians of %d runs from the near registry, which take turns.",
			count, float64(total)/1e6, registryPause.Milliseconds(), float64(registryRate)/1e6, nearRuns),
		head: []string{"registry", "", "seconds", "times as fast"},
	}
	raw := map[string]any{}
	for _, far := range []bool{true, false} {
		remote.far = far
		if err := b.coldBeside(&s, remote, raw); err != nil {
			return section{}, err
		}
	}
	s.raw = raw
	return s, nil
}

const (
	// nearRuns is how often the near registry is read by each.
	nearRuns = 3
	// atATime is how many plain pulls run at once from the near registry.
	atATime = 8
)

// coldBeside measures both ways from one registry.
func (b *bench) coldBeside(s *section, r *registry, raw map[string]any) error {
	name, pulls, runs := "near", atATime, nearRuns
	if r.far {
		name, pulls, runs = "far", 1, 1
	}
	var upstream, both, pod []time.Duration
	for run := range runs {
		took, err := b.oras(r, pulls)
		if err != nil {
			return err
		}
		cold, warm, err := b.fill(r, fmt.Sprintf("%s-%d", name, run))
		if err != nil {
			return err
		}
		b.say("%s registry: oras, %d at a time: %s; operator and pod: %s; another pod: %s", name, pulls, took, cold, warm)
		upstream, both, pod = append(upstream, took), append(both, cold), append(pod, warm)
	}
	raw[name] = map[string][]time.Duration{"oras": upstream, "operatorAndPod": both, "pod": pod}
	peer := middle(upstream)
	for _, row := range []struct {
		name string
		took time.Duration
	}{{fmt.Sprintf("oras, %d at a time", pulls), peer}, {"empty operator and empty pod", middle(both)}, {"an empty pod, the operator has the modules", middle(pod)}} {
		s.rows = append(s.rows, []string{name, row.name, seconds(row.took), fmt.Sprintf("%.1f", peer.Seconds()/row.took.Seconds())})
	}
	if ratio := middle(both).Seconds() / peer.Seconds(); r.far {
		s.check(1/ratio >= 5, "far away, an empty operator and an empty pod are at least 5 times as fast as oras, one after the other: %.1f", 1/ratio)
	} else {
		s.check(ratio <= 1.3, "near by, an empty operator and an empty pod take at most 1.3 times as long as oras, %d at a time: %.2f", pulls, ratio)
		ratio = middle(pod).Seconds() / peer.Seconds()
		s.check(ratio <= 1.3, "and an empty pod, where the operator has the modules: %.2f", ratio)
	}
	return nil
}

func middle(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// oras copies all artifacts, each as a run of the program oras would, some at a time.
func (b *bench) oras(r *registry, atATime int) (time.Duration, error) {
	began := time.Now()
	var copying errgroup.Group
	copying.SetLimit(atATime)
	for _, p := range r.entries {
		copying.Go(func() error { return b.orasCopy(r, p) })
	}
	err := copying.Wait()
	return time.Since(began), err
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
func (b *bench) fill(r *registry, name string) (both, pod time.Duration, err error) {
	dir := filepath.Join(b.dir, "store-"+name)
	content, err := store.Open(dir, 1<<40)
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
	_, stop, err := b.pods("cold-"+name, 1, operator.url, len(r.entries))
	both = time.Since(began)
	stop()
	if err != nil {
		return 0, 0, err
	}
	if err := <-fetched; err != nil {
		return 0, 0, err
	}
	began = time.Now()
	_, stop, err = b.pods("warm-"+name, 1, operator.url, len(r.entries))
	pod = time.Since(began)
	stop()
	for _, used := range []string{dir, filepath.Join(b.dir, "cold-"+name+"-0"), filepath.Join(b.dir, "warm-"+name+"-0")} {
		err = errors.Join(err, os.RemoveAll(used)) // for the room
	}
	return both, pod, err
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
