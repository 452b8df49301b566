package fetch

import (
	"net/http"
	"sync"
)

// maxValidators is how many files are remembered, and maxValidator the length
// of what a server may say about one, in bytes.
const (
	maxValidators = 4096
	maxValidator  = 256
)

// validators remembers what servers said about files, for conditional requests.
type validators struct {
	mu    sync.Mutex
	known map[string]validator
}

type validator struct {
	etag, modified string
	digest         string // of the file that they belong to
}

// set remembers a file. One without validators is forgotten.
func (v *validators) set(url string, header http.Header, digest string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	found := validator{header.Get("ETag"), header.Get("Last-Modified"), digest}
	if len(found.etag) > maxValidator || len(found.modified) > maxValidator {
		found = validator{}
	}
	if found.etag == "" && found.modified == "" {
		delete(v.known, url)
		return
	}
	if v.known == nil || len(v.known) >= maxValidators {
		v.known = map[string]validator{} // then everything is read once more
	}
	v.known[url] = found
}

// condition gives the header that asks for a file only if it changed, and the
// digest that it had; nil where nothing is known of it.
func (v *validators) condition(url string) (header http.Header, digest string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	found, known := v.known[url]
	if !known {
		return nil, ""
	}
	header = http.Header{}
	if found.etag != "" {
		header.Set("If-None-Match", found.etag)
	} else {
		header.Set("If-Modified-Since", found.modified)
	}
	return header, found.digest
}
