package list

import (
	"encoding/json"
	"slices"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// document is the part of the two JSON formats that they share. Fields that are
// not known are left alone: the formats grow.
type document struct {
	SchemaVersion int             `json:"schemaVersion"`
	Plugins       json.RawMessage `json:"plugins"`
}

// released is a plugin of a release snapshot.
type released struct {
	LogicalID string `json:"logicalId"`
	Version   string `json:"version"`
	OCIRef    string `json:"ociRef"`
	Digest    string `json:"digest"`
	Consumers struct {
		PluginServer *struct {
			InventoryKey string   `json:"inventoryKey"`
			HTTPPath     string   `json:"httpPath"`
			Aliases      []string `json:"aliases"`
		} `json:"pluginServer"`
	} `json:"consumers"`
}

// locked is a plugin of a lock file.
type locked struct {
	ServedPath    string `json:"servedPath"`
	ServedVersion string `json:"servedVersion"`
	Repository    string `json:"repository"`
	Tag           string `json:"tag"`
	Digest        string `json:"digest"`
	WasmSHA256    string `json:"wasmSha256"`
}

// snapshot reads a release snapshot, whose plugins are a list, or a lock file,
// whose plugins are an object.
func snapshot(content []byte) ([]Plugin, error) {
	var d document
	if err := json.Unmarshal(content, &d); err != nil {
		return nil, invalid("it is no JSON document of plugins")
	}
	if d.SchemaVersion != 1 {
		return nil, invalid("its schemaVersion is %d, and only 1 is known: a newer operator may know it", d.SchemaVersion)
	}
	var ofRelease []released
	if json.Unmarshal(d.Plugins, &ofRelease) == nil {
		return fromRelease(ofRelease)
	}
	var ofLock map[string]locked
	if json.Unmarshal(d.Plugins, &ofLock) == nil {
		return fromLock(ofLock)
	}
	return nil, invalid("its plugins are neither a release snapshot's nor a lock file's")
}

// fromRelease takes the plugins that the snapshot has for plugin servers.
func fromRelease(all []released) ([]Plugin, error) {
	var plugins []Plugin
	seen := map[catalog.Key]bool{}
	for _, r := range all {
		server := r.Consumers.PluginServer
		if server == nil {
			continue
		}
		p, err := newPlugin(server.HTTPPath, r.Version, r.OCIRef, r.Digest)
		if err != nil {
			return nil, invalid("plugin %s: %s", shown(r.LogicalID), err)
		}
		if seen[p.Key] {
			return nil, invalid("plugin %s stands in it twice", p.Key)
		}
		seen[p.Key] = true
		for _, name := range append([]string{server.InventoryKey}, server.Aliases...) {
			alias := catalog.Key{Name: name, Version: p.Key.Version}
			if name == "" || alias == p.Key || slices.Contains(p.Aliases, alias) {
				continue
			}
			if err := checkKey(alias); err != nil {
				return nil, invalid("plugin %s: %s", shown(r.LogicalID), err)
			}
			if p.Aliases = append(p.Aliases, alias); len(p.Aliases) > maxAliases {
				return nil, invalid("plugin %s has more than %d aliases", shown(r.LogicalID), maxAliases)
			}
		}
		plugins = append(plugins, p)
	}
	return plugins, nil
}

func fromLock(all map[string]locked) ([]Plugin, error) {
	plugins := make([]Plugin, 0, len(all))
	for name, l := range all {
		p, err := newPlugin(l.ServedPath, l.ServedVersion, l.Repository+":"+l.Tag, l.Digest)
		if err != nil {
			return nil, invalid("plugin %s: %s", shown(name), err)
		}
		if !catalog.SHA256Pattern.MatchString(l.WasmSHA256) {
			return nil, invalid("plugin %s: %s is no wasmSha256", shown(name), shown(l.WasmSHA256))
		}
		p.SHA256 = l.WasmSHA256
		plugins = append(plugins, p)
	}
	slices.SortFunc(plugins, func(a, b Plugin) int { return a.Key.Compare(b.Key) })
	for i := 1; i < len(plugins); i++ {
		if plugins[i].Key == plugins[i-1].Key {
			return nil, invalid("plugin %s stands in it twice", plugins[i].Key)
		}
	}
	return plugins, nil
}
