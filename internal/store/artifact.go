package store

import (
	"crypto/sha256"
	"encoding/hex"
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
	known := s.artifacts[artifactName(a.Digest, a.Member)]
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
	name := artifactName(a.Digest, a.Member)
	if err := os.Rename(record, s.artifactPath(name)); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.artifacts[name] = a
	return nil
}

// artifactName is the name of an artifact's record: the digest in hexadecimal,
// and where the manifest led to several modules a hash of that and the member.
func artifactName(digest, member string) string {
	name := strings.TrimPrefix(digest, "sha256:")
	if member == "" {
		return name
	}
	sum := sha256.Sum256([]byte(name + " " + member))
	return hex.EncodeToString(sum[:])
}

func ignoreGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Artifact finds what was recorded for the digest of a manifest, and a member
// where it led to several modules. It finds nothing if the module is no longer in the store.
func (s *Store) Artifact(digest, member string) (Artifact, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	a, found := s.artifacts[artifactName(digest, member)]
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
		name, _ := trimSuffix(f.Name(), recordSuffix)
		var a Artifact
		err := readRecord(path, &a)
		proper := err == nil && digestPattern.MatchString(a.Digest) && name == artifactName(a.Digest, a.Member)
		if proper && s.blobs[a.SHA256] != nil && s.blobs[a.SHA256].Blob == a.Blob {
			s.artifacts[name] = a
			continue
		}
		if err := os.RemoveAll(path); err != nil {
			return err
		}
	}
	return nil
}

func (s *Store) artifactPath(name string) string {
	return filepath.Join(s.dir, artifactsDir, name+recordSuffix)
}
