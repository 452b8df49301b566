// Package content answers a request for one module in the encoding that the
// client wants: the module itself, or the gzip of it that was made ready
// beforehand. Nothing is compressed while answering.
package content

import (
	"errors"
	"io"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// Type is the media type of a module.
const Type = "application/wasm"

// What stands in headers again and again, made once. Their names are written as
// net/http has them.
var (
	mediaType, vary, nosniff = []string{Type}, []string{"Accept-Encoding"}, []string{"nosniff"}
	gzipCoding, byteRanges   = []string{"gzip"}, []string{"bytes"}
)

// Files opens the two forms of one module. An absent one is fs.ErrNotExist.
type Files interface {
	// Open opens the module.
	Open(sha256 string) (*os.File, error)
	// OpenGzip opens the module's gzip.
	OpenGzip(sha256 string) (*os.File, error)
}

// Serve answers a GET or HEAD request with a module. A Range is always one of
// the module itself, so such a request never gets the gzip. Each encoding has
// an ETag of its own, made of the module's SHA-256. It returns an error, with
// nothing written yet, when the file cannot be opened.
func Serve(w http.ResponseWriter, r *http.Request, files Files, sha256 string) error {
	zipped := r.Header.Get("Range") == "" && AcceptsGzip(r.Header)
	open := files.Open
	if zipped {
		open = files.OpenGzip
	}
	f, err := open(sha256)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file: " + f.Name())
	}
	h := w.Header()
	h["Content-Type"], h["Vary"], h["X-Content-Type-Options"] = mediaType, vary, nosniff
	// ServeContent leaves the length out when there is an encoding.
	length := []string{strconv.FormatInt(info.Size(), 10)}
	if zipped {
		h["Content-Encoding"], h["Etag"], h["Content-Length"] = gzipCoding, []string{`"sha256-` + sha256 + `-gzip"`}, length
	} else {
		h["Etag"] = []string{`"sha256-` + sha256 + `"`}
	}
	// A plain file all the way down, so that the kernel can copy it (sendfile).
	if conditional(r.Header) {
		http.ServeContent(w, r, "", time.Time{}, io.ReadSeeker(f))
		return nil
	}
	h["Accept-Ranges"], h["Content-Length"] = byteRanges, length
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		_, _ = io.CopyN(w, f, info.Size()) // who leaves early knows it
	}
	return nil
}

// conditional says whether the answer may be another one than the whole file.
// Gateways never ask for that, and are spared what it costs.
func conditional(h http.Header) bool {
	return h.Get("Range") != "" || h.Get("If-None-Match") != "" || h.Get("If-Match") != ""
}

// AcceptsGzip says whether a client takes a gzip of what it asks for
// (RFC 9110, 12.5.3).
func AcceptsGzip(h http.Header) bool {
	star := false
	for _, value := range h.Values("Accept-Encoding") {
		if value == "gzip" { // what gateways say
			return true
		}
		for coding := range strings.SplitSeq(value, ",") {
			name, params, _ := strings.Cut(coding, ";")
			name = strings.ToLower(strings.TrimSpace(name))
			if name != "gzip" && name != "x-gzip" && name != "*" {
				continue
			}
			wanted := quality(params) > 0
			if name != "*" {
				return wanted
			}
			star = wanted
		}
	}
	return star
}

// quality is the q of a header's element, 1 if it has none or a malformed one.
func quality(params string) float64 {
	for param := range strings.SplitSeq(params, ";") {
		key, value, _ := strings.Cut(param, "=")
		if strings.EqualFold(strings.TrimSpace(key), "q") {
			if q, err := strconv.ParseFloat(strings.TrimSpace(value), 64); err == nil {
				return q
			}
		}
	}
	return 1
}
