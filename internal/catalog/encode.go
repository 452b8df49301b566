package catalog

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// ErrSchemaVersion says that a catalog is of a version this code does not know.
var ErrSchemaVersion = errors.New("catalog of an unknown schema version")

// document is the encoded form.
type document struct {
	SchemaVersion int   `json:"schemaVersion"`
	Sequence      int64 `json:"sequence"`
	content
}

type content struct {
	Entries    []Entry      `json:"entries"`
	Superseded []Superseded `json:"superseded,omitempty"`
}

// Revision is the hash of the content, in hexadecimal.
func (c *Catalog) Revision() string {
	c.Normalize()
	b, err := json.Marshal(content{c.Entries, c.Superseded})
	if err != nil { // strings and integers only: cannot happen
		panic(err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// Encode writes the catalog as gzipped JSON.
func (c *Catalog) Encode() ([]byte, error) {
	c.Normalize()
	plain, err := json.Marshal(document{SchemaVersion, c.Sequence, content{c.Entries, c.Superseded}})
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	zw, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return nil, err
	}
	_, err = zw.Write(plain)
	if err := errors.Join(err, zw.Close()); err != nil {
		return nil, err
	}
	// What Decode refuses must never be written.
	if len(c.Entries) > MaxEntries || len(plain) > MaxDecoded || b.Len() > MaxEncoded {
		return nil, fmt.Errorf("catalog of %d entries has %d bytes, %d encoded; at most %d, %d and %d are allowed: spread the sources over several PluginServers",
			len(c.Entries), len(plain), b.Len(), MaxEntries, MaxDecoded, MaxEncoded)
	}
	return b.Bytes(), nil
}

// Decode reads an encoded catalog and checks it: every name is safe as a path
// element, every hash well-formed, every key there once.
func Decode(encoded []byte) (*Catalog, error) {
	if len(encoded) > MaxEncoded {
		return nil, fmt.Errorf("catalog of %d bytes, %d are allowed", len(encoded), MaxEncoded)
	}
	zr, err := gzip.NewReader(bytes.NewReader(encoded))
	if err != nil {
		return nil, fmt.Errorf("catalog is not gzip: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(zr, MaxDecoded+1))
	if err != nil {
		return nil, fmt.Errorf("catalog is damaged: %w", err)
	}
	if len(b) > MaxDecoded {
		return nil, fmt.Errorf("catalog has more than %d bytes", MaxDecoded)
	}
	var version struct {
		SchemaVersion int `json:"schemaVersion"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return nil, fmt.Errorf("catalog is not JSON: %w", err)
	}
	if version.SchemaVersion != SchemaVersion {
		return nil, fmt.Errorf("%w: %d, this program knows %d", ErrSchemaVersion, version.SchemaVersion, SchemaVersion)
	}
	var d document
	if err := json.Unmarshal(b, &d); err != nil {
		return nil, fmt.Errorf("catalog does not have the form of version %d: %w", SchemaVersion, err)
	}
	c := &Catalog{Sequence: d.Sequence, Entries: d.Entries, Superseded: d.Superseded}
	if err := c.validate(); err != nil {
		return nil, err
	}
	return c, nil
}

func (c *Catalog) validate() error {
	if len(c.Entries) > MaxEntries {
		return fmt.Errorf("catalog of %d entries, %d are allowed", len(c.Entries), MaxEntries)
	}
	c.Normalize()
	for i, e := range c.Entries {
		if i > 0 && c.Entries[i-1].Key() == e.Key() {
			return fmt.Errorf("catalog names %s twice", e.Key())
		}
		if err := e.validate(); err != nil {
			return err
		}
	}
	for _, s := range c.Superseded {
		if !SHA256Pattern.MatchString(s.SHA256) || s.Size <= 0 {
			return fmt.Errorf("catalog has a malformed superseded module %q of %d bytes", s.SHA256, s.Size)
		}
	}
	return nil
}

func (e Entry) validate() error {
	switch {
	case !NamePattern.MatchString(e.Name):
		return fmt.Errorf("catalog has a malformed name %q", e.Name)
	case !VersionPattern.MatchString(e.Version):
		return fmt.Errorf("catalog has a malformed version %q of %s", e.Version, e.Name)
	case e.Pending():
		return nil
	case !SHA256Pattern.MatchString(e.SHA256):
		return fmt.Errorf("catalog has a malformed sha256 %q of %s", e.SHA256, e.Key())
	case e.Size <= 0:
		return fmt.Errorf("catalog has a size of %d for %s", e.Size, e.Key())
	}
	for _, t := range []string{e.Created, e.RetainedUntil} {
		if _, err := time.Parse(time.RFC3339, t); t != "" && err != nil {
			return fmt.Errorf("catalog has a malformed time %q for %s", t, e.Key())
		}
	}
	return nil
}
