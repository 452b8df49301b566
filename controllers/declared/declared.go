// Package declared reads PluginSources: which plugins they declare, and which
// source decides where several declare the same one. It is pure.
package declared

import (
	"cmp"
	"slices"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

// Plugin is one version of one plugin, as a source declares it.
type Plugin struct {
	Key         catalog.Key
	URL         string // where it is: the plugin's own url, else its place in the source's registry
	SHA256      string // of the module, where the source expects one
	Description string
}

// Plugins gives the plugins that a source declares, in its own order.
func Plugins(source *v1alpha1.PluginSource) []Plugin {
	plugins := make([]Plugin, 0, len(source.Spec.Plugins))
	for _, p := range source.Spec.Plugins {
		url := p.URL
		if url == "" {
			url = reference.Default(source.Spec.Registry, p.Name, p.Version)
		}
		plugins = append(plugins, Plugin{
			Key:         catalog.Key{Name: p.Name, Version: p.Version},
			URL:         url,
			SHA256:      p.SHA256,
			Description: p.Description,
		})
	}
	return plugins
}

// Winners says which of several sources decides each key: the one with the
// highest priority, then the oldest, then the first by name. That the plugin
// can be fetched there plays no part: a plugin that cannot be had is not replaced by
// somebody else's.
func Winners(sources []v1alpha1.PluginSource) map[catalog.Key]*v1alpha1.PluginSource {
	ordered := make([]*v1alpha1.PluginSource, 0, len(sources))
	for i := range sources {
		ordered = append(ordered, &sources[i])
	}
	slices.SortFunc(ordered, precedence)
	winners := map[catalog.Key]*v1alpha1.PluginSource{}
	for _, source := range ordered {
		for _, p := range source.Spec.Plugins {
			key := catalog.Key{Name: p.Name, Version: p.Version}
			if winners[key] == nil {
				winners[key] = source
			}
		}
	}
	return winners
}

func precedence(a, b *v1alpha1.PluginSource) int {
	return cmp.Or(
		cmp.Compare(b.Spec.Priority, a.Spec.Priority),
		a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
		cmp.Compare(a.Name, b.Name),
	)
}

// Clash is a key that two sources declare.
type Clash struct {
	Key    catalog.Key
	Winner string
	Loser  string
	// Same is true where both have fetched the same module, so that nobody is
	// refused anything.
	Same bool
}

// Clashes lists the keys that more than one of the sources declares, ordered
// by key and loser.
func Clashes(sources []v1alpha1.PluginSource) []Clash {
	winners := Winners(sources)
	known := make(map[string]map[catalog.Key]v1alpha1.PluginStatus, len(sources))
	for i := range sources {
		known[sources[i].Name] = Statuses(&sources[i])
	}
	var clashes []Clash
	for i := range sources {
		for _, p := range sources[i].Spec.Plugins {
			key := catalog.Key{Name: p.Name, Version: p.Version}
			winner := winners[key]
			if winner.Name == sources[i].Name {
				continue
			}
			ours, theirs := known[sources[i].Name][key], known[winner.Name][key]
			clashes = append(clashes, Clash{
				Key: key, Winner: winner.Name, Loser: sources[i].Name,
				Same: ours.SHA256 != "" && ours.SHA256 == theirs.SHA256,
			})
		}
	}
	slices.SortFunc(clashes, func(a, b Clash) int {
		return cmp.Or(a.Key.Compare(b.Key), cmp.Compare(a.Loser, b.Loser))
	})
	return clashes
}

// Statuses gives what the source knows of its plugins, by key.
func Statuses(source *v1alpha1.PluginSource) map[catalog.Key]v1alpha1.PluginStatus {
	known := make(map[catalog.Key]v1alpha1.PluginStatus, len(source.Status.Plugins))
	for _, p := range source.Status.Plugins {
		known[catalog.Key{Name: p.Name, Version: p.Version}] = p
	}
	return known
}
