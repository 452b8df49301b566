package inspect

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// of makes a module of an ABI that imports these.
func of(abi string, names ...string) Module {
	m := Module{ABI: abi}
	for _, name := range names {
		module, name, _ := strings.Cut(name, ".")
		m.Imports = append(m.Imports, Import{module, name})
	}
	return m
}

func TestMissing(t *testing.T) {
	t.Parallel()
	goModule := of("0.2.100", "env.proxy_log", "env.proxy_get_buffer_bytes", "wasi_snapshot_preview1.fd_fdstat_set_flags",
		"wasi_snapshot_preview1.poll_oneoff", "wasi_snapshot_preview1.proc_exit", "wasi_snapshot_preview1.sched_yield")
	for name, test := range map[string]struct {
		module  Module
		profile string
		extra   []string
		missing []string
	}{
		"nothing":                        {of("0.2.1"), "higress-2.0", nil, nil},
		"a Go module, an old gateway":    {goModule, "higress-2.0", nil, []string{"wasi_snapshot_preview1.fd_fdstat_set_flags", "wasi_snapshot_preview1.poll_oneoff", "wasi_snapshot_preview1.sched_yield"}},
		"a Go module":                    {goModule, "higress-2.1", nil, nil},
		"a Go module, a new gateway":     {goModule, "higress-2.2", nil, nil},
		"extras":                         {goModule, "higress-2.0", []string{"wasi_snapshot_preview1.sched_yield", "env.more"}, []string{"wasi_snapshot_preview1.fd_fdstat_set_flags", "wasi_snapshot_preview1.poll_oneoff"}},
		"Redis":                          {of("0.2.1", "env.proxy_redis_init", "env.proxy_redis_call"), "higress-2.0", nil, nil},
		"streams, an old gateway":        {of("0.2.1", "env.proxy_inject_encoded_data_to_filter_chain"), "higress-2.0", nil, []string{"env.proxy_inject_encoded_data_to_filter_chain"}},
		"streams":                        {of("0.2.1", "env.proxy_inject_encoded_data_to_filter_chain"), "higress-2.1", nil, nil},
		"the first WASI":                 {of("0.1.0", "wasi_unstable.fd_write", "wasi_unstable.none"), "higress-2.1", nil, []string{"wasi_unstable.none"}},
		"another module":                 {of("0.2.1", "wasi.proxy_log", "gojs.runtime.wasmExit"), "higress-2.1", nil, []string{"wasi.proxy_log", "gojs.runtime.wasmExit"}},
		"of the first ABI":               {of("0.1.0", "env.proxy_continue_request", "env.proxy_continue_stream"), "higress-2.1", nil, []string{"env.proxy_continue_stream"}},
		"of the second ABI":              {of("0.2.0", "env.proxy_continue_request", "env.proxy_continue_stream", "env.proxy_get_log_level"), "higress-2.1", nil, []string{"env.proxy_continue_request", "env.proxy_get_log_level"}},
		"of the third ABI":               {of("0.2.1", "env.proxy_close_stream", "env.proxy_get_log_level"), "higress-2.1", nil, nil},
		"of no ABI":                      {of("", "env.proxy_continue_request", "env.proxy_get_log_level", "env.proxy_none"), "higress-2.1", nil, []string{"env.proxy_none"}},
		"of an ABI that nobody knows":    {of("0.3.0", "env.proxy_continue_request", "env.proxy_get_log_level"), "higress-2.2", nil, nil},
		"an extra with a dot in its end": {of("0.2.1", "gojs.runtime.wasmExit"), "higress-2.2", []string{"gojs.runtime.wasmExit"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			missing, err := Missing(test.module, test.profile, test.extra)
			if expected := of("", test.missing...).Imports; err != nil || !reflect.DeepEqual(missing, expected) {
				t.Errorf("missing is %v, %v, expected is %v", missing, err, expected)
			}
		})
	}
}

func TestMissingErrors(t *testing.T) {
	t.Parallel()
	if _, err := Missing(Module{}, "higress-9", nil); err == nil || !strings.Contains(err.Error(), strings.Join(Profiles(), ", ")) {
		t.Errorf("an unknown profile gives %v", err)
	}
	for _, extra := range []string{"", "proxy_log", ".proxy_log", "env."} {
		if _, err := Missing(Module{}, "higress-2.1", []string{extra}); err == nil || !strings.Contains(err.Error(), "module.name") {
			t.Errorf("the extra %q gives %v", extra, err)
		}
	}
}

// The table holds each function once, and a newer gateway offers all that an older one does.
func TestProfiles(t *testing.T) {
	t.Parallel()
	names := Profiles()
	if !slices.IsSorted(names) || len(slices.Compact(names)) != len(profiles) {
		t.Errorf("the profiles are %v", names)
	}
	for i, p := range profiles {
		for module, functions := range p.Allowed {
			sorted := slices.Sorted(slices.Values(functions))
			if len(slices.Compact(sorted)) != len(functions) {
				t.Errorf("%s has a function of %s twice", p.Name, module)
			}
			if i > 0 && len(profiles[i-1].Allowed[module]) > len(functions) {
				t.Errorf("%s has less of %s than %s", p.Name, module, profiles[i-1].Name)
			}
			for _, f := range functions {
				if module == proxyModule != (strings.HasPrefix(f, "proxy_") || f == "pthread_equal" || f == "emscripten_notify_memory_growth") {
					t.Errorf("%s has %s.%s", p.Name, module, f)
				}
			}
		}
		for abi := range p.ByABI {
			if v, ok := parseABI(strings.ReplaceAll(abi, ".", "_")); !ok || v.String() != abi {
				t.Errorf("%s has the ABI %s", p.Name, abi)
			}
		}
	}
}

// TestUnusual: what the store keeps of a module's imports says as much about
// gateways as the module itself.
func TestUnusual(t *testing.T) {
	t.Parallel()
	crowd := Module{ABI: "0.2.1"}
	for i := range 1000 {
		crowd.Imports = append(crowd.Imports, Import{Module: "env", Name: fmt.Sprintf("no_such_function_%d", i)})
	}
	for name, m := range map[string]Module{
		"nothing":                         {ABI: "0.2.1"},
		"what all have":                   {ABI: "0.2.1", Imports: []Import{{Module: "env", Name: "proxy_log"}}},
		"what some have":                  {ABI: "0.2.1", Imports: []Import{{Module: "wasi_snapshot_preview1", Name: "sched_yield"}}},
		"what none has":                   {ABI: "0.2.1", Imports: []Import{{Module: "env", Name: "x"}, {Module: "a.b", Name: "c.d"}}},
		"one that looks like two of them": {ABI: "0.2.1", Imports: []Import{{Module: "env", Name: "proxy_log,wasi_snapshot_preview1.fd_write"}}},
		"too many to keep":                crowd,
	} {
		for _, profile := range Profiles() {
			direct, err := Missing(m, profile, nil)
			kept, err2 := Missing(ParseUnusual(m.ABI, m.Unusual()), profile, nil)
			if err != nil || err2 != nil || (len(direct) == 0) != (len(kept) == 0) {
				t.Errorf("%s, %s: %v of the module, %v of what is kept; %v %v", name, profile, direct, kept, err, err2)
			}
		}
		if n := len(m.Unusual()); n > 5<<10 {
			t.Errorf("%s: %d bytes", name, n)
		}
	}
}
