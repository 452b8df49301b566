package fetch

import (
	"archive/tar"
	"context"
	"errors"
	"io"
	"path"
	"strings"
	"time"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/inspect"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

const (
	metadataName = "metadata.txt"
	// Whiteouts say what a layer deletes of those below (OCI image layer specification): .wh.NAME the path NAME beside
	// it, and opaqueName all that is in its directory. Others that begin so are left behind by old tools.
	whiteoutPrefix = ".wh."
	opaqueName     = ".wh..wh..opq"
)

// leaf is what is known about a path that is no directory.
type leaf struct {
	blob        store.Blob // of a module that is in the store
	problem     string     // why it cannot be a module
	symlink     bool
	unread      string // the path of a file that was passed over; a hard link has that of its target
	metadata    bool
	created     time.Time
	description string
}

// node is a path of a layer, or of several that are laid over each other: a
// directory, unless it has a leaf.
type node struct {
	children map[string]*node
	leaf     *leaf
	closed   bool // nothing that layers below have under the path is to be seen
}

// child makes the node of a name, if it is not there.
func (n *node) child(name string) (c *node, made bool) {
	if c = n.children[name]; c != nil {
		return c, false
	}
	if n.children == nil {
		n.children = map[string]*node{}
	}
	c = &node{}
	n.children[strings.Clone(name)] = c // the name alone, not the path that it is cut from
	return c, true
}

// find gives the leaf at a path; nil if there is none.
func (n *node) find(path string) *leaf {
	for name := range parts(path) {
		if n = n.children[name]; n == nil {
			return nil
		}
	}
	return n.leaf
}

// hides says whether a path of a layer below, other than a directory, is not to be seen.
func (n *node) hides(path string) bool {
	for name := range parts(path) {
		if n.closed {
			return true
		}
		if n = n.children[name]; n == nil {
			return false
		}
	}
	return true
}

// hide lets nothing of a path be seen in layers below.
func (n *node) hide(path string) {
	for name := range parts(path) {
		if n.closed {
			return
		}
		n, _ = n.child(name)
	}
	n.closed, n.children = true, nil
}

// cover lets what a layer below has stand in the way, too.
func (n *node) cover(below *node) {
	if n.closed {
		return
	}
	if n.closed = below.closed; n.closed {
		n.children = nil
		return
	}
	for name, b := range below.children {
		if child, made := n.child(name); made {
			n.children[name] = b
		} else {
			child.cover(b)
		}
	}
}

// imageLayer is a layer of an image, as far as it was read.
type imageLayer struct {
	reader   *imageReader
	tree     *node
	deleted  []string // paths that whiteouts hide in the layers below
	skipped  []string
	unlisted int
	entries  int
	spent    spent
	targets  map[string]bool // files to which hard links lead that must be modules
	wanted   map[string]bool // those that should have been in targets
}

// walk reads the tar of the layer.
func (l *imageLayer) walk(ctx context.Context, plain io.Reader) error {
	archive := tar.NewReader(plain)
	for {
		header, err := archive.Next()
		switch {
		case err == io.EOF: // a wrapped EOF is no clean end
			return nil
		case l.entries == 0 && (errors.Is(err, tar.ErrHeader) || errors.Is(err, io.ErrUnexpectedEOF)):
			return failure.New(failure.Upstream, failure.NoWasmLayer, err, "a layer is no tar archive, and so %s", noPlugins)
		case err != nil:
			return err
		}
		if l.entries++; l.entries > maxImageEntries {
			return failure.New(failure.Upstream, failure.UnsupportedArtifact, nil, "a layer has more than %d files", maxImageEntries)
		}
		if len(header.Name) > maxImageName || len(header.Linkname) > maxImageName {
			return failure.New(failure.Upstream, failure.UnsupportedArtifact, nil, "a layer has a path of more than %d bytes", maxImageName)
		}
		if header.Typeflag == tar.TypeXGlobalHeader { // a comment, no file
			continue
		}
		if err := l.take(ctx, header, archive); err != nil {
			return err
		}
	}
}

// take notes one entry of the tar.
func (l *imageLayer) take(ctx context.Context, header *tar.Header, content io.Reader) error {
	name, proper := cleaned(header.Name)
	if !proper {
		if strings.Contains(header.Name, pluginsRoot+"/") && path.Base(header.Name) == moduleName {
			l.skip(header.Name, "its path leads upwards")
		}
		return nil
	}
	if deleted, is := whiteout(name); is {
		if !concerns(deleted) {
			return nil
		}
		l.deleted = append(l.deleted, deleted)
		return l.remember(nodeMemory + len(deleted))
	}
	if name == "" || !concerns(name) {
		return nil
	}
	n, err := l.place(name)
	if err != nil {
		return err
	}
	switch {
	case n == nil:
		if isNamed(name, moduleName) && !l.reader.above.hides(name) {
			l.skip(name, "it lies below a link or a file")
		}
	case header.Typeflag == tar.TypeDir:
		n.leaf = nil // and closed stays, if there was one
	default:
		e, err := l.leaf(ctx, name, header, content)
		if err != nil {
			return err
		}
		*n = node{leaf: e, closed: true}
	}
	return nil
}

// place makes the node of a path, with the directories above it. It is nil if
// the layer has something else there: links are not followed.
func (l *imageLayer) place(path string) (*node, error) {
	n := l.tree
	for name := range parts(path) {
		if n.leaf != nil {
			return nil, nil
		}
		child, made := n.child(name)
		if made {
			if err := l.remember(nodeMemory + len(name)); err != nil {
				return nil, err
			}
		}
		n = child
	}
	return n, nil
}

func (l *imageLayer) remember(bytes int) error {
	if l.spent.memory += int64(bytes); l.spent.memory > l.reader.allowance.memory {
		return failure.New(failure.Upstream, failure.UnsupportedArtifact, nil, "it has too many files in /%s: leave out what is no plugin", pluginsRoot)
	}
	return nil
}

func (l *imageLayer) skip(name, why string) {
	l.skipped, l.unlisted = bounded(l.skipped, l.unlisted, []string{skippedLine(name, why)})
}

// leaf reads what is not a directory.
func (l *imageLayer) leaf(ctx context.Context, name string, header *tar.Header, content io.Reader) (*leaf, error) {
	_, isModule := keyOf(name, moduleName)
	isModule = isModule && !l.reader.above.hides(name)
	_, isMetadata := keyOf(name, metadataName)
	switch {
	case header.Typeflag == tar.TypeSymlink:
		return &leaf{symlink: true, problem: "it is a symbolic link, which is not followed"}, nil
	case header.Typeflag == tar.TypeLink:
		return l.link(header.Linkname, isModule), nil
	case header.Typeflag != tar.TypeReg, sparse(header):
		return &leaf{problem: "it is no regular file"}, nil
	case isModule, l.targets[name]:
		return l.module(ctx, header.Size, content)
	case isMetadata:
		e := &leaf{metadata: true}
		e.created, e.description = publish.ParseMetadata(content)
		e.description = line(e.description)
		return e, l.remember(len(e.description))
	}
	return &leaf{unread: name}, nil
}

// link gives what a hard link leads to.
func (l *imageLayer) link(target string, isModule bool) *leaf {
	target, proper := cleaned(target)
	e := l.tree.find(target)
	if !proper || e == nil {
		return &leaf{problem: "it is a hard link to what the layer does not have in /" + pluginsRoot}
	}
	if isModule && e.unread != "" {
		l.wanted[e.unread] = true
	}
	return e
}

// module puts a module into the store. One that is broken keeps the others from nothing.
func (l *imageLayer) module(ctx context.Context, size int64, content io.Reader) (*leaf, error) {
	if l.spent.modules++; l.spent.modules > l.reader.allowance.modules {
		return nil, tooManyModules()
	}
	if size > inspect.MaxModuleSize {
		return &leaf{problem: "it is larger than a module may be"}, nil
	}
	blob, err := l.reader.put(ctx, content, "")
	if err == nil {
		return &leaf{blob: blob}, nil
	}
	var known *failure.Error
	if errors.As(err, &known) && known.Reason == failure.NotWasm {
		return &leaf{problem: known.Message}, nil
	}
	return nil, err
}

// parts gives the names in a cleaned path.
func parts(path string) func(func(string) bool) {
	return func(yield func(string) bool) {
		if path != "" {
			strings.SplitSeq(path, "/")(yield)
		}
	}
}

func join(directory, name string) string { return strings.TrimPrefix(directory+"/"+name, "/") }

// cleaned gives a path from the root of the image, without a slash in front;
// the root itself is empty. One that leads upwards is not proper.
func cleaned(name string) (_ string, proper bool) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", false
		}
	}
	return path.Clean("/" + name)[1:], true
}

// whiteout says what an entry of a tar hides in the layers below, if it does.
// What begins like a whiteout and is none hides nothing, and is no file either.
func whiteout(name string) (hidden string, is bool) {
	directory, base := path.Split(name)
	directory = strings.TrimSuffix(directory, "/")
	if base == opaqueName {
		return directory, true
	}
	rest, is := strings.CutPrefix(base, whiteoutPrefix)
	switch {
	case !is:
		return "", false
	case rest == "", rest == ".", rest == "..", strings.HasPrefix(rest, whiteoutPrefix):
		return ".", true // no path of an image: concerns nothing
	}
	return join(directory, rest), true
}

// concerns says whether a path is in pluginsRoot, or on the way there.
func concerns(path string) bool {
	return path == "" || path == pluginsRoot || strings.HasPrefix(path, pluginsRoot+"/") || strings.HasPrefix(pluginsRoot, path+"/")
}

// mayLead says whether a link at the path could lead to modules: on the way to
// pluginsRoot, or a plugin or a version there.
func mayLead(path string) bool {
	return strings.Count(path, "/") <= strings.Count(pluginsRoot, "/")+2
}

// isNamed says whether a path in pluginsRoot ends with a name.
func isNamed(name, base string) bool {
	return strings.HasPrefix(name, pluginsRoot+"/") && path.Base(name) == base
}

// keyOf gives the plugin whose file of that name the path is.
func keyOf(path, file string) (key catalog.Key, found bool) {
	rest, _ := strings.CutPrefix(path, pluginsRoot+"/")
	names := strings.Split(rest, "/")
	if len(rest) == len(path) || len(names) != 3 || names[2] != file ||
		!catalog.NamePattern.MatchString(names[0]) || !catalog.VersionPattern.MatchString(names[1]) {
		return catalog.Key{}, false
	}
	return catalog.Key{Name: names[0], Version: names[1]}, true
}
