// Package inspect checks a Wasm module while its bytes flow by. So far it
// knows the header and the size; a look into the sections belongs here too.
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
// is ready to use.
type Checker struct {
	start []byte // at most the length of the header
	size  int64
}

// Write checks the next bytes of the module. It fails with NotWasm as soon as
// they cannot be one's, and with TooLarge beyond MaxModuleSize.
func (c *Checker) Write(p []byte) (int, error) {
	c.size += int64(len(p))
	if missing := len(header) - len(c.start); missing > 0 {
		c.start = append(c.start, p[:min(missing, len(p))]...)
		if !bytes.HasPrefix(header, c.start) && (len(c.start) == len(header) || !bytes.HasPrefix(header, c.start[:min(4, len(c.start))])) {
			return 0, c.notWasm()
		}
	}
	if c.size > MaxModuleSize {
		return 0, failure.New(failure.Upstream, failure.TooLarge, nil,
			"the module is larger than %d MiB, more than gateways read: publish a smaller one", MaxModuleSize>>20)
	}
	return len(p), nil
}

// Close says whether what was written is a whole header at least.
func (c *Checker) Close() error {
	if len(c.start) < len(header) {
		return c.notWasm()
	}
	return nil
}

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
