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
	// pollPause is the longest pause after failed polls: an operator that comes
	// back is noticed soon.
	pollPause = 5 * time.Second
	// silentFailures is the number of failed polls in a row that nobody is
	// bothered with: operators restart.
	silentFailures = 4
)

// position is how far this pod is: what the operator is told with each poll.
type position struct {
	mu     sync.Mutex
	known  string        // the tag of the last catalog that the operator told
	served string        // the revision
	moved  chan struct{} // closed when something else is served, or there is something else to say
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
		p.tellLocked()
	}
}

// tell ends a poll: the operator has a look at a pod that lacks something or has
// a problem whenever that calls.
func (p *position) tell() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.tellLocked()
}

func (p *position) tellLocked() {
	close(p.moved)
	p.moved = make(chan struct{})
}

func (p *position) get() (known, served string, moved <-chan struct{}) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.known, p.served, p.moved
}

// poll asks the operator for news all the time. A poll ends early when another
// generation is served, or there is another problem: see tell.
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
		if ctx.Err() != nil {
			return
		}
		if err != nil && interrupted {
			continue
		}
		said := offer{"operator", news.catalog, news.unusable}
		pause := answerPause
		if err != nil || news.unusable != nil {
			failures++
			pause = backoff(failures, 250*time.Millisecond, pollPause)
		} else {
			failures = 0
			f.position.set(news.tag, "")
		}
		if err != nil {
			f.logger.Debug("poll failed", "error", err)
			said.err = err
		}
		if (err == nil || failures > silentFailures) && !f.offer(ctx, said) {
			return
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
