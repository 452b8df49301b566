//go:build linux

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// A fleet that restarts: every agent asks for every plugin at the same moment.
const (
	agents       = 20
	fleetPlugins = 44 // of one Higress release
)

// fleet measures the restart of a fleet of gateways, behind links of 1 Gbit/s.
func (b *bench) fleet() (section, error) {
	count := shorter(b, 4, fleetPlugins)
	low, high := 5_000_000, 8_400_000 // 295 MB in all, as the official ones of a release
	plugins := official(count, low, high, 300)
	total := 0
	var paths []string
	for _, p := range plugins {
		total += p.size
		for range agents { // the next path is for the next connection, which has the next replica
			paths = append(paths, p.path())
		}
	}
	net, err := b.newNetwork()
	if err != nil {
		return section{}, err
	}
	replicas, stop, err := b.replicas("fleet", plugins, net.replica)
	if err != nil {
		return section{}, err
	}
	defer stop()
	s := section{
		title: "A fleet restart",
		text: fmt.Sprintf("%d agents ask for %d plugins (%.0f MB together) at the same moment, %d requests with a new connection each, from two replicas with the default limits, "+
			"each behind a link of 1 Gbit/s: a network namespace with a token bucket (`tc`, tbf) on its only device. A request that takes longer than 15 s has failed, as in a gateway; the client does not try again. "+
			"Without gzip the links alone need %.1f s.", agents, count, float64(total)/1e6, agents*count, float64(total)*agents*8/2/1e9),
		head: []string{"encoding", "answered", "failed", "p50 s", "p99 s", "last s", "MB/s", "memory of the processes", "killed"},
	}
	raw := map[string]any{}
	for _, zipped := range []bool{true, false} {
		got, err := b.run(load{Targets: addresses(replicas), Paths: paths, Gzip: zipped, Connections: len(paths), Requests: len(paths)}, net.clients)
		if err != nil {
			return section{}, err
		}
		b.say("%s: the last after %s, failed %v", encoding(zipped), got.Took.Round(time.Millisecond), got.Failed)
		resident, _, killed := memory(replicas)
		raw[encoding(zipped)] = map[string]any{"clients": got, "resident": resident, "killed": killed}
		s.rows = append(s.rows, []string{
			encoding(zipped), fmt.Sprint(got.Requests), fmt.Sprint(got.failures()), seconds(got.quantile(50)), seconds(got.quantile(99)), seconds(got.Took),
			fmt.Sprintf("%.0f", float64(got.Bytes)/1e6/got.Took.Seconds()), mebibytes(resident), fmt.Sprint(killed),
		})
		if zipped { // a gateway always accepts it
			s.check(got.failures() == 0, "every request of a gateway, which accepts gzip, within 15 s: the slowest took %s s", seconds(got.quantile(100)))
		}
	}
	s.raw = raw
	return s, nil
}

// network is that of a fleet: a namespace for the clients, and one for each
// replica, with a link between.
type network struct{ clients, name string }

func (b *bench) newNetwork() (*network, error) {
	n := &network{name: fmt.Sprintf("psbench%d", os.Getpid())}
	n.clients = n.name + "-c"
	if err := b.newNetns(n.clients); err != nil {
		return nil, err
	}
	for i := range 2 {
		own := fmt.Sprintf("%s-%d", n.name, i)
		if err := b.newNetns(own); err != nil {
			return nil, err
		}
		device := fmt.Sprintf("link%d", i)
		for _, line := range []string{
			fmt.Sprintf("ip -n %s link add %s type veth peer name eth0 netns %s", n.clients, device, own),
			fmt.Sprintf("ip -n %s addr add 10.99.%d.1/24 dev %s", n.clients, i, device),
			fmt.Sprintf("ip -n %s addr add 10.99.%d.2/24 dev eth0", own, i),
			fmt.Sprintf("ip -n %s link set %s up", n.clients, device),
			fmt.Sprintf("ip -n %s link set eth0 up", own),
			fmt.Sprintf("tc -n %s qdisc add dev eth0 root tbf rate 1gbit burst 256kb latency 20ms", own),
		} {
			if err := execute(line); err != nil {
				return nil, err
			}
		}
	}
	return n, nil
}

// replica says where a replica is.
func (n *network) replica(i int) (address, netns string, err error) {
	return fmt.Sprintf("10.99.%d.2:8080", i), fmt.Sprintf("%s-%d", n.name, i), nil
}

func (b *bench) newNetns(name string) error {
	if err := b.guard.knows("netns", name); err != nil {
		return err
	}
	if err := execute("ip netns add " + name); err != nil {
		return err
	}
	return execute("ip -n " + name + " link set lo up")
}

func removeNetns(name string) error {
	if _, err := os.Stat(filepath.Join("/run/netns", name)); os.IsNotExist(err) {
		return nil
	}
	return execute("ip netns delete " + name)
}

// execute runs one line, which has no quotes.
func execute(line string) error {
	argv := strings.Fields(line)
	if output, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, strings.TrimSpace(string(output)))
	}
	return nil
}
