package publish_test

import (
	"fmt"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
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
