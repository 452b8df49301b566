package controllers

import (
	"fmt"
	"slices"
	"strings"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

// shownWarnings is how many warnings stand in the condition.
const shownWarnings = 3

// serves says whether all ready replicas serve a plugin, under its aliases too.
func (s servingServer) serves(p v1alpha1.PluginStatus) bool {
	for _, alias := range p.Aliases {
		if s.served[catalog.ParseKey(alias)] != p.SHA256 {
			return false
		}
	}
	return s.served[keyOf(p)] == p.SHA256
}

// unread gives the lists that cannot be read and never could: of the others
// what they declared last is still there.
func (o *observedSource) unread(status v1alpha1.PluginSourceStatus) []listFailure {
	return slices.DeleteFunc(slices.Clone(o.listFailures), func(f listFailure) bool {
		return f.name != "" && slices.ContainsFunc(status.Plugins, func(p v1alpha1.PluginStatus) bool { return p.List == f.name })
	})
}

// movedTo gives the digest that the tag has now, where it is another one than
// what is served. What was known stays known until the tag was looked at again.
func (t target) movedTo(status v1alpha1.PluginStatus, result *pipeline.Result) string {
	if t.fixed() {
		return ""
	}
	latest := status.MovedTo
	if result != nil && result.Latest != "" {
		latest = result.Latest
	}
	if latest == status.Digest {
		return ""
	}
	return latest
}

// moved says whether something else is served than the tag points to.
func moved(p v1alpha1.PluginStatus) bool { return p.MovedTo != "" && p.Digest != "" }

const (
	// roomForPlugins is what the plugins of a status may take in bytes, so that the
	// object, its spec included, stays below what the API server stores (1.5 MiB).
	roomForPlugins = 700 << 10
	// shortMessage is the length of messages where there are too many long ones.
	shortMessage = 80
)

// trim shortens what is said of each plugin where it is too much in all. The
// first failure and the first warnings stand in the conditions as well.
func trim(plugins []v1alpha1.PluginStatus) {
	size := 0
	for _, p := range plugins {
		size += 300 + len(p.URL) + len(p.Mirror) + len(p.Message) + len(p.Warning) + len(strings.Join(p.Aliases, `","`))
	}
	if size <= roomForPlugins {
		return
	}
	for i := range plugins {
		plugins[i].Message, plugins[i].Warning = cut(plugins[i].Message, shortMessage), cut(plugins[i].Warning, shortMessage)
	}
}

func movedMessage(p v1alpha1.PluginStatus, policy v1alpha1.UpdatePolicy) string {
	message := fmt.Sprintf("%s was %s and is now %s; ", reference.Shown(p.URL), p.Digest, p.MovedTo)
	if policy == v1alpha1.UpdateAuto {
		return message + "what is served stays until the new one is fetched and verified"
	}
	return message + "what is served stays: to take the new one put its digest or sha256 into the source, or set updatePolicy to Auto"
}

func movedTags(status v1alpha1.PluginSourceStatus, policy v1alpha1.UpdatePolicy) string {
	first := slices.IndexFunc(status.Plugins, moved)
	if first < 0 {
		return ""
	}
	n := len(slices.DeleteFunc(slices.Clone(status.Plugins), func(p v1alpha1.PluginStatus) bool { return !moved(p) }))
	message := fmt.Sprintf("%s: %s", keyOf(status.Plugins[first]), movedMessage(status.Plugins[first], policy))
	if n > 1 {
		message += fmt.Sprintf("; and %d more, see status.plugins", n-1)
	}
	return message
}

// warning says what is worth a look at one plugin. What was said of a module
// that is fetched again, or cannot be, stays said.
func (t target) warning(status v1alpha1.PluginStatus, result *pipeline.Result) string {
	if status.SHA256 != "" && (result == nil || result.State != pipeline.Fetched) {
		return status.Warning
	}
	var all []string
	if t.Warning != "" {
		all = append(all, t.Warning)
	}
	if t.published != "" && status.Digest != "" && status.Digest != t.published {
		all = append(all, fmt.Sprintf("the list publishes the digest %s, and the copy has another one (a copy made by pull and push has)", t.published))
	}
	if result != nil && result.State == pipeline.Fetched {
		if missing := missingImports(t.gateway, result.Artifact); missing != "" {
			all = append(all, missing)
		}
	}
	if result != nil && result.CheckErr != nil {
		all = append(all, "what the tag points to now is not known: "+result.CheckErr.Message)
	}
	return strings.Join(all, "; ")
}

// warnings says what is worth a look at the source as a whole.
func warnings(o observedSource, status v1alpha1.PluginSourceStatus) string {
	var all []string
	for _, f := range o.listFailures {
		if !slices.Contains(o.unread(status), f) {
			all = append(all, f.Message+"; what it declared last counts on")
		}
	}
	if o.left > 0 {
		all = append(all, fmt.Sprintf("a source declares at most %d plugins, and with aliases twice as many names and versions; %d are left out: move them to another source", declared.MaxPlugins, o.left))
	}
	for _, w := range o.wins {
		all = append(all, fmt.Sprintf("%s is also declared by PluginSource %s, which loses", w.Key, w.Loser))
	}
	for _, p := range status.Plugins {
		if p.Warning != "" {
			all = append(all, fmt.Sprintf("%s: %s", keyOf(p), p.Warning))
		}
	}
	if len(all) > shownWarnings {
		all = append(all[:shownWarnings:shownWarnings], fmt.Sprintf("and %d more, see status.plugins", len(all)-shownWarnings))
	}
	return strings.Join(all, "; ")
}

func keyOf(p v1alpha1.PluginStatus) catalog.Key { return catalog.Key{Name: p.Name, Version: p.Version} }

func count(n int) string {
	if n == 1 {
		return "1 plugin"
	}
	return fmt.Sprintf("%d plugins", n)
}
