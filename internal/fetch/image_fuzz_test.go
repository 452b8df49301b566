package fetch

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"path"
	"slices"
	"strings"
	"testing"

	gocmp "github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// FuzzImageTar reads two layers of any bytes: whatever they hold, what comes
// out can be served and shown, and stays within the limits.
// Run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzImageTar(f *testing.F) {
	for _, test := range imageCases {
		layers := append([][]item{nil}, test.layers...)
		f.Add(layerTar(f, layers[len(layers)-2]...), gzipOf(f, layerTar(f, layers[len(layers)-1]...)))
	}
	f.Fuzz(func(t *testing.T, below, above []byte) {
		r := newImageReader(putNowhere)
		r.allowance = spent{4 << 20, 1 << 20, 20}
		for _, content := range [][]byte{above, below} {
			if err := readLayer(r, content); err != nil {
				var known *failure.Error
				if !errors.As(err, &known) || known.Message != line(known.Message) {
					t.Fatalf("%q", err)
				}
				return
			}
		}
		image := r.image(store.Artifact{})
		for i, m := range image.Modules {
			key := catalog.ParseKey(m.Member)
			if !catalog.NamePattern.MatchString(key.Name) || !catalog.VersionPattern.MatchString(key.Version) || m.Size < 4 ||
				m.Description != line(m.Description) || i > 0 && image.Modules[i-1].Member >= m.Member {
				t.Fatalf("%v", image.Modules)
			}
		}
		for _, skipped := range image.Skipped {
			if skipped != line(skipped) {
				t.Fatalf("%q", skipped)
			}
		}
		if r.spent.memory > 1<<20 || len(image.Skipped) > maxSkipped+1 {
			t.Fatalf("%v", r.spent)
		}
	})
}

// unpacked is an image that is unpacked the simple way, from the first layer to the last.
type unpacked map[string]stuff

type stuff struct {
	layer int
	kind  byte // of the tar
	text  string
	about bool // a metadata.txt that belongs to a plugin
}

// directories makes those above a path, and says whether something of the same layer is in the way.
func (u unpacked) directories(name string, layer int) bool {
	names := strings.Split(name, "/")
	for i := 1; i < len(names); i++ {
		above := strings.Join(names[:i], "/")
		s, found := u[above]
		switch {
		case found && s.kind != tar.TypeDir && s.layer == layer:
			return false
		case !found || s.kind != tar.TypeDir:
			u[above] = stuff{layer: layer, kind: tar.TypeDir}
		}
	}
	return true
}

func (u unpacked) remove(name string, itself bool) {
	maps.DeleteFunc(u, func(p string, _ stuff) bool {
		return itself && p == name || strings.HasPrefix(p, name+"/") || name == "" && p != ""
	})
}

func (u unpacked) add(layer int, items []item) {
	for _, i := range items {
		directory, base := path.Split(i.name)
		directory = strings.TrimSuffix(directory, "/")
		switch rest, is := strings.CutPrefix(base, ".wh."); {
		case base == opaqueName:
			u.directories(i.name, layer)
			u.remove(directory, false)
		case is:
			u.directories(i.name, layer)
			u.remove(join(directory, rest), true)
		}
	}
	for _, i := range items {
		if strings.HasPrefix(path.Base(i.name), ".wh.") || !u.directories(i.name, layer) {
			continue
		}
		was, found := u[i.name]
		s := stuff{layer: layer, kind: cmp.Or(i.kind, tar.TypeReg), text: string(i.content)}
		if s.kind == tar.TypeDir {
			if !found || was.kind != tar.TypeDir {
				u[i.name] = s
			}
			continue
		}
		_, s.about = keyOf(i.name, metadataName)
		if s.kind == tar.TypeLink {
			if target, found := u[i.link]; found && target.layer == layer && target.kind != tar.TypeDir {
				s = target
			}
		}
		u.remove(i.name, true)
		u[i.name] = s
	}
}

// modules gives the description of each plugin that is to be seen, and what it is.
func (u unpacked) modules() map[string]string {
	found := map[string]string{}
	for name, s := range u {
		key, is := keyOf(name, moduleName)
		if !is || s.kind != tar.TypeReg || !strings.HasPrefix(s.text, "\x00asm") {
			continue
		}
		about := u[root+key.Name+"/"+key.Version+"/"+metadataName]
		if about.kind != tar.TypeReg || !about.about {
			about.text = ""
		}
		found[key.String()] = sum([]byte(s.text)) + about.text
	}
	return found
}

// scripted makes layers of a script: three bytes are one entry, with one of few names.
func scripted(script []byte) (layers [][]item) {
	names := []string{pluginsRoot, "usr/share/nginx/html", "usr"}
	for _, plugin := range []string{root + "a", root + "b"} {
		names = append(names, plugin)
		for _, version := range []string{plugin + "/1", plugin + "/2"} {
			names = append(names, version, version+"/"+moduleName, version+"/"+metadataName, version+"/x")
		}
	}
	kinds := []byte{tar.TypeReg, tar.TypeReg, tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, 'w', 'o', 'n'}
	var items []item
	for ; len(script) >= 3 && len(layers) < 8; script = script[3:] {
		i := item{name: names[int(script[1])%len(names)], kind: kinds[int(script[0])%len(kinds)]}
		directory, base := path.Split(i.name)
		switch i.kind {
		case 'n':
			layers, items = append(layers, items), nil
			continue
		case 'w':
			i = item{name: directory + whiteoutPrefix + base}
		case 'o':
			i = item{name: i.name + "/" + opaqueName}
		case tar.TypeLink:
			i.link = names[int(script[2])%len(names)]
		case tar.TypeReg:
			i.content = fmt.Appendf(nil, "\x00asm %d", script[2]%3)
			if base == metadataName {
				i.content = fmt.Appendf(nil, "description: %d", script[2]%3)
			}
		}
		items = append(items, i)
	}
	return append(layers, items)
}

// FuzzImageLayers compares reading from the last layer to the first with
// unpacking from the first to the last.
// Run for 10 CPU-minutes without a finding on 2026-11-22.
func FuzzImageLayers(f *testing.F) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 2000 {
		script := make([]byte, 3*(3+random.IntN(40)))
		for i := range script {
			script[i] = byte(random.Uint32())
		}
		f.Add(script)
	}
	f.Fuzz(func(t *testing.T, script []byte) {
		layers := scripted(script)
		want, r := unpacked{}, newImageReader(putNowhere)
		for i, items := range layers {
			want.add(i, items)
		}
		for _, items := range slices.Backward(layers) {
			if err := readLayer(r, layerTar(t, items...)); err != nil {
				t.Fatal(err)
			}
		}
		got := map[string]string{}
		for _, m := range r.image(store.Artifact{}).Modules {
			got[m.Member] = m.SHA256
			if m.Description != "" {
				got[m.Member] += "description: " + m.Description
			}
		}
		if diff := gocmp.Diff(want.modules(), got); diff != "" {
			t.Fatalf("unpacked and read (-want +got):\n%s\n%q", diff, layers)
		}
	})
}
