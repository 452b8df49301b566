package follow

import (
	"errors"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// unacknowledged is how long what was sent may stay unacknowledged. Keep-alive
// does not look at a connection on which something is under way, and the kernel
// gives up after a quarter of an hour.
const unacknowledged = 10 * time.Second

// giveUpUnacknowledged sets a socket's TCP_USER_TIMEOUT.
func giveUpUnacknowledged(_, _ string, c syscall.RawConn) error {
	var set error
	err := c.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(unacknowledged.Milliseconds()))
	})
	return errors.Join(err, set)
}
