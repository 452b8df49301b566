// Package pipeline decides when what is fetched. It is level-triggered: owners
// declare the whole of what they want as often as they like, and hear when
// there is something new to know.
package pipeline

import (
	"cmp"
	"context"
	"io"
	"sync"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// Defaults of Options, and of the interval of an owner.
const (
	DefaultWorkers    = 8
	DefaultPerHost    = 6 // what browsers allow themselves; registries are used to it
	DefaultMinBackoff = time.Second
	DefaultMaxBackoff = 5 * time.Minute
	DefaultInterval   = 10 * time.Minute
)

// copyEvery is the first pause before who serves a lost module is asked for it;
// it doubles each time, so many times at the most.
const (
	copyEvery    = 2 * time.Second
	maxCopyShift = 8
)

// State says how far an item has come.
type State string

const (
	// Pending means that the first fetch, or the fetch of what the store lost, has not ended yet.
	Pending State = "Pending"
	// Fetched means that the module is in the store.
	Fetched State = "Fetched"
	// Failed means that the last fetch failed.
	Failed State = "Failed"
)

// Kind is what stands at an item's URL.
type Kind int

const (
	// Module is the module of one plugin.
	Module Kind = iota
	// Image is a plugin server's image: all its modules are fetched at once.
	Image
	// Document is a list of plugins. It is not kept in the store, and what it
	// leads to now replaces what was read before.
	Document
)

// Item is something that an owner wants, mostly a plugin.
type Item struct {
	// Key is unique within an owner.
	Key catalog.Key
	// Kind is what stands at Request.URL.
	Kind Kind
	// Request says what to fetch. Request.Digest is for a digest that the caller
	// itself recorded, from a Result, for this URL and owner: then a module of that digest in
	// the store is taken without asking the registry.
	Request fetch.Request
	// Recorded are the modules that were recorded together with Request.Digest:
	// the SHA-256 by member, which is empty but for images. It lets Missing and Lost know of
	// an item that was fetched before the operator started.
	Recorded map[string]string
	// Follow asks to look each interval where the URL leads now. What was fetched
	// stays what it is.
	Follow bool
	// Renew asks to fetch what the URL leads to anew when it changes: the caller
	// puts the digest there that the URL leads to, and that it wants to have.
	Renew string
}

// Result is what is known of an item.
type Result struct {
	Key   catalog.Key
	State State
	// Artifact is what was fetched for this item, also while it is fetched
	// again; empty if nothing was since the request is as it is. Of images and documents
	// it has the digest alone.
	Artifact store.Artifact
	// Modules are those of an image; Skipped says what is left out of it, if it
	// was read by this process.
	Modules []store.Artifact
	Skipped []string
	// Content is that of a document.
	Content []byte
	// Err is why the last attempt failed; nil if it did not.
	Err *failure.Error
	// Ended says whether a first attempt has ended, one way or the other.
	Ended bool
	// Latest is the digest that the URL had at the last look; empty before it.
	Latest string
	// CheckErr is why the last look failed; nil if it did not.
	CheckErr *failure.Error
}

// Fetcher fetches into the store, but for documents; fetch.Fetcher does.
type Fetcher interface {
	Fetch(ctx context.Context, r fetch.Request) (store.Artifact, error)
	FetchImage(ctx context.Context, r fetch.Request) (fetch.Image, error)
	FetchDocument(ctx context.Context, r fetch.Request) (fetch.Document, error)
	Resolve(ctx context.Context, r fetch.Request) (digest string, err error)
}

// Options of a Queue. Zero values mean the defaults.
type Options struct {
	// Workers is the number of fetches at the same time.
	Workers int
	// PerHost is the number of fetches at the same time from one registry.
	PerHost int
	// Notify is called after the state of an owner's items has changed, never
	// under a lock, from any goroutine. It should be quick. Call Want for what is new.
	Notify func(owner string)
	// Copies gives the module with a hash from somebody who serves it, where what
	// was recorded is lost and its origin does not give it; nil where there is nobody.
	Copies func(ctx context.Context, sha256 string) (io.ReadCloser, error)
	// MinBackoff and MaxBackoff are the first and the longest pause after a
	// failure that goes away by itself.
	MinBackoff time.Duration
	MaxBackoff time.Duration
}

// Queue fetches what is wanted, a bounded number at a time. Its methods do not
// block and may be called concurrently.
type Queue struct {
	fetcher Fetcher
	store   *store.Store
	options Options
	wake    chan struct{} // has one place: something may have become due

	mu      sync.Mutex
	owners  map[string]*owner
	flights map[identity]*flight // running, or waiting for a worker
	waiting []*flight            // in the order in which they became due
	running int
	perHost map[string]int
}

// owner is somebody who wants items.
type owner struct {
	name     string
	interval time.Duration
	items    map[catalog.Key]*item
	running  int // flights that were started for it, for fairness
}

// New makes a Queue. It fetches nothing before Run.
func New(f Fetcher, s *store.Store, o Options) *Queue {
	o.Workers = cmp.Or(o.Workers, DefaultWorkers)
	o.PerHost = cmp.Or(o.PerHost, DefaultPerHost)
	o.MinBackoff = cmp.Or(o.MinBackoff, DefaultMinBackoff)
	o.MaxBackoff = cmp.Or(o.MaxBackoff, DefaultMaxBackoff)
	if o.Notify == nil {
		o.Notify = func(string) {}
	}
	return &Queue{
		fetcher: f, store: s, options: o, wake: make(chan struct{}, 1),
		owners: map[string]*owner{}, flights: map[identity]*flight{}, perHost: map[string]int{},
	}
}

// Want declares everything that an owner wants, and says what is known of it,
// in the order of items. New items, and those whose request differs in
// anything, credentials included, are queued at once; those that are gone are cancelled and
// forgotten; the others keep their state, but are queued again if the store has
// lost their module. Of several items with one key the first counts. interval
// is the pause between attempts where the other side has to change something; 0 is DefaultInterval.
func (q *Queue) Want(name string, interval time.Duration, items []Item) []Result {
	q.mu.Lock()
	defer q.mu.Unlock()
	o := q.owners[name]
	if o == nil {
		o = &owner{name: name, items: map[catalog.Key]*item{}}
		q.owners[name] = o
	}
	o.interval = cmp.Or(max(interval, 0), DefaultInterval)
	now := time.Now()

	declared := make(map[catalog.Key]*item, len(items))
	results := make([]Result, 0, len(items))
	var identify identifier
	for _, wanted := range items {
		it := declared[wanted.Key]
		if it == nil {
			it = o.items[wanted.Key]
			if id := identify.of(wanted); it == nil || it.id != id {
				q.cancel(it)
				it = q.newItem(o, wanted, id)
			}
			declared[wanted.Key] = it
			it.recorded = wanted.Recorded
			it.setFollow(wanted.Follow)
			it.limitPause(now)
			q.recheck(it)
		}
		results = append(results, it.result(wanted.Key))
	}
	for key, it := range o.items {
		if declared[key] != it {
			q.cancel(it)
		}
	}
	o.items = declared
	q.poke()
	return results
}

// Refresh has everything of an owner looked at again at once: what is followed
// is checked, and what failed is tried again.
func (q *Queue) Refresh(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	o := q.owners[name]
	if o == nil {
		return
	}
	for _, it := range o.items {
		if it.flight == nil && !it.due.IsZero() {
			it.due, it.copying = time.Now(), false
		}
	}
	q.poke()
}

// Forget cancels and forgets everything that an owner wanted.
func (q *Queue) Forget(name string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if o := q.owners[name]; o != nil {
		for _, it := range o.items {
			q.cancel(it)
		}
		delete(q.owners, name)
	}
	q.poke()
}

// Missing says that somebody asked for a module that the store does not have.
// Items that had it are queued to fetch it again. known says whether there are any.
func (q *Queue) Missing(sha256 string) (known bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for it := range q.having(sha256) {
		known = true
		q.recheck(it)
	}
	q.poke()
	return known
}

// Lost says whether a module is gone for good as far as one can see: the store
// does not have it, and every item that had it was tried again, and failed
// with something that does not go away by itself.
func (q *Queue) Lost(sha256 string) bool {
	if _, there := q.store.Stat(sha256); there {
		return false
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	lost := false
	for it := range q.having(sha256) {
		if !it.lasting(q.options) {
			return false
		}
		lost = true
	}
	return lost
}

// having gives the items whose module has this hash.
func (q *Queue) having(sha256 string) map[*item]struct{} {
	found := map[*item]struct{}{}
	for _, o := range q.owners {
		for _, it := range o.items {
			if sha256 != "" && it.has(sha256) {
				found[it] = struct{}{}
			}
		}
	}
	return found
}

// poke lets Run look what is due.
func (q *Queue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
