package main

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/higress-group/plugin-server-operator/internal/hostile"
)

// Addresses in the namespace: of the hostile server, of the one it leads to,
// which is another by its port alone, and of DNS. All others are the machine's
// too, and whoever dials them is caught.
const (
	hostileHost, foreignPort, dnsHost = "10.9.8.7", "8443", "10.9.8.9"
	foreignHost                       = hostileHost + ":" + foreignPort
)

// alone leaves only /tmp to write to, which is new and empty, and lets every
// address there is lead to this machine.
func alone(t *testing.T) {
	t.Helper()
	try := func(what string, err error) {
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
	}
	try("keep mounts apart", unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""))
	try("make everything read-only", unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}))
	try("mount /tmp", unix.Mount("tmpfs", "/tmp", "tmpfs", 0, ""))
	try("write the address of DNS", os.WriteFile("/tmp/resolv.conf", []byte("nameserver "+dnsHost+"\n"), 0o600))
	try("mount the address of DNS", unix.Mount("/tmp/resolv.conf", "/etc/resolv.conf", "", unix.MS_BIND, ""))
	if err := os.WriteFile("hostile", nil, 0o600); !errors.Is(err, syscall.EROFS) {
		t.Fatalf("there is more to write to: %v", err)
	}
	control, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	try("open a socket", err)
	defer unix.Close(control)
	lo, err := unix.NewIfreq("lo")
	try("name lo", err)
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	try("start lo", unix.IoctlIfreq(control, unix.SIOCSIFFLAGS, lo))
	routes, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	try("open a socket for routes", err)
	defer unix.Close(routes)
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		try("send a route", unix.Sendto(routes, everywhere(family), 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}))
		answer := make([]byte, 4096)
		n, _, err := unix.Recvfrom(routes, answer, 0)
		try("add a route", err)
		if code := int32(binary.NativeEndian.Uint32(answer[unix.SizeofNlMsghdr:n])); code != 0 {
			t.Fatalf("add a route: %v", syscall.Errno(-code))
		}
	}
}

// everywhere is the message that makes all addresses of a family local.
func everywhere(family byte) []byte {
	var b bytes.Buffer
	scope := byte(unix.RT_SCOPE_HOST)
	if family == unix.AF_INET6 {
		scope = unix.RT_SCOPE_UNIVERSE
	}
	for _, part := range []any{
		unix.NlMsghdr{Len: unix.SizeofNlMsghdr + unix.SizeofRtMsg + 8, Type: unix.RTM_NEWROUTE, Flags: unix.NLM_F_REQUEST | unix.NLM_F_ACK | unix.NLM_F_CREATE},
		unix.RtMsg{Family: family, Table: unix.RT_TABLE_LOCAL, Protocol: unix.RTPROT_BOOT, Scope: scope, Type: unix.RTN_LOCAL},
		unix.RtAttr{Len: 8, Type: unix.RTA_OIF},
		uint32(1), // lo is the first interface of a namespace
	} {
		_ = binary.Write(&b, binary.NativeEndian, part) // a buffer takes everything
	}
	return b.Bytes()
}

// hostileNet is everybody whom the program can reach.
type hostileNet struct {
	server      *hostile.Server
	certificate []byte

	mu     sync.Mutex
	dialed []string // addresses that nobody should have dialed
}

func newHostileNet(t *testing.T) *hostileNet {
	t.Helper()
	n := &hostileNet{}
	certificate := hostileCertificate(t)
	n.certificate = certificate.Certificate[0]
	for port, handler := range map[string]http.HandlerFunc{
		"443":       func(w http.ResponseWriter, r *http.Request) { n.server.ServeHTTP(w, r) },
		foreignPort: func(w http.ResponseWriter, r *http.Request) { n.server.Foreign(w, r) },
		"80":        http.NotFound,
	} {
		listener, err := net.Listen("tcp", ":"+port)
		if err != nil {
			t.Fatal(err)
		}
		server := httptest.NewUnstartedServer(handler)
		_ = server.Listener.Close() // that of the test's choice is used instead
		server.Listener, server.TLS = listener, &tls.Config{Certificates: []tls.Certificate{certificate}}
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.Config.ConnState = func(c net.Conn, state http.ConnState) {
			at := netip.MustParseAddrPort(c.LocalAddr().String()).Addr().Unmap().String()
			if state == http.StateNew && (at != hostileHost || port == "80") {
				n.mu.Lock()
				defer n.mu.Unlock()
				n.dialed = append(n.dialed, at+":"+port)
			}
		}
		if port == "80" {
			server.Start()
		} else {
			server.StartTLS()
		}
		t.Cleanup(server.Close)
	}
	serveNames(t)
	n.catches(t)
	return n
}

// catches shows that it is seen what is dialed, whatever the address is.
func (n *hostileNet) catches(t *testing.T) {
	t.Helper()
	for _, address := range []string{"169.254.169.254:443", "100.100.100.200:80", "[::1]:443", "[fd00:ec2::254]:443"} {
		connection, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		_ = connection.Close()
	}
	eventually(t, "four dials are seen", func() bool {
		n.mu.Lock()
		defer n.mu.Unlock()
		return len(n.dialed) == 4
	})
	n.dialed = nil
}

func hostileCertificate(t *testing.T) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
		IPAddresses: []net.IP{net.ParseIP(hostileHost)},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

// serveNames is a DNS server that knows the names of the corpus.
func serveNames(t *testing.T) {
	t.Helper()
	socket, err := net.ListenPacket("udp", dnsHost+":53")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		buffer := make([]byte, 1500)
		for {
			n, client, err := socket.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer := resolved(buffer[:n]); answer != nil {
				_, _ = socket.WriteTo(answer, client)
			}
		}
	})
	t.Cleanup(func() {
		_ = socket.Close()
		serving.Wait()
	})
}

// resolved answers one question (RFC 1035, 4.1); nil if it is none.
func resolved(question []byte) []byte {
	const header, afterName = 12, 4 // in bytes; type and class follow the name
	var labels []string
	at := header
	for at < len(question) && question[at] != 0 {
		end := at + 1 + int(question[at])
		if end > len(question) {
			return nil
		}
		labels = append(labels, string(question[at+1:end]))
		at = end
	}
	end := at + 1 + afterName
	if end > len(question) {
		return nil
	}
	answer := bytes.Clone(question[:end])
	copy(answer[2:header], []byte{0x84, 0, 0, 1, 0, 0, 0, 0, 0, 0}) // an authority's answer to one question
	address, found := hostile.Names[strings.ToLower(strings.Join(labels, "."))]
	kind := map[bool]byte{true: 1, false: 28}[address.Is4()] // A or AAAA
	switch {
	case !found:
		answer[3] = 3 // there is no such name
	case answer[at+2] == kind:
		answer[7] = 1
		bytesOf := address.AsSlice()
		answer = append(answer, 0xc0, header, 0, kind, 0, 1, 0, 0, 0, 0, 0, byte(len(bytesOf))) // of the name in the question
		answer = append(answer, bytesOf...)
	}
	return answer
}
