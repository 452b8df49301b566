package fetch

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	orascontent "oras.land/oras-go/v2/content"

	"github.com/higress-group/plugin-server-operator/internal/store"
)

// requireModule checks that the store has the module of an artifact.
func requireModule(t *testing.T, s *store.Store, got store.Artifact, want []byte) {
	t.Helper()
	if got.SHA256 != sum(want) || got.Size != int64(len(want)) {
		t.Fatalf("got the module %s of %d bytes, want %s of %d", got.SHA256, got.Size, sum(want), len(want))
	}
	f, err := s.Open(got.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if b, err := io.ReadAll(f); err != nil || !bytes.Equal(b, want) {
		t.Errorf("the store has %d other bytes, %v", len(b), err)
	}
	if recorded, found := s.Artifact(got.Digest, ""); !found || recorded != got {
		t.Errorf("the store has the artifact %v, %t; want %v", recorded, found, got)
	}
}

func TestFetchShapes(t *testing.T) {
	t.Parallel()
	module, other := wasm("right"), wasm("other")
	readme := layer{mediaType: wasmDocType, content: []byte("# How to use it")}
	for name, layers := range map[string][]layer{
		"one raw layer":                           {{wasmType, module, ""}},
		"raw, as wasm-to-oci has it":              {{"application/vnd.wasm.content.layer.v1+wasm", module, ""}},
		"raw, as the CNCF has it":                 {{"application/wasm", module, ""}},
		"raw, with parameters in its type":        {{"application/wasm; charset=binary", module, ""}},
		"C++ plugins":                             {{"application/vnd.module.wasm.config.v1+json", []byte("{}"), ""}, {wasmType, module, ""}},
		"raw before a tar":                        {{wasmType, module, ""}, {dockerTarType, gzipOf(t, tarOf(t, file{"plugin.wasm", other})), ""}},
		"official and hgctl":                      {readme, {"application/vnd.module.wasm.spec.v1+yaml", []byte("a: b"), ""}, {wasmTarType, gzipOf(t, tarOf(t, file{"plugin.wasm", module})), ""}},
		"the module not last":                     {{wasmTarType, gzipOf(t, tarOf(t, file{"plugin.wasm", module})), ""}, readme},
		"docker build, several layers":            {{dockerTarType, gzipOf(t, tarOf(t, file{"plugin.wasm", other})), ""}, {dockerTarType, gzipOf(t, tarOf(t, file{"plugin.wasm", module})), ""}},
		"docker build, the last without":          {{dockerTarType, gzipOf(t, tarOf(t, file{"plugin.wasm", module})), ""}, {dockerTarType, gzipOf(t, tarOf(t, file{"main.go", other})), ""}},
		"tar without compression":                 {{ocispec.MediaTypeImageLayer, tarOf(t, file{"plugin.wasm", module}), ""}},
		"tar that says gzip and is not":           {{wasmTarType, tarOf(t, file{"plugin.wasm", module}), ""}},
		"gzip that says tar and is not":           {{ocispec.MediaTypeImageLayer, gzipOf(t, tarOf(t, file{"plugin.wasm", module})), ""}},
		"in a directory":                          {{wasmTarType, gzipOf(t, tarOf(t, file{"opt/", nil}, file{"opt/plugin.wasm", module})), ""}},
		"with a dot in front":                     {{wasmTarType, gzipOf(t, tarOf(t, file{"./plugin.wasm", module})), ""}},
		"of another name":                         {{wasmTarType, gzipOf(t, tarOf(t, file{"README.md", other}, file{"main.wasm", module})), ""}},
		"plugin.wasm before another":              {{wasmTarType, gzipOf(t, tarOf(t, file{"plugin.wasm", module}, file{"z.wasm", other})), ""}},
		"plugin.wasm after another":               {{wasmTarType, gzipOf(t, tarOf(t, file{"a.wasm", other}, file{"plugin.wasm", module})), ""}},
		"plugin.wasm after two others":            {{wasmTarType, gzipOf(t, tarOf(t, file{"a.wasm", other}, file{"b.wasm", other}, file{"plugin.wasm", module})), ""}},
		"plugin.wasm after one that is no module": {{wasmTarType, gzipOf(t, tarOf(t, file{"a.wasm", []byte("not a module")}, file{"plugin.wasm", module})), ""}},
		"beside what macOS adds":                  {{wasmTarType, gzipOf(t, tarOf(t, file{"._main.wasm", other}, file{"main.wasm", module})), ""}},
		"oras push without a type":                {{ocispec.MediaTypeImageLayer, module, "plugin.wasm"}},
		"oras push beside a text":                 {{ocispec.MediaTypeImageLayer, module, "plugin.wasm"}, {ocispec.MediaTypeImageLayer, []byte("text"), "README.md"}},
		"a raw layer that is gzipped":             {{wasmType, gzipOf(t, module), ""}},
		"an unknown type":                         {{"application/octet-stream", module, ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, s := newRegistry(t), newStore(t)
			digest := r.push("a/b:1", layers...)
			got, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).Fetch(t.Context(), r.request("a/b:1"))
			if err != nil {
				t.Fatal(err)
			}
			requireModule(t, s, got, module)
			if got.Digest != digest {
				t.Errorf("the digest is %s, want %s", got.Digest, digest)
			}
		})
	}
}

func TestFetchFromDockerSchema2(t *testing.T) {
	t.Parallel()
	r, s := newRegistry(t), newStore(t)
	m := r.image("a/b", layer{dockerTarType, gzipOf(t, tarOf(t, file{"plugin.wasm", wasm("x")})), ""})
	m.MediaType = dockerManifestType
	m.Config = r.blob("a/b", dockerConfigType, []byte(`{"created":"2026-01-02T03:04:05.5+01:00","os":"linux"}`))
	r.manifest("a/b", "1", dockerManifestType, m)
	got, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).Fetch(t.Context(), r.request("a/b:1"))
	if err != nil {
		t.Fatal(err)
	}
	requireModule(t, s, got, wasm("x"))
	if want := time.Date(2026, 1, 2, 2, 4, 5, 5e8, time.UTC); !got.Created.Equal(want) {
		t.Errorf("created at %s, want %s", got.Created, want)
	}
}

func TestFetchMetadata(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	m := r.image("a/b", layer{wasmType, wasm("x"), ""})
	m.Annotations = map[string]string{
		ocispec.AnnotationCreated:     "2026-01-02T03:04:05Z",
		ocispec.AnnotationDescription: " Checks\nkeys\x00\u202e, " + strings.Repeat("ö", 600),
	}
	r.manifest("a/b", "1", m.MediaType, m)
	got, err := newFetcher(t, Options{AllowLoopback: true}).Fetch(t.Context(), r.request("a/b:1"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "Checks keys , " + strings.Repeat("ö", 498); got.Description != want {
		t.Errorf("the description is %q, want %q", got.Description, want)
	}
	if want := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC); !got.Created.Equal(want) {
		t.Errorf("created at %s, want %s", got.Created, want)
	}
}

func TestFetchFromIndex(t *testing.T) {
	t.Parallel()
	module := wasm("right")
	platform := func(d ocispec.Descriptor, os, arch string) ocispec.Descriptor {
		d.Platform = &ocispec.Platform{OS: os, Architecture: arch}
		return d
	}
	for name, build := range map[string]func(right, wrong ocispec.Descriptor) []ocispec.Descriptor{
		"linux/amd64 first": func(right, wrong ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{platform(wrong, "linux", "arm64"), platform(right, "linux", "amd64")}
		},
		"else the first": func(right, wrong ocispec.Descriptor) []ocispec.Descriptor {
			return []ocispec.Descriptor{platform(right, "linux", "arm64"), platform(wrong, "linux", "riscv64")}
		},
		"without a platform": func(right, _ ocispec.Descriptor) []ocispec.Descriptor { return []ocispec.Descriptor{right} },
		"no attestation": func(right, wrong ocispec.Descriptor) []ocispec.Descriptor {
			wrong = platform(wrong, "unknown", "unknown")
			wrong.Annotations = map[string]string{attestationKey: "attestation-manifest"}
			return []ocispec.Descriptor{wrong, platform(right, "linux", "arm64")}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r, s := newRegistry(t), newStore(t)
			image := func(b []byte) ocispec.Descriptor {
				return r.manifest("a/b", "", ocispec.MediaTypeImageManifest, r.image("a/b", layer{wasmType, b, ""}))
			}
			index := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: build(image(module), image(wasm("wrong")))}
			index.SchemaVersion = 2
			desc := r.manifest("a/b", "1", ocispec.MediaTypeImageIndex, index)
			got, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).Fetch(t.Context(), r.request("a/b:1"))
			if err != nil {
				t.Fatal(err)
			}
			requireModule(t, s, got, module)
			if got.Digest != desc.Digest.String() {
				t.Errorf("the digest is %s, want that of the index, %s", got.Digest, desc.Digest)
			}
		})
	}
}

func TestDigestsAndTags(t *testing.T) {
	t.Parallel()
	r, s := newRegistry(t), newStore(t)
	f := newFetcher(t, Options{Store: s, AllowLoopback: true})
	old := r.push("a/b:1", layer{wasmType, wasm("old"), ""})
	moved := r.push("a/b:1", layer{wasmType, wasm("new"), ""})

	for name, test := range map[string]struct {
		request          Request
		digest, resolved string
		module           []byte
	}{
		"the tag":                          {r.request("a/b:1"), moved, moved, wasm("new")},
		"a recorded digest beats the tag":  {Request{URL: r.url("a/b:1"), Digest: old, Access: Access{CA: r.ca()}}, old, moved, wasm("old")},
		"a digest in the URL":              {r.request("a/b@" + old), old, old, wasm("old")},
		"a digest beside a tag in the URL": {r.request("a/b:1@" + old), old, old, wasm("old")},
		"the URL's beats the recorded one": {Request{URL: r.url("a/b@" + old), Digest: moved, Access: Access{CA: r.ca()}}, old, old, wasm("old")},
		"the right module is expected":     {Request{URL: r.url("a/b:1"), SHA256: sum(wasm("new")), Access: Access{CA: r.ca()}}, moved, moved, wasm("new")},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := f.Fetch(t.Context(), test.request)
			if err != nil {
				t.Fatal(err)
			}
			requireModule(t, s, got, test.module)
			resolved, err := f.Resolve(t.Context(), test.request)
			if diff := cmp.Diff([]string{test.digest, test.resolved}, []string{got.Digest, resolved}); err != nil || diff != "" {
				t.Errorf("unexpected digests, %v (-want +got):\n%s", err, diff)
			}
		})
	}
}

func TestFetchByPlainHTTP(t *testing.T) {
	t.Parallel()
	r, s := unstartedRegistry(t), newStore(t)
	r.server.Start()
	r.push("a:1", layer{wasmType, wasm("x"), ""})
	got, err := newFetcher(t, Options{Store: s, AllowLoopback: true}).Fetch(t.Context(), Request{URL: r.url("a:1"), Access: Access{PlainHTTP: true}})
	if err != nil {
		t.Fatal(err)
	}
	requireModule(t, s, got, wasm("x"))
}

// What openModule is given comes from anybody: it must neither hang nor take
// memory nor publish what does not match its digest.
// Run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzOpenModule(f *testing.F) {
	whole := gzipOf(f, tarOf(f, file{"a.wasm", wasm("a")}, file{"plugin.wasm", wasm("b")}))
	for _, seed := range [][]byte{
		whole, whole[:len(whole)/2], tarOf(f, file{"dir/", nil}, file{"x.wasm", wasm("x")}), tarOf(f, file{"x", nil})[:700],
		wasm("raw"), gzipOf(f, wasm("raw")), gzipOf(f, []byte("text")), []byte("\x1f\x8b"), {}, append(bytes.Clone(whole), "garbage"...),
	} {
		f.Add(seed, wasmTarType, true)
		f.Add(seed, wasmType, false)
	}
	f.Fuzz(func(t *testing.T, content []byte, mediaType string, honest bool) {
		desc := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
		if !honest {
			desc.Digest = digest.FromString("something else")
		}
		m, err := openModule(container{orascontent.NewVerifyReader(bytes.NewReader(content), desc), desc.Size, likelihood(desc) > 1}, "")
		if err != nil {
			return
		}
		n, err := io.Copy(io.Discard, m)
		if err == nil && !honest {
			t.Errorf("%d bytes were given out of a layer that is not what its digest says", n)
		}
		if n > maxExpanded {
			t.Errorf("%d bytes were given out", n)
		}
		if again := m.end(); err == nil && again != nil {
			t.Errorf("the end is %v after it was nil", again)
		}
	})
}
