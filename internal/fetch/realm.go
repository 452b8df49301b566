package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"sync"
)

const (
	// realmPath is where login services of other hosts seem to be for the auth client.
	realmPath = "/.login-service/"
	// maxRealms is how many login services one registry may name.
	maxRealms = 16
)

var (
	realmPattern = regexp.MustCompile(`(?i)\brealm[ \t]*=[ \t]*"([^"\\]*)"`)
	// realmMention is anything that a reader of the header could take for a realm.
	realmMention = regexp.MustCompile(`(?i)realm[ \t]*=`)
)

// realms lets the login service of a registry be on another host.
//
// A registry says in WWW-Authenticate where its tokens come from, and that is
// often another host: auth.docker.io, or GitLab beside its registry. The login
// goes there, since the registry itself has to be trusted with it anyway; but only by
// HTTPS, unless the registry is on plain HTTP too.
//
// oras refuses such a host if its address is private. In a private network all
// are, so here a realm is renamed to a path of the registry's own, which oras
// allows, and named back when the request is sent; the address is checked by the rules of dial.
type realms struct {
	mu     sync.Mutex
	byPath map[string]*url.URL
}

// rewrite renames the realm in a challenge.
func (r *realms) rewrite(resp *http.Response) error {
	header := resp.Header.Get("WWW-Authenticate")
	if resp.StatusCode != http.StatusUnauthorized || !strings.HasPrefix(strings.ToLower(header), "bearer") {
		return nil
	}
	found, mentions := realmPattern.FindStringSubmatch(header), len(realmMention.FindAllString(header, 2))
	if found == nil || mentions > 1 {
		return errRealm
	}
	realm, err := url.Parse(found[1])
	if err != nil {
		return fmt.Errorf("%w: malformed address", errRealm)
	}
	if realm.Scheme != "https" && (realm.Scheme != "http" || resp.Request.URL.Scheme != "http") {
		return errRealm
	}
	if origin(realm) == origin(resp.Request.URL) {
		return nil
	}
	alias, err := r.alias(realm)
	if err != nil {
		return err
	}
	renamed := &url.URL{Scheme: resp.Request.URL.Scheme, Host: resp.Request.URL.Host, Path: alias}
	resp.Header.Set("WWW-Authenticate", strings.Replace(header, found[0], `realm="`+renamed.String()+`"`, 1))
	return nil
}

func (r *realms) alias(realm *url.URL) (string, error) {
	sum := sha256.Sum256([]byte(realm.String()))
	path := realmPath + hex.EncodeToString(sum[:])
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byPath == nil {
		r.byPath = map[string]*url.URL{}
	}
	if r.byPath[path] == nil && len(r.byPath) == maxRealms {
		return "", fmt.Errorf("%w: the registry names more than %d", errRealm, maxRealms)
	}
	r.byPath[path] = realm
	return path, nil
}

// resolve names a realm back.
func (r *realms) resolve(req *http.Request) *http.Request {
	if !strings.HasPrefix(req.URL.Path, realmPath) {
		return req
	}
	r.mu.Lock()
	realm := r.byPath[req.URL.Path]
	r.mu.Unlock()
	if realm == nil {
		return req
	}
	target := *realm
	query := target.Query()
	for name, values := range req.URL.Query() {
		query[name] = values
	}
	target.RawQuery = query.Encode()
	req = req.Clone(req.Context())
	req.URL, req.Host = &target, ""
	return req
}
