// Package publish is the volume of a plugin server: modules by content, and
// generations of links to them that are switched as a whole.
//
//	plugins -> .gen/<id>/plugins                 the only thing a reader needs; swapped by rename
//	.gen/<id>/catalog.json.gz                    the catalog of the generation
//	.gen/<id>/served.json                        what it serves otherwise than the catalog wants
//	.gen/<id>/plugins/<name>/<version>/          plugin.wasm, plugin.wasm.gz (hard links), metadata.txt
//	blobs/sha256/<hex>, <hex>.gz                 modules, verified by their name
//	sync-status.json                             what keeps the volume from following the newest catalog
//	.tmp/w-*/                                    one folder for each living writer
//
// <id> is the catalog's revision and a random part: the same revision is
// published several times while its modules arrive, and again when an older one
// comes back, and a generation that somebody may be reading never changes.
package publish

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

const (
	linkName       = "plugins"
	generationsDir = ".gen"
	temporaryDir   = ".tmp"
	blobsDir       = "blobs/sha256"
	catalogFile    = "catalog.json.gz"
	servedFile     = "served.json"
	statusFile     = "sync-status.json"

	moduleFile   = "plugin.wasm"
	gzipFile     = "plugin.wasm.gz"
	metadataFile = "metadata.txt"

	gzipSuffix = ".gz"
)

const (
	// KeepSuperseded is how long a superseded generation stays at least: slow
	// readers and the attribute caches of network volumes (a minute) are long done.
	KeepSuperseded = 10 * time.Minute
	// maxSuperseded is the number of superseded generations that are kept; beyond
	// it the oldest go early. A generation of 1,000 plugins takes up to 8 MiB in folders.
	maxSuperseded = 64
	// maxServed bounds the reading of served.json in bytes: no more than a
	// decoded catalog has.
	maxServed = 16 << 20
)

func blobPath(dir, sha256 string) string { return dir + "/" + blobsDir + "/" + sha256 }

func generationPath(dir, id string) string { return filepath.Join(dir, generationsDir, id) }

// Blobs opens the modules of a volume by their content.
type Blobs struct {
	// Dir is the volume.
	Dir string
}

// Open opens a module; fs.ErrNotExist if the volume lacks it. sha256 must be
// well-formed: it becomes part of a path.
func (b Blobs) Open(sha256 string) (*os.File, error) { return openBlob(blobPath(b.Dir, sha256)) }

// OpenGzip opens a module's gzip, like Open.
func (b Blobs) OpenGzip(sha256 string) (*os.File, error) {
	return openBlob(blobPath(b.Dir, sha256) + gzipSuffix)
}

// openBlob is os.Open without the five system calls by which that finds out that
// a file cannot be waited for: half of what a small answer takes.
func openBlob(path string) (*os.File, error) {
	for {
		fd, err := syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), path), nil
		case !errors.Is(err, syscall.EINTR):
			return nil, &fs.PathError{Op: "open", Path: path, Err: err}
		}
	}
}

// Has says whether the volume has a module of that size, and its gzip.
func (b Blobs) Has(sha256 string, size int64) bool {
	module, err := os.Lstat(blobPath(b.Dir, sha256))
	if err != nil || !module.Mode().IsRegular() || module.Size() != size {
		return false
	}
	zipped, err := os.Lstat(blobPath(b.Dir, sha256) + gzipSuffix)
	return err == nil && zipped.Mode().IsRegular() && zipped.Size() > 0
}
