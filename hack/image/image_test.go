package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/validate"
)

// programs writes programs for two platforms and returns their folder.
func programs(t *testing.T, content string) string {
	t.Helper()
	from := t.TempDir()
	for _, platform := range []string{"linux_amd64", "linux_arm64"} {
		for _, program := range []string{"operator", "plugin-server"} {
			file := filepath.Join(from, platform, program)
			if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(content+platform+program), 0o755); err != nil {
				t.Fatal(err)
			}
		}
	}
	return from
}

// write runs the command and returns the archive and the reference.
func write(t *testing.T, from, ref, platforms string) (archive []byte, full string) {
	t.Helper()
	out := filepath.Join(t.TempDir(), "new", "image.tar")
	if err := run([]string{"-ref", ref, "-platform", platforms, "-from", from, "-out", out}); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	reference, err := os.ReadFile(strings.TrimSuffix(out, ".tar") + ".ref")
	if err != nil {
		t.Fatal(err)
	}
	return archive, strings.TrimSpace(string(reference))
}

// unpack reads the archive back as a layout.
func unpack(t *testing.T, archive []byte) v1.ImageIndex {
	t.Helper()
	folder := t.TempDir()
	reader := tar.NewReader(bytes.NewReader(archive))
	for {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(folder, header.Name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(folder)
	if err != nil {
		t.Fatal(err)
	}
	return index
}

func TestReference(t *testing.T) {
	t.Parallel()
	from := programs(t, "one")
	_, tagged := write(t, from, "harbor.bank.internal/a/b:v1", "linux/amd64")
	if tagged != "harbor.bank.internal/a/b:v1" {
		t.Errorf("a given tag is not kept: %s", tagged)
	}
	archive, first := write(t, from, "higress/x", "linux/amd64")
	if !strings.HasPrefix(first, "docker.io/higress/x:sha-") {
		t.Errorf("reference is %s, want the runtime's registry and a tag of the content", first)
	}
	again, same := write(t, from, "higress/x", "linux/amd64")
	if same != first || !bytes.Equal(archive, again) {
		t.Error("the same programs make another image")
	}
	if _, other := write(t, programs(t, "two"), "higress/x", "linux/amd64"); other == first {
		t.Errorf("other programs have the same reference %s", other)
	}
	if err := run([]string{"-ref", "UPPER/x", "-from", from, "-out", filepath.Join(t.TempDir(), "x.tar")}); err == nil {
		t.Error("a reference with upper case is accepted")
	}
}

func TestOnePlatform(t *testing.T) {
	t.Parallel()
	archive, ref := write(t, programs(t, ""), "higress/x:v1", "linux/amd64")
	index := unpack(t, archive)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Manifests) != 1 {
		t.Fatalf("%d manifests, want 1", len(manifest.Manifests))
	}
	want := map[string]string{"io.containerd.image.name": ref, "org.opencontainers.image.ref.name": "v1"}
	if diff := cmp.Diff(want, manifest.Manifests[0].Annotations); diff != "" {
		t.Errorf("annotations (-want +got):\n%s", diff)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Image(img); err != nil {
		t.Error(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	wantConfig := v1.Config{User: "65532:65532", Entrypoint: []string{"/plugin-server"}}
	if diff := cmp.Diff(wantConfig, config.Config); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	files := contents(t, img)
	wantFiles := map[string]string{"operator": "-rwxr-xr-x linux_amd64operator", "plugin-server": "-rwxr-xr-x linux_amd64plugin-server"}
	if diff := cmp.Diff(wantFiles, files); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
}

// contents gives mode and content of each file of an image, and where its links point.
func contents(t *testing.T, img v1.Image) map[string]string {
	t.Helper()
	files := map[string]string{}
	reader := mutate.Extract(img)
	defer func() { _ = reader.Close() }()
	entries := tar.NewReader(reader)
	for {
		header, err := entries.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(entries)
		if err != nil {
			t.Fatal(err)
		}
		files[header.Name] = header.FileInfo().Mode().String() + " " + header.Linkname + string(content)
	}
	return files
}

// TestTree: the image is what is in a folder, whatever the umask was when that
// was made.
func TestTree(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	for _, dir := range []string{"usr/sbin", "var/log", "tmp"} {
		if err := os.MkdirAll(filepath.Join(folder, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(folder, "tmp"), 0o777|os.ModeSticky); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"usr/sbin/nginx": 0o700, "usr/page": 0o600} {
		if err := os.WriteFile(filepath.Join(folder, name), []byte(name), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("/dev/stdout", filepath.Join(folder, "var/log/access.log")); err != nil {
		t.Fatal(err)
	}
	out := filepath.Join(t.TempDir(), "tree.tar")
	args := []string{"-ref", "higress/x", "-tree", folder, "-entrypoint", "usr/sbin/nginx", "-user", "0:0", "-stop-signal", "SIGQUIT", "-out", out}
	if err := run(args); err != nil {
		t.Fatal(err)
	}
	archive, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	index := unpack(t, archive)
	manifest, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	img, err := index.Image(manifest.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	wantConfig := v1.Config{User: "0:0", Entrypoint: []string{"/usr/sbin/nginx"}, StopSignal: "SIGQUIT"}
	if diff := cmp.Diff(wantConfig, config.Config); diff != "" {
		t.Errorf("configuration (-want +got):\n%s", diff)
	}
	want := map[string]string{
		"tmp": "dtrwxrwxrwx ", "usr": "drwxr-xr-x ", "usr/sbin": "drwxr-xr-x ", "var": "drwxr-xr-x ", "var/log": "drwxr-xr-x ",
		"usr/page": "-rw-r--r-- usr/page", "usr/sbin/nginx": "-rwxr-xr-x usr/sbin/nginx", "var/log/access.log": "Lrwxr-xr-x /dev/stdout",
	}
	if diff := cmp.Diff(want, contents(t, img)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	for _, wrong := range [][]string{{"-platform", "linux/amd64,linux/arm64"}, {"-entrypoint", "nginx"}, {"-tree", filepath.Join(folder, "absent")}} {
		if err := run(append(args, wrong...)); err == nil {
			t.Errorf("%v is accepted", wrong)
		}
	}
}

func TestTwoPlatforms(t *testing.T) {
	t.Parallel()
	archive, _ := write(t, programs(t, ""), "higress/x:v1", "linux/amd64,linux/arm64")
	index := unpack(t, archive)
	outer, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	inner, err := index.ImageIndex(outer.Manifests[0].Digest)
	if err != nil {
		t.Fatal(err)
	}
	if err := validate.Index(inner); err != nil {
		t.Error(err)
	}
	manifest, err := inner.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, m := range manifest.Manifests {
		got = append(got, m.Platform.String())
	}
	if diff := cmp.Diff([]string{"linux/amd64", "linux/arm64"}, got); diff != "" {
		t.Errorf("platforms (-want +got):\n%s", diff)
	}
}

func TestMissingProgram(t *testing.T) {
	t.Parallel()
	err := run([]string{"-ref", "higress/x", "-platform", "linux/s390x", "-from", programs(t, ""), "-out", filepath.Join(t.TempDir(), "x.tar")})
	if err == nil || !strings.Contains(err.Error(), "linux_s390x") {
		t.Errorf("error is %v, want one that names the missing folder", err)
	}
}
