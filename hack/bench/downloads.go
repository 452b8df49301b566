//go:build linux

package main

import (
	"fmt"
	"time"
)

// downloads lets a thousand clients download 8 MB at once from two replicas.
func (b *bench) downloads() (section, error) {
	count := shorter(b, 200, 1000)
	module := newPlugin("module", 8e6, 200)
	replicas, stop, err := b.replicas("downloads", []plugin{module}, func(int) (string, string, error) {
		address, err := freePort()
		return address, "", err
	})
	if err != nil {
		return section{}, err
	}
	defer stop()
	s := section{
		title: fmt.Sprintf("%d concurrent downloads of 8 MB", count),
		text: fmt.Sprintf("%d clients ask for a module of 8 MB at the same moment, each with a new connection, half of them one of two replicas with the default limits "+
			"(0.5 processors, 256 MiB, with sync beside it). The replicas share one processor; a client that has waited for 15 s has failed, as a gateway's request.", count),
		head: []string{"encoding", "answered", "failed", "p50 s", "p99 s", "last s", "MB/s", "memory of the processes", "with pages of files", "killed"},
	}
	raw := map[string]any{}
	for _, zipped := range []bool{false, true} {
		got, err := b.run(load{Targets: addresses(replicas), Paths: []string{module.path()}, Gzip: zipped, Connections: count, Requests: count}, "")
		if err != nil {
			return section{}, err
		}
		b.say("%s: the last after %s, failed %v", encoding(zipped), got.Took.Round(time.Millisecond), got.Failed)
		resident, most, killed := memory(replicas)
		raw[encoding(zipped)] = map[string]any{"clients": got, "resident": resident, "memory": most, "killed": killed}
		s.rows = append(s.rows, []string{
			encoding(zipped), fmt.Sprint(got.Requests), fmt.Sprint(got.failures()), seconds(got.quantile(50)), seconds(got.quantile(99)), seconds(got.Took),
			fmt.Sprintf("%.0f", float64(got.Bytes)/1e6/got.Took.Seconds()), mebibytes(resident), mebibytes(most), fmt.Sprint(killed),
		})
		s.check(got.failures() == 0, "%s: every download within 15 s, the slowest took %s s", encoding(zipped), seconds(got.quantile(100)))
		s.check(killed == 0 && resident < defaults.memory, "%s: memory within the limit", encoding(zipped))
	}
	s.raw = raw
	return s, nil
}

// replicas starts two plugin servers with the default limits on volumes of their
// own. where gives the address and the network namespace of each.
func (b *bench) replicas(name string, plugins []plugin, where func(i int) (address, netns string, err error)) (all []*served, stop func(), err error) {
	stop = func() {
		for _, s := range all {
			s.stop()
		}
	}
	defer func() {
		if err != nil {
			stop()
		}
	}()
	for i := range 2 {
		own := fmt.Sprintf("%s-%d", name, i)
		made := make([]plugin, len(plugins))
		copy(made, plugins) // the volume forgets the modules
		volume, err := b.volume(own, made)
		if err != nil {
			return all, stop, err
		}
		address, netns, err := where(i)
		if err != nil {
			return all, stop, err
		}
		server, err := b.ours(own, volume, place{address: address, netns: netns, pod: true})
		if err != nil {
			return all, stop, err
		}
		all = append(all, server)
	}
	return all, stop, nil
}

func addresses(replicas []*served) (all []string) {
	for _, s := range replicas {
		all = append(all, s.address)
	}
	return all
}

// memory is the most that one replica had, and how many processes were killed
// for want of it.
func memory(replicas []*served) (resident, most, killed int64) {
	for _, s := range replicas {
		with, k := s.cgroup.memory()
		resident, most, killed = max(resident, s.peak()), max(most, with), killed+k
	}
	return resident, most, killed
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f", d.Seconds()) }
