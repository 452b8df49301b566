package handout

import (
	"net/http"
	"strconv"
	"time"
)

// maxName is the length that Kubernetes allows for the name of a pod.
const maxName = 253

func (h *Handler) poll(w http.ResponseWriter, r *http.Request, server string) {
	query := r.URL.Query()
	known, pod := query.Get("revision"), query.Get("pod")
	serves := known
	if query.Has("served") {
		serves = query.Get("served")
	}
	current := h.current(server)
	if current == nil {
		later(w, "there is no catalog for this server yet")
		return
	}
	if len(pod) <= maxName && len(serves) <= maxName {
		h.options.Polled(server, pod, serves)
	}
	nothingNew := current.revision == known
	if tag := r.Header.Get("If-None-Match"); tag != "" {
		nothingNew = current.etag == tag
	}
	if nothingNew {
		current = h.hold(w, r, server, current)
	}
	if current == nil {
		return
	}
	w.Header().Set("Content-Type", "application/gzip")
	w.Header().Set("Content-Length", strconv.Itoa(len(current.encoded)))
	w.Header().Set(RevisionHeader, current.revision)
	w.Header().Set("ETag", current.etag)
	w.Header().Set("Cache-Control", "no-store")
	if r.Method == http.MethodHead {
		return
	}
	_, _ = w.Write(current.encoded) // the pod asks again if it did not arrive
}

// hold waits until a server has another catalog than the known one and gives
// it. Otherwise it answers the request itself and gives nil.
func (h *Handler) hold(w http.ResponseWriter, r *http.Request, server string, known *served) *served {
	if !h.take(known) {
		later(w, "too many polls for this server")
		return nil
	}
	defer h.give(known)
	timeout := time.NewTimer(pollHold)
	defer timeout.Stop()
	select {
	case <-known.changed:
	case <-timeout.C:
		w.WriteHeader(http.StatusNoContent)
		return nil
	case <-r.Context().Done():
		return nil
	}
	current := h.current(server)
	if current == nil {
		later(w, "there is no catalog for this server any more")
	}
	return current
}

func (h *Handler) current(server string) *served {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.servers[server]
}

func (h *Handler) take(s *served) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if *s.polls >= maxPolls {
		return false
	}
	*s.polls++
	return true
}

func (h *Handler) give(s *served) {
	h.mu.Lock()
	defer h.mu.Unlock()
	*s.polls--
}
