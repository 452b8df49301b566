package serve

import (
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/publish"
)

// lookEvery is how often the volume is asked for a new generation: one system
// call.
const lookEvery = 50 * time.Millisecond

// view is one generation, ready to be served. It never changes; changed is
// closed when another one has taken its place.
type view struct {
	generation *publish.Generation
	entries    map[catalog.Key]catalog.Entry
	// declared are the keys that the catalog knows, pending ones too.
	declared map[catalog.Key]bool
	// missing are the keys that are not served as the catalog wants them.
	missing map[catalog.Key]bool
	// blobs are the modules that may be asked for by content.
	blobs   map[string]bool
	changed chan struct{}
	since   time.Time
}

func newView(g *publish.Generation) *view {
	v := &view{
		generation: g, changed: make(chan struct{}), since: time.Now(),
		entries: map[catalog.Key]catalog.Entry{}, declared: map[catalog.Key]bool{}, missing: map[catalog.Key]bool{}, blobs: map[string]bool{},
	}
	if g == nil {
		return v
	}
	for _, e := range g.Entries {
		v.entries[e.Key()] = e
		v.blobs[e.SHA256] = true
	}
	for _, e := range g.Catalog.Entries {
		v.declared[e.Key()] = true
	}
	for _, key := range g.Missing {
		v.missing[key] = true
	}
	for sha256 := range g.Catalog.Blobs() {
		v.blobs[sha256] = true
	}
	return v
}

// empty says whether no generation was ever seen.
func (v *view) empty() bool { return v.generation == nil }

// volume follows the generations of a volume.
type volume struct {
	dir    string
	logger *slog.Logger
	now    atomic.Pointer[view]
	said   atomic.Pointer[publish.Status] // by sync, when it could be read last
	failed string                         // why the last look failed; a failure is reported once
	// forget is told of each key that is declared no more; it may be nil.
	forget func(catalog.Key)
}

func newVolume(dir string, logger *slog.Logger) *volume {
	v := &volume{dir: dir, logger: logger}
	v.now.Store(newView(nil))
	v.look()
	return v
}

// current gives the view of now.
func (v *volume) current() *view { return v.now.Load() }

// follow looks for new generations until ctx ends.
func (v *volume) follow(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			v.look()
		}
	}
}

// look takes up a new generation if there is one. What cannot be read changes
// nothing: the last one stays.
func (v *volume) look() {
	id, err := publish.Current(v.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	before := v.now.Load()
	if err == nil && !before.empty() && before.generation.ID == id {
		return
	}
	g, err := publish.LoadCurrent(v.dir)
	if err != nil {
		if err.Error() != v.failed {
			v.logger.Error("cannot read the generation on the volume; the last one stays served", "error", err)
		}
		v.failed = err.Error()
		return
	}
	v.failed = ""
	now := newView(g)
	v.now.Store(now)
	close(before.changed)
	for key := range before.declared {
		if !now.declared[key] && v.forget != nil {
			v.forget(key)
		}
	}
	v.logger.Info("serving another generation", "revision", g.Revision, "sequence", g.Catalog.Sequence, "plugins", len(g.Entries), "missing", len(g.Missing))
}

// state tells what is served.
func (v *volume) state() State {
	s := State{Missing: []Missing{}}
	if now := v.current(); !now.empty() {
		s.Revision, s.Sequence, s.Plugins = now.generation.Revision, now.generation.Catalog.Sequence, len(now.entries)
		for _, key := range now.generation.Missing {
			s.Missing = append(s.Missing, Missing(key))
		}
	}
	status := v.status()
	s.SyncError, s.Behind, s.Used, s.Budget = status.Error, status.Behind, status.Used, status.Budget
	return s
}

// status is what sync says. While that cannot be read, since it is being written
// over for instance, it is what it said last.
func (v *volume) status() publish.Status {
	s, err := publish.ReadStatus(v.dir)
	if err == nil {
		v.said.Store(&s)
	} else if last := v.said.Load(); last != nil {
		return *last
	}
	return s
}
