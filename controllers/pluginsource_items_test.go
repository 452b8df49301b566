package controllers

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/mirror"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// asked gives what the queue is asked for a source's plugins.
func asked(source *v1alpha1.PluginSource, rules mirror.Rules, plugins ...declared.Plugin) []pipeline.Item {
	r := &PluginSourceReconciler{Rewrite: rules.Rewrite}
	items := items(source, r.targets(plugins, fetch.Access{}))
	for i := range items {
		items[i].Key = keyA("")
	}
	return items
}

func TestItems(t *testing.T) {
	t.Parallel()
	const url, mirrored = "oci://public.example/plugins/a:1", "oci://harbor.bank/plugins/a:1"
	digest, other := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	rules := mirror.Rules{{From: "public.example", To: "harbor.bank"}}
	plugin := declared.Plugin{Key: keyA("1"), URL: url}
	listed := plugin
	listed.Digest = digest
	pinned := plugin
	pinned.SHA256 = "aa"
	known := v1alpha1.PluginStatus{Name: "a", Version: "1", State: v1alpha1.PluginFetched, URL: url, Digest: digest, SHA256: "aa"}
	inMirror, moved, elsewhere, olderList := known, known, known, known
	inMirror.Mirror = mirrored
	moved.MovedTo = other
	elsewhere.URL = "oci://other.example/a:1"
	olderList.Digest = other

	for name, c := range map[string]struct {
		plugin declared.Plugin
		status v1alpha1.PluginStatus
		rules  mirror.Rules
		policy v1alpha1.UpdatePolicy
		want   pipeline.Item
	}{
		"new":              {plugin, v1alpha1.PluginStatus{}, nil, "", pipeline.Item{Request: fetch.Request{URL: url}, Follow: true}},
		"known":            {plugin, known, nil, "", pipeline.Item{Request: fetch.Request{URL: url, Digest: digest}, Recorded: "aa", Follow: true}},
		"the url changed":  {plugin, elsewhere, nil, "", pipeline.Item{Request: fetch.Request{URL: url}, Follow: true}},
		"a hash is no tag": {pinned, known, nil, "", pipeline.Item{Request: fetch.Request{URL: url, SHA256: "aa", Digest: digest}, Recorded: "aa"}},
		"in a mirror":      {plugin, inMirror, rules, "", pipeline.Item{Request: fetch.Request{URL: mirrored, Digest: digest}, Recorded: "aa", Follow: true}},
		"a mirror came later: its copy may have another digest, but not another module": {
			plugin, known, rules, "", pipeline.Item{Request: fetch.Request{URL: mirrored, SHA256: "aa"}, Recorded: "aa", Follow: true}},
		"the mirror went": {plugin, inMirror, nil, "", pipeline.Item{Request: fetch.Request{URL: url, SHA256: "aa"}, Recorded: "aa", Follow: true}},
		"a tag moved":     {plugin, moved, nil, v1alpha1.UpdatePin, pipeline.Item{Request: fetch.Request{URL: url, Digest: digest}, Recorded: "aa", Follow: true}},
		"a tag moved, and is followed": {
			plugin, moved, nil, v1alpha1.UpdateAuto, pipeline.Item{Request: fetch.Request{URL: url}, Follow: true}},
		"a list's digest": {listed, v1alpha1.PluginStatus{}, nil, "", pipeline.Item{Request: fetch.Request{URL: url + "@" + digest}}},
		"a list's digest, known": {
			listed, known, nil, "", pipeline.Item{Request: fetch.Request{URL: url + "@" + digest, Digest: digest}, Recorded: "aa"}},
		"a list has another digest now": {listed, olderList, nil, "", pipeline.Item{Request: fetch.Request{URL: url + "@" + digest}}},
		"a list's digest does not hold in a mirror": {
			listed, v1alpha1.PluginStatus{}, rules, "", pipeline.Item{Request: fetch.Request{URL: mirrored}, Follow: true}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := &v1alpha1.PluginSource{}
			source.Spec.UpdatePolicy = c.policy
			if c.status.Name != "" {
				source.Status.Plugins = []v1alpha1.PluginStatus{c.status}
			}
			c.want.Key = keyA("")
			if diff := cmp.Diff([]pipeline.Item{c.want}, asked(source, c.rules, c.plugin)); diff != "" {
				t.Errorf("asked for (-want +got):\n%s", diff)
			}
		})
	}
}

func TestPublishedDigestWarns(t *testing.T) {
	t.Parallel()
	digest := "sha256:" + strings.Repeat("a", 64)
	r := &PluginSourceReconciler{Rewrite: mirror.Rules{{From: "public.example", To: "harbor.bank"}}.Rewrite}
	for name, p := range map[string]declared.Plugin{
		"the source has a registry": {Key: keyA("1"), URL: "oci://harbor.bank/a:1", Published: digest},
		"the operator has a mirror": {Key: keyA("1"), URL: "oci://public.example/a:1", Digest: digest},
	} {
		target := r.targets([]declared.Plugin{p}, fetch.Access{})[0]
		same := pipeline.Result{State: pipeline.Fetched, Artifact: store.Artifact{Digest: digest, Blob: store.Blob{SHA256: "aa", ABI: "0.2.1"}}}
		if s := pluginStatus(target, v1alpha1.PluginStatus{}, &same, nil); s.Warning != "" || s.State != v1alpha1.PluginFetched {
			t.Errorf("%s: %+v", name, s)
		}
		copied := same
		copied.Artifact.Digest = "sha256:" + strings.Repeat("b", 64)
		if s := pluginStatus(target, v1alpha1.PluginStatus{}, &copied, nil); !strings.Contains(s.Warning, digest) || s.State != v1alpha1.PluginFetched {
			t.Errorf("%s: %+v", name, s)
		}
	}
}

func TestGateway(t *testing.T) {
	t.Parallel()
	const pread = "wasi_snapshot_preview1.path_link"
	result := pipeline.Result{State: pipeline.Fetched, Ended: true, Artifact: store.Artifact{
		Digest: "sha256:d", Blob: store.Blob{SHA256: "aa", ABI: "0.2.1", Imports: pread + ",wasi_snapshot_preview1.sched_yield"},
	}}
	for name, c := range map[string]struct {
		gateway *v1alpha1.Gateway
		state   v1alpha1.PluginState
		warns   string
	}{
		"nothing said":     {nil, v1alpha1.PluginFetched, "gateways of higress-2.2 lack what it imports: " + pread},
		"an older gateway": {&v1alpha1.Gateway{Profile: "higress-2.0"}, v1alpha1.PluginFetched, pread + ", wasi_snapshot_preview1.sched_yield"},
		"allowed":          {&v1alpha1.Gateway{AllowedImports: []string{pread}, Policy: v1alpha1.ImportBlock}, v1alpha1.PluginFetched, ""},
		"refused":          {&v1alpha1.Gateway{Policy: v1alpha1.ImportBlock}, v1alpha1.PluginFailed, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := sourceOf(result)
			o.source.Spec.Gateway, o.plugins[0].gateway = c.gateway, c.gateway
			status := sourceStatus(o)
			p := status.Plugins[0]
			if p.State != c.state || !strings.Contains(p.Warning, c.warns) || c.warns == "" && p.Warning != "" {
				t.Errorf("%+v", p)
			}
			if c.state == v1alpha1.PluginFailed && (p.Reason != string(failure.UnsupportedImports) || p.SHA256 != "" || !strings.Contains(p.Message, "allowedImports")) {
				t.Errorf("%+v", p)
			}
		})
	}
	none := result
	none.Artifact.Imports, none.Artifact.ABI = "", ""
	if p := sourceStatus(sourceOf(none)).Plugins[0]; !strings.Contains(p.Warning, "names no version of the proxy-wasm ABI") {
		t.Errorf("%+v", p)
	}
}
