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
// the module already: knowing a hash is not having the bytes.
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
	if err != nil {
		return Blob{}, err
	}
	if expect != "" && b.SHA256 != expect {
		return Blob{}, failure.New(failure.Upstream, failure.DigestMismatch, nil,
			"the module has the sha256 %s, expected is %s: correct sha256, or publish the expected module", b.SHA256, expect)
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
	gzipSize int64
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
	if err := g.w.reserve(len(p)); err != nil {
		return 0, err
	}
	g.w.gzipSize += int64(len(p))
	return g.w.gzip.Write(p)
}

// reserve takes n bytes from the budget, until discard.
func (w *writer) reserve(n int) error {
	s := w.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.budget > 0 && s.used+s.writing+int64(n) > s.budget {
		return failure.New(failure.Transient, failure.StoreFull, nil,
			"the operator's store is full, its budget is %d MiB: give it a larger one, or remove plugins", s.budget>>20)
	}
	s.writing += int64(n)
	w.reserved += int64(n)
	return nil
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
	if err := w.reserve(len(p)); err != nil {
		return err
	}
	w.sha256.Write(p)
	w.md5.Write(p)
	if _, err := w.module.Write(p); err != nil {
		return err
	}
	_, err := w.space.zip.Write(p)
	return err
}

// finish makes both files durable and read-only.
func (w *writer) finish() (Blob, error) {
	if err := w.check.Close(); err != nil {
		return Blob{}, err
	}
	if err := w.space.zip.Close(); err != nil {
		return Blob{}, explain(err)
	}
	info, err := w.module.Stat()
	if err != nil {
		return Blob{}, explain(err)
	}
	for _, f := range []*os.File{w.module, w.gzip} {
		if err := errors.Join(f.Chmod(0o444), f.Sync()); err != nil {
			return Blob{}, explain(err)
		}
	}
	module := w.check.Module()
	return Blob{
		SHA256: hex.EncodeToString(w.sha256.Sum(nil)), MD5: hex.EncodeToString(w.md5.Sum(nil)),
		Size: info.Size(), GzipSize: w.gzipSize, ABI: module.ABI, Imports: module.Unusual(),
	}, nil
}

// discard closes and removes the temp files that were not published, and gives their bytes back.
func (w *writer) discard() error {
	w.store.mu.Lock()
	w.store.writing -= w.reserved
	w.store.mu.Unlock()
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
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return failure.New(failure.Transient, failure.StoreFull, err,
			"the volume of the operator's store is full: give it a larger one, or remove plugins")
	}
	return failure.New(failure.Transient, failure.InternalError, err,
		"the operator's store cannot be written: %s; check its volume", err)
}
