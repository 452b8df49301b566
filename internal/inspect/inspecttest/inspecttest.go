// Package inspecttest makes Wasm modules for tests, one piece at a time.
package inspecttest

import (
	"bytes"
	"encoding/binary"
)

// Ids of the sections that tests need most.
const (
	TypeSection   = 1
	ImportSection = 2
	ExportSection = 7
	CodeSection   = 10
	DataSection   = 11
)

// Module is a module of these sections.
func Module(sections ...[]byte) []byte {
	return append([]byte("\x00asm\x01\x00\x00\x00"), bytes.Join(sections, nil)...)
}

// Filled is a small valid module with the content somewhere inside, so that
// two modules with other contents differ.
func Filled(content string) []byte { return Module(Custom("content", []byte(content))) }

// Section is the section of this id with the parts as its body.
func Section(id byte, parts ...[]byte) []byte {
	body := bytes.Join(parts, nil)
	return append(append([]byte{id}, Number(uint64(len(body)))...), body...)
}

// Custom is a custom section.
func Custom(name string, content []byte) []byte { return Section(0, Name(name), content) }

// Vector is the number of entries, and the entries.
func Vector(entries ...[]byte) []byte {
	return append(Number(uint64(len(entries))), bytes.Join(entries, nil)...)
}

// Name is a name as modules hold it.
func Name(s string) []byte { return append(Number(uint64(len(s))), s...) }

// Number is an unsigned number in the shortest LEB128 form.
func Number(n uint64) []byte { return binary.AppendUvarint(nil, n) }

// Import is an entry of the import section.
func Import(module, name string, kind byte, descriptor ...byte) []byte {
	return append(append(append(Name(module), Name(name)...), kind), descriptor...)
}

// Function is an import of a function of type 0.
func Function(module, name string) []byte { return Import(module, name, 0, 0) }

// Export is an entry of the export section.
func Export(name string, kind byte, index uint64) []byte {
	return append(append(Name(name), kind), Number(index)...)
}

// Frame writes over the first bytes of b, 16 at most, so that all of b is a
// module: the header, and a custom section that holds the rest. That needs 8
// bytes, or 11 and more.
func Frame(b []byte) {
	n := copy(b, Module())
	rest := len(b) - n
	if rest < 3 {
		return
	}
	width := min(5, rest-2) // of the size, which may have leading zeros
	size := rest - 1 - width
	b[n] = 0
	for i := range width {
		b[n+1+i] = byte(size>>(7*i)) | 0x80
	}
	b[n+width] &= 0x7f
	b[n+1+width] = 0 // an empty name
}
