//go:build linux

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestClusterNames(t *testing.T) {
	for name, good := range map[string]bool{
		"a": true, "quickstart": true, "e2e-1": true, "": false, "-a": false, "a-": false, "A": false,
		"a/b": false, "..": false, "a.2": false, strings.Repeat("a", 24): true, strings.Repeat("a", 25): false,
	} {
		if _, err := newCluster(name, defaultStateRoot); (err == nil) != good {
			t.Errorf("name %q: error %v, want good=%v", name, err, good)
		}
	}
	if _, err := newCluster("a", "/"+strings.Repeat("x", 60)); err == nil {
		t.Error("a state folder too long for sockets is accepted")
	}
	if _, err := newCluster("a", "/with space"); err == nil {
		t.Error("a state folder that breaks configuration files is accepted")
	}
}

func TestParseStat(t *testing.T) {
	const fields = " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21"
	for name, want := range map[string]bool{"S": false, "Z": true} {
		start, ended, err := parseStat([]byte("42 (a) b (x)) " + name + fields))
		if err != nil || start != 4711 || ended != want {
			t.Errorf("state %s: got %d %v %v", name, start, ended, err)
		}
	}
	if _, _, err := parseStat([]byte("42 (a) S 1 2")); err == nil {
		t.Error("a cut line is accepted")
	}
}

// TestRecycledNumber proves that a process is never taken for the one that had
// its number before.
func TestRecycledNumber(t *testing.T) {
	start, _, err := processState(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if !(process{PID: os.Getpid(), Start: start}).alive() {
		t.Error("this process is not alive")
	}
	other := process{Name: "other", PID: os.Getpid(), Start: start + 1}
	if other.alive() {
		t.Error("another start time, but alive")
	}
	if err := kill([]process{other}); err != nil {
		t.Error(err) // and this test would not be here any more
	}
}

func TestRecord(t *testing.T) {
	c := testCluster(t)
	want := []process{{"etcd", 12, 34}, {"kubelet@node-1", 56, 78}}
	for _, p := range want {
		if err := c.record(p); err != nil {
			t.Fatal(err)
		}
	}
	f, err := os.OpenFile(c.path("processes"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprint(f, "old 9 10 another-boot\nhalf")
	f.Close()
	if got := c.recorded(); !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestParseMounts(t *testing.T) {
	got := parseMounts("36 35 98:0 /a /mnt\\040x rw,noatime master:1 - ext4 /dev/root rw\n" +
		"25 23 0:22 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\nbroken line\n")
	want := []mount{{"/a", "/mnt x", "ext4"}, {"/", "/sys/fs/cgroup/cpu", "cgroup"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestLockFile(t *testing.T) {
	name := filepath.Join(t.TempDir(), "lock")
	unlock, err := lockFile(name)
	if err != nil {
		t.Fatal(err)
	}
	second := make(chan func())
	go func() {
		unlock, err := lockFile(name)
		if err != nil {
			t.Error(err)
		}
		second <- unlock
	}()
	select {
	case <-second:
		t.Fatal("locked twice")
	case <-time.After(50 * time.Millisecond):
	}
	if err := os.Remove(name); err != nil { // as down does
		t.Fatal(err)
	}
	unlock()
	(<-second)()
	if !exists(name) {
		t.Error("the second holder holds a file that nobody else finds")
	}
}

func TestPauseArchive(t *testing.T) {
	archive, err := pauseArchive([]byte("program"), pauseImage)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{}
	for reader := tar.NewReader(bytes.NewReader(archive)); ; {
		header, err := reader.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(reader)
		files[header.Name] = content
		if sum, found := strings.CutPrefix(header.Name, "blobs/sha256/"); found && fmt.Sprintf("%x", sha256.Sum256(content)) != sum {
			t.Errorf("blob %s has other content", sum)
		}
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(files["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	m := index.Manifests[0]
	if m.Annotations["io.containerd.image.name"] != pauseImage || len(files["blobs/sha256/"+strings.TrimPrefix(m.Digest, "sha256:")]) != m.Size {
		t.Errorf("manifest %+v", m)
	}
}

func TestCertificates(t *testing.T) {
	ca, err := newAuthority("ca")
	if err != nil {
		t.Fatal(err)
	}
	id, err := ca.issue("user", []string{"group"}, "name.test", "10.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode([]byte(id.cert))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM([]byte(ca.pem))
	for _, name := range []string{"name.test", "10.0.0.1"} {
		if _, err := cert.Verify(x509.VerifyOptions{Roots: roots, DNSName: name}); err != nil {
			t.Error(err)
		}
	}
	if cert.Subject.CommonName != "user" || !slices.Equal(cert.Subject.Organization, []string{"group"}) || !cert.IPAddresses[0].Equal(net.ParseIP("10.0.0.1")) {
		t.Errorf("subject %v, addresses %v", cert.Subject, cert.IPAddresses)
	}
}

// TestParts needs the checkout's sources only.
func TestParts(t *testing.T) {
	t.Setenv("XDG_CACHE_HOME", t.TempDir())
	p, err := newParts()
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"envtest", "node", "pause", "debian"} {
		if p.dir(name) == "" {
			t.Errorf("no folder for part %s", name)
		}
	}
	if !strings.Contains(kubernetesFlags("v1.36.3"), "gitMajor=1 -X k8s.io/component-base/version.gitMinor=36 ") {
		t.Error(kubernetesFlags("v1.36.3"))
	}
	if err := p.build("nonsense"); err == nil {
		t.Error("an unknown part is built")
	}
	built := 0
	one := part{name: "pause", build: func(*parts, string) error { built++; return nil }}
	for range 2 {
		if err := p.buildPart(one); err != nil {
			t.Fatal(err)
		}
	}
	if built != 1 {
		t.Errorf("built %d times", built)
	}
}

func testCluster(t *testing.T) *cluster {
	t.Helper()
	c := &cluster{Name: "test", Root: t.TempDir()}
	c.State = filepath.Join(c.Root, c.Name)
	if err := os.MkdirAll(c.State, 0o755); err != nil {
		t.Fatal(err)
	}
	return c
}
