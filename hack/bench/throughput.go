//go:build linux

package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/http"
	"slices"
	"time"
)

// clients is the number of connections at one time.
const clients = 8

// cell is one kind of load, and how the servers did under it.
type cell struct {
	Size      string
	Gzip      bool
	KeepAlive bool
	Gateway   bool                // with a gateway's client
	Runs      map[string][]sample // by server
	path      string
	goal      float64
}

// sample is one run of one server.
type sample struct {
	Requests int
	Bytes    int64
	Seconds  float64
	CPU      float64 // seconds of the server
}

func (s sample) perSecond() float64 { return float64(s.Requests) / s.Seconds }
func (s sample) megabytes() float64 { return float64(s.Bytes) / 1e6 / s.Seconds }
func (s sample) cpuPerGB() float64  { return s.CPU / float64(s.Bytes) * 1e9 }

// sizes are those of the modules, and what throughput beside nginx's is the goal.
var sizes = []struct {
	name string
	size int
	goal float64
}{{"300 B", 300, 0.5}, {"1 MB", 1e6, 0.95}, {"5 MB", 5e6, 0.95}, {"20 MB", 20e6, 0.95}}

// throughput lets the plugin server and nginx serve the same volume in turn.
func (b *bench) throughput() (section, error) {
	var plugins []plugin
	for i, s := range sizes {
		plugins = append(plugins, newPlugin(fmt.Sprintf("size-%d", i), s.size, uint64(i)))
	}
	volume, err := b.volume("volume", plugins)
	if err != nil {
		return section{}, err
	}
	servers, err := b.both(volume)
	if err != nil {
		return section{}, err
	}
	defer func() {
		for _, s := range servers {
			s.stop()
		}
	}()
	for _, s := range servers {
		for _, p := range plugins {
			if err := verify(s.address, p); err != nil {
				return section{}, fmt.Errorf("%s: %w", s.name, err)
			}
		}
	}
	b.say("both servers give the right bytes")
	cells := cellsOf(plugins)
	rounds := shorter(b, 2, 5)
	for _, c := range cells {
		for round := range rounds {
			for i := range servers {
				s := servers[(i+round)%len(servers)] // who is first changes, too
				if err := b.sample(c, s); err != nil {
					return section{}, fmt.Errorf("%s: %s: %w", c, s.name, err)
				}
			}
		}
		b.say("%s: throughput %.2f of nginx's, CPU per GB %.2f", c, c.ratio(sample.perSecond), c.ratio(sample.cpuPerGB))
	}
	return throughputSection(cells, rounds), nil
}

// cellsOf are all kinds of load.
func cellsOf(plugins []plugin) (cells []*cell) {
	for _, gateway := range []bool{false, true} {
		for _, keepAlive := range []bool{true, false} {
			for _, zipped := range []bool{false, true} {
				for i, s := range sizes {
					if gateway && s.size < 1e6 {
						continue // no gateway asks for so little
					}
					cells = append(cells, &cell{
						Size: s.name, Gzip: zipped, KeepAlive: keepAlive, Gateway: gateway, Runs: map[string][]sample{}, path: plugins[i].path(), goal: s.goal,
					})
				}
			}
		}
	}
	return cells
}

func (b *bench) both(volume string) ([]*served, error) {
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	ours, err := b.ours("ours", volume, place{address: address})
	if err != nil {
		return nil, err
	}
	if address, err = freePort(); err != nil {
		return nil, err
	}
	nginx, err := b.startNginx(volume, address)
	return []*served{ours, nginx}, err
}

// sample lets one server work for a second.
func (b *bench) sample(c *cell, s *served) error {
	l := load{
		Targets: []string{s.address}, Paths: []string{c.path}, Gzip: c.Gzip, KeepAlive: c.KeepAlive, Gateway: c.Gateway, Connections: clients,
		For: shorter(b, 300*time.Millisecond, time.Second),
	}
	before := s.cgroup.cpu()
	got, err := b.run(l, "")
	if err != nil {
		return err
	}
	if got.failures() > 0 {
		return fmt.Errorf("failed: %v", got.Failed)
	}
	c.Runs[s.name] = append(c.Runs[s.name], sample{got.Requests, got.Bytes, got.Took.Seconds(), (s.cgroup.cpu() - before).Seconds()})
	return nil
}

func (c *cell) String() string {
	text := c.Size + ", " + encoding(c.Gzip) + map[bool]string{true: ", kept connections", false: ", new connections"}[c.KeepAlive]
	if c.Gateway {
		text += ", gateway's client"
	}
	return text
}

func encoding(zipped bool) string {
	if zipped {
		return "gzip"
	}
	return "identity"
}

// ratio is ours to nginx's, of medians.
func (c *cell) ratio(of func(sample) float64) float64 {
	return median(c.Runs["ours"], of) / median(c.Runs["nginx"], of)
}

func median(runs []sample, of func(sample) float64) float64 { return spread(runs, of)[len(runs)/2] }

// spread gives the values in order.
func spread(runs []sample, of func(sample) float64) (all []float64) {
	for _, s := range runs {
		all = append(all, of(s))
	}
	slices.Sort(all)
	return all
}

// verify gets both encodings of a module and looks at every byte.
func verify(address string, p plugin) error {
	for _, zipped := range []bool{false, true} {
		request, err := http.NewRequest(http.MethodGet, "http://"+address+p.path(), nil)
		if err != nil {
			return err
		}
		if !zipped {
			request.Header.Set("Accept-Encoding", "identity") // else Go asks for gzip, and undoes it
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			return err
		}
		sum := sha256.New()
		_, err = io.Copy(sum, response.Body)
		if err := response.Body.Close(); err != nil {
			return err
		}
		if got := hex.EncodeToString(sum.Sum(nil)); err != nil || got != p.sha256 || response.Uncompressed != zipped {
			return fmt.Errorf("%s, %s: other bytes: %s (%w)", p.path(), encoding(zipped), response.Status, err)
		}
	}
	return nil
}

func throughputSection(cells []*cell, rounds int) section {
	s := section{
		title: "Throughput beside nginx",
		text: fmt.Sprintf("Both servers serve the same volume at the same paths, each on the same processor and with one worker (`GOMAXPROCS` 1), "+
			"in turn, %d runs of a second for each line, %d connections, on the loopback device. Every body was compared by its SHA-256 before. The clients have another processor. "+
			"The first ones let the kernel throw the bodies away and cost next to nothing, so that the server is the limit. A gateway's client is Go's, undoes the gzip and takes the SHA-256 of each module: "+
			"then it is the limit, and MB/s are those of the modules. Both servers write a line of JSON with the same fields for each request, at once and not in blocks: nobody should wait for a line of the log. "+
			"CPU is the time of the server's cgroup. Medians; in brackets the lowest and highest run.", rounds, clients),
		head: []string{"load", "ours MB/s", "nginx MB/s", "ours req/s", "nginx req/s", "throughput", "goal", "CPU s/GB ours", "nginx", "CPU ratio"},
		raw:  cells,
	}
	for _, c := range cells {
		row := []string{c.String()}
		for _, name := range []string{"ours", "nginx"} {
			all := spread(c.Runs[name], sample.megabytes)
			row = append(row, fmt.Sprintf("%.0f (%.0f–%.0f)", all[len(all)/2], all[0], all[len(all)-1]))
		}
		for _, name := range []string{"ours", "nginx"} {
			row = append(row, fmt.Sprintf("%.0f", median(c.Runs[name], sample.perSecond)))
		}
		ratio, cost := c.ratio(sample.perSecond), c.ratio(sample.cpuPerGB)
		row = append(row, fmt.Sprintf("**%.2f**", ratio), fmt.Sprintf("%.2f", c.goal))
		for _, name := range []string{"ours", "nginx"} {
			row = append(row, fmt.Sprintf("%.3f", median(c.Runs[name], sample.cpuPerGB)))
		}
		s.rows = append(s.rows, append(row, fmt.Sprintf("**%.2f**", cost)))
		s.check(ratio >= c.goal, "%s: throughput %.2f of nginx's, at least %.2f", c, ratio, c.goal)
		if c.goal > 0.5 && !c.Gateway { // where the client is the limit, most of it is waiting
			s.check(cost <= 1.05, "%s: CPU per GB %.2f of nginx's, at most 1.05", c, cost)
		}
	}
	return s
}
