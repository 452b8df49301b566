// Package official knows which plugins the Console of a Higress release asks
// for, and where they are published. The table is data of the releases, read from
// the Consoles' own resources; its rows are only ever added to, so that a newer
// operator gives the same paths the same tags.
package official

import (
	"bytes"
	_ "embed"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/reference"
)

// Registry is where Higress publishes its plugins.
const Registry = "higress-registry.cn-hangzhou.cr.aliyuncs.com"

// MaxTable is the size of a table in bytes: what a ConfigMap can hold.
const MaxTable = 1 << 20

// maxRows is the number of rows of a table: a hundred releases.
const maxRows = 10_000

//go:embed table.csv
var embedded []byte

// header of a table. A row says that the Console of a release asks for a
// plugin by name and version, and under which repository and tag it is published.
var header = []string{"higress", "name", "version", "repository", "tag"}

// Row of a table.
type Row struct {
	Release    string // of Higress
	Key        catalog.Key
	Repository string // below the registry
	Tag        string
}

// Table of official plugins.
type Table []Row

// Embedded is the table of the releases that this version of the operator knows.
var Embedded = sync.OnceValue(func() Table {
	t, err := Parse(embedded)
	if err != nil {
		panic(err) // it is part of the program
	}
	return t
})

// Parse reads a table. The error is a *failure.Error of reason InvalidList.
func Parse(content []byte) (Table, error) {
	if len(content) > MaxTable {
		return nil, invalid("it has %d bytes, %d are allowed", len(content), MaxTable)
	}
	reader := csv.NewReader(bytes.NewReader(content))
	reader.Comment, reader.TrimLeadingSpace, reader.FieldsPerRecord = '#', true, len(header)
	first, err := reader.Read()
	if err != nil || !slices.Equal(first, header) {
		return nil, invalid("its first line is not higress,name,version,repository,tag")
	}
	t := Table{}
	for {
		fields, err := reader.Read()
		if errors.Is(err, io.EOF) {
			return t, nil
		}
		if err != nil {
			return nil, invalid("a line has not the five fields of the first")
		}
		row := Row{fields[0], catalog.Key{Name: fields[1], Version: fields[2]}, fields[3], fields[4]}
		if err := row.check(); err != nil {
			line, _ := reader.FieldPos(0)
			return nil, invalid("line %d: %s", line, err)
		}
		if t = append(t, row); len(t) > maxRows {
			return nil, invalid("it has more than %d rows", maxRows)
		}
	}
}

func (r Row) check() error {
	switch {
	case !catalog.VersionPattern.MatchString(r.Release):
		return errors.New("the release is malformed")
	case !catalog.NamePattern.MatchString(r.Key.Name):
		return errors.New("the name is malformed")
	case !catalog.VersionPattern.MatchString(r.Key.Version):
		return errors.New("the version is malformed")
	}
	_, err := reference.Parse(r.url(r.Repository))
	return err
}

func (r Row) url(repository string) string {
	return reference.Scheme + Registry + "/" + repository + ":" + r.Tag
}

func invalid(format string, args ...any) error {
	return failure.New(failure.Upstream, failure.InvalidList, nil, "the table of official plugins is not used: %s", fmt.Sprintf(format, args...))
}

// Plugin is what a path of the Console gets.
type Plugin struct {
	Key catalog.Key
	// URLs are the places where it may be, the likeliest first: some plugins were
	// published in two repositories.
	URLs []string
	// Release that decided the tag.
	Release string
	// Others are the releases that would have another tag here.
	Others []string
}

// Releases that the table has, each once, in its order.
func (t Table) Releases() []string {
	var releases []string
	for _, r := range t {
		if !slices.Contains(releases, r.Release) {
			releases = append(releases, r.Release)
		}
	}
	return releases
}

// Plugins gives what the Consoles of some releases ask for. Where releases
// want other bytes under the same path, the first one in the list that asks for the
// path decides: a release that is added at the end changes nothing of what the
// running ones get. Unknown releases are given back.
func (t Table) Plugins(releases []string) (plugins []Plugin, unknown []string) {
	byRelease, places := t.index()
	at := map[catalog.Key]int{}
	tags := map[catalog.Key]string{}
	for _, release := range releases {
		rows, known := byRelease[release]
		if !known {
			unknown = append(unknown, release)
		}
		for _, r := range rows {
			i, taken := at[r.Key]
			if !taken {
				at[r.Key], tags[r.Key] = len(plugins), r.Tag
				plugins = append(plugins, Plugin{Key: r.Key, URLs: r.urls(places[place{r.Key.Name, r.Tag}]), Release: release})
			} else if p := &plugins[i]; tags[r.Key] != r.Tag && !slices.Contains(p.Others, release) {
				p.Others = append(p.Others, release)
			}
		}
	}
	return plugins, unknown
}

// place is a plugin at a tag.
type place struct{ name, tag string }

// maxPlaces is the number of repositories in which one plugin is looked for.
const maxPlaces = 4

// index gives the rows of each release, and the repositories in which a plugin has stood at a tag.
func (t Table) index() (byRelease map[string][]Row, places map[place][]string) {
	byRelease, places = map[string][]Row{}, map[place][]string{}
	for _, r := range t {
		byRelease[r.Release] = append(byRelease[r.Release], r)
		at := place{r.Key.Name, r.Tag}
		if known := places[at]; len(known) < maxPlaces && !slices.Contains(known, r.Repository) {
			places[at] = append(known, r.Repository)
		}
	}
	return byRelease, places
}

// urls are the places of a plugin at its tag: the row's own repository first.
func (r Row) urls(repositories []string) []string {
	urls := []string{r.url(r.Repository)}
	for _, other := range repositories {
		if other != r.Repository {
			urls = append(urls, r.url(other))
		}
	}
	return urls
}
