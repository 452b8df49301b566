package declared

import (
	"fmt"
	"strings"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/official"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

// official gives the plugins of spec.official. Where the user's table was not
// read, what the source declared with it counts on as a whole: part of it would
// decide paths otherwise.
func (e *expansion) official(added official.Table) []Plugin {
	spec := e.source.Spec.Official
	name := ""
	if spec.TableRef != nil {
		name = ConfigMapName(*spec.TableRef)
	}
	if added == nil && name != "" {
		if recorded := e.recordedBy(func(list string) bool { return list == name }); len(recorded) > 0 {
			return recorded
		}
	}
	plugins, _ := Table(added).Plugins(spec.HigressVersions)
	declared := make([]Plugin, 0, len(plugins))
	for _, p := range plugins {
		d := Plugin{Key: p.Key, URL: p.URLs[0], Alternatives: p.URLs[1:]}
		if registry := e.source.Spec.Registry; registry != "" {
			d.URL, d.Alternatives = below(registry, p.URLs)
		}
		if added != nil {
			d.List = name
		}
		if len(p.Others) > 0 {
			d.Warning = fmt.Sprintf("Higress %s gets the plugin that %s asks for, which is listed first: its own is published under another tag",
				strings.Join(p.Others, ", "), p.Release)
		}
		declared = append(declared, d)
	}
	return declared
}

// Table is the operator's own table together with a user's, which replaces the
// rows of releases that both have.
func Table(added official.Table) official.Table {
	if len(added) == 0 {
		return official.Embedded()
	}
	replaced := map[string]bool{}
	for _, release := range added.Releases() {
		replaced[release] = true
	}
	var table official.Table
	for _, row := range official.Embedded() {
		if !replaced[row.Release] {
			table = append(table, row)
		}
	}
	return append(table, added...)
}

// UnknownReleases gives the releases of spec.official that no table has.
func UnknownReleases(source *v1alpha1.PluginSource, added official.Table) []string {
	if source.Spec.Official == nil {
		return nil
	}
	_, unknown := Table(added).Plugins(source.Spec.Official.HigressVersions)
	return unknown
}

// below gives the places of published references in another registry: as
// published first, then those of flattened copies.
func below(registry string, urls []string) (first string, others []string) {
	var asPublished, flattened []string
	for _, url := range urls {
		places, err := reference.Below(registry, url)
		if err != nil {
			continue // the table's own check takes no such reference
		}
		asPublished, flattened = append(asPublished, places[0]), append(flattened, places[1:]...)
	}
	all := append(asPublished, flattened...)
	return all[0], all[1:]
}

// Aliases writes keys as they stand in a status.
func Aliases(keys []catalog.Key) []string {
	var all []string
	for _, k := range keys {
		all = append(all, k.String())
	}
	return all
}

func parseAliases(all []string) []catalog.Key {
	var keys []catalog.Key
	for _, a := range all {
		keys = append(keys, catalog.ParseKey(a))
	}
	return keys
}

func keyOf(p v1alpha1.PluginStatus) catalog.Key { return catalog.Key{Name: p.Name, Version: p.Version} }
