package serve

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// verdict says what is known of a wanted module.
type verdict int

const (
	found   verdict = iota
	later           // declared, but not there
	unknown         // not declared
	unseen          // no catalog was ever seen, so nobody knows
	crowded         // too many wait already
	gone            // the client has left
)

// wanted is what a request asks for: the module of a key, a module by content,
// or, with both, a module that is or was under that key.
type wanted struct {
	key    catalog.Key
	sha256 string
}

// String names it for people.
func (w wanted) String() string {
	if w.key.Name == "" {
		return "sha256 " + w.sha256
	}
	return w.key.String()
}

// find looks for a module in a view and gives its SHA-256.
func (v *view) find(w wanted) (sha256 string, is verdict) {
	if v.empty() {
		return "", unseen
	}
	entry, served := v.entries[w.key]
	switch {
	case w.sha256 == "" && served:
		return entry.SHA256, found
	case w.sha256 != "" && v.blobs[w.sha256]:
		return w.sha256, found
	case v.declared[w.key] && (w.sha256 != "" || !served || v.missing[w.key]):
		// Other content of a declared key may be on its way: a source and the
		// WasmPlugin that pins it are often changed together.
		return "", later
	}
	return "", unknown
}

// await tries to answer with a wanted module: at once, else again whenever
// something else is served, for as long as requests are held. What is unknown is
// waited for as well: a source and what uses it are often applied together. answer gives
// false where the file is not there, which is looked at again too.
func (p *plugins) await(r *http.Request, w wanted, answer func(sha256 string) bool) verdict {
	now := p.volume.current()
	sha256, is := now.find(w)
	if is == found && answer(sha256) {
		return found
	}
	hold := preferredWait(r.Header, p.hold)
	if hold == 0 {
		return ended(is)
	}
	if !p.enter(is) {
		return crowded
	}
	defer p.leave(is) // what it was when it came
	end := time.NewTimer(hold)
	defer end.Stop()
	again := time.NewTicker(lostEvery)
	defer again.Stop()
	for {
		select {
		case <-now.changed:
			now = p.volume.current()
		case <-again.C:
			if is != found {
				continue
			}
		case <-end.C:
			p.metrics.held.WithLabelValues("timeout").Inc()
			return ended(is)
		case <-p.draining:
			// It may be there on the pod that takes over: let the gateway ask again.
			p.metrics.held.WithLabelValues("drained").Inc()
			return later
		case <-r.Context().Done():
			p.metrics.held.WithLabelValues("gone").Inc()
			return gone
		}
		if sha256, is = now.find(w); is == found && answer(sha256) {
			p.metrics.held.WithLabelValues("answered").Inc()
			return found
		}
	}
}

// ended is what is said of something that did not come in time. A module that
// should be there but is not will be fetched again.
func ended(is verdict) verdict {
	if is == found {
		return later
	}
	return is
}

// preferredWait is how long a client wants to be held, and at most so long: it
// may say "Prefer: wait=<seconds>" (RFC 7240, 4.3). A pod that fills itself from its
// siblings says 0.
func preferredWait(h http.Header, most time.Duration) time.Duration {
	for _, value := range h.Values("Prefer") {
		for preference := range strings.SplitSeq(value, ",") {
			preference, _, _ = strings.Cut(preference, ";")
			name, seconds, _ := strings.Cut(preference, "=")
			if !strings.EqualFold(strings.TrimSpace(name), "wait") {
				continue
			}
			n, err := strconv.ParseUint(strings.Trim(strings.TrimSpace(seconds), `"`), 10, 16)
			if err != nil {
				return most
			}
			return min(most, time.Duration(n)*time.Second)
		}
	}
	return most
}

// enter takes one of the places of held requests. Those who want what nobody
// declares get half of them at most, so that a scanner cannot take them from gateways.
func (p *plugins) enter(is verdict) bool {
	if is == unknown && p.heldUnknown.Add(1) > maxHeld/2 {
		p.heldUnknown.Add(-1)
		return false
	}
	if p.held.Add(1) > maxHeld {
		p.leave(is)
		return false
	}
	return true
}

func (p *plugins) leave(is verdict) {
	p.held.Add(-1)
	if is == unknown {
		p.heldUnknown.Add(-1)
	}
}
