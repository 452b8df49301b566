package fetch

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"net/http"
	"slices"
	"sync"
	"time"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

const (
	// maxClients is how many clients, with their idle connections and tokens, are kept.
	maxClients = 64
	// maxResponseHeader is the size of an answer's header in bytes; signed addresses of blobs take a few thousand.
	maxResponseHeader = 256 << 10
	tlsTimeout        = 10 * time.Second
	idleTimeout       = 30 * time.Second
)

// clients keeps clients by what they were made of, so that connections and tokens are shared by those
// that have the same login, and by nobody else.
type clients struct {
	mu   sync.Mutex
	kept []keptClient // the last used at the end
}

type keptClient struct {
	key       [sha256.Size]byte
	client    *auth.Client
	transport *transport
}

func (c *clients) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, kept := range c.kept {
		kept.transport.close()
	}
}

// connect gives the client for a repository, and whether the access has a login for it.
func (f *Fetcher) connect(ctx context.Context, ref reference.Reference, access Access) (client *auth.Client, loggedIn bool, err error) {
	credential, err := login(ctx, access.DockerConfig, ref)
	if err != nil {
		return nil, false, err
	}
	loggedIn = credential != auth.EmptyCredential
	identity, err := json.Marshal([]any{ref.Host(), credential, access.CA, access.Certificate, access.Key, access.PlainHTTP})
	if err != nil { // strings, bytes and a bool: cannot happen
		return nil, false, err
	}
	key := sha256.Sum256(identity)

	c := &f.clients
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.IndexFunc(c.kept, func(k keptClient) bool { return k.key == key }); i >= 0 {
		found := c.kept[i]
		c.kept = append(slices.Delete(c.kept, i, i+1), found)
		return found.client, loggedIn, nil
	}
	created, err := f.newClient(ref.Host(), credential, access)
	if err != nil {
		return nil, false, err
	}
	created.key = key
	if len(c.kept) == maxClients {
		c.kept[0].transport.close()
		c.kept = slices.Delete(c.kept, 0, 1)
	}
	c.kept = append(c.kept, created)
	return created.client, loggedIn, nil
}

func (f *Fetcher) newClient(host string, credential auth.Credential, access Access) (keptClient, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12}
	if len(access.CA) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(access.CA) {
			return keptClient{}, failure.New(failure.Waiting, failure.InvalidSecret, nil,
				"ca.crt of the Secret named in certSecretRef holds no certificate in PEM form")
		}
	}
	base := &http.Transport{
		Proxy:                  proxyOfRequest,
		DialContext:            f.dial,
		TLSClientConfig:        config,
		TLSHandshakeTimeout:    tlsTimeout,
		ForceAttemptHTTP2:      true,
		ResponseHeaderTimeout:  f.stallTimeout,
		MaxResponseHeaderBytes: maxResponseHeader,
		MaxIdleConnsPerHost:    8,
		IdleConnTimeout:        idleTimeout,
		DisableCompression:     true, // digests are over the bytes as they are stored
	}
	t := &transport{fetcher: f, base: base, own: base}
	if len(access.Key) > 0 {
		certificate, err := tls.X509KeyPair(access.Certificate, access.Key)
		if err != nil { // not shown: it could quote the key
			return keptClient{}, failure.New(failure.Waiting, failure.InvalidSecret, nil,
				"tls.crt and tls.key of the Secret named in certSecretRef are no certificate with its key in PEM form")
		}
		t.host, t.own = host, base.Clone()
		t.own.TLSClientConfig.Certificates = []tls.Certificate{certificate}
	}
	client := &auth.Client{
		Client: &http.Client{Transport: t, CheckRedirect: checkRedirect},
		Header: http.Header{"User-Agent": {f.userAgent}},
		Cache:  auth.NewCache(),
		Credential: func(_ context.Context, hostport string) (auth.Credential, error) {
			if hostport != host {
				return auth.EmptyCredential, nil
			}
			return credential, nil
		},
	}
	return keptClient{client: client, transport: t}, nil
}
