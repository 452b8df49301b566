// Package fetch brings plugins from registries into the store. Everything that
// comes from a registry is foreign: reads are bounded, digests are verified to
// the end before a module counts, addresses are checked when they are dialed,
// and credentials go to nobody but the registry they are for.
package fetch

import (
	"cmp"
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/reference"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// Defaults of Options.
const (
	// DefaultTimeout lets a layer of the maximum size come at 1 Mbit/s.
	DefaultTimeout = 30 * time.Minute
	// DefaultStallTimeout is well above what slow registries need to find a blob.
	DefaultStallTimeout = time.Minute
)

// Access is how a registry may be talked to. It holds credentials: never log it.
type Access struct {
	DockerConfig []byte // content of .dockerconfigjson; empty is anonymous
	CA           []byte // PEM certificates to trust instead of the system's; empty is the system's
	PlainHTTP    bool   // HTTP instead of HTTPS; never a fallback
}

// Request says what to fetch.
type Request struct {
	URL    string // a reference, see package reference
	SHA256 string // that the module must have, in lower case hexadecimal; empty is any
	Digest string // of the manifest, recorded earlier for the URL; wins over its tag; may be empty
	Access Access
}

// Options of a Fetcher.
type Options struct {
	// Store takes the modules. Required.
	Store *store.Store
	// AllowLoopback also allows addresses of the machine itself, for tests and
	// for a registry on the same machine.
	AllowLoopback bool
	// UserAgent of all requests.
	UserAgent string
	// Timeout of one Fetch or Resolve as a whole; 0 is DefaultTimeout.
	Timeout time.Duration
	// StallTimeout is how long an answer may take to begin, and then not to go
	// on; 0 is DefaultStallTimeout.
	StallTimeout time.Duration
}

// Fetcher fetches plugins. Its methods may be called concurrently.
type Fetcher struct {
	store         *store.Store
	timeout       time.Duration
	stallTimeout  time.Duration
	userAgent     string
	allowLoopback bool
	proxy         func(*http.Request) (*url.URL, error)
	clients       clients
}

// New makes a Fetcher. It uses the proxy that the environment names
// (HTTPS_PROXY, HTTP_PROXY, NO_PROXY).
func New(o Options) *Fetcher {
	return &Fetcher{
		store:         o.Store,
		timeout:       cmp.Or(o.Timeout, DefaultTimeout),
		stallTimeout:  cmp.Or(o.StallTimeout, DefaultStallTimeout),
		userAgent:     cmp.Or(o.UserAgent, "plugin-server-operator"),
		allowLoopback: o.AllowLoopback,
		proxy:         http.ProxyFromEnvironment,
	}
}

// Close closes idle connections. The Fetcher may still be used.
func (f *Fetcher) Close() { f.clients.close() }

// Fetch brings the module of a plugin into the store and records its artifact
// there. It always asks the registry and always reads the whole layer, also when
// the store has the module: that somebody may have it is for the registry to
// say. The error is a *failure.Error.
func (f *Fetcher) Fetch(ctx context.Context, r Request) (store.Artifact, error) {
	var artifact store.Artifact
	err := f.do(ctx, r, func(ctx context.Context, s *session) (err error) {
		artifact, err = s.fetch(ctx, r.SHA256)
		return err
	})
	if err != nil {
		return store.Artifact{}, err
	}
	return artifact, nil
}

// Resolve gives the digest of the manifest that the URL's tag has now, whatever
// Digest the request has. A digest in the URL is given back without asking.
// The error is a *failure.Error.
func (f *Fetcher) Resolve(ctx context.Context, r Request) (string, error) {
	r.Digest = ""
	var digest string
	err := f.do(ctx, r, func(ctx context.Context, s *session) (err error) {
		digest, err = s.resolve(ctx)
		return err
	})
	if err != nil {
		return "", err
	}
	return digest, nil
}

var errTimeout = errors.New("not finished in time")

// do runs a task in a session with the registry, and explains its error.
func (f *Fetcher) do(ctx context.Context, r Request, task func(context.Context, *session) error) error {
	ref, err := reference.Parse(r.URL)
	if err != nil {
		return err
	}
	if ref, err = ref.Pinned(r.Digest); err != nil {
		return err
	}
	s, err := f.newSession(ctx, ref, r.Access)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, f.timeout, errTimeout)
	defer cancel()
	if err := task(ctx, s); err != nil {
		return s.explain(ctx, err)
	}
	return nil
}
