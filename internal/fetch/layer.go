package fetch

import (
	"archive/tar"
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/inspect"
)

const (
	// maxCompressed is the size of a compressed layer in bytes; official plugins take at most 3 MiB.
	maxCompressed = 128 << 20
	// maxExpanded is what a layer may become when it is unpacked, in bytes: a module of the greatest size and as much beside it.
	maxExpanded = 2 * inspect.MaxModuleSize
	// maxEntries is the number of files in a tar layer.
	maxEntries = 10_000
	// maxRatio is how many times larger than its gzip a layer may be, beyond the first freeExpansion bytes.
	// Modules shrink 3 to 5 times; gzip itself can reach 1,032.
	maxRatio      = 100
	freeExpansion = 16 << 20
	// maxWindow is how far back a zstd frame may refer, in bytes: what every decoder should support (RFC 8878), and
	// what decoding takes of memory.
	maxWindow = 8 << 20
	// moduleName is the file that tools for Wasm plugins put into a tar layer.
	moduleName = "plugin.wasm"
	moduleExt  = ".wasm"
	// tarMagicAt is where the magic word of a tar header stands; a header has 512 bytes (POSIX.1-2001, pax).
	tarMagicAt, tarHeader = 257, 512
)

// errNoModule says that a layer holds no Wasm module.
var errNoModule = errors.New("no Wasm module in the layer")

// otherEntry says that a file comes later in the layer that is the module rather than the one given out.
type otherEntry struct{ name string }

func (e *otherEntry) Error() string { return "the module is " + e.name }

// verifier gives foreign bytes. Once they have been read to io.EOF, Verify says whether they are the right ones.
type verifier interface {
	io.Reader
	Verify() error
}

// container is what may hold a module: a layer, or a file.
type container struct {
	content  verifier
	size     int64 // as declared; negative where nobody says
	declared bool  // whether it is said to be a module
}

// limits is how much of a layer is read, in bytes.
type limits struct {
	compressed, expanded int64
	advice               string // what helps against a layer that is larger
}

var artifactLimits = limits{maxCompressed, maxExpanded, "publish the module alone"}

// stream is a layer that may be compressed.
type stream struct {
	layer  verifier
	limits limits
	raw    io.Reader // the layer
	plain  io.Reader // the layer without compression
}

// moduleReader gives the module of a layer. It gives io.EOF only once the
// layer was read to its end, matches its digest, and has no better file.
type moduleReader struct {
	stream
	tar    *tar.Reader // nil if the layer is the module itself
	module io.Reader
	entry  string // name of the file that is given out; chosen is whether it was asked for
	chosen bool
	files  int
	ended  bool
	atEnd  error // what end found
	err    error // what Read goes on to give
}

// openModule finds the module in a layer, by what the bytes are rather than by
// what the media type says: tools often leave a default there. entry is the
// name of the file to give out of a tar; without it, it is plugin.wasm, else the only
// file whose name ends with .wasm. The error is errNoModule if there is none.
func openModule(c container, entry string) (*moduleReader, error) {
	buffered := bufio.NewReaderSize(c.content, 64<<10)
	m := &moduleReader{stream: stream{layer: c.content, limits: artifactLimits, raw: buffered, plain: buffered}, entry: entry}
	start, err := buffered.Peek(tarHeader)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	decompressor := decompressorOf(start)
	switch {
	case decompressor != nil && c.size > maxCompressed:
		return nil, tooLarge("a compressed layer of %d MiB", c.size>>20)
	case decompressor == nil && !isTar(start) && c.size > inspect.MaxModuleSize:
		return nil, tooLarge("a module of %d MiB", c.size>>20)
	case decompressor != nil:
		if buffered, start, err = m.decompress(decompressor); err != nil {
			return nil, m.broken(err)
		}
	}
	return m, m.broken(m.open(buffered, start, c.declared))
}

func isTar(start []byte) bool {
	return len(start) == tarHeader && bytes.HasPrefix(start[tarMagicAt:], []byte("ustar"))
}

// decompressorOf says by the first bytes how something is compressed; nil if it is not.
func decompressorOf(start []byte) func(io.Reader) (io.Reader, error) {
	switch {
	case bytes.HasPrefix(start, []byte("\x1f\x8b")):
		return func(r io.Reader) (io.Reader, error) { return gzip.NewReader(r) }
	case bytes.HasPrefix(start, []byte("\x28\xb5\x2f\xfd")):
		return func(r io.Reader) (io.Reader, error) {
			return zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxWindow(maxWindow))
		}
	}
	return nil
}

// decompress puts a decompressor above the layer.
func (s *stream) decompress(decompressor func(io.Reader) (io.Reader, error)) (*bufio.Reader, []byte, error) {
	compressed := &countingReader{reader: s.raw, limits: s.limits}
	s.raw = compressed
	zr, err := decompressor(compressed)
	if err != nil {
		return nil, nil, err
	}
	buffered := bufio.NewReaderSize(&expansionGuard{reader: zr, compressed: compressed}, 64<<10)
	s.plain = buffered
	start, err := buffered.Peek(tarHeader)
	if err != nil && err != io.EOF { //nolint:errorlint // a wrapped EOF is no clean end
		return nil, nil, err
	}
	return buffered, start, nil
}

// open finds the module. declared is whether the layer is said to be one.
func (m *moduleReader) open(plain *bufio.Reader, start []byte, declared bool) error {
	switch {
	case bytes.HasPrefix(start, []byte("\x00asm")), declared && !isTar(start):
		m.module = plain // the store says so if it is no module
		return nil
	case !isTar(start):
		return m.finish(errNoModule)
	}
	m.tar = tar.NewReader(plain)
	for {
		name, err := m.next()
		switch {
		case err == io.EOF: //nolint:errorlint // a wrapped EOF is no clean end
			return m.finish(errNoModule)
		case err != nil:
			return err
		case m.entry != "" && name == m.entry, m.entry == "" && path.Base(name) == moduleName:
			m.module, m.entry, m.chosen = m.tar, name, true
			return nil
		case m.entry == "":
			m.module, m.entry = m.tar, name
			return nil
		}
	}
}

// next goes to the next .wasm file of the tar.
func (m *moduleReader) next() (string, error) {
	for {
		header, err := m.tar.Next()
		if err != nil {
			return "", err
		}
		if m.files++; m.files > maxEntries {
			return "", failure.New(failure.Upstream, failure.UnsupportedArtifact, nil, "a layer has more than %d files: publish the module in a layer of its own", maxEntries)
		}
		base := path.Base(header.Name)
		// Names with a dot in front are what macOS (._plugin.wasm) and image builders (.wh.plugin.wasm) leave.
		if header.Typeflag == tar.TypeReg && strings.HasSuffix(base, moduleExt) && !strings.HasPrefix(base, ".") && !sparse(header) {
			return header.Name, nil
		}
	}
}

// sparse says whether a file has holes. No tool makes such modules, and a few
// bytes of a layer would become as many as a module may have.
func sparse(header *tar.Header) bool {
	for key := range header.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// Read gives the module, and io.EOF only if everything is right to the end of the layer.
func (m *moduleReader) Read(p []byte) (int, error) {
	if m.err != nil {
		return 0, m.err
	}
	n, err := m.module.Read(p)
	switch {
	case err == nil:
		return n, nil
	case err != io.EOF:
		m.err = m.broken(err)
	default:
		if m.err = m.end(); m.err == nil {
			m.err = io.EOF
		}
	}
	return n, m.err
}

// end reads what is left of the layer. It gives nil if the layer is what its
// digest says and the file that was given out is the module.
func (m *moduleReader) end() error {
	switch {
	case m.err != nil && m.err != io.EOF: //nolint:errorlint // a wrapped EOF is no clean end
		return m.err // the layer was read already to find out why
	case !m.ended:
		m.ended = true
		m.atEnd = m.broken(m.finish(m.better()))
	}
	return m.atEnd
}

// better looks for a file that is the module rather than the one that was given out.
func (m *moduleReader) better() error {
	if m.tar == nil || m.chosen {
		return nil
	}
	several := false
	for {
		name, err := m.next()
		switch {
		case err == io.EOF && several: //nolint:errorlint // a wrapped EOF is no clean end
			return failure.New(failure.Upstream, failure.NoWasmLayer, nil,
				"a layer has several .wasm files and none is called %s: name the module so, or push it alone", moduleName)
		case err == io.EOF: //nolint:errorlint // a wrapped EOF is no clean end
			return nil
		case err != nil:
			return err
		case path.Base(name) == moduleName:
			return &otherEntry{name}
		}
		several = true
	}
}

// finish reads the layer to its end and verifies it. A layer that is not what
// its digest says is the error rather than the given one.
func (s *stream) finish(result error) error {
	if _, err := io.Copy(io.Discard, s.plain); err != nil {
		return s.broken(err)
	}
	if err := s.verify(); err != nil {
		return err
	}
	return result
}

// broken judges an error in the content of a layer: if the bytes are not those of the digest, that is the reason.
func (s *stream) broken(err error) error {
	if err == nil || errors.Is(err, errNoModule) {
		return err
	}
	if verifyErr := s.verify(); verifyErr != nil {
		return verifyErr
	}
	var known *failure.Error
	var other *otherEntry
	if errors.As(err, &known) || errors.As(err, &other) {
		return err
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return failure.New(failure.Upstream, failure.Truncated, err, "the archive in a layer ends too early, although the layer is whole: build and push the plugin again")
	}
	return failure.New(failure.Upstream, failure.UnsupportedArtifact, err, "the archive in a layer cannot be read: build and push the plugin again")
}

// verify reads the raw layer to its end and compares the digest.
func (s *stream) verify() error {
	if _, err := io.Copy(io.Discard, s.raw); err != nil {
		return err
	}
	return s.layer.Verify()
}

// countingReader counts what is read.
type countingReader struct {
	reader io.Reader
	limits limits
	n      int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.reader.Read(p)
	if c.n += int64(n); c.n > c.limits.compressed { // where nobody said how much there is
		return 0, c.limits.tooLarge("an archive of more than %d MiB", c.limits.compressed>>20)
	}
	return n, err
}

// expansionGuard stops a layer that expands beyond reason.
type expansionGuard struct {
	reader     io.Reader
	compressed *countingReader
	n          int64
}

func (g *expansionGuard) Read(p []byte) (int, error) {
	n, err := g.reader.Read(p)
	g.n += int64(n)
	limits := g.compressed.limits
	if g.n > limits.expanded || g.n > freeExpansion && g.n > maxRatio*g.compressed.n {
		return 0, limits.tooLarge("a layer that expands from %d to more than %d MiB", g.compressed.n>>20, (g.n-1)>>20)
	}
	return n, err
}

func tooLarge(format string, args ...any) error { return artifactLimits.tooLarge(format, args...) }

func (l limits) tooLarge(format string, args ...any) error {
	return failure.New(failure.Upstream, failure.TooLarge, nil,
		"it has %s, more than is read (a module of %d MiB, an archive of %d MiB that expands to %d MiB and %d times): %s",
		fmt.Sprintf(format, args...), inspect.MaxModuleSize>>20, l.compressed>>20, l.expanded>>20, maxRatio, l.advice)
}
