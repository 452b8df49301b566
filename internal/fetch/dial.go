package fetch

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"syscall"
	"time"
)

const dialTimeout = 10 * time.Second

// metadata are addresses at which clouds hand out credentials to whoever asks
// from inside; those in the link-local ranges are refused with these.
var metadata = map[netip.Addr]bool{
	netip.MustParseAddr("fd00:ec2::254"):   true, // AWS
	netip.MustParseAddr("fd20:ce::254"):    true, // Google
	netip.MustParseAddr("100.100.100.200"): true, // Alibaba
	netip.MustParseAddr("168.63.129.16"):   true, // Azure
	netip.MustParseAddr("192.0.0.192"):     true, // Oracle
	netip.MustParseAddr("fd00:42::42"):     true, // Scaleway
}

var (
	thisNetwork = netip.MustParsePrefix("0.0.0.0/8")     // RFC 1122: Linux takes it for the machine itself
	broadcast   = netip.MustParseAddr("255.255.255.255") // RFC 919
	sixToFour   = netip.MustParsePrefix("2002::/16")     // RFC 3056: an IPv4 address in bytes 2 to 5
	siteLocal   = netip.MustParsePrefix("fec0::/10")     // RFC 3879: deprecated, nobody should be there
	teredo      = netip.MustParsePrefix("2001::/32")     // RFC 4380: leads to the IPv4 address of a host, by way of another one's
	// Prefixes before an IPv4 address in the last four bytes.
	embedding = []netip.Prefix{
		netip.MustParsePrefix("64:ff9b::/96"),    // RFC 6052
		netip.MustParsePrefix("64:ff9b:1::/48"),  // RFC 8215
		netip.MustParsePrefix("::ffff:0:0:0/96"), // RFC 2765
		netip.MustParsePrefix("::/96"),           // RFC 4291, deprecated
	}
)

// forbiddenError says that an address must not be talked to.
type forbiddenError struct {
	addr netip.Addr
	why  string
}

func (e *forbiddenError) Error() string {
	return fmt.Sprintf("%s is %s", e.addr, e.why)
}

// checkAddress refuses addresses behind which no registry can be, but perhaps
// something that trusts the operator. Private networks are allowed: that is where
// registries are.
func checkAddress(addr netip.Addr, allowLoopback bool) error {
	addr = addr.Unmap().WithZone("")
	why := ""
	switch {
	case addr.IsLoopback():
		if !allowLoopback {
			why = "the operator's own machine"
		}
	case metadata[addr]:
		why = "a cloud's metadata service"
	case addr.IsLinkLocalUnicast(), siteLocal.Contains(addr):
		why = "a link-local address"
	case addr.IsMulticast(), addr == broadcast:
		why = "a multicast address"
	case addr.IsUnspecified(), thisNetwork.Contains(addr):
		why = "no address of a host"
	case teredo.Contains(addr):
		why = "a tunnel to an address that cannot be told"
	case slices.ContainsFunc(embedding, func(p netip.Prefix) bool { return p.Contains(addr) }):
		b := addr.As16()
		return checkAddress(netip.AddrFrom4([4]byte(b[12:])), allowLoopback)
	case sixToFour.Contains(addr):
		b := addr.As16()
		return checkAddress(netip.AddrFrom4([4]byte(b[2:6])), allowLoopback)
	}
	if why != "" {
		return &forbiddenError{addr, why}
	}
	return nil
}

// dial connects to a registry, and checks the address after the name was
// resolved: a name may point anywhere, and elsewhere the next time.
func (f *Fetcher) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: dialTimeout, KeepAlive: 30 * time.Second}
	// Who runs the operator chose the proxy, and may have it on its own machine.
	if proxy, _ := proxyOf(ctx); proxy == nil {
		dialer.ControlContext = func(_ context.Context, _, address string, _ syscall.RawConn) error {
			resolved, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			return checkAddress(resolved.Addr(), f.allowLoopback)
		}
	}
	return dialer.DialContext(ctx, network, address)
}

type proxyKey struct{}

// withProxy chooses the proxy for a request ahead of the transport, so that dial knows whether it dials
// the proxy. A proxy resolves names itself and its own rules decide then; an address instead of
// a name is checked here.
func (f *Fetcher) withProxy(req *http.Request) (context.Context, error) {
	proxy, err := f.proxy(req)
	if err != nil || proxy == nil {
		return req.Context(), err
	}
	if addr, err := netip.ParseAddr(req.URL.Hostname()); err == nil {
		if err := checkAddress(addr, f.allowLoopback); err != nil {
			return nil, err
		}
	}
	return context.WithValue(req.Context(), proxyKey{}, proxy), nil
}

func proxyOf(ctx context.Context) (*url.URL, bool) {
	proxy, found := ctx.Value(proxyKey{}).(*url.URL)
	return proxy, found
}

func proxyOfRequest(req *http.Request) (*url.URL, error) {
	proxy, _ := proxyOf(req.Context())
	return proxy, nil
}
