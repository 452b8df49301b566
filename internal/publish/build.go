package publish

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"syscall"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// syncers is the number of files and folders made durable at once.
const syncers = 16

// build makes one generation.
type build struct {
	volume     *Volume
	generation *Generation
	served     served

	oldID string                        // of the present generation, if any
	old   map[catalog.Key]catalog.Entry // what that one serves

	folder   string
	unsynced []string // files and folders that are not durable yet
}

// cost is what the generation takes at most, in bytes, apart from the modules.
func (b *build) cost() int64 {
	names := map[string]bool{}
	var metadata int64
	for _, e := range b.generation.Entries {
		names[e.Name] = true
		if !b.known(e) {
			metadata++
		}
	}
	folders := int64(len(names) + len(b.generation.Entries) + 2)
	return block*(folders+metadata+1) + catalog.MaxEncoded/8
}

// known says whether the present generation has the same metadata.
func (b *build) known(e catalog.Entry) bool {
	old, ok := b.old[e.Key()]
	old.RetainedUntil, e.RetainedUntil = "", "" // no part of the metadata
	return ok && old == e
}

func (b *build) run(ctx context.Context) (err error) {
	if b.folder, err = b.volume.disk.mkdirTemp(b.volume.tmp, "gen-"); err != nil {
		return err
	}
	defer func() { _ = b.volume.disk.removeAll(b.folder) }() // nothing is there any more once it is renamed
	if err := b.fill(ctx); err != nil {
		return err
	}
	id := b.generation.Revision + "-" + strings.ToLower(rand.Text()[:8])
	if err := b.volume.disk.rename(b.folder, generationPath(b.volume.dir, id)); err != nil {
		return err
	}
	if err := b.volume.disk.sync(filepath.Join(b.volume.dir, generationsDir)); err != nil {
		return err
	}
	if err := b.volume.swap(b.oldID, id); err != nil {
		return err
	}
	b.generation.ID = id
	return nil
}

func (b *build) fill(ctx context.Context) error {
	encoded, err := b.generation.Catalog.Encode()
	if err != nil {
		return err
	}
	otherwise, err := json.Marshal(b.served)
	if err != nil {
		return err
	}
	plugins := filepath.Join(b.folder, linkName)
	if err := errors.Join(
		b.volume.disk.chmod(b.folder, 0o755),
		b.write(filepath.Join(b.folder, catalogFile), encoded),
		b.write(filepath.Join(b.folder, servedFile), otherwise),
		b.mkdir(plugins),
	); err != nil {
		return err
	}
	last := ""
	for _, e := range b.generation.Entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		folder := filepath.Join(plugins, e.Name)
		if e.Name != last { // the entries are in order
			if err := b.mkdir(folder); err != nil {
				return err
			}
			last = e.Name
		}
		if err := b.add(e, filepath.Join(folder, e.Version)); err != nil {
			return err
		}
	}
	b.unsynced = append(b.unsynced, b.folder)
	return b.syncAll()
}

// add puts one entry into the generation.
func (b *build) add(e catalog.Entry, folder string) error {
	blob := blobPath(b.volume.dir, e.SHA256)
	if err := b.mkdir(folder); err != nil {
		return err
	}
	return errors.Join(
		b.link(blob, filepath.Join(folder, moduleFile)),
		b.link(blob+gzipSuffix, filepath.Join(folder, gzipFile)),
		b.addMetadata(e, filepath.Join(folder, metadataFile)),
	)
}

func (b *build) addMetadata(e catalog.Entry, path string) error {
	if b.known(e) {
		old := filepath.Join(generationPath(b.volume.dir, b.oldID), linkName, e.Name, e.Version, metadataFile)
		if err := b.volume.disk.link(old, path); err == nil {
			return nil
		}
	}
	return b.write(path, Metadata(e))
}

func (b *build) mkdir(path string) error {
	b.unsynced = append(b.unsynced, path)
	return b.volume.disk.mkdir(path)
}

// write writes a new read-only file.
func (b *build) write(path string, content []byte) error {
	b.unsynced = append(b.unsynced, path)
	f, err := b.volume.disk.create(path)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.readOnly(), f.Close())
}

// syncAll makes the files and folders durable, many at once: the file system then
// does them together, ten times as fast as one after the other.
func (b *build) syncAll() error {
	var (
		syncing sync.WaitGroup
		mu      sync.Mutex
		failed  error
	)
	for worker := range syncers {
		syncing.Go(func() {
			for i := worker; i < len(b.unsynced); i += syncers {
				if err := b.volume.disk.sync(b.unsynced[i]); err != nil {
					mu.Lock()
					failed = err
					mu.Unlock()
					return
				}
			}
		})
	}
	syncing.Wait()
	return failed
}

// link makes a hard link, or a symbolic one where a module has as many names
// as the file system allows (ext4: 65,000).
func (b *build) link(blob, path string) error {
	disk := b.volume.disk
	err := disk.link(blob, path)
	// Where another writer puts the same module into its place at this moment,
	// the file that was looked up has lost its name before it gets a second one.
	for range 10 {
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		err = disk.link(blob, path)
	}
	if !errors.Is(err, syscall.EMLINK) {
		return err
	}
	// Five up from .gen/<id>/plugins/<name>/<version>.
	return disk.symlink(filepath.Join("..", "..", "..", "..", "..", blobsDir, filepath.Base(blob)), path)
}
