package mirror

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/fetch"
)

func TestRewrite(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	login, ca := filepath.Join(dir, "login"), filepath.Join(dir, "ca")
	for path, content := range map[string]string{login: "the login", ca: "the CA"} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	rules := Rules{
		{From: "public.example", To: "harbor.bank/higress", DockerConfigFile: login, CAFile: ca},
		{From: "public.example/plugins", To: "harbor.bank/flat"},
		{From: "plain.example:5000", Insecure: true},
		{From: "gone.example", To: "x.example", CAFile: filepath.Join(dir, "missing")},
	}
	for name, test := range map[string]struct{ in, want fetch.Request }{
		"another registry is left alone": {
			fetch.Request{URL: "oci://other.example/a:1"}, fetch.Request{URL: "oci://other.example/a:1"}},
		"a host of which the prefix is only the beginning is another one": {
			fetch.Request{URL: "oci://public.example.evil/a:1"}, fetch.Request{URL: "oci://public.example.evil/a:1"}},
		"a host is replaced, and its access given": {
			fetch.Request{URL: "oci://public.example/a/b:1"},
			fetch.Request{URL: "oci://harbor.bank/higress/a/b:1", Access: fetch.Access{DockerConfig: []byte("the login"), CA: []byte("the CA")}}},
		"the longest prefix wins": {
			fetch.Request{URL: "oci://public.example/plugins/key-auth@sha256:00"}, fetch.Request{URL: "oci://harbor.bank/flat/key-auth@sha256:00"}},
		"a path of which the prefix is only the beginning is another one": {
			fetch.Request{URL: "oci://public.example/plugins2/a:1"},
			fetch.Request{URL: "oci://harbor.bank/higress/plugins2/a:1", Access: fetch.Access{DockerConfig: []byte("the login"), CA: []byte("the CA")}}},
		"access alone": {
			fetch.Request{URL: "oci://plain.example:5000/a:1"},
			fetch.Request{URL: "oci://plain.example:5000/a:1", Access: fetch.Access{PlainHTTP: true}}},
		"what the source brings wins": {
			fetch.Request{URL: "oci://public.example/a:1", Access: fetch.Access{DockerConfig: []byte("own"), CA: []byte("own CA")}},
			fetch.Request{URL: "oci://harbor.bank/higress/a:1", Access: fetch.Access{DockerConfig: []byte("own"), CA: []byte("own CA")}}},
		"a source cannot change how the operator's login is sent": {
			fetch.Request{URL: "oci://public.example/a:1", Access: fetch.Access{PlainHTTP: true, CA: []byte("own CA")}},
			fetch.Request{URL: "oci://harbor.bank/higress/a:1", Access: fetch.Access{DockerConfig: []byte("the login"), CA: []byte("the CA")}}},
		"a missing file is none": {
			fetch.Request{URL: "oci://gone.example/a:1"}, fetch.Request{URL: "oci://x.example/a:1"}},
		"the digest and the expected hash stay": {
			fetch.Request{URL: "oci://gone.example/a:1", Digest: "sha256:1", SHA256: "2"}, fetch.Request{URL: "oci://x.example/a:1", Digest: "sha256:1", SHA256: "2"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(test.want, rules.Rewrite(test.in)); diff != "" {
				t.Errorf("unexpected request (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		rule  Rule
		valid bool
	}{
		"host and path":  {Rule{From: "a.example", To: "b.example/c"}, true},
		"no prefix":      {Rule{To: "b.example"}, false},
		"a scheme":       {Rule{From: "oci://a.example"}, false},
		"a slash":        {Rule{From: "a.example/"}, false},
		"a scheme in to": {Rule{From: "a.example", To: "https://b.example"}, false},
		"a slash in to":  {Rule{From: "a.example", To: "b.example/"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if err := (Rules{test.rule}).Validate(); (err == nil) != test.valid {
				t.Errorf("Validate() = %v, want valid %v", err, test.valid)
			}
		})
	}
}
