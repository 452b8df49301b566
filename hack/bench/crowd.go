//go:build linux

package main

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// crowd is many clients that are slow: they ask for a module, and then read a
// little of it each second, until they are ended.
type crowd struct {
	Target string
	Path   string
	Size   int
	Rate   int // bytes a second, each
}

// crowdTicks is into how many parts a second is divided, so that not all read at
// once: the healthy client, which shares their processor, would wait for them.
const crowdTicks = 500

// runCrowd is the program. It says "ready" once all have begun.
func runCrowd() error {
	var c crowd
	if err := json.NewDecoder(os.Stdin).Decode(&c); err != nil {
		return err
	}
	address, err := netip.ParseAddrPort(c.Target)
	if err != nil {
		return err
	}
	var all []int
	for range c.Size {
		fd, err := c.join(&unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()})
		if err != nil {
			return fmt.Errorf("after %d connections: %w", len(all), err)
		}
		all = append(all, fd)
	}
	fmt.Println("ready")
	buffer := make([]byte, c.Rate)
	tick := time.NewTicker(time.Second / crowdTicks)
	for n := 0; ; n++ {
		<-tick.C
		for i := n % crowdTicks; i < len(all); i += crowdTicks {
			_, _, _ = unix.Recvfrom(all[i], buffer, 0) // the server's log says who was let go
		}
	}
}

// join makes one connection and sends its request.
func (c crowd) join(to unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	// Little is underway, as with a client far away: what has been sent was read.
	if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, 16<<10); err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, to); err != nil {
		return 0, err
	}
	if _, err := unix.Write(fd, []byte("GET "+c.Path+" HTTP/1.1\r\nHost: plugins\r\n\r\n")); err != nil {
		return 0, err
	}
	return fd, unix.SetNonblock(fd, true)
}
