package hostile

import (
	"archive/tar"
	"bytes"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
)

// archive is a case about the content of a layer.
func archive(name string, reason failure.Reason, says string, content []byte) Case {
	return Case{Kind: Archive, Name: "archive-" + name, Reason: reason, Says: says, artifact: single(tarType, content)}
}

const noModule = "no layer with a Wasm module"

// links are archives whose names lead elsewhere, and entries that are no files.
func links() []Case {
	notWasm, none := failure.NotWasm, failure.NoWasmLayer
	outside := strings.Repeat("../", 12) + "tmp/hostile/"
	sparse := file("plugin.wasm", nil)
	sparse.PAXRecords = map[string]string{"VENDOR.sparse": "1"}
	holes := bytes.Replace(tarred(sparse), []byte("VENDOR.sparse=1\n"), []byte("GNU.sparse.x=1\n "), 1)
	return []Case{
		archive("upwards", notWasm, "begins with the bytes", zipped(text(outside+"plugin.wasm"))),
		archive("absolute", notWasm, "begins with the bytes", zipped(text("/tmp/hostile/plugin.wasm"))),
		archive("several-upwards", none, "several .wasm files", zipped(text("../a.wasm"), text("../../b.wasm"))),
		archive("backslashes", none, noModule, zipped(text(`..\..\plugin.wasm`))),
		archive("nul-in-the-name", notWasm, "begins with the bytes", gz(patched(tarred(text("x")), 0, "plugin.wasm\x00/../../x"))),
		archive("file-below-a-link", notWasm, "begins with the bytes", zipped(special(tar.TypeSymlink, "d", "/tmp/hostile"), text("d/plugin.wasm"))),
		archive("symbolic-link", none, noModule, zipped(special(tar.TypeSymlink, "plugin.wasm", "/etc/passwd"))),
		archive("hard-link", none, noModule, zipped(special(tar.TypeLink, "plugin.wasm", outside+"../../etc/passwd"))),
		archive("character-device", none, noModule, zipped(special(tar.TypeChar, "plugin.wasm", ""))),
		archive("pipe", none, noModule, zipped(special(tar.TypeFifo, "plugin.wasm", ""))),
		archive("directory", none, noModule, zipped(special(tar.TypeDir, "plugin.wasm/", ""))),
		archive("holes", failure.UnsupportedArtifact, "cannot be read", gz(holes)),
		archive("whiteout", none, noModule, zipped(text(".wh.plugin.wasm"))),
	}
}

// archives are those that are not what they should be.
func archives() []Case {
	unsupported, none := failure.UnsupportedArtifact, failure.NoWasmLayer
	module := tarred(file("plugin.wasm", Good("x")))
	whole := gz(module)
	long := func(kind string) []byte { // a record that is longer than anybody reads
		records := patched(tarred(file("x", make([]byte, 2<<20))), 156, kind)
		return gz(append(records[:512+2<<20:512+2<<20], module...))
	}
	return []Case{
		archive("two-modules", none, "several .wasm files", zipped(text("a.wasm"), text("b.wasm"))),
		archive("empty-layer", none, noModule, nil),
		archive("empty-module", failure.NotWasm, "it is empty", zipped(file("plugin.wasm", nil))),
		archive("script-for-module", failure.NotWasm, "begins with the bytes", zipped(file("plugin.wasm", []byte("#!/bin/sh\nrm -rf /\n")))),
		archive("second-is-the-module", failure.NotWasm, "it is an HTML page", zipped(file("a.wasm", Good("x")), file("plugin.wasm", []byte("<!doctype html>")))),
		archive("gzip-twice", none, noModule, gz(whole)),
		archive("module-in-gzip-in-tar", failure.NotWasm, "it is gzip", zipped(file("plugin.wasm", gz(Good("x"))))),
		archive("zip", none, noModule, []byte("PK\x03\x04plugin.wasm")),
		archive("checksum-of-gzip", unsupported, "cannot be read", flipped(whole, len(whole)-6)),
		archive("corrupt-deflate", unsupported, "cannot be read", gzipOf("\x07\xff\xff")),
		archive("waste-after-gzip", unsupported, "cannot be read", append(bytes.Clone(whole), "waste that is no member of gzip"...)),
		archive("checksum-of-tar", unsupported, "cannot be read", gz(flipped(tarred(text("a"), file("plugin.wasm", Good("x"))), 1024+1))),
		archive("negative-size", unsupported, "cannot be read", gz(patched(tarred(text("plugin.wasm")), 124, "\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xfe"))),
		archive("malformed-records", unsupported, "cannot be read", gz(patched(tarred(text("plugin.wasm")), 156, "x"))),
		archive("long-records", unsupported, "cannot be read", long("x")),
		archive("long-name", unsupported, "cannot be read", long("L")),
		archive("corrupt-zstd", unsupported, "cannot be read", flipped(zst(module), 8)),
		archive("crowd", unsupported, "more than 10000 files", zipped(crowd(10_001)...)),
		{Kind: Archive, Name: "archive-file", Reason: none, Says: "an archive without a .wasm file", url: "https://{host}/files/archive-file.wasm", file: zipped(text("readme.md"))},
	}
}

// gzipOf is a gzip header with this after it.
func gzipOf(body string) []byte { return []byte("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\xff" + body) }

// bombs become more than is read.
func bombs() []Case {
	zeros := make([]byte, 8<<20)
	member := gz(zeros)
	header := gz(inspecttest.Module())
	begin := tarred(file("plugin.wasm", []byte("x")))[:512]
	huge := patched(begin, 124, "77777777777\x00") // 8 GiB
	other := patched(tarred(file("a.txt", []byte("x")))[:512], 124, "77777777777\x00")
	tooLarge := failure.TooLarge
	return []Case{
		archive("bomb", tooLarge, "expands from", append(bytes.Clone(header), repeat(member, 64)...)),
		archive("bomb-in-tar", tooLarge, "expands from", append(gz(append(bytes.Clone(huge), inspecttest.Module()...)), repeat(member, 64)...)),
		archive("bomb-beside-the-module", tooLarge, "expands from", append(gz(append(tarred(file("plugin.wasm", Good("x")))[:1024], other...)), repeat(member, 64)...)),
		archive("bomb-in-zstd", tooLarge, "expands from", append(zst(inspecttest.Module()), repeat(zst(zeros), 64)...)),
		archive("window-of-zstd", failure.UnsupportedArtifact, "cannot be read", []byte("\x28\xb5\x2f\xfd\x00\xf8\x01\x00\x00")),
		{Kind: Archive, Name: "archive-file-bomb", Reason: tooLarge, Says: "expands from",
			url: "https://{host}/files/archive-file-bomb.wasm", file: append(bytes.Clone(header), repeat(member, 64)...)},
	}
}

// truncated are layers that are whole, and archives in them that are not.
func truncated() []Case {
	module := tarred(file("plugin.wasm", Good(strings.Repeat("x", 2000))))
	plain, zipped, packed := failure.Truncated, gz(module), zst(module)
	cut := "ends too early"
	return []Case{
		archive("gzip-cut-in-its-header", plain, cut, zipped[:5]),
		archive("gzip-cut-in-the-middle", plain, cut, zipped[:len(zipped)/2]),
		archive("gzip-cut-before-its-checksum", plain, cut, zipped[:len(zipped)-8]),
		archive("zstd-cut", plain, cut, packed[:len(packed)-3]),
		archive("tar-cut-in-a-file", plain, cut, gz(module[:1024])),
		archive("tar-cut-in-a-header", plain, cut, gz(append(tarred(text("a.txt"))[:1024], module[:100]...))),
		archive("tar-of-a-larger-file", failure.NotWasm, "not even a name", gz(patched(module, 124, "00000777777\x00"))),
	}
}
