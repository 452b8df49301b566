// Package fetch brings plugins from registries, file servers and ConfigMaps into
// the store. Everything that comes from there is foreign: reads are bounded, digests are verified to
// the end before a module counts, addresses are checked when they are dialed,
// and credentials go to nobody but the host they are for.
package fetch

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/failure"
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

// Access is how a registry may be talked to, and what it takes to believe it.
// It holds credentials: never log it.
type Access struct {
	DockerConfig []byte // content of .dockerconfigjson; empty is anonymous
	CA           []byte // PEM certificates to trust instead of the system's; empty is the system's
	Certificate  []byte // PEM certificate of a client, for the registry alone; may be empty
	Key          []byte // of Certificate, in PEM
	PublicKeys   []byte // PEM keys one of which must have signed the artifact; empty asks for no signature
	PlainHTTP    bool   // HTTP instead of HTTPS; never a fallback
}

// Equal says whether two accesses are the same.
func (a Access) Equal(b Access) bool {
	return a.PlainHTTP == b.PlainHTTP && bytes.Equal(a.DockerConfig, b.DockerConfig) && bytes.Equal(a.CA, b.CA) &&
		bytes.Equal(a.Certificate, b.Certificate) && bytes.Equal(a.Key, b.Key) && bytes.Equal(a.PublicKeys, b.PublicKeys)
}

// SignedBy names the keys that must have signed; empty where none have to.
func (a Access) SignedBy() string {
	if len(a.PublicKeys) == 0 {
		return ""
	}
	sum := sha256.Sum256(a.PublicKeys)
	return hex.EncodeToString(sum[:])
}

// Request says what to fetch.
type Request struct {
	URL          string   // see package reference
	Alternatives []string // places to ask in turn where the one before does not have it
	SHA256       string   // that the module must have, in lower case hexadecimal; empty is any
	Digest       string   // of the manifest or file, recorded earlier for the URL; wins over its tag; may be empty
	Access       Access
}

// Options of a Fetcher.
type Options struct {
	// Store takes the modules. Required.
	Store *store.Store
	// AllowLoopback also allows addresses of the machine itself, for tests and
	// for a registry on the same machine.
	AllowLoopback bool
	// ConfigMaps opens modules that stand in ConfigMaps of the cluster, one after
	// the other; nil where there is no cluster. Its errors are for the user.
	ConfigMaps func(ctx context.Context, namespace string, names []string) (io.ReadCloser, error)
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
	configMaps    func(ctx context.Context, namespace string, names []string) (io.ReadCloser, error)
	clients       clients
	seen          validators
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
		configMaps:    o.ConfigMaps,
	}
}

// Close closes idle connections. The Fetcher may still be used.
func (f *Fetcher) Close() { f.clients.close() }

// Fetch brings the module of a plugin into the store and records its artifact
// there. It always asks the other side and always reads everything, also when
// the store has the module: that somebody may have it is for the registry to
// say. The error is a *failure.Error.
func (f *Fetcher) Fetch(ctx context.Context, r Request) (store.Artifact, error) {
	return firstThere(r, func(r Request) (store.Artifact, error) { return f.fetch(ctx, r) })
}

// Resolve gives the digest that the URL has now, whatever Digest the request
// has: of the manifest that a tag names, or of a file. A digest in the URL is
// given back without asking. The error is a *failure.Error.
func (f *Fetcher) Resolve(ctx context.Context, r Request) (string, error) {
	r.Digest = ""
	return firstThere(r, func(r Request) (string, error) { return f.resolve(ctx, r) })
}

// firstThere asks one place after the other until one has what is wanted. Some
// registries hide what is not there behind a 401 or 403.
func firstThere[T any](r Request, ask func(Request) (T, error)) (result T, err error) {
	var refused *failure.Error
	for _, url := range append([]string{r.URL}, r.Alternatives...) {
		r.URL = url
		result, err = ask(r)
		if err == nil {
			return result, nil
		}
		e := failure.Of(err)
		if e.Reason != failure.NotFound && e.Reason != failure.Unauthorized {
			return result, err
		}
		if refused == nil || refused.Reason == failure.NotFound && e.Reason == failure.Unauthorized {
			refused = e
		}
	}
	if len(r.Alternatives) == 0 {
		return result, refused
	}
	return result, failure.New(refused.Class, refused.Reason, refused.Err, "%s",
		cut(fmt.Sprintf("%s; %d other paths where mirrors have it were tried too, the last is %s", refused.Message, len(r.Alternatives), reference.Shown(r.URL))))
}

func (f *Fetcher) fetch(ctx context.Context, r Request) (artifact store.Artifact, err error) {
	switch {
	case r.unsigned():
		return store.Artifact{}, errUnsigned(r)
	case reference.IsFile(r.URL):
		return f.fetchFile(ctx, r)
	case reference.IsConfigMaps(r.URL):
		return f.fetchConfigMaps(ctx, r)
	}
	err = f.do(ctx, r, func(ctx context.Context, s *session) (err error) {
		artifact, err = s.fetch(ctx, r.SHA256)
		return err
	})
	if err != nil {
		return store.Artifact{}, err
	}
	return artifact, nil
}

// unsigned says whether a signature is asked of something that cannot have one.
func (r Request) unsigned() bool { return len(r.Access.PublicKeys) > 0 && !reference.IsOCI(r.URL) }

func errUnsigned(r Request) error {
	return failure.New(failure.Spec, failure.SignatureMissing, nil,
		"%s has no signature, only artifacts in registries have: move it to a registry, or to a source without signature", reference.Shown(r.URL))
}

func (f *Fetcher) resolve(ctx context.Context, r Request) (digest string, err error) {
	switch {
	case reference.IsFile(r.URL):
		return f.resolveFile(ctx, r)
	case reference.IsConfigMaps(r.URL):
		return "", failure.New(failure.Spec, failure.InvalidReference, nil, "what stands in ConfigMaps has no tag that could move")
	}
	err = f.do(ctx, r, func(ctx context.Context, s *session) (err error) {
		digest, err = s.resolve(ctx)
		return err
	})
	return digest, err
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
	return f.run(ctx, s, task)
}

// run does a task within the time that is allowed, and explains its error.
func (f *Fetcher) run(ctx context.Context, s *session, task func(context.Context, *session) error) error {
	ctx, cancel := context.WithTimeoutCause(ctx, f.timeout, errTimeout)
	defer cancel()
	if err := task(ctx, s); err != nil {
		return s.explain(ctx, err)
	}
	return nil
}
