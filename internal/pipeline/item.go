package pipeline

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/reference"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// identity is a whole request, in a form that can be compared. It includes the
// access: two that ask for the same with other credentials share nothing, or else
// knowing a digest would be enough to get a private module.
type identity struct {
	kind                                     Kind
	url, alternatives, sha256, digest, renew string
	access                                   [sha256.Size]byte
	check                                    bool // only where the tag points to
	copy                                     bool // only from who serves it
}

// identifier hashes accesses. Items of one owner mostly have the same one, so it keeps the last.
type identifier struct {
	known bool
	last  fetch.Access
	hash  [sha256.Size]byte
}

func (i *identifier) of(wanted Item) identity {
	r := wanted.Request
	if !i.known || !i.last.Equal(r.Access) {
		encoded, err := json.Marshal(r.Access)
		if err != nil { // bytes and a bool: cannot happen
			panic(err)
		}
		i.known, i.last, i.hash = true, r.Access, sha256.Sum256(encoded)
	}
	return identity{wanted.Kind, r.URL, strings.Join(r.Alternatives, " "), r.SHA256, r.Digest, wanted.Renew, i.hash, false, false}
}

// found is what a fetch brought.
type found struct {
	artifact store.Artifact
	modules  []store.Artifact // of an image
	skipped  []string         // of an image
	content  []byte           // of a document
}

// item is one thing that an owner wants.
type item struct {
	owner    *owner
	id       identity
	request  fetch.Request
	recorded map[string]string
	host     string

	state    State
	found    // what was fetched
	err      *failure.Error
	ended    bool
	attempts int       // failed ones in a row
	due      time.Time // of the next attempt, or of the next check of what is fetched; zero if none is planned
	flight   *flight   // the attempt or check that runs or waits for a worker

	copies   int       // how often who serves it was to be asked
	copying  bool      // the next attempt is at who serves it, not at its origin
	origin   time.Time // when its origin is to be asked again, where that is so
	follow   bool
	latest   string         // digest at the last look
	checkErr *failure.Error // of the last check
}

// newItem makes an item and decides what has to happen with it.
func (q *Queue) newItem(o *owner, wanted Item, id identity) *item {
	it := &item{owner: o, id: id, request: wanted.Request, state: Pending, follow: wanted.Follow}
	var err error
	if it.host, err = reference.HostOf(wanted.Request.URL); err != nil {
		it.state, it.err, it.ended = Failed, failure.Of(err), true
		return it
	}
	// The caller recorded the digest for this URL itself; a digest in the URL, which anybody can write, does not do.
	if digest := wanted.Request.Digest; digest != "" && reference.Allows(wanted.Request.URL, digest) {
		if found, there := q.inStore(wanted); there {
			it.state, it.found, it.ended = Fetched, found, true
			it.planCheck(0)
			return it
		}
	}
	it.due = time.Now()
	return it
}

// inStore finds what was recorded in the store, all of it.
func (q *Queue) inStore(wanted Item) (f found, there bool) {
	r := wanted.Request
	if wanted.Kind == Module {
		f.artifact, there = q.store.Artifact(r.Digest, "")
		return f, there && (r.SHA256 == "" || r.SHA256 == f.artifact.SHA256) && f.artifact.SignedBy(r.Access.SignedBy())
	}
	f.artifact.Digest = r.Digest
	for member, sha256 := range wanted.Recorded {
		a, there := q.store.Artifact(r.Digest, member)
		if !there || a.SHA256 != sha256 || !a.SignedBy(r.Access.SignedBy()) {
			return found{}, false
		}
		f.modules = append(f.modules, a)
	}
	slices.SortFunc(f.modules, func(a, b store.Artifact) int { return strings.Compare(a.Member, b.Member) })
	return f, wanted.Kind == Image && len(f.modules) > 0
}

// has says whether the item has, or had, a module.
func (it *item) has(sha256 string) bool {
	same := func(a store.Artifact) bool { return a.SHA256 == sha256 }
	return same(it.artifact) || slices.ContainsFunc(it.modules, same) || slices.Contains(slices.Collect(maps.Values(it.recorded)), sha256)
}

// result is what the owner learns.
func (it *item) result(key catalog.Key) Result {
	return Result{
		Key: key, State: it.state, Err: it.err, Ended: it.ended,
		Artifact: it.artifact, Modules: it.modules, Skipped: it.skipped, Content: it.content,
		Latest: it.latest, CheckErr: it.checkErr,
	}
}

// recheck plans to fetch an item again whose module the store has lost.
func (q *Queue) recheck(it *item) {
	if it.state != Fetched || it.id.kind == Document {
		return // is, or will be, tried anyway; or is not in the store
	}
	lost := func(a store.Artifact) bool {
		_, there := q.store.Stat(a.SHA256)
		return !there
	}
	if slices.ContainsFunc(it.modules, lost) || it.id.kind == Module && lost(it.artifact) {
		q.cancel(it) // a check that is under way
		it.state, it.attempts, it.due = Pending, 0, time.Now()
	}
}

// planCopy plans to ask who serves a module that was recorded, and that its
// origin failed to give: it may be long until that is asked again.
func (it *item) planCopy(now time.Time, o Options) {
	it.origin, it.copying = time.Time{}, false
	if o.Copies == nil || len(it.recorded) == 0 || it.request.Digest == "" {
		return
	}
	next := now.Add(copyEvery << min(it.copies, maxCopyShift))
	if it.copies++; it.due.IsZero() || next.Before(it.due) {
		it.origin, it.due, it.copying = it.due, next, true
	}
}

// notCopied goes back to waiting for the origin, or for who serves the module.
func (it *item) notCopied(o Options) {
	it.due = it.origin
	it.planCopy(time.Now(), o)
}

// lasting says whether an item has failed for good as far as one can see.
func (it *item) lasting(o Options) bool {
	asked := o.Copies == nil || len(it.recorded) == 0 || it.copies > 1
	return it.state == Failed && asked && (it.err.Class == failure.Upstream || it.err.Class == failure.Spec)
}

// attempt is the next request: a check of what is fetched, else a fetch, where
// what was fetched once stays what it is.
func (it *item) attempt() (identity, fetch.Request) {
	id, request := it.id, it.request
	if it.state == Fetched {
		id.digest, request.Digest, id.check = "", "", true
		return id, request
	}
	id.copy = it.copying
	if it.artifact.Digest != "" {
		id.digest, request.Digest = it.artifact.Digest, it.artifact.Digest
	}
	return id, request
}

// succeed takes over the result of a fetch.
func (it *item) succeed(f found) {
	it.state, it.found, it.err, it.ended = Fetched, f, nil, true
	it.copies, it.copying = 0, false
	it.attempts, it.due = 0, time.Time{}
	if it.request.Digest == "" {
		it.latest, it.checkErr = f.artifact.Digest, nil
	}
	it.planCheck(0)
}

// planCheck plans the next look at where the tag points, after a pause of its
// own or, without one, after the owner's interval.
func (it *item) planCheck(pause time.Duration) {
	if it.follow {
		it.due = time.Now().Add(jitter(cmp.Or(pause, it.owner.interval)))
	}
}

// setFollow starts or ends looking where the tag points.
func (it *item) setFollow(follow bool) {
	if it.follow == follow {
		return
	}
	if it.follow = follow; it.state != Fetched || it.flight != nil {
		return
	}
	it.due = time.Time{}
	it.planCheck(0)
}

// checked takes over the result of a check, and says whether it is news.
func (it *item) checked(f found, err *failure.Error, o Options) (news bool) {
	if err == nil {
		news = it.latest != f.artifact.Digest || it.checkErr != nil
		it.latest, it.checkErr, it.attempts = f.artifact.Digest, nil, 0
		if it.id.kind == Document {
			it.found = f
		}
		it.planCheck(0)
		return news
	}
	it.checkErr = err
	it.planCheck(it.pause(err, o))
	return true // the owner may have a new login
}

// fail takes over the failure of a fetch, and plans the next one.
func (it *item) fail(err *failure.Error, o Options) {
	it.state, it.err, it.ended = Failed, err, true
	it.due = time.Time{}
	if err.Class != failure.Spec {
		it.due = time.Now().Add(jitter(it.pause(err, o)))
	}
	it.planCopy(time.Now(), o)
}

// pause after a failure: the owner's interval where the other side has to
// change something, else one that grows.
func (it *item) pause(err *failure.Error, o Options) time.Duration {
	if err.Class == failure.Upstream || err.Class == failure.Spec {
		return it.owner.interval
	}
	backoff := o.MaxBackoff
	if it.attempts < 30 { // beyond, the shift would overflow
		backoff = min(o.MinBackoff<<it.attempts, o.MaxBackoff)
	}
	it.attempts++
	return min(it.owner.interval, backoff)
}

// limitPause brings the next attempt forward if the owner's interval became shorter.
func (it *item) limitPause(now time.Time) {
	if latest := now.Add(it.owner.interval + it.owner.interval/10); it.due.After(latest) {
		it.due = now.Add(jitter(it.owner.interval))
	}
}

// jitter spreads a pause by a tenth to both sides.
func jitter(d time.Duration) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*rand.Float64())) //nolint:gosec // not a secret
}
