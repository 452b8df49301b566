package reference

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

var digest = "sha256:" + strings.Repeat("0a", 32)

func TestParse(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		url  string
		want Reference
	}{
		"a tag":                          {"oci://harbor.bank.internal/payments/my-auth:1.3.1", Reference{"harbor.bank.internal", "payments/my-auth", "1.3.1", ""}},
		"a digest":                       {"oci://h/r@" + digest, Reference{"h", "r", "", digest}},
		"both, so the tag is checked":    {"oci://h/r:1@" + digest, Reference{"h", "r", "1", digest}},
		"a port":                         {"oci://localhost:5000/r:1", Reference{"localhost:5000", "r", "1", ""}},
		"an IPv4 address":                {"oci://10.0.0.1:5000/r:1", Reference{"10.0.0.1:5000", "r", "1", ""}},
		"an IPv6 address":                {"oci://[fd00::1]:5000/r:1", Reference{"[fd00::1]:5000", "r", "1", ""}},
		"an IPv6 address without a port": {"oci://[fd00::1]/r:1", Reference{"[fd00::1]", "r", "1", ""}},
		"hosts have no case":             {"oci://Harbor.Bank.Internal/r:1", Reference{"harbor.bank.internal", "r", "1", ""}},
		"a tag with everything in it":    {"oci://h/a/b__c/d-e.f:_A.b-9", Reference{"h", "a/b__c/d-e.f", "_A.b-9", ""}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(test.url)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("unexpected reference (-want +got):\n%s", diff)
			}
			if again, err := Parse(got.String()); err != nil || again != got {
				t.Errorf("Parse(%q) = %v, %v, not the same again", got.String(), again, err)
			}
		})
	}
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ url, says string }{
		"nothing":                            {"", "does not begin with oci://"},
		"another scheme":                     {"https://h/r:1", "does not begin with oci://"},
		"no scheme":                          {"h/r:1", "does not begin with oci://"},
		"upper case scheme":                  {"OCI://h/r:1", "does not begin with oci://"},
		"no repository":                      {"oci://h", "repository is missing"},
		"an empty repository":                {"oci://h/:1", "repository is malformed"},
		"an empty host":                      {"oci:///r:1", "host is malformed"},
		"neither tag nor digest":             {"oci://h/r", "neither a tag nor a digest"},
		"an empty tag":                       {"oci://h/r:", "tag is malformed"},
		"a malformed tag before a digest":    {"oci://h/r:-@" + digest, "tag is malformed"},
		"a tag of 129 characters":            {"oci://h/r:" + strings.Repeat("a", 129), "tag is malformed"},
		"another digest":                     {"oci://h/r@sha512:" + strings.Repeat("0", 128), "digest is not sha256"},
		"a short digest":                     {"oci://h/r@sha256:abc", "digest is not sha256"},
		"an upper case digest":               {"oci://h/r@sha256:" + strings.Repeat("A", 64), "digest is not sha256"},
		"two digests":                        {"oci://h/r@" + digest + "@" + digest, "digest is not sha256"},
		"upper case repository":              {"oci://h/R:1", "repository is malformed"},
		"leaving the repository":             {"oci://h/a/../b:1", "repository is malformed"},
		"an empty part":                      {"oci://h/a//b:1", "repository is malformed"},
		"a query":                            {"oci://h/r:1?x=y", "tag is malformed"},
		"white space":                        {"oci://h/r:1 ", "tag is malformed"},
		"a line break in the host":           {"oci://h\n/r:1", "host is malformed"},
		"another alphabet":                   {"oci://h/rеgistry:1", "repository is malformed"},
		"an escaped host":                    {"oci://h%2f/r:1", "host is malformed"},
		"dots beside each other in the host": {"oci://a..b/r:1", "host is malformed"},
		"port zero":                          {"oci://h:0/r:1", "port is malformed"},
		"port too high":                      {"oci://h:65536/r:1", "port is malformed"},
		"an empty port":                      {"oci://h:/r:1", "port is malformed"},
		"an IPv6 address with a zone":        {"oci://[fe80::1%25eth0]/r:1", "IPv6 address is malformed"},
		"an unfinished IPv6 address":         {"oci://[fe80::1/r:1", "malformed"},
		"an IPv4 address in brackets":        {"oci://[10.0.0.1]/r:1", "IPv6 address is malformed"},
		"too long":                           {"oci://h/" + strings.Repeat("a", MaxLength) + ":1", "longer than 1024"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := Parse(test.url)
			f := failure.Of(err)
			if err == nil || f.Class != failure.Spec || f.Reason != failure.InvalidReference {
				t.Fatalf("Parse(%q) = %v, %#v", test.url, got, err)
			}
			if !strings.Contains(f.Message, test.says) {
				t.Errorf("the message does not say %q: %s", test.says, f.Message)
			}
			if len(f.Message) > 512 || strings.ContainsAny(f.Message, "\n\r") {
				t.Errorf("the message does not fit into a status: %q", f.Message)
			}
		})
	}
}

func TestParseHidesLogins(t *testing.T) {
	t.Parallel()
	for _, url := range []string{"oci://me:canary@h/r:1", "oci://canary@h/r:1", "https://me:canary@h/r:1", "me:canary@h/r:1"} {
		_, err := Parse(url)
		if err == nil || strings.Contains(err.Error(), "canary") || strings.Contains(failure.Of(err).Error(), "canary") {
			t.Errorf("Parse(%q) fails with %v", url, err)
		}
	}
}

func TestPinned(t *testing.T) {
	t.Parallel()
	other := "sha256:" + strings.Repeat("0b", 32)
	for name, test := range map[string]struct {
		ref, digest, target string
		fails               bool
	}{
		"a recorded digest wins over the tag":          {"oci://h/r:1", digest, digest, false},
		"without one the tag is asked for":             {"oci://h/r:1", "", "1", false},
		"a digest of the reference's own is the truth": {"oci://h/r@" + digest, other, digest, false},
		"a malformed one is refused":                   {"oci://h/r:1", "sha256:zz", "", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ref, err := Parse(test.ref)
			if err != nil {
				t.Fatal(err)
			}
			got, err := ref.Pinned(test.digest)
			if (err != nil) != test.fails || got.Target() != test.target {
				t.Errorf("Pinned(%q) of %s asks for %q, %v", test.digest, test.ref, got.Target(), err)
			}
		})
	}
}

func TestDefault(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ registry, name, version, want string }{
		"host":                    {"harbor.bank.internal", "key-auth", "1.0.0", "oci://harbor.bank.internal/key-auth:1.0.0"},
		"with a port and a path":  {"h:5000/higress/plugins", "key-auth", "1.0.0", "oci://h:5000/higress/plugins/key-auth:1.0.0"},
		"with a slash at the end": {"h/", "a", "1", "oci://h/a:1"},
		"a plus is none in a tag": {"h", "a", "1.0.0+build.5", "oci://h/a:1.0.0_build.5"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := Default(test.registry, test.name, test.version)
			if got != test.want {
				t.Errorf("Default() = %s, want %s", got, test.want)
			}
			if _, err := Parse(got); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestHost(t *testing.T) {
	t.Parallel()
	for url, want := range map[string]string{
		"oci://docker.io/library/r:1": "registry-1.docker.io",
		"oci://h:5000/r:1":            "h:5000",
	} {
		ref, err := Parse(url)
		if err != nil || ref.Host() != want {
			t.Errorf("%s is asked at %q, %v, want %q", url, ref.Host(), err, want)
		}
	}
}

// FuzzParse: run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{"oci://h:5000/a/b:1@" + digest, "oci://[::1]:1/r:1", "oci://u:p@h/r:1", "oci://h/r@sha256:", "oci://h/r:1/../x"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, url string) {
		ref, err := Parse(url)
		if err != nil {
			if failure.Of(err).Reason != failure.InvalidReference || len(err.Error()) > 1024 {
				t.Errorf("Parse(%q) fails with %q", url, err)
			}
			return
		}
		again, err := Parse(ref.String())
		if err != nil || again != ref {
			t.Errorf("%q is %v, and then %v, %v", url, ref, again, err)
		}
		if strings.ContainsAny(ref.String(), "?#\\ \n%") || strings.Contains(ref.Repository, "..") || strings.Contains(ref.Registry, "@") {
			t.Errorf("%q has got through as %v", url, ref)
		}
	})
}
