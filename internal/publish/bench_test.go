package publish_test

import (
	"fmt"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// BenchmarkPublish switches to a catalog of a thousand versions in which one
// is new: what a pod does when a plugin is added.
func BenchmarkPublish(b *testing.B) {
	v := publishtest.Open(b, b.TempDir(), 0)
	m := publishtest.New("a", "1", 5000, 1)
	publishtest.Put(b, v, m)
	c := &catalog.Catalog{}
	for i := range 1000 {
		e := m.Entry
		e.Name, e.Version = fmt.Sprintf("plugin-%d", i/4), fmt.Sprint(i%4)
		c.Entries = append(c.Entries, e)
	}
	publishtest.Publish(b, v, c)
	for b.Loop() {
		c.Sequence++
		c.Entries[0].Description = fmt.Sprint(c.Sequence)
		publishtest.Publish(b, v, c)
		if c.Sequence%50 == 0 {
			if err := v.Collect(farFuture, nil); err != nil {
				b.Fatal(err)
			}
		}
	}
}

// BenchmarkExamine looks at a thousand versions, as sync does every ten
// seconds.
func BenchmarkExamine(b *testing.B) {
	v := publishtest.Open(b, b.TempDir(), 0)
	c := &catalog.Catalog{}
	for i := range 1000 {
		m := publishtest.New(fmt.Sprintf("plugin-%d", i/4), fmt.Sprint(i%4), 1000, uint64(i))
		publishtest.Put(b, v, m)
		c.Entries = append(c.Entries, m.Entry)
	}
	publishtest.Publish(b, v, c)
	for b.Loop() {
		if err := v.Examine(b.Context(), func(d publish.Damage) { b.Errorf("%+v", d) }); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReread reads a module and its gzip again, as fast as it goes: what a
// mebibyte on the volume costs.
func BenchmarkReread(b *testing.B) {
	v := publishtest.Open(b, b.TempDir(), 0)
	m := publishtest.New("a", "1", 32<<20, 1)
	publishtest.Put(b, v, m)
	publishtest.Publish(b, v, publishtest.Catalog(1, m))
	b.SetBytes(int64(len(m.Bytes) + len(m.Gzip)))
	for b.Loop() {
		if err := v.Reread(b.Context(), 0, func(d publish.Damage) { b.Errorf("%+v", d) }); err != nil {
			b.Fatal(err)
		}
	}
}
