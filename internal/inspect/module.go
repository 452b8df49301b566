package inspect

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Module is what a module says about itself.
type Module struct {
	// ABI is the version of the proxy-wasm ABI that the module is built for, such
	// as "0.2.1", or empty if it names none. It is the highest one if it names more.
	ABI string
	// Imports are the functions that the module wants from the gateway, in
	// order and each once.
	Imports []Import
}

// Import is a function that a module imports.
type Import struct{ Module, Name string }

// String is how gateways write an import in their logs.
func (i Import) String() string { return i.Module + "." + i.Name }

// abiPrefix is how the name of the function begins by which a module names its ABI.
var abiPrefix = []byte("proxy_abi_version_")

// found is what the sections have told so far.
type found struct {
	abi     abi
	imports map[Import]struct{}
	modules map[string]string // one string for each name, as there are few
	size    int               // of the names in imports
}

var errTooLong = fmt.Errorf("its imports have names of more than %d KiB in sum, and more are not read", maxNames>>10)

func (f *found) addImport(module, name []byte) error {
	if _, ok := f.imports[Import{string(module), string(name)}]; ok {
		return nil
	}
	if f.size += len(module) + len(name); f.size > maxNames {
		return errTooLong
	}
	if f.imports == nil {
		f.imports, f.modules = map[Import]struct{}{}, map[string]string{}
	}
	from, ok := f.modules[string(module)]
	if !ok {
		from = string(module)
		f.modules[from] = from
	}
	f.imports[Import{from, string(name)}] = struct{}{}
	return nil
}

func (f *found) addExport(name []byte) {
	rest, ok := bytes.CutPrefix(name, abiPrefix)
	if !ok {
		return
	}
	if v, ok := parseABI(string(rest)); ok && v.compare(f.abi) >= 0 {
		f.abi = v
	}
}

// module is what was found.
func (s *scanner) module() Module {
	m := Module{ABI: s.found.abi.String()}
	for i := range s.found.imports {
		m.Imports = append(m.Imports, i)
	}
	slices.SortFunc(m.Imports, func(a, b Import) int {
		return cmp.Or(cmp.Compare(a.Module, b.Module), cmp.Compare(a.Name, b.Name))
	})
	return m
}

// abi is a version of the ABI: major, minor, patch. The zero value is none.
type abi struct {
	parts [3]uint16
	set   bool
}

// parseABI reads a version as it is in a name: 0_2_1.
func parseABI(s string) (abi, bool) {
	v := abi{set: true}
	parts := strings.Split(s, "_")
	if len(parts) != len(v.parts) {
		return abi{}, false
	}
	for i, part := range parts {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil {
			return abi{}, false
		}
		v.parts[i] = uint16(n)
	}
	return v, true
}

func (v abi) compare(other abi) int { return slices.Compare(v.parts[:], other.parts[:]) }

func (v abi) String() string {
	if !v.set {
		return ""
	}
	return fmt.Sprintf("%d.%d.%d", v.parts[0], v.parts[1], v.parts[2])
}
