package fetch

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"runtime"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

func TestFailuresOfImages(t *testing.T) {
	t.Parallel()
	plain := func(items ...item) layer { return layer{ocispec.MediaTypeImageLayer, layerTar(t, items...), ""} }
	zipped := func(content []byte) layer {
		return layer{ocispec.MediaTypeImageLayerGzip, gzipOf(t, content), ""}
	}
	good := plain(plugin("a/1", "x"))
	whole := zipped(layerTar(t, plugin("b/1", strings.Repeat("y", 1<<10)))).content
	broken := append(append(bytes.Clone(good.content[:len(good.content)-1024]), bytes.Repeat([]byte("x"), 512)...), make([]byte, 1024)...)
	var modules []item
	for i := range maxImageModules + 1 {
		modules = append(modules, text(fmt.Sprintf("%sa/%d/plugin.wasm", root, i), ""))
	}
	linked := []item{plugin("a/1", "x")}
	for i := range maxImageModules {
		linked = append(linked, item{name: fmt.Sprintf("%sb/%d/plugin.wasm", root, i), kind: tar.TypeLink, link: root + "a/1/plugin.wasm"})
	}
	for name, test := range map[string]struct {
		layers []layer
		reason failure.Reason
		says   string
	}{
		"no layers":                    {nil, failure.NoWasmLayer, "it has no /usr/share/nginx/html/plugins/<name>/<version>/plugin.wasm"},
		"another image":                {[]layer{plain(text("etc/passwd", "x"))}, failure.NoWasmLayer, "it has no /usr/share/nginx/html/plugins/<name>/<version>/plugin.wasm"},
		"pointers instead":             {[]layer{plain(text(root+"a/1/plugin.wasm", "version https://git-lfs.github.com/spec/v1\n"))}, failure.NoWasmLayer, "(left out: a:1: this is no Wasm module"},
		"linked away":                  {[]layer{good, plain(item{name: "usr/share/nginx/html", kind: tar.TypeSymlink, link: "/data"})}, failure.NoWasmLayer, "(left out: usr/share/nginx/html: it is a symbolic link"},
		"a file with holes":            {[]layer{zipped(sparseTar(t))}, failure.NoWasmLayer, "it has no"},
		"a plugin instead":             {[]layer{{wasmType, wasm("x"), ""}}, failure.NoWasmLayer, "a layer is no tar archive"},
		"a small text":                 {[]layer{{"text/plain", []byte("hello"), ""}}, failure.NoWasmLayer, "a layer is no tar archive"},
		"too many layers":              {slices.Repeat([]layer{good}, 65), failure.UnsupportedArtifact, "it has 65 layers"},
		"a cut gzip":                   {[]layer{{dockerTarType, whole[:len(whole)-4], ""}, good}, failure.Truncated, "ends too early"},
		"a cut tar":                    {[]layer{zipped(good.content[:1024]), good}, failure.Truncated, "ends too early"},
		"a gzip with another checksum": {[]layer{{dockerTarType, append(bytes.Clone(whole[:len(whole)-8]), make([]byte, 8)...), ""}, good}, failure.UnsupportedArtifact, "cannot be read"},
		"a broken header":              {[]layer{zipped(broken), good}, failure.UnsupportedArtifact, "cannot be read"},
		"a bomb":                       {[]layer{zipped(append(layerTar(t, item{name: "zeros", content: make([]byte, 20<<20)}), good.content...)), good}, failure.TooLarge, "a layer that expands"},
		"a bomb after the end":         {[]layer{zipped(append(bytes.Clone(good.content), make([]byte, 20<<20)...)), good}, failure.TooLarge, "a layer that expands"},
		"a bomb as a module":           {[]layer{zipped(layerTar(t, item{name: root + "a/1/plugin.wasm", content: append([]byte("\x00asm\x01\x00\x00\x00\x00\xff\xff\xff\x0a\x00"), make([]byte, 20<<20)...)}))}, failure.TooLarge, "a layer that expands"},
		"a zstd bomb":                  {[]layer{{ocispec.MediaTypeImageLayerZstd, zstdOf(t, layerTar(t, item{name: "zeros", content: make([]byte, 20<<20)})), ""}, good}, failure.TooLarge, "a layer that expands"},
		"too many modules":             {[]layer{plain(modules...)}, failure.UnsupportedArtifact, "more than 1000 modules"},
		"too many modules by links":    {[]layer{plain(linked...)}, failure.UnsupportedArtifact, "more than 1000 modules"},
		"a long path":                  {[]layer{plain(text(strings.Repeat("long/", 900)+"x", "")), good}, failure.UnsupportedArtifact, "more than 4096 bytes"},
		"a long link":                  {[]layer{plain(item{name: "x", kind: tar.TypeSymlink, link: strings.Repeat("l", 4097)}), good}, failure.UnsupportedArtifact, "more than 4096 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			r.push("a/b:1", test.layers...)
			got, err := newFetcher(t, Options{AllowLoopback: true}).FetchImage(t.Context(), r.request("a/b:1"))
			requireFailure(t, err, failure.Upstream, test.reason, test.says)
			if gocmp.Diff(Image{}, got) != "" {
				t.Errorf("got %v", got)
			}
		})
	}
}

// What a layer is not according to its digest never counts, also when its modules are in the store already.
func TestFetchImageVerifies(t *testing.T) {
	t.Parallel()
	below, above := layerTar(t, plugin("a/1", "x")), layerTar(t, plugin("b/1", "y"))
	changed := bytes.Clone(below)
	changed[len(changed)-1] = 'x' // after the end of the archive
	for name, test := range map[string]struct {
		body   []byte
		class  failure.Class
		reason failure.Reason
		says   string
	}{
		"other bytes at the end":          {changed, failure.Upstream, failure.DigestMismatch, "other bytes for layer"},
		"cut after the archive's end":     {below[:len(below)-512], failure.Upstream, failure.Truncated, "another length"},
		"cut in the module":               {below[:1024], failure.Upstream, failure.Truncated, "another length"},
		"a tar with a module in addition": {layerTar(t, plugin("a/1", "z")), failure.Upstream, failure.DigestMismatch, "other bytes for layer"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, s := newRegistry(t), newStore(t)
			r.push("a/b:1", layer{ocispec.MediaTypeImageLayer, below, ""}, layer{ocispec.MediaTypeImageLayer, above, ""})
			serve(r, digest.FromBytes(below), int64(len(test.body)), func() io.Reader { return bytes.NewReader(test.body) })
			got, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).FetchImage(t.Context(), r.request("a/b:1"))
			requireFailure(t, err, test.class, test.reason, test.says)
			if gocmp.Diff(Image{}, got) != "" {
				t.Errorf("got %v", got)
			}
			if _, found := s.Stat(sum(wasm("y"))); !found {
				t.Error("the layer above was not read")
			}
		})
	}
	r := newRegistry(t)
	r.push("a/b:1", layer{ocispec.MediaTypeImageLayer, below, ""})
	full, err := store.Open(t.TempDir(), 100)
	if err != nil {
		t.Fatal(err)
	}
	_, err = newFetcher(t, Options{Store: full, AllowLoopback: true}).FetchImage(t.Context(), r.request("a/b:1"))
	requireFailure(t, err, failure.Transient, failure.StoreFull, "store is full")
	signed := r.request("a/b:1")
	signed.Access.PublicKeys = []byte("none")
	if got, err := newFetcher(t, Options{AllowLoopback: true}).FetchImage(t.Context(), signed); err == nil || len(got.Modules) > 0 {
		t.Errorf("an image that should be signed gives %v, %v", got, err)
	}
}

// unverified is a layer whose digest is taken as right.
type unverified struct{ io.Reader }

func (unverified) Verify() error { return nil }

func readLayer(r *imageReader, content []byte) error {
	return r.read(context.Background(), func() (io.Closer, verifier, error) {
		return io.NopCloser(nil), unverified{bytes.NewReader(content)}, nil
	})
}

// putNowhere names a module by what it is.
func putNowhere(_ context.Context, module io.Reader, _ string) (store.Blob, error) {
	b, err := io.ReadAll(module)
	if err == nil && !bytes.HasPrefix(b, []byte("\x00asm")) {
		err = failure.New(failure.Upstream, failure.NotWasm, nil, "this is no Wasm module")
	}
	return store.Blob{SHA256: sum(b), Size: int64(len(b))}, err
}

// endless is a tar of these items without an end.
func endless(t *testing.T, items ...item) io.Reader {
	block := layerTar(t, items...)
	block = block[:len(block)-1024]
	at := 0
	return readerFunc(func(p []byte) (int, error) {
		n := copy(p, block[at:])
		at = (at + n) % len(block)
		return n, nil
	})
}

func TestLimitsOfImages(t *testing.T) {
	t.Parallel()
	var files, whiteouts []item
	for i := range 2000 {
		files = append(files, text(fmt.Sprint(root, strings.Repeat("x", 900), i), ""))
		whiteouts = append(whiteouts, whiteoutOf(fmt.Sprint(root, ".wh.", strings.Repeat("x", 900), i)))
	}
	for name, test := range map[string]struct {
		items   []item
		allowed spent
		reason  failure.Reason
		says    string
	}{
		"too many entries":          {slices.Repeat([]item{text("usr/x", "")}, 1000), spent{1 << 40, 0, 0}, failure.UnsupportedArtifact, "more than 200000 files"},
		"too many files of plugins": {files, spent{1 << 40, 1 << 20, 0}, failure.UnsupportedArtifact, "too many files in /usr/share"},
		"too many whiteouts":        {whiteouts, spent{1 << 40, 1 << 20, 0}, failure.UnsupportedArtifact, "too many files in /usr/share"},
		"too large together":        {[]item{text("usr/x", "")}, spent{1 << 20, 0, 0}, failure.TooLarge, "expand to more than 1 MiB together"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newImageReader(putNowhere)
			r.allowance = test.allowed
			l := &imageLayer{reader: r, tree: &node{}, wanted: map[string]bool{}}
			err := l.walk(t.Context(), &meter{endless(t, test.items...), l})
			requireFailure(t, err, failure.Upstream, test.reason, test.says)
			if l.spent.memory > 1<<20+4096 {
				t.Errorf("%d bytes are kept", l.spent.memory)
			}
		})
	}
	r := newImageReader(putNowhere)
	if err := readLayer(r, layerTar(t, slices.Repeat([]item{plugin("A/1", "x"), text(root+"x/plugin.wasm", "")}, 150)...)); err != nil {
		t.Fatal(err)
	}
	var others []item
	for i := range 150 {
		others = append(others, plugin(fmt.Sprint("B/", i), "x"))
	}
	if err := readLayer(r, layerTar(t, others...)); err != nil {
		t.Fatal(err)
	}
	if skipped := r.image(store.Artifact{}).Skipped; len(skipped) != maxSkipped+1 || skipped[maxSkipped] != "and 52 more" {
		t.Errorf("%d lines, the last is %q", len(skipped), skipped[len(skipped)-1])
	}
}

// A large base layer passes by without staying in memory.
func TestFetchImageMemory(t *testing.T) {
	const size = 256 << 20
	r, s := newRegistry(t), newStore(t)
	module := gzipOf(t, layerTar(t, plugin("a/1", "x")))
	most := uint64(0)
	base := func() io.Reader {
		block, i := bytes.Repeat([]byte("some library; "), 4096), 0
		return readerFunc(func(p []byte) (int, error) {
			if i++; i%1024 == 0 {
				var m runtime.MemStats
				runtime.GC()
				runtime.ReadMemStats(&m)
				most = max(most, m.HeapAlloc)
			}
			return copy(p, block), nil
		})
	}
	stream := func(w io.Writer) {
		archive := tar.NewWriter(w)
		_ = archive.WriteHeader(&tar.Header{Name: "usr/lib/large", Mode: 0o644, Size: size, Typeflag: tar.TypeReg})
		_, _ = io.CopyN(archive, base(), size)
		_ = archive.Close()
	}
	for name, content := range map[string]func(io.Writer){
		"plain": stream,
		"gzip": func(w io.Writer) {
			z, _ := gzip.NewWriterLevel(w, gzip.NoCompression)
			stream(z)
			_ = z.Close()
		},
	} {
		hashed, length := digest.SHA256.Digester(), &counter{}
		content(io.MultiWriter(hashed.Hash(), length))
		layers := []ocispec.Descriptor{
			{MediaType: ocispec.MediaTypeImageLayer, Digest: hashed.Digest(), Size: length.n},
			r.blob("server", ocispec.MediaTypeImageLayerGzip, module),
		}
		r.manifest("server", name, ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Layers: layers,
			Config: r.blob("server", ocispec.MediaTypeImageConfig, []byte("{}")),
		})
		serve(r, hashed.Digest(), length.n, func() io.Reader {
			pr, pw := io.Pipe()
			go func() { content(pw); _ = pw.Close() }()
			return pr
		})
		var before runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		most = 0
		got, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).FetchImage(t.Context(), r.request("server:"+name))
		if err != nil {
			t.Fatal(err)
		}
		requireModules(t, s, got, map[string]string{"a:1": "x"})
		if most == 0 || most > before.HeapAlloc+8<<20 {
			t.Errorf("%s: the heap grew from %d to %d KiB", name, before.HeapAlloc>>10, most>>10)
		}
	}
}

type readerFunc func([]byte) (int, error)

func (f readerFunc) Read(p []byte) (int, error) { return f(p) }

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) { c.n += int64(len(p)); return len(p), nil }
