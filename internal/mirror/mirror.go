// Package mirror holds the operator's own defaults for registries: where a
// registry's content is found in this cluster, and how one gets at it. With them
// the same PluginSources go unchanged into every cluster.
package mirror

import (
	"fmt"
	"os"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

// maxFile is the size of a file with a login or certificates; a Secret's limit.
const maxFile = 1 << 20

// Rule replaces a prefix of references by another. The original place is never
// asked: a mirror is no fallback.
type Rule struct {
	// From is a registry host, with or without a path: the prefix to replace.
	From string `json:"from"`
	// To takes its place; empty keeps the place and only sets the access.
	To string `json:"to,omitempty"`
	// Insecure asks for plain HTTP.
	Insecure bool `json:"insecure,omitempty"`
	// DockerConfigFile holds the login in the form of .dockerconfigjson, for
	// sources that bring none of their own.
	DockerConfigFile string `json:"dockerConfigFile,omitempty"`
	// CAFile holds the PEM certificates to trust, for sources that bring none
	// of their own.
	CAFile string `json:"caFile,omitempty"`
}

// Rules are tried by the longest prefix.
type Rules []Rule

// Validate says what is wrong with the rules, in words for who installs the operator.
func (rules Rules) Validate() error {
	for i, r := range rules {
		if r.From == "" || strings.Contains(r.From, "://") || strings.HasSuffix(r.From, "/") {
			return fmt.Errorf("registries[%d].from is %q: give a registry's host, with a path where needed, without scheme and trailing slash", i, r.From)
		}
		if strings.Contains(r.To, "://") || strings.HasSuffix(r.To, "/") {
			return fmt.Errorf("registries[%d].to is %q: give a registry's host, with a path where needed, without scheme and trailing slash", i, r.To)
		}
	}
	return nil
}

// Rewrite applies the rule with the longest matching prefix to a request. The
// files are read anew, so that a changed Secret is taken up by itself.
func (rules Rules) Rewrite(request fetch.Request) fetch.Request {
	place, isOCI := strings.CutPrefix(request.URL, reference.Scheme)
	if !isOCI {
		return request
	}
	var best *Rule
	for i := range rules {
		if hasPrefix(place, rules[i].From) && (best == nil || len(rules[i].From) > len(best.From)) {
			best = &rules[i]
		}
	}
	if best == nil {
		return request
	}
	if best.To != "" {
		request.URL = reference.Scheme + best.To + place[len(best.From):]
		request.Alternatives = best.below(request.Alternatives)
	}
	if login := read(best.DockerConfigFile); len(request.Access.DockerConfig) == 0 && len(login) > 0 {
		// The operator's login goes where the operator says, in the way it says:
		// a source must not make it go out in plain HTTP, or to whom its own CA vouches for.
		request.Access = fetch.Access{
			DockerConfig: login, CA: read(best.CAFile), PlainHTTP: best.Insecure, PublicKeys: request.Access.PublicKeys,
		}
		return request
	}
	request.Access.PlainHTTP = request.Access.PlainHTTP || best.Insecure
	if len(request.Access.CA) == 0 {
		request.Access.CA = read(best.CAFile)
	}
	return request
}

// below gives those of further places that are below the rule's prefix, in the
// mirror. The others are not asked: the mirror takes the place of all.
func (r *Rule) below(urls []string) []string {
	var replaced []string
	for _, url := range urls {
		if place, isOCI := strings.CutPrefix(url, reference.Scheme); isOCI && hasPrefix(place, r.From) {
			replaced = append(replaced, reference.Scheme+r.To+place[len(r.From):])
		}
	}
	return replaced
}

// hasPrefix says whether a prefix ends where a part of the place ends.
func hasPrefix(place, prefix string) bool {
	rest, found := strings.CutPrefix(place, prefix)
	return found && (rest == "" || strings.ContainsRune("/:@", rune(rest[0])))
}

// read gives a file's content. One that cannot be read is as good as none: the
// registry's refusal then says what is missing.
func read(path string) []byte {
	if path == "" {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil || info.Size() > maxFile {
		return nil
	}
	content, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	return content
}
