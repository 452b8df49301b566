package store

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"time"
)

// Collect removes the modules that keep does not want and that were neither
// put nor opened nor named by an artifact for the duration olderThan (counted
// anew by Open), and the artifacts that led to them. It returns the bytes that
// this freed. keep is called without any lock held.
func (s *Store) Collect(keep func(sha256 string) bool, olderThan time.Duration) (freed int64, err error) {
	before := time.Now().Add(-olderThan)
	old := func(b Blob) bool { return !s.blobs[b.SHA256].touched.After(before) }
	var unwanted []string
	s.mu.RLock()
	for sha256, e := range s.blobs {
		if old(e.Blob) {
			unwanted = append(unwanted, sha256)
		}
	}
	s.mu.RUnlock()
	return s.remove(slices.DeleteFunc(unwanted, keep), old)
}

// remove takes blobs and their artifacts out of the store. still is asked, with
// the locks held, whether that is right even now: a blob may have been used or put again in between.
func (s *Store) remove(sha256s []string, still func(Blob) bool) (freed int64, err error) {
	if len(sha256s) == 0 {
		return 0, nil
	}
	s.changing.Lock()
	defer s.changing.Unlock()
	paths, freed := s.forget(sha256s, still)
	for _, path := range paths {
		if removeErr := os.Remove(path); !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
	}
	return freed, err
}

// forget takes blobs and their artifacts out of memory, and gives the files to remove.
func (s *Store) forget(sha256s []string, still func(Blob) bool) (paths []string, freed int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sha256 := range sha256s {
		e, found := s.blobs[sha256]
		if !found || !still(e.Blob) {
			continue
		}
		freed += e.Size + e.GzipSize
		delete(s.blobs, sha256)
		// The record first: what is left after a crash is then removed by Open.
		paths = append(paths, s.blobPath(sha256, recordSuffix), s.blobPath(sha256, gzipSuffix), s.blobPath(sha256, ""))
	}
	for name, a := range s.artifacts {
		if s.blobs[a.SHA256] == nil {
			delete(s.artifacts, name)
			paths = append(paths, s.artifactPath(name))
		}
	}
	s.used -= freed
	return paths, freed
}
