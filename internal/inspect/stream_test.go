package inspect

import (
	"bytes"
	"crypto/sha256"
	"io"
	"reflect"
	"runtime"
	"slices"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	wasm "github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
)

// endless gives zeros.
type endless struct{}

func (endless) Read(p []byte) (int, error) {
	clear(p)
	return len(p), nil
}

// A module of the largest size passes by without being kept. It runs alone, as
// the memory of all tests is counted.
func TestMemory(t *testing.T) {
	small := wasm.Section(wasm.ImportSection, wasm.Vector(wasm.Function("env", "proxy_log")))
	for name, id := range map[string]byte{"custom": 0, "data": wasm.DataSection} {
		begin := wasm.Module(small, []byte{id})
		size := MaxModuleSize - len(begin) - 5 + 1 // its number has 4 bytes
		begin = append(begin, wasm.Number(uint64(size))...)
		if len(begin)+size != MaxModuleSize {
			t.Fatalf("the module has %d bytes", len(begin)+size)
		}
		var c Checker
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		n, err := io.CopyBuffer(&c, io.MultiReader(bytes.NewReader(begin), io.LimitReader(endless{}, int64(size))), make([]byte, 256<<10))
		runtime.ReadMemStats(&after)
		if err != nil || n != MaxModuleSize || c.Close() != nil {
			t.Fatalf("%s: %d bytes, %v, %v", name, n, err, c.Close())
		}
		if m := c.Module(); len(m.Imports) != 1 {
			t.Errorf("%s: the imports are %v", name, m.Imports)
		}
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20 {
			t.Errorf("%s: %d bytes were allocated", name, grown)
		}
	}
}

// What is kept of the worst module is bounded too. It runs alone, as TestMemory.
func TestMemoryOfNames(t *testing.T) {
	entries := many(400) // with 800 KiB of names
	for len(entries) < maxImports {
		entries = append(entries, entries[:min(400, maxImports-len(entries))]...)
	}
	exported := make([][]byte, 1000)
	for i := range exported {
		exported[i] = wasm.Export(string(bytes.Repeat([]byte{'x'}, 20_000)), 0, 0)
	}
	module := wasm.Module(wasm.Section(wasm.ImportSection, wasm.Vector(entries...)), wasm.Section(wasm.ExportSection, wasm.Vector(exported...)))
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := look(module, 4096)
	runtime.ReadMemStats(&after)
	if grown := after.TotalAlloc - before.TotalAlloc; err != nil || grown > 2<<20 {
		t.Errorf("%d bytes were allocated for a module of %d: %v", grown, len(module), err)
	}
}

// FuzzChecker looks for bytes that make a Checker panic, or whose result
// depends on how they are cut. Only of a broken header the messages differ, as
// they show what there is of it.
// Run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzChecker(f *testing.F) {
	for _, test := range whole {
		f.Add(test.module, uint8(1))
	}
	for _, test := range broken {
		if len(test.module) < 64<<10 { // a large one only makes it slow
			f.Add(test.module, uint8(3))
		}
	}
	f.Fuzz(func(t *testing.T, module []byte, size uint8) {
		atOnce, err := look(module, 0)
		for _, size := range []int{1, 1 + int(size)} {
			m, errInPieces := look(module, size)
			if (err == nil) != (errInPieces == nil) || !reflect.DeepEqual(m, atOnce) {
				t.Fatalf("at once: %+v, %v; in pieces of %d: %+v, %v", atOnce, err, size, m, errInPieces)
			}
			if err == nil {
				continue
			}
			a, b := failure.Of(err), failure.Of(errInPieces)
			if a.Reason != b.Reason || bytes.HasPrefix(module, header) && a.Message != b.Message {
				t.Fatalf("at once: %v; in pieces of %d: %v", err, size, errInPieces)
			}
		}
		if err == nil && !framed(module) {
			t.Fatal("accepted, but its sections do not fill it")
		}
	})
}

// framed says whether the bytes after the header are sections, the simple way.
func framed(module []byte) bool {
	for b := module[len(header):]; len(b) > 0; {
		var size, digits int
		for b = b[1:]; len(b) > 0; b = b[1:] {
			size |= int(b[0]&0x7f) << (7 * digits)
			digits++
			if b[0] < 0x80 {
				break
			}
		}
		if len(b) < 1+size || digits > 5 {
			return false
		}
		b = b[1+size:]
	}
	return true
}

// BenchmarkChecker compares looking at a module to hashing it, which happens to
// the same bytes at the same time.
func BenchmarkChecker(b *testing.B) {
	var imported, exported [][]byte
	for _, name := range proxyFunctions {
		imported = append(imported, wasm.Function(proxyModule, name))
	}
	for range 200 {
		exported = append(exported, wasm.Export("proxy_on_http_request_headers", 0, 1000))
	}
	module := wasm.Module(wasm.Section(wasm.TypeSection, make([]byte, 500)), wasm.Section(wasm.ImportSection, wasm.Vector(imported...)),
		wasm.Section(wasm.ExportSection, wasm.Vector(exported...)), wasm.Section(wasm.CodeSection, make([]byte, 7<<20)), wasm.Section(wasm.DataSection, make([]byte, 3<<20)))
	for name, to := range map[string]func() io.Writer{
		"check":  func() io.Writer { return new(Checker) },
		"sha256": func() io.Writer { return sha256.New() },
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(module)))
			b.ReportAllocs()
			for b.Loop() {
				w := to()
				for piece := range slices.Chunk(module, 256<<10) {
					if _, err := w.Write(piece); err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}
