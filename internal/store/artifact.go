package store

import (
	"fmt"
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
	s.changing.Lock()
	defer s.changing.Unlock()
	if !s.touch(a.SHA256) {
		return explain(fmt.Errorf("the module %s of artifact %s is not there", a.SHA256, a.Digest))
	}
	s.mu.RLock()
	known := s.artifacts[a.Digest]
	s.mu.RUnlock()
	if known == a {
		return nil
	}
	if err := s.writeRecord(s.artifactPath(a.Digest), a); err != nil {
		return explain(err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.artifacts[a.Digest] = a
	return nil
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
