package pipeline

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// registry fakes fetch.Fetcher: every URL is a module, unless a fault is set.
type registry struct {
	store *store.Store
	took  time.Duration // of a fetch

	mu      sync.Mutex
	faults  map[string]error
	asked   []fetch.Request
	checks  []fetch.Request
	moved   map[string]string   // digests of tags that moved, by URL
	images  map[string][]string // members, by URL
	running map[string]int      // by URL; "" is all
	most    map[string]int
}

// Resolve gives the digest of the URL, or the one that it was moved to.
func (r *registry) Resolve(_ context.Context, request fetch.Request) (string, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.checks = append(r.checks, request)
	if err := r.faults[request.URL]; err != nil {
		return "", err
	}
	if digest := r.moved[request.URL]; digest != "" {
		return digest, nil
	}
	return digestOf(request.URL), nil
}

// FetchImage gives the modules that were set for the URL, and puts them into the store.
func (r *registry) FetchImage(ctx context.Context, request fetch.Request) (fetch.Image, error) {
	if _, err := r.Fetch(ctx, request); err != nil {
		return fetch.Image{}, err
	}
	image := fetch.Image{Digest: digestOf(request.URL)}
	r.mu.Lock()
	members := r.images[request.URL]
	r.mu.Unlock()
	for _, member := range members {
		blob, err := r.store.Put(ctx, bytes.NewReader(moduleOf(member)), "")
		if err != nil {
			return fetch.Image{}, err
		}
		a := store.Artifact{Digest: image.Digest, Member: member, Blob: blob}
		if err := r.store.PutArtifact(a); err != nil {
			return fetch.Image{}, err
		}
		image.Modules = append(image.Modules, a)
	}
	return image, nil
}

// FetchDocument gives the digest of the URL, or the one that it was moved to, as the content.
func (r *registry) FetchDocument(ctx context.Context, request fetch.Request) (fetch.Document, error) {
	digest, err := r.Resolve(ctx, request)
	return fetch.Document{Digest: digest, Content: []byte(digest)}, err
}

func (r *registry) Fetch(ctx context.Context, request fetch.Request) (store.Artifact, error) {
	host, _, _ := strings.Cut(strings.TrimPrefix(request.URL, "oci://"), "/")
	r.mu.Lock()
	r.asked = append(r.asked, request)
	for _, name := range []string{"", host} {
		r.running[name]++
		r.most[name] = max(r.most[name], r.running[name])
	}
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.running[""]--
		r.running[host]--
	}()
	select {
	case <-time.After(r.took):
	case <-ctx.Done():
		return store.Artifact{}, failure.New(failure.Transient, failure.Unreachable, ctx.Err(), "interrupted")
	}
	r.mu.Lock()
	err := r.faults[request.URL]
	r.mu.Unlock()
	if err != nil {
		return store.Artifact{}, err
	}
	blob, err := r.store.Put(ctx, bytes.NewReader(moduleOf(request.URL)), request.SHA256)
	if err != nil {
		return store.Artifact{}, err
	}
	a := store.Artifact{Digest: digestOf(request.URL), Blob: blob}
	return a, r.store.PutArtifact(a)
}

func (r *registry) fault(url string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.faults[url] = err
}

func (r *registry) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.asked)
}

// checked is how often somebody looked where a URL leads.
func (r *registry) checked(url string) int {
	r.mu.Lock()
	defer r.mu.Unlock()
	n := 0
	for _, c := range r.checks {
		if c.URL == url {
			n++
		}
	}
	return n
}

// move lets a tag lead to another digest.
func (r *registry) move(url, digest string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.moved[url] = digest
}

func moduleOf(url string) []byte { return inspecttest.Filled(url) }

func shaOf(url string) string {
	sum := sha256.Sum256(moduleOf(url))
	return hex.EncodeToString(sum[:])
}

func digestOf(url string) string {
	sum := sha256.Sum256([]byte(url))
	return "sha256:" + hex.EncodeToString(sum[:])
}

func upstream(reason failure.Reason) error {
	return failure.New(failure.Upstream, reason, nil, "the registry says %s", reason)
}

func transient() error {
	return failure.New(failure.Transient, failure.Unreachable, nil, "the registry does not answer")
}

// bench is a queue that runs, with a fake registry, in a bubble of synctest.
type bench struct {
	*Queue
	t        *testing.T
	registry *registry
	store    *store.Store
	mu       sync.Mutex
	told     []string
}

// inBubble runs a test of a queue with a clock of its own.
func inBubble(t *testing.T, o Options, test func(t *testing.T, b *bench)) {
	t.Helper()
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(t.TempDir(), 0)
		if err != nil {
			t.Fatal(err)
		}
		b := &bench{t: t, store: s, registry: &registry{
			store: s, took: time.Second, faults: map[string]error{}, moved: map[string]string{}, images: map[string][]string{}, running: map[string]int{}, most: map[string]int{},
		}}
		o.Notify = func(owner string) {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.told = append(b.told, owner)
		}
		b.Queue = New(b.registry, s, o)
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error)
		go func() { ended <- b.Run(ctx) }()
		test(t, b)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run() = %v", err)
		}
	})
}

// pass lets time go by, and everything that is to happen in it happen.
func (b *bench) pass(d time.Duration) {
	time.Sleep(d)
	synctest.Wait()
}

func (b *bench) notified() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	told := b.told
	b.told = nil
	return told
}

// lose makes the store lose everything.
func (b *bench) lose() {
	b.t.Helper()
	if _, err := b.store.Collect(func(string) bool { return false }, 0); err != nil {
		b.t.Fatal(err)
	}
}

func want(urls ...string) (items []Item) {
	for _, url := range urls {
		items = append(items, Item{Key: catalog.Key{Name: url, Version: "1"}, Request: fetch.Request{URL: url}})
	}
	return items
}

// summary writes results down to compare them.
func summary(results []Result) (lines []string) {
	for _, r := range results {
		line := fmt.Sprintf("%s %s", r.Key.Name, r.State)
		if r.Ended {
			line += " ended"
		}
		if r.Artifact.SHA256 != "" {
			line += " has"
		}
		if r.Err != nil {
			line += " " + string(r.Err.Reason)
		}
		lines = append(lines, line)
	}
	return lines
}

func requireSummary(t *testing.T, when string, got []Result, want ...string) {
	t.Helper()
	if diff := cmp.Diff(want, summary(got)); diff != "" {
		t.Errorf("%s: unexpected results (-want +got):\n%s", when, diff)
	}
}

const (
	a = "oci://h/a:1"
	c = "oci://h/c:1"
	d = "oci://other/d:1"
)
