package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

const (
	// pollTimeout is how long a poll may take: the operator holds it for 50 s.
	pollTimeout = 75 * time.Second
	// stallTimeout is how long nothing may arrive of a module's body.
	stallTimeout = 30 * time.Second
	// headerTimeout is how long a module's answer may take to begin.
	headerTimeout = 30 * time.Second
)

// keepAlive notices within 11 s that the operator's pod went away without a word,
// as it does with its node: a poll would wait for it for ever.
var keepAlive = net.KeepAliveConfig{Enable: true, Idle: 5 * time.Second, Interval: 2 * time.Second, Count: 3}

// errStalled says that a body stopped arriving.
var errStalled = fmt.Errorf("nothing arrived for %s", stallTimeout)

// Operator is the operator as its pods see it: it tells of catalogs and has
// modules.
type Operator struct {
	url    string // of the artifact port, without a path
	server string // namespace/name
	pod    string
	client *http.Client
}

// NewOperator gives the operator at http://HOST:PORT. server is this pod's
// PluginServer, namespace/name, and pod the pod's name; who is who is all the operator
// learns.
func NewOperator(address, server, pod string) (*Operator, error) {
	u, err := url.Parse(address)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.User != nil || strings.Trim(u.Path, "/") != "" || u.RawQuery != "" {
		return nil, fmt.Errorf("%q is not the operator's address: http://HOST:PORT is expected", address)
	}
	namespace, name, ok := strings.Cut(server, "/")
	if !ok || namespace == "" || name == "" || strings.ContainsAny(name, "/?#") {
		return nil, fmt.Errorf("%q is not a PluginServer: NAMESPACE/NAME is expected", server)
	}
	dialer := &net.Dialer{Timeout: 5 * time.Second, KeepAliveConfig: keepAlive, Control: giveUpUnacknowledged}
	return &Operator{
		url: u.Scheme + "://" + u.Host, server: server, pod: pod,
		client: &http.Client{
			// Straight, without a proxy: it is in the same cluster. The gzip is wanted
			// as it is.
			Transport: &http.Transport{
				DialContext: dialer.DialContext, DisableCompression: true, MaxIdleConnsPerHost: defaultParallel + 1,
				IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 10 * time.Second,
			},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

// Close closes the connections that nobody uses.
func (o *Operator) Close() { o.client.CloseIdleConnections() }

// Open is Origin's.
func (o *Operator) Open(ctx context.Context, sha256 string) (io.ReadCloser, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	stalled := time.AfterFunc(headerTimeout, func() { cancel(errStalled) })
	response, err := o.get(ctx, "/blobs/sha256/"+sha256, "")
	if err == nil {
		err = blobError(response)
		if err != nil {
			response.Body.Close()
		}
	}
	if err != nil {
		stalled.Stop()
		err = fmt.Errorf("module %s from %s: %w", sha256, o.url, cause(ctx, err))
		cancel(nil)
		return nil, err
	}
	stalled.Reset(stallTimeout)
	return &body{ctx: ctx, cancel: cancel, stalled: stalled, body: response.Body}, nil
}

func blobError(r *http.Response) error {
	switch {
	case r.StatusCode == http.StatusGone:
		return ErrLost
	case r.StatusCode == http.StatusServiceUnavailable:
		return ErrLater
	case r.StatusCode != http.StatusOK:
		return errors.New(r.Status)
	case r.Header.Get("Content-Encoding") != "gzip":
		return errors.New("the answer is no gzip")
	}
	return nil
}

// body is the body of a module. It ends with an error when it stops arriving.
type body struct {
	ctx     context.Context
	cancel  context.CancelCauseFunc
	stalled *time.Timer
	body    io.ReadCloser
}

func (b *body) Read(p []byte) (int, error) {
	n, err := b.body.Read(p)
	if n > 0 {
		b.stalled.Reset(stallTimeout)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = cause(b.ctx, err)
	}
	return n, err
}

func (b *body) Close() error {
	b.stalled.Stop()
	b.cancel(nil)
	return b.body.Close()
}

// cause tells why a request was ended, if it was ended by us.
func cause(ctx context.Context, err error) error {
	if why := context.Cause(ctx); why != nil {
		return why
	}
	return err
}

// news is an answer to a poll. catalog is nil when there is nothing new, or
// nothing that can be used.
type news struct {
	tag      string // what the operator calls the catalog
	catalog  *catalog.Catalog
	unusable error
}

// poll asks for a catalog other than the known one, and tells what is served.
func (o *Operator) poll(ctx context.Context, known, served string) (news, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	query := url.Values{"served": {served}, "pod": {o.pod}}
	response, err := o.get(ctx, "/catalogs/"+o.server+"?"+query.Encode(), known)
	if err != nil {
		return news{}, o.unreachable(err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusNoContent:
		return news{}, nil
	case http.StatusOK:
	default:
		return news{}, o.unreachable(errors.New(response.Status))
	}
	b, err := io.ReadAll(io.LimitReader(response.Body, catalog.MaxEncoded+1))
	if err != nil {
		return news{}, o.unreachable(err)
	}
	c, err := catalog.Decode(b)
	if err != nil {
		return news{unusable: explain(err, "the catalog of the operator cannot be used")}, nil
	}
	return news{tag: response.Header.Get("ETag"), catalog: c}, nil
}

func (o *Operator) unreachable(err error) error {
	return fmt.Errorf("the operator at %s tells of no catalogs, they arrive with the ConfigMap after about a minute: %w", o.url, err)
}

func (o *Operator) get(ctx context.Context, path, known string) (*http.Response, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, o.url+path, nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Accept-Encoding", "gzip")
	if known != "" {
		request.Header.Set("If-None-Match", known)
	}
	response, err := o.client.Do(request)
	var wrapped *url.Error
	if errors.As(err, &wrapped) { // the address is named by the caller
		err = wrapped.Err
	}
	return response, err
}
