// Package catalog is what one plugin server must serve: which module stands
// under which name and version. The operator writes catalogs, the pods follow
// them. A catalog is canonical: the same content has the same bytes and the
// same revision, and nothing in it changes by itself.
package catalog

import (
	"cmp"
	"regexp"
	"slices"
	"strings"
	"time"
)

// SchemaVersion is the version of the document that this code reads and
// writes. A pod that meets another one keeps serving what it has.
const SchemaVersion = 1

// Limits of a catalog.
const (
	// MaxEntries is the number of entries a catalog may have.
	MaxEntries = 4000
	// MaxEncoded is the size of an encoded catalog in bytes: it has to fit into a
	// ConfigMap (1 MiB with its metadata).
	MaxEncoded = 900 << 10
	// MaxDecoded is the size of the document inside.
	MaxDecoded = 16 << 20
)

var (
	// NamePattern is what the name of a plugin looks like; the API has the same.
	NamePattern = regexp.MustCompile(`^[a-z0-9]([a-z0-9._-]{0,61}[a-z0-9])?$`)
	// VersionPattern is what a version looks like; the API has the same.
	VersionPattern = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9._+-]{0,126}[a-zA-Z0-9])?$`)
	// SHA256Pattern is a SHA-256 in lower case hexadecimal.
	SHA256Pattern = regexp.MustCompile(`^[a-f0-9]{64}$`)
)

// Key names an entry.
type Key struct {
	Name    string
	Version string
}

// Compare orders keys by name, then version.
func (k Key) Compare(other Key) int {
	return cmp.Or(cmp.Compare(k.Name, other.Name), cmp.Compare(k.Version, other.Version))
}

func (k Key) String() string { return k.Name + ":" + k.Version }

// ParseKey reads what String writes.
func ParseKey(s string) Key {
	name, version, _ := strings.Cut(s, ":")
	return Key{name, version}
}

// Entry is one version of one plugin. An entry without SHA256 is pending:
// declared, but not available yet.
type Entry struct {
	Name        string `json:"name"`
	Version     string `json:"version"`
	SHA256      string `json:"sha256,omitempty"`
	MD5         string `json:"md5,omitempty"`
	Size        int64  `json:"size,omitempty"`
	Created     string `json:"created,omitempty"` // RFC 3339, from the artifact; empty where it has none
	Description string `json:"description,omitempty"`
	Source      string `json:"source,omitempty"` // the reference, without credentials
	Digest      string `json:"digest,omitempty"` // of the artifact's manifest
	// RetainedUntil is set (RFC 3339, UTC, seconds) once no source declares the entry any more.
	RetainedUntil string `json:"retainedUntil,omitempty"`
}

// Key of the entry.
func (e Entry) Key() Key { return Key{e.Name, e.Version} }

// Pending says whether the entry is declared but not available yet.
func (e Entry) Pending() bool { return e.SHA256 == "" }

// Superseded is a module that was replaced under its path and is still served by its content.
type Superseded struct {
	SHA256        string `json:"sha256"`
	Size          int64  `json:"size"`
	RetainedUntil string `json:"retainedUntil"`
}

// Catalog is what one plugin server must serve.
type Catalog struct {
	// Sequence grows with every new revision of one server, so that of two
	// catalogs a pod knows the newer one. It is not part of the revision.
	Sequence int64
	// Entries, ordered by key, each key once.
	Entries []Entry
	// Superseded, ordered by SHA256, each once.
	Superseded []Superseded
}

// Normalize orders the catalog.
func (c *Catalog) Normalize() {
	slices.SortFunc(c.Entries, func(a, b Entry) int { return a.Key().Compare(b.Key()) })
	slices.SortFunc(c.Superseded, func(a, b Superseded) int { return cmp.Compare(a.SHA256, b.SHA256) })
}

// Blobs gives the size of every module that the catalog names, by SHA256.
func (c *Catalog) Blobs() map[string]int64 {
	blobs := make(map[string]int64, len(c.Entries)+len(c.Superseded))
	for _, e := range c.Entries {
		if !e.Pending() {
			blobs[e.SHA256] = e.Size
		}
	}
	for _, s := range c.Superseded {
		blobs[s.SHA256] = s.Size
	}
	return blobs
}

// FormatTime writes a time as it stands in a catalog.
func FormatTime(t time.Time) string { return t.UTC().Truncate(time.Second).Format(time.RFC3339) }
