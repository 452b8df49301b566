package serve

import (
	"encoding/json"
	"fmt"
	"html/template"
	"mime"
	"net/http"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// listed is one version in a listing.
type listed struct {
	Name        string `json:"name"`
	Version     string `json:"version"`
	State       string `json:"state"` // Available, Pending or Retained
	Size        int64  `json:"size,omitempty"`
	SHA256      string `json:"sha256,omitempty"`
	Digest      string `json:"digest,omitempty"`
	Source      string `json:"source,omitempty"`
	Created     string `json:"created,omitempty"`
	Description string `json:"description,omitempty"`
	Path        string `json:"path"`
}

// list lists the versions that match a key, of which parts may be empty: for
// programs as JSON, for browsers as HTML, else as text.
func (p *plugins) list(w http.ResponseWriter, r *http.Request, key catalog.Key) {
	now := p.volume.current()
	if now.empty() {
		unavailable(w, "this server has not seen a catalog yet")
		return
	}
	versions := listVersions(now, key)
	if key.Name != "" && len(versions) == 0 {
		http.Error(w, "no PluginSource declares "+strings.TrimSuffix(key.String(), ":"), http.StatusNotFound)
		return
	}
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", "no-cache")
	switch accepted(r.Header.Get("Accept")) {
	case "application/json":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(map[string]any{"plugins": versions})
	case "text/html":
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'")
		_ = page.Execute(w, versions)
	default:
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		table := tabwriter.NewWriter(w, 0, 4, 2, ' ', 0)
		for _, v := range versions {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", v.Name, v.Version, v.State, v.Size, v.SHA256)
		}
		_ = table.Flush()
	}
}

func listVersions(now *view, key catalog.Key) []listed {
	versions := []listed{}
	for k := range now.declared {
		if (key.Name != "" && key.Name != k.Name) || (key.Version != "" && key.Version != k.Version) {
			continue
		}
		v := listed{Name: k.Name, Version: k.Version, State: "Pending", Path: "/plugins/" + k.Name + "/" + k.Version + "/" + moduleName}
		if e, there := now.entries[k]; there {
			v.State, v.Size, v.SHA256, v.Digest, v.Source = "Available", e.Size, e.SHA256, e.Digest, e.Source
			v.Created, v.Description = e.Created, e.Description
			if e.RetainedUntil != "" {
				v.State = "Retained"
			}
		}
		versions = append(versions, v)
	}
	slices.SortFunc(versions, func(a, b listed) int {
		return catalog.Key{Name: a.Name, Version: a.Version}.Compare(catalog.Key{Name: b.Name, Version: b.Version})
	})
	return versions
}

// accepted gives the first media type of an Accept header that we have; curl's
// */* is plain text.
func accepted(header string) string {
	for part := range strings.SplitSeq(header, ",") {
		kind, _, err := mime.ParseMediaType(part)
		if err == nil && (kind == "application/json" || kind == "text/html") {
			return kind
		}
	}
	return "text/plain"
}

// inventory answers as the newest official plugin server does: an object by
// plugin, here of each plugin's last version.
func (p *plugins) inventory(w http.ResponseWriter) {
	type item struct {
		Version    string `json:"version"`
		Digest     string `json:"digest"`
		WasmSHA256 string `json:"wasmSha256"`
	}
	now := p.volume.current()
	if now.empty() {
		unavailable(w, "this server has not seen a catalog yet")
		return
	}
	items := map[string]item{}
	for _, v := range listVersions(now, catalog.Key{}) {
		if v.State != "Available" || !newer(v.Version, items[v.Name].Version) {
			continue
		}
		items[v.Name] = item{v.Version, v.Digest, v.SHA256}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-cache")
	_ = json.NewEncoder(w).Encode(items)
}

func writeText(w http.ResponseWriter, r *http.Request, text []byte) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("Content-Length", fmt.Sprint(len(text)))
	if r.Method != http.MethodHead {
		_, _ = w.Write(text)
	}
}

var page = template.Must(template.New("page").Funcs(template.FuncMap{"mebibytes": func(n int64) string {
	return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20))
}}).Parse(`<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Plugins</title>
<style>
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:72rem;padding:0 1rem;color:#1a1f2b}
table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.35rem .75rem;border-bottom:1px solid #dde2ea;vertical-align:top}
td.n{text-align:right;white-space:nowrap}code{font-size:.8rem;word-break:break-all;color:#566}.Pending{color:#a15c00}.Retained{color:#667}
@media (prefers-color-scheme:dark){body{background:#14181f;color:#dfe5ee}th,td{border-color:#2b3340}code{color:#9ab}}
</style></head><body><h1>Plugins</h1>
<table><thead><tr><th>Name</th><th>Version</th><th>State</th><th>Size</th><th>SHA-256 of the module, source</th></tr></thead><tbody>
{{range .}}<tr><td><a href="/plugins/{{.Name}}/">{{.Name}}</a>{{with .Description}}<br><small>{{.}}</small>{{end}}</td>
<td>{{if .SHA256}}<a href="{{.Path}}">{{.Version}}</a>{{else}}{{.Version}}{{end}}</td><td class="{{.State}}">{{.State}}</td>
<td class="n">{{if .Size}}{{mebibytes .Size}}{{end}}</td><td><code>{{.SHA256}}</code><br><small>{{.Source}}</small></td></tr>
{{else}}<tr><td colspan="5">No plugin is declared.</td></tr>
{{end}}</tbody></table></body></html>
`))
