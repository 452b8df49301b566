package fetch

import (
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/list"
)

const properties = "key-auth=oci://h.example/plugins/key-auth:1.0.0\n"

func TestFetchDocument(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("#", list.MaxSize+1)
	for name, c := range map[string]struct {
		layers []string
		sha256 string
		reason failure.Reason
	}{
		"a list":               {layers: []string{properties}},
		"by its hash":          {layers: []string{properties}, sha256: hexSum([]byte(properties))},
		"of another hash":      {layers: []string{properties}, sha256: hexSum(nil), reason: failure.DigestMismatch},
		"no layer":             {reason: failure.UnsupportedArtifact},
		"two layers":           {layers: []string{properties, "more"}, reason: failure.UnsupportedArtifact},
		"one byte too long":    {layers: []string{long}, reason: failure.InvalidList},
		"as long as it may be": {layers: []string{long[1:]}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRegistry(t)
			var layers []layer
			for _, l := range c.layers {
				layers = append(layers, layer{mediaType: ocispec.MediaTypeImageLayer, content: []byte(l)})
			}
			digest := r.push("list:1", layers...)
			request := r.request("list:1")
			request.SHA256 = c.sha256
			got, err := newFetcher(t, Options{AllowLoopback: true}).FetchDocument(t.Context(), request)
			requireDocument(t, got, err, strings.Join(c.layers, ""), digest, c.reason)
			if len(c.layers) != 1 {
				return
			}
			request = newFileServer(t, []byte(c.layers[0])).request("/plugins.properties")
			request.SHA256 = c.sha256
			got, err = newFetcher(t, Options{AllowLoopback: true}).FetchDocument(t.Context(), request)
			requireDocument(t, got, err, c.layers[0], "sha256:"+hexSum([]byte(c.layers[0])), c.reason)
		})
	}
}

func requireDocument(t *testing.T, got Document, err error, content, digest string, reason failure.Reason) {
	t.Helper()
	switch {
	case reason != "" && (err == nil || failure.Of(err).Reason != reason):
		t.Errorf("%v, want %s", err, reason)
	case reason == "" && (err != nil || string(got.Content) != content || got.Digest != digest):
		t.Errorf("%v: %d bytes of %s, want %d of %s", err, len(got.Content), got.Digest, len(content), digest)
	}
}

func TestFailuresOfDocuments(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.push("list:1", layer{mediaType: ocispec.MediaTypeImageLayer, content: []byte(properties)})
	signed := r.request("list:1")
	signed.Access.PublicKeys = newSigningKey(t).public
	unsigned := signed
	unsigned.URL = "https://" + r.host() + "/list"
	for name, c := range map[string]struct {
		request Request
		reason  failure.Reason
	}{
		"not there":                 {r.request("list:2"), failure.NotFound},
		"not signed":                {signed, failure.SignatureMissing},
		"nothing that can be":       {unsigned, failure.SignatureMissing},
		"by HTTP, without its hash": {Request{URL: "http://" + r.host() + "/list"}, failure.InvalidReference},
		"no reference":              {Request{URL: "oci://x"}, failure.InvalidReference},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := newFetcher(t, Options{AllowLoopback: true}).FetchDocument(t.Context(), c.request)
			requireDocument(t, got, err, "", "", c.reason)
		})
	}
}
