package pipeline

import (
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// members gives the modules of an image's result.
func members(r Result) (names []string) {
	for _, m := range r.Modules {
		if m.Digest == r.Artifact.Digest {
			names = append(names, m.Member)
		}
	}
	return names
}

// All modules of an image come by one fetch, and by one again when the store has lost one.
func TestImages(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		b.registry.images[a] = []string{"key-auth:1", "key-auth:2"}
		items := follow(a)
		items[0].Kind = Image
		b.Want("o", time.Minute, items)
		b.pass(2 * time.Second)
		got := b.Want("o", time.Minute, items)[0]
		if diff := cmp.Diff(b.registry.images[a], members(got)); diff != "" || got.State != Fetched || got.Latest != digestOf(a) || b.registry.count() != 1 {
			t.Fatalf("%+v, %d asked:\n%s", got, b.registry.count(), diff)
		}
		if !b.Wanted(shaOf("key-auth:2")) {
			t.Error("the store may throw a module away")
		}
		b.lose()
		if !b.Missing(shaOf("key-auth:2")) || b.Lost(shaOf("key-auth:2")) {
			t.Error("a module is not known, or lost before it was tried")
		}
		b.registry.move(a, digestOf("moved"))
		b.pass(2 * time.Second)
		if got := b.Want("o", time.Minute, items)[0]; got.State != Fetched || b.registry.count() != 2 || b.registry.asked[1].Digest != digestOf(a) {
			t.Errorf("%+v, asked for %v", got, b.registry.asked)
		}
		b.pass(2 * time.Minute)
		if got := b.Want("o", time.Minute, items)[0]; got.Latest != digestOf("moved") || got.Artifact.Digest != digestOf(a) || len(got.Modules) != 2 {
			t.Errorf("a tag moved: %+v", got)
		}
	})
}

// After a restart a recorded image is taken from the store, if it is whole.
func TestRecordedImages(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		b.registry.images[a] = []string{"x:1", "y:1"}
		items := want(a)
		items[0].Kind = Image
		b.Want("before", 0, items)
		b.pass(2 * time.Second)
		items[0].Request.Digest, items[0].Recorded = digestOf(a), map[string]string{"x:1": shaOf("x:1"), "y:1": shaOf("y:1")}
		if got := b.Want("after", 0, items)[0]; got.State != Fetched || len(got.Modules) != 2 || got.Artifact.Digest != digestOf(a) {
			t.Errorf("%+v", got)
		}
		for name, change := range map[string]func(map[string]string){
			"a module more":  func(m map[string]string) { m["z:1"] = shaOf("z:1") },
			"another module": func(m map[string]string) { m["x:1"] = shaOf("z:1") },
			"none":           func(m map[string]string) { clear(m) },
		} {
			changed := slices.Clone(items)
			changed[0].Recorded = maps.Clone(items[0].Recorded)
			change(changed[0].Recorded)
			if got := b.Want(name, 0, changed)[0]; got.State != Pending {
				t.Errorf("%s: %+v", name, got)
			}
		}
	})
}

// What a document leads to now replaces what was read before, and a failure does not.
func TestDocuments(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		items := follow(a)
		items[0].Kind = Document
		b.Want("o", time.Minute, items)
		b.pass(2 * time.Second)
		b.lose()
		if got := b.Want("o", time.Minute, items)[0]; got.State != Fetched || string(got.Content) != digestOf(a) {
			t.Fatalf("%+v", got)
		}
		b.notified()
		b.registry.move(a, digestOf("new"))
		b.pass(2 * time.Minute)
		if got := b.Want("o", time.Minute, items)[0]; string(got.Content) != digestOf("new") || got.Artifact.Digest != digestOf("new") || len(b.notified()) != 1 {
			t.Errorf("%+v", got)
		}
		b.registry.fault(a, upstream(failure.NotFound))
		b.pass(2 * time.Minute)
		if got := b.Want("o", time.Minute, items)[0]; string(got.Content) != digestOf("new") || got.State != Fetched || got.CheckErr == nil {
			t.Errorf("%+v", got)
		}
	})
}
