// Package publishtest makes modules for the tests of what publishes and serves
// them.
package publishtest

import (
	"bytes"
	"compress/gzip"
	"crypto/md5" // #nosec G501 -- metadata.txt shows it, nothing relies on it
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
	"github.com/higress-group/plugin-server-operator/internal/publish"
)

// Module is a module with what a catalog says of it.
type Module struct {
	Entry catalog.Entry
	Bytes []byte
	Gzip  []byte
}

// New makes a module of size bytes that looks like Wasm. The same seed gives
// the same bytes.
func New(name, version string, size int, seed uint64) Module {
	b := make([]byte, size)
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	// Repeated, so that a gzip of it is smaller, as those of modules are.
	block := b[:min(size, 20_000)]
	_, _ = rand.NewChaCha8(key).Read(block) // never fails
	for n := len(block); n < size; n *= 2 {
		copy(b[n:], b[:n])
	}
	inspecttest.Frame(b)
	sum, md5sum := sha256.Sum256(b), md5.Sum(b) // #nosec G401
	return Module{
		Entry: catalog.Entry{
			Name: name, Version: version, Size: int64(size),
			SHA256: hex.EncodeToString(sum[:]), MD5: hex.EncodeToString(md5sum[:]),
		},
		Bytes: b, Gzip: Gzip(b),
	}
}

// Gzip compresses b.
func Gzip(b []byte) []byte {
	var zipped bytes.Buffer
	w, _ := gzip.NewWriterLevel(&zipped, gzip.BestSpeed) // a valid level
	_, _ = w.Write(b)                                    // a buffer takes everything
	_ = w.Close()
	return zipped.Bytes()
}

// Catalog makes a catalog of modules.
func Catalog(sequence int64, modules ...Module) *catalog.Catalog {
	c := &catalog.Catalog{Sequence: sequence}
	for _, m := range modules {
		c.Entries = append(c.Entries, m.Entry)
	}
	c.Normalize()
	return c
}

// Open opens a volume and closes it with the test.
func Open(t testing.TB, dir string, limit int64) *publish.Volume {
	t.Helper()
	v, err := publish.Open(dir, limit)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := v.Close(); err != nil {
			t.Error(err)
		}
	})
	return v
}

// Put puts modules into a volume.
func Put(t testing.TB, v *publish.Volume, modules ...Module) {
	t.Helper()
	for _, m := range modules {
		if err := v.PutGzip(t.Context(), m.Entry.SHA256, m.Entry.Size, bytes.NewReader(m.Gzip)); err != nil {
			t.Fatal(err)
		}
	}
}

// Publish publishes a catalog.
func Publish(t testing.TB, v *publish.Volume, c *catalog.Catalog) *publish.Generation {
	t.Helper()
	g, err := v.Publish(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	return g
}

// Unzip undoes a gzip.
func Unzip(t testing.TB, zipped []byte) []byte {
	t.Helper()
	r, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
