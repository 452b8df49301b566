package pipeline

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// flight is one fetch, for all items with the same request.
type flight struct {
	id      identity
	request fetch.Request
	// recorded are the modules that were recorded for the request's digest, see Item.Recorded.
	recorded map[string]string
	host     string
	owner    *owner // that it was started for
	items    map[*item]struct{}
	cancel   context.CancelFunc // nil while it waits for a worker
}

// Run fetches until ctx is done. It returns when all its goroutines have ended.
// It must be called once.
func (q *Queue) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	defer workers.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-q.wake:
		case <-timer.C:
		}
		next := q.start(ctx, &workers)
		if !next.IsZero() {
			timer.Reset(time.Until(next))
		}
	}
}

// start starts what is due and has a place. It says when the next item becomes due.
func (q *Queue) start(ctx context.Context, workers *sync.WaitGroup) (next time.Time) {
	q.mu.Lock()
	defer q.mu.Unlock()
	now := time.Now()
	for _, o := range q.owners {
		for _, it := range o.items {
			switch {
			case it.due.IsZero():
			case !it.due.After(now):
				q.enqueue(it)
			case next.IsZero() || it.due.Before(next):
				next = it.due
			}
		}
	}
	for f := q.pick(); f != nil; f = q.pick() {
		flightCtx, cancel := context.WithCancel(ctx)
		f.cancel = cancel
		q.running++
		q.perHost[f.host]++
		f.owner.running++
		workers.Go(func() {
			defer cancel()
			found, err := q.fly(flightCtx, f)
			q.land(ctx, f, found, err)
		})
	}
	return next
}

// fly does what a flight is for.
func (q *Queue) fly(ctx context.Context, f *flight) (result found, err error) {
	switch {
	case f.id.copy:
		err = errNotCopied
	case f.id.kind == Document: // small, so that a look reads it as well
		var document fetch.Document
		document, err = q.fetcher.FetchDocument(ctx, f.request)
		result.artifact.Digest, result.content = document.Digest, document.Content
	case f.id.check:
		result.artifact.Digest, err = q.fetcher.Resolve(ctx, f.request)
	case f.id.kind == Image:
		var image fetch.Image
		image, err = q.fetcher.FetchImage(ctx, f.request)
		result.artifact.Digest, result.modules, result.skipped = image.Digest, image.Modules, image.Skipped
	default:
		result.artifact, err = q.fetcher.Fetch(ctx, f.request)
	}
	if err != nil && !f.id.check && q.options.Copies != nil {
		if copied, whole := q.restore(ctx, f); whole {
			return copied, nil
		}
	}
	return result, err
}

// errNotCopied says that nobody who serves a module gave it.
var errNotCopied = errors.New("nobody gives what they serve")

// restore takes modules that were recorded back from who serves them. It says
// whether all of them are there: that may be not so for a signed source, which wants to see
// the signature again; then the modules can at least be handed out.
func (q *Queue) restore(ctx context.Context, f *flight) (result found, whole bool) {
	if f.request.Digest == "" {
		return found{}, false
	}
	for member, sha256 := range f.recorded {
		if _, there := q.store.Artifact(f.request.Digest, member); there {
			continue
		}
		module, err := q.options.Copies(ctx, sha256)
		if err != nil {
			return found{}, false
		}
		blob, err := q.store.Put(ctx, module, sha256)
		if errors.Join(err, module.Close()) != nil {
			return found{}, false
		}
		if q.store.PutArtifact(store.Artifact{Digest: f.request.Digest, Member: member, Blob: blob, Copied: true}) != nil {
			return found{}, false
		}
	}
	return q.inStore(Item{Kind: f.id.kind, Request: f.request, Recorded: f.recorded})
}

// enqueue lets an item join the flight for its request, or wait for a worker with a new one.
func (q *Queue) enqueue(it *item) {
	it.due = time.Time{}
	id, request := it.attempt()
	f := q.flights[id]
	if f == nil {
		f = &flight{id: id, request: request, recorded: it.recorded, host: it.host, owner: it.owner, items: map[*item]struct{}{}}
		q.flights[id] = f
		q.waiting = append(q.waiting, f)
	}
	f.items[it] = struct{}{}
	it.flight = f
}

// pick takes the next flight that may start: of those whose host has a place,
// one of the owner that has the fewest running, so that a large source does not
// hold up a small one; the longest waiting of these.
func (q *Queue) pick() *flight {
	if q.running >= q.options.Workers {
		return nil
	}
	best := -1
	for i, f := range q.waiting {
		if q.perHost[f.host] < q.options.PerHost && (best < 0 || f.owner.running < q.waiting[best].owner.running) {
			best = i
		}
	}
	if best < 0 {
		return nil
	}
	f := q.waiting[best]
	q.waiting = slices.Delete(q.waiting, best, best+1)
	return f
}

// land hands the result of a flight to its items and tells their owners.
func (q *Queue) land(ctx context.Context, f *flight, result found, err error) {
	for _, owner := range q.settle(ctx, f, result, err) {
		q.options.Notify(owner)
	}
	q.poke()
}

// settle does what land does under the lock, and gives the owners to tell.
func (q *Queue) settle(ctx context.Context, f *flight, result found, err error) (owners []string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.running--
	if q.perHost[f.host]--; q.perHost[f.host] == 0 {
		delete(q.perHost, f.host)
	}
	f.owner.running--
	if q.flights[f.id] == f {
		delete(q.flights, f.id)
	}
	if ctx.Err() != nil {
		return nil // the end of the program says nothing about the registry
	}
	for it := range f.items {
		it.flight = nil
		switch {
		case f.id.copy && err != nil:
			it.notCopied(q.options)
			continue
		case f.id.check:
			if !it.checked(result, failure.Of(err), q.options) {
				continue
			}
		case err != nil:
			it.fail(failure.Of(err), q.options)
		default:
			it.succeed(result)
		}
		owners = append(owners, it.owner.name)
	}
	slices.Sort(owners)
	return slices.Compact(owners)
}

// cancel takes an item, which may be nil, out of its flight. A flight that nobody waits for is given up.
func (q *Queue) cancel(it *item) {
	if it == nil || it.flight == nil {
		return
	}
	f := it.flight
	it.flight = nil
	delete(f.items, it)
	if len(f.items) > 0 {
		return
	}
	// Whoever wants the same from now on gets a flight that is not given up.
	delete(q.flights, f.id)
	if f.cancel == nil {
		q.waiting = slices.DeleteFunc(q.waiting, func(w *flight) bool { return w == f })
		return
	}
	f.cancel()
}
