// Package follow keeps a volume up with the newest catalog of its server: it
// learns of catalogs from a file and from the operator, fetches the modules that
// the volume lacks, from the operator or else from siblings, and publishes. It
// looks for damage on the volume all the time, and mends it in the same way.
//
// What it may never do is to make what is served worse. The first generation of
// an empty volume waits for its modules, within bounds; every later one is published
// at once, serves the older module where the new one has not arrived, and is
// published again as modules arrive. What is damaged on the volume is the exception: it
// is served no longer, until it is there again.
package follow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/publish"
)

const (
	// publishEvery is the shortest time between two generations: modules that
	// arrive meanwhile are published together.
	publishEvery = 200 * time.Millisecond
	// tidyEvery is how often what is no longer needed is removed.
	tidyEvery = 30 * time.Second
	// DefaultReadyTimeout bounds the wait for the first generation.
	DefaultReadyTimeout = 2 * time.Minute
	// defaultParallel is the number of modules fetched at once.
	defaultParallel = 8
	// lookEvery is how often the catalog's file is looked at.
	lookEvery = time.Second
)

// Options of a Follower.
type Options struct {
	// Volume is brought up to the newest catalog.
	Volume *publish.Volume
	// CatalogFile is where a catalog stands, as catalog.Encode writes it; it may be
	// replaced at any time. Empty: there is none.
	CatalogFile string
	// Operator tells of new catalogs. Nil: nobody does.
	Operator *Operator
	// Origins are asked for modules, in this order.
	Origins []Origin
	// Siblings are asked for what no origin has. Nil: there are none.
	Siblings *Siblings
	// ReadyTimeout is how long the first generation of an empty volume waits for
	// its modules, from the first catalog on. Default: two minutes.
	ReadyTimeout time.Duration
	// Parallel is the number of modules fetched at once. Default: 8.
	Parallel int
	// RereadRate is how much of the volume is read again to find damage, in bytes a
	// second. Default: 256 KiB; a negative one reads nothing again.
	RereadRate int64
	// Logger is told what happens. Default: slog.Default().
	Logger *slog.Logger
}

// Follower brings a volume to the newest catalog. Run does the work; it may be
// called once.
type Follower struct {
	options Options
	logger  *slog.Logger

	offers  chan offer
	arrived chan arrival
	damages chan publish.Damage
	looks   time.Duration // examineEvery, except in tests
	rereads time.Duration // rereadEvery, except in tests
	workers sync.WaitGroup

	// What follows belongs to the goroutine of Run.

	target    *catalog.Catalog // the newest catalog; nil before the first
	revision  string           // of target
	current   *publish.Generation
	wanted    []*module // of target, in the order in which they are fetched
	running   int
	firstSeen time.Time       // of the first catalog
	dirty     bool            // there is something to publish
	published time.Time       // last attempt
	failures  int             // of publishing, in a row
	confirmed bool            // a catalog was offered: what is on the volume need not be the newest
	damaged   map[string]bool // modules by SHA-256 and other files by path, until they are mended
	problems  problems
	position  position
}

// offer is what a place says: its catalog, why it has none that can be used,
// or, with neither, that there is nothing new.
type offer struct {
	place   string
	catalog *catalog.Catalog
	err     error
}

// New makes a Follower.
func New(o Options) *Follower {
	if o.ReadyTimeout == 0 {
		o.ReadyTimeout = DefaultReadyTimeout
	}
	if o.Parallel == 0 {
		o.Parallel = defaultParallel
	}
	if o.RereadRate == 0 {
		o.RereadRate = DefaultRereadRate
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	f := &Follower{
		options: o, logger: o.Logger, damaged: map[string]bool{}, looks: examineEvery, rereads: rereadEvery,
		offers: make(chan offer), arrived: make(chan arrival, o.Parallel), damages: make(chan publish.Damage),
	}
	f.problems = newProblems(o.Volume, o.Logger)
	f.position.moved = make(chan struct{})
	return f
}

// Run follows until ctx ends. Whatever goes wrong is written down and tried
// again.
func (f *Follower) Run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer f.workers.Wait()
	defer cancel()
	f.begin()
	if f.options.CatalogFile != "" {
		f.workers.Go(func() { f.watchFile(ctx) })
	}
	if f.options.Operator != nil {
		f.workers.Go(func() { f.poll(ctx) })
	}
	f.workers.Go(func() { f.guard(ctx, f.looks, f.options.Volume.Examine) })
	if rate := f.options.RereadRate; rate > 0 {
		f.workers.Go(func() {
			f.guard(ctx, f.rereads, func(ctx context.Context, found func(publish.Damage)) error {
				return f.options.Volume.Reread(ctx, rate, found)
			})
		})
	}
	tidy := time.NewTicker(tidyEvery)
	defer tidy.Stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		f.takeIn()
		f.fetch(ctx)
		f.publishIfDue(ctx)
		if f.problems.write() {
			f.position.tell()
		}
		timer.Reset(f.pause())
		select {
		case <-ctx.Done():
			return
		case o := <-f.offers:
			f.consider(o)
		case a := <-f.arrived:
			f.settle(a)
		case d := <-f.damages:
			f.repair(d)
		case <-tidy.C:
			f.tidy()
		case <-timer.C:
		}
	}
}

// takeIn takes in all that waits: where catalogs come as fast as one is
// published, modules that have arrived would keep their places else.
func (f *Follower) takeIn() {
	for {
		select {
		case a := <-f.arrived:
			f.settle(a)
		case o := <-f.offers:
			f.consider(o)
		default:
			return
		}
	}
}

// begin takes up where the last run ended.
func (f *Follower) begin() {
	current, err := f.options.Volume.Current()
	if err != nil {
		// Whatever it is, a new generation can only be better.
		f.logger.Error("the generation on the volume cannot be read; it is replaced by the next catalog", "error", err)
	}
	if current != nil {
		f.current = current
		f.position.set("", current.Revision)
		f.adopt(current.Catalog)
	}
}

// consider takes a catalog as the target if it is newer than the present one.
func (f *Follower) consider(o offer) {
	if o.err != nil {
		f.logger.Warn("cannot use the catalog; what is served stays", "place", o.place, "error", o.err)
		f.problems.set(o.place, o.err.Error())
		return
	}
	f.problems.set(o.place, "")
	if o.catalog == nil {
		return
	}
	f.confirmed = true
	revision := o.catalog.Revision()
	if f.target != nil && !newer(o.catalog.Sequence, revision, f.target.Sequence, f.revision) {
		f.problems.behind = f.problems.behind && f.dirty
		return
	}
	f.logger.Info("following another catalog", "place", o.place, "revision", revision, "sequence", o.catalog.Sequence, "entries", len(o.catalog.Entries))
	f.adopt(o.catalog)
}

// newer says whether a catalog comes after another one. Two different ones of
// the same sequence should not exist; all replicas then choose the same.
func newer(sequence int64, revision string, thanSequence int64, thanRevision string) bool {
	return sequence > thanSequence || (sequence == thanSequence && revision > thanRevision)
}

func (f *Follower) adopt(c *catalog.Catalog) {
	f.target, f.revision = c, c.Revision()
	if f.firstSeen.IsZero() {
		f.firstSeen = time.Now()
	}
	f.plan()
	f.problems.set("fetching", f.fetchProblem()) // without the modules that nobody wants any more
	f.dirty, f.published, f.failures = true, time.Time{}, 0
}

// publishIfDue publishes when there is something to publish and it is time.
func (f *Follower) publishIfDue(ctx context.Context) {
	if f.target == nil || !f.dirty || time.Until(f.due()) > 0 {
		return
	}
	g, err := f.options.Volume.Publish(ctx, f.target)
	f.published = time.Now()
	switch {
	case ctx.Err() != nil:
	case errors.Is(err, publish.ErrOlder):
		f.logger.Warn("somebody else has published a newer catalog on this volume")
		f.begin()
	case err != nil:
		f.failures++
		f.logger.Error("cannot publish; what is served stays", "revision", f.revision, "error", err)
		f.problems.behind = true
		f.problems.set("publishing", "cannot publish the catalog: "+err.Error()+advice(err))
	default:
		f.dirty, f.failures = false, 0
		f.problems.behind = f.problems.behind && !f.confirmed
		f.problems.set("publishing", "")
		if f.current == nil || f.current.ID != g.ID {
			f.logger.Info("published", "revision", g.Revision, "sequence", g.Catalog.Sequence, "plugins", len(g.Entries), "missing", len(g.Missing))
		}
		f.current = g
		f.position.set("", g.Revision)
		f.mended()
	}
}

// due is when the target is to be published, given that there is something to
// publish.
func (f *Follower) due() time.Time {
	switch {
	case f.failures > 0:
		return f.published.Add(backoff(f.failures, time.Second, maxPause))
	case f.current == nil && !f.complete():
		return f.firstSeen.Add(f.options.ReadyTimeout)
	}
	return f.published.Add(publishEvery)
}

// pause is how long nothing is to be done, unless something happens.
func (f *Follower) pause() time.Duration {
	next := time.Now().Add(time.Minute)
	if f.target != nil && f.dirty {
		next = earlier(next, f.due())
	}
	if f.running < f.options.Parallel {
		for _, m := range f.wanted {
			if !m.there && !m.running {
				next = earlier(next, m.due)
			}
		}
	}
	return max(time.Until(next), 0)
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

// tidy removes what is no longer needed and looks whether everything is there
// that should be, whether it is served or not.
func (f *Follower) tidy() {
	keep := map[string]bool{}
	for _, m := range f.wanted {
		keep[m.sha256] = true
	}
	if err := f.options.Volume.Collect(time.Now(), func(sha256 string) bool { return keep[sha256] }); err != nil {
		f.logger.Error("cannot remove what is no longer needed", "error", err)
	}
	for _, m := range f.wanted {
		if m.there && !f.options.Volume.Has(m.sha256, m.size) {
			f.repair(publish.Damage{Path: m.sha256, SHA256: m.sha256, Err: fmt.Errorf("%w: it is gone", publish.ErrDamaged)})
		}
	}
}
