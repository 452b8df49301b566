// Package handout is the operator's side of the data plane: it hands modules
// and catalogs to the plugin servers' pods. It needs no leadership and no
// login: everything in it is what the pods serve to everybody.
package handout

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/serve/content"
)

const (
	// pollHold is how long a poll is held when there is nothing new: below the
	// 60 s after which load balancers and proxies like to cut idle connections.
	pollHold = 50 * time.Second
	// maxPolls is the number of polls held at once for one server: more than
	// replicas make sense, few enough that a pod gone wild cannot take the memory.
	maxPolls = 500
	// RevisionHeader carries the revision of the catalog in an answer to a poll.
	RevisionHeader = "X-Catalog-Revision"
)

// Blobs is where the modules are. An absent one is fs.ErrNotExist.
type Blobs = content.Files

// Options of a Handler. All are needed.
type Options struct {
	// Blobs holds the modules.
	Blobs Blobs
	// Missing is told that a pod asked for a module that Blobs lacks. It says
	// whether the module is known, that is, whether waiting for it makes sense.
	Missing func(sha256 string) (known bool)
	// Lost says that a module cannot be had any more, from anywhere.
	Lost func(sha256 string) bool
	// Polled is told whenever a pod polls: which pod of which server
	// (namespace/name) it says it is, and which revision it says it serves ("" for none). It is
	// called without a lock held, by many requests at once, and only for servers
	// that have a catalog. Nothing proves what a pod says.
	Polled func(server, pod, revision string)
	// Logger takes what nobody else is told. Default: slog.Default().
	Logger *slog.Logger
}

// Handler answers the pods:
//
//	GET /blobs/sha256/<hex>
//	    200 the module (gzip if accepted) · 503 known, but not here yet ·
//	    410 lost for good · 404 unknown
//	GET /catalogs/<namespace>/<name>?revision=<known>&served=<served>&pod=<name>
//	    200 the catalog, as soon as it is another one than known · 204 nothing
//	    new for 50 s · 503 no catalog yet, or too many polls
//
// With If-None-Match the catalog known is the one of that ETag, otherwise any
// of that revision. The difference is the sequence: a revision that comes back has a
// higher one, and a pod that does not learn it would take a revision from between for
// newer. served defaults to known.
type Handler struct {
	options Options

	mu      sync.Mutex
	servers map[string]*served
	closed  bool
}

// served is the catalog of one server. It is replaced, never changed, apart
// from polls, which the successor takes over.
type served struct {
	encoded  []byte
	revision string
	etag     string        // of encoded
	changed  chan struct{} // closed when there is another one, or none any more
	polls    *int          // held now; guarded by Handler.mu
}

// New makes a Handler without catalogs.
func New(o Options) *Handler {
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	return &Handler{options: o, servers: map[string]*served{}}
}

// SetCatalog makes a catalog the one of a server (namespace/name) and answers
// the polls that are held for it. encoded is what catalog.Encode made and must
// not be changed afterwards.
func (h *Handler) SetCatalog(server string, encoded []byte, revision string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	old := h.servers[server]
	if h.closed || (old != nil && old.revision == revision && string(old.encoded) == string(encoded)) {
		return
	}
	s := &served{encoded: encoded, revision: revision, etag: fmt.Sprintf(`"%x"`, sha256.Sum256(encoded)), changed: make(chan struct{}), polls: new(int)}
	if old != nil {
		s.polls = old.polls
		close(old.changed)
	}
	h.servers[server] = s
}

// DropCatalog forgets a server.
func (h *Handler) DropCatalog(server string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if old := h.servers[server]; old != nil {
		close(old.changed)
		delete(h.servers, server)
	}
}

// Close forgets every server, which ends the held polls, and takes no new
// ones. It belongs into http.Server.RegisterOnShutdown: a shutdown would wait for the
// polls otherwise.
func (h *Handler) Close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.servers {
		close(s.changed)
	}
	clear(h.servers)
	h.closed = true
}

// ServeHTTP answers a pod.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are known here", http.StatusMethodNotAllowed)
		return
	}
	if hash, ok := strings.CutPrefix(r.URL.Path, "/blobs/sha256/"); ok && catalog.SHA256Pattern.MatchString(hash) {
		h.blob(w, r, hash)
		return
	}
	if server, ok := strings.CutPrefix(r.URL.Path, "/catalogs/"); ok {
		h.poll(w, r, server)
		return
	}
	http.NotFound(w, r)
}

func (h *Handler) blob(w http.ResponseWriter, r *http.Request, hash string) {
	err := content.Serve(w, r, h.options.Blobs, hash)
	switch {
	case err == nil:
	case !errors.Is(err, fs.ErrNotExist):
		h.options.Logger.Error("cannot read a module of the store", "sha256", hash, "error", err)
		later(w, "the store cannot read this module now")
	case h.options.Lost(hash):
		http.Error(w, "this module is lost: it is neither in the store nor where it came from", http.StatusGone)
	case h.options.Missing(hash):
		later(w, "this module is being fetched")
	default:
		http.Error(w, "no catalog names this module", http.StatusNotFound)
	}
}

func later(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, why+"; ask again", http.StatusServiceUnavailable)
}
