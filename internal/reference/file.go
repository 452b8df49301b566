package reference

import (
	"errors"
	"net/url"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// configMapScheme is of modules that stand in the cluster itself.
const configMapScheme = "configmap://"

// IsFile says whether a URL is the address of a file.
func IsFile(address string) bool {
	return strings.HasPrefix(address, "https://") || strings.HasPrefix(address, "http://")
}

// IsOCI says whether a URL is a reference to an artifact in a registry.
func IsOCI(address string) bool { return strings.HasPrefix(address, Scheme) }

// ParseFile reads the address of a file. It is strict: what it does not know is
// an error of class Spec and reason InvalidReference, whose message never holds a
// password that stands in the address.
func ParseFile(address string) (*url.URL, error) {
	u, err := parseFile(address)
	if err != nil {
		return nil, failure.New(failure.Spec, failure.InvalidReference, nil,
			"%s is no address of a plugin: %s; write https://HOST/PATH", quote(Shown(address)), err)
	}
	return u, nil
}

func parseFile(address string) (*url.URL, error) {
	if len(address) > MaxLength {
		return nil, errors.New("it is too long")
	}
	u, err := url.Parse(address)
	switch {
	case err != nil: // not shown: it quotes the address
		return nil, errors.New("it is malformed")
	case u.Scheme != "https" && u.Scheme != "http":
		return nil, errors.New("its scheme is not https")
	case u.User != nil:
		return nil, errors.New("it holds a user name: logins belong into the Secret named in secretRef")
	case u.Fragment != "" || u.Opaque != "":
		return nil, errors.New("it has a fragment")
	case u.Path == "" || strings.HasSuffix(u.Path, "/"):
		return nil, errors.New("the file is missing")
	}
	u.Host = strings.ToLower(u.Host)
	return u, validateHost(u.Host)
}

// Shown is a URL as it may be shown to everybody: without a login, and without
// a query or a fragment, which may be a signature.
func Shown(address string) string {
	if !IsFile(address) {
		return address
	}
	if i := strings.IndexAny(address, "?#"); i >= 0 {
		address = address[:i]
	}
	scheme, rest, _ := strings.Cut(address, "://")
	authority, path, _ := strings.Cut(rest, "/")
	if i := strings.LastIndexByte(authority, '@'); i >= 0 {
		authority = authority[i+1:]
	}
	return scheme + "://" + authority + "/" + path
}

// HostOf gives the host, with its port, that a URL leads to. What stands in the
// cluster itself has none.
func HostOf(address string) (string, error) {
	switch {
	case IsFile(address):
		u, err := ParseFile(address)
		if err != nil {
			return "", err
		}
		return u.Host, nil
	case IsConfigMaps(address):
		return "", nil
	}
	r, err := Parse(address)
	if err != nil {
		return "", err
	}
	return r.Host(), nil
}

// Fixed says whether a URL always leads to the same bytes, so that nobody has
// to look again.
func Fixed(address string) bool {
	if IsFile(address) {
		return false
	}
	r, err := Parse(address)
	return err != nil || r.Digest != ""
}

// Allows says whether a URL can lead to an artifact of a digest: it has no
// other one in it.
func Allows(address, digest string) bool {
	r, err := Parse(address)
	return err != nil || r.Digest == "" || r.Digest == digest
}

// ConfigMaps writes down the place of a module that stands in ConfigMaps.
func ConfigMaps(namespace string, names []string) string {
	return configMapScheme + namespace + "/" + strings.Join(names, ",")
}

// IsConfigMaps says whether a URL is one that ConfigMaps wrote.
func IsConfigMaps(address string) bool { return strings.HasPrefix(address, configMapScheme) }

// ParseConfigMaps reads what ConfigMaps writes.
func ParseConfigMaps(address string) (namespace string, names []string) {
	namespace, list, _ := strings.Cut(strings.TrimPrefix(address, configMapScheme), "/")
	return namespace, strings.Split(list, ",")
}
