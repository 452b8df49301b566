package hostile

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// tokens plays a registry with a login service of its own, which gives this
// answer.
func tokens(code int, body string) answer {
	return func(s *Server, w http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, "/token") {
			w.WriteHeader(code)
			_, _ = fmt.Fprint(w, body)
			return true
		}
		path := strings.Join(strings.Split(r.URL.Path, "/")[:4], "/") + "/token"
		w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+s.host+path+`",service="`+Canary+`"`)
		w.WriteHeader(http.StatusUnauthorized)
		_, _ = fmt.Fprintf(w, `{"errors":[{"code":"UNAUTHORIZED","message":%q}]}`, r.Header.Get("Authorization")) //nolint:gosec // as hostile servers do
		return true
	}
}

// credentials have secrets where they should not be, and where they may be.
func credentials() []Case {
	invalid := failure.InvalidReference
	of := func(name string, reason failure.Reason, says, url string) Case {
		return place(Credential, name, reason, says, url)
	}
	signedFile := func(name string, reason failure.Reason, says string, a answer) Case {
		c := of(name, reason, says, "https://{host}/files/credential-"+name+".wasm"+signed)
		c.answer = a
		return c
	}
	service := func(name string, reason failure.Reason, says string, a answer) Case {
		return Case{Kind: Credential, Name: "credential-" + name, Reason: reason, Says: says, answer: a, open: true}
	}
	echo := func(_ *Server, w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Warning", `299 - "`+r.Header.Get("Authorization")+`"`)
		w.Header().Set("Docker-Content-Digest", r.Header.Get("Authorization"))
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprint(w, r.Header) //nolint:gosec // as hostile servers do
		return true
	}
	moves := of("in-a-query-of-what-moves", failure.NotWasm, "it is an HTML page", "https://{host}/files/credential-in-a-query-of-what-moves.wasm"+signed)
	moves.file = []byte("<!doctype html>")
	return []Case{
		moves,
		of("in-a-reference", invalid, "holds a user name", "oci://me:"+Canary+"@{host}/a:1"),
		of("alone-in-a-reference", invalid, "holds a user name", "oci://"+Canary+"@{host}/a:1"),
		of("in-the-address-of-a-file", invalid, "holds a user name", "https://me:"+Canary+"@{host}/a.wasm"),
		of("with-a-slash-in-it", invalid, "is no address of a plugin", "https://me:"+Canary+"/x@{host}/a.wasm"),
		of("in-a-malformed-address", invalid, "malformed", "https://me:"+Canary+"%zz@{host}/a.wasm"),
		of("in-another-scheme", invalid, "does not begin with oci://", "ftp://me:"+Canary+"@{host}/a.wasm"),
		of("in-a-fragment", invalid, "it has a fragment", "https://{host}/a.wasm#"+Canary),
		of("in-a-query-of-a-reference", invalid, "tag is malformed", "oci://{host}/a:1"+signed),
		of("in-a-query-of-another-scheme", invalid, "does not begin with oci://", "HTTPS://{host}/a.wasm"+signed),
		of("in-a-query", failure.ForbiddenAddress, "metadata service", "https://100.100.100.200/a.wasm"+signed),
		of("in-a-query-of-a-folder", invalid, "the file is missing", "https://{host}/files/"+signed),
		signedFile("in-a-query-of-nothing", failure.NotFound, "(404)", status(http.StatusNotFound)),
		signedFile("in-a-query-of-a-failure", failure.RegistryError, "a problem of its own", status(http.StatusBadGateway)),
		signedFile("in-a-query-of-no-answer", failure.Unreachable, "closed the connection", func(_ *Server, w http.ResponseWriter, _ *http.Request) bool {
			raw("")(w)
			return true
		}),
		signedFile("in-a-query-handed-on", failure.Unauthorized, "refused the login", to(http.StatusFound, "https://{foreign}/x")),
		service("refused-by-the-service", failure.Unauthorized, "refused the login", tokens(http.StatusUnauthorized, Canary)),
		service("of-a-broken-service", failure.RegistryError, "a problem of its own", tokens(http.StatusInternalServerError, Canary)),
		service("malformed-token", failure.RegistryError, "does not follow", tokens(http.StatusOK, `{"token":["`+Canary+`"]}`)),
		service("empty-token", failure.RegistryError, "does not follow", tokens(http.StatusOK, `{"`+Canary+`":1}`)),
		service("token-that-is-refused", failure.Unauthorized, "refused the login", tokens(http.StatusOK, `{"token":"`+Canary+`"}`)),
		{Kind: Credential, Name: "credential-sent-back", Reason: failure.RegistryError, Says: "does not follow the distribution specification", answer: echo},
	}
}
