package controllers

import (
	"io"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/official"
)

func TestHigher(t *testing.T) {
	t.Parallel()
	for name, pair := range map[string][2]string{
		"numbers, not text":                  {"1.10.0", "1.9.0"},
		"a release before its candidate":     {"1.0.0", "1.0.0-rc.1"},
		"a semantic version before any text": {"0.0.1", "latest"},
		"text by its letters":                {"b", "a"},
		"two numbers are no semantic one":    {"1.0.0", "2.0"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if !higher(pair[0], pair[1]) || higher(pair[1], pair[0]) {
				t.Errorf("%s is not higher than %s", pair[0], pair[1])
			}
		})
	}
	if higher("1.0.0", "1.0.0") {
		t.Error("a version is higher than itself")
	}
}

// serverOf makes an observed server that serves some versions of mcp-server.
func serverOf(served ...string) *observedServer {
	o := &observedServer{server: &v1alpha1.PluginServer{}, catalog: &catalog.Catalog{}, served: map[catalog.Key]string{}}
	o.server.Name, o.server.Namespace = "s", "n"
	for _, version := range served {
		key := catalog.Key{Name: mcpServer, Version: version}
		o.served[key] = "aa"
		o.catalog.Entries = append(o.catalog.Entries, catalog.Entry{Name: mcpServer, Version: version, SHA256: "aa", Size: 1})
	}
	return o
}

func mcpURL(version string) string {
	return "http://s.n.svc/plugins/mcp-server/" + version + "/plugin.wasm"
}

func TestControllerValue(t *testing.T) {
	t.Parallel()
	pending := serverOf("1.0.0")
	pending.catalog.Entries = append(pending.catalog.Entries, catalog.Entry{Name: mcpServer, Version: "2.0.0"})
	behind := serverOf("1.0.0")
	behind.catalog.Entries = append(behind.catalog.Entries, catalog.Entry{Name: mcpServer, Version: "2.0.0", SHA256: "bb", Size: 1})
	retained, alone := serverOf("1.9.0", "1.10.0"), serverOf("1.9.0")
	for _, o := range []*observedServer{retained, alone} {
		for i := range o.catalog.Entries {
			if o.catalog.Entries[i].Version == "1.9.0" {
				o.catalog.Entries[i].RetainedUntil = "2030-01-01T00:00:00Z"
			}
		}
	}
	image := func(served []string, pods ...podState) *observedServer {
		o := serverOf(served...)
		o.server.Spec.Server.Type, o.catalog, o.pods = v1alpha1.ServerImage, nil, pods
		return o
	}
	mcp := func(versions ...string) (p podState) {
		p.plugins = map[catalog.Key]bool{}
		for _, version := range versions {
			p.plugins[catalog.Key{Name: mcpServer, Version: version}] = true
		}
		return p
	}
	other := serverOf()
	other.served[catalog.Key{Name: "key-auth", Version: "9.0.0"}] = "aa"
	for name, c := range map[string]struct {
		observed *observedServer
		wanted   string
		ours     string
		want     string
		wait     string
	}{
		"none served":       {observed: other, wait: "no plugin mcp-server is served"},
		"first the highest": {observed: serverOf("1.9.0", "1.10.0"), want: "1.10.0"},
		"then that one, although there is a newer":   {observed: serverOf("1.9.0", "1.10.0"), ours: "1.9.0", want: "1.9.0"},
		"gone from the catalog: the highest":         {observed: serverOf("1.10.0"), ours: "1.9.0", want: "1.10.0"},
		"only retained: left in time":                {observed: retained, ours: "1.9.0", want: "1.10.0"},
		"only retained, and no other: kept":          {observed: alone, ours: "1.9.0", want: "1.9.0"},
		"only retained is not taken anew":            {observed: alone, wait: "no plugin"},
		"gone, and no other: let go":                 {observed: serverOf(), ours: "1.9.0", wait: "no plugin"},
		"what only some replicas serve is not taken": {observed: behind, want: "1.0.0"},
		"but kept by who has it":                     {observed: behind, ours: "2.0.0", want: "2.0.0"},
		"a pending entry is not kept":                {observed: pending, ours: "2.0.0", want: "1.0.0"},
		"the spec says which":                        {observed: serverOf("1.9.0", "1.10.0"), wanted: "1.9.0", want: "1.9.0"},
		"the spec moves it":                          {observed: serverOf("1.9.0", "1.10.0"), wanted: "1.10.0", ours: "1.9.0", want: "1.10.0"},
		"the spec names what is not served yet: what is there stays": {
			observed: serverOf("1.9.0"), wanted: "1.10.0", ours: "1.9.0", want: "1.9.0"},
		"the spec names what is not served, and nothing is there": {observed: serverOf("1.9.0"), wanted: "1.10.0", wait: "mcp-server:1.10.0"},
		"an image that has it": {observed: image([]string{"1.9.0"}, podState{}), want: "1.9.0"},
		"an image that is replaced by a newer one: it stays while a pod has it": {
			observed: image(nil, mcp("1.9.0"), mcp("1.10.0")), ours: "1.9.0", want: "1.9.0"},
		"and is left once all have the newer one": {
			observed: image([]string{"1.10.0"}, mcp("1.10.0"), mcp("1.10.0")), ours: "1.9.0", want: "1.10.0"},
		"an image that has both: it stays": {
			observed: image([]string{"1.9.0", "1.10.0"}, mcp("1.9.0", "1.10.0"), mcp("1.9.0", "1.10.0")), ours: "1.9.0", want: "1.9.0"},
		"an image that lacks it: let go":                       {observed: image(nil, podState{}), ours: "1.9.0", wait: "no plugin"},
		"an image, and all its pods are away: it stays":        {observed: image(nil), ours: "1.9.0", want: "1.9.0"},
		"an image, and a pod is silent: it stays":              {observed: image(nil, podState{}, podState{err: io.EOF}), ours: "1.9.0", want: "1.9.0"},
		"an image, and nothing is known yet: nothing is taken": {observed: image(nil), wait: "no plugin"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := *c.observed
			o.server = c.observed.server.DeepCopy()
			o.server.Spec.Higress.Controller.MCPServerVersion = c.wanted
			ours, want := "", ""
			if c.ours != "" {
				ours = mcpURL(c.ours)
			}
			if c.want != "" {
				want = mcpURL(c.want)
			}
			value, wait := o.controllerValue(ours)
			if value != want || !strings.Contains(wait, c.wait) || (wait == "") != (c.wait == "") {
				t.Errorf("controllerValue(%q) = %q, %q; want %q, %q", ours, value, wait, want, c.wait)
			}
		})
	}
	if value, _ := serverOf("1.0.0").controllerValue("http://s.n.svc/plugins/mcp-server/../x/plugin.wasm"); value != mcpURL("1.0.0") {
		t.Errorf("a URL that is not of our form is kept: %s", value)
	}
}

func TestConsoleValue(t *testing.T) {
	t.Parallel()
	const pattern = "http://s.n.svc/plugins/${name}/${version}/plugin.wasm"
	source := func(state v1alpha1.PluginState, suspend bool) v1alpha1.PluginSource {
		s := v1alpha1.PluginSource{}
		s.Spec.Suspend = suspend
		s.Spec.Plugins = []v1alpha1.Plugin{{Name: "a", Version: "1", URL: "oci://r.example/a:1"}}
		if state != "" {
			s.Status.Plugins = []v1alpha1.PluginStatus{{Name: "a", Version: "1", State: state}}
		}
		return s
	}
	for name, c := range map[string]struct {
		sources []v1alpha1.PluginSource
		served  bool
		ours    string
		want    string
		wait    string
	}{
		"all fetched, something served":              {sources: []v1alpha1.PluginSource{source(v1alpha1.PluginFetched, false)}, served: true, want: pattern},
		"one failed: it holds back nothing":          {sources: []v1alpha1.PluginSource{source(v1alpha1.PluginFailed, false)}, served: true, want: pattern},
		"one pending":                                {sources: []v1alpha1.PluginSource{source(v1alpha1.PluginPending, false)}, served: true, wait: "has not ended yet"},
		"one not reported yet":                       {sources: []v1alpha1.PluginSource{source("", false)}, served: true, wait: "has not ended yet"},
		"one suspended: nothing more comes of it":    {sources: []v1alpha1.PluginSource{source("", true)}, served: true, want: pattern},
		"nothing served":                             {wait: "nothing is served yet"},
		"nothing served any more, the Console stays": {ours: pattern, want: pattern},
		"pointed elsewhere by us, nothing served":    {ours: "http://old/${name}", wait: "nothing is served yet"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := serverOf()
			o.sources = c.sources
			if c.served {
				o.served[keyA("1")] = "aa"
			}
			value, wait := o.consoleValue(c.ours)
			if value != c.want || !strings.Contains(wait, c.wait) || (wait == "") != (c.wait == "") {
				t.Errorf("consoleValue(%q) = %q, %q; want %q, %q", c.ours, value, wait, c.want, c.wait)
			}
		})
	}
}

func TestClaimant(t *testing.T) {
	t.Parallel()
	server := func(namespace, name string, hours int, mode v1alpha1.IntegrationMode) v1alpha1.PluginServer {
		s := v1alpha1.PluginServer{}
		s.Namespace, s.Name = namespace, name
		s.CreationTimestamp = metav1.NewTime(time.Unix(int64(hours)*3600, 0))
		s.Spec.Higress.Console.Mode = mode
		return s
	}
	deleted := server("n", "deleted", 0, "")
	deleted.DeletionTimestamp = &metav1.Time{Time: time.Unix(1, 0)}
	settings := Settings{IntegrationNamespaces: []string{"n", "m"}}
	for name, c := range map[string]struct {
		servers []v1alpha1.PluginServer
		want    string
	}{
		"none":                            {nil, ""},
		"the oldest":                      {[]v1alpha1.PluginServer{server("n", "b", 2, ""), server("m", "a", 1, v1alpha1.IntegrationPatch)}, "a"},
		"the first by namespace and name": {[]v1alpha1.PluginServer{server("n", "a", 1, ""), server("m", "b", 1, ""), server("m", "c", 1, "")}, "b"},
		"one that observes claims nothing": {
			[]v1alpha1.PluginServer{server("n", "a", 1, v1alpha1.IntegrationObserve), server("n", "b", 2, "")}, "b"},
		"one that is off claims nothing":      {[]v1alpha1.PluginServer{server("n", "a", 1, v1alpha1.IntegrationOff)}, ""},
		"one of another namespace may not":    {[]v1alpha1.PluginServer{server("x", "a", 1, ""), server("n", "b", 2, "")}, "b"},
		"one that is deleted claims no more":  {[]v1alpha1.PluginServer{deleted, server("n", "b", 2, "")}, "b"},
		"the only one that would, is deleted": {[]v1alpha1.PluginServer{deleted}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := ""
			if s := claimant(c.servers, settings, consoleMode); s != nil {
				got = s.Name
			}
			if got != c.want {
				t.Errorf("claimant = %q, want %q", got, c.want)
			}
		})
	}
}

func TestConsoleNote(t *testing.T) {
	t.Parallel()
	all, _ := official.Embedded().Plugins([]string{"2.2.4"})
	o := &observedServer{served: map[catalog.Key]string{}}
	if got := o.consoleNote("2.2.4"); !strings.Contains(got, "of the 53 plugins that the Console of Higress 2.2.4 offers 53 are not served, such as ai-agent:2.0.1") {
		t.Error(got)
	}
	for _, p := range all {
		o.served[p.Key] = "aa"
	}
	if got := o.consoleNote("v2.2.4"); !strings.Contains(got, "all 53 plugins") {
		t.Error(got)
	}
	if got := o.consoleNote("9.9.9") + o.consoleNote(""); got != "" {
		t.Error(got)
	}
}
