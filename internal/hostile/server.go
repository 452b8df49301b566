package hostile

import (
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"sync"
)

const (
	repository = "good-then-bad/"
	files      = "/files/"
	user       = "robot"
	// Password of the login that the registry wants.
	Password = "password-" + Canary
)

// answer answers a request in place of the registry, or says that it does not.
type answer func(s *Server, w http.ResponseWriter, r *http.Request) bool

// Server plays a registry (distribution specification) and a file server, both
// with a login. Until Turn is called every artifact and every file is good.
type Server struct {
	host, foreign string

	mu    sync.Mutex
	bad   bool
	cases map[string]Case
	found []string
}

// New makes the server of a corpus, which is reached by HTTPS at host, as a
// foreign server is at foreign: HOST:PORT both.
func New(host, foreign string, corpus []Case) *Server {
	s := &Server{host: host, foreign: foreign, cases: map[string]Case{}}
	for _, c := range corpus {
		s.cases[c.Name] = c
	}
	return s
}

// Turn makes everything bad.
func (s *Server) Turn() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.bad = true
}

// Login is a docker configuration: with what the server wants, and with logins
// that are not its business.
func (s *Server) Login() []byte {
	return fmt.Appendf(nil, `{"auths":{%q:{"username":%q,"password":%q},%q:{"username":"thief","password":%q},"169.254.169.254":{"username":"m","password":%q}}}`,
		s.host, user, Password, s.foreign, "foreign-"+Canary, "metadata-"+Canary)
}

// Leaks gives what the foreign server was sent and should not have been.
func (s *Server) Leaks() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.found
}

// Foreign plays a server that the registry leads to. It asks for a login, which
// is to be brought to itself.
func (s *Server) Foreign(w http.ResponseWriter, r *http.Request) {
	request := fmt.Sprintf("%s %s %v", r.Method, r.URL, r.Header)
	if Leaks(request) || r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
		s.mu.Lock()
		s.found = append(s.found, request)
		s.mu.Unlock()
	}
	if back := r.URL.Query().Get("back"); back != "" {
		http.Redirect(w, r, "https://"+s.host+back, http.StatusFound) //nolint:gosec // as hostile servers do
		return
	}
	w.Header().Set("WWW-Authenticate", `Bearer realm="https://`+s.foreign+`/token"`)
	w.WriteHeader(http.StatusUnauthorized)
}

// ServeHTTP answers as registry and as file server.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c, rest := s.caseOf(r.URL.Path)
	name, password, _ := r.BasicAuth()
	known := name == user && password == Password
	if c.answer != nil && (known || c.open) && c.answer(s, w, r) {
		return
	}
	if !known {
		w.Header().Set("WWW-Authenticate", `Basic realm="hostile"`)
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if strings.HasPrefix(r.URL.Path, files) {
		s.serveFile(w, r, c)
		return
	}
	c.artifact.serve(w, r, rest)
}

// caseOf gives the case that a path belongs to, as it is now, and what follows its
// name.
func (s *Server) caseOf(path string) (c Case, rest string) {
	path = strings.TrimPrefix(strings.TrimPrefix(path, "/v2/"), repository)
	name, rest, _ := strings.Cut(strings.TrimPrefix(path, files), "/")
	name = strings.TrimSuffix(name, ".wasm")
	s.mu.Lock()
	defer s.mu.Unlock()
	c, found := s.cases[name]
	switch {
	case !found || !s.bad || !c.Turns():
		return Case{Name: name, artifact: single(wasmType, Good(name)), file: Good(name)}, rest
	case c.artifact == nil:
		c.artifact = single(wasmType, changed(name))
	}
	return c, rest
}

func (s *Server) serveFile(w http.ResponseWriter, _ *http.Request, c Case) {
	content := c.file
	if content == nil {
		content = changed(c.Name)
	}
	_, _ = w.Write(content)
}

// serve answers for what is below a repository.
func (a *artifact) serve(w http.ResponseWriter, r *http.Request, path string) {
	kind, reference, _ := strings.Cut(path, "/")
	content, found := a.others[reference]
	switch {
	case kind == "blobs" && found:
		w.Header().Set("Content-Type", "application/octet-stream")
	case kind == "manifests" && found:
		w.Header().Set("Content-Type", manifestType)
	case kind == "manifests" && (reference == "1" || reference == a.digest):
		content = a.manifest
		w.Header().Set("Content-Type", a.mediaType)
		w.Header().Set("Docker-Content-Digest", a.digest)
	default:
		w.WriteHeader(http.StatusNotFound)
		return
	}
	w.Header().Set("Content-Length", strconv.Itoa(len(content)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(content)
	}
}
