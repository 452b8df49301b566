package main

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
	"github.com/higress-group/plugin-server-operator/internal/official"
)

// TestOfficialInEveryLayout serves what the Console of every Higress release
// asks for, from a registry that has the official names in one of the layouts of
// mirrors: every path of every release is answered, with the bytes of the tag that
// the first release that asks for it wants.
func TestOfficialInEveryLayout(t *testing.T) {
	t.Parallel()
	table := official.Embedded()
	releases := table.Releases()
	for name, place := range map[string]struct {
		registry   string                         // below the host
		repository func(repository string) string // in the registry
	}{
		"at the top":                      {"", func(r string) string { return r }},
		"below a project, as published":   {"/higress", func(r string) string { return "higress/" + r }},
		"below a project, one level less": {"/higress", func(r string) string { return "higress/" + r[strings.Index(r, "/")+1:] }},
		"below a project of the plugins'": {"/mirror/plugins", func(r string) string { return "mirror/plugins/" + r[strings.Index(r, "/")+1:] }},
		"at the top, one level less":      {"", func(r string) string { return r[strings.Index(r, "/")+1:] }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
			t.Cleanup(r.Close)
			host := strings.TrimPrefix(r.URL, "http://")
			modules := map[string][]byte{} // by name and tag
			for _, row := range table {
				id := row.Key.Name + "@" + row.Tag
				modules[id] = inspecttest.Filled(id)
				at := place.repository(row.Repository) + ":" + row.Tag
				if modules[at] == nil {
					modules[at] = modules[id]
					push(t, host+"/"+place.repository(row.Repository), row.Tag, modules[id])
				}
			}
			file := filepath.Join(t.TempDir(), "official.yaml")
			yaml := fmt.Sprintf("apiVersion: plugins.higress.io/v1alpha1\nkind: PluginSource\nmetadata: {name: official}\nspec:\n"+
				"  official: {higressVersions: [%s]}\n  registry: %s%s\n  insecure: true\n", `"`+strings.Join(releases, `", "`)+`"`, host, place.registry)
			if err := os.WriteFile(file, []byte(yaml), 0o600); err != nil {
				t.Fatal(err)
			}
			url, said := serving(t, "--data-dir="+t.TempDir(), file)
			client := &http.Client{}
			defer client.CloseIdleConnections()
			first := map[catalog.Key][]byte{}
			for _, row := range table {
				id := row.Key.Name + "@" + row.Tag
				if first[row.Key] == nil {
					first[row.Key] = modules[id]
				}
				status, b, err := get(client, fmt.Sprintf("%s/plugins/%s/%s/plugin.wasm", url, row.Key.Name, row.Key.Version))
				if err != nil || status != http.StatusOK || !bytes.Equal(b, first[row.Key]) {
					t.Errorf("%s %s: %d, %d bytes, %v", row.Release, row.Key, status, len(b), err)
				}
			}
			if strings.Contains(said.String(), "cannot be had") {
				t.Errorf("it says\n%s", said)
			}
		})
	}
}
