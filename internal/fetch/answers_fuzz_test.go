package fetch

import (
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"testing"
	"unicode"

	"github.com/opencontainers/go-digest"
)

// FuzzManifest: an index and a manifest are whatever a registry sends.
// Run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzManifest(f *testing.F) {
	of := func(content string) string { return digest.FromString(content).String() }
	index := `{"manifests":[{"digest":"` + of("a") + `","platform":{"os":"unknown","architecture":"unknown"},"annotations":{"` + attestationKey + `":"attestation-manifest"}},{"digest":"` + of("b") + `","platform":{"os":"linux","architecture":"amd64"}}]}`
	manifest := `{"config":{"mediaType":"x"},"layers":[{"mediaType":"` + wasmType + `","digest":"` + of("c") + `","size":9},{"mediaType":"a/b;c=\u202e","size":-1}],"annotations":{"org.opencontainers.image.description":"a\nb"}}`
	for _, seed := range [][2]string{{index, manifest}, {"{}", "{}"}, {"[]", "null"}, {`{"manifests":[{},{"digest":"sha256:"}]}`, `{"layers":[null,{}]}`}} {
		f.Add([]byte(seed[0]), []byte(seed[1]))
	}
	f.Fuzz(func(t *testing.T, index, manifest []byte) {
		im := &image{}
		if chosen, err := im.readIndex(index); err == nil && digest.Digest(chosen).Validate() != nil {
			t.Errorf("the index leads to %q", chosen)
		}
		if im.readManifest(manifest) != nil {
			return
		}
		if candidates := im.candidates(); len(candidates) > len(im.manifest.Layers) {
			t.Errorf("%d of %d layers", len(candidates), len(im.manifest.Layers))
		}
		if text := im.description(); text != line(text) {
			t.Errorf("%q is no line for people", text)
		}
		if text := im.layerTypes(); len(text) > 300 || strings.ContainsFunc(text, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("%q is nothing for a message", text)
		}
		if checkImageLayers(im.manifest.Layers) == nil {
			for _, l := range im.manifest.Layers {
				if l.Size < 0 || l.Size > maxImageCompressed || l.Digest.Validate() != nil {
					t.Errorf("the layer %v may be fetched", l)
				}
			}
		}
	})
}

var anyRealm = regexp.MustCompile(`(?i)realm[ \t]*=[ \t]*"?([^"]*)`)

// FuzzChallenge: whatever a registry says of its login service, the login goes
// nowhere without TLS that the registry itself is not.
// Run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzChallenge(f *testing.F) {
	for _, seed := range []string{
		`Bearer realm="https://auth.example/token",service="r"`, `Bearer realm="http://auth.example/token"`, `bearer REALM="https://r.example/token"`,
		`Basic realm="x"`, `Bearer realm="https://a\"b"`, `Bearer realm="//x", realm="https://y"`, `Bearer realm="%zz"`, "",
		`Bearer realm="https://r.example/t",realm="http://evil.example/t"`, `Bearer realm = "http://evil.example/t"`, `Bearer realm="\x68ttp://evil.example/t"`,
	} {
		f.Add(seed, true)
		f.Add(seed, false)
	}
	f.Fuzz(func(t *testing.T, challenge string, secure bool) {
		from := &url.URL{Scheme: "http", Host: "r.example"}
		if secure {
			from.Scheme = "https"
		}
		resp := &http.Response{StatusCode: http.StatusUnauthorized, Header: http.Header{"Www-Authenticate": {challenge}}, Request: &http.Request{URL: from}}
		r := &realms{}
		if r.rewrite(resp) != nil {
			return
		}
		for path, realm := range r.byPath {
			if !strings.HasPrefix(path, realmPath) || secure && realm.Scheme != "https" {
				t.Errorf("%q leads to %v by %q", challenge, realm, path)
			}
		}
		now := resp.Header.Get("WWW-Authenticate")
		if !strings.HasPrefix(strings.ToLower(now), "bearer ") {
			return
		}
		for _, found := range anyRealm.FindAllStringSubmatch(now, -1) {
			if realm, err := url.Parse(found[1]); err != nil || origin(realm) != origin(from) {
				t.Errorf("%q has become %q, which leads elsewhere", challenge, now)
			}
		}
	})
}
