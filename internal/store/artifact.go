package store

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// PutArtifact records which module a manifest led to. The module must be in
// the store.
func (s *Store) PutArtifact(a Artifact) error {
	if !digestPattern.MatchString(a.Digest) {
		return explain(fmt.Errorf("malformed digest %q of an artifact", a.Digest))
	}
	s.mu.RLock()
	known := s.artifacts[a.Digest]
	s.mu.RUnlock()
	if a.Signature == "" && known.Digest != "" {
		a.Signature = known.Signature // who asks for no signature takes none away
	}
	if known == a && s.touch(a.SHA256) {
		return nil
	}
	record, err := s.newRecord(a)
	if err != nil {
		return explain(err)
	}
	if err := s.nameArtifact(record, a); err != nil {
		return explain(errors.Join(err, ignoreGone(os.Remove(record))))
	}
	return nil
}

// nameArtifact gives a written record its name, while its module cannot go.
func (s *Store) nameArtifact(record string, a Artifact) error {
	s.changing.Lock()
	defer s.changing.Unlock()
	if !s.touch(a.SHA256) {
		return fmt.Errorf("the module %s of artifact %s is not there", a.SHA256, a.Digest)
	}
	if err := os.Rename(record, s.artifactPath(a.Digest)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.artifacts[a.Digest] = a
	return nil
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Artifact finds what was recorded for the digest of a manifest. It finds
// nothing if the module is no longer in the store.
func (s *Store) Artifact(digest string) (Artifact, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	a, found := s.artifacts[digest]
	if !found || s.blobs[a.SHA256] == nil {
		return Artifact{}, false
	}
	return a, true
}

// loadArtifacts reads the records and removes those that are damaged or whose module is gone.
func (s *Store) loadArtifacts() error {
	files, err := os.ReadDir(filepath.Join(s.dir, artifactsDir))
	if err != nil {
		return err
	}
	for _, f := range files {
		path := filepath.Join(s.dir, artifactsDir, f.Name())
		hex, _ := trimSuffix(f.Name(), recordSuffix)
		var a Artifact
		err := readRecord(path, &a)
		if err == nil && a.Digest == "sha256:"+hex && s.blobs[a.SHA256] != nil && s.blobs[a.SHA256].Blob == a.Blob {
			s.artifacts[a.Digest] = a
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) artifactPath(digest string) string {
	return filepath.Join(s.dir, artifactsDir, strings.TrimPrefix(digest, "sha256:")+recordSuffix)
}
