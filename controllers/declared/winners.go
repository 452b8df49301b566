package declared

import (
	"cmp"
	"slices"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// Keys gives every key that a source declares, aliases included, with the
// plugin that stands there.
func Keys(source *v1alpha1.PluginSource) map[catalog.Key]Plugin {
	keys := map[catalog.Key]Plugin{}
	for _, p := range Plugins(source) {
		keys[p.Key] = p
		for _, alias := range p.Aliases {
			keys[alias] = p
		}
	}
	return keys
}

// Winners says which of several sources decides each key: the one with the
// highest priority, then the oldest, then the first by name. That the plugin
// can be fetched there plays no part: a plugin that cannot be had is not replaced by
// somebody else's. An alias counts as a declaration: else a younger source
// could take over what an older one serves.
func Winners(sources []v1alpha1.PluginSource) map[catalog.Key]*v1alpha1.PluginSource {
	ordered := make([]*v1alpha1.PluginSource, 0, len(sources))
	for i := range sources {
		ordered = append(ordered, &sources[i])
	}
	slices.SortFunc(ordered, precedence)
	winners := map[catalog.Key]*v1alpha1.PluginSource{}
	for _, source := range ordered {
		for key := range Keys(source) {
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
	modules := make(map[string]map[catalog.Key]string, len(sources)) // hashes by source and key
	for i := range sources {
		modules[sources[i].Name] = fetchedModules(&sources[i])
	}
	var clashes []Clash
	for i := range sources {
		loser := sources[i].Name
		for key := range Keys(&sources[i]) {
			winner := winners[key].Name
			if winner == loser {
				continue
			}
			ours, theirs := modules[loser][key], modules[winner][key]
			clashes = append(clashes, Clash{Key: key, Winner: winner, Loser: loser, Same: ours != "" && ours == theirs})
		}
	}
	slices.SortFunc(clashes, func(a, b Clash) int {
		return cmp.Or(a.Key.Compare(b.Key), cmp.Compare(a.Loser, b.Loser))
	})
	return clashes
}

// fetchedModules gives the hash of the module that a source has fetched for
// each of its keys.
func fetchedModules(source *v1alpha1.PluginSource) map[catalog.Key]string {
	known := Statuses(source)
	modules := map[catalog.Key]string{}
	for key, p := range Keys(source) {
		modules[key] = known[p.Key].SHA256
	}
	return modules
}

// Statuses gives what the source knows of its plugins, by key.
func Statuses(source *v1alpha1.PluginSource) map[catalog.Key]v1alpha1.PluginStatus {
	known := make(map[catalog.Key]v1alpha1.PluginStatus, len(source.Status.Plugins))
	for _, p := range source.Status.Plugins {
		known[keyOf(p)] = p
	}
	return known
}
