package follow_test

import (
	"bytes"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// TestFaultyOrigin: nothing that the other side does gets onto the volume, and
// it is asked again until it is right.
func TestFaultyOrigin(t *testing.T) {
	t.Parallel()
	m, other := publishtest.New("a", "1", 300_000, 1), publishtest.New("a", "1", 300_000, 2)
	gzipped := func(b []byte) func(w http.ResponseWriter, r *http.Request) bool {
		return func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(b)
			return true
		}
	}
	for name, fault := range map[string]func(w http.ResponseWriter, r *http.Request) bool{
		"another module":         gzipped(other.Gzip),
		"cut":                    gzipped(m.Gzip[:1000]),
		"something behind it":    gzipped(append(bytes.Clone(m.Gzip), 'x')),
		"no gzip":                gzipped(m.Bytes),
		"not what was asked for": func(w http.ResponseWriter, _ *http.Request) bool { _, _ = w.Write(m.Bytes); return true },
		"an error":               func(w http.ResponseWriter, _ *http.Request) bool { http.Error(w, "broken", 500); return true },
		"a redirect": func(w http.ResponseWriter, r *http.Request) bool {
			if strings.HasSuffix(r.URL.Path, "x") {
				return gzipped(m.Gzip)(w, r)
			}
			http.Redirect(w, r, r.URL.Path+"x", http.StatusFound)
			return true
		},
		"a cut connection": func(w http.ResponseWriter, _ *http.Request) bool {
			w.Header().Set("Content-Encoding", "gzip")
			w.Header().Set("Content-Length", fmt.Sprint(len(m.Gzip)))
			_, _ = w.Write(m.Gzip[:1000])
			panic(http.ErrAbortHandler)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := newOperator(t)
			o.set(func(o *operator) {
				o.fault = func(w http.ResponseWriter, r *http.Request) bool {
					return strings.HasPrefix(r.URL.Path, "/blobs/") && fault(w, r)
				}
			})
			publishtest.Put(t, o.store, m)
			o.publish(t, publishtest.Catalog(1, m))
			p := follows(t, setting{operator: o})
			eventually(t, 20*time.Second, "it is tried several times, and told of", func() bool { return strings.Contains(p.problem(t), "1 modules cannot be fetched") })
			if p.generation().ID != "" || p.volume.Has(m.Entry.SHA256, m.Entry.Size) {
				t.Error("something wrong was taken")
			}
			o.set(func(o *operator) { o.fault = nil })
			eventually(t, 20*time.Second, "it is right", p.serves(m))
			eventually(t, 5*time.Second, "no problem left", func() bool { return p.problem(t) == "" })
		})
	}
}

func TestVolumeIsFull(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	small, large := publishtest.New("a", "1", 1<<20, 1), publishtest.New("a", "1", 5<<20, 2)
	other := publishtest.New("b", "1", 4<<20, 3) // does not fit either
	publishtest.Put(t, o.store, small, large, other)
	o.publish(t, publishtest.Catalog(1, small))
	p := follows(t, setting{operator: o, limit: 4 << 20})
	eventually(t, 10*time.Second, "what fits", p.serves(small))
	polls := func() (n int) {
		o.set(func(o *operator) { n = len(o.served) })
		return n
	}
	time.Sleep(quiet) // the operator is told what is served
	told := polls()
	o.set(func(o *operator) { // the operator hears first of the generation that lacks the module
		o.fault = func(_ http.ResponseWriter, r *http.Request) bool {
			if strings.Contains(r.URL.Path, large.Entry.SHA256) {
				time.Sleep(quiet)
			}
			return false
		}
	})
	o.publish(t, publishtest.Catalog(2, large, other))
	eventually(t, 10*time.Second, "it says what to do", func() bool {
		problem := p.problem(t)
		return strings.Contains(problem, "6 MiB more are needed, ") && strings.Contains(problem, "of its 4 MiB are free (for all 2 modules that do not fit: 11 MiB)") && strings.Contains(problem, "raise spec.storage.sizeLimit")
	})
	if !p.serves(small)() {
		t.Error("what was served is not served any more")
	}
	// Once with the generation that lacks the module, and once with why.
	eventually(t, 5*time.Second, "the operator is told, by a poll", func() bool { return polls() >= told+2 })
	o.publish(t, publishtest.Catalog(3, small))
	eventually(t, 5*time.Second, "nothing is said of what nobody wants any more", func() bool { return p.problem(t) == "" })
}

// TestCatalogDoesNotFit: the serving process learns that it does not know what
// is declared now.
func TestCatalogDoesNotFit(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	m := publishtest.New("a", "1", 5000, 1)
	publishtest.Put(t, o.store, m)
	o.publish(t, publishtest.Catalog(1, m))
	p := follows(t, setting{operator: o, limit: 2 << 20})
	eventually(t, 10*time.Second, "what fits", p.serves(m))
	behind := func() bool {
		status, err := p.volume.Status()
		return err == nil && status.Behind
	}
	large := publishtest.Catalog(2)
	for i := range 400 { // folders take space too
		large.Entries = append(large.Entries, m.Entry)
		large.Entries[i].Version = fmt.Sprint(i)
	}
	large.Normalize()
	o.publish(t, large)
	eventually(t, 10*time.Second, "it says that it is behind", behind)
	if problem := p.problem(t); !strings.Contains(problem, "cannot publish the catalog: the volume is full") || !strings.Contains(problem, "raise spec.storage.sizeLimit") {
		t.Errorf("it says %q", problem)
	}
	// Who starts anew and hears nothing does not know better.
	p.stop()
	p = follows(t, setting{dir: p.dir, limit: 2 << 20})
	time.Sleep(quiet)
	if !behind() {
		t.Error("it forgot that it is behind")
	}
	p.stop()
	o.publish(t, publishtest.Catalog(3, m))
	p = follows(t, setting{dir: p.dir, operator: o, limit: 2 << 20})
	eventually(t, 10*time.Second, "it is not behind any more", func() bool { return !behind() })
}

// TestUnreachableOperator: the file is enough for the catalog, and the modules
// that are on the volume for serving.
func TestUnreachableOperator(t *testing.T) {
	t.Parallel()
	o := newOperator(t)
	m := publishtest.New("a", "1", 5000, 1)
	publishtest.Put(t, o.store, m)
	o.set(func(o *operator) {
		o.fault = func(w http.ResponseWriter, r *http.Request) bool {
			http.Error(w, "no", http.StatusBadGateway)
			return true
		}
	})
	p := follows(t, setting{operator: o})
	publishtest.Put(t, p.volume, m) // a volume that survived
	p.write(t, encode(t, publishtest.Catalog(1, m)))
	eventually(t, 10*time.Second, "served", p.serves(m))
	eventually(t, 20*time.Second, "it is told", func() bool { return strings.Contains(p.problem(t), "tells of no catalogs") })
	o.set(func(o *operator) { o.fault = nil })
	o.publish(t, publishtest.Catalog(1, m))
	eventually(t, 20*time.Second, "no problem left", func() bool { return p.problem(t) == "" })
}
