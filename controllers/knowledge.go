package controllers

import (
	"maps"
	"sync"
	"time"

	"golang.org/x/time/rate"
	"k8s.io/apimachinery/pkg/types"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/serve"
)

// rememberedCatalogs is how many catalogs of a server are remembered, to know
// what a pod serves that is some revisions behind.
const rememberedCatalogs = 16

// believed is how long a pod that does not answer is taken at its last word.
const believed = 15 * time.Second

// Writes of one object: one a second, and a burst for what a user waits for.
const (
	writesPerSecond = 1
	writesAtOnce    = 3
)

// Knowledge is what the operator has seen of running servers and does not
// write anywhere: it is observed again after a restart.
type Knowledge struct {
	mu      sync.Mutex
	servers map[types.NamespacedName]*serverKnowledge
	writes  map[types.UID]*rate.Limiter
	// images are the plugins that pods were asked for which run somebody's image, by
	// the pods' UIDs, and whether they serve them.
	images map[types.UID]map[catalog.Key]bool
}

// maxImages is how many pods are remembered.
const maxImages = 1000

// probes gives what a pod was asked for.
func (k *Knowledge) probes(pod types.UID) map[catalog.Key]bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := maps.Clone(k.images[pod])
	if known == nil {
		known = map[catalog.Key]bool{}
	}
	return known
}

// probed remembers what a pod answered.
func (k *Knowledge) probed(pod types.UID, known map[catalog.Key]bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.images == nil || len(k.images) > maxImages { // pods come and go
		k.images = map[types.UID]map[catalog.Key]bool{}
	}
	k.images[pod] = known
}

type serverKnowledge struct {
	uid types.UID
	// newest is the catalog written last; catalogs are the ones before it too,
	// oldest first.
	newest   *catalog.Catalog
	catalogs []knownCatalog
	served   map[catalog.Key]string
	// asked: the pods have been asked at least once since the operator started.
	asked bool
	// incomplete: some pod lacked something of what its catalog names, or had a
	// problem.
	incomplete bool
	// answers are what the pods said last, by their names.
	answers map[string]answer
	// polled is the revision that each pod last said it serves.
	polled map[string]string
}

// answer is what a pod said of itself, and when.
type answer struct {
	state serve.State
	at    time.Time
}

type knownCatalog struct {
	revision string
	catalog  *catalog.Catalog
}

// of gives what is known of a server; a server that was deleted and made again is another one.
func (k *Knowledge) of(server types.NamespacedName, uid types.UID) *serverKnowledge {
	if k.servers == nil {
		k.servers = map[types.NamespacedName]*serverKnowledge{}
	}
	known := k.servers[server]
	if known == nil || known.uid != uid {
		known = &serverKnowledge{uid: uid, polled: map[string]string{}}
		k.servers[server] = known
	}
	return known
}

// newest gives the newest catalog of a server: the one that was written last,
// unless the one that was read is newer.
func (k *Knowledge) newest(server types.NamespacedName, uid types.UID, read *catalog.Catalog) *catalog.Catalog {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.of(server, uid)
	if known.newest == nil || (read != nil && read.Sequence > known.newest.Sequence) {
		return read
	}
	return known.newest
}

// wrote remembers a catalog that was written.
func (k *Knowledge) wrote(server types.NamespacedName, uid types.UID, written *catalog.Catalog) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.of(server, uid)
	known.newest = written
	revision := written.Revision()
	for i, c := range known.catalogs {
		if c.revision == revision {
			known.catalogs = append(known.catalogs[:i], known.catalogs[i+1:]...)
			break
		}
	}
	known.catalogs = append(known.catalogs, knownCatalog{revision, written})
	if len(known.catalogs) > rememberedCatalogs {
		known.catalogs = known.catalogs[1:]
	}
}

// observed notes what the ready pods of a server say they serve. It gives what
// all of them serve, the hash of the module by key, and a function that says for which
// keys that is news; nil where for none. Nothing is served where there are no pods, or one
// serves a revision that is not remembered.
func (k *Knowledge) observed(
	server types.NamespacedName, uid types.UID, states []serve.State,
) (served map[catalog.Key]string, news func(catalog.Key) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.of(server, uid)
	known.incomplete = false
	for i, state := range states {
		known.incomplete = known.incomplete || len(state.Missing) > 0 || state.SyncError != ""
		pod := known.servedBy(state)
		if i == 0 {
			served = pod
			continue
		}
		for key, sha256 := range served {
			if pod[key] != sha256 {
				delete(served, key)
			}
		}
	}
	before := known.served
	switch {
	case !known.asked:
		news = func(catalog.Key) bool { return true }
	case !maps.Equal(before, served):
		news = func(key catalog.Key) bool { return before[key] != served[key] }
	}
	known.served, known.asked = served, true
	return served, news
}

// answered notes what the pods say. One that is silent for a moment is taken at
// its last word: a busy node must not turn everything red.
func (k *Knowledge) answered(server types.NamespacedName, uid types.UID, pods []podState, now time.Time) []serve.State {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.of(server, uid)
	before := known.answers
	known.answers = make(map[string]answer, len(pods))
	states := make([]serve.State, 0, len(pods))
	for _, pod := range pods {
		last := answer{pod.state, now}
		if pod.err != nil {
			if last = before[pod.name]; now.Sub(last.at) > believed {
				last = answer{} // one that did not answer serves nothing that is known
			}
		}
		known.answers[pod.name] = last
		states = append(states, last.state)
	}
	return states
}

// servedBy gives what a pod with this state serves.
func (s *serverKnowledge) servedBy(state serve.State) map[catalog.Key]string {
	for _, c := range s.catalogs {
		if c.revision != state.Revision {
			continue
		}
		served := make(map[catalog.Key]string, len(c.catalog.Entries))
		for _, e := range c.catalog.Entries {
			if !e.Pending() {
				served[e.Key()] = e.SHA256
			}
		}
		for _, missing := range state.Missing {
			delete(served, catalog.Key{Name: missing.Name, Version: missing.Version})
		}
		return served
	}
	return nil
}

// Served gives what all ready replicas of a server serve, as observed last, and
// whether they were observed at all since the operator started. The map must
// not be changed.
func (k *Knowledge) Served(server types.NamespacedName) (served map[catalog.Key]string, asked bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if known := k.servers[server]; known != nil {
		return known.served, known.asked
	}
	return nil, false
}

// Polled notes the revision that a pod says it serves, and whether that may be
// news: another revision, or modules that it lacked before, or the end of a problem.
func (k *Knowledge) Polled(server types.NamespacedName, pod, revision string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	known := k.servers[server]
	if known == nil || (known.polled[pod] == revision && !known.incomplete) {
		return false
	}
	if len(known.polled) >= 1000 { // whoever asks can invent names
		known.polled = map[string]string{}
	}
	known.polled[pod] = revision
	return true
}

// naming gives the servers whose catalogs name a module.
func (k *Knowledge) naming(sha256 string) []types.NamespacedName {
	k.mu.Lock()
	defer k.mu.Unlock()
	var servers []types.NamespacedName
	for server, known := range k.servers {
		if known.newest == nil {
			continue
		}
		if _, named := known.newest.Blobs()[sha256]; named {
			servers = append(servers, server)
		}
	}
	return servers
}

// Named says whether a catalog of any server names the module.
func (k *Knowledge) Named(sha256 string) bool { return len(k.naming(sha256)) > 0 }

// forget drops what is known of a server.
func (k *Knowledge) forget(server types.NamespacedName) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.servers, server)
}

// waitToWrite says how long a write of an object has to wait; zero means now.
func (k *Knowledge) waitToWrite(uid types.UID, now time.Time) time.Duration {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.writes == nil || len(k.writes) > 10_000 { // objects come and go; a fresh start costs a burst at the most
		k.writes = map[types.UID]*rate.Limiter{}
	}
	limiter := k.writes[uid]
	if limiter == nil {
		limiter = rate.NewLimiter(writesPerSecond, writesAtOnce)
		k.writes[uid] = limiter
	}
	if limiter.AllowN(now, 1) {
		return 0
	}
	reservation := limiter.ReserveN(now, 1)
	defer reservation.CancelAt(now)
	return max(reservation.DelayFrom(now), time.Millisecond)
}
