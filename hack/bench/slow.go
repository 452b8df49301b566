//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	// crowdSize is the number of slow clients. Each reads 8 KiB a second, twice of
	// what the server asks for at least.
	crowdSize = 5000
	crowdRate = 8 << 10
)

// slow measures a healthy client alone, while 5,000 slow ones are at another server,
// among them, and alone again.
func (b *bench) slow() (section, error) {
	module, small := newPlugin("large", 8e6, 100), newPlugin("healthy", 1e6, 101)
	volume, err := b.volume("slow", []plugin{module, small})
	if err != nil {
		return section{}, err
	}
	server, err := b.oursSomewhere("slow", volume)
	if err != nil {
		return section{}, err
	}
	defer server.stop()
	other, err := b.oursSomewhere("slow-other", volume)
	if err != nil {
		return section{}, err
	}
	defer other.stop()
	cpu := []time.Duration{server.cgroup.cpu()} // after each step
	healthy := func(name string) (loaded, error) {
		n := shorter(b, 100, 1000)
		got, err := b.run(load{
			Targets: []string{server.address}, Paths: []string{small.path()}, Gzip: true, Connections: 1, Requests: n, Every: 10 * time.Millisecond,
		}, "")
		cpu = append(cpu, server.cgroup.cpu())
		b.say("%s: p50 %s, p99 %s, failed %v", name, got.quantile(50), got.quantile(99), got.Failed)
		return got, err
	}
	before, err := healthy("alone")
	if err != nil {
		return section{}, err
	}
	beside, err := b.among(other, module.path(), healthy)
	if err != nil {
		return section{}, err
	}
	among, err := b.among(server, module.path(), healthy)
	if err != nil {
		return section{}, err
	}
	resident := server.peak()
	most, killed := server.cgroup.memory()
	after, err := healthy("alone again")
	if err != nil {
		return section{}, err
	}
	s := slowSection(before, beside, among, after)
	s.raw = map[string]any{"before": before, "beside": beside, "among": among, "after": after, "cpu": cpu, "memory": most, "resident": resident}
	s.check(killed == 0, "within the memory limit: the processes had %s at most, the cgroup %s with pages of files", mebibytes(resident), mebibytes(most))
	return s, nil
}

func slowSection(before, beside, among, after loaded) section {
	s := section{
		title: fmt.Sprintf("%d slow connections", crowdSize),
		text: fmt.Sprintf("A pod with the default limits (0.5 processors, 256 MiB). %d clients ask for a module of 8 MB and read 8 KiB a second; once all have what the kernel's buffers take, a healthy client gets a module of 1 MB "+
			"(gzip, a new connection each time) every 10 ms. The kernel sends for the slow ones on the same two processors, so it is also measured while they are at another server. Times in milliseconds.", crowdSize),
		head: []string{"healthy client", "requests", "failed", "p50", "p90", "p99", "slowest"},
	}
	for _, row := range []struct {
		name string
		got  loaded
	}{
		{"alone", before}, {fmt.Sprintf("%d slow ones are at another server", crowdSize), beside},
		{fmt.Sprintf("among %d slow ones", crowdSize), among}, {"alone again", after},
	} {
		s.rows = append(s.rows, append([]string{row.name, fmt.Sprint(row.got.Requests), fmt.Sprint(row.got.failures())}, row.got.quantiles()...))
	}
	alone := max(before.quantile(99), after.quantile(99))
	for _, than := range []struct {
		what string
		p99  time.Duration
	}{{"while it is alone", alone}, {"while the slow ones are at another server", beside.quantile(99)}} {
		s.check(among.quantile(99) <= 2*than.p99 && among.failures() == 0,
			"the healthy client's p99 is at most twice what it is %s: %.2f times", than.what, float64(among.quantile(99))/float64(than.p99))
	}
	return s
}

// oursSomewhere starts a pod on a free port.
func (b *bench) oursSomewhere(name, volume string) (*served, error) {
	address, err := freePort()
	if err != nil {
		return nil, err
	}
	return b.ours(name, volume, place{address: address, pod: true})
}

// among measures while the slow clients are there.
func (b *bench) among(server *served, path string, measure func(string) (loaded, error)) (loaded, error) {
	in, err := json.Marshal(crowd{Target: server.address, Path: path, Size: crowdSize, Rate: crowdRate})
	if err != nil {
		return loaded{}, err
	}
	self, err := os.Executable()
	if err != nil {
		return loaded{}, err
	}
	slow, err := b.start(command{Argv: []string{self, "__crowd"}, CPU: b.clientCPU}, b.dir+"/crowd.log", in, nil)
	if err != nil {
		return loaded{}, err
	}
	defer func() {
		_ = syscall.Kill(-slow.cmd.Process.Pid, syscall.SIGKILL)
		<-slow.ended
	}()
	if err := slow.says("ready", time.Minute); err != nil {
		return loaded{}, err
	}
	// First everybody gets what fits into the kernel's buffers, megabytes each.
	const look = 500 * time.Millisecond
	for range 120 {
		before := server.cgroup.cpu()
		time.Sleep(look)
		if server.cgroup.cpu()-before < look/10 {
			break
		}
	}
	return measure("among the slow ones")
}

func (l loaded) quantile(q int) time.Duration {
	return time.Duration(l.Quantile[fmt.Sprint(q)]) * time.Microsecond
}

// quantiles are those of a table, in milliseconds.
func (l loaded) quantiles() (all []string) {
	for _, q := range []int{50, 90, 99, 100} {
		all = append(all, fmt.Sprintf("%.1f", float64(l.quantile(q).Microseconds())/1000))
	}
	return all
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", n>>20) }
