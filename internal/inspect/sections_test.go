package inspect

import (
	"bytes"
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	wasm "github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
)

// pieces are the ways to cut a module in the tests; 0 is not at all.
var pieces = []int{1, 2, 3, 7, 0}

// look gives the module to a Checker in pieces of a size.
func look(module []byte, size int) (Module, error) {
	var c Checker
	if size == 0 {
		size = max(1, len(module))
	}
	for piece := range slices.Chunk(module, size) {
		if n, err := c.Write(piece); err != nil {
			_, again := c.Write(piece)
			if n != 0 || !errors.Is(again, err) || !errors.Is(c.Close(), err) {
				panic("a failed Checker goes on")
			}
			return Module{}, err
		}
	}
	if err := c.Close(); err != nil {
		return Module{}, err
	}
	return c.Module(), nil
}

// padded is a number below 128 in so many bytes.
func padded(n byte, size int) []byte {
	return append(append([]byte{n | 0x80}, bytes.Repeat([]byte{0x80}, size-2)...), 0)
}

// imports is a module that imports these, and a function last of all: it is
// only found if the descriptors before were read right.
func imports(entries ...[]byte) []byte {
	return wasm.Module(wasm.Section(wasm.ImportSection, wasm.Vector(append(entries, wasm.Function("env", "last"))...)))
}

func exports(entries ...[]byte) []byte {
	return wasm.Module(wasm.Section(wasm.ExportSection, wasm.Vector(entries...)))
}

var last = []Import{{"env", "last"}}

var whole = map[string]struct {
	module []byte
	is     Module
}{
	"nothing but a header": {wasm.Module(), Module{}},
	"a custom section":     {wasm.Filled("any bytes \x02\x00\xff"), Module{}},
	"custom sections everywhere": {wasm.Module(wasm.Custom("a", nil), wasm.Section(wasm.TypeSection, wasm.Vector()), wasm.Custom("b", nil),
		wasm.Section(wasm.ImportSection, wasm.Vector(wasm.Function("env", "last"))), wasm.Custom("a", nil)), Module{Imports: last}},
	"every section in order": {wasm.Module(wasm.Section(1, wasm.Vector()), wasm.Section(2, wasm.Vector()), wasm.Section(3, wasm.Vector()), wasm.Section(4, wasm.Vector()),
		wasm.Section(5, wasm.Vector()), wasm.Section(13, wasm.Vector()), wasm.Section(6, wasm.Vector()), wasm.Section(7, wasm.Vector()), wasm.Section(8, []byte{0}),
		wasm.Section(9, wasm.Vector()), wasm.Section(12, []byte{0}), wasm.Section(10, wasm.Vector()), wasm.Section(11, wasm.Vector())), Module{}},
	"a body that looks like sections": {wasm.Module(wasm.Section(wasm.CodeSection, wasm.Module(), imports())), Module{}},
	"a size with leading zeros":       {wasm.Module([]byte{1}, padded(1, 5), []byte{0}), Module{}},
	"imports once and in order": {imports(wasm.Function("wasi_snapshot_preview1", "fd_write"), wasm.Function("env", "proxy_log"),
		wasm.Function("wasi_snapshot_preview1", "fd_write"), wasm.Function("env", "a.b"), wasm.Function("", "")), Module{Imports: []Import{
		{"", ""}, {"env", "a.b"}, {"env", "last"}, {"env", "proxy_log"}, {"wasi_snapshot_preview1", "fd_write"}}}},
	"an import of a function with a long index": {imports(wasm.Import("env", "f", 0, 0xff, 0xff, 0xff, 0xff, 0x0f)),
		Module{Imports: []Import{{"env", "f"}, {"env", "last"}}}},
	"names of the bound": {imports(wasm.Function(strings.Repeat("m", maxName), strings.Repeat("é", maxName/2))),
		Module{Imports: []Import{{"env", "last"}, {strings.Repeat("m", maxName), strings.Repeat("é", maxName/2)}}}},

	"a table":                            {imports(wasm.Import("env", "t", 1, 0x70, 0, 1)), Module{Imports: last}},
	"a table with a maximum":             {imports(wasm.Import("env", "t", 1, 0x6f, 1, 1, 0x80, 1)), Module{Imports: last}},
	"a table of 64 bits":                 {imports(wasm.Import("env", "t", 1, 0x70, 5, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1)), Module{Imports: last}},
	"a table of references to any":       {imports(wasm.Import("env", "t", 1, 0x63, 0x6e, 0, 1)), Module{Imports: last}},
	"a table of references to a type":    {imports(wasm.Import("env", "t", 1, 0x64, 5, 1, 0, 1)), Module{Imports: last}},
	"a table of references to type 98":   {imports(wasm.Import("env", "t", 1, 0x64, 0xe2, 0, 1, 0, 1)), Module{Imports: last}},
	"a table of references to type 101":  {imports(wasm.Import("env", "t", 1, 0x64, 0xe5, 0, 1, 0, 1)), Module{Imports: last}},
	"a table of references to type 2^32": {imports(wasm.Import("env", "t", 1, 0x63, 0xff, 0xff, 0xff, 0xff, 0x0f, 0, 1)), Module{Imports: last}},
	"a table of a long negative number":  {imports(wasm.Import("env", "t", 1, 0x63, 0xf0, 0xff, 0xff, 0xff, 0x7f, 0, 1)), Module{Imports: last}},
	"a table of shared references":       {imports(wasm.Import("env", "t", 1, 0x63, 0x65, 0x70, 0, 1)), Module{Imports: last}},
	"a table of exact references":        {imports(wasm.Import("env", "t", 1, 0x63, 0x62, 3, 0, 1)), Module{Imports: last}},
	"a table of shared functions":        {imports(wasm.Import("env", "t", 1, 0x65, 0x70, 0, 1)), Module{Imports: last}},

	"a memory":                     {imports(wasm.Import("env", "m", 2, 0, 1)), Module{Imports: last}},
	"a shared memory":              {imports(wasm.Import("env", "m", 2, 3, 1, 0xff, 1)), Module{Imports: last}},
	"a memory of 64 bits":          {imports(wasm.Import("env", "m", 2, 4, 0x80, 0x80, 0x80, 0x80, 0x80, 0x10)), Module{Imports: last}},
	"a shared memory of 64 bits":   {imports(wasm.Import("env", "m", 2, 7, 1, 2)), Module{Imports: last}},
	"a memory with pages of 1":     {imports(wasm.Import("env", "m", 2, 8, 1, 0)), Module{Imports: last}},
	"a large memory with pages":    {imports(wasm.Import("env", "m", 2, 15, 1, 2, 16)), Module{Imports: last}},
	"a global":                     {imports(wasm.Import("env", "g", 3, 0x7f, 0)), Module{Imports: last}},
	"a global of a reference type": {imports(wasm.Import("env", "g", 3, 0x64, 0x80, 1, 1)), Module{Imports: last}},
	"a global of a vector type":    {imports(wasm.Import("env", "g", 3, 0x7b, 1)), Module{Imports: last}},
	"a tag":                        {imports(wasm.Import("env", "e", 4, 0, 0x80, 1)), Module{Imports: last}},
	"all kinds": {imports(wasm.Import("env", "t", 1, 0x70, 1, 1, 2), wasm.Import("env", "m", 2, 1, 1, 2), wasm.Import("env", "g", 3, 0x7e, 1),
		wasm.Import("env", "e", 4, 0, 1), wasm.Function("a", "b")), Module{Imports: []Import{{"a", "b"}, {"env", "last"}}}},

	"an ABI":            {exports(wasm.Export("memory", 2, 0), wasm.Export("proxy_abi_version_0_2_1", 0, 300)), Module{ABI: "0.2.1"}},
	"an ABI of Higress": {exports(wasm.Export("proxy_abi_version_0_2_100", 0, 1), wasm.Export("proxy_abi_version_0_2_0", 0, 1)), Module{ABI: "0.2.100"}},
	"three ABIs": {exports(wasm.Export("proxy_abi_version_0_1_0", 0, 1), wasm.Export("proxy_abi_version_0_2_1", 0, 1), wasm.Export("proxy_abi_version_0_2_0", 0, 1)),
		Module{ABI: "0.2.1"}},
	"no ABI": {exports(wasm.Export("proxy_abi_version_0_2_1", 3, 0), wasm.Export("proxy_abi_version_", 0, 0), wasm.Export("proxy_abi_version_0_2", 0, 0),
		wasm.Export("proxy_abi_version_0_2_x", 0, 0), wasm.Export("proxy_abi_version_0_2_1_0", 0, 0), wasm.Export("xproxy_abi_version_0_2_1", 0, 0)), Module{}},
	"an export with a very long name": {exports(wasm.Export(strings.Repeat("_Z", 5000), 0, 0), wasm.Export("proxy_abi_version_0_1_0", 0, 1)), Module{ABI: "0.1.0"}},
	"an export of each kind":          {exports(wasm.Export("f", 0, 0), wasm.Export("t", 1, 0), wasm.Export("m", 2, 0), wasm.Export("g", 3, 0), wasm.Export("e", 4, 0)), Module{}},
}

func TestModule(t *testing.T) {
	t.Parallel()
	for name, test := range whole {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range pieces {
				if m, err := look(test.module, size); err != nil || !reflect.DeepEqual(m, test.is) {
					t.Errorf("in pieces of %d: %+v, %v", size, m, err)
				}
			}
		})
	}
}

// A module that ends anywhere but between two sections is not whole.
func TestCutModule(t *testing.T) {
	t.Parallel()
	sections := [][]byte{wasm.Section(wasm.TypeSection, wasm.Vector()), wasm.Section(wasm.ImportSection, wasm.Vector(wasm.Function("env", "a"), wasm.Import("env", "t", 1, 0x63, 0, 5, 1, 0x80, 1))),
		wasm.Custom("name", []byte("content")), wasm.Section(wasm.ExportSection, wasm.Vector(wasm.Export("proxy_abi_version_0_1_0", 0, 0))), wasm.Section(wasm.DataSection, make([]byte, 200))}
	ends := map[int]bool{8: true}
	for i := range sections {
		ends[len(wasm.Module(sections[:i+1]...))] = true
	}
	module := wasm.Module(sections...)
	for n := 8; n <= len(module); n++ {
		for _, size := range pieces {
			_, err := look(module[:n], size)
			switch f := failure.Of(err); {
			case ends[n] && err != nil:
				t.Errorf("%d bytes in pieces of %d: %v", n, size, err)
			case !ends[n] && (err == nil || f.Reason != failure.NotWasm || !strings.Contains(f.Message, "it ends")):
				t.Errorf("%d bytes in pieces of %d: %v", n, size, err)
			}
		}
	}
}

var broken = map[string]struct {
	module []byte
	says   string
}{
	"an unknown section":         {wasm.Module(wasm.Section(14)), "byte 8: it has 0x0e where the id"},
	"an HTML page at the end":    {append(wasm.Filled("x"), "<html>"...), "byte 19: it has 0x3c where the id"},
	"zeros at the end":           {append(wasm.Filled("x"), make([]byte, 100)...), "byte 20: its custom section is empty"},
	"two type sections":          {wasm.Module(wasm.Section(1, wasm.Vector()), wasm.Custom("a", nil), wasm.Section(1, wasm.Vector())), "byte 15: it has a second type section"},
	"imports after functions":    {wasm.Module(wasm.Section(3, wasm.Vector()), wasm.Section(2, wasm.Vector())), "byte 11: its import section comes too late"},
	"a data count after code":    {wasm.Module(wasm.Section(10, wasm.Vector()), wasm.Section(12, []byte{0})), "data count section comes too late"},
	"a tag after globals":        {wasm.Module(wasm.Section(6, wasm.Vector()), wasm.Section(13, wasm.Vector())), "tag section comes too late"},
	"a section of 6 size bytes":  {wasm.Module([]byte{1}, padded(1, 6), []byte{0}), "byte 13: a number has more than 32 bits"},
	"a section of 2^32 bytes":    {wasm.Module([]byte{1, 0x80, 0x80, 0x80, 0x80, 0x10}), "byte 13: a number has more than 32 bits"},
	"a section over the end":     {wasm.Module([]byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0}), "byte 15: it ends here, but its type section goes on to byte 4294967309"},
	"a section without a size":   {wasm.Module([]byte{1}), "byte 9: it ends where the size of its type section should be"},
	"an empty import section":    {wasm.Module(wasm.Section(2)), "byte 10: its import section ends in the middle"},
	"more imports than counted":  {wasm.Module(wasm.Section(2, wasm.Vector(wasm.Function("a", "b")), []byte{0})), "byte 17: its import section has 1 more bytes"},
	"fewer imports than counted": {wasm.Module(wasm.Section(2, []byte{2}, wasm.Function("a", "b"))), "byte 17: its import section ends in the middle"},
	"a name over the section":    {wasm.Module(wasm.Section(2, []byte{1, 200, 1, 'a'}), wasm.Custom("", make([]byte, 300))), "byte 14: its import section ends in the middle"},
	"too many imports":           {wasm.Module(wasm.Section(2, wasm.Number(maxImports+1))), "it has 10001 imports"},
	"too many exports":           {wasm.Module(wasm.Section(7, wasm.Number(maxExports+1))), "it has 100001 exports"},
	"a long name":                {imports(wasm.Function("env", strings.Repeat("x", maxName+1))), "a name of 1025 bytes"},
	"a long module":              {imports(wasm.Function(strings.Repeat("x", maxName+1), "x")), "a name of 1025 bytes"},
	"names of much in sum":       {imports(many(600)...), "more than 1024 KiB in sum"},
	"a name that is no text":     {imports(wasm.Function("env", "\xff")), "not in UTF-8"},
	"an unknown kind":            {imports(wasm.Import("env", "x", 5, 0)), "an import has the kind 0x05"},
	"an unknown type":            {imports(wasm.Import("env", "x", 3, 0x40, 0)), "an import has the type 0x40"},
	"unknown limits":             {imports(wasm.Import("env", "x", 2, 16, 0)), "limits of the form 0x10"},
	"an unknown mutability":      {imports(wasm.Import("env", "x", 3, 0x7f, 4)), "the mutability 0x04"},
	"an unknown attribute":       {imports(wasm.Import("env", "x", 4, 1, 0)), "the attribute 0x01"},
	"a limit of 65 bits":         {imports(wasm.Import("env", "x", 2, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 2)), "more than 64 bits"},
	"a type of 34 bits":          {imports(wasm.Import("env", "x", 3, 0x63, 0xff, 0xff, 0xff, 0xff, 0x1f, 0)), "more than 33 bits"},
	"an index of 33 bits":        {imports(wasm.Import("env", "x", 0, 0xff, 0xff, 0xff, 0xff, 0x1f)), "more than 32 bits"},
	"an export of no kind":       {exports(wasm.Export("x", 5, 0)), "an export has the kind 0x05"},
	"more exports than counted":  {wasm.Module(wasm.Section(7, wasm.Vector(), []byte{0})), "export section has 1 more bytes"},
}

// many are imports with different names of 2 KiB.
func many(n int) (entries [][]byte) {
	for i := range n {
		name := []byte(strings.Repeat("x", maxName))
		name[0], name[1] = 'a'+byte(i%26), 'a'+byte(i/26)
		entries = append(entries, wasm.Function(string(name), string(name)))
	}
	return entries
}

func TestBrokenModule(t *testing.T) {
	t.Parallel()
	for name, test := range broken {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, size := range pieces {
				_, err := look(test.module, size)
				f := failure.Of(err)
				if err == nil || f.Reason != failure.NotWasm || f.Class != failure.Upstream || !strings.Contains(f.Message, test.says) {
					t.Errorf("in pieces of %d: %v, expected is %q", size, err, test.says)
				}
			}
		})
	}
}

// What is kept of a module belongs to whoever asked for it.
func TestModuleIsACopy(t *testing.T) {
	t.Parallel()
	var c Checker
	if _, err := c.Write(imports()); err != nil || c.Close() != nil {
		t.Fatal(err, c.Close())
	}
	c.Module().Imports[0].Name = "changed"
	if m := c.Module(); !reflect.DeepEqual(m.Imports, last) {
		t.Errorf("the imports are %v", m.Imports)
	}
}

func TestFrame(t *testing.T) {
	t.Parallel()
	for size := 11; size < 300; size++ {
		b := bytes.Repeat([]byte{0xff}, size)
		wasm.Frame(b)
		if _, err := look(b, 0); err != nil {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}
