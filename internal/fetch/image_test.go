package fetch

import (
	"archive/tar"
	"bytes"
	"encoding/hex"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// root is where plugins are in an image.
const root = pluginsRoot + "/"

// item is one entry of a tar: a file, unless kind says otherwise.
type item struct {
	name    string
	content []byte
	kind    byte
	link    string
}

func plugin(path, module string) item {
	return item{name: root + path + "/plugin.wasm", content: wasm(module)}
}

func text(name, content string) item { return item{name: name, content: []byte(content)} }

func whiteoutOf(name string) item { return item{name: name} }

func layerTar(t testing.TB, items ...item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		kind := i.kind
		if kind == 0 {
			kind = tar.TypeReg
		}
		h := &tar.Header{Name: i.name, Mode: 0o644, Size: int64(len(i.content)), Typeflag: kind, Linkname: i.link}
		if kind == tar.TypeXGlobalHeader {
			h = &tar.Header{Typeflag: kind, PAXRecords: map[string]string{"comment": "x"}}
		}
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(i.content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// pushImage puts an image of these layers into the registry, each compressed in another way.
func pushImage(t testing.TB, r *testRegistry, name string, layers ...[]byte) string {
	t.Helper()
	var all []layer
	for i, content := range layers {
		l := layer{mediaType: ocispec.MediaTypeImageLayer, content: content}
		switch i % 3 {
		case 0:
			l = layer{mediaType: ocispec.MediaTypeImageLayerGzip, content: gzipOf(t, content)}
		case 1:
			l = layer{mediaType: ocispec.MediaTypeImageLayerZstd, content: zstdOf(t, content)}
		}
		all = append(all, l)
	}
	return r.push(name, all...)
}

// requireModules checks that an image has these modules ("name:version" and the name of the module), in the store and in order.
func requireModules(t *testing.T, s *store.Store, got Image, want map[string]string) {
	t.Helper()
	found := map[string]string{}
	for _, m := range got.Modules {
		f, err := s.OpenGzip(m.SHA256)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		for _, module := range want {
			if m.SHA256 == sum(wasm(module)) && m.Size == int64(len(wasm(module))) {
				found[m.Member] = module
			}
		}
		if _, known := found[m.Member]; !known {
			found[m.Member] = "another module"
		}
	}
	if diff := cmp.Diff(want, found); diff != "" {
		t.Errorf("unexpected modules (-want +got):\n%s", diff)
	}
	if !slices.IsSortedFunc(got.Modules, func(a, b store.Artifact) int { return strings.Compare(a.Member, b.Member) }) {
		t.Errorf("not in order: %v", got.Modules)
	}
}

// imageCases are images whose last layer comes last.
var imageCases = map[string]struct {
	layers  [][]item
	want    map[string]string
	skipped []string // what its lines begin with
}{
	"several layers": {[][]item{
		{text("etc/passwd", "x"), {name: "usr/", kind: tar.TypeDir}, text(root+"index.html", "x")}, {plugin("b/1", "x"), plugin("a/2.0.0", "y")}, {plugin("a/10.0.0", "x")},
	}, map[string]string{"a:10.0.0": "x", "a:2.0.0": "y", "b:1": "x"}, nil},
	"ways to write a path": {[][]item{{
		{name: "./" + root + "a/1/plugin.wasm", content: wasm("x")}, {name: "/" + root + "b//1/./plugin.wasm", content: wasm("y")}, {kind: tar.TypeXGlobalHeader},
	}}, map[string]string{"a:1": "x", "b:1": "y"}, nil},
	"replaced by a later layer":   {[][]item{{plugin("a/1", "old"), plugin("b/1", "b")}, {plugin("a/1", "new")}}, map[string]string{"a:1": "new", "b:1": "b"}, nil},
	"written again in its layer":  {[][]item{{plugin("a/1", "old"), plugin("a/1", "new")}}, map[string]string{"a:1": "new"}, nil},
	"a deleted file":              {[][]item{{plugin("a/1", "x"), plugin("b/1", "y")}, {whiteoutOf(root + "a/1/.wh.plugin.wasm")}}, map[string]string{"b:1": "y"}, nil},
	"a deleted version":           {[][]item{{plugin("a/1", "x"), plugin("a/2", "y")}, {whiteoutOf("./" + root + "a/.wh.1")}}, map[string]string{"a:2": "y"}, nil},
	"all deleted, others written": {[][]item{{plugin("a/1", "x")}, {whiteoutOf("usr/share/nginx/html/.wh.plugins"), plugin("b/1", "y")}}, map[string]string{"b:1": "y"}, nil},
	"a directory above deleted":   {[][]item{{plugin("a/1", "x")}, {whiteoutOf("usr/.wh.share")}, {plugin("b/1", "y")}}, map[string]string{"b:1": "y"}, nil},
	"deleted and written again":   {[][]item{{plugin("a/1", "x")}, {whiteoutOf(root + ".wh.a")}, {plugin("a/2", "y")}, {plugin("a/1", "z")}}, map[string]string{"a:1": "z", "a:2": "y"}, nil},
	"opaque, before and after its own files": {[][]item{{plugin("a/1", "x"), plugin("b/1", "y")}, {plugin("a/2", "p"), whiteoutOf(root + "a/.wh..wh..opq"), plugin("a/3", "q")}},
		map[string]string{"a:2": "p", "a:3": "q", "b:1": "y"}, nil},
	"all of the image opaque":          {[][]item{{plugin("a/1", "x")}, {whiteoutOf(".wh..wh..opq"), plugin("b/1", "y")}}, map[string]string{"b:1": "y"}, nil},
	"what only looks like a whiteout":  {[][]item{{plugin("a/1", "x")}, {whiteoutOf(root + ".wh."), whiteoutOf(root + ".wh..."), whiteoutOf(root + "a/.wh.."), whiteoutOf(root + ".wh..wh.plnk")}}, map[string]string{"a:1": "x"}, nil},
	"a whiteout elsewhere":             {[][]item{{plugin("a/1", "x")}, {whiteoutOf(".wh.plugins"), whiteoutOf("usr/share/nginx/html/.wh.plugin"), whiteoutOf("usr/share/nginx/html/plugins.old/.wh.a")}}, map[string]string{"a:1": "x"}, nil},
	"a directory replaced by a file":   {[][]item{{plugin("a/1", "x"), plugin("b/1", "y")}, {text(root+"a", "x")}}, map[string]string{"b:1": "y"}, nil},
	"a file replaced by a directory":   {[][]item{{plugin("a/1", "x"), plugin("b/1", "y")}, {text(root+"a", "x")}, {{name: root + "a/", kind: tar.TypeDir}, plugin("a/2", "z")}}, map[string]string{"a:2": "z", "b:1": "y"}, nil},
	"the same within one layer":        {[][]item{{plugin("a/1", "x"), plugin("b/1", "y")}, {plugin("a/2", "x"), text(root+"a", "x"), {name: root + "a/", kind: tar.TypeDir}}}, map[string]string{"b:1": "y"}, nil},
	"a directory as the module":        {[][]item{{plugin("a/1", "x"), plugin("b/1", "y")}, {{name: root + "a/1/plugin.wasm/", kind: tar.TypeDir}}}, map[string]string{"b:1": "y"}, []string{"a:1: it is a directory"}},
	"hard links":                       {[][]item{{plugin("a/1", "x"), {name: root + "b/1/plugin.wasm", kind: tar.TypeLink, link: "/" + root + "a/1/plugin.wasm"}}}, map[string]string{"a:1": "x", "b:1": "x"}, nil},
	"a hard link that outlives":        {[][]item{{plugin("a/1", "x"), {name: root + "b/1/plugin.wasm", kind: tar.TypeLink, link: root + "a/1/plugin.wasm"}}, {plugin("a/1", "new")}, {whiteoutOf(root + "a/.wh.1")}}, map[string]string{"b:1": "x"}, nil},
	"a hard link to a file beside":     {[][]item{{text(root+".store/x", string(wasm("x"))), {name: root + "l", kind: tar.TypeLink, link: root + ".store/x"}, {name: root + "b/1/plugin.wasm", kind: tar.TypeLink, link: "./" + root + "l"}}}, map[string]string{"b:1": "x"}, nil},
	"hard links that lead to nothing":  {[][]item{{plugin("a/1", "x")}, {{name: root + "b/1/plugin.wasm", kind: tar.TypeLink, link: root + "a/1/plugin.wasm"}, {name: root + "c/1/plugin.wasm", kind: tar.TypeLink, link: "../x"}, {name: root + "d/1/plugin.wasm", kind: tar.TypeLink, link: root + "d"}}}, map[string]string{"a:1": "x"}, []string{"b:1: it is a hard link", "c:1: it is a hard link", "d:1: it is a hard link"}},
	"a symbolic link as the module":    {[][]item{{plugin("a/1", "x"), plugin("b/1", "y"), {name: root + "c/1/plugin.wasm", kind: tar.TypeSymlink, link: "../../a/1/plugin.wasm"}}, {{name: root + "b/1/plugin.wasm", kind: tar.TypeSymlink, link: "/etc/passwd"}}}, map[string]string{"a:1": "x"}, []string{"b:1: it is a symbolic link", "c:1: it is a symbolic link"}},
	"symbolic links as directories":    {[][]item{{plugin("a/1", "x"), {name: root + "a/latest", kind: tar.TypeSymlink, link: "1"}, {name: root + "b", kind: tar.TypeSymlink, link: "a"}, plugin("b/2", "z")}}, map[string]string{"a:1": "x"}, []string{"a/latest: it is a symbolic link", "b: it is", "b:2: it lies below"}},
	"a link replaced by a directory":   {[][]item{{plugin("a/1", "x"), {name: root + "b", kind: tar.TypeSymlink, link: "a"}}, {plugin("b/2", "z")}}, map[string]string{"a:1": "x", "b:2": "z"}, nil},
	"names that lead upwards":          {[][]item{{plugin("a/1", "x"), text(root+"../../x/plugin.wasm", string(wasm("y"))), text("x/../"+root+"c/1/plugin.wasm", string(wasm("y"))), whiteoutOf(root + "x/../a/.wh.1"), text("../../etc/plugin.wasm", "")}}, map[string]string{"a:1": "x"}, []string{"../../x/plugin.wasm: its path leads upwards", "x/../usr/"}},
	"other paths":                      {[][]item{{plugin("a/1", "x"), plugin("a/"+strings.Repeat("v", 300), "y"), plugin("A/1", "y"), plugin("a", "y"), plugin("a/1/2", "y"), plugin("b/-", "y"), text("plugin.wasm", ""), text("usr/share/nginx/html/a/1/plugin.wasm", ""), text(root+"a/1/other.wasm", "")}}, map[string]string{"a:1": "x"}, []string{"A/1", "a/1/2", "a/plugin.wasm: its path", "a/vvv", "b/-"}},
	"devices":                          {[][]item{{plugin("a/1", "x"), {name: root + "b/1/plugin.wasm", kind: tar.TypeChar}, {name: root + "c/1/plugin.wasm", kind: tar.TypeFifo}, {name: root + "d/1/plugin.wasm", kind: tar.TypeBlock}}}, map[string]string{"a:1": "x"}, []string{"b:1: it is no regular", "c:1: it is no regular", "d:1: it is no regular"}},
	"no modules":                       {[][]item{{plugin("a/1", "x"), text(root+"b/1/plugin.wasm", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), text(root+"c/1/plugin.wasm", "")}}, map[string]string{"a:1": "x"}, []string{"b:1: this is no Wasm module", "c:1: this is no Wasm module: it is empty"}},
	"a module below one that is none":  {[][]item{{plugin("a/1", "x"), plugin("b/1", "y")}, {text(root+"b/1/plugin.wasm", "")}}, map[string]string{"a:1": "x"}, []string{"b:1"}},
	"what was left out is deleted":     {[][]item{{plugin("a/1", "x"), text(root+"b/1/plugin.wasm", ""), plugin("B/1", "y")}, {whiteoutOf(root + ".wh.b"), whiteoutOf(root + ".wh.B")}}, map[string]string{"a:1": "x"}, nil},
	"names that are no text":           {[][]item{{plugin("a/1", "x"), plugin("\x1b[2J\n\xff/1", "y")}}, map[string]string{"a:1": "x"}, []string{"?[2J?"}},
	"an empty layer, and the same one": {[][]item{{plugin("a/1", "x")}, {}, {}, {plugin("b/1", "x")}}, map[string]string{"a:1": "x", "b:1": "x"}, nil},
}

func TestFetchImage(t *testing.T) {
	t.Parallel()
	for name, test := range imageCases {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, s := newRegistry(t), newStore(t)
			var layers [][]byte
			for _, items := range test.layers {
				layers = append(layers, layerTar(t, items...))
			}
			digest := pushImage(t, r, "server:1", layers...)
			got, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).FetchImage(t.Context(), r.request("server:1"))
			if err != nil {
				t.Fatal(err)
			}
			requireModules(t, s, got, test.want)
			if _, found := s.Stat(sum(wasm("old"))); found && len(layers) > 1 {
				t.Error("a module that a later layer replaces was stored")
			}
			if got.Digest != digest {
				t.Errorf("the digest is %s, want %s", got.Digest, digest)
			}
			same := len(got.Skipped) == len(test.skipped)
			for i := 0; same && i < len(got.Skipped); i++ {
				same = strings.HasPrefix(got.Skipped[i], test.skipped[i]) && got.Skipped[i] == line(got.Skipped[i])
			}
			if !same {
				t.Errorf("skipped %q, want %q", got.Skipped, test.skipped)
			}
		})
	}
}

// Where metadata.txt lies does not matter, only what is to be seen of it.
func TestFetchImageMetadata(t *testing.T) {
	t.Parallel()
	about := func(path, description string) item {
		return text(root+path+"/metadata.txt", "name: forged\ncreated: 2024-01-01T08:00:00+08:00\ndescription: "+description+"\n")
	}
	long := about("g/1", strings.Repeat("y", 600)+"\x1b\n"+strings.Repeat("x: y\n", 40<<10))
	r, s := newRegistry(t), newStore(t)
	pushImage(t, r, "server:1", layerTar(t,
		about("c/1", "from below"), plugin("d/1", "x"), about("e/1", "deleted"), plugin("e/1", "x"), about("x/1", "of none"), about("f/1", "old"), plugin("f/1", "x"),
	), layerTar(t,
		about("a/1", "before"), plugin("a/1", "x"), plugin("b/1", "x"), about("b/1", "after"), plugin("c/1", "x"), about("d/1", "from above"),
		whiteoutOf(root+"e/1/.wh.metadata.txt"), about("f/1", "new"), long, plugin("g/1", "x"),
		item{name: root + "h/1/metadata.txt", kind: tar.TypeLink, link: root + "a/1/metadata.txt"}, plugin("h/1", "x"),
		text(root+"i/1/metadata.txt", "created: yesterday\nnothing\n"), plugin("i/1", "x"),
	))
	got, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).FetchImage(t.Context(), r.request("server:1"))
	if err != nil {
		t.Fatal(err)
	}
	blob, _ := s.Stat(sum(wasm("x")))
	created := time.Date(2024, 1, 1, 0, 0, 0, 0, time.UTC)
	var want []store.Artifact
	for i, description := range []string{"before", "after", "from below", "from above", "", "new", strings.Repeat("y", 512), "before", ""} {
		m := store.Artifact{Digest: got.Digest, Member: string(rune('a'+i)) + ":1", Blob: blob, Description: description}
		if description != "" {
			m.Created = created
		}
		want = append(want, m)
	}
	for _, m := range want {
		if recorded, found := s.Artifact(got.Digest, m.Member); !found || recorded != m {
			t.Errorf("%s is recorded as %v", m.Member, recorded)
		}
	}
	if diff := cmp.Diff(want, got.Modules); diff != "" || len(got.Skipped) > 0 {
		t.Errorf("skipped %v, unexpected modules (-want +got):\n%s", got.Skipped, diff)
	}
}

// An index with attestations, as BuildKit pushes it, and Docker's own media types.
func TestFetchImageShapes(t *testing.T) {
	t.Parallel()
	r, s := newRegistry(t), newStore(t)
	f := newFetcher(t, Options{Store: s, AllowLoopback: true})
	content := gzipOf(t, layerTar(t, plugin("a/1", "x")))
	image := r.image("server", layer{ocispec.MediaTypeImageLayerGzip, content, ""})
	amd64 := r.manifest("server", "", image.MediaType, image)
	amd64.Platform = &ocispec.Platform{OS: "linux", Architecture: "amd64"}
	other := r.image("server", layer{"application/vnd.in-toto+json", []byte("{}"), ""})
	attestation := r.manifest("server", "", other.MediaType, other)
	attestation.Platform = &ocispec.Platform{OS: "unknown", Architecture: "unknown"}
	attestation.Annotations = map[string]string{attestationKey: "attestation-manifest"}
	index := r.manifest("server", "index", ocispec.MediaTypeImageIndex, ocispec.Index{
		MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{attestation, amd64},
	})
	docker := r.image("server", layer{dockerTarType, content, ""})
	docker.MediaType = dockerManifestType
	schema2 := r.manifest("server", "docker", dockerManifestType, docker)
	for tag, digest := range map[string]digest.Digest{"index": index.Digest, "docker": schema2.Digest} {
		got, err := f.FetchImage(t.Context(), r.request("server:"+tag))
		if err != nil {
			t.Fatal(err)
		}
		requireModules(t, s, got, map[string]string{"a:1": "x"})
		again := r.request("server:moved")
		again.Digest = digest.String()
		if pinned, err := f.FetchImage(t.Context(), again); err != nil || got.Digest != digest.String() || cmp.Diff(got, pinned) != "" {
			t.Errorf("%s: %v, and by its digest %v, %v", tag, got, pinned, err)
		}
	}
	moved := r.request("elsewhere:index")
	moved.Alternatives = []string{r.url("server:index")}
	if got, err := f.FetchImage(t.Context(), moved); err != nil || got.Digest != index.Digest.String() {
		t.Errorf("at another place: %v, %v", got, err)
	}
	_, err := f.FetchImage(t.Context(), Request{URL: "https://" + r.host() + "/server.tar"})
	requireFailure(t, err, failure.Spec, failure.InvalidReference, "does not begin with oci://")
}

// storeFiles lists what is in a store's directory: what belongs to modules, and what is neither that nor a record.
func storeFiles(t *testing.T, dir string) (modules, others []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		base, extension, _ := strings.Cut(d.Name(), ".")
		_, err = hex.DecodeString(base)
		switch parent := filepath.Dir(path); {
		case err == nil && len(base) == 64 && parent == filepath.Join(dir, "blobs", "sha256"):
			modules = append(modules, d.Name())
		case err == nil && len(base) == 64 && extension == "json" && parent == filepath.Join(dir, "artifacts"):
		default:
			others = append(others, path)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return modules, others
}

// Whatever an image has, only its modules are written, and only into the store.
func TestFetchImageWritesModulesOnly(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", filepath.Join(dir, "tmp"))
	t.Chdir(dir)
	s, err := store.Open(filepath.Join(dir, "store"), 0)
	if err != nil {
		t.Fatal(err)
	}
	r := newRegistry(t)
	f := newFetcher(t, Options{Store: s, AllowLoopback: true})
	for _, test := range imageCases {
		var layers [][]byte
		for _, items := range test.layers {
			layers = append(layers, layerTar(t, items...))
		}
		pushImage(t, r, "server:1", layers...)
		if _, err := f.FetchImage(t.Context(), r.request("server:1")); err != nil {
			t.Fatal(err)
		}
	}
	modules, others := storeFiles(t, filepath.Join(dir, "store"))
	if len(modules) == 0 || len(modules)%3 != 0 || len(others) > 0 {
		t.Errorf("in the store are %v, and %v", modules, others)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 {
		t.Errorf("beside the store is %v, %v", left, err)
	}
}

// serve lets the registry give these bytes for the blob of that digest.
func serve(r *testRegistry, of digest.Digest, size int64, content func() io.Reader) {
	r.front = func(w http.ResponseWriter, req *http.Request) bool {
		if !strings.HasSuffix(req.URL.Path, "/blobs/"+of.String()) {
			return false
		}
		w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
		_, _ = io.Copy(w, content())
		return true
	}
}
