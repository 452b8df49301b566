package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/yaml"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/list"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/reference"
	"github.com/higress-group/plugin-server-operator/internal/serve"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

const (
	localHold = 2 * time.Second // nothing arrives later than at the start
	localSlot = 8               // fetches at once
)

// local is what is served without Kubernetes.
type local struct {
	store  *store.Store
	logger *slog.Logger

	mu      sync.Mutex
	entries map[catalog.Key]catalog.Entry
}

// serveLocal serves PluginSource files, or a folder with
// <name>/<version>/plugin.wasm, under the same URLs as in a cluster.
func serveLocal(ctx context.Context, args []string, logger *slog.Logger) error {
	f := flag.NewFlagSet("local", flag.ContinueOnError)
	listen := f.String("listen", "127.0.0.1:8080", "address of the plugins")
	ops := f.String("ops-listen", "127.0.0.1:8081", "address of health, state and metrics")
	dataDir := f.String("data-dir", "", "where the plugins are kept (default: a temporary folder)")
	loopback := f.Bool("allow-loopback", true, "allow registries on this machine")
	if err := f.Parse(args); err != nil {
		return err
	}
	if f.NArg() == 0 {
		return errors.New("local needs PluginSource files, or a folder of plugins")
	}
	if *dataDir == "" {
		temporary, err := os.MkdirTemp("", "plugin-server-")
		if err != nil {
			return err
		}
		defer os.RemoveAll(temporary)
		*dataDir = temporary
	}
	content, err := store.Open(filepath.Join(*dataDir, "store"), 1<<40)
	if err != nil {
		return err
	}
	l := &local{store: content, logger: logger, entries: map[catalog.Key]catalog.Entry{}}
	fetcher := fetch.New(fetch.Options{Store: content, AllowLoopback: *loopback, UserAgent: "plugin-server/" + version})
	defer fetcher.Close()
	for _, path := range f.Args() {
		if err := l.add(ctx, fetcher, path); err != nil {
			return err
		}
	}
	if err := l.publish(ctx, filepath.Join(*dataDir, "volume")); err != nil {
		return err
	}
	logger.Info("published", "plugins", len(l.entries))
	return listenAndServe(ctx, serve.New(serve.Options{
		DataDir: filepath.Join(*dataDir, "volume"), Hold: localHold, Grace: 10 * time.Second, Logger: logger,
	}), *listen, *ops)
}

// add takes in a folder of plugins, or a file with PluginSources.
func (l *local) add(ctx context.Context, fetcher *fetch.Fetcher, path string) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return l.addFolder(ctx, path)
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	documents := yaml.NewYAMLOrJSONDecoder(file, 4096)
	for {
		var source v1alpha1.PluginSource
		err := documents.Decode(&source)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if source.Kind == "PluginSource" {
			l.addSource(ctx, fetcher, &source)
		}
	}
}

// addSource fetches what a source declares, with the logins of docker login.
// What cannot be had is reported, and the others are served.
func (l *local) addSource(ctx context.Context, fetcher *fetch.Fetcher, source *v1alpha1.PluginSource) {
	access := fetch.Access{PlainHTTP: source.Spec.Insecure}
	if home, err := os.UserHomeDir(); err == nil {
		access.DockerConfig, _ = os.ReadFile(filepath.Join(home, ".docker", "config.json")) // none is anonymous
	}
	if source.Spec.Signature != nil {
		access.PublicKeys = []byte(source.Spec.Signature.PublicKeys)
	}
	lists, images := l.fetchLists(ctx, fetcher, source, access)
	plugins, left := declared.Expand(source, lists)
	if left > 0 {
		l.logger.Error("a source declares too many plugins", "source", source.Name, "left out", left)
	}
	var fetching sync.WaitGroup
	slots := make(chan struct{}, localSlot)
	for _, p := range plugins {
		if p.InImage {
			l.serveAll(p, images[p.List][p.Key.String()])
			continue
		}
		if err := checkKey(p.Key); err != nil { // no API server has looked at it
			l.logger.Error("a plugin cannot be served", "source", source.Name, "error", err)
			continue
		}
		fetching.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			a, err := fetcher.Fetch(ctx, fetch.Request{URL: p.URL, Alternatives: p.Alternatives, SHA256: p.SHA256, Access: access})
			if err != nil {
				l.logger.Error("a plugin cannot be had", "plugin", p.Key.String(), "source", source.Name, "reason", failure.Of(err).Reason, "error", err)
				return
			}
			l.serveAll(p, a)
		})
	}
	fetching.Wait()
}

// fetchLists reads the published lists of a source, and fetches the modules of
// images, which it gives by ListName and member.
func (l *local) fetchLists(
	ctx context.Context, fetcher *fetch.Fetcher, source *v1alpha1.PluginSource, access fetch.Access,
) (lists declared.Lists, images map[string]map[string]store.Artifact) {
	lists = declared.Lists{Plugins: map[string][]list.Plugin{}, Images: map[string][]catalog.Key{}}
	images = map[string]map[string]store.Artifact{}
	for _, from := range source.Spec.PluginsFrom {
		name := declared.ListName(from)
		var err error
		switch {
		case from.Image != "":
			var image fetch.Image
			image, err = fetcher.FetchImage(ctx, fetch.Request{URL: from.Image, Access: access})
			images[name] = map[string]store.Artifact{}
			for _, module := range image.Modules {
				images[name][module.Member] = module
				lists.Images[name] = append(lists.Images[name], catalog.ParseKey(module.Member))
			}
			for _, line := range image.Skipped {
				l.logger.Warn("left out of an image", "image", name, "what", line)
			}
		case from.URL != "":
			var document fetch.Document
			document, err = fetcher.FetchDocument(ctx, fetch.Request{URL: from.URL, SHA256: from.SHA256, Access: access})
			if err == nil {
				lists.Plugins[name], err = list.Parse(document.Content)
			}
		default:
			err = errors.New("there is no cluster here whose ConfigMaps could be read")
		}
		if err != nil {
			l.logger.Error("a list is left out", "list", name, "source", source.Name, "reason", failure.Of(err).Reason, "error", err)
		}
	}
	return lists, images
}

// serveAll serves a module under the plugin's key and its aliases.
func (l *local) serveAll(p declared.Plugin, a store.Artifact) {
	for _, key := range append([]catalog.Key{p.Key}, p.Aliases...) {
		l.serve(key, a, reference.Shown(p.URL), p.Description)
	}
}

// addFolder takes in <name>/<version>/plugin.wasm.
func (l *local) addFolder(ctx context.Context, folder string) error {
	modules, err := fs.Glob(os.DirFS(folder), "*/*/plugin.wasm")
	if err != nil {
		return err
	}
	for _, path := range modules {
		parts := strings.Split(path, "/")
		key := catalog.Key{Name: parts[0], Version: parts[1]}
		if err := l.addModule(ctx, key, filepath.Join(folder, path)); err != nil {
			l.logger.Error("a module cannot be served", "file", path, "error", err)
		}
	}
	return nil
}

func (l *local) addModule(ctx context.Context, key catalog.Key, path string) error {
	if err := checkKey(key); err != nil {
		return err
	}
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	blob, err := l.store.Put(ctx, file, "")
	if err != nil {
		return err
	}
	created, description := readMetadata(filepath.Join(filepath.Dir(path), "metadata.txt"))
	l.serve(key, store.Artifact{Blob: blob, Created: created, Description: description}, "", "")
	return nil
}

func checkKey(key catalog.Key) error {
	if !catalog.NamePattern.MatchString(key.Name) || !catalog.VersionPattern.MatchString(key.Version) {
		return fmt.Errorf("%q and %q are no name and version of a plugin: lower case letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", key.Name, key.Version)
	}
	return nil
}

// readMetadata takes from an existing metadata.txt what the module itself does
// not say.
func readMetadata(path string) (created time.Time, description string) {
	file, err := os.Open(path)
	if err != nil {
		return created, description
	}
	defer file.Close()
	return publish.ParseMetadata(file)
}

func (l *local) serve(key catalog.Key, a store.Artifact, source, description string) {
	e := catalog.Entry{
		Name: key.Name, Version: key.Version, SHA256: a.SHA256, MD5: a.MD5, Size: a.Size,
		Digest: a.Digest, Source: source, Description: a.Description,
	}
	if description != "" {
		e.Description = description
	}
	if !a.Created.IsZero() {
		e.Created = catalog.FormatTime(a.Created)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if _, taken := l.entries[key]; !taken {
		l.entries[key] = e
	}
}

// publish puts everything on a volume, as sync does in a cluster.
func (l *local) publish(ctx context.Context, dir string) error {
	volume, err := publish.Open(dir, 0)
	if err != nil {
		return err
	}
	c := &catalog.Catalog{Sequence: time.Now().UnixMilli()}
	for _, e := range l.entries {
		if err := l.copy(ctx, volume, e); err != nil {
			return errors.Join(err, volume.Close())
		}
		c.Entries = append(c.Entries, e)
	}
	_, err = volume.Publish(ctx, c)
	return errors.Join(err, volume.Close())
}

func (l *local) copy(ctx context.Context, volume *publish.Volume, e catalog.Entry) error {
	zipped, err := l.store.OpenGzip(e.SHA256)
	if err != nil {
		return err
	}
	defer zipped.Close()
	return volume.PutGzip(ctx, e.SHA256, e.Size, zipped)
}
