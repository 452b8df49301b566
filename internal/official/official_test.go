package official_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/official"
)

// rows is how many plugins the Console of each release asks for. 2.2.4 has
// nine more than its Console had at first: it was rebuilt under the same tag and
// then asked for them at another version.
var rows = map[string]int{
	"2.0.5": 40, "2.1.0": 41, "2.1.1": 42, "2.1.2": 42, "2.1.3": 42, "2.1.4": 42, "2.1.5": 42, "2.1.6": 42,
	"2.1.7": 43, "2.1.8": 43, "2.1.9": 43, "2.1.11": 43, "2.2.0": 43, "2.2.1": 43, "2.2.2": 43, "2.2.3": 43, "2.2.4": 53,
}

func TestEmbedded(t *testing.T) {
	t.Parallel()
	table := official.Embedded()
	got := map[string]int{}
	seen := map[official.Row]bool{}
	for _, r := range table {
		got[r.Release]++
		if seen[r] {
			t.Errorf("twice: %v", r)
		}
		seen[r] = true
	}
	if diff := cmp.Diff(rows, got); diff != "" {
		t.Errorf("rows by release (-want +got):\n%s", diff)
	}
	for release, n := range rows {
		plugins, unknown := table.Plugins([]string{release})
		if len(plugins) != n || len(unknown) != 0 {
			t.Errorf("%s has %d paths, %v unknown", release, len(plugins), unknown)
		}
		for _, p := range plugins {
			if len(p.Others) > 0 {
				t.Errorf("%s disagrees with itself: %v", release, p)
			}
		}
	}
}

func find(t *testing.T, plugins []official.Plugin, name, version string) official.Plugin {
	t.Helper()
	i := slices.IndexFunc(plugins, func(p official.Plugin) bool { return p.Key == catalog.Key{Name: name, Version: version} })
	if i < 0 {
		t.Fatalf("no %s %s", name, version)
	}
	return plugins[i]
}

func TestFacts(t *testing.T) {
	t.Parallel()
	at := func(repository string) string { return "oci://" + official.Registry + "/" + repository }
	for name, c := range map[string]struct {
		releases      []string
		name, version string
		urls          []string
	}{
		"asked as 1.0.0, tagged 2.0.0":         {[]string{"2.2.3"}, "ai-proxy", "1.0.0", []string{at("plugins/ai-proxy:2.0.0")}},
		"one of the nine, at the old version":  {[]string{"2.2.4"}, "key-auth", "1.0.0", []string{at("plugins/key-auth:2.0.0")}},
		"one of the nine, at the new version":  {[]string{"2.2.4"}, "key-auth", "2.0.0", []string{at("plugins/key-auth:2.0.0")}},
		"the one with a version of its own":    {[]string{"2.2.4"}, "cors", "2.0.2", []string{at("plugins/cors:2.0.2")}},
		"a name that differs from its image":   {[]string{"2.2.4"}, "json-converter", "2.0.1", []string{at("plugins/jsonrpc-converter:2.0.1")}},
		"the MCP server, in one repository":    {[]string{"2.1.0"}, "mcp-server", "1.0.0", []string{at("mcp-server/all-in-one:1.0.0")}},
		"the MCP server, moved":                {[]string{"2.1.11"}, "mcp-server", "1.0.0", []string{at("plugins/mcp-server:2.0.0"), at("mcp-server/all-in-one:2.0.0")}},
		"the MCP server, before the move":      {[]string{"2.2.0"}, "mcp-server", "1.0.0", []string{at("mcp-server/all-in-one:2.0.0"), at("plugins/mcp-server:2.0.0")}},
		"of two releases the first decides":    {[]string{"2.1.5", "2.2.3"}, "waf", "1.0.0", []string{at("plugins/waf:1.0.0")}},
		"whichever of them is the first":       {[]string{"2.2.3", "2.1.5"}, "waf", "1.0.0", []string{at("plugins/waf:2.0.0")}},
		"and the other's own paths are there":  {[]string{"2.1.5", "2.2.4"}, "waf", "2.0.1", []string{at("plugins/waf:2.0.1")}},
		"unknown ones take nothing from known": {[]string{"9.9.9", "2.2.4"}, "waf", "2.0.1", []string{at("plugins/waf:2.0.1")}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plugins, _ := official.Embedded().Plugins(c.releases)
			if diff := cmp.Diff(c.urls, find(t, plugins, c.name, c.version).URLs); diff != "" {
				t.Errorf("places (-want +got):\n%s", diff)
			}
		})
	}
}

// TestAddingAReleaseChangesNothing: whatever releases run, one more at the end
// leaves every path with its bytes.
func TestAddingAReleaseChangesNothing(t *testing.T) {
	t.Parallel()
	table := official.Embedded()
	all := table.Releases()
	for n := 1; n < len(all); n++ {
		before, _ := table.Plugins(all[:n])
		after, _ := table.Plugins(all[:n+1])
		for _, p := range before {
			if got := find(t, after, p.Key.Name, p.Key.Version); !slices.Equal(got.URLs, p.URLs) || got.Release != p.Release {
				t.Errorf("with %s %s is %v, it was %v", all[n], p.Key, got.URLs, p.URLs)
			}
		}
	}
	plugins, unknown := table.Plugins([]string{"2.1.5", "2.2.3", "9.0.0"})
	if p := find(t, plugins, "waf", "1.0.0"); p.Release != "2.1.5" || !slices.Equal(p.Others, []string{"2.2.3"}) || !slices.Equal(unknown, []string{"9.0.0"}) {
		t.Errorf("%+v, unknown %v", p, unknown)
	}
}

func TestBadTables(t *testing.T) {
	t.Parallel()
	const header = "higress,name,version,repository,tag\n"
	for name, c := range map[string]struct{ content, want string }{
		"empty":               {"", "first line"},
		"no header":           {"2.2.4,a,1,plugins/a,1\n", "first line"},
		"HTML":                {"<html></html>", "first line"},
		"a field too few":     {header + "2.2.4,a,1,plugins/a\n", "not the five fields"},
		"an open quote":       {header + "\"2.2.4,a,1,plugins/a,1\n", "not the five fields"},
		"name that climbs":    {header + "2.2.4,../a,1,plugins/a,1\n", "line 2: the name is malformed"},
		"version that climbs": {header + "2.2.4,a,..,plugins/a,1\n", "the version is malformed"},
		"no release":          {header + ",a,1,plugins/a,1\n", "the release is malformed"},
		"repository":          {header + "2.2.4,a,1,Plugins/A,1\n", "the repository is malformed"},
		"another host":        {header + "2.2.4,a,1,x@evil.example/a,1\n", "line 2"},
		"tag":                 {header + "2.2.4,a,1,plugins/a,a b\n", "the tag is malformed"},
		"too large":           {header + strings.Repeat("#\n", official.MaxTable), "are allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			table, err := official.Parse([]byte(c.content))
			if e := failure.Of(err); err == nil || e.Reason != failure.InvalidList || !strings.Contains(e.Message, c.want) {
				t.Errorf("got %v, %v; want %q", table, err, c.want)
			}
		})
	}
}

// FuzzParse: run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzParse(f *testing.F) {
	f.Add([]byte("higress,name,version,repository,tag\n2.2.4,a,1,plugins/a,1\n# x\n\"2.2.4\",b,1,plugins/b,1\n"))
	f.Fuzz(func(t *testing.T, content []byte) {
		table, err := official.Parse(content)
		if err != nil {
			return
		}
		plugins, unknown := table.Plugins(table.Releases())
		if len(unknown) > 0 || len(plugins) > len(table) {
			t.Fatalf("%d plugins of %d rows, unknown %v", len(plugins), len(table), unknown)
		}
		for _, p := range plugins {
			if len(p.URLs) == 0 || !catalog.NamePattern.MatchString(p.Key.Name) || !catalog.VersionPattern.MatchString(p.Key.Version) {
				t.Fatalf("%+v", p)
			}
		}
	})
}
