package catalog

import (
	"bytes"
	"compress/gzip"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func hash(c string) string { return strings.Repeat(c, 64) }

func example() *Catalog {
	return &Catalog{
		Sequence: 7,
		Entries: []Entry{
			{Name: "b", Version: "1"}, // pending
			{
				Name: "a", Version: "1.0.0+x", SHA256: hash("a"), MD5: strings.Repeat("0", 32), Size: 12, Created: "2024-01-01T00:00:00Z",
				Description: "Text & \"more\" <of> it\u2028", Source: "oci://h/p:1", Digest: "sha256:" + hash("d"), RetainedUntil: "2026-01-01T00:00:00Z",
			},
		},
		Superseded: []Superseded{{SHA256: hash("c"), Size: 5, RetainedUntil: "2026-01-01T00:00:00Z"}, {SHA256: hash("b"), Size: 6}},
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]*Catalog{"everything": example(), "nothing": {}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			encoded, err := c.Encode()
			if err != nil {
				t.Fatal(err)
			}
			decoded, err := Decode(encoded)
			if err != nil {
				t.Fatal(err)
			}
			if decoded.Revision() != c.Revision() || decoded.Sequence != c.Sequence {
				t.Error("another catalog comes back")
			}
			if d := cmp.Diff(c.Entries, decoded.Entries); d != "" && len(c.Entries) > 0 {
				t.Error(d)
			}
			if d := cmp.Diff(c.Superseded, decoded.Superseded); d != "" {
				t.Error(d)
			}
		})
	}
}

// TestCanonical: the same content has the same bytes and the same revision, in
// whatever order it was written down, and any change has another revision.
func TestCanonical(t *testing.T) {
	t.Parallel()
	c, mixed := example(), example()
	slices.Reverse(mixed.Entries)
	slices.Reverse(mixed.Superseded)
	one, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if other, err := mixed.Encode(); err != nil || !bytes.Equal(one, other) || c.Revision() != mixed.Revision() {
		t.Errorf("the order makes a difference: %v", err)
	}
	later := example()
	later.Sequence++
	if later.Revision() != c.Revision() {
		t.Error("the sequence is part of the revision")
	}
	seen := map[string]string{c.Revision(): "nothing"}
	for what, change := range map[string]func(c *Catalog){
		"a version":             func(c *Catalog) { c.Entries[0].Version = "2" },
		"a module":              func(c *Catalog) { c.Entries[0].SHA256 = hash("f") },
		"a description":         func(c *Catalog) { c.Entries[0].Description = "" },
		"a retention":           func(c *Catalog) { c.Entries[0].RetainedUntil = "" },
		"one entry less":        func(c *Catalog) { c.Entries = c.Entries[:1] },
		"a superseded one less": func(c *Catalog) { c.Superseded = c.Superseded[:1] },
	} {
		changed := example()
		changed.Normalize()
		change(changed)
		if same, ok := seen[changed.Revision()]; ok {
			t.Errorf("%s and %s have the same revision", what, same)
		}
		seen[changed.Revision()] = what
	}
}

func pack(t testing.TB, document string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	if _, err := io.WriteString(w, document); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestDecodeRefuses(t *testing.T) {
	t.Parallel()
	entry := func(fields string) string {
		return `{"schemaVersion":1,"entries":[{"name":"a","version":"1",` + fields + `}]}`
	}
	named := func(name, version string) string {
		return fmt.Sprintf(`{"schemaVersion":1,"entries":[{"name":%q,"version":%q}]}`, name, version)
	}
	good := pack(t, `{"schemaVersion":1}`)
	for name, tt := range map[string]struct {
		encoded []byte
		says    string
	}{
		"no gzip":                {[]byte("hello"), "not gzip"},
		"nothing":                {nil, "not gzip"},
		"cut":                    {good[:len(good)-4], "damaged"},
		"too long":               {make([]byte, MaxEncoded+1), "are allowed"},
		"a bomb":                 {pack(t, strings.Repeat(" ", MaxDecoded+1)), "more than"},
		"no JSON":                {pack(t, "hello"), "not JSON"},
		"no version":             {pack(t, `{}`), "unknown schema version"},
		"another version":        {pack(t, `{"schemaVersion":2,"entries":"other"}`), "unknown schema version"},
		"another form":           {pack(t, `{"schemaVersion":1,"entries":"other"}`), "the form of version 1"},
		"a key twice":            {pack(t, `{"schemaVersion":1,"entries":[{"name":"a","version":"1"},{"name":"a","version":"1"}]}`), "a:1 twice"},
		"no name":                {pack(t, named("", "1")), "malformed name"},
		"a name that climbs":     {pack(t, named("..", "1")), "malformed name"},
		"a name with a slash":    {pack(t, named("a/b", "1")), "malformed name"},
		"a name in upper case":   {pack(t, named("A", "1")), "malformed name"},
		"a line break in a name": {pack(t, named("a\n", "1")), "malformed name"},
		"a long name":            {pack(t, named(strings.Repeat("a", 64), "1")), "malformed name"},
		"no key's version":       {pack(t, named("a", "")), "malformed version"},
		"a version that climbs":  {pack(t, named("a", "../x")), "malformed version"},
		"a hidden version":       {pack(t, named("a", ".x")), "malformed version"},
		"a short hash":           {pack(t, entry(`"sha256":"abc","size":1`)), "malformed sha256"},
		"a hash in upper case":   {pack(t, entry(`"sha256":"`+hash("A")+`","size":1`)), "malformed sha256"},
		"no size":                {pack(t, entry(`"sha256":"`+hash("a")+`"`)), "size of 0"},
		"a negative size":        {pack(t, entry(`"sha256":"`+hash("a")+`","size":-1`)), "size of -1"},
		"a malformed time":       {pack(t, entry(`"sha256":"`+hash("a")+`","size":1,"created":"yesterday"`)), "malformed time"},
		"a malformed end":        {pack(t, entry(`"sha256":"`+hash("a")+`","size":1,"retainedUntil":"soon"`)), "malformed time"},
		"a superseded path":      {pack(t, `{"schemaVersion":1,"superseded":[{"sha256":"../x","size":1}]}`), "malformed superseded"},
		"too many":               {pack(t, `{"schemaVersion":1,"entries":[`+strings.Repeat(`{},`, MaxEntries)+`{}]}`), "are allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c, err := Decode(tt.encoded)
			if err == nil || !strings.Contains(err.Error(), tt.says) || c != nil {
				t.Errorf("got %v", err)
			}
			if errors.Is(err, ErrSchemaVersion) != strings.Contains(tt.says, "unknown schema") {
				t.Errorf("a matter of the version? %v", err)
			}
		})
	}
}

// TestEncodeRefusesWhatDoesNotFit into a ConfigMap, and says what to do.
func TestEncodeRefusesWhatDoesNotFit(t *testing.T) {
	t.Parallel()
	c, random := &Catalog{}, rand.NewChaCha8([32]byte{})
	for i := range MaxEntries {
		noise := make([]byte, 400)
		_, _ = random.Read(noise) // never fails
		c.Entries = append(c.Entries, Entry{Name: "a", Version: fmt.Sprint(i), Description: hex.EncodeToString(noise)})
	}
	if _, err := c.Encode(); err == nil || !strings.Contains(err.Error(), "spread the sources") {
		t.Errorf("got %v", err)
	}
}

// FuzzDecode: run for 10 minutes without a finding on 2026-11-22.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"schemaVersion":1,"sequence":3,"entries":[{"name":"a","version":"1"}]}`))
	f.Add([]byte(`{"schemaVersion":1,"entries":[{"name":"a","version":"1","sha256":"` + hash("a") + `","size":3}],"superseded":[]}`))
	f.Add([]byte(`{"schemaVersion":2}`))
	f.Add([]byte(`{"schemaVersion":1,"entries":[null,{"name":".."}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		c, err := Decode(pack(t, string(document)))
		if err != nil {
			return
		}
		seen := map[Key]bool{}
		for _, e := range c.Entries {
			if seen[e.Key()] || strings.ContainsAny(e.Name+e.Version+e.SHA256, "/\\\n\x00") || strings.HasPrefix(e.Name, ".") || strings.HasPrefix(e.Version, ".") {
				t.Fatalf("took %+v", e)
			}
			seen[e.Key()] = true
		}
		encoded, err := c.Encode()
		if err != nil {
			t.Fatal(err)
		}
		again, err := Decode(encoded)
		if err != nil || again.Revision() != c.Revision() || again.Sequence != c.Sequence {
			t.Fatalf("another one comes back: %v", err)
		}
	})
}

// FuzzDecodeEncoded feeds the gzip itself.
func FuzzDecodeEncoded(f *testing.F) {
	encoded, err := example().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encoded)
	f.Fuzz(func(_ *testing.T, b []byte) { _, _ = Decode(b) }) // must not panic
}
