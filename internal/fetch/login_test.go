package fetch

import (
	"encoding/base64"
	"fmt"
	"strings"
	"testing"

	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

func TestLogin(t *testing.T) {
	t.Parallel()
	// one writes a docker configuration whose logins have the key as user name.
	one := func(keys ...string) string {
		var entries []string
		for _, key := range keys {
			entries = append(entries, fmt.Sprintf("%q:{%q:%q,%q:%q}", key, "username", key, "password", "secret"))
		}
		return `{"auths":{` + strings.Join(entries, ",") + `}}`
	}
	const url = "oci://harbor.bank.internal/payments/my-auth:1"
	for name, test := range map[string]struct {
		url, config string
		want        string // user name; none is anonymous
	}{
		"no Secret":                        {url, "", ""},
		"no logins":                        {url, "{}", ""},
		"no login for this registry":       {url, one("other.bank.internal", "bank.internal", "internal"), ""},
		"the host":                         {url, one("other", "harbor.bank.internal"), "harbor.bank.internal"},
		"a legacy address":                 {url, one("https://harbor.bank.internal/v2/"), "https://harbor.bank.internal/v2/"},
		"upper case":                       {url, one("Harbor.Bank.Internal"), "Harbor.Bank.Internal"},
		"the port of HTTPS":                {url, one("harbor.bank.internal:443"), "harbor.bank.internal:443"},
		"another port":                     {url, one("harbor.bank.internal:5000"), ""},
		"a port, and the same":             {"oci://h:5000/a:1", one("h", "h:5000"), "h:5000"},
		"a path":                           {url, one("harbor.bank.internal/payments"), "harbor.bank.internal/payments"},
		"the longest path wins":            {url, one("harbor.bank.internal", "harbor.bank.internal/payments/my-auth", "harbor.bank.internal/payments"), "harbor.bank.internal/payments/my-auth"},
		"another path":                     {url, one("harbor.bank.internal/loans"), ""},
		"a path that only begins the same": {url, one("harbor.bank.internal/pay"), ""},
		"a pattern":                        {url, one("*.bank.internal"), "*.bank.internal"},
		"the host beats a pattern":         {url, one("*.bank.internal", "harbor.bank.internal"), "harbor.bank.internal"},
		"a star is one part of the name":   {url, one("*.internal", "*"), ""},
		"a bad pattern":                    {url, one("[.bank.internal"), ""},
		"Docker Hub as docker writes it":   {"oci://docker.io/library/x:1", one("https://index.docker.io/v1/"), "https://index.docker.io/v1/"},
		"Docker Hub by its name":           {"oci://docker.io/library/x:1", one("docker.io"), "docker.io"},
		"Docker Hub by its address":        {"oci://registry-1.docker.io/library/x:1", one("docker.io"), "docker.io"},
		"Docker Hub's login is its own":    {url, one("https://index.docker.io/v1/"), ""},
		"auth in base64":                   {url, `{"auths":{"harbor.bank.internal":{"auth":"` + base64.StdEncoding.EncodeToString([]byte("me:p:w")) + `"}}}`, "me"},
		"a broken login for another host":  {url, `{"auths":{"x":{"auth":"%%%"},"harbor.bank.internal":{"username":"me","password":"x"}}}`, "me"},
		"an empty login":                   {url, `{"auths":{"harbor.bank.internal":{}}}`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ref, err := reference.Parse(test.url)
			if err != nil {
				t.Fatal(err)
			}
			got, err := login(t.Context(), []byte(test.config), ref)
			if err != nil || got.Username != test.want || (got == auth.EmptyCredential) != (test.want == "") {
				t.Errorf("login() = user %q, %v; want %q", got.Username, err, test.want)
			}
		})
	}
}

func TestLoginTokens(t *testing.T) {
	t.Parallel()
	ref, err := reference.Parse("oci://h/a:1")
	if err != nil {
		t.Fatal(err)
	}
	got, err := login(t.Context(), []byte(`{"auths":{"h":{"identitytoken":"i","registrytoken":"r"}}}`), ref)
	if want := (auth.Credential{RefreshToken: "i", AccessToken: "r"}); err != nil || got != want {
		t.Errorf("login() = %v, %v", got, err)
	}
}

// The messages say what is wrong without what is in the Secret.
func TestLoginRefuses(t *testing.T) {
	t.Parallel()
	encoded := base64.StdEncoding.EncodeToString([]byte("canary-without-a-colon"))
	ref, err := reference.Parse("oci://h/a:1")
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct{ config, says string }{
		"no JSON":             {`canary`, "does not hold a docker configuration"},
		"another form":        {`{"auths":["canary"]}`, "does not hold a docker configuration"},
		"no base64":           {`{"auths":{"h":{"auth":"canary%"}}}`, "cannot be read"},
		"no colon in base64":  {`{"auths":{"h":{"auth":"` + encoded + `"}}}`, "cannot be read"},
		"another form inside": {`{"auths":{"h":"canary"}}`, "cannot be read"},
		"no password":         {`{"auths":{"h":{"username":"canary"}}}`, "needs username and password"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, err := login(t.Context(), []byte(test.config), ref)
			requireFailure(t, err, failure.Spec, failure.InvalidSecret, test.says)
		})
	}
}
