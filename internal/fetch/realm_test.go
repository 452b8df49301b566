package fetch

import (
	"crypto/tls"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

func TestLogins(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		config func(host string) []byte
		says   string // nothing: it is fetched
	}{
		"the right one":        {dockerConfig, ""},
		"none":                 {func(string) []byte { return nil }, "name a Secret in secretRef"},
		"one for another host": {func(string) []byte { return dockerConfig("elsewhere") }, "the Secret named in secretRef has none for it"},
		"a wrong one": {func(host string) []byte {
			return []byte(strings.ReplaceAll(string(dockerConfig(host)), "canary", "wrong"))
		}, "refused the login for a:1 (401): check the Secret"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, challenge := range []string{"basic", "bearer"} {
				r, s := newRegistry(t), newStore(t)
				r.push("a:1", layer{wasmType, wasm("x"), ""})
				if challenge == "basic" {
					withLogin(r, `Basic realm="r"`, basic, "")
				} else {
					withTokens(r, r.server.URL+"/token")
				}
				request := r.request("a:1")
				request.Access.DockerConfig = test.config(r.host())
				got, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).Fetch(t.Context(), request)
				if test.says != "" {
					requireFailure(t, err, failure.Upstream, failure.Unauthorized, test.says)
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				requireModule(t, s, got, wasm("x"))
			}
		})
	}
}

// withTokens lets a registry want tokens from a login service.
func withTokens(r *testRegistry, realm string) {
	challenge := fmt.Sprintf(`Bearer realm="%s",service="registry",scope="repository:a:pull"`, realm)
	allowed := func(req *http.Request) bool { return req.Header.Get("Authorization") == "Bearer token" }
	withLogin(r, challenge, allowed, "")
	registry := r.front
	r.front = func(w http.ResponseWriter, req *http.Request) bool {
		if req.URL.Path == "/token" {
			giveToken(w, req)
			return true
		}
		return registry(w, req)
	}
}

func giveToken(w http.ResponseWriter, req *http.Request) {
	if !basic(req) || req.URL.Query().Get("service") != "registry" || req.URL.Query().Get("scope") != "repository:a:pull" {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = w.Write([]byte(`{"token":"token"}`))
}

// In private networks login services have private addresses of their own (GitLab beside its registry). oras
// alone would refuse them.
func TestLoginServiceOfAnotherHost(t *testing.T) {
	t.Parallel()
	cert := certificate(t, time.Now().Add(time.Hour), "registry.bank.internal", "10.1.2.3")
	var asked seen
	service := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		asked.note(req)
		giveToken(w, req)
	}))
	service.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	service.StartTLS()
	t.Cleanup(service.Close)

	r, s := unstartedRegistry(t), newStore(t)
	r.server.TLS = &tls.Config{Certificates: []tls.Certificate{cert}}
	r.server.StartTLS()
	r.push("a:1", layer{wasmType, wasm("x"), ""})
	withTokens(r, "https://10.1.2.3/jwt/auth?client=x")

	f := newFetcher(t, Options{Store: s})
	proxy := newProxy(t, map[string]string{"registry.bank.internal:443": r.host(), "10.1.2.3:443": service.Listener.Addr().String()})
	f.proxy = func(*http.Request) (*url.URL, error) { return proxy, nil }
	got, err := f.Fetch(t.Context(), Request{
		URL:    "oci://registry.bank.internal/a:1",
		Access: Access{DockerConfig: dockerConfig("registry.bank.internal"), CA: r.ca()},
	})
	if err != nil {
		t.Fatal(err)
	}
	requireModule(t, s, got, wasm("x"))
	if len(asked.requests) != 1 || !strings.HasPrefix(asked.requests[0], "GET /jwt/auth?client=x&scope=") {
		t.Errorf("the login service was asked %q", asked.requests)
	}
}

// The login does not go where it could be read, or to the machine itself.
func TestLoginServicesThatAreRefused(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		realm  string
		reason failure.Reason
	}{
		"plain HTTP":     {"http://login.bank.internal/token", failure.RegistryError},
		"another scheme": {"file:///etc/passwd", failure.RegistryError},
		"no address":     {"https://%zz", failure.RegistryError},
		"the metadata":   {"https://169.254.169.254/token", failure.ForbiddenAddress},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			r.push("a:1", layer{wasmType, wasm("x"), ""})
			withTokens(r, test.realm)
			request := r.request("a:1")
			request.Access.DockerConfig = dockerConfig(r.host())
			_, err := newFetcher(t, Options{AllowLoopback: true}).Fetch(t.Context(), request)
			requireFailure(t, err, failure.Upstream, test.reason, "registry "+r.host())
		})
	}
}
