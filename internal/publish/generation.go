package publish

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// Generation is what a volume serves at one time.
type Generation struct {
	// ID names its folder.
	ID string
	// Revision of Catalog.
	Revision string
	// Catalog is what the generation was made for.
	Catalog *catalog.Catalog
	// Entries are what is served, ordered by key: the catalog's entries, except
	// those whose module is not there. Where an older module of the same key is, the
	// older entry stands here.
	Entries []catalog.Entry
	// Missing are the keys that are not served as the catalog wants them, in
	// order. Pending entries do not count.
	Missing []catalog.Key
}

// served is the form of served.json.
type served struct {
	// Missing are the keys that are not served as the catalog wants them.
	Missing []key `json:"missing,omitempty"`
	// Older are the entries that are served instead, as far as there are any.
	Older []catalog.Entry `json:"older,omitempty"`
}

type key struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

// Whole says whether everything available is served as the catalog wants it.
func (g *Generation) Whole() bool { return len(g.Missing) == 0 }

// Current gives the ID of the generation that a volume serves; fs.ErrNotExist
// before the first one. It costs one system call.
func Current(dir string) (id string, err error) {
	target, err := os.Readlink(filepath.Join(dir, linkName))
	if err != nil {
		return "", err
	}
	id, ok := strings.CutPrefix(filepath.ToSlash(target), generationsDir+"/")
	id, ok2 := strings.CutSuffix(id, "/"+linkName)
	if !ok || !ok2 || id == "" || strings.ContainsAny(id, "/\\") || strings.HasPrefix(id, ".") {
		return "", fmt.Errorf("%s points to %q, which is no generation: somebody else writes to this volume", filepath.Join(dir, linkName), target)
	}
	return id, nil
}

// Load reads a generation of a volume.
func Load(dir, id string) (*Generation, error) {
	encoded, err := readBounded(filepath.Join(generationPath(dir, id), catalogFile), catalog.MaxEncoded)
	if err != nil {
		return nil, err
	}
	c, err := catalog.Decode(encoded)
	if err != nil {
		return nil, fmt.Errorf("generation %s: %w", id, err)
	}
	b, err := readBounded(filepath.Join(generationPath(dir, id), servedFile), maxServed)
	if err != nil {
		return nil, err
	}
	var s served
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, fmt.Errorf("generation %s: %s: %w", id, servedFile, err)
	}
	return newGeneration(id, c, s), nil
}

// LoadCurrent reads the generation that a volume serves; fs.ErrNotExist before
// the first one.
func LoadCurrent(dir string) (*Generation, error) {
	var err error
	// It may be superseded and even collected between the two steps, by a writer
	// that was stopped for long; never twice in a row.
	for range 3 {
		var id string
		if id, err = Current(dir); err != nil {
			return nil, err
		}
		var g *Generation
		if g, err = Load(dir, id); err == nil {
			return g, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) { // a link to nothing is not "before the first one"
		return nil, fmt.Errorf("the generation that is served is damaged: %v", err) //nolint:errorlint // on purpose, see above
	}
	return nil, err
}

func newGeneration(id string, c *catalog.Catalog, s served) *Generation {
	g := &Generation{ID: id, Revision: c.Revision(), Catalog: c}
	missing := make(map[catalog.Key]bool, len(s.Missing))
	for _, k := range s.Missing {
		missing[catalog.Key(k)] = true
		g.Missing = append(g.Missing, catalog.Key(k))
	}
	for _, e := range c.Entries {
		if !e.Pending() && !missing[e.Key()] {
			g.Entries = append(g.Entries, e)
		}
	}
	g.Entries = append(g.Entries, s.Older...)
	slices.SortFunc(g.Entries, func(a, b catalog.Entry) int { return a.Key().Compare(b.Key()) })
	return g
}

// readBounded reads a file of at most limit bytes.
func readBounded(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, err
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", path, limit)
	}
	return b, nil
}
