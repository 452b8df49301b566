package hostile

import (
	"fmt"
	"net/http"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// to leads everything elsewhere: {host}, {foreign} and {path} are filled in.
func to(code int, location string) answer {
	return func(s *Server, w http.ResponseWriter, r *http.Request) bool {
		target := strings.NewReplacer("{host}", s.host, "{foreign}", s.foreign, "{path}", r.URL.Path).Replace(location)
		w.Header()["Location"] = []string{target}
		w.WriteHeader(code)
		return true
	}
}

// blobsTo does so with blobs alone.
func blobsTo(location string) answer {
	return func(s *Server, w http.ResponseWriter, r *http.Request) bool {
		return strings.Contains(r.URL.Path, "/blobs/") && to(http.StatusTemporaryRedirect, location)(s, w, r)
	}
}

const signed = "?X-Amz-Signature=" + Canary

// redirects are patterns of where a registry leads. Locations have signatures in
// them, which are secret.
func redirects() []Case {
	redirect := func(name string, reason failure.Reason, says string, a answer) Case {
		return Case{Kind: Redirect, Name: "redirect-" + name, Reason: reason, Says: says, answer: a}
	}
	own := func(c Case) Case {
		c.OwnMachine = true
		return c
	}
	named := func(c Case) Case {
		c.Named = true
		return c
	}
	server, forbidden := failure.RegistryError, failure.ForbiddenAddress
	loop, down := "more than 5 redirects", "a redirect from HTTPS to HTTP"
	return []Case{
		redirect("to-itself", server, loop, to(http.StatusFound, "https://{host}{path}"+signed)),
		redirect("longer-and-longer", server, loop, func(s *Server, w http.ResponseWriter, r *http.Request) bool {
			return to(http.StatusTemporaryRedirect, fmt.Sprintf("https://{host}{path}%s&a=%s", signed, r.URL.Query().Get("a")+"a"))(s, w, r)
		}),
		redirect("there-and-back", failure.Unauthorized, "refused the login", to(http.StatusFound, "https://{foreign}/?back={path}")),
		redirect("to-plain-http", server, down, blobsTo("http://{foreign}{path}"+signed)),
		redirect("to-a-file", server, down, to(http.StatusFound, "file:///etc/passwd"+signed)),
		redirect("to-metadata", forbidden, "leads to 169.254.169.254", blobsTo("https://169.254.169.254/latest/meta-data"+signed)),
		redirect("to-metadata-in-other-words", forbidden, "leads to 169.254.169.254", to(http.StatusSeeOther, "https://[::ffff:a9fe:a9fe]/"+signed)),
		redirect("without-a-scheme", forbidden, "leads to 100.100.100.200", to(http.StatusFound, "//100.100.100.200/"+signed)),
		own(redirect("to-the-machine", forbidden, "the operator's own machine", blobsTo("https://127.0.0.1/"+signed))),
		own(redirect("to-the-machine-in-the-new-way", forbidden, "the operator's own machine", to(http.StatusPermanentRedirect, "https://[::1]:443/"+signed))),
		own(redirect("to-localhost", forbidden, "the operator's own machine", to(http.StatusFound, "https://localhost/"+signed))),
		named(redirect("to-a-name", forbidden, "leads to 169.254.169.254", blobsTo("https://metadata.google.internal/"+signed))),
		redirect("with-a-login", forbidden, "leads to 169.254.169.254", to(http.StatusFound, "https://me:"+Canary+"@169.254.169.254/")),
		redirect("to-a-thief", failure.Unauthorized, "refused the login", blobsTo("https://{foreign}/?signature=of-the-storage")),
		redirect("malformed", failure.Unreachable, "did not give a whole HTTP answer", to(http.StatusFound, "https://{host}:port/"+signed)),
		redirect("nowhere", server, "answered 302", func(_ *Server, w http.ResponseWriter, _ *http.Request) bool {
			w.WriteHeader(http.StatusFound)
			return true
		}),
	}
}

// fileRedirects are those of a file server, which gets the login at once.
func fileRedirects() []Case {
	redirect := func(name string, reason failure.Reason, says, location string) Case {
		name = "redirect-of-a-file-" + name
		return Case{Kind: Redirect, Name: name, Reason: reason, Says: says, url: "https://{host}/files/" + name + ".wasm", answer: to(http.StatusFound, location)}
	}
	return []Case{
		redirect("to-metadata", failure.ForbiddenAddress, "leads to 169.254.169.254", "https://169.254.169.254/"+signed),
		redirect("to-plain-http", failure.RegistryError, "a redirect from HTTPS to HTTP", "http://169.254.169.254/"+signed),
		redirect("to-a-thief", failure.Unauthorized, "refused the login", "https://{foreign}/x.wasm"),
		redirect("to-itself", failure.RegistryError, "more than 5 redirects", "{path}"+signed),
	}
}

// realmCases lead to login services.
func realmCases() []Case {
	challenge := func(name string, reason failure.Reason, says, challenge string) Case {
		return Case{Kind: Redirect, Name: "realm-" + name, Reason: reason, Says: says, open: true, answer: func(_ *Server, w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("WWW-Authenticate", challenge)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}}
	}
	return []Case{
		challenge("at-metadata", failure.ForbiddenAddress, "leads to 169.254.169.254", `Bearer realm="https://169.254.169.254/token`+signed+`",service="`+Canary+`"`),
		challenge("by-plain-http", failure.RegistryError, "not reached by HTTPS", `Bearer realm="http://10.255.255.1/token`+signed+`"`),
		challenge("malformed", failure.RegistryError, "not reached by HTTPS", `Bearer realm="https://[::1/`+Canary+`"`),
		challenge("of-another-scheme", failure.RegistryError, "not reached by HTTPS", `Bearer realm="file:///etc/`+Canary+`"`),
		challenge("none", failure.RegistryError, "not named once and plainly", `Bearer service="`+Canary+`"`),
		challenge("twice", failure.RegistryError, "not named once and plainly", `Bearer realm="https://10.255.255.1/token",realm="http://10.255.255.1/`+Canary+`"`),
		challenge("escaped", failure.RegistryError, "not named once and plainly", `Bearer realm="\x68ttp://10.255.255.1/`+Canary+`"`),
		challenge("unknown-scheme", failure.Unauthorized, "(401)", `Negotiate `+Canary),
	}
}
