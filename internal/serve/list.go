package serve

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"mime"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// The forms of a listing.
const (
	formText = "text/plain"
	formHTML = "text/html"
	formJSON = "application/json"
)

// States of a version in a listing.
const (
	stateAvailable = "Available"
	statePending   = "Pending"
	stateRetained  = "Retained"
)

// listed is one version in a listing.
type listed struct {
	Name        string `json:"name"`
	Version     string `json:"version"`
	State       string `json:"state"` // Available, Pending or Retained
	Size        int64  `json:"size,omitempty"`
	SHA256      string `json:"sha256,omitempty"`
	MD5         string `json:"md5,omitempty"`
	Digest      string `json:"digest,omitempty"`
	Source      string `json:"source,omitempty"`
	Created     string `json:"created,omitempty"`
	Description string `json:"description,omitempty"`
	// RetainedUntil is when a version goes that no source declares any more.
	RetainedUntil string `json:"retainedUntil,omitempty"`
	// Incoming says that the catalog wants other bytes here, which have not
	// arrived; those before them are served.
	Incoming bool `json:"incoming,omitempty"`
	// Path, Metadata and Content are where the module is, what is known of it, and
	// the module of just this content. The latter two come with the module.
	Path     string `json:"path"`
	Metadata string `json:"metadata,omitempty"`
	Content  string `json:"content,omitempty"`
}

// list lists the versions that match a key, of which parts may be empty: for
// programs as JSON, for browsers as HTML, else as text.
func (p *plugins) list(w http.ResponseWriter, r *http.Request, key catalog.Key) {
	now, form := p.volume.current(), accepted(r.Header)
	versions := listVersions(now, key)
	w.Header().Set("Vary", "Accept")
	w.Header().Set("Cache-Control", "no-cache")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	switch {
	case form == formHTML:
		p.writePage(w, r, now, key, versions)
	case now.empty():
		unavailable(w, "this server has not seen a catalog yet")
	case key.Name != "" && len(versions) == 0:
		http.Error(w, undeclared(key), http.StatusNotFound)
	case form == formJSON:
		var b bytes.Buffer
		_ = json.NewEncoder(&b).Encode(map[string]any{"plugins": versions})
		writeTagged(w, r, formJSON, b.Bytes())
	default:
		var b bytes.Buffer
		table := tabwriter.NewWriter(&b, 0, 4, 2, ' ', 0)
		for _, v := range versions {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%d\t%s\n", v.Name, v.Version, v.State, v.Size, v.SHA256)
		}
		_ = table.Flush()
		writeTagged(w, r, formText+"; charset=utf-8", b.Bytes())
	}
}

func undeclared(key catalog.Key) string {
	return "no PluginSource declares " + strings.TrimSuffix(key.String(), ":")
}

func listVersions(now *view, key catalog.Key) []listed {
	versions := []listed{}
	for k := range now.declared {
		if (key.Name != "" && key.Name != k.Name) || (key.Version != "" && key.Version != k.Version) {
			continue
		}
		folder := "/plugins/" + k.Name + "/" + k.Version + "/"
		v := listed{Name: k.Name, Version: k.Version, State: statePending, Path: folder + moduleName}
		if e, there := now.entries[k]; there {
			v.State, v.Size, v.SHA256, v.MD5, v.Digest, v.Source = stateAvailable, e.Size, e.SHA256, e.MD5, e.Digest, e.Source
			v.Created, v.Description, v.RetainedUntil, v.Incoming = e.Created, e.Description, e.RetainedUntil, now.missing[k]
			v.Metadata, v.Content = folder+metadataName, v.Path+"?sha256="+e.SHA256
			if e.RetainedUntil != "" {
				v.State = stateRetained
			}
		}
		versions = append(versions, v)
	}
	slices.SortFunc(versions, func(a, b listed) int { return a.key().Compare(b.key()) })
	return versions
}

func (v listed) key() catalog.Key { return catalog.Key{Name: v.Name, Version: v.Version} }

// accepted gives the form that an Accept header wants most, the first of
// several. Whoever takes anything, as curl does, gets text.
func accepted(header http.Header) string {
	form, most := formText, 0.0
	for part := range strings.SplitSeq(strings.Join(header.Values("Accept"), ","), ",") {
		kind, params, err := mime.ParseMediaType(part)
		if err != nil || (kind != formText && kind != formHTML && kind != formJSON) {
			continue
		}
		weight := 1.0
		if q, ok := params["q"]; ok {
			weight, _ = strconv.ParseFloat(q, 64) // a malformed one is 0
		}
		if weight > most {
			form, most = kind, weight
		}
	}
	return form
}

// writeTagged answers with a body that has an ETag, so that one who has it
// already does not get it again.
func writeTagged(w http.ResponseWriter, r *http.Request, kind string, body []byte) {
	sum := sha256.Sum256(body)
	w.Header().Set("Content-Type", kind)
	w.Header().Set("ETag", `"`+hex.EncodeToString(sum[:16])+`"`)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(body))
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
		if v.State != stateAvailable || !newer(v.Version, items[v.Name].Version) {
			continue
		}
		items[v.Name] = item{v.Version, v.Digest, v.SHA256}
	}
	w.Header().Set("Content-Type", formJSON)
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
