package follow

import (
	"context"
	"fmt"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/publish"
)

const (
	// DefaultRereadRate is how much of the volume is read again to find damage, in
	// bytes a second: the official plugins of two releases, 600 MB and 170 MB of gzips,
	// within 50 minutes.
	DefaultRereadRate = 256 << 10
	// rereadEvery is the shortest time from one begin to the next, for volumes
	// with little on them.
	rereadEvery = 10 * time.Minute
	// examineEvery is how often files are looked at without reading them.
	examineEvery = 10 * time.Second
)

// guard calls look again and again until ctx ends. What goes wrong is logged
// when it is another thing than the last time.
func (f *Follower) guard(ctx context.Context, every time.Duration, look func(context.Context, func(publish.Damage)) error) {
	last := ""
	for ctx.Err() == nil {
		began := time.Now()
		err := look(ctx, func(d publish.Damage) {
			select {
			case f.damages <- d:
			case <-ctx.Done():
			}
		})
		if said := fmt.Sprint(err); err != nil && ctx.Err() == nil && said != last {
			f.logger.Error("cannot look for damage on the volume", "error", err)
			last = said
		}
		wait(ctx, time.Until(began.Add(every)))
	}
}

// repair has a damage mended: what is missing is fetched, and everything is
// published again, at once, so that nobody finds what is damaged.
func (f *Follower) repair(d publish.Damage) {
	m := f.find(d.SHA256)
	if m != nil && (!m.there || f.options.Volume.Has(m.sha256, m.size)) {
		return // it is on its way, or back already: two looks may find the same
	}
	subject := d.SHA256
	if subject == "" {
		subject = d.Path
	}
	if f.damaged[subject] {
		return
	}
	f.damaged[subject] = true
	f.problems.damaged++
	f.logger.Error("a file on the volume is damaged: it is served no longer, and is mended", "path", d.Path, "error", d.Err)
	f.dirty, f.published = true, time.Time{}
	if m != nil {
		m.lose()
	}
	f.problems.set("damage", f.damageProblem())
}

func (f *Follower) find(sha256 string) *module {
	for _, m := range f.wanted {
		if m.sha256 == sha256 {
			return m
		}
	}
	return nil
}

// mended forgets the damages that are no more, after something was published.
func (f *Follower) mended() {
	for subject := range f.damaged {
		if m := f.find(subject); m == nil || m.there {
			delete(f.damaged, subject)
		}
	}
	f.problems.set("damage", f.damageProblem())
}

func (f *Follower) damageProblem() string {
	if len(f.damaged) == 0 {
		return ""
	}
	return fmt.Sprintf("%d files on the volume were damaged, and are being mended", len(f.damaged))
}
