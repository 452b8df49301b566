package declared_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

var day = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// source makes a source of an age in hours: the higher, the younger.
func source(name string, hours int, priority int32, plugins ...v1alpha1.Plugin) v1alpha1.PluginSource {
	s := v1alpha1.PluginSource{}
	s.Name, s.Namespace = name, "n"
	s.CreationTimestamp = metav1.NewTime(day.Add(time.Duration(hours) * time.Hour))
	s.Spec.Priority, s.Spec.Plugins = priority, plugins
	return s
}

func plugin(name, version string) v1alpha1.Plugin {
	return v1alpha1.Plugin{Name: name, Version: version, URL: "oci://r.example/" + name + ":" + version}
}

// fetched says that a source has fetched a plugin as it declares it.
func fetched(s v1alpha1.PluginSource, at int, digest, sha256 string) v1alpha1.PluginSource {
	p := s.Spec.Plugins[at]
	s.Status.Plugins = append(s.Status.Plugins, v1alpha1.PluginStatus{
		Name: p.Name, Version: p.Version, URL: p.URL, State: v1alpha1.PluginFetched, Digest: digest, SHA256: sha256,
	})
	return s
}

func TestPlugins(t *testing.T) {
	t.Parallel()
	s := source("s", 0, 0,
		v1alpha1.Plugin{Name: "b", Version: "1.0.0+x", SHA256: "aa", Description: "text"},
		v1alpha1.Plugin{Name: "a", Version: "2", URL: "oci://other.example/x:2"})
	s.Spec.Registry = "harbor.example/higress"
	want := []declared.Plugin{
		{Key: catalog.Key{Name: "b", Version: "1.0.0+x"}, URL: "oci://harbor.example/higress/b:1.0.0_x", SHA256: "aa", Description: "text"},
		{Key: catalog.Key{Name: "a", Version: "2"}, URL: "oci://other.example/x:2"},
	}
	if diff := cmp.Diff(want, declared.Plugins(&s)); diff != "" {
		t.Errorf("plugins, in the source's own order (-want +got):\n%s", diff)
	}
}

func TestWinners(t *testing.T) {
	t.Parallel()
	p := plugin("a", "1")
	for name, c := range map[string]struct {
		sources []v1alpha1.PluginSource
		want    string
	}{
		"the only one":                          {[]v1alpha1.PluginSource{source("x", 0, 0, p)}, "x"},
		"the older one":                         {[]v1alpha1.PluginSource{source("x", 5, 0, p), source("y", 1, 0, p)}, "y"},
		"the higher priority, although younger": {[]v1alpha1.PluginSource{source("x", 5, 1, p), source("y", 1, 0, p)}, "x"},
		"a negative priority loses to none":     {[]v1alpha1.PluginSource{source("x", 0, -1, p), source("y", 1, 0, p)}, "y"},
		"the first by name at the same age":     {[]v1alpha1.PluginSource{source("y", 1, 0, p), source("x", 1, 0, p)}, "x"},
		"declared, not fetched, decides": {
			[]v1alpha1.PluginSource{fetched(source("x", 5, 0, p), 0, "sha256:d", "aa"), source("y", 1, 0, p)}, "y"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if got := declared.Winners(c.sources)[catalog.Key{Name: "a", Version: "1"}].Name; got != c.want {
				t.Errorf("the winner is %s, want %s", got, c.want)
			}
		})
	}
}

func TestClashes(t *testing.T) {
	t.Parallel()
	a, b := plugin("a", "1"), plugin("b", "1")
	key := func(name string) catalog.Key { return catalog.Key{Name: name, Version: "1"} }
	for name, c := range map[string]struct {
		sources []v1alpha1.PluginSource
		want    []declared.Clash
	}{
		"none: other names":    {[]v1alpha1.PluginSource{source("x", 0, 0, a), source("y", 1, 0, b)}, nil},
		"none: other versions": {[]v1alpha1.PluginSource{source("x", 0, 0, a), source("y", 1, 0, plugin("a", "2"))}, nil},
		"ordered by key, then loser": {
			[]v1alpha1.PluginSource{source("z", 2, 0, b, a), source("y", 1, 0, b), source("x", 0, 0, a, b)},
			[]declared.Clash{
				{Key: key("a"), Winner: "x", Loser: "z"}, {Key: key("b"), Winner: "x", Loser: "y"}, {Key: key("b"), Winner: "x", Loser: "z"},
			}},
		"the same module refuses nobody anything": {
			[]v1alpha1.PluginSource{fetched(source("x", 0, 0, a), 0, "sha256:d", "aa"), fetched(source("y", 1, 0, a), 0, "sha256:e", "aa")},
			[]declared.Clash{{Key: key("a"), Winner: "x", Loser: "y", Same: true}}},
		"nothing fetched by either is not the same": {
			[]v1alpha1.PluginSource{source("x", 0, 0, a), source("y", 1, 0, a)},
			[]declared.Clash{{Key: key("a"), Winner: "x", Loser: "y"}}},
		"other modules": {
			[]v1alpha1.PluginSource{fetched(source("x", 0, 0, a), 0, "sha256:d", "aa"), fetched(source("y", 1, 0, a), 0, "sha256:d", "bb")},
			[]declared.Clash{{Key: key("a"), Winner: "x", Loser: "y"}}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, declared.Clashes(c.sources)); diff != "" {
				t.Errorf("clashes (-want +got):\n%s", diff)
			}
		})
	}
}
