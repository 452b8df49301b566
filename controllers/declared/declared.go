// Package declared reads PluginSources: which plugins they declare, and which
// source decides where several declare the same one. It is pure.
package declared

import (
	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/list"
	"github.com/higress-group/plugin-server-operator/internal/official"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

// MaxPlugins is the number of plugins that one source may declare in all, and
// maxKeys that of their keys, aliases included: status and catalog have to hold them.
const (
	MaxPlugins = 1000
	maxKeys    = 2000
)

// defaultAliasVersion is where plugin servers used to put every line of a
// plugins.properties.
const defaultAliasVersion = "1.0.0"

// Plugin is one version of one plugin, as a source declares it.
type Plugin struct {
	Key catalog.Key
	// URL is where it is: the plugin's own url, else its place in the source's
	// registry. Alternatives are asked in turn where the one before does not have it.
	URL          string
	Alternatives []string
	SHA256       string // of the module, where the source expects one
	Description  string
	Aliases      []catalog.Key // further keys under which it is served
	List         string        // that declares it, if one does; see ListName
	InImage      bool          // of which it is one of the modules
	// Digest is of the artifact at URL, as a list publishes it. Published is one
	// that a list gives for another place than URL, whose copy may have another one.
	Digest    string
	Published string
	// Warning says what is worth a look in the declaration.
	Warning string
	// Recorded is true for what a list declared that cannot be read now: what is
	// expected of the plugin beyond its status is not known.
	Recorded bool
}

// Lists are the contents of what a source refers to. A list that could not be
// read is not in it: what it declared last counts on.
type Lists struct {
	Plugins map[string][]list.Plugin // by ListName
	Images  map[string][]catalog.Key // by ListName
	Table   official.Table           // of spec.official.tableRef; nil where it could not be read
}

// ListName is how a list is called in a status.
func ListName(l v1alpha1.PluginList) string {
	switch {
	case l.ConfigMapKeyRef != nil:
		return ConfigMapName(*l.ConfigMapKeyRef)
	case l.URL != "":
		return reference.Shown(l.URL)
	}
	return l.Image
}

// ConfigMapName is how a list in a ConfigMap is called.
func ConfigMapName(r v1alpha1.ConfigMapKeyReference) string { return r.Name + "/" + r.Key }

// member names the plugin among the modules of an image.
func (p Plugin) member() string {
	if p.InImage {
		return p.Key.String()
	}
	return ""
}

// Plugins gives the plugins that a source declares, as far as the object says
// so: what its lists declare stands in its status.
func Plugins(source *v1alpha1.PluginSource) []Plugin {
	plugins, _ := Expand(source, Lists{})
	return plugins
}

// Expand gives the plugins that a source declares together with its lists, each
// key once, in its own order; and how many are left out because there are too many.
func Expand(source *v1alpha1.PluginSource, lists Lists) (plugins []Plugin, left int) {
	e := &expansion{source: source, taken: map[catalog.Key]bool{}}
	e.add(e.own(), nil)
	if source.Spec.Official != nil {
		e.add(e.official(lists.Table), nil)
	}
	for _, l := range source.Spec.PluginsFrom {
		name := ListName(l)
		content, read := lists.Plugins[name]
		modules, fetched := lists.Images[name]
		switch {
		case read:
			e.add(e.listed(name, content), aliasVersions(l, content))
		case fetched:
			e.add(inImage(l.Image, modules), l.AliasVersions)
		default:
			e.add(e.recorded(name), nil)
		}
	}
	e.grant()
	return e.plugins, e.left
}

// expansion collects what a source declares.
type expansion struct {
	source  *v1alpha1.PluginSource
	plugins []Plugin
	groups  []int // where each part of the source begins in plugins
	taken   map[catalog.Key]bool
	left    int
}

// add takes the plugins of one part whose keys are free.
func (e *expansion) add(plugins []Plugin, versions []string) {
	e.groups = append(e.groups, len(e.plugins))
	versions = append(versions[:len(versions):len(versions)], e.source.Spec.AliasVersions...)
	for _, p := range plugins {
		if e.taken[p.Key] {
			continue
		}
		if len(e.plugins) == MaxPlugins {
			e.left++
			continue
		}
		e.taken[p.Key] = true
		for _, v := range versions {
			p.Aliases = append(p.Aliases, catalog.Key{Name: p.Key.Name, Version: v})
		}
		e.plugins = append(e.plugins, p)
	}
}

// grant leaves every alias with one plugin: not where a plugin is declared
// under that key, else with the first part of the source that claims it, and there with
// the last plugin.
func (e *expansion) grant() {
	for i, begin := range e.groups {
		end := len(e.plugins)
		if i+1 < len(e.groups) {
			end = e.groups[i+1]
		}
		for at := end - 1; at >= begin; at-- {
			p := &e.plugins[at]
			var granted []catalog.Key
			for _, alias := range p.Aliases {
				switch {
				case e.taken[alias]:
				case len(e.taken) == maxKeys:
					e.left++
				default:
					e.taken[alias] = true
					granted = append(granted, alias)
				}
			}
			p.Aliases = granted
		}
	}
}

// own gives spec.plugins.
func (e *expansion) own() []Plugin {
	spec := &e.source.Spec
	plugins := make([]Plugin, 0, len(spec.Plugins))
	for _, p := range spec.Plugins {
		d := Plugin{Key: catalog.Key{Name: p.Name, Version: p.Version}, URL: p.URL, SHA256: p.SHA256, Description: p.Description}
		switch {
		case len(p.ConfigMaps) > 0:
			d.URL = reference.ConfigMaps(e.source.Namespace, p.ConfigMaps)
		case p.URL == "":
			d.URL = reference.Default(spec.Registry, p.Name, p.Version)
		}
		for _, a := range p.Aliases {
			alias := d.Key
			if a.Name != "" {
				alias.Name = a.Name
			}
			if a.Version != "" {
				alias.Version = a.Version
			}
			d.Aliases = append(d.Aliases, alias)
		}
		plugins = append(plugins, d)
	}
	return plugins
}

// listed gives the plugins of a list that was read. In the place that the list
// names its digests hold. In another registry a copy may have other manifests.
func (e *expansion) listed(name string, content []list.Plugin) []Plugin {
	plugins := make([]Plugin, 0, len(content))
	for _, l := range content {
		p := Plugin{Key: l.Key, URL: l.URL, SHA256: l.SHA256, Aliases: append([]catalog.Key(nil), l.Aliases...), List: name}
		if registry := e.source.Spec.Registry; registry != "" {
			places, err := reference.Below(registry, l.URL)
			if err != nil {
				continue // the list's own check takes no such reference
			}
			p.URL, p.Alternatives, p.Published = places[0], places[1:], l.Digest
		} else if !reference.Fixed(l.URL) {
			p.Digest = l.Digest
		}
		plugins = append(plugins, p)
	}
	return plugins
}

// inImage gives the plugins of a plugin server's image.
func inImage(image string, modules []catalog.Key) []Plugin {
	plugins := make([]Plugin, 0, len(modules))
	for _, key := range modules {
		plugins = append(plugins, Plugin{Key: key, URL: image, List: image, InImage: true})
	}
	return plugins
}

// recorded gives the plugins that a list declared when it was last read. While
// one that is new in the source was never read, those count on whose list is no longer in it:
// a list that gets another name must not leave its plugins to other sources.
func (e *expansion) recorded(name string) []Plugin {
	plugins := e.recordedBy(func(list string) bool { return list == name })
	if len(plugins) > 0 {
		return plugins
	}
	named := map[string]bool{"": true}
	for _, l := range e.source.Spec.PluginsFrom {
		named[ListName(l)] = true
	}
	if official := e.source.Spec.Official; official != nil && official.TableRef != nil {
		named[ConfigMapName(*official.TableRef)] = true
	}
	return e.recordedBy(func(list string) bool { return !named[list] })
}

func (e *expansion) recordedBy(list func(name string) bool) []Plugin {
	var plugins []Plugin
	for _, s := range e.source.Status.Plugins {
		if !list(s.List) {
			continue
		}
		p := Plugin{Key: keyOf(s), URL: s.URL, Aliases: parseAliases(s.Aliases), List: s.List, Recorded: true}
		if p.InImage = s.List == s.URL; !p.InImage {
			p.Alternatives = reference.Flattened(e.source.Spec.Registry, s.URL)
		}
		plugins = append(plugins, p)
	}
	return plugins
}

func aliasVersions(l v1alpha1.PluginList, content []list.Plugin) []string {
	if l.AliasVersions == nil && len(content) > 0 && content[0].Format == list.Properties {
		return []string{defaultAliasVersion}
	}
	return l.AliasVersions
}
