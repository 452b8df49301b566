package serve

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed" // the page and its style
	"encoding/base64"
	"fmt"
	"html/template"
	"net"
	"net/http"
	"slices"
	"strings"
	"time"

	"golang.org/x/mod/semver"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// maxShown is how many characters of a description or source stand in a table;
// a version's own page has all of them.
const maxShown = 160

var (
	//go:embed list.html
	pageHTML string
	//go:embed list.css
	pageCSS string

	pageTemplate = template.Must(template.New("page").Funcs(template.FuncMap{
		"css": func() template.CSS { return template.CSS(pageCSS) }, // #nosec G203 -- a file of ours
		"mib": mebibytes, "utc": utc, "short": short,
	}).Parse(pageHTML))
	// pagePolicy allows the page its own style and nothing else.
	pagePolicy = func() string {
		sum := sha256.Sum256([]byte(pageCSS))
		return "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	}()
)

// pageData is what the page shows: all plugins, one of them, or one version.
type pageData struct {
	Title string
	// Key is what was asked for; its parts may be empty.
	Key catalog.Key
	// Host is how the browser reached this server. Elsewhere says that this is not
	// the name of a Service, so that gateways need another one.
	Host      string
	Elsewhere bool
	Path      string
	// Unseen and Unknown say why there is nothing to show.
	Unseen, Unknown bool
	Hold            time.Duration

	Plugins []pagePlugin
	Counts  pageCounts
	// One is the version that was asked for, and Same are the others that have the
	// same module.
	One  *listed
	Same []listed
}

// pagePlugin is a plugin with its versions, the newest first.
type pagePlugin struct {
	Name, Description string
	Versions          []listed
}

// pageCounts sums a page up. Modules counts each once, whatever its names, and
// Size is theirs.
type pageCounts struct {
	Versions, Available, Pending, Retained, Modules int
	Size                                            int64
}

func (p *plugins) writePage(w http.ResponseWriter, r *http.Request, now *view, key catalog.Key, versions []listed) {
	data := pageData{
		Key: key, Host: r.Host, Elsewhere: !isService(r.Host), Hold: p.hold, Unseen: now.empty(),
		Path: "/plugins/", Title: "Plugins",
	}
	switch {
	case key.Version != "":
		data.Title, data.Path = key.Name+" "+key.Version, "/plugins/"+key.Name+"/"+key.Version+"/"
	case key.Name != "":
		data.Title, data.Path = key.Name, "/plugins/"+key.Name+"/"
	}
	data.Unknown = !data.Unseen && key.Name != "" && len(versions) == 0
	data.Plugins, data.Counts = byPlugin(versions), count(versions)
	if key.Version != "" && len(versions) == 1 {
		data.One, data.Same = &versions[0], sameModule(now, versions[0])
	}
	var b bytes.Buffer
	if err := pageTemplate.Execute(&b, data); err != nil {
		p.logger.Error("cannot make the page", "error", err)
		http.Error(w, "the page cannot be made; the log says why", http.StatusInternalServerError)
		return
	}
	const kind = formHTML + "; charset=utf-8"
	w.Header().Set("Content-Security-Policy", pagePolicy)
	if !data.Unseen && !data.Unknown {
		writeTagged(w, r, kind, b.Bytes())
		return
	}
	status := http.StatusNotFound
	if data.Unseen {
		w.Header().Set("Retry-After", "1")
		status = http.StatusServiceUnavailable
	}
	w.Header().Set("Content-Type", kind)
	w.WriteHeader(status)
	_, _ = w.Write(b.Bytes())
}

// byPlugin groups versions, which are in order of their keys.
func byPlugin(versions []listed) []pagePlugin {
	var plugins []pagePlugin
	for _, v := range versions {
		if len(plugins) == 0 || plugins[len(plugins)-1].Name != v.Name {
			plugins = append(plugins, pagePlugin{Name: v.Name})
		}
		last := &plugins[len(plugins)-1]
		last.Versions = append(last.Versions, v)
	}
	for i := range plugins {
		p := &plugins[i]
		// What is no semantic version, such as latest, comes last.
		slices.SortStableFunc(p.Versions, func(a, b listed) int { return semver.Compare("v"+b.Version, "v"+a.Version) })
		for _, v := range p.Versions {
			p.Description = cmp.Or(p.Description, v.Description)
		}
	}
	return plugins
}

func count(versions []listed) pageCounts {
	c := pageCounts{Versions: len(versions)}
	modules := map[string]bool{}
	for _, v := range versions {
		switch v.State {
		case stateAvailable:
			c.Available++
		case statePending:
			c.Pending++
		case stateRetained:
			c.Retained++
		}
		if v.SHA256 != "" && !modules[v.SHA256] {
			modules[v.SHA256] = true
			c.Size += v.Size
		}
	}
	c.Modules = len(modules)
	return c
}

// sameModule lists the other names and versions of a module.
func sameModule(now *view, of listed) []listed {
	var same []listed
	for _, v := range listVersions(now, catalog.Key{}) {
		if of.SHA256 != "" && v.SHA256 == of.SHA256 && v.key() != of.key() {
			same = append(same, v)
		}
	}
	return same
}

// isService says whether a host looks like the name of a Service.
func isService(host string) bool {
	if name, _, err := net.SplitHostPort(host); err == nil {
		host = name
	}
	return strings.HasSuffix(host, ".svc") || strings.Contains(host, ".svc.")
}

func mebibytes(n int64) string { return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20)) }

// utc writes a time of the catalog for people; one that is malformed stays.
func utc(layout, text string) string {
	t, err := time.Parse(time.RFC3339, text)
	if err != nil {
		return text
	}
	return t.UTC().Format(layout)
}

// short cuts a text that somebody else wrote.
func short(text string) string {
	runes := []rune(text)
	if len(runes) <= maxShown {
		return text
	}
	return strings.TrimSpace(string(runes[:maxShown])) + "…"
}
