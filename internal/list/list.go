// Package list reads the lists of plugins that others publish: a
// plugins.properties, a Higress release snapshot, the lock file beside it, and
// tables of official plugins. Whatever the format, the result is the same: which
// module stands under which names and versions. Lists are foreign bytes.
package list

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

const (
	// MaxSize of a list in bytes: what a ConfigMap can hold.
	MaxSize = 1 << 20
	// MaxPlugins is the number of plugins that a list may name; a PluginSource has the same limit.
	MaxPlugins = 1000
	// maxLines is the number of lines of a plugins.properties, comments included.
	maxLines = 10_000
	// maxAliases is the number of further names of one plugin.
	maxAliases = 16
)

// Plugin is one line of a list.
type Plugin struct {
	Key catalog.Key
	// URL is the reference, without the published digest.
	URL string
	// Digest is the published digest of the manifest. It holds in the place that
	// the list names; a copy elsewhere may have another manifest.
	Digest string
	// SHA256 is the published hash of the module. It holds everywhere.
	SHA256 string
	// Aliases are further names and versions of the same module.
	Aliases []catalog.Key
	// Format of the list.
	Format Format
}

// Format of a list.
type Format string

// The formats.
const (
	Properties Format = "Properties" // NAME=oci://REFERENCE lines
	Snapshot   Format = "Snapshot"   // JSON of a Higress release, or the lock file of a plugin server
)

// formatOf says which format a list has: JSON is a snapshot.
func formatOf(content []byte) Format {
	if bytes.HasPrefix(bytes.TrimLeft(trimBOM(content), " \t\r\n"), []byte("{")) {
		return Snapshot
	}
	return Properties
}

// Parse reads a list in whatever format it has. Nothing of a list with a
// mistake is used: half a list would take away the other half. The error is a
// *failure.Error of reason InvalidList that names the line or the plugin.
func Parse(content []byte) ([]Plugin, error) {
	if len(content) > MaxSize {
		return nil, invalid("it has %d bytes, %d are allowed", len(content), MaxSize)
	}
	content = trimBOM(content)
	read := properties
	if formatOf(content) == Snapshot {
		read = snapshot
	}
	plugins, err := read(content)
	if err != nil {
		return nil, err
	}
	if len(plugins) == 0 {
		return nil, invalid("it names no plugin")
	}
	if len(plugins) > MaxPlugins {
		return nil, invalid("it names %d plugins, %d are allowed", len(plugins), MaxPlugins)
	}
	for i := range plugins {
		plugins[i].Format = formatOf(content)
	}
	return plugins, nil
}

func trimBOM(content []byte) []byte { return bytes.TrimPrefix(content, []byte("\xef\xbb\xbf")) }

// properties reads lines NAME=REFERENCE. As for the programs that made such
// files, of several lines with one name and tag the last one counts.
func properties(content []byte) ([]Plugin, error) {
	var plugins []Plugin
	at := map[catalog.Key]int{}
	number := 0
	for line := range strings.Lines(string(content)) {
		if number++; number > maxLines {
			return nil, invalid("it has more than %d lines", maxLines)
		}
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") || strings.HasPrefix(line, "!") {
			continue
		}
		if len(plugins) > MaxPlugins {
			return nil, invalid("it names more than %d plugins", MaxPlugins)
		}
		name, url, found := strings.Cut(line, "=")
		if !found {
			return nil, invalid("line %d is not NAME=oci://HOST/REPOSITORY:TAG", number)
		}
		p, err := newPlugin(strings.TrimSpace(name), "", strings.TrimSpace(url), "")
		if err != nil {
			return nil, invalid("line %d: %s", number, err)
		}
		if same, known := at[p.Key]; known {
			plugins[same] = p
			continue
		}
		at[p.Key] = len(plugins)
		plugins = append(plugins, p)
	}
	return plugins, nil
}

// newPlugin checks one plugin. Without a version it takes the tag. The scheme
// of the reference may be missing, and a digest in it is taken off.
func newPlugin(name, version, url, digest string) (Plugin, error) {
	if !strings.Contains(url, "://") {
		url = reference.Scheme + url
	}
	ref, err := reference.Parse(url)
	if err != nil {
		return Plugin{}, err
	}
	if digest == "" {
		digest = ref.Digest
	}
	if version == "" {
		version = ref.Tag
	}
	if version == "" { // as the plugin server names the folder of a reference by digest, without its colon
		version = strings.Replace(ref.Digest, ":", "-", 1)
	}
	if ref.Tag != "" {
		ref.Digest = ""
	}
	p := Plugin{Key: catalog.Key{Name: name, Version: version}, URL: ref.String(), Digest: digest}
	if digest != "" {
		if _, err := (reference.Reference{}).Pinned(digest); err != nil {
			return Plugin{}, fmt.Errorf("%s is no digest", shown(digest))
		}
	}
	return p, checkKey(p.Key)
}

func checkKey(key catalog.Key) error {
	switch {
	case !catalog.NamePattern.MatchString(key.Name):
		return fmt.Errorf("%s is no name of a plugin: lower case letters, digits, '-', '_' and '.', at most 63", shown(key.Name))
	case !catalog.VersionPattern.MatchString(key.Version):
		return fmt.Errorf("%s is no version: letters, digits, '.', '_', '-' and '+', at most 128", shown(key.Version))
	}
	return nil
}

// shown quotes a foreign word for a message.
func shown(word string) string {
	if len(word) > 80 {
		word = word[:80] + "…"
	}
	return fmt.Sprintf("%+q", word)
}

func invalid(format string, args ...any) error {
	return failure.New(failure.Upstream, failure.InvalidList, nil, "the list is not used: %s", fmt.Sprintf(format, args...))
}
