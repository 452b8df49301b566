package declared

import (
	"slices"
	"strings"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/reference"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// Entries gives what a server with these sources has to serve. What a source
// has fetched is described by its artifact, found by the digest in the store,
// else by the entry of the previous catalog; an entry whose artifact nobody
// knows any more is pending until it has been fetched again.
func Entries(
	sources []v1alpha1.PluginSource, artifact func(digest, member string) (store.Artifact, bool), previous *catalog.Catalog,
) []catalog.Entry {
	before := map[catalog.Key]catalog.Entry{}
	if previous != nil {
		for _, e := range previous.Entries {
			before[e.Key()] = e
		}
	}
	winners := Winners(sources)
	var entries []catalog.Entry
	for i := range sources {
		known := Statuses(&sources[i])
		for key, p := range Keys(&sources[i]) {
			if winners[key].Name == sources[i].Name {
				entries = append(entries, entry(key, p, known[p.Key], artifact, before[key]))
			}
		}
	}
	slices.SortFunc(entries, func(a, b catalog.Entry) int { return a.Key().Compare(b.Key()) })
	return entries
}

func entry(
	key catalog.Key, p Plugin, status v1alpha1.PluginStatus, artifact func(digest, member string) (store.Artifact, bool), before catalog.Entry,
) catalog.Entry {
	e := catalog.Entry{Name: key.Name, Version: key.Version}
	if status.SHA256 == "" || status.URL != p.URL || (p.SHA256 != "" && p.SHA256 != status.SHA256) {
		return e // not fetched, or something else than what is declared now
	}
	a, found := artifact(status.Digest, p.member())
	found = found && a.SHA256 == status.SHA256
	known := before.SHA256 == status.SHA256 && before.Digest == status.Digest
	switch {
	case known && (!found || a.Copied):
		e.SHA256, e.MD5, e.Size, e.Description, e.Created = before.SHA256, before.MD5, before.Size, before.Description, before.Created
	case found:
		e.SHA256, e.MD5, e.Size, e.Description = a.SHA256, a.MD5, a.Size, a.Description
		if !a.Created.IsZero() {
			e.Created = catalog.FormatTime(a.Created)
		}
	default:
		return e
	}
	if p.Description != "" {
		e.Description = p.Description
	}
	e.Description = strings.Join(strings.Fields(e.Description), " ")
	e.Source, e.Digest = reference.Shown(p.URL), status.Digest
	return e
}
