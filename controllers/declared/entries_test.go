package declared_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// artifacts are what the store knows by digest and member.
type artifacts map[string]store.Artifact

func (a artifacts) find(digest, member string) (store.Artifact, bool) {
	found, ok := a[digest+member]
	return found, ok
}

func TestEntries(t *testing.T) {
	t.Parallel()
	p := plugin("a", "1")
	described := p
	described.Description = "by the  source"
	pinned := p
	pinned.SHA256 = "bb"
	moved := fetched(source("s", 0, 0, p), 0, "sha256:d", "aa")
	moved.Spec.Plugins = []v1alpha1.Plugin{{Name: "a", Version: "1", URL: "oci://elsewhere.example/a:1"}}
	repinned := fetched(source("s", 0, 0, p), 0, "sha256:d", "aa")
	repinned.Spec.Plugins = []v1alpha1.Plugin{pinned}

	inStore := artifacts{"sha256:d": {
		Digest: "sha256:d", Blob: store.Blob{SHA256: "aa", MD5: "5", Size: 7},
		Created: time.Date(2024, 1, 1, 1, 0, 0, 5, time.FixedZone("", 3600)), Description: "by the\nartifact",
	}}
	entry := catalog.Entry{
		Name: "a", Version: "1", SHA256: "aa", MD5: "5", Size: 7, Created: "2024-01-01T00:00:00Z",
		Description: "by the artifact", Source: p.URL, Digest: "sha256:d",
	}
	withDescription := entry
	withDescription.Description = "by the source"
	undated := entry
	undated.Created = ""
	old := entry
	old.SHA256, old.Digest = "cc", "sha256:c"
	retained := entry
	retained.RetainedUntil = "2026-01-01T00:00:00Z"
	pending := catalog.Entry{Name: "a", Version: "1"}

	for name, c := range map[string]struct {
		source   v1alpha1.PluginSource
		store    artifacts
		previous *catalog.Catalog
		want     catalog.Entry
	}{
		"fetched, and in the store":               {fetched(source("s", 0, 0, p), 0, "sha256:d", "aa"), inStore, nil, entry},
		"an artifact without a date":              {fetched(source("s", 0, 0, p), 0, "sha256:d", "aa"), artifacts{"sha256:d": {Digest: "sha256:d", Blob: inStore["sha256:d"].Blob, Description: "by the artifact"}}, nil, undated},
		"the source's description wins":           {fetched(source("s", 0, 0, described), 0, "sha256:d", "aa"), inStore, nil, withDescription},
		"never fetched":                           {source("s", 0, 0, p), inStore, nil, pending},
		"the url changed: what was found is void": {moved, inStore, nil, pending},
		"another module is expected now":          {repinned, inStore, nil, pending},
		"the store lost it, the catalog knows it": {fetched(source("s", 0, 0, p), 0, "sha256:d", "aa"), nil, &catalog.Catalog{Entries: []catalog.Entry{entry}}, entry},
		"the same, retained before":               {fetched(source("s", 0, 0, p), 0, "sha256:d", "aa"), nil, &catalog.Catalog{Entries: []catalog.Entry{retained}}, entry},
		"the store lost it, the catalog has an older module": {
			fetched(source("s", 0, 0, p), 0, "sha256:d", "aa"), nil, &catalog.Catalog{Entries: []catalog.Entry{old}}, pending},
		"it came back from a server, which knows no date": {
			fetched(source("s", 0, 0, p), 0, "sha256:d", "aa"), artifacts{"sha256:d": {Digest: "sha256:d", Blob: inStore["sha256:d"].Blob, Copied: true}},
			&catalog.Catalog{Entries: []catalog.Entry{entry}}, entry},
		"the store lost it, and nobody knows it": {fetched(source("s", 0, 0, p), 0, "sha256:d", "aa"), nil, nil, pending},
		"the store has another module under the digest": {
			fetched(source("s", 0, 0, p), 0, "sha256:d", "ff"), inStore, nil, pending},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got := declared.Entries([]v1alpha1.PluginSource{c.source}, c.store.find, c.previous)
			if diff := cmp.Diff([]catalog.Entry{c.want}, got); diff != "" {
				t.Errorf("entries (-want +got):\n%s", diff)
			}
		})
	}
}

// TestEntriesOfSeveralSources shows that the loser of a clash gives nothing,
// also while the winner has nothing to give.
func TestEntriesOfSeveralSources(t *testing.T) {
	t.Parallel()
	a, b := plugin("a", "1"), plugin("b", "1")
	inStore := artifacts{
		"sha256:a": {Digest: "sha256:a", Blob: store.Blob{SHA256: "aa", MD5: "5", Size: 7}},
		"sha256:b": {Digest: "sha256:b", Blob: store.Blob{SHA256: "bb", MD5: "6", Size: 8}},
	}
	older := source("older", 0, 0, a)
	younger := fetched(fetched(source("younger", 1, 0, b, a), 0, "sha256:b", "bb"), 1, "sha256:a", "aa")
	want := []catalog.Entry{
		{Name: "a", Version: "1"},
		{Name: "b", Version: "1", SHA256: "bb", MD5: "6", Size: 8, Source: b.URL, Digest: "sha256:b"},
	}
	got := declared.Entries([]v1alpha1.PluginSource{younger, older}, inStore.find, nil)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("entries, by key (-want +got):\n%s", diff)
	}
}
