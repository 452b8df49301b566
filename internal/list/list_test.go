package list_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/list"
)

var (
	digestA = "sha256:" + strings.Repeat("a", 64)
	digestB = "sha256:" + strings.Repeat("b", 64)
	module  = strings.Repeat("c", 64)
)

func key(name, version string) catalog.Key { return catalog.Key{Name: name, Version: version} }

func TestParse(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		content string
		want    []list.Plugin
	}{
		"properties": {
			"\ufeff# AI\r\n\r\nai-proxy = oci://r.example/plugins/ai-proxy:2.0.0\r\n! also a comment\n" +
				"mcp-server=r.example:5000/mcp-server/all-in-one:1.0.0\njson-converter=oci://r.example/plugins/jsonrpc-converter:2.0.0",
			[]list.Plugin{
				{Key: key("ai-proxy", "2.0.0"), URL: "oci://r.example/plugins/ai-proxy:2.0.0", Format: list.Properties},
				{Key: key("mcp-server", "1.0.0"), URL: "oci://r.example:5000/mcp-server/all-in-one:1.0.0", Format: list.Properties},
				{Key: key("json-converter", "2.0.0"), URL: "oci://r.example/plugins/jsonrpc-converter:2.0.0", Format: list.Properties},
			}},
		"of two lines for the same the last counts": {
			"a=oci://r.example/old:1\nb=oci://r.example/b:1\na=oci://r.example/new:1\na=oci://r.example/new:2\n",
			[]list.Plugin{
				{Key: key("a", "1"), URL: "oci://r.example/new:1", Format: list.Properties},
				{Key: key("b", "1"), URL: "oci://r.example/b:1", Format: list.Properties},
				{Key: key("a", "2"), URL: "oci://r.example/new:2", Format: list.Properties},
			}},
		"properties with a digest": {
			"a=oci://r.example/a:1@" + digestA + "\nb=oci://r.example/b@" + digestB,
			[]list.Plugin{
				{Key: key("a", "1"), URL: "oci://r.example/a:1", Digest: digestA, Format: list.Properties},
				{Key: key("b", "sha256-"+strings.Repeat("b", 64)), URL: "oci://r.example/b@" + digestB, Digest: digestB, Format: list.Properties},
			}},
		"a release snapshot": {
			`{"schemaVersion":1,"gatewayVersion":"2.2.4","new":{},"plugins":[
			 {"logicalId":"no-consumer","version":"1.0.0","ociRef":"r.example/x:1.0.0","digest":"` + digestB + `","consumers":{}},
			 {"logicalId":"jsonrpc-converter","version":"2.0.1","ociRef":"r.example/plugins/jsonrpc-converter:2.0.1","digest":"` + digestA + `","unknown":1,
			  "consumers":{"console":{},"pluginServer":{"inventoryKey":"json-converter","httpPath":"jsonrpc-converter","aliases":["json-converter","jsonrpc"]}}}]}`,
			[]list.Plugin{{
				Key: key("jsonrpc-converter", "2.0.1"), URL: "oci://r.example/plugins/jsonrpc-converter:2.0.1", Digest: digestA, Format: list.Snapshot,
				Aliases: []catalog.Key{key("json-converter", "2.0.1"), key("jsonrpc", "2.0.1")},
			}}},
		"a lock file": {
			`{"schemaVersion":1,"plugins":{
			 "key-auth":{"logicalKey":"key-auth","servedPath":"key-auth","servedVersion":"2.0.0","repository":"r.example/plugins/key-auth","tag":"2.0.0","digest":"` + digestA + `","wasmSha256":"` + module + `"},
			 "basic-auth":{"servedPath":"basic-auth","servedVersion":"1.0.0","repository":"r.example/plugins/basic-auth","tag":"2.0.0","digest":"` + digestB + `","wasmSha256":"` + module + `"}}}`,
			[]list.Plugin{
				{Key: key("basic-auth", "1.0.0"), URL: "oci://r.example/plugins/basic-auth:2.0.0", Digest: digestB, SHA256: module, Format: list.Snapshot},
				{Key: key("key-auth", "2.0.0"), URL: "oci://r.example/plugins/key-auth:2.0.0", Digest: digestA, SHA256: module, Format: list.Snapshot},
			}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := list.Parse([]byte(c.content))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(c.want, got); diff != "" {
				t.Errorf("plugins (-want +got):\n%s", diff)
			}
		})
	}
}

// released is a snapshot with one plugin.
func released(name, version, ref, digest, aliases string) string {
	return `{"schemaVersion":1,"plugins":[{"logicalId":"x","version":"` + version + `","ociRef":"` + ref + `","digest":"` + digest +
		`","consumers":{"pluginServer":{"inventoryKey":"` + name + `","httpPath":"` + name + `","aliases":[` + aliases + `]}}}]}`
}

// TestBadLists: each list is refused as a whole, with words that name the
// place. The files of testdata/bad are what anybody may put into a ConfigMap.
func TestBadLists(t *testing.T) {
	t.Parallel()
	const ok = "a=oci://r.example/a:1\n"
	for name, c := range map[string]struct{ content, want string }{
		"empty":                          {"", "names no plugin"},
		"only comments":                  {"# a\n\n! b\n", "names no plugin"},
		"no equals sign":                 {ok + "b oci://r.example/b:1", "line 2 is not NAME="},
		"HTML":                           {"<!doctype html>\n<title>Login</title>", "line 1 is not NAME="},
		"upper case name":                {ok + "B=oci://r.example/b:1", `line 2: "B" is no name`},
		"name that climbs":               {"..=oci://r.example/b:1", "is no name"},
		"name with a slash":              {"a/b=oci://r.example/b:1", "is no name"},
		"name with a NUL":                {"a\x00=oci://r.example/b:1", `"a\x00" is no name`},
		"name in another script":         {"ключ=oci://r.example/b:1", "is no name"},
		"no name":                        {"=oci://r.example/b:1", "is no name"},
		"long name":                      {strings.Repeat("a", 64) + "=oci://r.example/b:1", "is no name"},
		"no reference":                   {"a=", "is no reference"},
		"no tag":                         {"a=oci://r.example/b", "neither a tag nor a digest"},
		"malformed tag":                  {"a=oci://r.example/b:a/b", "is no reference"},
		"tag that is no version":         {"a=oci://r.example/b:_", "is no version"},
		"other scheme":                   {"a=https://r.example/b.wasm", "does not begin with oci://"},
		"file scheme":                    {"a=file:///etc/passwd", "does not begin with oci://"},
		"login in the reference":         {"a=oci://user:canary-password@r.example/b:1", "holds a user name"},
		"short digest":                   {"a=oci://r.example/b@sha256:00", "the digest is not"},
		"JSON that ends early":           {`{"schemaVersion":1,"plugins":[`, "no JSON document"},
		"JSON of something else":         {`{"hello":1}`, "schemaVersion is 0"},
		"a schema of the future":         {`{"schemaVersion":2,"plugins":[]}`, "schemaVersion is 2"},
		"plugins of a wrong kind":        {`{"schemaVersion":1,"plugins":"x"}`, "neither a release snapshot's nor"},
		"no plugins":                     {`{"schemaVersion":1,"plugins":[]}`, "names no plugin"},
		"deeply nested":                  {`{"schemaVersion":1,"plugins":` + strings.Repeat("[", 20000), "no JSON document"},
		"path that climbs":               {released("../../etc", "1", "r.example/b:1", digestA, ""), "is no name"},
		"version that climbs":            {released("a", "../1", "r.example/b:1", digestA, ""), "is no version"},
		"malformed digest":               {released("a", "1", "r.example/b:1", "sha256:zz", ""), "is no digest"},
		"digest of another kind":         {released("a", "1", "r.example/b:1", "md5:"+strings.Repeat("a", 32), ""), "is no digest"},
		"malformed reference":            {released("a", "1", "r.example", digestA, ""), "is no reference"},
		"alias that climbs":              {released("a", "1", "r.example/b:1", digestA, `"../x"`), "is no name"},
		"a crowd of aliases":             {released("a", "1", "r.example/b:1", digestA, `"a1","a2","a3","a4","a5","a6","a7","a8","a9","b1","b2","b3","b4","b5","b6","b7","b8"`), "more than 16 aliases"},
		"twice the same":                 {`{"schemaVersion":1,"plugins":[` + inner("a") + "," + inner("a") + "]}", "stands in it twice"},
		"a lock without a hash":          {`{"schemaVersion":1,"plugins":{"a":{"servedPath":"a","servedVersion":"1","repository":"r.example/a","tag":"1","digest":"` + digestA + `"}}}`, "is no wasmSha256"},
		"a lock with a path that climbs": {`{"schemaVersion":1,"plugins":{"a":{"servedPath":"../a","servedVersion":"1","repository":"r.example/a","tag":"1","digest":"` + digestA + `","wasmSha256":"` + module + `"}}}`, "is no name"},
		"a lock without a tag":           {`{"schemaVersion":1,"plugins":{"a":{"servedPath":"a","servedVersion":"1","repository":"r.example/a","digest":"` + digestA + `","wasmSha256":"` + module + `"}}}`, "is no reference"},
		"a lock with one path twice": {`{"schemaVersion":1,"plugins":{
			"a":{"servedPath":"a","servedVersion":"1","repository":"r.example/a","tag":"1","digest":"` + digestA + `","wasmSha256":"` + module + `"},
			"b":{"servedPath":"a","servedVersion":"1","repository":"r.example/b","tag":"1","digest":"` + digestA + `","wasmSha256":"` + module + `"}}}`, "stands in it twice"},
		"too large":        {strings.Repeat("#", list.MaxSize) + "\n" + ok, "bytes, 1048576 are allowed"},
		"too many plugins": {manyLines(list.MaxPlugins + 1), "1001 plugins, 1000 are allowed"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			plugins, err := list.Parse([]byte(c.content))
			if err == nil {
				t.Fatalf("taken: %v", plugins)
			}
			e := failure.Of(err)
			if e.Reason != failure.InvalidList || e.Class != failure.Upstream || !strings.Contains(e.Message, c.want) {
				t.Errorf("got %s %s %q, want %q", e.Class, e.Reason, e.Message, c.want)
			}
			if strings.Contains(e.Message, "canary") || len(e.Message) > 480 {
				t.Errorf("the message shows a password, or too much: %q", e.Message)
			}
		})
	}
}

func inner(name string) string {
	return `{"logicalId":"x","version":"1","ociRef":"r.example/b:1","digest":"` + digestA + `","consumers":{"pluginServer":{"httpPath":"` + name + `"}}}`
}

func manyLines(n int) string {
	var b strings.Builder
	for i := range n {
		b.WriteString("a" + strings.Repeat("b", i%50) + string(rune('a'+i%26)) + string(rune('a'+i/26%26)) + string(rune('a'+i/676)) + "=oci://r.example/a:1\n")
	}
	return b.String()
}

// FuzzParse: whatever a list holds, what comes out of it can be served.
// Run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzParse(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*")
	if err != nil {
		f.Fatal(err)
	}
	for _, name := range seeds {
		if content, err := os.ReadFile(name); err == nil {
			f.Add(content)
		}
	}
	f.Add([]byte("a=oci://r.example/a:1\nb=r.example/b@" + digestA))
	f.Add([]byte(released("a", "1", "r.example/b:1", digestA, `"b"`)))
	f.Add([]byte(`{"schemaVersion":1,"plugins":{"a":{"servedPath":"a","servedVersion":"1","repository":"r.example/a","tag":"1","digest":"` + digestA + `","wasmSha256":"` + module + `"}}}`))
	f.Fuzz(func(t *testing.T, content []byte) {
		plugins, err := list.Parse(content)
		if err != nil {
			if len(plugins) > 0 || failure.Of(err).Reason != failure.InvalidList {
				t.Fatalf("%d plugins, %v", len(plugins), err)
			}
			return
		}
		seen := map[catalog.Key]bool{}
		for _, p := range plugins {
			for i, k := range append([]catalog.Key{p.Key}, p.Aliases...) {
				if !catalog.NamePattern.MatchString(k.Name) || !catalog.VersionPattern.MatchString(k.Version) || i == 0 && seen[k] {
					t.Fatalf("key %q", k)
				}
				seen[k] = true
			}
			if !strings.HasPrefix(p.URL, "oci://") || p.SHA256 != "" && !catalog.SHA256Pattern.MatchString(p.SHA256) {
				t.Fatalf("%+v", p)
			}
		}
	})
}
