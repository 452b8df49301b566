package hostile

import (
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
)

// module is a case about what is said to be a Wasm module.
func module(name, says string, content []byte) Case {
	return Case{Kind: Module, Name: "module-" + name, Reason: failure.NotWasm, Says: says, artifact: single(wasmType, content)}
}

// modules are bytes that are something else.
func modules() []Case {
	return []Case{
		module("empty", "it is empty", nil),
		module("cut-magic", "it ends after 3 bytes", []byte("\x00as")),
		module("version-two", "gateways load only version 1", []byte("\x00asm\x02\x00\x00\x00")),
		module("component", "it is a Wasm component", []byte("\x00asm\x0d\x00\x01\x00")),
		module("page", "it is an HTML page", []byte("<!DOCTYPE html><title>Sign in</title>")),
		module("program", "it is a native program", []byte("\x7fELF\x02\x01\x01\x00")),
		module("gzip-twice", "it is gzip", gz(gz(Good("x")))),
		module("terminal-codes", "begins with the bytes 1b 5b 32 4a", []byte("\x1b[2J\x1b[31mowned\r\n")),
		{Kind: Module, Name: "module-of-another-hash", Reason: failure.DigestMismatch, Says: "expected is", SHA256: sum([]byte("another")), url: "oci://{host}/good-then-bad/module-of-another-hash:1"},
		{Kind: Module, Name: "module-too-large", Reason: failure.TooLarge, Says: "a module of 300 MiB",
			artifact: layered("[" + layer(wasmType, digest([]byte("large")), 300<<20) + "]"), answer: blobs(large)},
	}
}

// sections are modules that are broken further in.
func sections() []Case {
	section, vector := inspecttest.Section, inspecttest.Vector
	imports := func(entry ...byte) []byte {
		return inspecttest.Module(section(inspecttest.ImportSection, append([]byte{1}, entry...)))
	}
	of := func(parts ...[]byte) []byte { return inspecttest.Module(parts...) }
	function := append(inspecttest.Name("env"), inspecttest.Name("f")...)
	return []Case{
		module("goes-on", "goes on to byte", of([]byte{inspecttest.CodeSection, 100, 1})),
		module("no-size", "ends where the size", of([]byte{inspecttest.CodeSection})),
		module("unknown-section", "where the id of a section should be", of([]byte{99, 1, 0})),
		module("second-section", "a second type section", of(section(inspecttest.TypeSection, vector()), section(inspecttest.TypeSection, vector()))),
		module("late-section", "comes too late", of(section(inspecttest.CodeSection, vector()), section(inspecttest.TypeSection, vector()))),
		module("long-number", "more than 32 bits", of([]byte{inspecttest.CodeSection, 0x80, 0x80, 0x80, 0x80, 0x80, 0x00})),
		module("nameless-section", "not even a name", of([]byte{0, 0})),
		module("crowd-of-imports", "more than 10000 are not read", of(section(inspecttest.ImportSection, inspecttest.Number(1<<31)))),
		module("crowd-of-exports", "more than 100000 are not read", of(section(inspecttest.ExportSection, inspecttest.Number(1<<31)))),
		module("missing-entries", "before all of them", of(section(inspecttest.ImportSection, inspecttest.Number(5)))),
		module("more-than-entries", "more bytes than its entries need", of(section(inspecttest.ImportSection, vector(), []byte("more")))),
		module("long-import", "more than 1024 are not read", imports(inspecttest.Number(1<<30)...)),
		module("import-in-other-letters", "not in UTF-8", imports(3, 0xff, 0xfe, 0xfd, 1, 'f', 0, 0)),
		module("kind-of-import", "the kind 0x09", imports(append(function, 9, 0)...)),
		module("limits-of-import", "limits of the form 0x7f", imports(append(function, 2, 0x7f)...)),
		module("kind-of-export", "the kind 0x33", of(section(inspecttest.ExportSection, vector(inspecttest.Export("f", 0x33, 0))))),
	}
}
