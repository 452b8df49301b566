// Package hostile is a corpus of bad inputs for tests: what registries, file
// servers, lists and urls may do to whoever fetches plugins, and what has to be
// said of each. It knows no Kubernetes.
package hostile

import (
	"encoding/base64"
	"net/netip"
	"slices"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// Kind is a group of cases.
type Kind string

// The groups.
const (
	Archive    Kind = "archive"    // what a layer or a file holds
	Module     Kind = "module"     // what is said to be Wasm
	Manifest   Kind = "manifest"   // what describes the layers
	Transfer   Kind = "transfer"   // how bytes come
	Answer     Kind = "answer"     // statuses
	URL        Kind = "url"        // malformed ones
	Address    Kind = "address"    // spellings of forbidden addresses
	Redirect   Kind = "redirect"   // where answers lead
	Credential Kind = "credential" // places for secrets
	Properties Kind = "properties" // lists of lines
	Snapshot   Kind = "snapshot"   // lists in JSON
)

// Case is one bad input.
type Case struct {
	Kind Kind
	// Name of the plugin, and of its repository or file.
	Name string
	// Reason and part of the message that it has to fail with.
	Reason failure.Reason
	Says   string
	// SHA256 that the plugin is declared with; empty is none.
	SHA256 string
	// List is the content of the list that the case is about, if it is.
	List string
	// OwnMachine is true where only somebody who does not allow the own
	// machine's addresses sees the failure; Named where Names have to be known.
	OwnMachine, Named bool

	url      string // {host} and {foreign} stand for servers; empty is the artifact of that name
	artifact *artifact
	file     []byte // what stands at the url, where that is a file of the server
	answer   answer // instead of the usual answers, where it likes to
	open     bool   // whether answer is for everybody, with a login or without
}

// Names are host names for DNS that lead to forbidden addresses.
var Names = map[string]netip.Addr{
	"machine.hostile.test":     netip.MustParseAddr("127.0.0.1"),
	"machine-six.hostile.test": netip.MustParseAddr("::1"),
	"metadata.google.internal": netip.MustParseAddr("169.254.169.254"),
	"mapped.hostile.test":      netip.MustParseAddr("::ffff:169.254.169.254"),
}

// All gives the corpus.
func All() []Case {
	return slices.Concat(
		links(), archives(), bombs(), truncated(), modules(), sections(), manifests(), layers(), indexes(), transfers(), answers(),
		urls(), addresses(), moreAddresses(), redirects(), fileRedirects(), realmCases(), credentials(), properties(), snapshots(), locks(),
	)
}

// URL is where the plugin of the case is: in the registry and file server host,
// or where the case itself says.
func (c Case) URL(host, foreign string) string {
	if c.url == "" {
		return "oci://" + host + "/" + repository + c.Name + ":1"
	}
	return strings.NewReplacer("{host}", host, "{foreign}", foreign).Replace(c.url)
}

// Turns says whether something good can be at the url before.
func (c Case) Turns() bool { return c.url == "" || c.file != nil || c.answer != nil }

// Canary is in everything that is secret.
const Canary = "c4n4ry-9d1e"

// Leaks says whether a text has a canary in it, as it is or in base64.
func Leaks(text string) bool {
	return slices.ContainsFunc(canaries, func(c string) bool { return strings.Contains(text, c) })
}

// canaries are the canary as it is, and what is always the same of it in base64,
// which depends on where it begins.
var canaries = func() []string {
	all := []string{Canary}
	for before := range 3 {
		encoded := base64.RawStdEncoding.EncodeToString([]byte("xxx"[:before] + Canary))
		all = append(all, encoded[(8*before+5)/6:8*(before+len(Canary))/6])
	}
	return all
}()
