package serve

import (
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

const (
	// piece is how much of a body is sent under one deadline, of 59 to 60 s: a client
	// that takes 4 KiB a second is not let go.
	piece = 224 << 10
	// burst is how much a connection that does not wait is given before the others
	// have their turn. Its client reads it meanwhile: on what is given beyond that
	// both would work at the same time, and for a fifth of the throughput wait for each other.
	burst = 512 << 10
	// sniffed is how long a body may be for net/http to send it together with the header.
	sniffed = 512
	// maxLogged is how much of what a client says stands in the log, in bytes.
	maxLogged = 256
)

// pieceWithin is that deadline, changed by tests alone.
var pieceWithin = time.Minute

// metrics of the server. Names and versions stand in them only where the
// catalog declares them: clients cannot make more.
type metrics struct {
	registry *prometheus.Registry
	requests *prometheus.CounterVec
	bytes    *prometheus.CounterVec
	held     *prometheus.CounterVec
	unknown  prometheus.Counter
	// counters are those of requests and bytes that were looked up already, by series.
	counters sync.Map
	mu       sync.Mutex
}

// series is what is counted together.
type series struct {
	key  catalog.Key
	code int
}

// count counts an answer. Two look-ups by labels would take as long as finding
// the module does.
func (m *metrics) count(key catalog.Key, code int, sent int64) {
	s := series{key, code}
	known, ok := m.counters.Load(s)
	if !ok {
		known = m.lookUp(s)
	}
	of := known.([2]prometheus.Counter) //nolint:forcetypeassert // nothing else is put there
	of[0].Inc()
	of[1].Add(float64(sent))
}

func newMetrics(v *volume) *metrics {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugin_server_requests_total", Help: "Answered requests by plugin, version and status code.",
		}, []string{"plugin", "version", "code"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugin_server_sent_bytes_total", Help: "Sent bodies by plugin and version.",
		}, []string{"plugin", "version"}),
		held: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "plugin_server_held_requests_total", Help: "Requests that were held, by how they ended.",
		}, []string{"end"}),
		unknown: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "plugin_server_unknown_plugins_total", Help: "Requests for plugins that no source declares.",
		}),
	}
	m.registry.MustRegister(m.requests, m.bytes, m.held, m.unknown, collectors.NewGoCollector(),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "plugin_server_generation_age_seconds", Help: "Time since the served generation was taken up.",
		}, func() float64 { return time.Since(v.current().since).Seconds() }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "plugin_server_damaged_files_total", Help: "Files of the volume that were found damaged, and mended.",
		}, func() float64 { return float64(v.status().Damaged) }))
	return m
}

// lookUp takes turns with forget: else counters that are dropped just then would be
// counted with for ever.
func (m *metrics) lookUp(s series) any {
	m.mu.Lock()
	defer m.mu.Unlock()
	known, _ := m.counters.LoadOrStore(s, [2]prometheus.Counter{
		m.requests.WithLabelValues(s.key.Name, s.key.Version, strconv.Itoa(s.code)), m.bytes.WithLabelValues(s.key.Name, s.key.Version),
	})
	return known
}

// forget drops what was counted of a version, so that versions that come and
// go do not add up.
func (m *metrics) forget(key catalog.Key) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.counters.Range(func(s, _ any) bool {
		if s.(series).key == key { //nolint:forcetypeassert // nothing else is put there
			m.counters.Delete(s)
		}
		return true
	})
	of := prometheus.Labels{"plugin": key.Name, "version": key.Version}
	m.requests.DeletePartialMatch(of)
	m.bytes.DeletePartialMatch(of)
}

// record writes one line and counts for each request.
func record(next http.Handler, v *volume, m *metrics, log slog.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		began := time.Now()
		rec := &recorder{ResponseWriter: w, control: http.NewResponseController(w), conn: connOf(r.Context()), status: http.StatusOK}
		rec.extend(began)
		next.ServeHTTP(rec, r)
		m.count(labels(v.current(), r.URL.Path), rec.status, rec.sent)
		ended := time.Now()
		line := slog.NewRecord(ended, slog.LevelInfo, "request", 0) // it is this line of the program anyway, which is not looked for
		line.AddAttrs(
			slog.String("method", r.Method), slog.String("path", bounded(r.URL.Path)), slog.Int("status", rec.status), slog.Int64("bytes", rec.sent),
			slog.String("duration", ended.Sub(began).Round(time.Microsecond).String()), slog.String("remote", r.RemoteAddr), slog.String("agent", bounded(r.UserAgent())))
		_ = log.Handle(r.Context(), line) // nobody is told that the log cannot be written
	})
}

// bounded keeps a client from filling the log. Control characters are the
// business of the log's encoding.
func bounded(s string) string {
	if len(s) <= maxLogged {
		return s
	}
	return strings.ToValidUTF8(s[:maxLogged], "") + "…"
}

// labels gives the plugin of a path if the catalog declares it.
func labels(now *view, path string) catalog.Key {
	below, isPlugins := strings.CutPrefix(path, "/plugins/")
	name, rest, _ := strings.Cut(below, "/")
	version, file, isFile := strings.Cut(rest, "/")
	if key := (catalog.Key{Name: name, Version: version}); isPlugins && isFile && !strings.Contains(file, "/") && now.declared[key] {
		return key
	}
	return catalog.Key{Name: "other", Version: "other"}
}

// recorder notes what was answered. It passes files on as files, so that the
// kernel can copy them.
type recorder struct {
	http.ResponseWriter
	control *http.ResponseController
	conn    *conn // may be nil
	status  int
	sent    int64
	granted int64 // how much may be sent under the deadline as it is
	arrived int64 // how much the client had when a deadline passed
	// extended is when the client last got time. net/http takes it away when the
	// answer has ended.
	extended time.Time
}

// Unwrap is for http.ResponseController.
func (w *recorder) Unwrap() http.ResponseWriter { return w.ResponseWriter }

func (w *recorder) WriteHeader(status int) {
	w.status = status
	w.ResponseWriter.WriteHeader(status)
}

func (w *recorder) Write(p []byte) (int, error) {
	w.extend(time.Now())
	n, err := w.ResponseWriter.Write(p)
	w.sent += int64(n)
	return n, err
}

// ReadFrom sends a body piece by piece, each with a deadline of its own: a slow
// client may take as long as it needs, one that stopped is let go.
func (w *recorder) ReadFrom(src io.Reader) (int64, error) {
	limited, isLimited := src.(*io.LimitedReader)
	if !isLimited {
		limited = &io.LimitedReader{R: src, N: 1<<63 - 1}
	}
	var sent int64
	w.extend(time.Now()) // it may have been held until now
	for limited.N > 0 {
		w.extendIfDue()
		next := &io.LimitedReader{R: limited.R, N: min(limited.N, w.granted-w.sent)}
		if w.conn != nil {
			next.N = min(limited.N, burst)
		}
		n, waits, err := w.copy(next)
		sent, w.sent, limited.N = sent+n, w.sent+n, limited.N-n
		if err == nil && waits {
			w.extendIfDue()
			err = w.wait()
		} else if next.N > 0 {
			return sent, err // the end
		} else {
			runtime.Gosched() // the others' turn
		}
		if err != nil {
			return sent, err
		}
	}
	return sent, nil
}

// copy sends a piece, or a part of it where the client has to read first.
func (w *recorder) copy(piece *io.LimitedReader) (n int64, waits bool, err error) {
	if w.conn == nil {
		n, err = io.Copy(w.ResponseWriter, piece)
		return n, false, err
	}
	w.conn.full, w.conn.more = false, w.sent == 0 && piece.N > sniffed
	if w.conn.more {
		if err := w.control.Flush(); err != nil { // the header, or net/http would read the first bytes of the file
			return 0, false, err
		}
	}
	n, err = io.Copy(w.ResponseWriter, piece)
	w.conn.more = false
	return n, w.conn.full, err
}

// wait waits until the client has read. The kernel takes megabytes at once, and
// asks for more when a third of them is read: a slow client may take minutes for
// that, so what counts when the deadline has passed is what arrived.
func (w *recorder) wait() error {
	for {
		err := w.conn.wait()
		if !errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		arrived := w.sent - w.conn.queued()
		if arrived < w.arrived+piece {
			return err
		}
		w.arrived = arrived
		w.extend(time.Now())
	}
}

// extendIfDue begins the next piece when the last one was sent.
func (w *recorder) extendIfDue() {
	if w.sent >= w.granted {
		w.extend(time.Now())
	}
}

// extend gives the client time for the next piece. Where that is not possible
// (a test's recorder) there is no deadline.
func (w *recorder) extend(now time.Time) {
	w.granted = w.sent + piece
	if now.Sub(w.extended) < pieceWithin/60 {
		return // fast clients would spend their time on this
	}
	w.extended = now
	_ = w.control.SetWriteDeadline(now.Add(pieceWithin))
}
