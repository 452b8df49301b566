package pipeline

import (
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// follow asks to look where the URLs lead.
func follow(urls ...string) []Item {
	items := want(urls...)
	for i := range items {
		items[i].Follow = true
	}
	return items
}

func TestFollowing(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		items := follow(a, c)
		b.Want("o", time.Minute, items)
		b.pass(2 * time.Second)
		b.notified()
		if r := b.Want("o", time.Minute, items)[0]; r.Latest != digestOf(a) {
			t.Errorf("fetched by its tag, the digest is known: %+v", r)
		}
		b.pass(5 * time.Minute)
		if n := b.registry.checked(a); n < 4 || n > 6 {
			t.Errorf("%d looks in five intervals", n)
		}
		if n := b.notified(); len(n) != 0 || b.registry.count() != 2 {
			t.Errorf("nothing changed, and %v was told, %d fetched", n, b.registry.count())
		}

		b.registry.move(a, digestOf("moved"))
		b.pass(2 * time.Minute)
		got := b.Want("o", time.Minute, items)
		if got[0].Latest != digestOf("moved") || got[0].Artifact.Digest != digestOf(a) || got[0].State != Fetched || got[1].Latest != digestOf(c) {
			t.Errorf("a tag moved: %+v", got)
		}
		if n := b.notified(); len(n) != 1 {
			t.Errorf("told %v", n)
		}

		b.registry.fault(c, upstream(failure.Unauthorized))
		b.pass(2 * time.Minute)
		if got = b.Want("o", time.Minute, items); got[1].CheckErr == nil || got[1].State != Fetched || got[1].Err != nil || got[1].Latest != digestOf(c) {
			t.Errorf("a look that failed takes nothing away: %+v", got[1])
		}
		if n := b.notified(); len(n) == 0 {
			t.Error("the owner was not told, who may have a new login")
		}
		b.registry.fault(c, nil)
		b.pass(2 * time.Minute)
		if got = b.Want("o", time.Minute, items); got[1].CheckErr != nil {
			t.Errorf("recovered: %+v", got[1])
		}
	})
}

// What is not followed is left alone, also where that changes later.
func TestNotFollowing(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		b.Want("o", time.Minute, want(a))
		b.pass(10 * time.Minute)
		if n := b.registry.checked(a); n != 0 {
			t.Errorf("%d looks", n)
		}
		b.Want("o", time.Minute, follow(a))
		b.pass(2 * time.Minute)
		if n := b.registry.checked(a); n < 1 {
			t.Errorf("%d looks once it is followed", n)
		}
		b.Want("o", time.Minute, want(a))
		before := b.registry.checked(a)
		b.pass(10 * time.Minute)
		if n := b.registry.checked(a); n != before {
			t.Errorf("%d looks more when it is not followed any more", n-before)
		}
	})
}

func TestRefresh(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		items := follow(a, c)
		b.registry.fault(c, upstream(failure.NotFound))
		b.Want("o", time.Hour, items)
		b.pass(2 * time.Second)
		b.registry.fault(c, nil)
		b.registry.move(a, digestOf("moved"))
		b.Refresh("o")
		b.Refresh("nobody")
		b.pass(2 * time.Second)
		if got := b.Want("o", time.Hour, items); got[0].Latest != digestOf("moved") || got[1].State != Fetched {
			t.Errorf("%+v", got)
		}
	})
}

// A look that is under way when the store loses the module does not keep it
// from being fetched again.
func TestLossWhileFollowing(t *testing.T) {
	inBubble(t, Options{}, func(t *testing.T, b *bench) {
		items := follow(a)
		b.Want("o", time.Minute, items)
		b.pass(2 * time.Second)
		b.lose()
		b.Refresh("o")
		b.Missing(shaOf(a))
		b.pass(2 * time.Second)
		if got := b.Want("o", time.Minute, items)[0]; got.State != Fetched || b.registry.count() != 2 {
			t.Errorf("%+v after %d fetches", got, b.registry.count())
		}
	})
}
