//go:build linux

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// load is what a client does. It is a program of its own, on its own processor,
// that drives all connections from one loop and lets the kernel throw bodies
// away (MSG_TRUNC): it costs so little that the server is what is measured.
type load struct {
	Targets     []string // HOST:PORT, taken in turn by connections
	Paths       []string // taken in turn by requests
	Gzip        bool     // accept it, as gateways do
	Connections int
	KeepAlive   bool          // otherwise a new connection for each request
	For         time.Duration // no request begins later; or
	Requests    int           // so many in all
	Every       time.Duration // pause between the beginnings of requests, for one connection
	Within      time.Duration // a request that takes longer has failed
	Gateway     bool          // with Go's client instead, see gateway
}

// loaded is how that went.
type loaded struct {
	Requests int
	Bytes    int64          // of bodies
	Failed   map[string]int `json:",omitempty"` // by reason
	Took     time.Duration  // until the last answer was there
	each     []time.Duration
	Quantile map[string]int64 // of the times of the requests that succeeded, in microseconds
}

func (l loaded) failures() (n int) {
	for _, count := range l.Failed {
		n += count
	}
	return n
}

// runLoad is the program.
func runLoad() error {
	var l load
	if err := json.NewDecoder(os.Stdin).Decode(&l); err != nil {
		return err
	}
	do := drive
	if l.Gateway {
		do = gateway
	}
	done, err := do(l)
	if err != nil {
		return err
	}
	done.summarize()
	return json.NewEncoder(os.Stdout).Encode(done)
}

// drive does what a load asks for.
func drive(l load) (loaded, error) {
	e, err := newEngine(l)
	if err != nil {
		return loaded{}, err
	}
	err = e.run()
	return e.done, err
}

// engine drives the connections.
type engine struct {
	load
	epoll   int
	targets []unix.SockaddrInet4
	began   time.Time
	started int // requests
	open    int // connections
	conns   map[int32]*conn
	buffer  []byte
	done    loaded
}

// conn is one connection with at most one request.
type conn struct {
	fd     int32
	target int
	number int // of the request
	began  time.Time
	sent   bool
	head   []byte // what came of the header
	inBody bool
	left   int64 // of the body
}

func newEngine(l load) (*engine, error) {
	e := &engine{load: l, conns: map[int32]*conn{}, buffer: make([]byte, 4<<20), done: loaded{Failed: map[string]int{}}}
	for _, target := range l.Targets {
		address, err := netip.ParseAddrPort(target)
		if err != nil {
			return nil, err
		}
		e.targets = append(e.targets, unix.SockaddrInet4{Port: int(address.Port()), Addr: address.Addr().As4()})
	}
	if e.Within == 0 {
		e.Within = 15 * time.Second // a gateway's
	}
	var err error
	e.epoll, err = unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	return e, err
}

func (e *engine) run() error {
	e.began = time.Now()
	for i := range e.Connections {
		if err := e.connect(i % len(e.targets)); err != nil {
			return err
		}
	}
	events := make([]unix.EpollEvent, 256)
	checked := e.began
	for e.open > 0 {
		n, err := unix.EpollWait(e.epoll, events, 100)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
		for i := range max(n, 0) {
			if c := e.conns[events[i].Fd]; c != nil {
				if err := e.ready(c); err != nil {
					return err
				}
			}
		}
		if now := time.Now(); now.Sub(checked) > 100*time.Millisecond {
			checked = now
			if err := e.expire(now); err != nil {
				return err
			}
		}
	}
	e.done.Took = time.Since(e.began)
	return nil
}

// more says whether another request is to be made.
func (e *engine) more() bool {
	if e.Requests > 0 {
		return e.started < e.Requests
	}
	return time.Since(e.began) < e.For
}

// connect opens a connection for a request, if there is another one to be made.
func (e *engine) connect(target int) error {
	if !e.more() {
		return nil
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	c := &conn{fd: int32(fd), target: target, number: e.started, began: time.Now()}
	e.started++
	e.conns[c.fd] = c
	e.open++
	if err := unix.Connect(fd, &e.targets[target]); err != nil && !errors.Is(err, unix.EINPROGRESS) {
		return e.fail(c, err.Error())
	}
	return unix.EpollCtl(e.epoll, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLOUT, Fd: c.fd})
}

// send sends the request of a connection.
func (e *engine) send(c *conn) error {
	request := "GET " + e.Paths[c.number%len(e.Paths)] + " HTTP/1.1\r\nHost: plugins\r\nUser-Agent: Go-http-client/1.1\r\n"
	if e.Gzip {
		request += "Accept-Encoding: gzip\r\n"
	}
	c.sent, c.head, c.inBody = true, c.head[:0], false
	if _, err := unix.Write(int(c.fd), []byte(request+"\r\n")); err != nil {
		return e.fail(c, err.Error())
	}
	return nil
}

// ready goes on with a connection on which something can be done.
func (e *engine) ready(c *conn) error {
	if !c.sent {
		if code, err := unix.GetsockoptInt(int(c.fd), unix.SOL_SOCKET, unix.SO_ERROR); err != nil || code != 0 {
			return e.fail(c, unix.Errno(code).Error())
		}
		if err := unix.EpollCtl(e.epoll, unix.EPOLL_CTL_MOD, int(c.fd), &unix.EpollEvent{Events: unix.EPOLLIN, Fd: c.fd}); err != nil {
			return err
		}
		return e.send(c)
	}
	flags := 0
	if c.inBody {
		flags = unix.MSG_TRUNC
	}
	want := len(e.buffer)
	if !c.inBody {
		want = 4096
	}
	n, _, err := unix.Recvfrom(int(c.fd), e.buffer[:want], flags)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return nil
	case err != nil:
		return e.fail(c, err.Error())
	case n == 0:
		return e.fail(c, "cut off")
	case c.inBody:
		c.left -= int64(n)
	default:
		if reason := e.header(c, e.buffer[:n]); reason != "" {
			return e.fail(c, reason)
		}
	}
	if c.inBody && c.left <= 0 {
		return e.finish(c)
	}
	return nil
}

// header takes what came of the header, and of the body behind it. It returns
// what is wrong with the answer.
func (e *engine) header(c *conn, b []byte) (reason string) {
	c.head = append(c.head, b...)
	end := bytes.Index(c.head, []byte("\r\n\r\n"))
	if end < 0 {
		return ""
	}
	head := c.head[:end+2]
	if !bytes.HasPrefix(head, []byte("HTTP/1.1 200 ")) {
		return string(head[:min(len(head), 12)])
	}
	if zipped := bytes.Contains(head, []byte("\r\nContent-Encoding: gzip\r\n")); zipped != e.Gzip {
		return "the other encoding"
	}
	_, rest, _ := bytes.Cut(head, []byte("\r\nContent-Length: "))
	length, _, _ := bytes.Cut(rest, []byte("\r\n"))
	size, err := strconv.ParseInt(string(length), 10, 64)
	if err != nil {
		return "no length"
	}
	c.inBody, c.left = true, size-int64(len(c.head)-end-4)
	e.done.Bytes += size
	return ""
}

// finish notes an answer, and makes the next request.
func (e *engine) finish(c *conn) error {
	if c.left < 0 {
		return e.fail(c, "more than its length")
	}
	e.done.Requests++
	e.done.each = append(e.done.each, time.Since(c.began))
	if e.Every > 0 {
		time.Sleep(e.Every - time.Since(c.began))
	}
	if !e.KeepAlive {
		e.close(c)
		return e.connect(c.target)
	}
	if !e.more() {
		e.close(c)
		return nil
	}
	c.number, c.began = e.started, time.Now()
	e.started++
	return e.send(c)
}

func (e *engine) fail(c *conn, reason string) error {
	if c.inBody {
		e.done.Bytes -= c.left // what did not come
	}
	e.done.Failed[reason]++
	e.close(c)
	return e.connect(c.target)
}

func (e *engine) close(c *conn) {
	delete(e.conns, c.fd)
	e.open--
	_ = unix.Close(int(c.fd)) // nothing is to be written any more
}

// expire gives up requests that take too long, as a gateway does.
func (e *engine) expire(now time.Time) error {
	for _, c := range e.conns {
		if now.Sub(c.began) > e.Within {
			if err := e.fail(c, "not within "+e.Within.String()); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *loaded) summarize() {
	slices.Sort(l.each)
	l.Quantile = map[string]int64{}
	for _, q := range []int{50, 90, 99, 100} {
		if n := len(l.each); n > 0 {
			l.Quantile[fmt.Sprint(q)] = l.each[(n-1)*q/100].Microseconds()
		}
	}
}
