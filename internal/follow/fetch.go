package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/publish"
)

const (
	// maxPause is the longest pause before something that failed is tried again.
	maxPause = 5 * time.Second
	// laterPause is the longest pause where the origin says that the module is on
	// its way.
	laterPause = 3 * time.Second
	// fullPause is the pause after a module did not fit.
	fullPause = 20 * time.Second
	// laterPatience is how long the operator's word is taken that a module is on its
	// way, before siblings are asked for it: they usually wait for the same.
	laterPatience = 15 * time.Second
	// siblingPause is the longest pause before siblings are asked for a module
	// again: nothing new comes to them while the operator is away.
	siblingPause = 30 * time.Second
)

// Origin is a place that has modules.
type Origin interface {
	// Open gives the gzip of a module. ErrLost says that it cannot be had any
	// more, from anywhere; ErrLater that it is on its way. Reads end when ctx does.
	Open(ctx context.Context, sha256 string) (io.ReadCloser, error)
}

var (
	// ErrLost says that a module cannot be had any more, from anywhere.
	ErrLost = errors.New("the module is lost for good")
	// ErrLater says that a module is known but has not arrived at the origin yet.
	ErrLater = errors.New("the module has not arrived yet")
)

// module is a module of the target.
type module struct {
	spare    bool // only retained or superseded
	sha256   string
	size     int64
	there    bool // on the volume
	lost     bool // the operator says so; it is asked for again nevertheless
	running  bool
	attempts int // that failed
	due      time.Time
	err      error
	cancel   context.CancelFunc

	asked         time.Time // for the first time
	siblingsAsked int       // times
	siblingsDue   time.Time // not asked before
}

// lose has the module fetched as if for the first time.
func (m *module) lose() {
	m.there, m.attempts, m.due = false, 0, time.Time{}
	m.asked, m.siblingsAsked, m.siblingsDue = time.Time{}, 0, time.Time{}
}

// attempt is what an attempt to fetch a module may do.
type attempt struct {
	sha256   string
	size     int64
	patient  bool // where it is on its way, nobody else is asked
	siblings bool // siblings may be asked
}

// arrival is the end of an attempt to fetch a module.
type arrival struct {
	module   *module
	siblings bool // were asked, too
	err      error
}

// plan lists the modules of the target: those of entries first, in order, then
// the superseded ones. What is known of a module stays known; attempts for modules that
// nobody wants any more are ended.
func (f *Follower) plan() {
	before := make(map[string]*module, len(f.wanted))
	for _, m := range f.wanted {
		before[m.sha256] = m
	}
	f.wanted = nil
	seen := map[string]*module{}
	want := func(sha256 string, size int64, spare bool) {
		if m := seen[sha256]; m != nil {
			m.spare = m.spare && spare
			return
		}
		m := before[sha256]
		if m == nil || m.size != size {
			m = &module{sha256: sha256, size: size}
		} else {
			delete(before, sha256)
			m.attempts, m.due = 0, time.Time{}
		}
		seen[sha256], m.spare = m, spare
		m.there = f.options.Volume.Has(sha256, size)
		f.wanted = append(f.wanted, m)
	}
	for _, e := range f.target.Entries {
		if !e.Pending() {
			want(e.SHA256, e.Size, e.RetainedUntil != "")
		}
	}
	for _, s := range f.target.Superseded {
		want(s.SHA256, s.Size, true)
	}
	for _, m := range before {
		if m.running {
			m.cancel()
		}
	}
}

// complete says whether nothing is left to wait for before the first
// generation. What no source declares any more is tried, and not waited for: the operator
// may have nobody left to ask for it.
func (f *Follower) complete() bool {
	for _, m := range f.wanted {
		if !m.there && !m.lost && (!m.spare || m.attempts == 0) {
			return false
		}
	}
	return true
}

// fetch begins to fetch what is due, as much at once as is allowed.
func (f *Follower) fetch(ctx context.Context) {
	now := time.Now()
	for _, m := range f.wanted {
		if f.running >= f.options.Parallel {
			return
		}
		if m.there || m.running || now.Before(m.due) {
			continue
		}
		fetching, cancel := context.WithCancel(ctx)
		m.running, m.cancel = true, cancel
		if m.asked.IsZero() {
			m.asked = now
		}
		try := attempt{m.sha256, m.size, now.Sub(m.asked) < laterPatience, !now.Before(m.siblingsDue)}
		f.running++
		f.workers.Go(func() {
			defer cancel()
			siblings, err := f.fetchOne(fetching, try)
			f.arrived <- arrival{m, siblings, err}
		})
	}
}

// fetchOne asks the origins in turn, and then siblings. If none has the module,
// it is lost as soon as an origin says so; else the first failure counts. A full
// volume ends it at once.
func (f *Follower) fetchOne(ctx context.Context, try attempt) (siblings bool, err error) {
	var failed error
	for _, origin := range f.options.Origins {
		err := f.fetchFrom(ctx, origin, try.sha256, try.size)
		if err == nil || isFull(err) {
			return false, err
		}
		if failed == nil || errors.Is(err, ErrLost) {
			failed = err
		}
	}
	if failed == nil {
		failed = errors.New("there is nobody to ask for modules")
	}
	if !try.siblings || (try.patient && errors.Is(failed, ErrLater)) {
		return false, failed
	}
	for _, sibling := range f.options.Siblings.some(ctx) {
		err := f.fetchFrom(ctx, sibling, try.sha256, try.size)
		if err == nil || isFull(err) {
			return true, err
		}
		if errors.Is(err, publish.ErrDamaged) {
			f.logger.Warn("a sibling has a damaged module; it is not taken", "sibling", sibling.address.String(), "error", err)
		}
	}
	return true, failed
}

func isFull(err error) bool {
	var full *publish.FullError
	return errors.As(err, &full)
}

func (f *Follower) fetchFrom(ctx context.Context, origin Origin, sha256 string, size int64) error {
	began := time.Now()
	body, err := origin.Open(ctx, sha256)
	if err != nil {
		return err
	}
	defer body.Close()
	if err := f.options.Volume.PutGzip(ctx, sha256, size, body); err != nil {
		return err
	}
	f.logger.Info("module arrived", "sha256", sha256, "size", size, "duration", time.Since(began).Round(time.Millisecond).String())
	return nil
}

// settle takes note of how an attempt ended.
func (f *Follower) settle(a arrival) {
	f.running--
	m := a.module
	m.running = false
	if a.siblings {
		m.siblingsAsked++
		m.siblingsDue = time.Now().Add(backoff(m.siblingsAsked, time.Second, siblingPause))
	}
	switch {
	case a.err == nil:
		m.there, m.lost, m.err = true, false, nil
		f.dirty = true
	case isFull(a.err):
		m.err, m.attempts = a.err, m.attempts+1
		m.due = time.Now().Add(jittered(fullPause))
	case errors.Is(a.err, ErrLater):
		m.err, m.lost, m.attempts = a.err, false, m.attempts+1
		m.due = time.Now().Add(backoff(m.attempts, 250*time.Millisecond, laterPause))
	default:
		m.err, m.lost, m.attempts = a.err, errors.Is(a.err, ErrLost), m.attempts+1
		m.due = time.Now().Add(backoff(m.attempts, 250*time.Millisecond, maxPause))
	}
	if m.err != nil && m.attempts == 1 {
		f.logger.Warn("cannot fetch a module; it is tried again", "sha256", m.sha256, "error", m.err)
	}
	if f.current == nil && f.complete() {
		f.dirty = true
	}
	f.problems.set("fetching", f.fetchProblem())
}

// fetchProblem is a sentence about the modules that do not arrive. What is only
// on its way is no problem.
func (f *Follower) fetchProblem() string {
	var failing, lost, unfit int
	var needed int64
	var first error
	var full *publish.FullError // the largest of those that do not fit
	for _, m := range f.wanted {
		if m.there || m.err == nil {
			continue
		}
		var fullError *publish.FullError
		switch {
		case errors.As(m.err, &fullError):
			needed += fullError.Needed
			unfit++
			if full == nil || fullError.Needed > full.Needed {
				full = fullError
			}
		case m.lost:
			lost++
		case errors.Is(m.err, ErrLater), m.attempts < 3:
		default:
			failing++
			if first == nil {
				first = m.err
			}
		}
	}
	var all sentences
	if full != nil {
		together := ""
		if unfit > 1 {
			together = fmt.Sprintf(" (for all %d modules that do not fit: %d MiB)", unfit, mebibytes(needed)>>20)
		}
		all.add("%s%s%s", full, together, advice(full))
	}
	if failing > 0 {
		all.add("%d modules cannot be fetched: %s", failing, first)
	}
	if lost > 0 {
		all.add("%d modules are lost: neither the operator nor their registry has them any more", lost)
	}
	return all.String()
}

// advice says what helps against an error, if the user can help.
func advice(err error) string {
	var full *publish.FullError
	switch {
	case !errors.As(err, &full):
		return ""
	case full.Limit == 0:
		return "; free space there, or make it larger"
	}
	return "; raise spec.storage.sizeLimit, or serve fewer plugins: what is removed goes after spec.retention and ten minutes"
}

// backoff is the pause after so many failures: it doubles from first up to
// most, with a fifth of chance.
func backoff(failures int, first, most time.Duration) time.Duration {
	pause := first
	for range min(failures-1, 20) {
		pause = min(2*pause, most)
	}
	return jittered(pause)
}

func jittered(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.8 + 0.4*rand.Float64())) //nolint:gosec // jitter is no secret
}
