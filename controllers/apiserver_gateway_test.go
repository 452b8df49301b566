//go:build envtest

package controllers_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync/atomic"
	"testing"
	"time"
)

// The rules of Istio's agent in a gateway: what it does not get by them is an
// outage.
const (
	downloadAttempts = 5
	downloadPause    = 500 * time.Millisecond // half as long again each time
	downloadAttempt  = 15 * time.Second
	downloadInAll    = 30 * time.Second
)

// gateway downloads modules as a gateway does.
type gateway struct {
	client *http.Client
	dials  atomic.Int64 // connections made
}

// newGateway makes a gateway. It ends with the test.
func newGateway(t *testing.T) *gateway {
	g := &gateway{}
	dialer := &net.Dialer{}
	transport := &http.Transport{MaxIdleConnsPerHost: 4, DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
		g.dials.Add(1)
		return dialer.DialContext(ctx, network, address)
	}}
	g.client = &http.Client{Transport: transport}
	t.Cleanup(transport.CloseIdleConnections)
	return g
}

// download tries by the rules until it has the module. address is asked before
// each attempt, as a Service leads to the pods of the moment.
func (g *gateway) download(ctx context.Context, address func() string) (module []byte, attempts int, err error) {
	ctx, cancel := context.WithTimeout(ctx, downloadInAll)
	defer cancel()
	pause := downloadPause
	for attempts = 1; ; attempts++ {
		response, again, err := g.attempt(ctx, address())
		if err == nil || !again || attempts == downloadAttempts {
			return response.body, attempts, err
		}
		select {
		case <-ctx.Done():
			return nil, attempts, err
		case <-time.After(pause):
			pause += pause / 2
		}
	}
}

// reply is a whole answer.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// attempt asks once, and says whether a gateway would ask again.
func (g *gateway) attempt(ctx context.Context, address string) (r reply, again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, downloadAttempt)
	defer cancel()
	if r, err = g.get(ctx, address); err != nil {
		return r, r.status == 0, fmt.Errorf("%s: %w", address, err) // a body that is cut is final
	}
	switch r.status {
	case http.StatusOK:
		return r, false, nil
	case http.StatusNotImplemented, http.StatusHTTPVersionNotSupported, http.StatusNetworkAuthenticationRequired:
	default:
		again = r.status >= 500
	}
	return r, again, fmt.Errorf("%s: %d %s", address, r.status, r.body)
}

// get asks once, and reads all of the answer.
func (g *gateway) get(ctx context.Context, address string) (reply, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return reply{}, err
	}
	response, err := g.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, body}, err
}
