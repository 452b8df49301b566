package pipeline

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"math/rand/v2"
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
	url, sha256, digest string
	access              [sha256.Size]byte
}

// identifier hashes accesses. Items of one owner mostly have the same one, so it keeps the last.
type identifier struct {
	known bool
	last  fetch.Access
	hash  [sha256.Size]byte
}

func (i *identifier) of(r fetch.Request) identity {
	same := i.known && i.last.PlainHTTP == r.Access.PlainHTTP &&
		bytes.Equal(i.last.DockerConfig, r.Access.DockerConfig) && bytes.Equal(i.last.CA, r.Access.CA)
	if !same {
		encoded, err := json.Marshal(r.Access)
		if err != nil { // bytes and a bool: cannot happen
			panic(err)
		}
		i.known, i.last, i.hash = true, r.Access, sha256.Sum256(encoded)
	}
	return identity{r.URL, r.SHA256, r.Digest, i.hash}
}

// item is one wanted plugin of one owner.
type item struct {
	owner    *owner
	id       identity
	request  fetch.Request
	recorded string
	host     string

	state    State
	artifact store.Artifact
	err      *failure.Error
	ended    bool
	attempts int       // failed ones in a row
	due      time.Time // of the next attempt; zero if none is planned
	flight   *flight   // the attempt that runs or waits for a worker
}

// newItem makes an item and decides what has to happen with it.
func (q *Queue) newItem(o *owner, wanted Item, id identity) *item {
	it := &item{owner: o, id: id, request: wanted.Request, state: Pending}
	ref, err := reference.Parse(wanted.Request.URL)
	if err != nil {
		it.state, it.err, it.ended = Failed, failure.Of(err), true
		return it
	}
	it.host = ref.Host()
	// The caller recorded the digest for this URL itself; a digest in the URL, which anybody can write, does not do.
	if digest := wanted.Request.Digest; digest != "" && (ref.Digest == "" || ref.Digest == digest) {
		if a, found := q.store.Artifact(digest); found && (id.sha256 == "" || id.sha256 == a.SHA256) {
			it.state, it.artifact, it.ended = Fetched, a, true
			return it
		}
	}
	it.due = time.Now()
	return it
}

// result is what the owner learns.
func (it *item) result(key catalog.Key) Result {
	return Result{Key: key, State: it.state, Artifact: it.artifact, Err: it.err, Ended: it.ended}
}

// recheck plans to fetch an item again whose module the store has lost.
func (q *Queue) recheck(it *item) {
	if it.state != Fetched {
		return // is, or will be, tried anyway
	}
	if _, there := q.store.Stat(it.artifact.SHA256); !there {
		it.state, it.attempts, it.due = Pending, 0, time.Now()
	}
}

// attempt is the request of the next fetch: what was fetched once stays what it is.
func (it *item) attempt() (identity, fetch.Request) {
	id, request := it.id, it.request
	if it.artifact.Digest != "" {
		id.digest, request.Digest = it.artifact.Digest, it.artifact.Digest
	}
	return id, request
}

// succeed takes over the result of a fetch.
func (it *item) succeed(a store.Artifact) {
	it.state, it.artifact, it.err, it.ended = Fetched, a, nil, true
	it.attempts, it.due = 0, time.Time{}
}

// fail takes over the failure of a fetch, and plans the next one.
func (it *item) fail(err *failure.Error, o Options) {
	it.state, it.err, it.ended = Failed, err, true
	pause := it.owner.interval
	switch err.Class {
	case failure.Spec:
		it.due = time.Time{}
		return
	case failure.Upstream:
	default:
		backoff := o.MaxBackoff
		if it.attempts < 30 { // beyond, the shift would overflow
			backoff = min(o.MinBackoff<<it.attempts, o.MaxBackoff)
		}
		pause = min(pause, backoff)
		it.attempts++
	}
	it.due = time.Now().Add(jitter(pause))
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
