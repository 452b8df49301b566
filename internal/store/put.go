package store

import (
	"context"
	"crypto/md5" //nolint:gosec // metadata for people, not a protection
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash"
	"io"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/inspect"
)

// chunk is how much of a module is read at once, in bytes.
const chunk = 256 << 10

// workspace is what writing one module takes in memory: some megabytes, which
// are used again.
type workspace struct {
	buffer [chunk]byte
	zip    *gzip.Writer
}

var workspaces = sync.Pool{New: func() any { return &workspace{zip: gzip.NewWriter(io.Discard)} }}

// Put stores the module that r gives until io.EOF; any other error of r keeps
// it out of the store. The module is checked by inspect. expect is the SHA-256
// that it must have, or empty. r is always read in full, also when the store has
// the module already, since knowing a hash is not having the bytes, and when it does not
// fit, so that the failure can say how much room it takes.
//
// Failures are of type *failure.Error where the reason is the module or the
// store: NotWasm, TooLarge, DigestMismatch, StoreFull, InternalError. Errors of
// r are given back as they are.
func (s *Store) Put(ctx context.Context, r io.Reader, expect string) (blob Blob, err error) {
	w, err := s.newWriter()
	if err != nil {
		return Blob{}, explain(err)
	}
	defer func() { err = errors.Join(err, w.discard()) }()
	if err := w.copy(ctx, r); err != nil {
		return Blob{}, err
	}
	b, err := w.finish()
	if expect != "" && b.SHA256 != "" && b.SHA256 != expect {
		return Blob{}, failure.New(failure.Upstream, failure.DigestMismatch, nil,
			"the module has the sha256 %s, expected is %s: correct sha256, or publish the expected module", b.SHA256, expect)
	}
	if err != nil {
		return Blob{}, err
	}
	if w.full { // what was written is not the module, which is there
		return b, nil
	}
	return b, explain(s.publish(w, b))
}

// writer writes one module and its gzip into temp files, in one pass.
type writer struct {
	store    *Store
	module   *os.File
	gzip     *os.File
	sha256   hash.Hash
	md5      hash.Hash
	check    inspect.Checker
	space    *workspace
	reserved int64
	size     int64
	gzipSize int64
	full     bool  // the module does not fit: it is only measured any more
	fullErr  error // of the volume, if it said so
}

func (s *Store) newWriter() (*writer, error) {
	module, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "module-*")
	if err != nil {
		return nil, err
	}
	zipped, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "gzip-*")
	if err != nil {
		return nil, errors.Join(err, module.Close(), os.Remove(module.Name()))
	}
	w := &writer{store: s, module: module, gzip: zipped, sha256: sha256.New(), md5: md5.New()} //nolint:gosec // see import
	w.space = workspaces.Get().(*workspace)                                                    //nolint:forcetypeassert // nothing else is put there
	w.space.zip.Reset(gzipFile{w})
	return w, nil
}

// gzipFile counts what the gzip takes.
type gzipFile struct{ w *writer }

func (g gzipFile) Write(p []byte) (int, error) {
	g.w.gzipSize += int64(len(p))
	return len(p), g.w.keep(g.w.gzip, p)
}

// keep writes to a temp file, as long as the module fits.
func (w *writer) keep(f *os.File, p []byte) error {
	if w.full {
		return nil
	}
	if !w.reserve(int64(len(p))) {
		return w.refuse(nil)
	}
	_, err := f.Write(p)
	if noSpace(err) {
		return w.refuse(err)
	}
	return err
}

// reserve takes n bytes from the budget, until discard.
func (w *writer) reserve(n int64) bool {
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.budget > 0 && s.used+s.writing+n > s.budget {
		return false
	}
	s.writing += n
	w.reserved += n
	return true
}

// refuse gives back what the module took: others may fit. err is the volume's.
func (w *writer) refuse(err error) error {
	w.full, w.fullErr = true, err
	w.release()
	return errors.Join(w.module.Truncate(0), w.gzip.Truncate(0))
}

func (w *writer) release() {
	w.store.mu.Lock()
	defer w.store.mu.Unlock()
	w.store.writing -= w.reserved
	w.reserved = 0
}

// fullError says how much the module takes, with its gzip. What others are
// writing at this moment is not counted, so that the same is said as long as nothing changes.
func (w *writer) fullError() error {
	needed := (w.size + w.gzipSize + 1<<20 - 1) >> 20
	if w.fullErr != nil {
		return failure.New(failure.Transient, failure.StoreFull, w.fullErr,
			"the volume of the operator's store is full: %d MiB more are needed for this module; give it a larger one, or remove plugins", needed)
	}
	budget := w.store.budget
	return failure.New(failure.Transient, failure.StoreFull, nil,
		"the operator's store is full: %d MiB more are needed for this module, %d MiB of its budget of %d MiB are free; raise the budget (store.budget of the chart), or remove plugins",
		needed, max(budget-w.store.Used(), 0)>>20, budget>>20)
}

func (w *writer) copy(ctx context.Context, r io.Reader) error {
	buffer := w.space.buffer[:]
	for {
		n, readErr := r.Read(buffer)
		if err := w.write(buffer[:n]); err != nil {
			return explain(err)
		}
		switch {
		case readErr == io.EOF: // a wrapped EOF is no clean end, and must publish nothing
			return nil
		case readErr != nil:
			return readErr
		case ctx.Err() != nil:
			return context.Cause(ctx)
		}
	}
}

func (w *writer) write(p []byte) error {
	if _, err := w.check.Write(p); err != nil {
		return err
	}
	w.size += int64(len(p))
	w.sha256.Write(p)
	w.md5.Write(p)
	if err := w.keep(w.module, p); err != nil {
		return err
	}
	_, err := w.space.zip.Write(p)
	return err
}

// finish makes both files durable and read-only. Of a module that does not fit it
// says what it is too.
func (w *writer) finish() (Blob, error) {
	if err := w.check.Close(); err != nil {
		return Blob{}, err
	}
	if err := w.space.zip.Close(); err != nil {
		return Blob{}, explain(err)
	}
	module := w.check.Module()
	b := Blob{
		SHA256: hex.EncodeToString(w.sha256.Sum(nil)), MD5: hex.EncodeToString(w.md5.Sum(nil)),
		Size: w.size, GzipSize: w.gzipSize, ABI: module.ABI, Imports: module.Unusual(),
	}
	if w.full {
		if w.store.touch(b.SHA256) {
			return b, nil // it needs no room
		}
		return b, w.fullError()
	}
	for _, f := range []*os.File{w.module, w.gzip} {
		if err := errors.Join(f.Chmod(0o444), f.Sync()); noSpace(err) {
			w.fullErr = err
			return b, w.fullError()
		} else if err != nil {
			return Blob{}, explain(err)
		}
	}
	return b, nil
}

// discard closes and removes the temp files that were not published, and gives their bytes back.
func (w *writer) discard() error {
	w.release()
	w.space.zip.Reset(io.Discard) // lets go of the writer
	workspaces.Put(w.space)
	err := errors.Join(w.module.Close(), w.gzip.Close())
	for _, f := range []*os.File{w.module, w.gzip} {
		if removeErr := os.Remove(f.Name()); !errors.Is(removeErr, os.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}
	return err
}

// publish gives the files their names. The record comes last; only with it the blob counts.
func (s *Store) publish(w *writer, b Blob) error {
	if s.touch(b.SHA256) {
		return nil
	}
	record, err := s.newRecord(b)
	if err != nil {
		return err
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	if s.touch(b.SHA256) {
		return os.Remove(record)
	}
	for _, f := range []struct{ from, suffix string }{{w.module.Name(), ""}, {w.gzip.Name(), gzipSuffix}, {record, recordSuffix}} {
		if err := os.Rename(f.from, s.blobPath(b.SHA256, f.suffix)); err != nil {
			return errors.Join(err, ignoreGone(os.Remove(record)))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[b.SHA256] = &entry{b, time.Now()}
	s.used += b.Size + b.GzipSize
	return nil
}

// touch says whether the blob is there, and that it is wanted now.
func (s *Store) touch(sha256 string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	e, found := s.blobs[sha256]
	if found {
		e.touched = time.Now()
	}
	return found
}

// newRecord writes a JSON file that still has to get its name. It is not made
// durable by itself, and neither are names: a loss of power soon after takes a record
// away or leaves one that cannot be read, and the module is fetched again. What a
// readable record says of a module is true, because the module's bytes were durable before.
func (s *Store) newRecord(v any) (path string, err error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, tmpDir), "record-*")
	if err != nil {
		return "", err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Chmod(0o444), f.Close())
	if err != nil {
		return "", errors.Join(err, os.Remove(f.Name()))
	}
	return f.Name(), nil
}

// explain turns an error of the file system into the failure for the user. It gives the user's failures back as they are.
func explain(err error) error {
	var known *failure.Error
	switch {
	case err == nil, errors.As(err, &known):
		return err
	case noSpace(err):
		return failure.New(failure.Transient, failure.StoreFull, err,
			"the volume of the operator's store is full: give it a larger one, or remove plugins")
	}
	return failure.New(failure.Transient, failure.InternalError, err,
		"the operator's store cannot be written: %s; check its volume", err)
}

// noSpace says whether a volume is full.
func noSpace(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT)
}
