// Package serve answers gateways over HTTP with what stands on a volume. It
// never fetches anything: what is not on the volume is waited for, and then
// refused in a way that a gateway tries again.
package serve

import (
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/serve/content"
)

const (
	// Hold is how long a request for what is not there yet is held. A gateway
	// tries five times within 30 s, so that held requests cover 27 s of waiting, and
	// immediate refusals only 4 s.
	Hold = 8 * time.Second
	// maxHeld is the number of requests held at once; beyond it the answer is 503.
	maxHeld = 1024

	moduleName   = "plugin.wasm"
	metadataName = "metadata.txt"

	// lostEvery is how often a file is looked for that should be there: one that
	// was lost is fetched again.
	lostEvery = 500 * time.Millisecond
	// statusClientLeft is what the log shows for a client that did not wait for
	// its answer; nobody receives it. The number is nginx's.
	statusClientLeft = 499
)

// plugins answers everything below /plugins/ and /blobs/.
type plugins struct {
	volume *volume
	blobs  publish.Blobs
	hold   time.Duration
	// held are the requests held now, heldUnknown those of them for what nobody
	// declares.
	held, heldUnknown atomic.Int64
	// draining is closed when the server ends: nobody is held any longer.
	draining <-chan struct{}
	metrics  *metrics
	logger   *slog.Logger
}

func (p *plugins) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD are answered", http.StatusMethodNotAllowed)
		return
	}
	path, isPlugins := strings.CutPrefix(r.URL.Path, "/plugins")
	blob, isBlob := strings.CutPrefix(r.URL.Path, "/blobs/sha256/")
	switch {
	case isBlob && catalog.SHA256Pattern.MatchString(blob):
		p.blob(w, r, blob)
	case isPlugins && (path == "" || path[0] == '/'):
		p.below(w, r, strings.TrimPrefix(path, "/"))
	default:
		notFound(w)
	}
}

// below answers a path below /plugins/.
func (p *plugins) below(w http.ResponseWriter, r *http.Request, path string) {
	name, rest, _ := strings.Cut(path, "/")
	version, file, isFile := strings.Cut(rest, "/")
	key := catalog.Key{Name: name, Version: version}
	declared := p.volume.current().declared[key] // and so well-formed
	switch {
	case path == "snapshot-inventory.json":
		p.inventory(w)
	case path == "":
		p.list(w, r, catalog.Key{})
	case !declared && !catalog.NamePattern.MatchString(name):
		notFound(w)
	case rest == "":
		p.list(w, r, catalog.Key{Name: name})
	case !declared && !catalog.VersionPattern.MatchString(version):
		notFound(w)
	case !isFile || file == "":
		p.list(w, r, key)
	case file == moduleName || file == metadataName:
		p.file(w, r, key, file)
	default:
		notFound(w)
	}
}

// file answers with a file of one version.
func (p *plugins) file(w http.ResponseWriter, r *http.Request, key catalog.Key, file string) {
	if file == metadataName {
		p.metadata(w, r, key)
		return
	}
	want := wanted{key: key}
	if r.URL.RawQuery != "" {
		query := r.URL.Query()
		if want.sha256 = query.Get("sha256"); query.Has("sha256") && !catalog.SHA256Pattern.MatchString(want.sha256) {
			http.Error(w, "sha256 has to be 64 lower case hexadecimal digits", http.StatusNotFound)
			return
		}
	}
	p.module(w, r, want)
}

// blob answers with a module by its content. Who does not want to wait, a
// sibling, gets what is on the volume, even before it is part of a generation.
func (p *plugins) blob(w http.ResponseWriter, r *http.Request, sha256 string) {
	if preferredWait(r.Header, p.hold) == 0 && content.Serve(w, r, p.blobs, sha256) == nil {
		return
	}
	p.module(w, r, wanted{sha256: sha256})
}

// module answers with a module, and waits for it where it is declared, or may
// be declared in a moment.
func (p *plugins) module(w http.ResponseWriter, r *http.Request, want wanted) {
	var failed error
	verdict := p.await(r, want, func(sha256 string) bool {
		failed = content.Serve(w, r, p.blobs, sha256)
		return failed == nil
	})
	if failed != nil && verdict != gone {
		p.logger.Error("a module that is served cannot be read", "plugin", want.String(), "error", failed)
	}
	p.refuse(w, want, verdict)
}

// refuse says why there is no module. Gateways ask again after a 503, and
// never after a 404.
func (p *plugins) refuse(w http.ResponseWriter, want wanted, is verdict) {
	switch is {
	case unknown:
		if p.volume.status().Behind {
			unavailable(w, "this server cannot take up the newest catalog, which may declare "+want.String())
			return
		}
		p.metrics.unknown.Inc()
		http.Error(w, "no PluginSource declares "+want.String(), http.StatusNotFound)
	case later:
		unavailable(w, want.String()+" is declared, but has not arrived here yet")
	case crowded:
		unavailable(w, "too many requests wait for plugins")
	case unseen:
		unavailable(w, "this server has not seen a catalog yet")
	case gone:
		w.WriteHeader(statusClientLeft)
	case found:
	}
}

// metadata answers with metadata.txt. It is for people, so nobody waits.
func (p *plugins) metadata(w http.ResponseWriter, r *http.Request, key catalog.Key) {
	now := p.volume.current()
	if _, is := now.find(wanted{key: key}); is != found {
		p.refuse(w, wanted{key: key}, is)
		return
	}
	writeText(w, r, publish.Metadata(now.entries[key]))
}

func notFound(w http.ResponseWriter) {
	http.Error(w, "nothing is served here; plugins are at /plugins/<name>/<version>/plugin.wasm", http.StatusNotFound)
}

func unavailable(w http.ResponseWriter, why string) {
	w.Header().Set("Retry-After", "1")
	http.Error(w, why, http.StatusServiceUnavailable)
}
