package hostile

import (
	"net/http"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// manifest is a case about an artifact.
func manifest(name string, reason failure.Reason, says string, a *artifact) Case {
	return Case{Kind: Manifest, Name: "manifest-" + name, Reason: reason, Says: says, artifact: a}
}

// manifests are what cannot be one.
func manifests() []Case {
	unsupported := failure.UnsupportedArtifact
	other := single(wasmType, changed("other"))
	forged := *other
	forged.digest = digest([]byte("forged"))
	nonsense := *other
	nonsense.digest = "sha256:../../../../tmp/hostile"
	of := func(body string) *artifact { return described(manifestType, body) }
	return []Case{
		manifest("no-json", unsupported, "manifest is malformed", of("<html>")),
		manifest("cut", unsupported, "manifest is malformed", of(`{"schemaVersion":2,"layers":[{"mediaType"`)),
		manifest("empty", unsupported, "manifest is malformed", of("")),
		manifest("utf-16", unsupported, "manifest is malformed", of("\xff\xfe{\x00}\x00")),
		manifest("deep", unsupported, "manifest is malformed", of(`{"layers":`+strings.Repeat("[", 100_000))),
		manifest("layers-of-another-kind", unsupported, "manifest is malformed", of(`{"schemaVersion":2,"layers":{"a":1}}`)),
		manifest("size-beyond-numbers", unsupported, "manifest is malformed", layered("["+strings.Replace(layer(wasmType, digest(nil), 1), ":1}", ":1e30}", 1)+"]")),
		manifest("too-large", failure.TooLarge, "its manifest has", of(`{"schemaVersion":2,"config":`+emptyConfig+`,"a":"`+strings.Repeat("a", 5<<20)+`"}`)),
		manifest("page", unsupported, "its media type text/html is no image manifest", described("text/html; charset=utf-8", "<html>")),
		manifest("schema-1", unsupported, "is no image manifest", described("application/vnd.docker.distribution.manifest.v1+prettyjws", `{"schemaVersion":1}`)),
		manifest("terminal-codes-for-type", failure.Unreachable, "did not give a whole HTTP answer", described("application/\x1b[31mowned", "{}")),
		manifest("no-type", failure.RegistryError, "does not follow the distribution specification", described("/", "{}")),
		manifest("forged-digest", failure.DigestMismatch, "gave other bytes", &forged),
		manifest("digest-that-climbs", failure.RegistryError, "does not follow the distribution specification", &nonsense),
	}
}

// layers are manifests whose layers cannot be had.
func layers() []Case {
	unsupported, proper := failure.UnsupportedArtifact, "without a proper size and digest"
	good := layer(wasmType, digest(Good("x")), len(Good("x")))
	with := func(old, new string) *artifact { return layered("["+strings.Replace(good, old, new, 1)+"]", Good("x")) }
	size := `"size":`
	return []Case{
		manifest("no-layers", failure.NoWasmLayer, "it has no layers", layered("[]")),
		manifest("only-documents", failure.NoWasmLayer, "layers: text/markdown", layered(many(layer("text/markdown", digest(nil), 0), 2))),
		manifest("type-of-layer", failure.NoWasmLayer, "layers: application/?[31mowned", layered("["+strings.Replace(good, wasmType, `application/\u001b[31mowned`, 1)+"]")),
		manifest("crowd-of-layers", unsupported, "more than 32", layered(many(good, 33))),
		manifest("layer-without-digest", unsupported, proper, with(digest(Good("x")), "")),
		manifest("digest-of-layer-climbs", unsupported, proper, with(digest(Good("x")), "sha256:../../../../../../tmp/hostile")),
		manifest("digest-of-layer-by-md5", unsupported, proper, with(digest(Good("x")), "md5:d41d8cd98f00b204e9800998ecf8427e")),
		manifest("negative-layer", unsupported, proper, with(size, size+"-")),
		manifest("huge-layer", failure.TooLarge, "a layer of", with(size, size+"10000000000")),
		manifest("layer-elsewhere", failure.NotFound, "(404)", layered("["+strings.Replace(layer(wasmType, digest([]byte("elsewhere")), 9), "}", `,"urls":["https://169.254.169.254/latest","https://{foreign}/x"]}`, 1)+"]")),
	}
}

// indexes are those that lead nowhere.
func indexes() []Case {
	of := func(manifests string, others ...[]byte) *artifact {
		return described(indexType, `{"schemaVersion":2,"mediaType":"`+indexType+`","manifests":`+manifests+`}`, others...)
	}
	none := "its index names no image"
	nested := described(indexType, "{}")
	wrong := of("[" + layer(manifestType, digest([]byte("wrong")), 2) + "]")
	wrong.others[digest([]byte("wrong"))] = []byte("{}")
	return []Case{
		manifest("index-of-nothing", failure.UnsupportedArtifact, none, of("[]")),
		manifest("index-malformed", failure.UnsupportedArtifact, "its index is malformed", of(`"x"`)),
		manifest("index-of-malformed-digests", failure.UnsupportedArtifact, none, of("["+layer(manifestType, "sha256:../../manifests/1", 2)+"]")),
		manifest("index-of-attestations", failure.UnsupportedArtifact, none,
			of("["+strings.Replace(layer(manifestType, digest(nil), 2), "}", `,"platform":{"os":"unknown","architecture":"unknown"}}`, 1)+"]")),
		manifest("index-of-what-is-gone", failure.NotFound, "(404)", of("["+layer(manifestType, digest([]byte("gone")), 2)+"]")),
		manifest("index-of-other-bytes", failure.DigestMismatch, "gave other bytes", wrong),
		{Kind: Manifest, Name: "manifest-index-of-indexes", Reason: failure.UnsupportedArtifact, Says: "is no image manifest",
			artifact: of("["+layer(indexType, nested.digest, 2)+"]", nested.manifest), answer: func(_ *Server, w http.ResponseWriter, r *http.Request) bool {
				if !strings.HasSuffix(r.URL.Path, nested.digest) {
					return false
				}
				w.Header().Set("Content-Type", indexType)
				_, _ = w.Write(nested.manifest)
				return true
			}},
	}
}
