package follow

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// watchFile offers the catalog of the file, and again whenever the file
// changes. It looks by itself instead of being told: what tells of changes misses
// those of network volumes, and a look is cheap.
func (f *Follower) watchFile(ctx context.Context) {
	tick := time.NewTicker(lookEvery)
	defer tick.Stop()
	var last fs.FileInfo
	for {
		// A file that is not there (yet) is nothing to talk about.
		if info, err := os.Stat(f.options.CatalogFile); err == nil && !unchanged(last, info) {
			last = info
			c, err := readCatalog(f.options.CatalogFile)
			if errors.Is(err, fs.ErrNotExist) {
				last = nil
			} else if !f.offer(ctx, offer{"file", c, explain(err, "the catalog of the ConfigMap cannot be used")}) {
				return
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func unchanged(a, b fs.FileInfo) bool {
	return a != nil && os.SameFile(a, b) && a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size()
}

func readCatalog(path string) (*catalog.Catalog, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	b, err := io.ReadAll(io.LimitReader(file, catalog.MaxEncoded+1))
	if err != nil {
		return nil, err
	}
	return catalog.Decode(b)
}

// explain puts an error into a sentence for the user. The pod's program may be
// older than the operator: then it says so.
func explain(err error, what string) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, catalog.ErrSchemaVersion):
		return fmt.Errorf("%s, what is served stays as it is: %w; the image of the plugin server and the operator's do not match, use the same version", what, err)
	}
	return fmt.Errorf("%s, what is served stays as it is: %w", what, err)
}

// offer hands a catalog over. It says whether somebody took it.
func (f *Follower) offer(ctx context.Context, o offer) bool {
	select {
	case f.offers <- o:
		return true
	case <-ctx.Done():
		return false
	}
}
