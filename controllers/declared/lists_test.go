package declared_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/list"
	"github.com/higress-group/plugin-server-operator/internal/official"
)

func key(name, version string) catalog.Key { return catalog.Key{Name: name, Version: version} }

// officialSource is the three lines of YAML.
func officialSource(registry string, releases ...string) v1alpha1.PluginSource {
	s := source("official", 0, 0)
	s.Spec.Registry = registry
	s.Spec.Official = &v1alpha1.OfficialPlugins{HigressVersions: releases}
	return s
}

// found gives the plugin that stands under a key.
func found(t *testing.T, s v1alpha1.PluginSource, k catalog.Key) declared.Plugin {
	t.Helper()
	p, there := declared.Keys(&s)[k]
	if !there {
		t.Fatalf("no %s", k)
	}
	return p
}

func TestOfficial(t *testing.T) {
	t.Parallel()
	public := officialSource("", "2.1.11")
	if p := found(t, public, key("mcp-server", "1.0.0")); p.URL != "oci://"+official.Registry+"/plugins/mcp-server:2.0.0" ||
		!cmp.Equal(p.Alternatives, []string{"oci://" + official.Registry + "/mcp-server/all-in-one:2.0.0"}) {
		t.Errorf("%+v", p)
	}
	want := []string{"oci://harbor.bank/higress/mcp-server/all-in-one:2.0.0", "oci://harbor.bank/higress/mcp-server:2.0.0", "oci://harbor.bank/higress/all-in-one:2.0.0"}
	if p := found(t, officialSource("harbor.bank/higress", "2.1.11"), key("mcp-server", "1.0.0")); p.URL != "oci://harbor.bank/higress/plugins/mcp-server:2.0.0" || !cmp.Equal(p.Alternatives, want) {
		t.Errorf("in a mirror: %+v", p)
	}
	both := officialSource("", "2.1.5", "2.2.3")
	if p := found(t, both, key("waf", "1.0.0")); !strings.HasSuffix(p.URL, "plugins/waf:1.0.0") || !strings.Contains(p.Warning, "Higress 2.2.3 gets the plugin that 2.1.5 asks for") {
		t.Errorf("releases that disagree: %+v", p)
	}
	own := officialSource("harbor.bank", "2.2.4")
	own.Spec.Plugins = []v1alpha1.Plugin{{Name: "waf", Version: "2.0.1", URL: "oci://own.example/waf:9"}}
	if p := found(t, own, key("waf", "2.0.1")); p.URL != "oci://own.example/waf:9" {
		t.Errorf("the source's own line comes first: %+v", p)
	}
	for _, release := range official.Embedded().Releases() {
		paths, _ := official.Embedded().Plugins([]string{release})
		if got := declared.Keys(ptr(officialSource("", release))); len(got) != len(paths) {
			t.Errorf("%s declares %d paths, its Console asks for %d", release, len(got), len(paths))
		}
	}
}

func ptr[T any](v T) *T { return &v }

func TestTable(t *testing.T) {
	t.Parallel()
	table, err := official.Parse([]byte("higress,name,version,repository,tag\n2.3.0,waf,3.0.0,plugins/waf,3.0.0\n2.2.4,waf,2.0.1,plugins/waf,2.0.9\n"))
	if err != nil {
		t.Fatal(err)
	}
	s := officialSource("", "2.3.0", "2.2.4")
	s.Spec.Official.TableRef = &v1alpha1.ConfigMapKeyReference{Name: "tables", Key: "t.csv"}
	plugins, _ := declared.Expand(&s, declared.Lists{Table: table})
	want := []declared.Plugin{
		{Key: key("waf", "3.0.0"), URL: "oci://" + official.Registry + "/plugins/waf:3.0.0", List: "tables/t.csv", Alternatives: []string{}},
		{Key: key("waf", "2.0.1"), URL: "oci://" + official.Registry + "/plugins/waf:2.0.9", List: "tables/t.csv", Alternatives: []string{}},
	}
	if diff := cmp.Diff(want, plugins); diff != "" {
		t.Errorf("the table replaces the rows of a release that both have (-want +got):\n%s", diff)
	}
	// The table cannot be read any more, or somebody has only the object: what it
	// declared counts on as a whole, the rows that it replaced included.
	for _, p := range plugins {
		s.Status.Plugins = append(s.Status.Plugins, v1alpha1.PluginStatus{Name: p.Key.Name, Version: p.Key.Version, URL: p.URL, List: "tables/t.csv", Digest: "sha256:d", SHA256: "aa"})
	}
	if got := declared.Plugins(&s); len(got) != 2 || got[0].URL != plugins[0].URL || got[1].URL != plugins[1].URL {
		t.Errorf("what it declared counts on: %+v", got)
	}
	if got := declared.UnknownReleases(&s, nil); !cmp.Equal(got, []string{"2.3.0"}) {
		t.Errorf("unknown are %v", got)
	}
	if got := declared.UnknownReleases(&s, table); got != nil {
		t.Errorf("unknown are %v", got)
	}
}

func listed(properties string, versions []string) (v1alpha1.PluginSource, declared.Lists) {
	s := source("s", 0, 0)
	s.Spec.PluginsFrom = []v1alpha1.PluginList{{ConfigMapKeyRef: &v1alpha1.ConfigMapKeyReference{Name: "lists", Key: "p"}, AliasVersions: versions}}
	plugins, err := list.Parse([]byte(properties))
	if err != nil {
		panic(err)
	}
	return s, declared.Lists{Plugins: map[string][]list.Plugin{"lists/p": plugins}}
}

func TestLists(t *testing.T) {
	t.Parallel()
	const properties = "a=oci://r.example/plugins/a:1.1.0\na=oci://r.example/plugins/a:2.0.0\nb=oci://r.example/plugins/b:1.0.0\n"
	s, lists := listed(properties, nil)
	plugins, _ := declared.Expand(&s, lists)
	want := []declared.Plugin{
		{Key: key("a", "1.1.0"), URL: "oci://r.example/plugins/a:1.1.0", List: "lists/p"},
		{Key: key("a", "2.0.0"), URL: "oci://r.example/plugins/a:2.0.0", List: "lists/p", Aliases: []catalog.Key{key("a", "1.0.0")}},
		{Key: key("b", "1.0.0"), URL: "oci://r.example/plugins/b:1.0.0", List: "lists/p"},
	}
	if diff := cmp.Diff(want, plugins); diff != "" {
		t.Errorf("each line at its tag, and the last of a name at 1.0.0 (-want +got):\n%s", diff)
	}
	without, lists := listed(properties, []string{})
	if plugins, _ = declared.Expand(&without, lists); len(plugins[1].Aliases) != 0 {
		t.Errorf("one field changes that: %v", plugins[1])
	}
	// The list cannot be read any more: the object alone says what it declared.
	for _, p := range want {
		s.Status.Plugins = append(s.Status.Plugins, v1alpha1.PluginStatus{Name: p.Key.Name, Version: p.Key.Version, URL: p.URL, List: p.List, Aliases: declared.Aliases(p.Aliases)})
	}
	for i := range want {
		want[i].Recorded = true
	}
	if diff := cmp.Diff(want, declared.Plugins(&s)); diff != "" {
		t.Errorf("from the status (-want +got):\n%s", diff)
	}
}

func TestPublishedDigests(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("a", 64)
	s, lists := listed("a=oci://r.example/plugins/a:1@"+digest, []string{})
	plugins, _ := declared.Expand(&s, lists)
	if p := plugins[0]; p.URL != "oci://r.example/plugins/a:1" || p.Digest != digest || p.Published != "" {
		t.Errorf("it holds where the list says: %+v", p)
	}
	s.Spec.Registry = "harbor.bank/p"
	plugins, _ = declared.Expand(&s, lists)
	if p := plugins[0]; p.URL != "oci://harbor.bank/p/plugins/a:1" || p.Digest != "" || p.Published != digest || !cmp.Equal(p.Alternatives, []string{"oci://harbor.bank/p/a:1"}) {
		t.Errorf("a copy may have another one: %+v", p)
	}
}

func TestAliases(t *testing.T) {
	t.Parallel()
	s := source("s", 0, 0,
		v1alpha1.Plugin{Name: "a", Version: "1", URL: "oci://r.example/a:1", Aliases: []v1alpha1.Alias{{Version: "2"}, {Name: "old"}, {Name: "x", Version: "9"}}},
		v1alpha1.Plugin{Name: "a", Version: "2", URL: "oci://r.example/a:2", Aliases: []v1alpha1.Alias{{Name: "x", Version: "9"}}},
	)
	s.Spec.AliasVersions = []string{"latest"}
	got := map[string]string{}
	for k, p := range declared.Keys(&s) {
		got[k.String()] = p.Key.Version
	}
	want := map[string]string{
		"a:1": "1", "a:2": "2", // a real version beats an alias
		"old:1": "1", "x:9": "2", "a:latest": "2", // the last that claims it
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("keys and the version that stands there (-want +got):\n%s", diff)
	}
	// An older source's alias is not taken over by a younger one's plugin.
	younger := source("younger", 1, 0, v1alpha1.Plugin{Name: "a", Version: "latest", URL: "oci://r.example/other:1"})
	if w := declared.Winners([]v1alpha1.PluginSource{younger, s})[key("a", "latest")]; w.Name != "s" {
		t.Errorf("%s wins", w.Name)
	}
	if c := declared.Clashes([]v1alpha1.PluginSource{younger, s}); len(c) != 1 || c[0].Key != key("a", "latest") || c[0].Loser != "younger" {
		t.Errorf("clashes: %v", c)
	}
}

func TestTooMany(t *testing.T) {
	t.Parallel()
	var lines strings.Builder
	for i := range declared.MaxPlugins {
		lines.WriteString("p" + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676)) + "=oci://r.example/x:1\n")
	}
	s, lists := listed(lines.String(), []string{})
	s.Spec.Plugins = []v1alpha1.Plugin{plugin("a", "1"), plugin("b", "1")}
	if plugins, left := declared.Expand(&s, lists); len(plugins) != declared.MaxPlugins || left != 2 {
		t.Errorf("%d plugins, %d left out", len(plugins), left)
	}
}
