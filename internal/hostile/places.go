package hostile

import (
	"fmt"
	"strings"

	"github.com/higress-group/plugin-server-operator/internal/failure"
)

// place is a case about a url.
func place(kind Kind, name string, reason failure.Reason, says, url string) Case {
	return Case{Kind: kind, Name: string(kind) + "-" + name, Reason: reason, Says: says, url: url}
}

// urls are those that nobody asks for anything.
func urls() []Case {
	malformed := func(name, says, url string) Case { return place(URL, name, failure.InvalidReference, says, url) }
	return []Case{
		place(URL, "escaped-line", failure.NotFound, "zz%1b%5b2J%0d%0aerror=x/none.wasm", "https://{host}/zz%1b%5b2J%0d%0aerror=x/none.wasm"),
		malformed("file", "does not begin with oci://", "file:///etc/passwd"),
		malformed("data", "does not begin with oci://", "data:application/wasm;base64,AGFzbQEAAAA="),
		malformed("upper-case", "does not begin with oci://", "OCI://{host}/good-then-bad/x:1"),
		malformed("climbs", "repository is malformed", "oci://{host}/a/../../b:1"),
		malformed("escaped", "repository is malformed", "oci://{host}/a%2f..%2fb:1"),
		malformed("query", "tag is malformed", "oci://{host}/a:1?x"),
		malformed("digest-climbs", "the digest is not", "oci://{host}/a@sha256:../../../../tmp/hostile"),
		malformed("line-break", "malformed", "https://{host}/a\r\nX-Injected: 1"),
		malformed("other-alphabet", "repository is malformed", "oci://{host}/rеgistry:1"),
		malformed("long", "longer than 1024", "oci://{host}/"+strings.Repeat("a", 4096)+":1"),
		malformed("long-file", "too long", "https://{host}/"+strings.Repeat("a", 4096)),
		malformed("no-file", "the file is missing", "https://{host}/"),
		malformed("port-zero", "the port is malformed", "oci://h:0/a:1"),
		malformed("http-without-hash", "needs its sha256", "http://{foreign}/a.wasm"),
	}
}

// addresses are numbers, in the ways to write them, that lead to where nobody but
// the operator should get.
func addresses() []Case {
	var all []Case
	for i, c := range []struct {
		host, says string
		own        bool
	}{
		{"127.0.0.1", "the operator's own machine", true},
		{"127.255.3.4", "the operator's own machine", true},
		{"[::1]", "the operator's own machine", true},
		{"[0:0:0:0:0:0:0:1]", "the operator's own machine", true},
		{"[::ffff:127.0.0.1]", "the operator's own machine", true},
		{"[::ffff:7f00:1]", "the operator's own machine", true},
		{"[64:ff9b::127.0.0.1]", "the operator's own machine", true},
		{"[2002:7f00:1::]", "the operator's own machine", true},
		{"169.254.169.254", "a link-local address", false},
		{"169.254.0.1", "a link-local address", false},
		{"[::ffff:169.254.169.254]", "a link-local address", false},
		{"[::FFFF:A9FE:A9FE]", "a link-local address", false},
		{"[64:ff9b::a9fe:a9fe]", "a link-local address", false},
		{"[2002:a9fe:a9fe::1]", "a link-local address", false},
		{"[fe80::1]", "a link-local address", false},
		{"[fec0::1]", "a link-local address", false},
		{"100.100.100.200", "metadata service", false},
		{"168.63.129.16", "metadata service", false},
		{"192.0.0.192", "metadata service", false},
		{"[fd00:ec2::254]", "metadata service", false},
		{"[fd00:0ec2:0000::0254]", "metadata service", false},
		{"[fd20:ce::254]", "metadata service", false},
		{"[::ffff:100.100.100.200]", "metadata service", false},
		{"[fd00:42::42]", "metadata service", false},
		{"[::169.254.169.254]", "a link-local address", false},
		{"[::ffff:0:169.254.169.254]", "a link-local address", false},
		{"[64:ff9b:1::169.254.169.254]", "a link-local address", false},
		{"[2001:0:a9fe:a9fe::1]", "a tunnel", false},
		{"0.0.0.0", "no address of a host", false},
		{"0.1.2.3", "no address of a host", false},
		{"[::]", "no address of a host", false},
		{"224.0.0.1", "a multicast address", false},
		{"[ff02::1]", "a multicast address", false},
		{"255.255.255.255", "a multicast address", false},
	} {
		form := "oci://%s/a:1"
		if i%2 == 1 {
			form = "https://%s/a.wasm"
		}
		name := strings.NewReplacer("::", "-0-", ":", "-", ".", "-", "[", "", "]", "").Replace(strings.ToLower(c.host))
		a := place(Address, fmt.Sprintf("%d-%s", i+1, strings.Trim(name, "-")), failure.ForbiddenAddress, c.says, fmt.Sprintf(form, c.host))
		a.OwnMachine = c.own
		all = append(all, a)
	}
	return all
}

// moreAddresses are spellings that some programs take for an address, names
// that lead to one, and urls that hide the host.
func moreAddresses() []Case {
	spelled := func(name, says, url string) Case { return place(Address, name, failure.InvalidReference, says, url) }
	number := func(name, host string) Case { // a name for DNS, where none has it
		c := place(Address, name, failure.Unreachable, "cannot be resolved", "oci://"+host+"/a:1")
		c.Named = true
		return c
	}
	named := func(name, says, url string) Case {
		c := place(Address, name, failure.ForbiddenAddress, says, url)
		c.Named = true
		return c
	}
	local := place(Address, "localhost", failure.ForbiddenAddress, "the operator's own machine", "https://LocalHost/a.wasm")
	local.OwnMachine = true
	return []Case{
		local,
		number("decimal", "2130706433"), number("hexadecimal", "0x7f000001"), number("octal", "0177.0.0.1"), number("two-parts", "127.1"), number("zero", "0"),
		named("name-of-the-machine", "the operator's own machine", "oci://machine.hostile.test/a:1"),
		named("name-in-the-new-way", "the operator's own machine", "https://machine-six.hostile.test/a.wasm"),
		named("name-of-metadata", "a link-local address", "https://metadata.google.internal/computeMetadata/v1/x"),
		named("name-in-both-ways", "a link-local address", "oci://mapped.hostile.test/a:1"),
		spelled("dot-at-the-end", "the host is malformed", "https://127.0.0.1./a.wasm"),
		spelled("zone", "IPv6 address is malformed", "oci://[fe80::1%25eth0]/a:1"),
		spelled("mapped-with-zone", "IPv6 address is malformed", "https://[::ffff:127.0.0.1%25lo]/a.wasm"),
		spelled("escaped", "malformed", "https://127%2e0%2e0%2e1/a.wasm"),
		spelled("wide-digits", "the host is malformed", "oci://１２７.0.0.1/a:1"),
		spelled("in-brackets", "the IPv6 address is malformed", "oci://[127.0.0.1]/a:1"),
		spelled("behind-a-user", "holds a user name", "https://{foreign}@169.254.169.254/a.wasm"),
		spelled("behind-a-fragment", "it has a fragment", "https://169.254.169.254/a#@{foreign}/a.wasm"),
		spelled("behind-a-backslash", "malformed", `https://{foreign}\@169.254.169.254/a.wasm`),
	}
}
