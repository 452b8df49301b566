package fetch

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

func TestCheckAddress(t *testing.T) {
	t.Parallel()
	for address, allowed := range map[string]bool{
		"10.0.0.1": true, "172.16.0.1": true, "192.168.1.1": true, "100.64.0.1": true, "fd00::1": true, "8.8.8.8": true, "2001:db8::1": true,
		"64:ff9b::10.0.0.1": true,
		"127.0.0.1":         false, "127.1.2.3": false, "::1": false, "::ffff:127.0.0.1": false, "::ffff:169.254.169.254": false,
		"169.254.169.254": false, "169.254.0.1": false, "fe80::1": false, "fe80::1%eth0": false, "fec0::1": false, "fd00:ec2::254": false,
		"100.100.100.200": false, "168.63.129.16": false, "192.0.0.192": false, "fd20:ce::254": false,
		"0.0.0.0": false, "0.1.2.3": false, "::": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false,
		"64:ff9b::127.0.0.1": false, "64:ff9b::a9fe:a9fe": false, "2002:7f00:1::": false, "2002:a9fe:a9fe::1": false,
	} {
		if err := checkAddress(netip.MustParseAddr(address), false); (err == nil) != allowed {
			t.Errorf("checkAddress(%s) = %v", address, err)
		}
	}
	for _, address := range []string{"127.0.0.1", "::1", "64:ff9b::127.0.0.1"} {
		if err := checkAddress(netip.MustParseAddr(address), true); err != nil {
			t.Errorf("checkAddress(%s) = %v although loopback is allowed", address, err)
		}
	}
}

// Whatever a name looks like, the address that is dialed counts.
func TestForbiddenAddresses(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.push("a:1", layer{wasmType, wasm("x"), ""})
	_, port, _ := strings.Cut(r.host(), ":")
	for name, host := range map[string]string{
		"by address":     "127.0.0.1:" + port,
		"by name":        "localhost:" + port,
		"in other words": "[::ffff:127.0.0.1]:" + port,
		"the metadata":   "169.254.169.254",
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := newFetcher(t, Options{}).Fetch(t.Context(), Request{URL: "oci://" + host + "/a:1", Access: Access{CA: r.ca()}})
			requireFailure(t, err, failure.Upstream, failure.ForbiddenAddress, "the operator does not connect there")
		})
	}
}

// seen collects what a server was sent.
type seen struct {
	mu       sync.Mutex
	requests []string
}

func (s *seen) note(r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests = append(s.requests, fmt.Sprintf("%s %s %v", r.Method, r.URL, r.Header))
}

// secrets are requests that hold what only the registry should see.
func (s *seen) secrets() (found []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if strings.Contains(r, "Authorization") || strings.Contains(r, "canary") {
			found = append(found, r)
		}
	}
	return found
}

func dockerConfig(host string) []byte {
	config, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"username": "me", "password": "canary"}}})
	if err != nil {
		panic(err)
	}
	return config
}

// withLogin lets a registry ask for a login, and hand its blobs over to another address.
func withLogin(r *testRegistry, challenge string, allow func(*http.Request) bool, storage string) {
	r.front = func(w http.ResponseWriter, req *http.Request) bool {
		switch {
		case !allow(req):
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
		case storage != "" && strings.Contains(req.URL.Path, "/blobs/"):
			http.Redirect(w, req, storage+req.URL.Path+"?signature=canary2", http.StatusTemporaryRedirect)
		default:
			return false
		}
		return true
	}
}

func basic(req *http.Request) bool {
	user, password, _ := req.BasicAuth()
	return user == "me" && password == "canary"
}

// The login goes to the registry and to nobody it leads to, however long the chain is, also not
// when the chain comes back.
func TestCredentialsStayWithTheRegistry(t *testing.T) {
	t.Parallel()
	r, s := newRegistry(t), newStore(t)
	r.push("a:1", layer{wasmType, wasm("x"), ""})
	var foreign seen
	last := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		foreign.note(req)
		r.content.ServeHTTP(w, req)
	}))
	middle := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		foreign.note(req)
		http.Redirect(w, req, last.URL+req.URL.Path, http.StatusFound)
	}))
	for _, server := range []*httptest.Server{last, middle} {
		server.StartTLS() // another port of the same host: another origin
		t.Cleanup(server.Close)
	}
	withLogin(r, `Basic realm="r"`, basic, middle.URL)

	request := r.request("a:1")
	request.Access.DockerConfig = dockerConfig(r.host())
	got, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).Fetch(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	requireModule(t, s, got, wasm("x"))
	if len(foreign.requests) != 2 {
		t.Errorf("the other servers were asked %q", foreign.requests)
	}
	for _, secret := range foreign.secrets() {
		if !strings.Contains(secret, "signature=canary2") || strings.Contains(secret, "Authorization") || strings.Contains(secret, "Referer") {
			t.Errorf("another server got %s", secret)
		}
	}
}

// The rules hold for a client of Go alone, which keeps credentials for subdomains and other ports, and
// brings them back at each hop.
func TestCheckRedirect(t *testing.T) {
	t.Parallel()
	request := func(address string) *http.Request {
		req := httptest.NewRequest(http.MethodGet, address, nil)
		req.Header.Set("Authorization", "Basic canary")
		req.Header.Set("Cookie", "canary")
		req.Header.Set("Referer", "https://storage/?signature=canary")
		return req
	}
	for name, test := range map[string]struct {
		chain []string // the last is the one that is asked about
		err   error
		keeps bool
	}{
		"the same origin":               {[]string{"https://h/1", "https://h:443/2", "https://H/3"}, nil, true},
		"a subdomain":                   {[]string{"https://h/1", "https://s.h/2"}, nil, false},
		"another port":                  {[]string{"https://h/1", "https://h:8443/2"}, nil, false},
		"another scheme":                {[]string{"http://h/1", "https://h/2"}, nil, false},
		"there and back":                {[]string{"https://h/1", "https://i/2", "https://h/3"}, nil, false},
		"five redirects":                {[]string{"https://h/1", "https://h/2", "https://h/3", "https://h/4", "https://h/5", "https://h/6"}, nil, true},
		"six redirects":                 {[]string{"https://h/1", "https://h/2", "https://h/3", "https://h/4", "https://h/5", "https://h/6", "https://h/7"}, errTooManyRedirects, false},
		"from HTTPS to HTTP":            {[]string{"https://h/1", "http://h/2"}, errDowngrade, false},
		"from HTTPS to HTTP on the way": {[]string{"https://h/1", "https://i/2", "http://i/3"}, errDowngrade, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var via []*http.Request
			for _, address := range test.chain {
				via = append(via, request(address))
			}
			req, via := via[len(via)-1], via[:len(via)-1]
			err := checkRedirect(req, via)
			if !errors.Is(err, test.err) || err != nil && test.err == nil {
				t.Fatalf("checkRedirect() = %v", err)
			}
			if err != nil {
				return
			}
			if kept := len(req.Header["Authorization"])+len(req.Header["Cookie"]) > 0; kept != test.keeps {
				t.Errorf("credentials are kept: %t", kept)
			}
			if req.Header.Get("Referer") != "" {
				t.Error("the address of the storage is handed on")
			}
		})
	}
}

// A foreign server that asks for a login gets none.
func TestForeignServersMayNotAskForLogins(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.push("a:1", layer{wasmType, wasm("x"), ""})
	var foreign seen
	thief := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		foreign.note(req)
		w.Header().Set("WWW-Authenticate", `Basic realm="give it to me"`)
		w.WriteHeader(http.StatusUnauthorized)
	}))
	t.Cleanup(thief.Close)
	withLogin(r, `Basic realm="r"`, basic, thief.URL)
	request := r.request("a:1")
	request.Access.DockerConfig = dockerConfig(r.host())
	_, err := newFetcher(t, Options{AllowLoopback: true}).Fetch(t.Context(), request)
	requireFailure(t, err, failure.Upstream, failure.Unauthorized, "refused the login for layer")
	for _, secret := range foreign.secrets() {
		if strings.Contains(secret, "Authorization") {
			t.Errorf("another server got %s", secret)
		}
	}
}

// Who runs the operator may have the proxy on the same machine. What is asked through it is still
// not the machine itself.
func TestProxy(t *testing.T) {
	t.Parallel()
	r, s := newRegistry(t), newStore(t)
	r.push("a:1", layer{wasmType, wasm("x"), ""})
	proxy := newProxy(t, map[string]string{"example.com:443": r.host(), r.host(): r.host()})
	f := newFetcher(t, Options{Store: s})
	f.proxy = func(*http.Request) (*url.URL, error) { return proxy, nil }

	got, err := f.Fetch(t.Context(), Request{URL: "oci://example.com/a:1", Access: Access{CA: r.ca()}})
	if err != nil {
		t.Fatal(err)
	}
	requireModule(t, s, got, wasm("x"))
	_, err = f.Fetch(t.Context(), r.request("a:1"))
	requireFailure(t, err, failure.Upstream, failure.ForbiddenAddress, "the operator's own machine")
	_, err = f.Fetch(t.Context(), Request{URL: "oci://elsewhere.example/a:1", Access: Access{CA: r.ca()}})
	requireFailure(t, err, failure.Transient, failure.Unreachable, "through the proxy "+proxy.Host)
	_, err = f.Fetch(t.Context(), Request{URL: "oci://example.com/a:1", Access: Access{CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate(t, time.Now().Add(time.Hour), "x").Certificate[0]})}})
	requireFailure(t, err, failure.Upstream, failure.UntrustedCertificate, "put the CA that signed it there")
}

// Clients, with their tokens, are shared by those who have the same login and by nobody else.
func TestClientsAreShared(t *testing.T) {
	t.Parallel()
	f := newFetcher(t, Options{})
	connect := func(url string, a Access) any {
		t.Helper()
		ref, err := reference.Parse(url)
		if err != nil {
			t.Fatal(err)
		}
		client, _, err := f.connect(t.Context(), ref, a)
		if err != nil {
			t.Fatal(err)
		}
		return client
	}
	first := connect("oci://h/a:1", Access{DockerConfig: dockerConfig("h")})
	if first != connect("oci://h/b:2", Access{DockerConfig: dockerConfig("h")}) {
		t.Error("the same login has two clients")
	}
	for name, other := range map[string]any{
		"no login":         connect("oci://h/a:1", Access{}),
		"another registry": connect("oci://i/a:1", Access{DockerConfig: dockerConfig("h")}),
		"another login":    connect("oci://h/a:1", Access{DockerConfig: []byte(strings.ReplaceAll(string(dockerConfig("h")), "canary", "x"))}),
		"plain HTTP":       connect("oci://h/a:1", Access{DockerConfig: dockerConfig("h"), PlainHTTP: true}),
	} {
		if first == other {
			t.Errorf("%s shares the client", name)
		}
	}
	for i := range 2 * maxClients {
		connect(fmt.Sprintf("oci://h%d/a:1", i), Access{})
	}
	if len(f.clients.kept) != maxClients {
		t.Errorf("%d clients are kept", len(f.clients.kept))
	}
}
