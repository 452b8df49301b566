package pipeline

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync/atomic"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// served gives the modules of some URLs, as servers have them.
func served(urls ...string) func(context.Context, string) (io.ReadCloser, error) {
	return func(_ context.Context, sha256 string) (io.ReadCloser, error) {
		for _, url := range urls {
			if shaOf(url) == sha256 {
				return io.NopCloser(bytes.NewReader(moduleOf(url))), nil
			}
		}
		return nil, errors.New("nobody has it")
	}
}

// What was recorded comes back from who serves it while its origin does not
// give it; nothing else does, and no other bytes.
func TestCopies(t *testing.T) {
	inBubble(t, Options{Copies: served(a, "x:1", "y:1")}, func(t *testing.T, b *bench) {
		recorded, signed, image, fresh, lost := want(a)[0], want(a)[0], want(c)[0], want(a)[0], want(d)[0]
		for key, it := range map[string]*Item{"recorded": &recorded, "signed": &signed, "image": &image, "fresh": &fresh, "lost": &lost} {
			it.Key = catalog.Key{Name: key}
			it.Request.Digest, it.Recorded = digestOf(it.Request.URL), map[string]string{"": shaOf(it.Request.URL)}
			b.registry.fault(it.Request.URL, upstream(failure.Unauthorized))
		}
		image.Kind, image.Recorded = Image, map[string]string{"x:1": shaOf("x:1"), "y:1": shaOf("y:1")}
		signed.Request.Access.PublicKeys = []byte("keys")
		fresh.Request.Digest, fresh.Recorded = "", nil
		items := []Item{recorded, signed, image, fresh, lost}
		b.Want("o", time.Minute, items)
		b.pass(5 * time.Second)
		got := b.Want("o", time.Minute, items)
		requireSummary(t, "restored", got, "recorded Fetched ended has", "signed Failed ended Unauthorized", "image Fetched ended", "fresh Failed ended Unauthorized", "lost Failed ended Unauthorized")
		if !got[0].Artifact.Copied || len(got[2].Modules) != 2 || got[2].Artifact.Digest != digestOf(c) {
			t.Errorf("%+v and %+v", got[0].Artifact, got[2])
		}
		if b.Lost(shaOf(a)) || !b.Lost(shaOf(d)) {
			t.Error("what servers have is called lost, or what nobody has is not")
		}
	})
}

// Servers that are there later are asked again, and the origin only when its
// time has come.
func TestLateCopies(t *testing.T) {
	var there atomic.Bool
	copies := func(ctx context.Context, sha256 string) (io.ReadCloser, error) {
		if !there.Load() {
			return nil, errors.New("not yet")
		}
		return served(a)(ctx, sha256)
	}
	inBubble(t, Options{Copies: copies}, func(t *testing.T, b *bench) {
		items := want(a)
		items[0].Request.Digest, items[0].Recorded = digestOf(a), map[string]string{"": shaOf(a)}
		b.registry.fault(a, upstream(failure.Unauthorized))
		b.Want("o", time.Hour, items)
		b.pass(2 * time.Second)
		if b.Lost(shaOf(a)) {
			t.Error("it is called lost before who serves it was asked in peace")
		}
		b.pass(20 * time.Second)
		requireSummary(t, "nobody has it", b.Want("o", time.Hour, items), a+" Failed ended Unauthorized")
		there.Store(true)
		if !b.Lost(shaOf(a)) {
			t.Error("it is not called lost")
		}
		b.pass(time.Minute)
		requireSummary(t, "somebody has it", b.Want("o", time.Hour, items), a+" Fetched ended has")
		if b.registry.count() != 1 {
			t.Errorf("the origin was asked %d times", b.registry.count())
		}
	})
}

// A server that gives other bytes restores nothing.
func TestFalseCopies(t *testing.T) {
	other := func(context.Context, string) (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(moduleOf("other"))), nil
	}
	inBubble(t, Options{Copies: other}, func(t *testing.T, b *bench) {
		items := want(a)
		items[0].Request.Digest, items[0].Recorded = digestOf(a), map[string]string{"": shaOf(a)}
		b.registry.fault(a, transient())
		b.Want("o", time.Minute, items)
		b.pass(2 * time.Second)
		requireSummary(t, "other bytes", b.Want("o", time.Minute, items), a+" Failed ended Unreachable")
		if _, there := b.store.Stat(shaOf("other")); there {
			t.Error("other bytes are in the store")
		}
	})
}
