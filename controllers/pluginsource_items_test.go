package controllers

import (
	"encoding/json"
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
	known := declared.Statuses(source)
	var items []pipeline.Item
	for _, t := range r.targets(plugins, fetch.Access{}, nil) {
		items = append(items, t.items(source, known[t.Key])...)
	}
	return items
}

func TestItems(t *testing.T) {
	t.Parallel()
	const url, mirrored = "oci://public.example/plugins/a:1", "oci://harbor.bank/plugins/a:1"
	aa := map[string]string{"": "aa"}
	digest, other := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	rules := mirror.Rules{{From: "public.example", To: "harbor.bank"}}
	plugin := declared.Plugin{Key: keyA("1"), URL: url}
	listed := plugin
	listed.Digest = digest
	pinned := plugin
	pinned.SHA256 = "aa"
	known := v1alpha1.PluginStatus{Name: "a", Version: "1", State: v1alpha1.PluginFetched, URL: url, Digest: digest, SHA256: "aa"}
	recorded, none := plugin, v1alpha1.PluginStatus{}
	recorded.Recorded = true
	inMirror, moved, elsewhere, olderList, refused := known, known, known, known, known
	refused.State, refused.Digest, refused.SHA256, refused.MovedTo = v1alpha1.PluginFailed, "", "", other
	one := func(item pipeline.Item) []pipeline.Item { return []pipeline.Item{item} }
	both := func(item pipeline.Item, at, served string) []pipeline.Item {
		return []pipeline.Item{item, {Request: fetch.Request{URL: at, SHA256: "aa", Digest: served}, Recorded: aa}}
	}
	inMirror.Mirror = mirrored
	moved.MovedTo = other
	elsewhere.URL = "oci://other.example/a:1"
	olderList.Digest = other

	for name, c := range map[string]struct {
		plugin declared.Plugin
		status v1alpha1.PluginStatus
		rules  mirror.Rules
		policy v1alpha1.UpdatePolicy
		want   []pipeline.Item
	}{
		"new":              {plugin, none, nil, "", one(pipeline.Item{Request: fetch.Request{URL: url}, Follow: true})},
		"known":            {plugin, known, nil, "", one(pipeline.Item{Request: fetch.Request{URL: url, Digest: digest}, Recorded: aa, Follow: true})},
		"the url changed":  {plugin, elsewhere, nil, "", one(pipeline.Item{Request: fetch.Request{URL: url}, Follow: true})},
		"a hash is no tag": {pinned, known, nil, "", one(pipeline.Item{Request: fetch.Request{URL: url, SHA256: "aa", Digest: digest}, Recorded: aa})},
		"in a mirror":      {plugin, inMirror, rules, "", one(pipeline.Item{Request: fetch.Request{URL: mirrored, Digest: digest}, Recorded: aa, Follow: true})},
		"a mirror came later: its copy may have another digest, but not another module": {
			plugin, known, rules, "", both(pipeline.Item{Request: fetch.Request{URL: mirrored, SHA256: "aa"}, Follow: true}, mirrored, digest)},
		"the mirror went": {plugin, inMirror, nil, "", both(pipeline.Item{Request: fetch.Request{URL: url, SHA256: "aa"}, Follow: true}, url, digest)},
		"a mirror came later, and tags are followed": {
			plugin, known, rules, v1alpha1.UpdateAuto, both(pipeline.Item{Request: fetch.Request{URL: mirrored}, Follow: true}, mirrored, digest)},
		"a tag moved": {plugin, moved, nil, v1alpha1.UpdatePin, one(pipeline.Item{Request: fetch.Request{URL: url, Digest: digest}, Recorded: aa, Follow: true})},
		"a tag moved, and is followed": {
			plugin, moved, nil, v1alpha1.UpdateAuto, both(pipeline.Item{Request: fetch.Request{URL: url}, Renew: other, Follow: true}, url, digest)},
		"a tag moved and would be followed, and the source has the served hash": {
			pinned, moved, nil, v1alpha1.UpdateAuto, one(pipeline.Item{Request: fetch.Request{URL: url, SHA256: "aa", Digest: digest}, Recorded: aa})},
		"nothing was good so far, and the tag moved": {
			plugin, refused, nil, v1alpha1.UpdatePin, one(pipeline.Item{Request: fetch.Request{URL: url}, Renew: other, Follow: true})},
		"a list's digest": {listed, none, nil, "", one(pipeline.Item{Request: fetch.Request{URL: url + "@" + digest}})},
		"a list's digest, known": {
			listed, known, nil, "", one(pipeline.Item{Request: fetch.Request{URL: url + "@" + digest, Digest: digest}, Recorded: aa})},
		"a list has another digest now": {
			listed, olderList, nil, "", both(pipeline.Item{Request: fetch.Request{URL: url + "@" + digest}}, url, other)},
		"a list's digest does not hold in a mirror": {
			listed, none, rules, "", one(pipeline.Item{Request: fetch.Request{URL: mirrored}, Follow: true})},
		"a list that cannot be read": {
			recorded, known, nil, "", one(pipeline.Item{Request: fetch.Request{URL: url, SHA256: "aa", Digest: digest}, Recorded: aa})},
		"a list that cannot be read, and nothing was fetched": {recorded, none, nil, "", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			source := &v1alpha1.PluginSource{}
			source.Spec.UpdatePolicy = c.policy
			if c.status.Name != "" {
				source.Status.Plugins = []v1alpha1.PluginStatus{c.status}
			}
			for i := range c.want {
				c.want[i].Key = keyA([]string{"1", "1 (served)"}[i])
			}
			if diff := cmp.Diff(c.want, asked(source, c.rules, c.plugin)); diff != "" {
				t.Errorf("asked for (-want +got):\n%s", diff)
			}
		})
	}
}

// TestRequestedAt: what stands in the status after a round through JSON equals
// what is compared with it.
func TestRequestedAt(t *testing.T) {
	t.Parallel()
	source := &v1alpha1.PluginSource{}
	source.Annotations = map[string]string{v1alpha1.RequestedAtAnnotation: strings.Repeat("a", maxRequestedAt-1) + "é and more"}
	if got := requestedAt(source); got != strings.Repeat("a", maxRequestedAt-1) {
		t.Errorf("%q", got)
	}
}

// TestTrim: whatever is said of a thousand plugins, the object can be stored.
func TestTrim(t *testing.T) {
	t.Parallel()
	plugins := make([]v1alpha1.PluginStatus, 1000)
	for i := range plugins {
		plugins[i] = v1alpha1.PluginStatus{
			Name: strings.Repeat("n", 63), Version: strings.Repeat("1", 40), State: v1alpha1.PluginFailed, URL: strings.Repeat("u", 120),
			Message: strings.Repeat("é", 256), Warning: strings.Repeat("w", 512), Digest: strings.Repeat("d", 71), SHA256: strings.Repeat("s", 64),
		}
	}
	trim(plugins)
	encoded, err := json.Marshal(plugins)
	if err != nil || len(encoded) > roomForPlugins {
		t.Errorf("%d bytes, %v", len(encoded), err)
	}
	few := []v1alpha1.PluginStatus{plugins[0]}
	few[0].Message = strings.Repeat("m", 512)
	if trim(few); len(few[0].Message) != 512 {
		t.Error("one message fits")
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
		target := r.targets([]declared.Plugin{p}, fetch.Access{}, nil)[0]
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
