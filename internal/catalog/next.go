package catalog

import "time"

// Next computes the catalog that follows previous when the sources declare
// the given entries. It keeps what was good:
//
//   - a declared entry that is pending keeps the module that was served under
//     its key before, until the new one is there;
//   - an entry that nothing declares any more is retained for the retention time;
//   - a module that another one replaces is kept by its content as long.
//
// The sequence is that of previous where the content is the same, and greater otherwise.
func Next(previous *Catalog, declared []Entry, retention time.Duration, now time.Time) *Catalog {
	if previous == nil {
		previous = &Catalog{}
	}
	before := make(map[Key]Entry, len(previous.Entries))
	for _, e := range previous.Entries {
		before[e.Key()] = e
	}
	until := FormatTime(now.Add(retention))

	next := &Catalog{}
	var replaced []Superseded
	for _, e := range declared {
		old, known := before[e.Key()]
		delete(before, e.Key())
		switch {
		case known && e.Pending() && !old.Pending():
			old.RetainedUntil = ""
			e = old
		case known && !old.Pending() && old.SHA256 != e.SHA256 && retention > 0:
			replaced = append(replaced, Superseded{old.SHA256, old.Size, until})
		}
		next.Entries = append(next.Entries, e)
	}
	for _, old := range before {
		if old.RetainedUntil == "" {
			old.RetainedUntil = until
		}
		if !old.Pending() && retention > 0 && !expired(old.RetainedUntil, now) {
			next.Entries = append(next.Entries, old)
		}
	}
	next.Superseded = supersede(next.Blobs(), replaced, previous.Superseded, now)
	next.Sequence = previous.Sequence
	if next.Revision() != previous.Revision() {
		// Milliseconds, so that the sequence goes on rising when the last one is lost.
		next.Sequence = max(previous.Sequence+1, now.UnixMilli())
	}
	return next
}

// supersede gives the modules to keep by content: the newly replaced ones and the earlier ones that have
// not expired, without those that an entry names again.
func supersede(served map[string]int64, replaced, earlier []Superseded, now time.Time) []Superseded {
	var kept []Superseded
	seen := map[string]bool{}
	for _, list := range [][]Superseded{replaced, earlier} {
		for _, s := range list {
			if _, again := served[s.SHA256]; again || seen[s.SHA256] || expired(s.RetainedUntil, now) {
				continue
			}
			seen[s.SHA256] = true
			kept = append(kept, s)
		}
	}
	return kept
}

// Expiry is the next time at which something retained expires; zero when nothing is.
func (c *Catalog) Expiry() time.Time {
	var first time.Time
	consider := func(until string) {
		t, err := time.Parse(time.RFC3339, until)
		if err == nil && (first.IsZero() || t.Before(first)) {
			first = t
		}
	}
	for _, e := range c.Entries {
		consider(e.RetainedUntil)
	}
	for _, s := range c.Superseded {
		consider(s.RetainedUntil)
	}
	return first
}

// expired says whether a time of a catalog is over. What cannot be read is.
func expired(until string, now time.Time) bool {
	t, err := time.Parse(time.RFC3339, until)
	return err != nil || !now.Before(t)
}
