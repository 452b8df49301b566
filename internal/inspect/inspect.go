// Package inspect checks a Wasm module while its bytes flow by: the header, the
// size and the sections. It knows what a module imports, and what gateways offer.
package inspect

import (
	"bytes"
	"fmt"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// MaxModuleSize is the size in bytes that a module may have: gateways read
// 256 MiB of a download and cut off the rest without a word.
const MaxModuleSize = 256 << 20

// header of a module in the binary format: the magic number, then version 1
// as a 32-bit little-endian number (WebAssembly Core Specification, 5.5.16).
var header = []byte("\x00asm\x01\x00\x00\x00")

// component is what follows the magic number in a component (version 13,
// layer 1), which gateways cannot load.
var component = []byte("\x0d\x00\x01\x00")

// Checker is an io.Writer that checks the module written to it. The zero value
// is ready to use. However long the module is, its memory is bounded.
type Checker struct {
	start    []byte // at most the length of the header
	size     int64
	sections scanner
	err      error // what was found, for good
}

// Write checks the next bytes of the module. It fails with NotWasm as soon as
// they cannot be one's, and with TooLarge beyond MaxModuleSize. After a failure
// it fails with the same one.
func (c *Checker) Write(p []byte) (int, error) {
	if c.err == nil {
		c.err = c.check(p)
	}
	if c.err != nil {
		return 0, c.err
	}
	return len(p), nil
}

func (c *Checker) check(p []byte) error {
	fits := p[:min(int64(len(p)), MaxModuleSize-c.size)]
	c.size += int64(len(p))
	if missing := len(header) - len(c.start); missing > 0 {
		n := min(missing, len(fits))
		c.start = append(c.start, fits[:n]...)
		if !bytes.HasPrefix(header, c.start) && (len(c.start) == len(header) || !bytes.HasPrefix(header, c.start[:min(4, len(c.start))])) {
			return c.notWasm()
		}
		fits = fits[n:]
		c.sections.offset += int64(n)
	}
	if err := c.sections.scan(fits); err != nil {
		return err
	}
	if c.size > MaxModuleSize {
		return failure.New(failure.Upstream, failure.TooLarge, nil,
			"the module is larger than %d MiB, more than gateways read: publish a smaller one", MaxModuleSize>>20)
	}
	return nil
}

// Close says whether what was written is a whole module, as far as its header
// and its sections tell.
func (c *Checker) Close() error {
	switch {
	case c.err != nil:
	case len(c.start) < len(header):
		c.err = c.notWasm()
	default:
		c.err = c.sections.close()
	}
	return c.err
}

// Module is what the sections said. It is valid once Close has returned nil.
func (c *Checker) Module() Module { return c.sections.module() }

func (c *Checker) notWasm() error {
	return failure.New(failure.Upstream, failure.NotWasm, nil, "this is no Wasm module: %s", describe(c.start))
}

// describe says what else the first bytes look like.
func describe(start []byte) string {
	switch {
	case len(start) == 0:
		return "it is empty"
	case bytes.HasPrefix(start, header[:4]) && bytes.Equal(start[4:], component):
		return "it is a Wasm component, and gateways load only core modules; build it as a module"
	case bytes.HasPrefix(start, header[:4]) && len(start) == len(header):
		return fmt.Sprintf("its version is % x, and gateways load only version 1", start[4:])
	case bytes.HasPrefix(header, start):
		return fmt.Sprintf("it ends after %d bytes", len(start))
	case bytes.HasPrefix(start, []byte("\x1f\x8b")):
		return "it is gzip"
	case bytes.HasPrefix(start, []byte("\x28\xb5\x2f\xfd")):
		return "it is zstd"
	case bytes.HasPrefix(start, []byte("PK\x03\x04")):
		return "it is a zip archive"
	case bytes.HasPrefix(start, []byte("\x7fELF")):
		return "it is a native program; build it for wasip1"
	case bytes.HasPrefix(bytes.ToLower(start), []byte("<!do")), bytes.HasPrefix(bytes.ToLower(start), []byte("<htm")):
		return "it is an HTML page"
	}
	return fmt.Sprintf("it begins with the bytes % x", start)
}
