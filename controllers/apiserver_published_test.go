//go:build envtest

package controllers_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"oras.land/oras-go/v2"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// pushServerImage puts a plugin server's image into the registry, one layer for
// each of modules, by NAME/VERSION, and gives its reference and digest.
func (w *world) pushServerImage(repository, tag string, modules ...[2]string) (url, digest string) {
	w.t.Helper()
	repo := w.repository(repository)
	var layers []ocispec.Descriptor
	for _, m := range modules {
		content := module(m[1])
		var b bytes.Buffer
		files := tar.NewWriter(&b)
		err := files.WriteHeader(&tar.Header{Name: "usr/share/nginx/html/plugins/" + m[0] + "/plugin.wasm", Mode: 0o644, Size: int64(len(content))})
		if err == nil {
			_, err = files.Write(content)
		}
		if err = errors.Join(err, files.Close()); err != nil {
			w.t.Fatal(err)
		}
		layer, err := oras.PushBytes(w.t.Context(), repo, ocispec.MediaTypeImageLayer, b.Bytes())
		if err != nil {
			w.t.Fatal(err)
		}
		layers = append(layers, layer)
	}
	manifest, err := oras.PackManifest(w.t.Context(), repo, oras.PackManifestVersion1_0, ocispec.MediaTypeImageConfig, oras.PackManifestOptions{Layers: layers})
	if err != nil {
		w.t.Fatal(err)
	}
	if err := repo.Tag(w.t.Context(), manifest, tag); err != nil {
		w.t.Fatal(err)
	}
	return "oci://" + repo.Reference.Registry + "/" + repo.Reference.Repository + ":" + tag, manifest.Digest.String()
}

// holds says whether an entry has a module that was made of content.
func holds(content string) func(catalog.Entry) bool {
	return func(e catalog.Entry) bool { return e.SHA256 == sha(module(content)) && e.RetainedUntil == "" }
}

// TestServerImage: a plugin server's image is a source. Its tag is held as any
// other; when it is followed, plugins come, change and go with the image.
func TestServerImage(t *testing.T) {
	w := newWorld(t, 0)
	url, digest := w.pushServerImage("plugin-server", "2.2.4", [2]string{"key-auth/1.0.0", "auth"}, [2]string{"waf/1.0.0", "waf"}, [2]string{"BAD/1", "x"})
	source := w.source("image")
	source.Spec.PluginsFrom = []v1alpha1.PluginList{{Image: url, AliasVersions: []string{"latest"}}}
	server := w.server(name)
	w.create(source)
	w.create(server)
	o := w.start()
	w.awaitEntry(name, "key-auth", "1.0.0", "served", holds("auth"))
	w.awaitEntry(name, "waf", "latest", "served under its alias, from the image", func(e catalog.Entry) bool {
		return holds("waf")(e) && e.Digest == digest && e.Source == url
	})
	w.event(source, "LeftOut", "BAD/1")
	w.replicas.rollOut(server)
	w.settled(source, server)

	_, moved := w.pushServerImage("plugin-server", "2.2.4", [2]string{"key-auth/1.0.0", "auth"}, [2]string{"waf/1.0.0", "new waf"}, [2]string{"cors/1.0.0", "cors"})
	w.lookAgain(source, "1")
	w.awaitCondition(source, "TagMoved", yes, "TagsMoved", digest, moved)
	w.awaitEntry(name, "waf", "1.0.0", "still the old one", holds("waf"))
	// The store is lost: the modules come back by the recorded digest, by one reading of the image.
	o.end()
	w.storeDir = t.TempDir()
	o = w.start()
	w.eventually("all is handed out again", func(ctx context.Context) error {
		for _, content := range []string{"auth", "waf"} {
			if got, err := ask(ctx, o.url+"/blobs/sha256/"+sha(module(content)), 1<<20); err != nil || !bytes.Equal(got, module(content)) {
				return errors.Join(err, wrong(true))
			}
		}
		return nil
	})
	w.awaitEntry(name, "waf", "1.0.0", "still the old one", holds("waf"))

	edit(w, source, func(s *v1alpha1.PluginSource) { s.Spec.UpdatePolicy = v1alpha1.UpdateAuto })
	w.awaitEntry(name, "waf", "1.0.0", "the new one", holds("new waf"))
	w.awaitEntry(name, "cors", "1.0.0", "came with it", holds("cors"))
	w.eventuallyNot(source, "TagMoved")
	w.settled(source, server)

	// Another image by another tag, which cannot be read: what was there counts on.
	edit(w, source, func(s *v1alpha1.PluginSource) { s.Spec.PluginsFrom[0].Image = url + "-absent" })
	w.awaitCondition(source, "Fetched", no, "NotFound", "absent")
	w.awaitEntry(name, "waf", "1.0.0", "as before", holds("new waf"))
	other, _ := w.pushServerImage("plugin-server", "2.2.4-absent", [2]string{"waf/1.0.0", "third waf"})
	w.lookAgain(source, "2")
	w.awaitEntry(name, "waf", "1.0.0", "of "+other, holds("third waf"))
	w.awaitEntry(name, "cors", "1.0.0", "retained", func(e catalog.Entry) bool { return e.RetainedUntil != "" })
	w.settled(source, server)
}

// TestPublishedList: a list in a registry and one on a file server. They are
// read again, and what they declared counts on when they cannot be.
func TestPublishedList(t *testing.T) {
	w := newWorld(t, 0)
	one, two := w.push("one", "1", module("one")), w.push("two", "1", module("two"))
	inRegistry := w.push("list", "1", []byte("one="+one.url+"\n"), "text/plain")
	w.registry.fail("/"+w.namespace+"/plugins.properties", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "two="+two.url+"\n")
	})
	source := w.source("lists")
	file := w.registry.URL + "/" + w.namespace + "/plugins.properties"
	source.Spec.PluginsFrom = []v1alpha1.PluginList{{URL: inRegistry.url}, {URL: file}}
	server := w.server(name)
	w.create(source)
	w.create(server)
	o := w.start()
	w.awaitEntry(name, "one", "1", "by the list in the registry", is(one))
	w.awaitEntry(name, "two", "1.0.0", "by the list on the file server", is(two))
	w.replicas.rollOut(server)
	w.settled(source, server)

	w.push("list", "1", []byte("one="+one.url+"\nthree="+two.url+"\n"), "text/plain")
	w.registry.fail("/"+w.namespace+"/plugins.properties", http.NotFound)
	w.lookAgain(source, "1")
	w.awaitEntry(name, "three", "1", "by the new list", is(two))
	w.awaitCondition(source, "Warned", yes, "WorthALook", "plugins.properties", "what it declared last counts on")
	w.push("list", "1", []byte("<html>"), "text/plain")
	w.lookAgain(source, "2")
	w.awaitCondition(source, "Warned", yes, "WorthALook", "line 1 is not NAME=")
	o.end()
	w.start()
	w.awaitCondition(source, "Warned", yes, "WorthALook", "line 1 is not NAME=")
	for _, key := range []string{"one", "two", "three"} {
		w.awaitEntry(name, key, "1.0.0", "as before", func(e catalog.Entry) bool { return e.SHA256 != "" && e.RetainedUntil == "" })
	}
	w.settled(source, server)

	edit(w, source, func(s *v1alpha1.PluginSource) {
		s.Spec.PluginsFrom[1] = v1alpha1.PluginList{URL: file, SHA256: sha([]byte("another list"))}
	})
	w.registry.fail("/"+w.namespace+"/plugins.properties", func(rw http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(rw, "two="+two.url+"\n")
	})
	w.lookAgain(source, "3")
	w.awaitCondition(source, "Warned", yes, "WorthALook", "expected is")
}
