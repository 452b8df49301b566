// Package reference knows how the place of a plugin is written:
// oci://HOST[:PORT]/REPOSITORY with a :TAG, a @sha256:DIGEST or both; the address of
// a file; or the ConfigMaps that hold it. It knows where mirrors have things, too.
package reference

import (
	"errors"
	"net/netip"
	"regexp"
	"strconv"
	"strings"

	"oras.land/oras-go/v2/registry"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// Scheme of references.
const Scheme = "oci://"

// MaxLength of a reference in bytes; the API has the same limit.
const MaxLength = 1024

// maxRepository is the length of a repository's name that registries take
// (distribution specification: 255 characters together with the host).
const maxRepository = 255

var (
	hostPattern   = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)
	digestPattern = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)
)

// Reference is a parsed reference. Tag or Digest is set, or both.
type Reference struct {
	Registry   string // host in lower case, with the port where one is given
	Repository string
	Tag        string
	Digest     string // sha256:HEX; wins over the tag
}

// Parse reads a reference. It is strict: what it does not know is an error of
// class Spec and reason InvalidReference, whose message never holds a
// password that stands in the reference.
func Parse(url string) (Reference, error) {
	r, err := parse(url)
	if err != nil {
		return Reference{}, failure.New(failure.Spec, failure.InvalidReference, nil,
			"%s is no reference to a plugin: %s; write oci://HOST/REPOSITORY:TAG or oci://HOST/REPOSITORY@sha256:DIGEST", quote(url), err)
	}
	return r, nil
}

func parse(url string) (Reference, error) {
	if len(url) > MaxLength {
		return Reference{}, errors.New("it is longer than " + strconv.Itoa(MaxLength) + " characters")
	}
	rest, found := strings.CutPrefix(url, Scheme)
	if !found {
		return Reference{}, errors.New("it does not begin with " + Scheme)
	}
	host, path, found := strings.Cut(rest, "/")
	if !found {
		return Reference{}, errors.New("the repository is missing")
	}
	host = strings.ToLower(host)
	if err := validateHost(host); err != nil {
		return Reference{}, err
	}
	r := Reference{Registry: host}
	path, r.Digest, found = strings.Cut(path, "@")
	if found && !digestPattern.MatchString(r.Digest) {
		return Reference{}, errors.New("the digest is not sha256: and 64 hexadecimal digits in lower case")
	}
	r.Repository, r.Tag, found = strings.Cut(path, ":")
	known := registry.Reference{Registry: host, Repository: r.Repository, Reference: r.Tag}
	switch {
	case found && known.ValidateReferenceAsTag() != nil:
		return Reference{}, errors.New("the tag is malformed")
	case r.Tag == "" && r.Digest == "":
		return Reference{}, errors.New("it has neither a tag nor a digest")
	case known.ValidateRepository() != nil || len(r.Repository) > maxRepository:
		return Reference{}, errors.New("the repository is malformed: lower case letters and digits, '.', '_' and '-' between them, '/' between the parts")
	case known.ValidateRegistry() != nil:
		return Reference{}, errors.New("the host is malformed")
	}
	return r, nil
}

func validateHost(host string) error {
	if strings.Contains(host, "@") {
		return errors.New("it holds a user name: logins belong into the Secret named in secretRef")
	}
	name, port := host, ""
	if i := strings.LastIndexByte(host, ':'); i >= 0 && !strings.HasSuffix(host, "]") {
		name, port = host[:i], host[i+1:]
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || port[0] == '0' {
			return errors.New("the port is malformed")
		}
	}
	if inner, bracketed := strings.CutPrefix(name, "["); bracketed {
		addr, err := netip.ParseAddr(strings.TrimSuffix(inner, "]"))
		if err != nil || !addr.Is6() || addr.Zone() != "" || !strings.HasSuffix(inner, "]") {
			return errors.New("the IPv6 address is malformed")
		}
		return nil
	}
	if !hostPattern.MatchString(name) || strings.Contains(name, "..") {
		return errors.New("the host is malformed")
	}
	return nil
}

// quote shows a reference in a message: cut, and without what may be a login.
func quote(url string) string {
	if authority, _, _ := strings.Cut(strings.TrimPrefix(url, Scheme), "/"); strings.Contains(authority, "@") ||
		(strings.Contains(url, "@") && !strings.HasPrefix(url, Scheme)) {
		return "the url"
	}
	if i := strings.IndexAny(url, "?#"); i >= 0 { // what follows may be a signature
		url = url[:i] + "…"
	}
	if len(url) > 200 {
		url = url[:200] + "…"
	}
	return strconv.QuoteToASCII(url)
}

// String writes the reference as it is parsed.
func (r Reference) String() string { return Scheme + r.Name() }

// Name is the reference without its scheme, as people know it from images.
func (r Reference) Name() string {
	s := r.Registry + "/" + r.Repository
	if r.Tag != "" {
		s += ":" + r.Tag
	}
	if r.Digest != "" {
		s += "@" + r.Digest
	}
	return s
}

// Pinned is the reference with a digest that its tag had earlier. A digest that
// the reference has by itself stays.
func (r Reference) Pinned(digest string) (Reference, error) {
	switch {
	case digest == "" || r.Digest != "":
		return r, nil
	case !digestPattern.MatchString(digest):
		return Reference{}, failure.New(failure.Spec, failure.InvalidReference, nil,
			"%q, recorded for %s, is no digest", digest, r.Name())
	}
	r.Digest = digest
	return r, nil
}

// Host is the host, with its port, that is asked: another one than the
// registry's name only for Docker Hub.
func (r Reference) Host() string { return registry.Reference{Registry: r.Registry}.Host() }

// Target is what the registry is asked for: the digest, else the tag.
func (r Reference) Target() string {
	if r.Digest != "" {
		return r.Digest
	}
	return r.Tag
}

// Default is where a plugin without a url of its own is looked for:
// oci://REGISTRY/NAME:VERSION. A '+' in the version is '_' in the tag, since
// tags cannot have one (Helm does the same).
func Default(registry, name, version string) string {
	return Scheme + strings.TrimSuffix(registry, "/") + "/" + name + ":" + strings.ReplaceAll(version, "+", "_")
}

// Below gives the places of a published artifact below another registry, which
// may have a path: as it is published, and without the first part of its path, as
// replication leaves it that flattens one level. A digest is left out: a copy may
// have another one.
func Below(registry, url string) ([]string, error) {
	r, err := Parse(url)
	if err != nil {
		return nil, err
	}
	registry = strings.TrimSuffix(registry, "/")
	suffix := ":" + r.Tag
	if r.Tag == "" { // then the digest is all there is to ask for
		suffix = "@" + r.Digest
	}
	asPublished := Scheme + registry + "/" + r.Repository + suffix
	return append([]string{asPublished}, Flattened(registry, asPublished)...), nil
}

// Flattened gives the place of what stands below a registry where replication
// took away the first part of its path; nothing where there is no such part.
func Flattened(registry, url string) []string {
	below := Scheme + strings.TrimSuffix(registry, "/") + "/"
	rest, found := strings.CutPrefix(url, below)
	_, flat, deeper := strings.Cut(rest, "/")
	if registry == "" || !found || !deeper {
		return nil
	}
	return []string{below + flat}
}
