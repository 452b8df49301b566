package fetch

import (
	"cmp"
	"context"
	"encoding/json"
	"path"
	"slices"
	"strings"

	"oras.land/oras-go/v2/registry/remote/auth"
	"oras.land/oras-go/v2/registry/remote/credentials"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

// dockerHub are the names under which logins of Docker Hub are written down.
var dockerHub = []string{"docker.io", "index.docker.io", "registry-1.docker.io"}

// entry is a login of a docker configuration that fits.
type entry struct {
	key  string
	path string
	glob bool
	raw  json.RawMessage
}

// login finds the login for a repository in a docker configuration; none is
// auth.EmptyCredential. Keys are hosts with or without a scheme, a port and a path,
// '*' stands for one part of a host name, and the key with the longest path wins, as for the
// kubelet's pull secrets. The configuration never shows in an error.
func login(ctx context.Context, config []byte, ref reference.Reference) (auth.Credential, error) {
	if len(config) == 0 {
		return auth.EmptyCredential, nil
	}
	var parsed struct {
		Auths map[string]json.RawMessage `json:"auths"`
	}
	if json.Unmarshal(config, &parsed) != nil { // the error would quote the configuration
		return auth.EmptyCredential, failure.New(failure.Spec, failure.InvalidSecret, nil,
			"the Secret named in secretRef does not hold a docker configuration in .dockerconfigjson: create it with kubectl create secret docker-registry")
	}
	var fitting []entry
	for key, raw := range parsed.Auths {
		if e, fits := match(key, ref); fits {
			e.raw = raw
			fitting = append(fitting, e)
		}
	}
	if len(fitting) == 0 {
		return auth.EmptyCredential, nil
	}
	best := slices.MinFunc(fitting, func(a, b entry) int {
		return cmp.Or(cmp.Compare(len(b.path), len(a.path)), compareBool(a.glob, b.glob), cmp.Compare(a.key, b.key))
	})
	return decode(ctx, best, ref)
}

// match says whether a key of a docker configuration is for the repository.
func match(key string, ref reference.Reference) (entry, bool) {
	bare := strings.TrimPrefix(strings.TrimPrefix(strings.ToLower(key), "https://"), "http://")
	host, dir, _ := strings.Cut(bare, "/")
	dir = strings.Trim(dir, "/")
	if dir == "v1" || dir == "v2" { // legacy keys are addresses of the registry's API
		dir = ""
	}
	e := entry{key: key, path: dir, glob: strings.Contains(host, "*")}
	if dir != "" && ref.Repository != dir && !strings.HasPrefix(ref.Repository, dir+"/") {
		return e, false
	}
	if slices.Contains(dockerHub, host) {
		return e, slices.Contains(dockerHub, ref.Registry)
	}
	// '*' of path.Match ends at a slash; here it has to end at a dot.
	fits, err := path.Match(strings.ReplaceAll(strings.TrimSuffix(host, ":443"), ".", "/"), strings.ReplaceAll(strings.TrimSuffix(ref.Registry, ":443"), ".", "/"))
	return e, fits && err == nil
}

// decode reads one login in the forms that oras knows.
func decode(ctx context.Context, e entry, ref reference.Reference) (auth.Credential, error) {
	invalid := failure.New(failure.Spec, failure.InvalidSecret, nil,
		"the login for %s in the Secret named in secretRef cannot be read: it needs username and password, or auth with both in base64", ref.Registry)
	config, err := json.Marshal(map[string]any{"auths": map[string]json.RawMessage{"login": e.raw}})
	if err != nil {
		return auth.EmptyCredential, invalid
	}
	logins, err := credentials.NewMemoryStoreFromDockerConfig(config)
	if err != nil { // not shown: it quotes the login
		return auth.EmptyCredential, invalid
	}
	credential, err := logins.Get(ctx, "login")
	if err != nil || credential.RefreshToken == "" && credential.AccessToken == "" && (credential.Username == "") != (credential.Password == "") {
		return auth.EmptyCredential, invalid
	}
	return credential, nil
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}
