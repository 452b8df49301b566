package inspect

import (
	"fmt"
	"unicode/utf8"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// Bounds on what is kept or counted. Plugins are far below them.
const (
	maxName    = 1024    // bytes of the module or the name of an import
	maxNames   = 1 << 20 // bytes of all imports that are kept
	maxImports = 10_000
	maxExports = 100_000
)

// The sections of a module by id, and the places that they must have: each but
// custom sections comes once at most, in the order of the places (WebAssembly
// Core Specification 3.0, 5.5.2 and 5.5.17).
var (
	sectionNames = [...]string{
		"custom", "type", "import", "function", "table", "memory", "global",
		"export", "start", "element", "code", "data", "data count", "tag",
	}
	sectionPlaces = [len(sectionNames)]int{
		typeSection: 1, importSection: 2, functionSection: 3, tableSection: 4, memorySection: 5, tagSection: 6, globalSection: 7,
		exportSection: 8, startSection: 9, elementSection: 10, dataCountSection: 11, codeSection: 12, dataSection: 13,
	}
)

const (
	customSection = iota
	typeSection
	importSection
	functionSection
	tableSection
	memorySection
	globalSection
	exportSection
	startSection
	elementSection
	codeSection
	dataSection
	dataCountSection
	tagSection
)

// scanner reads the sections of a module in pieces of any length. It looks into
// the imports and the exports, and passes over the bodies of all others.
type scanner struct {
	offset int64   // of the next byte in the module
	want   field   // what the next byte belongs to
	todo   []field // what follows it in the entry; a part of a table, never changed

	section byte  // the id of the section that is being read
	end     int64 // of it
	place   int   // of the last section that was not custom

	number uint64 // the bits of the number that is being read
	digits int    // how many of its bytes were read

	naming  field  // which name is being read
	left    int64  // bytes of it
	name    []byte // of the last import or export; at most maxName bytes
	from    []byte // the module of the import
	entries uint64 // that are still to come in the section

	found found
}

// scan reads the next bytes of the module.
func (s *scanner) scan(p []byte) error {
	for len(p) > 0 {
		n := 1
		var err error
		switch s.want {
		case sectionBody:
			n = int(min(int64(len(p)), s.end-s.offset))
		case nameBytes:
			n = s.readName(p)
		default:
			err = s.readByte(p[0])
		}
		if err != nil {
			return err
		}
		p = p[n:]
		s.offset += int64(n)
		if err := s.settle(); err != nil {
			return err
		}
	}
	return nil
}

// settle ends what ends here: a name, a section.
func (s *scanner) settle() error {
	if s.want == nameBytes && s.left == 0 {
		if err := s.gotName(); err != nil {
			return err
		}
	}
	switch {
	case s.want == sectionID || s.want == sectionSize:
	case s.want == sectionEnd && s.offset < s.end:
		return s.broken("its %s section has %d more bytes than its entries need", s.title(), s.end-s.offset)
	case s.offset < s.end:
	case s.want == sectionEnd || s.want == sectionBody:
		s.want = sectionID
	default:
		return s.broken("its %s section ends in the middle of an entry, or before all of them", s.title())
	}
	return nil
}

// close says whether the module may end here.
func (s *scanner) close() error {
	switch s.want {
	case sectionID:
		return nil
	case sectionSize:
		return s.broken("it ends where the size of its %s section should be", s.title())
	}
	return s.broken("it ends here, but its %s section goes on to byte %d", s.title(), s.end)
}

// readByte reads a byte that is a field, or a digit of a number.
func (s *scanner) readByte(b byte) error {
	bits := int(numbers[s.want])
	if bits == 0 {
		return s.gotByte(b)
	}
	if s.want == heapType && s.digits == 0 && (b == sharedType || b == exactType) {
		return nil
	}
	last := (bits - 1) / 7 // the digit that no other may follow
	s.number |= uint64(b&0x7f) << (7 * s.digits)
	if s.digits == last && !fits(b, bits-7*last, s.want == heapType) {
		return s.broken("a number has more than %d bits", bits)
	}
	s.digits++
	if b&0x80 != 0 {
		return nil
	}
	n := s.number
	s.number, s.digits = 0, 0
	return s.gotNumber(n)
}

// fits says whether a last digit is one, and has no more than these bits. A
// signed one repeats its highest bit in all bits above.
func fits(digit byte, bits int, signed bool) bool {
	if !signed {
		return digit>>bits == 0
	}
	sign := digit >> (bits - 1)
	return sign == 0 || sign == 0x7f>>(bits-1)
}

// gotByte takes a field of one byte.
func (s *scanner) gotByte(b byte) error {
	switch s.want {
	case sectionID:
		return s.openSection(b)
	case importKind:
		if int(b) >= len(descriptors) {
			return s.broken("an import has the kind 0x%02x, which gateways do not know", b)
		}
		if b == functionKind {
			if err := s.found.addImport(s.from, s.name); err != nil {
				return s.broken("%s", err)
			}
		}
		s.todo = descriptors[b]
	case exportKind:
		if int(b) >= len(descriptors) {
			return s.broken("an export has the kind 0x%02x, which gateways do not know", b)
		}
		if b == functionKind {
			s.found.addExport(s.name)
		}
	case valueType:
		switch {
		case b == 0x63 || b == 0x64: // a reference to a type that is to follow
			s.want = heapType
			return nil
		case b == sharedType:
			return nil
		case b < 0x68 || b > 0x7f:
			return s.broken("an import has the type 0x%02x, which gateways do not know", b)
		}
	case limitFlags:
		if int(b) >= len(limits) {
			return s.broken("an import has limits of the form 0x%02x, which gateways do not know", b)
		}
		s.todo = limits[b]
	case mutability:
		if b > 3 {
			return s.broken("an import of a global has the mutability 0x%02x, which gateways do not know", b)
		}
	case tagAttribute:
		if b != 0 {
			return s.broken("an import of a tag has the attribute 0x%02x, which gateways do not know", b)
		}
	}
	return s.next()
}

// gotNumber takes a field that is a number.
func (s *scanner) gotNumber(n uint64) error {
	switch s.want {
	case sectionSize:
		s.end = s.offset + 1 + int64(n)
		switch s.want = sectionBody; s.section {
		case customSection:
			if n == 0 {
				return s.broken("its custom section is empty, and has not even a name")
			}
		case importSection:
			s.want = importCount
		case exportSection:
			s.want = exportCount
		}
		return nil
	case importCount:
		if n > maxImports {
			return s.broken("it has %d imports, and more than %d are not read", n, maxImports)
		}
		s.entries = n
	case exportCount:
		if n > maxExports {
			return s.broken("it has %d exports, and more than %d are not read", n, maxExports)
		}
		s.entries = n
	case moduleSize, importSize, exportSize:
		if n > maxName && s.want != exportSize {
			return s.broken("an import has a name of %d bytes, and more than %d are not read", n, maxName)
		}
		s.naming, s.want = s.want, nameBytes
		s.left, s.name = int64(n), s.name[:0]
		return nil
	}
	return s.next()
}

// openSection takes the id of a section.
func (s *scanner) openSection(id byte) error {
	if int(id) >= len(sectionNames) {
		return s.broken("it has 0x%02x where the id of a section should be", id)
	}
	s.section, s.want = id, sectionSize
	if id == customSection {
		return nil
	}
	switch place := sectionPlaces[id]; {
	case place == s.place:
		return s.broken("it has a second %s section", s.title())
	case place < s.place:
		return s.broken("its %s section comes too late", s.title())
	default:
		s.place = place
	}
	return nil
}

// readName reads bytes of a name. Those of a long one, which only exports may
// have, are not kept.
func (s *scanner) readName(p []byte) int {
	n := min(int64(len(p)), s.left, s.end-s.offset)
	s.left -= n
	if keep := min(n, int64(maxName-len(s.name))); keep > 0 {
		s.name = append(s.name, p[:keep]...)
	}
	return int(n)
}

// gotName takes a name.
func (s *scanner) gotName() error {
	if s.naming != exportSize && !utf8.Valid(s.name) {
		return s.broken("the name of an import is not in UTF-8")
	}
	if s.naming == moduleSize {
		s.from = append(s.from[:0], s.name...)
	}
	return s.next()
}

// next goes to the next field, the next entry, or the end of the section.
func (s *scanner) next() error {
	if len(s.todo) == 0 {
		if s.entries == 0 {
			s.want = sectionEnd
			return nil
		}
		s.entries--
		s.todo = importFields
		if s.section == exportSection {
			s.todo = exportFields
		}
	}
	s.want, s.todo = s.todo[0], s.todo[1:]
	return nil
}

func (s *scanner) title() string { return sectionNames[s.section] }

// broken is the failure of a module that is none at the offset.
func (s *scanner) broken(format string, args ...any) error {
	return failure.New(failure.Upstream, failure.NotWasm, nil,
		"the Wasm module is broken at byte %d: %s; build it again, or publish it again", s.offset, fmt.Sprintf(format, args...))
}
