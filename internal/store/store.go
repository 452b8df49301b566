// Package store keeps modules by their content, on a directory of its own,
// with a budget. What it gives out was written, verified and synced in full: a
// crash at any point leaves the module there, whole, or not there (see newRecord).
//
//	blobs/sha256/<hex>        the module, read-only
//	blobs/sha256/<hex>.gz     the same, gzipped
//	blobs/sha256/<hex>.json   its Blob; written last, without it the others do not count
//	artifacts/<hex>.json      an Artifact; its name is made from its manifest's digest and its member
//	tmp/                      files that are being written; emptied by Open
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/inspect"
)

const (
	blobsDir     = "blobs/sha256"
	artifactsDir = "artifacts"
	tmpDir       = "tmp"
	gzipSuffix   = ".gz"
	recordSuffix = ".json"
	// maxRecord is the size of a record in bytes that is read; a description has at most 512 characters.
	maxRecord = 16 << 10
)

var digestPattern = regexp.MustCompile(`^sha256:[a-f0-9]{64}$`)

// Blob is a module in the store.
type Blob struct {
	SHA256   string `json:"sha256"`            // of the module, in lower case hexadecimal
	MD5      string `json:"md5"`               // of the module, in lower case hexadecimal
	Size     int64  `json:"size"`              // of the module, in bytes
	GzipSize int64  `json:"gzipSize"`          // of the module gzipped, in bytes
	ABI      string `json:"abi,omitempty"`     // version of the proxy-wasm ABI that it names
	Imports  string `json:"imports,omitempty"` // functions that not every gateway offers, see inspect.Module.Unusual
}

// Artifact is what was fetched from a registry: a manifest, and the module that it led to.
type Artifact struct {
	Digest string `json:"digest"`           // of the manifest, sha256:HEX
	Member string `json:"member,omitempty"` // names one of several modules that the manifest led to; empty where it is one
	Blob
	Created     time.Time `json:"created,omitzero"` // zero if the artifact does not say
	Description string    `json:"description,omitempty"`
	Signature   string    `json:"signature,omitempty"` // names the keys by which its signature was verified
	// Copied is true where the module came back from a server instead of its origin,
	// so that what else the artifact says is not known.
	Copied bool `json:"copied,omitempty"`
}

// SignedBy says whether a signature by these keys was verified, where that is asked for.
func (a Artifact) SignedBy(keys string) bool { return keys == "" || keys == a.Signature }

// Store keeps modules. Its methods may be called concurrently; only one Store
// may be open on a directory.
type Store struct {
	dir    string
	budget int64

	// changing is held while served names change; it is never held while a module is written.
	changing sync.Mutex

	mu        sync.RWMutex
	blobs     map[string]*entry
	artifacts map[string]Artifact // by name, see artifactName
	used      int64               // bytes of blobs
	writing   int64               // bytes of temp files
}

type entry struct {
	Blob
	touched time.Time // last put, opened or named by an artifact
}

// Open opens the store in dir, which is created if needed. It removes what a
// crash left behind, and blobs and records that are damaged or incomplete.
// budget is the number of bytes that modules may take with their gzip and with
// what is being written; 0 is no limit.
func Open(dir string, budget int64) (*Store, error) {
	s := &Store{dir: dir, budget: budget, blobs: map[string]*entry{}, artifacts: map[string]Artifact{}}
	if err := os.RemoveAll(filepath.Join(dir, tmpDir)); err != nil {
		return nil, fmt.Errorf("cannot remove old temp files of the store: %w", err)
	}
	for _, d := range []string{blobsDir, artifactsDir, tmpDir} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("cannot make the store: %w", err)
		}
	}
	if err := s.load(); err != nil {
		return nil, fmt.Errorf("cannot read the store: %w", err)
	}
	return s, nil
}

// load reads what is there and removes what is not whole.
func (s *Store) load() error {
	files, err := os.ReadDir(filepath.Join(s.dir, blobsDir))
	if err != nil {
		return err
	}
	now := time.Now()
	for _, f := range files {
		sha256, isRecord := trimSuffix(f.Name(), recordSuffix)
		if !isRecord {
			continue
		}
		if b, ok := s.readBlob(sha256); ok {
			s.blobs[sha256] = &entry{b, now}
			s.used += b.Size + b.GzipSize
		}
	}
	for _, f := range files {
		if !s.names(f.Name()) {
			if err := os.RemoveAll(filepath.Join(s.dir, blobsDir, f.Name())); err != nil {
				return err
			}
		}
	}
	return s.loadArtifacts()
}

// names says whether a file in the blob directory belongs to a whole blob.
func (s *Store) names(file string) bool {
	for _, suffix := range []string{recordSuffix, gzipSuffix, ""} {
		if sha256, cut := trimSuffix(file, suffix); cut {
			return s.blobs[sha256] != nil
		}
	}
	return false
}

// readBlob reads the record of a blob and checks that its files are there, at
// their size. Their bytes were verified before they got their names.
func (s *Store) readBlob(sha256 string) (Blob, bool) {
	var b Blob
	if !catalog.SHA256Pattern.MatchString(sha256) || readRecord(s.blobPath(sha256, recordSuffix), &b) != nil {
		return Blob{}, false
	}
	if b.SHA256 != sha256 || b.Size <= 0 || b.Size > inspect.MaxModuleSize || b.GzipSize <= 0 {
		return Blob{}, false
	}
	return b, !s.damaged(b)
}

func isFile(path string, size int64) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode().IsRegular() && info.Size() == size
}

// Stat finds a blob.
func (s *Store) Stat(sha256 string) (Blob, bool) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	e, found := s.blobs[sha256]
	if !found {
		return Blob{}, false
	}
	return e.Blob, true
}

// Open opens a module. The error is fs.ErrNotExist if the store does not have it.
func (s *Store) Open(sha256 string) (*os.File, error) { return s.open(sha256, "") }

// OpenGzip opens the gzip of a module. The error is fs.ErrNotExist if the
// store does not have it.
func (s *Store) OpenGzip(sha256 string) (*os.File, error) { return s.open(sha256, gzipSuffix) }

func (s *Store) open(sha256, suffix string) (*os.File, error) {
	s.mu.Lock()
	e, found := s.blobs[sha256]
	if found {
		e.touched = time.Now()
	}
	s.mu.Unlock()
	if !found { // also keeps malformed names away from the file system
		return nil, &fs.PathError{Op: "open", Path: sha256, Err: fs.ErrNotExist}
	}
	f, err := os.Open(s.blobPath(sha256, suffix))
	if errors.Is(err, fs.ErrNotExist) {
		// Somebody removed the file. Once the store says that the blob is gone, it is fetched again.
		_, err = s.remove([]string{sha256}, s.damaged)
		return nil, errors.Join(&fs.PathError{Op: "open", Path: sha256, Err: fs.ErrNotExist}, err)
	}
	return f, err
}

// damaged says whether a file of the blob is missing or has another size.
func (s *Store) damaged(b Blob) bool {
	return !isFile(s.blobPath(b.SHA256, ""), b.Size) || !isFile(s.blobPath(b.SHA256, gzipSuffix), b.GzipSize)
}

// Used is the number of bytes that the modules and their gzips take.
func (s *Store) Used() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.used
}

func (s *Store) blobPath(sha256, suffix string) string {
	return filepath.Join(s.dir, blobsDir, sha256+suffix)
}

// readRecord reads a JSON file of at most maxRecord bytes.
func readRecord(path string, v any) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxRecord))
	if err != nil {
		return err
	}
	return json.Unmarshal(b, v)
}

func trimSuffix(name, suffix string) (string, bool) {
	if len(name) < len(suffix) || name[len(name)-len(suffix):] != suffix {
		return "", false
	}
	return name[:len(name)-len(suffix)], true
}
