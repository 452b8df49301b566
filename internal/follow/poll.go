package follow

import (
	"context"
	"sync"
	"time"
)

const (
	// settlePause is the time that the serving process gets to take up a new
	// generation before the operator is told of it.
	settlePause = 150 * time.Millisecond
	// answerPause is the shortest time between two answers, should an operator
	// have news all the time.
	answerPause = 100 * time.Millisecond
	// silentFailures is the number of failed polls in a row that nobody is
	// bothered with: operators restart.
	silentFailures = 4
)

// position is how far this pod is: what the operator is told with each poll.
type position struct {
	mu     sync.Mutex
	known  string // the last revision that the operator told
	served string
	moved  chan struct{} // closed when something else is served
}

// set notes what is known and what is served; an empty one stays as it is.
func (p *position) set(known, served string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if known != "" {
		p.known = known
	}
	if served != "" {
		p.served = served
		close(p.moved)
		p.moved = make(chan struct{})
	}
}

func (p *position) get() (known, served string, moved <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known, p.served, p.moved
}

// poll asks the operator for news all the time. A poll ends early when another
// generation is served, so that the operator learns of it at once.
func (f *Follower) poll(ctx context.Context) {
	failures := 0
	for ctx.Err() == nil {
		known, served, moved := f.position.get()
		polling, cancel := context.WithCancel(ctx)
		stop := make(chan struct{})
		f.workers.Go(func() {
			select {
			case <-stop:
			case <-moved:
				wait(polling, settlePause)
			}
			cancel()
		})
		news, err := f.options.Operator.poll(polling, known, served)
		interrupted := polling.Err() != nil
		close(stop)
		cancel()
		var pause time.Duration
		switch {
		case ctx.Err() != nil:
			return
		case err != nil && interrupted:
			continue
		case err == nil:
			failures = 0
			f.position.set(news.revision, "")
			if !f.offer(ctx, offer{place: "operator", catalog: news.catalog}) {
				return
			}
			pause = answerPause
		default:
			failures++
			pause = backoff(failures, 250*time.Millisecond, maxPause)
			f.logger.Debug("poll failed", "error", err)
			if failures > silentFailures && !f.offer(ctx, offer{place: "operator", err: err}) {
				return
			}
		}
		wait(ctx, pause)
	}
}

// wait sleeps until ctx ends.
func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}
