package hostile

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/klauspost/compress/zstd"

	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
)

const (
	manifestType = "application/vnd.oci.image.manifest.v1+json"
	indexType    = "application/vnd.oci.image.index.v1+json"
	wasmType     = "application/vnd.module.wasm.content.layer.v1+wasm"
	tarType      = "application/vnd.oci.image.layer.v1.tar+gzip"
	emptyConfig  = `{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}`
)

// artifact is what stands in a repository.
type artifact struct {
	mediaType string
	manifest  []byte
	digest    string // that the registry says the manifest has
	others    map[string][]byte
}

// described is an artifact of this manifest.
func described(mediaType, manifest string, blobs ...[]byte) *artifact {
	a := &artifact{mediaType: mediaType, manifest: []byte(manifest), digest: digest([]byte(manifest)), others: map[string][]byte{}}
	for _, b := range blobs {
		a.others[digest(b)] = b
	}
	return a
}

// layered is an artifact with these layers, in JSON.
func layered(layers string, blobs ...[]byte) *artifact {
	return described(manifestType, `{"schemaVersion":2,"mediaType":"`+manifestType+`","config":`+emptyConfig+`,"layers":`+layers+`}`, blobs...)
}

// single is an artifact with one layer.
func single(mediaType string, content []byte) *artifact {
	return layered("["+layer(mediaType, digest(content), len(content))+"]", content)
}

func layer(mediaType, digest string, size int) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":%d}`, mediaType, digest, size)
}

func digest(b []byte) string { return "sha256:" + sum(b) }

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// Good is the module that a case has before it turns bad.
func Good(name string) []byte { return inspecttest.Filled("good " + name) }

// changed is another good module.
func changed(name string) []byte { return inspecttest.Filled("changed " + name) }

// must gives what cannot fail, since it is written to memory.
func must(errs ...error) {
	for _, err := range errs {
		if err != nil {
			panic(err)
		}
	}
}

func gz(b []byte) []byte {
	var out bytes.Buffer
	w, err := gzip.NewWriterLevel(&out, gzip.BestSpeed)
	must(err)
	_, err = w.Write(b)
	must(err, w.Close())
	return out.Bytes()
}

func zst(b []byte) []byte {
	w, err := zstd.NewWriter(nil, zstd.WithEncoderConcurrency(1))
	must(err)
	return w.EncodeAll(b, nil)
}

// entry is one entry of a tar.
type entry struct {
	tar.Header
	content []byte
}

func file(name string, content []byte) entry {
	return entry{tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg}, content}
}

func text(name string) entry { return file(name, []byte("text")) }

// special is an entry without content: a link, a device, a directory.
func special(kind byte, name, target string) entry {
	return entry{tar.Header{Name: name, Linkname: target, Mode: 0o644, Typeflag: kind, Devmajor: 1, Devminor: 3}, nil}
}

// tarred is a tar of these entries.
func tarred(entries ...entry) []byte {
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	for i := range entries {
		must(w.WriteHeader(&entries[i].Header))
		_, err := w.Write(entries[i].content)
		must(err)
	}
	must(w.Close())
	return out.Bytes()
}

// zipped is a tar in gzip, as builders of images make layers.
func zipped(entries ...entry) []byte { return gz(tarred(entries...)) }

// patched writes over bytes of a tar's header, and corrects its checksum.
func patched(archive []byte, at int, with string) []byte {
	archive = bytes.Clone(archive)
	copy(archive[at:], with)
	copy(archive[148:156], "        ")
	n := 0
	for _, b := range archive[:512] {
		n += int(b)
	}
	copy(archive[148:156], fmt.Sprintf("%06o\x00 ", n))
	return archive
}

// flipped is b with one byte changed.
func flipped(b []byte, at int) []byte {
	b = bytes.Clone(b)
	b[at] ^= 0xff
	return b
}

func repeat(b []byte, n int) []byte { return bytes.Repeat(b, n) }

func crowd(n int) []entry {
	all := make([]entry, n)
	for i := range all {
		all[i] = file(fmt.Sprintf("%d.txt", i), nil)
	}
	return all
}

func many(item string, n int) string {
	return "[" + strings.TrimSuffix(strings.Repeat(item+",", n), ",") + "]"
}
