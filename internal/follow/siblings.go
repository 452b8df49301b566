package follow

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"
)

const (
	// mostSiblings is the number of siblings that are asked for a module before it
	// is tried again later.
	mostSiblings = 3
	// siblingDial and siblingHeader are how long a sibling may take to accept, and
	// to begin its answer: it is near, and holds nothing.
	siblingDial   = 2 * time.Second
	siblingHeader = 5 * time.Second
	// lookupTimeout bounds the search for siblings, and lookedUp is how long its
	// result is taken for true.
	lookupTimeout = 3 * time.Second
	lookedUp      = 5 * time.Second
	// deafFor is how long a sibling that did not answer is not asked.
	deafFor = 10 * time.Second
)

// Siblings are the other pods of the same server. They are asked for modules
// that the operator does not hand out: it is away, or has lost them. Nobody trusts
// them: every module is checked like any other.
type Siblings struct {
	resolve func(ctx context.Context) ([]netip.AddrPort, error)
	client  *http.Client

	mu    sync.Mutex
	found []netip.AddrPort
	until time.Time                    // found is true
	deaf  map[netip.AddrPort]time.Time // not asked until then
}

// NewSiblings finds siblings at HOST:PORT, a name that has the addresses of all
// pods. This pod's own ones are left out.
func NewSiblings(address string) (*Siblings, error) {
	host, text, err := net.SplitHostPort(address)
	port, err2 := strconv.ParseUint(text, 10, 16)
	if err != nil || err2 != nil || host == "" || port == 0 {
		return nil, fmt.Errorf("%q is no address of siblings: HOST:PORT is expected", address)
	}
	return newSiblings(func(ctx context.Context) ([]netip.AddrPort, error) { return lookup(ctx, host, uint16(port)) }), nil
}

func newSiblings(resolve func(ctx context.Context) ([]netip.AddrPort, error)) *Siblings {
	return &Siblings{resolve: resolve, client: newClient(siblingDial), deaf: map[netip.AddrPort]time.Time{}}
}

// Close closes the connections that nobody uses.
func (s *Siblings) Close() { s.client.CloseIdleConnections() }

// some gives a few siblings in random order.
func (s *Siblings) some(ctx context.Context) []sibling {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.After(s.until) {
		looking, cancel := context.WithTimeout(ctx, lookupTimeout)
		defer cancel()
		found, err := s.resolve(looking)
		if err != nil {
			found = nil // a server with one replica has none, and that is no problem
		}
		s.found, s.until = found, time.Now().Add(lookedUp)
	}
	var chosen []sibling
	for _, i := range rand.Perm(len(s.found)) { //nolint:gosec // no secret
		if address := s.found[i]; len(chosen) < mostSiblings && now.After(s.deaf[address]) {
			chosen = append(chosen, sibling{s, address})
		}
	}
	return chosen
}

// ignore has a sibling not asked for a while.
func (s *Siblings) ignore(address netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	for other, until := range s.deaf { // pods come and go
		if now.After(until) {
			delete(s.deaf, other)
		}
	}
	s.deaf[address] = now.Add(deafFor)
}

// sibling is one of them.
type sibling struct {
	of      *Siblings
	address netip.AddrPort
}

// Open is Origin's. A sibling is asked to say at once what it has: gateways are
// held until a module arrives, and siblings would wait for each other.
func (s sibling) Open(ctx context.Context, sha256 string) (io.ReadCloser, error) {
	body, err := openBlob(ctx, s.of.client, "http://"+s.address.String(), sha256, siblingHeader, http.Header{"Prefer": {"wait=0"}})
	if timedOut(err) {
		s.of.ignore(s.address)
	}
	return body, err
}

// lookup gives the addresses of a name, apart from this machine's own.
func lookup(ctx context.Context, host string, port uint16) ([]netip.AddrPort, error) {
	addresses, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return nil, err
	}
	interfaces, err := net.InterfaceAddrs()
	if err != nil {
		return nil, err
	}
	var found []netip.AddrPort
	for _, address := range addresses {
		address = address.Unmap()
		own := slices.ContainsFunc(interfaces, func(a net.Addr) bool {
			prefix, ok := a.(*net.IPNet)
			return ok && prefix.IP.Equal(address.AsSlice())
		})
		if !own {
			found = append(found, netip.AddrPortFrom(address, port))
		}
	}
	return found, nil
}
