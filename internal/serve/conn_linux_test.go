package serve

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// TestNothingIsHeldBack: a header that is left to the kernel, to be sent with
// what follows, would wait for 200 ms if nothing followed.
func TestNothingIsHeldBack(t *testing.T) {
	t.Parallel()
	r := start(t, Options{})
	var all []publishtest.Module
	for i, size := range []int{8, 300, sniffed - 1, sniffed, sniffed + 1, 600, piece - 1, piece, piece + 1, burst + sniffed, 2*burst + 5} {
		all = append(all, publishtest.New("a", fmt.Sprint(i), size, uint64(i)))
	}
	r.publish(t, publishtest.Catalog(1, all...), all...)
	for _, m := range all {
		slow := 0
		for range 5 {
			began := time.Now()
			response, body := r.get(t, "/plugins/a/"+m.Entry.Version+"/plugin.wasm", "Accept-Encoding", "identity")
			if response.StatusCode != 200 || !bytes.Equal(body, m.Bytes) {
				t.Fatalf("%d bytes: %s and %d other bytes", len(m.Bytes), response.Status, len(body))
			}
			if len(body) > piece {
				break // may just take so long
			}
			if time.Since(began) > 150*time.Millisecond {
				slow++
			}
		}
		if slow > 3 { // one or two are the machine
			t.Errorf("%d bytes: %d of 5 answers took more than 150 ms", len(m.Bytes), slow)
		}
	}
}

// TestSlowClientsCost: clients that stopped reading cost little memory each, get
// all bytes once they go on, and those that leave are logged with what they got.
func TestSlowClientsCost(t *testing.T) { // alone, since it measures memory
	const clients, most = 300, 28 << 10
	r := start(t, Options{})
	m := publishtest.New("a", "1", 16<<20, 1)
	r.publish(t, publishtest.Catalog(1, m), m)
	before := heap()
	var all []net.Conn
	for range clients {
		c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := io.WriteString(c, "GET /plugins/a/1/plugin.wasm HTTP/1.0\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		all = append(all, c)
	}
	time.Sleep(200 * time.Millisecond) // until all buffers of the kernel are full
	if each := (heap() - before) / clients; each > most {
		t.Errorf("a slow client costs %d bytes, at most %d are expected", each, most)
	}
	rest, err := io.ReadAll(all[0])
	if n := len(m.Bytes); err != nil || len(rest) < n-1000 || !bytes.Equal(rest[len(rest)-(n-1000):], m.Bytes[1000:]) {
		t.Errorf("it went on and got %d bytes: %v", len(rest), err)
	}
	for _, c := range all[1:] {
		c.Close()
	}
	for range 1000 {
		if strings.Count(r.log.String(), `"request"`) == clients {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	log := r.log.String()
	if n := strings.Count(log, fmt.Sprintf(`"bytes":%d,`, len(m.Bytes))); strings.Count(log, `"request"`) != clients || n != 1 {
		t.Errorf("%d of %d requests are logged, %d with all bytes, 1 is expected", strings.Count(log, `"request"`), clients, n)
	}
}

// TestSlowButNotTooSlow: what counts is what arrives in a minute, here two
// seconds, not that the kernel asks for more.
func TestSlowButNotTooSlow(t *testing.T) { // alone, since it changes the deadline
	pieceWithin = 2 * time.Second
	t.Cleanup(func() { pieceWithin = time.Minute }) // after the server has ended
	r := start(t, Options{})
	m := publishtest.New("a", "1", 32<<20, 1)
	r.publish(t, publishtest.Catalog(1, m), m)
	ask := func() net.Conn {
		c, err := net.Dial("tcp", strings.TrimPrefix(r.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(c.(*net.TCPConn).SetReadBuffer(64<<10), c.SetDeadline(time.Now().Add(time.Minute))); err != nil {
			t.Fatal(err)
		}
		// The second request of a connection: what was agreed for the first one is over.
		if _, err := io.WriteString(c, "HEAD /plugins/a/1/plugin.wasm HTTP/1.1\r\nHost: plugins\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Read(make([]byte, 4096)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "GET /plugins/a/1/plugin.wasm HTTP/1.1\r\nHost: plugins\r\nConnection: close\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		return c
	}
	stopped, slow := ask(), ask()
	defer stopped.Close()
	defer slow.Close()
	for range 6 { // 384 KiB in two seconds
		if _, err := io.CopyN(io.Discard, slow, 128<<10); err != nil {
			t.Fatal(err)
		}
		time.Sleep(667 * time.Millisecond)
	}
	if n, err := io.Copy(io.Discard, slow); err != nil || n < int64(len(m.Bytes))-6*128<<10 {
		t.Errorf("a slow client was let go: %d bytes, %v", n, err)
	}
	if n, _ := io.Copy(io.Discard, stopped); n >= int64(len(m.Bytes)) {
		t.Error("a client that stopped was waited for")
	}
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// TestConnWaits: waiting ends when the client has read, also if it did so
// before, and with the deadline.
func TestConnWaits(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	accepted, err := connListener{l}.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	path := filepath.Join(t.TempDir(), "module")
	if err := os.WriteFile(path, make([]byte, 64<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	c := accepted.(*conn)
	var sent int64
	for range 3 {
		for c.full = false; !c.full; {
			n, err := c.ReadFrom(&io.LimitedReader{R: f, N: 64 << 20})
			if err != nil {
				t.Fatal(err)
			}
			sent += n
		}
	}
	if err := c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond)); err != nil {
		t.Fatal(err)
	}
	if err := c.wait(); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("nobody has read, and it says %v", err)
	}
	if err := c.SetWriteDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.CopyN(io.Discard, client, sent); err != nil {
		t.Fatal(err)
	}
	if err := c.wait(); err != nil {
		t.Errorf("the client has read: %v", err)
	}
}
