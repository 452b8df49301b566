package inspect

import (
	"fmt"
	"slices"
	"strings"
)

// Profile is the functions that a gateway offers to modules. A gateway does not
// load a module that imports any other.
type Profile struct {
	Name string
	// Allowed has the names of functions by the module that they are imported from.
	Allowed map[string][]string
	// ByABI has more functions of the module "env", by the ABI that the module
	// must name to have them.
	ByABI map[string][]string
}

// Profiles are the names of the known profiles, the oldest gateway first.
func Profiles() []string {
	var names []string
	for _, p := range profiles {
		names = append(names, p.Name)
	}
	return names
}

// Missing are the imports of m that the profile lacks. extra has more that the
// gateway offers, each written as "module.name". An unknown profile and an
// extra of another form are errors.
func Missing(m Module, profile string, extra []string) ([]Import, error) {
	i := slices.IndexFunc(profiles, func(p Profile) bool { return p.Name == profile })
	if i < 0 {
		return nil, fmt.Errorf("there is no profile %q of gateways: use one of %s", profile, strings.Join(Profiles(), ", "))
	}
	for _, e := range extra {
		if module, name, _ := strings.Cut(e, "."); module == "" || name == "" {
			return nil, fmt.Errorf("%q is no import: write it as module.name, such as env.proxy_log", e)
		}
	}
	var missing []Import
	for _, wanted := range m.Imports {
		if !profiles[i].offers(m.ABI, wanted) && !slices.Contains(extra, wanted.String()) {
			missing = append(missing, wanted)
		}
	}
	return missing, nil
}

// offers says whether the gateway has the import for modules of the ABI. For an
// ABI that the profile does not know it is enough that it has it for another:
// the ABI is the trouble then, not its functions.
func (p Profile) offers(abi string, i Import) bool {
	if slices.Contains(p.Allowed[i.Module], i.Name) {
		return true
	}
	if i.Module != proxyModule {
		return false
	}
	names, known := p.ByABI[abi]
	if known {
		return slices.Contains(names, i.Name)
	}
	for _, names := range p.ByABI {
		if slices.Contains(names, i.Name) {
			return true
		}
	}
	return false
}

// maxUnusual is the length of what Unusual gives, in bytes.
const maxUnusual = 4 << 10

// Unusual are the imports that not every known gateway offers, as module.name
// with a comma between them: what Missing has to look at later. A list that is cut ends
// with three dots, which no gateway offers.
func (m Module) Unusual() string {
	var unusual []string
	for _, wanted := range m.Imports {
		if slices.ContainsFunc(profiles, func(p Profile) bool { return !p.offers(m.ABI, wanted) }) {
			// No gateway offers a name with a comma, and it must not look like two.
			unusual = append(unusual, strings.ReplaceAll(wanted.String(), ",", `\x2c`))
		}
	}
	all := strings.Join(unusual, ",")
	if len(all) <= maxUnusual {
		return all
	}
	return strings.ToValidUTF8(all[:maxUnusual], "") + ",..."
}

// ParseUnusual reads what Unusual gave.
func ParseUnusual(abi, unusual string) Module {
	m := Module{ABI: abi}
	for name := range strings.SplitSeq(unusual, ",") {
		if from, function, found := strings.Cut(name, "."); found {
			m.Imports = append(m.Imports, Import{from, function})
		}
	}
	return m
}
