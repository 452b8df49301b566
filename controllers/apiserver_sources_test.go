//go:build envtest

package controllers_test

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// is finds an entry right that is a module.
func is(p pushed) func(catalog.Entry) bool {
	return func(e catalog.Entry) bool { return e.SHA256 == p.sha256 && e.RetainedUntil == "" }
}

func (w *world) configMap(name, key, text string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: name}, Data: map[string]string{key: text}}
}

// lookAgain asks for everything to be looked at again at once.
func (w *world) lookAgain(source *v1alpha1.PluginSource, value string) {
	edit(w, source, func(s *v1alpha1.PluginSource) {
		metav1.SetMetaDataAnnotation(&s.ObjectMeta, v1alpha1.RequestedAtAnnotation, value)
	})
}

// TestList: a plugins.properties works as it is, and what it declared stays
// when it is damaged or gone.
func TestList(t *testing.T) {
	w := newWorld(t, 0)
	one, two := w.push("plugins/one", "2.0.0", module("one")), w.push("plugins/two", "1.0.0", module("two"))
	source := w.source("listed")
	source.Spec.PluginsFrom = []v1alpha1.PluginList{{ConfigMapKeyRef: &v1alpha1.ConfigMapKeyReference{Name: "list", Key: "plugins.properties"}}}
	server := w.server(name)
	w.create(source)
	w.create(server)
	w.start()
	w.awaitCondition(source, "Ready", no, "ConfigMapNotFound", "named in pluginsFrom[0], does not exist: create it")

	list := w.configMap("list", "plugins.properties", "# ours\none="+one.url+"\ntwo="+two.url+"\n")
	w.create(list)
	w.awaitEntry(name, "one", "2.0.0", "served at its tag", is(one))
	w.awaitEntry(name, "one", "1.0.0", "served where plugin servers put it", is(one))
	w.awaitEntry(name, "two", "1.0.0", "served", is(two))
	w.replicas.rollOut(server)
	w.settled(source, server)

	edit(w, list, func(c *corev1.ConfigMap) { c.Data["plugins.properties"] = "<html>" })
	w.lookAgain(source, "1")
	w.awaitCondition(source, "Warned", yes, "WorthALook", "line 1 is not NAME=", "what it declared last counts on")
	w.delete(list)
	w.lookAgain(source, "2")
	w.awaitCondition(source, "Warned", yes, "WorthALook", "does not exist", "what it declared last counts on")
	w.awaitEntry(name, "one", "1.0.0", "as before", is(one))
	w.settled(source, server)

	w.create(w.configMap("list", "plugins.properties", "two="+two.url+"\n"))
	w.lookAgain(source, "3")
	w.awaitEntry(name, "one", "2.0.0", "retained, since the list declares it no more", func(e catalog.Entry) bool { return e.RetainedUntil != "" })
	w.settled(source, server)
}

// TestOfficial: three lines of YAML, a registry with a flattened copy, and a
// release that nobody knows beside it.
func TestOfficial(t *testing.T) {
	w := newWorld(t, 0)
	waf, mcp := w.push("waf", "2.0.1", module("waf")), w.push("plugins/mcp-server", "2.0.1", module("mcp"))
	source := w.source("official")
	source.Spec.Registry = w.registry.host() + "/" + w.namespace
	source.Spec.Official = &v1alpha1.OfficialPlugins{HigressVersions: []string{"2.2.4", "9.9.9"}}
	second := w.source("second-team", w.push("evil", "1", module("evil")).as("key-auth", "1.0.0"))
	server := w.server(name)
	w.create(source)
	w.create(server)
	w.start()
	w.awaitEntry(name, "waf", "2.0.1", "served", is(waf))
	w.awaitEntry(name, "mcp-server", "2.0.1", "served", is(mcp))
	w.awaitCondition(source, "Fetched", no, "UnknownRelease", "9.9.9", "update the operator, or give a table")
	w.create(second)
	w.awaitCondition(second, "Ready", no, "DeclaredElsewhere", "key-auth:1.0.0 is also declared by PluginSource official")
	w.awaitCondition(source, "Warned", yes, "WorthALook", "key-auth:1.0.0 is also declared by PluginSource second-team, which loses")
	w.awaitEntry(name, "key-auth", "1.0.0", "pending: it cannot be had, and is not replaced", catalog.Entry.Pending)

	w.create(w.configMap("table", "t.csv", "higress,name,version,repository,tag\n9.9.9,new,1.0.0,plugins/mcp-server,2.0.1\n"))
	edit(w, source, func(s *v1alpha1.PluginSource) {
		s.Spec.Official.TableRef = &v1alpha1.ConfigMapKeyReference{Name: "table", Key: "t.csv"}
	})
	w.awaitEntry(name, "new", "1.0.0", "served by the table", is(mcp))
	w.awaitCondition(source, "Fetched", no, "PluginsFailed", "404", "other paths where mirrors have it")
}

// TestConfigMapModule: a module with no registry at all.
func TestConfigMapModule(t *testing.T) {
	w := newWorld(t, 0)
	content := module("in the cluster")
	var zipped bytes.Buffer
	zw := gzip.NewWriter(&zipped)
	_, err := zw.Write(content)
	if err != nil || zw.Close() != nil {
		t.Fatal(err)
	}
	part := func(i int, b []byte) *corev1.ConfigMap {
		return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: fmt.Sprintf("my-auth-%d", i)}, BinaryData: map[string][]byte{"part": b}}
	}
	source := w.source("local", v1alpha1.Plugin{Name: "my-auth", Version: "1", ConfigMaps: []string{"my-auth-0", "my-auth-1"}, SHA256: sha(content)})
	server := w.server(name)
	w.create(part(0, zipped.Bytes()[:20]))
	w.create(source)
	w.create(server)
	w.start()
	w.awaitCondition(source, "Fetched", no, "PluginsFailed", "ConfigMapNotFound", "my-auth-1, named in configMaps, does not exist: create it")
	wrong := w.configMap("my-auth-1", "part", "text")
	wrong.Data["other"] = "text"
	w.create(wrong)
	w.awaitCondition(source, "Fetched", no, "PluginsFailed", "InvalidConfigMap", "has 2 keys", "exactly one")
	w.delete(wrong)
	w.create(part(1, zipped.Bytes()[20:]))
	w.lookAgain(source, "now")
	w.awaitEntry(name, "my-auth", "1", "served", func(e catalog.Entry) bool {
		return e.SHA256 == sha(content) && strings.HasPrefix(e.Source, "configmap://"+w.namespace+"/my-auth-0")
	})
	w.replicas.rollOut(server)
	w.settled(source, server)
}

// TestMovedTag: what is served stays until somebody accepts the new one.
func TestMovedTag(t *testing.T) {
	t.Parallel()
	for title, accept := range map[string]func(s *v1alpha1.PluginSource, moved pushed){
		"by the digest": func(s *v1alpha1.PluginSource, moved pushed) { s.Spec.Plugins[0].URL += "@" + moved.digest },
		"by the hash":   func(s *v1alpha1.PluginSource, moved pushed) { s.Spec.Plugins[0].SHA256 = moved.sha256 },
		"by the policy": func(s *v1alpha1.PluginSource, _ pushed) { s.Spec.UpdatePolicy = v1alpha1.UpdateAuto },
	} {
		t.Run(title, func(t *testing.T) {
			w := newWorld(t, 0)
			old := w.push("p", "1", module("old"))
			source := w.source("s", old.as("p", "1"))
			server := w.server(name)
			w.create(source)
			w.create(server)
			w.start()
			w.awaitEntry(name, "p", "1", "served", is(old))
			w.replicas.rollOut(server)
			w.settled(source, server)

			moved := w.push("p", "1", module("new"))
			w.lookAgain(source, "now")
			w.awaitCondition(source, "TagMoved", yes, "TagsMoved", old.digest, moved.digest, "what is served stays")
			w.event(source, "TagsMoved", old.digest, moved.digest)
			w.awaitEntry(name, "p", "1", "still the old one", is(old))
			w.settled(source, server)

			edit(w, source, func(s *v1alpha1.PluginSource) { accept(s, moved) })
			w.awaitEntry(name, "p", "1", "the new one", is(moved))
			w.eventuallyNot(source, "TagMoved")
			w.settled(source, server)
		})
	}
}

// TestFollowedTag: with Auto a tag that moves is taken over by itself, and a
// bad artifact at it takes nothing away.
func TestFollowedTag(t *testing.T) {
	w := newWorld(t, 0)
	old := w.push("p", "1", module("old"))
	source := w.source("s", old.as("p", "1"))
	source.Spec.UpdatePolicy = v1alpha1.UpdateAuto
	server := w.server(name)
	w.create(source)
	w.create(server)
	o := w.start()
	w.awaitEntry(name, "p", "1", "served", is(old))
	w.push("p", "1", []byte("this is no module"))
	w.lookAgain(source, "1")
	w.awaitCondition(source, "Fetched", no, "PluginsFailed", "NotWasm")
	w.awaitEntry(name, "p", "1", "still the good one", is(old))
	// An operator whose store is lost gets what is served back by its digest.
	o.end()
	w.storeDir = t.TempDir()
	o = w.start()
	w.eventually("the good one is handed out", func(ctx context.Context) error {
		got, err := ask(ctx, o.url+"/blobs/sha256/"+old.sha256, 1<<20)
		return errors.Join(err, wrong(err == nil && !bytes.Equal(got, old.module)))
	})
	moved := w.push("p", "1", module("new"))
	w.lookAgain(source, "2")
	w.awaitEntry(name, "p", "1", "the new one", is(moved))
	w.eventuallyNot(source, "TagMoved")
}
