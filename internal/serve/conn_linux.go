package serve

import (
	"context"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// conn is a client's connection that sends files without waiting. net/http keeps
// a buffer of 32 KiB for as long as a ReadFrom takes, which of 5,000 slow clients
// would be 160 MiB: so ReadFrom returns when the client has to read first, and the
// waiting is done outside.
type conn struct {
	*net.TCPConn
	raw  syscall.RawConn
	full bool // the last ReadFrom ended because the client has to read first
	more bool // the next Write is a header with a file behind it
}

// connListener makes conns of the connections of a listener.
type connListener struct{ net.Listener }

func (l connListener) Accept() (net.Conn, error) {
	accepted, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	tcp, ok := accepted.(*net.TCPConn)
	if !ok {
		return accepted, nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil, errors.Join(err, tcp.Close())
	}
	return &conn{TCPConn: tcp, raw: raw}, nil
}

type connKey struct{}

// withConn lets the requests of a connection find it.
func withConn(ctx context.Context, c net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, c)
}

// connOf gives the connection of a request; nil where it is another one.
func connOf(ctx context.Context) *conn {
	c, _ := ctx.Value(connKey{}).(*conn)
	return c
}

// Write leaves a header to the kernel to send together with what follows, which
// wakes the client once instead of twice.
func (c *conn) Write(p []byte) (n int, err error) {
	if !c.more {
		return c.TCPConn.Write(p)
	}
	c.more = false
	var failed error
	err = c.raw.Write(func(fd uintptr) bool {
		n, failed = unix.SendmsgN(int(fd), p, nil, nil, unix.MSG_MORE|unix.MSG_NOSIGNAL)
		return !errors.Is(failed, unix.EAGAIN) && !errors.Is(failed, unix.EINTR)
	})
	if err = errors.Join(err, os.NewSyscallError("sendmsg", failed)); err == nil && n < len(p) {
		var rest int
		rest, err = c.TCPConn.Write(p[n:])
		n += rest
	}
	return max(n, 0), err
}

// ReadFrom sends as much of a limited file as the connection takes now.
func (c *conn) ReadFrom(src io.Reader) (n int64, err error) {
	limited, ok := src.(*io.LimitedReader)
	if !ok {
		return c.TCPConn.ReadFrom(src)
	}
	file, ok := limited.R.(*os.File)
	if !ok {
		return c.TCPConn.ReadFrom(src)
	}
	from := int(file.Fd())
	var failed error
	err = c.raw.Write(func(fd uintptr) bool {
		var sent int
		for limited.N > 0 && failed == nil {
			sent, failed = unix.Sendfile(int(fd), from, nil, int(limited.N))
			if failed == nil && sent == 0 {
				break // the file has ended
			}
			if errors.Is(failed, unix.EINTR) {
				failed = nil
			}
			n, limited.N = n+int64(max(sent, 0)), limited.N-int64(max(sent, 0))
		}
		return true
	})
	switch {
	case err != nil:
		return n, err
	case errors.Is(failed, unix.EAGAIN):
		c.full = true
		return n, nil
	case n == 0 && (errors.Is(failed, unix.EINVAL) || errors.Is(failed, unix.ENOSYS) || errors.Is(failed, unix.EOPNOTSUPP)):
		return c.TCPConn.ReadFrom(src) // a file system that cannot do it
	}
	return n, os.NewSyscallError("sendfile", failed)
}

// wait waits until the connection takes more, or until its deadline.
func (c *conn) wait() error {
	asked := false
	return c.raw.Write(func(fd uintptr) bool {
		if asked {
			return true
		}
		asked = true
		// The poller reports only what happens from here on.
		ready := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLOUT}}
		n, err := unix.Poll(ready, 0)
		return err == nil && n > 0
	})
}

// queued is how much of what was sent the client's kernel has not confirmed, in
// bytes; where that is not known, nothing was confirmed since.
func (c *conn) queued() int64 {
	queued := math.MaxInt
	err := c.raw.Control(func(fd uintptr) {
		if n, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ); err == nil {
			queued = n
		}
	})
	if err != nil {
		return math.MaxInt
	}
	return int64(queued)
}
