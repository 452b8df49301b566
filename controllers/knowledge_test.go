package controllers

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/types"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/serve"
)

var serverName = types.NamespacedName{Namespace: "n", Name: "s"}

// catalogOf makes a catalog of versions of plugin a; "" is pending.
func catalogOf(sequence int64, sha256ByVersion map[string]string) *catalog.Catalog {
	c := &catalog.Catalog{Sequence: sequence}
	for version, sha256 := range sha256ByVersion {
		c.Entries = append(c.Entries, catalog.Entry{Name: "a", Version: version, SHA256: sha256, Size: 1})
	}
	c.Normalize()
	return c
}

func keyA(version string) catalog.Key { return catalog.Key{Name: "a", Version: version} }

func TestKnowledgeServed(t *testing.T) {
	t.Parallel()
	old := catalogOf(1, map[string]string{"1": "aa", "2": "bb"})
	now := catalogOf(2, map[string]string{"1": "aa", "2": "cc", "3": "dd", "4": ""})
	serves := func(c *catalog.Catalog, missing ...string) serve.State {
		state := serve.State{Revision: c.Revision()}
		for _, version := range missing {
			state.Missing = append(state.Missing, serve.Missing{Name: "a", Version: version})
		}
		return state
	}
	type served = map[catalog.Key]string
	for name, c := range map[string]struct {
		states []serve.State
		want   served
	}{
		"no pods serve nothing":                    {nil, nil},
		"one pod: its catalog without the pending": {[]serve.State{serves(now)}, served{keyA("1"): "aa", keyA("2"): "cc", keyA("3"): "dd"}},
		"what a pod lacks is not served":           {[]serve.State{serves(now, "3")}, served{keyA("1"): "aa", keyA("2"): "cc"}},
		"only what all serve, with the same bytes": {[]serve.State{serves(now), serves(old)}, served{keyA("1"): "aa"}},
		"in the other order":                       {[]serve.State{serves(old), serves(now)}, served{keyA("1"): "aa"}},
		"each lacks another one":                   {[]serve.State{serves(now, "1"), serves(now, "3")}, served{keyA("2"): "cc"}},
		"a silent pod serves nothing that is known": {
			[]serve.State{serves(now), {}}, served{}},
		"nor does one with an unknown revision, and it comes first": {
			[]serve.State{{Revision: "unknown"}, serves(now)}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			k := &Knowledge{}
			k.wrote(serverName, "uid", old)
			k.wrote(serverName, "uid", now)
			got, _ := k.observed(serverName, "uid", c.states)
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("served (-want +got):\n%s", diff)
			}
			known, asked := k.Served(serverName)
			if diff := cmp.Diff(c.want, known); diff != "" || !asked {
				t.Errorf("remembered, asked = %v (-want +got):\n%s", asked, diff)
			}
		})
	}
}

func TestKnowledgeNews(t *testing.T) {
	t.Parallel()
	k := &Knowledge{}
	if _, asked := k.Served(serverName); asked {
		t.Error("a server that nobody observed was asked")
	}
	c := catalogOf(1, map[string]string{"1": "aa"})
	k.wrote(serverName, "uid", c)
	all, lacking := []serve.State{{Revision: c.Revision()}}, []serve.State{{Revision: c.Revision(), Missing: []serve.Missing{{Name: "a", Version: "1"}}}}
	for i, step := range []struct {
		uid    types.UID
		states []serve.State
		news   bool
	}{
		{"uid", nil, true}, // the first answer is news, whatever it is
		{"uid", nil, false},
		{"uid", all, true},
		{"uid", all, false},
		{"uid", lacking, true},
		{"uid", all, true},
		{"another", nil, true}, // a server of the same name is another one
	} {
		if _, news := k.observed(serverName, step.uid, step.states); (news != nil) != step.news {
			t.Errorf("step %d: news = %v, want %v", i, news != nil, step.news)
		}
	}
	// News are about what changed, and nothing else.
	next := catalogOf(2, map[string]string{"1": "aa", "2": "bb"})
	k.wrote(serverName, "another", next)
	_, news := k.observed(serverName, "another", []serve.State{{Revision: next.Revision()}})
	if news == nil || !news(keyA("1")) || !news(keyA("2")) {
		t.Error("what is served for the first time is no news")
	}
	third := catalogOf(3, map[string]string{"1": "aa", "2": "cc"})
	k.wrote(serverName, "another", third)
	if _, news = k.observed(serverName, "another", []serve.State{{Revision: third.Revision()}}); news == nil || news(keyA("1")) || !news(keyA("2")) {
		t.Error("another module is no news, or the same one is")
	}
}

func TestKnowledgeForgetsOldCatalogs(t *testing.T) {
	t.Parallel()
	k := &Knowledge{}
	first := catalogOf(0, map[string]string{"1": "aa"})
	k.wrote(serverName, "uid", first)
	known := func() bool {
		served, _ := k.observed(serverName, "uid", []serve.State{{Revision: first.Revision()}})
		return len(served) == 1
	}
	for i := range rememberedCatalogs - 1 {
		k.wrote(serverName, "uid", catalogOf(int64(i+1), map[string]string{"1": fmt.Sprint(i)}))
	}
	if !known() {
		t.Errorf("a catalog %d revisions back is forgotten", rememberedCatalogs-1)
	}
	k.wrote(serverName, "uid", first) // again the newest: remembered anew, and once
	for i := range rememberedCatalogs - 1 {
		k.wrote(serverName, "uid", catalogOf(int64(i+1), map[string]string{"1": fmt.Sprint("x", i)}))
	}
	if !known() {
		t.Error("a catalog that was written again is forgotten by its first time")
	}
	k.wrote(serverName, "uid", catalogOf(99, map[string]string{"1": "zz"}))
	if known() {
		t.Errorf("a catalog %d revisions back is remembered", rememberedCatalogs)
	}
}

// TestKnowledgeAnswered shows that a pod that is silent is taken at its last
// word for a while, and not for ever.
func TestKnowledgeAnswered(t *testing.T) {
	t.Parallel()
	k, began := &Knowledge{}, time.Now()
	said := serve.State{Revision: "r"}
	silent := []podState{{name: "p", err: errors.New("too slow")}, {name: "q", err: errors.New("too slow")}}
	for _, step := range []struct {
		why   string
		after time.Duration
		pods  []podState
		want  []serve.State
	}{
		{"it answers", 0, []podState{{name: "p", state: said}}, []serve.State{said}},
		{"it is silent, and another one always was", believed, silent, []serve.State{said, {}}},
		{"it is silent for too long", believed + time.Second, silent, []serve.State{{}, {}}},
	} {
		if diff := cmp.Diff(step.want, k.answered(serverName, "uid", step.pods, began.Add(step.after))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", step.why, diff)
		}
	}
}

func TestKnowledgeNewest(t *testing.T) {
	t.Parallel()
	one, two, three := catalogOf(1, nil), catalogOf(2, nil), catalogOf(3, nil)
	k := &Knowledge{}
	if got := k.newest(serverName, "uid", nil); got != nil {
		t.Errorf("newest of nothing = %v", got)
	}
	if got := k.newest(serverName, "uid", one); got != one {
		t.Error("what was read counts as long as nothing was written")
	}
	k.wrote(serverName, "uid", two)
	for name, c := range map[string]struct{ read, want *catalog.Catalog }{
		"the cache lags behind what was written": {one, two},
		"the ConfigMap is gone":                  {nil, two},
		"another operator wrote a newer one":     {three, three},
	} {
		if got := k.newest(serverName, "uid", c.read); got != c.want {
			t.Errorf("%s: sequence %d, want %d", name, got.Sequence, c.want.Sequence)
		}
	}
	if got := k.newest(serverName, "another", one); got != one {
		t.Error("a server that was made anew has another one's catalog")
	}
}

func TestKnowledgePolled(t *testing.T) {
	t.Parallel()
	k := &Knowledge{}
	if k.Polled(serverName, "p", "r") {
		t.Error("a poll for a server that does not exist is news")
	}
	k.wrote(serverName, "uid", catalogOf(1, nil))
	for i, step := range []struct {
		pod, revision string
		news          bool
	}{{"p", "r", true}, {"p", "r", false}, {"q", "r", true}, {"p", "s", true}, {"p", "s", false}} {
		if got := k.Polled(serverName, step.pod, step.revision); got != step.news {
			t.Errorf("step %d: news = %v, want %v", i, got, step.news)
		}
	}
	// Of a pod with a problem any poll may be the end of it.
	for _, state := range []serve.State{{SyncError: "full"}, {Missing: []serve.Missing{{Name: "a", Version: "1"}}}, {}} {
		k.observed(serverName, "uid", []serve.State{state, {}})
		if got, want := k.Polled(serverName, "p", "s"), state.SyncError != "" || len(state.Missing) > 0; got != want {
			t.Errorf("after %+v a poll is news = %v, want %v", state, got, want)
		}
	}
	for i := range 5000 {
		k.Polled(serverName, fmt.Sprint("invented-", i), "r")
	}
	if n := len(k.servers[serverName].polled); n > 1000 {
		t.Errorf("%d invented pods are remembered", n)
	}
	k.forget(serverName)
	if k.Polled(serverName, "p", "r") {
		t.Error("a poll for a forgotten server is news")
	}
}

func TestKnowledgeNamed(t *testing.T) {
	t.Parallel()
	k := &Knowledge{}
	k.wrote(serverName, "uid", catalogOf(1, map[string]string{"1": "aa"}))
	k.wrote(serverName, "uid", catalogOf(2, map[string]string{"1": "bb", "2": ""}))
	for sha256, want := range map[string]bool{"bb": true, "aa": false, "": false} {
		if got := k.Named(sha256); got != want {
			t.Errorf("Named(%q) = %v, want %v: only the newest catalog counts", sha256, got, want)
		}
	}
}

func TestWaitToWrite(t *testing.T) {
	t.Parallel()
	k := &Knowledge{}
	now := time.Unix(1_000_000, 0)
	for i := range writesAtOnce {
		if wait := k.waitToWrite("a", now); wait != 0 {
			t.Errorf("write %d of the burst waits %s", i, wait)
		}
	}
	if wait := k.waitToWrite("a", now); wait != time.Second {
		t.Errorf("the write after the burst waits %s, want 1s", wait)
	}
	if wait := k.waitToWrite("a", now); wait != time.Second {
		t.Errorf("asking again costs: it waits %s, want 1s", wait)
	}
	if wait := k.waitToWrite("b", now); wait != 0 {
		t.Errorf("another object waits %s", wait)
	}
	now = now.Add(400 * time.Millisecond)
	if wait := k.waitToWrite("a", now); wait < 599*time.Millisecond || wait > 601*time.Millisecond {
		t.Errorf("after 400ms it waits %s, want 600ms", wait)
	}
	now = now.Add(600 * time.Millisecond)
	if wait := k.waitToWrite("a", now); wait != 0 {
		t.Errorf("after a second it still waits %s", wait)
	}
	if wait := k.waitToWrite("a", now); wait != time.Second {
		t.Errorf("the next one waits %s, want 1s", wait)
	}
}

// TestKnowledgeConcurrently is for the race detector.
func TestKnowledgeConcurrently(t *testing.T) {
	t.Parallel()
	k := &Knowledge{}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			for n := range 100 {
				c := catalogOf(int64(n), map[string]string{"1": fmt.Sprint(i, n)})
				k.wrote(serverName, "uid", c)
				k.observed(serverName, "uid", []serve.State{{Revision: c.Revision()}, {Revision: c.Revision()}})
				served, _ := k.Served(serverName)
				for range served {
				}
				k.Polled(serverName, fmt.Sprint(i), fmt.Sprint(n))
				k.Named("x")
				k.newest(serverName, "uid", nil)
				k.waitToWrite("uid", time.Now())
			}
		})
	}
	all.Wait()
}
