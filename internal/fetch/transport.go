package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"
)

// maxRedirects of one request; registries need one or two to hand a blob over to their storage.
const maxRedirects = 5

var (
	errTooManyRedirects = fmt.Errorf("more than %d redirects", maxRedirects)
	errDowngrade        = errors.New("a redirect from HTTPS to HTTP")
	errRealm            = errors.New("a login service that is not named once and plainly, or not reached by HTTPS")
	errStalled          = errors.New("no byte came for too long")
)

// checkRedirect follows a few redirects, never from HTTPS to HTTP, and takes
// the credentials off once a chain has left the origin of its first request.
// Go itself keeps them for subdomains and other ports, and builds the header of each hop
// from the first request, so they have to be taken off at every hop.
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) > maxRedirects {
		return errTooManyRedirects
	}
	if req.URL.Scheme != "https" && via[0].URL.Scheme == "https" {
		return errDowngrade
	}
	left := origin(req.URL) != origin(via[0].URL)
	for _, earlier := range via {
		left = left || origin(earlier.URL) != origin(via[0].URL)
	}
	if left {
		req.Header.Del("Authorization")
		req.Header.Del("Cookie")
	}
	// It would hand the signed address of one storage to the next.
	req.Header.Del("Referer")
	return nil
}

// origin is scheme, host and port.
func origin(u *url.URL) string {
	port := u.Port()
	if port == "" {
		port = map[string]string{"https": "443", "http": "80"}[u.Scheme]
	}
	return strings.ToLower(u.Scheme + "://" + u.Hostname() + ":" + port)
}

// transport checks addresses, watches that bodies go on, and lets login services be on another host.
type transport struct {
	fetcher *Fetcher
	base    *http.Transport
	own     *http.Transport // for the registry itself: the only one that shows the client's certificate
	host    string          // of the registry, with its port; empty where there is no such certificate
	realms  realms
}

func (t *transport) close() {
	t.base.CloseIdleConnections()
	t.own.CloseIdleConnections()
}

// to gives the transport for a host.
func (t *transport) to(u *url.URL) *http.Transport {
	if t.host != "" && u.Scheme == "https" && origin(u) == origin(&url.URL{Scheme: "https", Host: t.host}) {
		return t.own
	}
	return t.base
}

// RoundTrip sends one request.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	target := t.realms.resolve(req)
	ctx, err := t.fetcher.withProxy(target)
	if err != nil {
		if req.Body != nil {
			err = errors.Join(err, req.Body.Close())
		}
		return nil, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	resp, err := t.to(target.URL).RoundTrip(target.WithContext(ctx))
	if err != nil {
		cancel(nil)
		if proxy, found := proxyOf(ctx); found {
			err = &proxyError{proxy.Host, err}
		}
		return nil, err
	}
	resp.Body = watch(ctx, cancel, resp.Body, t.fetcher.stallTimeout)
	if to, err := resp.Location(); err == nil {
		resp.Header.Set("Location", to.String()) // a relative one is relative to the login service's own address
	}
	if err := t.realms.rewrite(resp); err != nil {
		return nil, errors.Join(err, resp.Body.Close())
	}
	return resp, nil
}

// watchedBody gives up when a read takes too long.
type watchedBody struct {
	body   io.ReadCloser
	ctx    context.Context //nolint:containedctx // of the request that this is the answer to
	cancel context.CancelCauseFunc
	timer  *time.Timer
	stall  time.Duration
}

func watch(ctx context.Context, cancel context.CancelCauseFunc, body io.ReadCloser, stall time.Duration) *watchedBody {
	timer := time.AfterFunc(stall, func() { cancel(errStalled) })
	timer.Stop()
	return &watchedBody{body, ctx, cancel, timer, stall}
}

// Read reads from the connection. Errors of it are of type *brokenError.
func (w *watchedBody) Read(p []byte) (int, error) {
	w.timer.Reset(w.stall)
	n, err := w.body.Read(p)
	w.timer.Stop()
	if err == nil {
		return n, nil
	}
	// An end that comes after the request was given up is none: a server that
	// sees the connection go may still end its answer properly.
	if cause := context.Cause(w.ctx); cause != nil {
		return n, &brokenError{cause}
	}
	if err == io.EOF { // a wrapped one is no clean end
		return n, err
	}
	return n, &brokenError{err}
}

// Close ends the request.
func (w *watchedBody) Close() error {
	w.timer.Stop()
	err := w.body.Close()
	w.cancel(nil)
	return err
}

// brokenError says that a connection broke in the middle of a body, unlike a
// body that ended and was too short.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return "the connection broke: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }

// proxyError says that a request through a proxy failed, perhaps at the proxy.
type proxyError struct {
	host string
	err  error
}

func (e *proxyError) Error() string { return "through the proxy " + e.host + ": " + e.err.Error() }
func (e *proxyError) Unwrap() error { return e.err }
