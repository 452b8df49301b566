package hostile

import (
	"fmt"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/list"
)

const ok = "a=oci://r.example/a:1\n"

// GoodList is what a list was before: a plugin that is there.
func GoodList(name, url string) string { return name + "=" + url + "\n" }

func listed(kind Kind, name, says, content string) Case {
	return Case{Kind: kind, Name: string(kind) + "-" + name, Reason: failure.InvalidList, Says: says, List: content}
}

// properties are lists of lines.
func properties() []Case {
	lines := func(name, says, content string) Case { return listed(Properties, name, says, content) }
	return []Case{
		lines("empty", "names no plugin", "\n"),
		lines("page", "line 1 is not NAME=", "<!doctype html>\n<title>Sign in</title>"),
		lines("no-equals-sign", "line 2 is not NAME=", ok+"b oci://r.example/b:1"),
		lines("path-for-name", "is no name", ok+"../../tmp/hostile=oci://r.example/b:1"),
		lines("nul-in-name", `"a\x00" is no name`, ok+"a\x00=oci://r.example/b:1"),
		lines("terminal-codes-in-name", `"\x1b[2j" is no name`, ok+"\x1b[2j=oci://r.example/b:1"),
		lines("other-alphabet", "is no name", ok+"kеy=oci://r.example/b:1"),
		lines("another-scheme", "does not begin with oci://", ok+"b=file:///etc/passwd"),
		lines("modules-of-the-cluster", "does not begin with oci://", ok+"b=configmap://kube-system/extension-apiserver-authentication"),
		lines("signed-file", "does not begin with oci://", ok+"b=https://r.example/b.wasm"+signed),
		lines("login", "holds a user name", ok+"b=oci://me:"+Canary+"@r.example/b:1"),
		lines("short-digest", "the digest is not", ok+"b=oci://r.example/b@sha256:00"),
		lines("version-climbs", "the tag is malformed", ok+"b=oci://r.example/b:../1"),
		lines("crowd", "1000 are allowed", crowded(list.MaxPlugins+1)),
		lines("lines-without-end", "more than 10000 lines", ok+strings.Repeat("\n", 10_000)),
	}
}

func crowded(n int) string {
	var b strings.Builder
	for i := range n {
		fmt.Fprintf(&b, "p%d=oci://r.example/p:1\n", i)
	}
	return b.String()
}

// released is a snapshot with this plugin.
func released(name, version, reference, digest, aliases string) string {
	return `{"schemaVersion":1,"plugins":[` + inner(name, version, reference, digest, aliases) + `]}`
}

func inner(name, version, reference, digest, aliases string) string {
	return fmt.Sprintf(`{"logicalId":"x","version":%q,"ociRef":%q,"digest":%q,"consumers":{"pluginServer":{"inventoryKey":%q,"httpPath":%q,"aliases":[%s]}}}`,
		version, reference, digest, name, name, aliases)
}

// snapshots are those of a release.
func snapshots() []Case {
	sha := digest(nil)
	json := func(name, says, content string) Case { return listed(Snapshot, name, says, content) }
	return []Case{
		json("cut", "no JSON document", `{"schemaVersion":1,"plugins":[`),
		json("deep", "no JSON document", `{"schemaVersion":1,"plugins":`+strings.Repeat("[", 50_000)),
		json("something-else", "schemaVersion is 0", `{"apiVersion":"v1","kind":"Secret","data":{"password":"`+Canary+`"}}`),
		json("of-the-future", "schemaVersion is 2", `{"schemaVersion":2,"plugins":[]}`),
		json("plugins-of-another-kind", "neither a release snapshot's nor", `{"schemaVersion":1,"plugins":"x"}`),
		json("no-plugins", "names no plugin", `{"schemaVersion":1,"plugins":[]}`),
		json("path-climbs", "is no name", released("../../tmp/hostile", "1", "r.example/b:1", sha, "")),
		json("alias-climbs", "is no name", released("a", "1", "r.example/b:1", sha, `"../x"`)),
		json("crowd-of-aliases", "more than 16 aliases", released("a", "1", "r.example/b:1", sha, strings.Trim(manyNames(17), "[]"))),
		json("twice", "stands in it twice", `{"schemaVersion":1,"plugins":[`+inner("a", "1", "r.example/b:1", sha, "")+","+inner("a", "1", "r.example/c:1", sha, "")+`]}`),
		json("digest-by-md5", "is no digest", released("a", "1", "r.example/b:1", "md5:d41d8cd98f00b204e9800998ecf8427e", "")),
		json("login", "holds a user name", released("a", "1", "me:"+Canary+"@r.example/b:1", sha, "")),
	}
}

func manyNames(n int) string {
	names := make([]string, n)
	for i := range names {
		names[i] = fmt.Sprintf(`"a%d"`, i)
	}
	return strings.Join(names, ",")
}

// locks are the files beside snapshots.
func locks() []Case {
	locked := func(path, version, tag, hash string) string {
		return fmt.Sprintf(`{"servedPath":%q,"servedVersion":%q,"repository":"r.example/a","tag":%q,"digest":%q,"wasmSha256":%q}`, path, version, tag, digest(nil), hash)
	}
	hash := sum(nil)
	lock := func(name, says string, plugins ...string) Case {
		for i := range plugins {
			plugins[i] = fmt.Sprintf(`"p%d":%s`, i, plugins[i])
		}
		return listed(Snapshot, "lock-"+name, says, `{"schemaVersion":1,"plugins":{`+strings.Join(plugins, ",")+"}}")
	}
	return []Case{
		lock("path-climbs", "is no name", locked("../../tmp/hostile", "1", "1", hash)),
		lock("no-tag", "is no reference", locked("a", "1", "", hash)),
		lock("no-hash", "is no wasmSha256", locked("a", "1", "1", "")),
		lock("one-path-twice", "stands in it twice", locked("a", "1", "1", hash), locked("a", "1", "2", hash)),
	}
}
