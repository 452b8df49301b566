package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

const (
	// pollTimeout is how long a poll may take: the operator holds it for 50 s.
	pollTimeout = 75 * time.Second
	// headerTimeout is how long a module's answer may take to begin: the operator
	// holds none.
	headerTimeout = 10 * time.Second
	// silence is how long an operator that did not answer is not asked for modules.
	silence = 10 * time.Second
)

// errSilent says that the operator was not asked.
var errSilent = errors.New("the operator did not answer a moment ago")

// Operator is the operator as its pods see it: it tells of catalogs and has
// modules.
type Operator struct {
	url    string // of the artifact port, without a path
	server string // namespace/name
	pod    string
	client *http.Client

	silentUntil atomic.Int64 // in nanoseconds; no modules are asked for before
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
	return &Operator{url: u.Scheme + "://" + u.Host, server: server, pod: pod, client: newClient(5 * time.Second)}, nil
}

// Close closes the connections that nobody uses.
func (o *Operator) Close() { o.client.CloseIdleConnections() }

// Open is Origin's. An operator that did not answer in time is not asked again
// for some seconds: each module would wait as long before somebody else is asked.
func (o *Operator) Open(ctx context.Context, sha256 string) (io.ReadCloser, error) {
	if time.Now().UnixNano() < o.silentUntil.Load() {
		return nil, errSilent
	}
	body, err := openBlob(ctx, o.client, o.url, sha256, headerTimeout, nil)
	if timedOut(err) {
		o.silentUntil.Store(time.Now().Add(silence).UnixNano())
	}
	return body, err
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
	return response, withoutAddress(err)
}
