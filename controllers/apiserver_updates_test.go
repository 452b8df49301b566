//go:build envtest

package controllers_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"k8s.io/utils/ptr"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// updating is a plugin that is updated again and again.
type updating struct {
	name     string
	source   *v1alpha1.PluginSource
	versions []pushed
	index    map[string]int // of versions, by SHA-256
	newest   atomic.Int64   // announced: the source asks for it
}

// TestUpdates: 100 updates under downloads from three replicas: no byte is of
// anything but an announced version, metadata and module agree within a
// generation, and what is asked for by content is always just that. The operator
// writes a catalog a second at most, so ten plugins are updated at once, each as
// soon as its last update is taken.
func TestUpdates(t *testing.T) {
	const plugins, updates, downloaders = 10, 10, 2
	w := newWorld(t, 0)
	server := w.server(name)
	server.Spec.Replicas = ptr.To(int32(3))
	w.create(server)
	all := make([]*updating, plugins)
	for i := range all {
		all[i] = w.updating(i, updates)
	}
	w.start()
	replicas := runPods(w, server)
	w.awaitTaken(server.Name, all)
	replicas.awaitAll(0)

	stop := make(chan struct{})
	var looks atomic.Int64
	var loading sync.WaitGroup
	end := sync.OnceFunc(func() { close(stop); loading.Wait() })
	t.Cleanup(end)
	var looking []*downloader
	for i := range downloaders * len(replicas.all) {
		d := newDownloader(t, replicas.all[i%len(replicas.all)])
		looking = append(looking, d)
		loading.Go(func() {
			for n := i; ; n++ {
				select {
				case <-stop:
					return
				case <-time.After(5 * time.Millisecond): // the operator shares the processors
				}
				if err := d.look(t.Context(), all[n%plugins], n); t.Context().Err() != nil {
					return // the test has failed
				} else if err != nil {
					t.Errorf("%s of %s: %v", all[n%plugins].name, d.pod.object.Name, err)
					return
				}
				looks.Add(1)
			}
		})
	}
	began := time.Now()
	for done := false; !done; {
		done = w.advance(server.Name, all)
	}
	w.awaitTaken(server.Name, all)
	replicas.awaitAll(0)
	took := time.Since(began)
	end()
	w.requireSuperseded(replicas, all)
	modules, during, dials := map[string]bool{}, 0, int64(0)
	for _, d := range looking {
		dials += d.gateway.dials.Load()
		maps.Copy(modules, d.modules)
		during += d.during
	}
	t.Logf("%d updates in %s; %d looks, of five requests each, over %d connections, %d of them during an update; %d of %d modules were seen at their path",
		plugins*updates, took.Round(time.Millisecond), looks.Load(), dials, during, len(modules), plugins*(updates+1))
}

// updating makes a plugin with a source of its own, and everything that it will
// be updated to.
func (w *world) updating(i, updates int) *updating {
	u := &updating{name: fmt.Sprintf("changing-%d", i), index: map[string]int{}}
	for k := range updates + 1 {
		p := w.push(u.name, fmt.Sprint(k), publishtest.New("", "", 50_000+1000*k, uint64(100*i+k)).Bytes)
		p.url += "@" + p.digest
		u.versions = append(u.versions, p)
		u.index[p.sha256] = k
	}
	u.source = w.source(u.name, u.versions[0].as(u.name, "1"))
	w.create(u.source)
	return u
}

// taken says whether the catalog names the newest version.
func (u *updating) taken(c *catalog.Catalog) bool {
	return slices.ContainsFunc(c.Entries, func(e catalog.Entry) bool {
		return e.Name == u.name && e.SHA256 == u.versions[u.newest.Load()].sha256
	})
}

func (w *world) awaitTaken(server string, all []*updating) {
	w.t.Helper()
	w.eventually("the newest version of each is in the catalog", func(ctx context.Context) error {
		c, err := w.catalog(ctx, server)
		if err != nil {
			return err
		}
		for _, u := range all {
			if !u.taken(c) {
				return errors.New(u.name + " is not")
			}
		}
		return nil
	})
}

// advance updates each plugin whose last update is in the catalog, and says
// whether there is none left to update. It waits until it can do something.
func (w *world) advance(server string, all []*updating) (done bool) {
	w.t.Helper()
	w.eventually("an update is taken", func(ctx context.Context) error {
		c, err := w.catalog(ctx, server)
		if err != nil {
			return err
		}
		left, moved := 0, 0
		for _, u := range all {
			next := u.newest.Load() + 1
			if next == int64(len(u.versions)) {
				continue
			}
			if left++; !u.taken(c) {
				continue
			}
			u.newest.Store(next) // announced before anybody can have it
			edit(w, u.source, func(s *v1alpha1.PluginSource) { s.Spec.Plugins[0].URL = u.versions[next].url })
			moved++
		}
		if done = left == 0; !done && moved == 0 {
			return fmt.Errorf("%d plugins wait for their update", left)
		}
		return nil
	})
	return done
}

// downloader looks at one replica, so that nothing it sees in turn may be older
// than before. Connections are kept alive.
type downloader struct {
	gateway *gateway
	pod     *pod
	seen    map[string]int // the newest version seen, by plugin

	modules map[string]bool // by SHA-256: got by their path
	during  int             // looks during which another version came
}

func newDownloader(t *testing.T, p *pod) *downloader {
	return &downloader{gateway: newGateway(t), pod: p, seen: map[string]int{}, modules: map[string]bool{}}
}

// look asks for metadata, the module, metadata again, and then for content that
// is no longer the newest.
func (d *downloader) look(ctx context.Context, u *updating, n int) error {
	path := "/plugins/" + u.name + "/1/"
	before, err := d.metadata(ctx, u, path)
	if err != nil {
		return err
	}
	module, err := d.get(ctx, path+"plugin.wasm")
	if err != nil {
		return err
	}
	got, err := d.version(u, sha(module.body))
	if err != nil {
		return err
	}
	if tag := module.header.Get("ETag"); tag != `"sha256-`+u.versions[got].sha256+`-gzip"` {
		return fmt.Errorf("version %d came with the ETag %s", got, tag)
	}
	after, err := d.metadata(ctx, u, path)
	if err != nil {
		return err
	}
	if got < before || got > after {
		return fmt.Errorf("version %d of the module between versions %d and %d of its metadata", got, before, after)
	}
	d.modules[u.versions[got].sha256] = true
	if before != after {
		d.during++
	}
	old := u.versions[n%max(1, int(u.newest.Load()))]
	for _, path := range []string{path + "plugin.wasm?sha256=" + old.sha256, "/blobs/sha256/" + old.sha256} {
		if module, err = d.get(ctx, path); err != nil {
			return err
		}
		if sha(module.body) != old.sha256 {
			return fmt.Errorf("%s gave other bytes", path)
		}
	}
	return nil
}

// metadata gives the version that metadata.txt is of, and checks the rest of it.
func (d *downloader) metadata(ctx context.Context, u *updating, path string) (version int, err error) {
	text, err := d.get(ctx, path+"metadata.txt")
	if err != nil {
		return 0, err
	}
	lines := map[string]string{}
	for line := range strings.Lines(string(text.body)) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ": ")
		lines[key] = value
	}
	if version, err = d.version(u, lines["sha256"]); err != nil {
		return 0, err
	}
	p := u.versions[version]
	if size := fmt.Sprint(len(p.module)); lines["size"] != size || lines["digest"] != p.digest || lines["name"] != u.name || lines["version"] != "1" {
		return 0, fmt.Errorf("the metadata of version %d, of %s bytes and digest %s, is\n%s", version, size, p.digest, text.body)
	}
	return version, nil
}

// version says which version a hash is of. It must be announced, and no older
// than what was seen before.
func (d *downloader) version(u *updating, sha256 string) (int, error) {
	version, known := u.index[sha256]
	newest := int(u.newest.Load())
	if !known || version > newest || version < d.seen[u.name] {
		return 0, fmt.Errorf("%q is version %d (known: %t), after %d was seen and %d announced", sha256, version, known, d.seen[u.name], newest)
	}
	d.seen[u.name] = version
	return version, nil
}

func (d *downloader) get(ctx context.Context, path string) (reply, error) {
	r, _, err := d.gateway.attempt(ctx, d.pod.at(path))
	return r, err
}

// requireSuperseded asks every replica for everything that was ever announced,
// by its content, and looks how long the catalog keeps it.
func (w *world) requireSuperseded(replicas *pods, all []*updating) {
	t := w.t
	t.Helper()
	c, err := w.catalog(t.Context(), replicas.server.Name)
	if err != nil {
		t.Fatal(err)
	}
	kept := map[string]string{}
	for _, s := range c.Superseded {
		kept[s.SHA256] = s.RetainedUntil
	}
	soon := catalog.FormatTime(time.Now().Add(23 * time.Hour))
	for _, p := range replicas.all {
		d := newDownloader(t, p)
		for _, u := range all {
			for k, version := range u.versions {
				if until := kept[version.sha256]; until < soon && k < len(u.versions)-1 {
					t.Errorf("version %d of %s is kept until %q", k, u.name, until)
				}
				for _, path := range []string{"/plugins/" + u.name + "/1/plugin.wasm?sha256=", "/blobs/sha256/"} {
					if module, err := d.get(t.Context(), path+version.sha256); err != nil || sha(module.body) != version.sha256 {
						t.Errorf("version %d of %s, by content, of %s: %d bytes, %v", k, u.name, p.object.Name, len(module.body), err)
					}
				}
			}
		}
	}
}
