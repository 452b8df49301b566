//go:build browser && linux

package serve

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"image"
	"image/png"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/official"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

const (
	site = "http://" + siteHost
	// control is a page that does what the listings must not do; it shows that the
	// checks would see it.
	control     = "/control"
	controlPage = `<!DOCTYPE html><title>Control</title><p id="p">not run</p><img src="http://elsewhere.example/x.png">` +
		`<script>document.getElementById("p").textContent = "run"; console.error("said")</script>`
	// frames measures pages of some width: how wide they are, how many rows they
	// have, and what sticks out.
	frames     = "/frames"
	framesPage = `<!DOCTYPE html><title>Frames</title><body><script>
async function measure(width, path) {
	const frame = document.createElement("iframe");
	frame.width = width; frame.height = 900; frame.src = path;
	const loaded = new Promise(done => frame.onload = done);
	document.body.append(frame);
	await loaded;
	const root = frame.contentDocument.documentElement, wide = frame.contentWindow.innerWidth;
	const out = [...root.querySelectorAll("body *")].filter(e => e.getBoundingClientRect().right > wide + 0.5).map(e => e.tagName + "." + e.className);
	const p = document.createElement("p");
	p.textContent = [path, wide, root.scrollWidth, root.querySelectorAll("tbody tr").length, ...out.slice(0, 5)].join(" ");
	frame.replaceWith(p);
}
const asked = new URLSearchParams(location.search);
(async () => { for (const path of asked.getAll("path")) for (const width of asked.getAll("width")) await measure(width, path); })();
</script></body>`
)

// bidi is text from right to left that does not end where it should.
const bidi = "\u202Eevil\u2067 \u0645\u0631\u062D\u0628\u0627 "

// pageVolume serves every official plugin of two releases, and some others.
// Given back are the entries of its catalog.
func pageVolume(t *testing.T, dir string) (http.Handler, []catalog.Entry) {
	t.Helper()
	v := publishtest.Open(t, dir, 0)
	published, unknown := official.Embedded().Plugins([]string{"2.2.3", "2.2.4"})
	if len(unknown) > 0 {
		t.Fatalf("unknown releases %v", unknown)
	}
	var modules []publishtest.Module
	seeds := map[string]uint64{}
	add := func(source string, e catalog.Entry) {
		if _, there := seeds[source]; !there {
			seeds[source] = uint64(len(seeds) + 1)
		}
		seed := seeds[source]
		m := publishtest.New(e.Name, e.Version, int(200_000+seed*7919%90*9_000), seed)
		m.Entry.Source, m.Entry.Created, m.Entry.Description, m.Entry.RetainedUntil = source, e.Created, e.Description, e.RetainedUntil
		m.Entry.Digest = "sha256:" + strings.Repeat(fmt.Sprintf("%02x", seed), 32)
		modules = append(modules, m)
	}
	for i, p := range published {
		add(p.URLs[0], catalog.Entry{Name: p.Key.Name, Version: p.Key.Version, Created: fmt.Sprintf("2026-0%d-1%dT20:30:00-06:00", 1+i%7, i%10), Description: descriptions[p.Key.Name]})
	}
	add("oci://harbor.bank.internal/team/access-log:0.9.0", catalog.Entry{Name: "access-log", Version: "0.9.0", Created: "2026-01-20T09:00:00Z", Description: "Writes who called what", RetainedUntil: "2026-12-31T22:00:00Z"})
	add("oci://harbor.bank.internal/team/access-log:1.0.0", catalog.Entry{Name: "access-log", Version: "1.0.0", Created: "2026-08-03T14:20:00Z", Description: "Writes who called what"})
	add("https://<script>alert(2)</script>/"+strings.Repeat("x", 300), catalog.Entry{Name: "zz-hostile", Version: "1.0.0", Description: bidi + hostile})
	add("oci://harbor.bank.internal/team/long:1", catalog.Entry{Name: "zz-" + strings.Repeat("long", 15), Version: strings.Repeat("1", 128)})
	publishtest.Put(t, v, modules...)
	c := publishtest.Catalog(1, modules...)
	c.Entries = append(c.Entries, catalog.Entry{Name: "access-log", Version: "1.1.0"})
	c.Normalize()
	publishtest.Publish(t, v, c)
	return handlerOf(dir), c.Entries
}

// descriptions of some plugins, as their authors might write them.
var descriptions = map[string]string{
	"ai-agent": "Lets a model call the APIs that it needs", "ai-cache": "Answers what was asked before from a cache",
	"ai-data-masking": "Masks personal data in requests and answers", "ai-history": "Remembers a conversation between requests", "ai-proxy": "One API for the models of many providers",
	"key-auth": "Lets consumers in by an API key", "jwt-auth": "Lets consumers in by a JSON Web Token",
	"mcp-server": "Turns HTTP APIs into tools of the Model Context Protocol",
}

// TestPageInChromium looks at the pages of a real volume with a real browser.
func TestPageInChromium(t *testing.T) {
	c := newChromium(t)
	handler, entries := pageVolume(t, filepath.Join(c.dir, "volume"))
	mux := http.NewServeMux()
	mux.Handle("/plugins/", handler)
	html := func(text string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "text/html; charset=utf-8")
			_, _ = io.WriteString(w, text)
		}
	}
	mux.HandleFunc(control, html(controlPage))
	mux.HandleFunc(frames, html(framesPage))
	mux.Handle("/large/plugins/", http.StripPrefix("/large", large(2*manyPlugins)))
	// The policy forbids frames, and the measuring needs one.
	mux.HandleFunc("/framed/", func(w http.ResponseWriter, r *http.Request) {
		inner := httptest.NewRecorder()
		http.StripPrefix("/framed", handler).ServeHTTP(inner, r)
		html(inner.Body.String())(w, r)
	})
	visited := &visits{next: mux}
	server := httptest.NewServer(visited)
	t.Cleanup(server.Close)
	c.proxy = server.URL
	p := &pageTest{chromium: c, visited: visited, handler: handler, entries: entries}
	t.Run("the checks see something", p.control)
	t.Run("all", p.all)
	t.Run("links", p.links)
	t.Run("large", p.large)
	t.Run("narrow", p.narrow)
	t.Run("screenshot", p.screenshot)
}

type pageTest struct {
	*chromium
	visited *visits
	handler http.Handler
	entries []catalog.Entry
}

// load loads a page that must ask for nothing else, and say nothing.
func (p *pageTest) load(t *testing.T, with *chromium, path string) *element {
	t.Helper()
	p.visited.take()
	document, console := with.dom(t, site+path)
	if d := cmp.Diff([]string{"GET " + site + path}, p.visited.take()); d != "" {
		t.Errorf("%s asks for other things (-want +got):\n%s", path, d)
	}
	if console != "" {
		t.Errorf("%s: the console says %s", path, console)
	}
	return document
}

func (p *pageTest) control(t *testing.T) {
	document, console := p.dom(t, site+control)
	if text := document.all("p")[0].words(); text != "run" || !strings.Contains(console, "said") {
		t.Errorf("the script has not run: %q, console %q", text, console)
	}
	if seen := p.visited.take(); !slices.Contains(seen, "GET http://elsewhere.example/x.png") {
		t.Errorf("another host is not seen: %q", seen)
	}
	document, console = p.withoutScript().dom(t, site+control)
	if text := document.all("p")[0].words(); text != "not run" || console != "" {
		t.Errorf("a script runs: %q, console %q", text, console)
	}
}

// all: every plugin and version is there, with its links, the same with
// JavaScript and without.
func (p *pageTest) all(t *testing.T) {
	document, plain := p.load(t, p.chromium, "/plugins/"), p.load(t, p.withoutScript(), "/plugins/")
	text := document.words()
	if text != plain.words() {
		t.Error("without JavaScript the page is another one")
	}
	if document.all("html")[0].attr["lang"] != "en" || len(document.all("h1")) != 1 || document.all("title")[0].words() != "Plugins – plugin server" || len(document.all("caption")) != 1 {
		t.Error("language, heading, title or caption is missing")
	}
	links := map[string]string{}
	for _, a := range document.all("a") {
		links[a.attr["href"]] = a.words()
	}
	rows := map[string]string{}
	for _, body := range document.all("tbody") {
		for _, row := range body.all("tr") {
			if head := row.all("th")[0]; head.attr["scope"] == "row" {
				rows[body.attr["id"]+":"+head.words()] = row.words()
			}
		}
	}
	if len(rows) != len(p.entries) {
		t.Errorf("%d rows for %d entries", len(rows), len(p.entries))
	}
	for _, e := range p.entries {
		row, folder := rows[e.Key().String()], "/plugins/"+e.Name+"/"+e.Version+"/"
		if links["/plugins/"+e.Name+"/"] != e.Name || links[folder] != e.Version {
			t.Errorf("%s has no link", e.Key())
		}
		switch {
		case e.Pending():
			if !strings.Contains(row, "Pending") || links[folder+moduleName] != "" {
				t.Errorf("%s: %s", e.Key(), row)
			}
			continue
		case e.RetainedUntil != "" && !strings.Contains(row, "Retained until 2026-12-31 22:00 UTC"):
			t.Errorf("%s: %s", e.Key(), row)
		}
		if !strings.Contains(row, e.SHA256) || !strings.Contains(row, short(e.Source)) || !strings.Contains(row, mebibytes(e.Size)) ||
			links[folder+moduleName] != moduleName || links[folder+metadataName] != metadataName {
			t.Errorf("%s: %s", e.Key(), row)
		}
	}
	if len(document.all("script"))+len(document.all("img")) > 0 || !strings.Contains(text, `<script>alert("hostile")</script>`) {
		t.Error("the hostile description is not just text")
	}
}

// links: from the list to a plugin, its version, and the module.
func (p *pageTest) links(t *testing.T) {
	follow := func(from *element, text string) string {
		t.Helper()
		for _, a := range from.all("a") {
			if a.words() == text {
				return a.attr["href"]
			}
		}
		t.Fatalf("there is no link %q", text)
		return ""
	}
	plain := p.withoutScript()
	plugin := p.load(t, plain, follow(p.load(t, plain, "/plugins/"), "key-auth"))
	if plugin.all("h1")[0].words() != "key-auth" || !strings.Contains(plugin.words(), descriptions["key-auth"]) {
		t.Errorf("that is not key-auth: %s", plugin.words())
	}
	version := p.load(t, plain, follow(plugin, "2.0.0"))
	text := version.words()
	at := slices.IndexFunc(p.entries, func(e catalog.Entry) bool { return e.Name == "key-auth" && e.Version == "2.0.0" })
	e := p.entries[at]
	for _, want := range []string{
		e.SHA256, e.MD5, e.Digest, e.Source, mebibytes(e.Size), fmt.Sprint(e.Size), site + "/plugins/key-auth/2.0.0/plugin.wasm",
		utc("2006-01-02 15:04:05 UTC", e.Created), "The same module key-auth 1.0.0", "Plugins key-auth 2.0.0",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing: %s", want, text)
		}
	}
	for _, link := range []string{moduleName, "plugin.wasm with just these bytes"} {
		w := look(p.handler, http.MethodGet, follow(version, link))
		if sum := sha256.Sum256(w.Body.Bytes()); w.Code != 200 || hex.EncodeToString(sum[:]) != e.SHA256 {
			t.Errorf("%s gives %d and other bytes", link, w.Code)
		}
	}
	if metadata, _ := p.dom(t, site+follow(version, metadataName)); !strings.Contains(metadata.words(), "sha256: "+e.SHA256) {
		t.Error("that is no metadata.txt")
	}
	if hostile := p.load(t, p.chromium, "/plugins/zz-hostile/1.0.0/"); !strings.Contains(hostile.words(), `<script>alert("hostile")</script>`) || len(hostile.all("script")) > 0 {
		t.Error("the hostile description is not just text")
	}
	var listing struct{ Plugins []listed }
	if err := json.Unmarshal(look(p.handler, http.MethodGet, "/plugins/", "Accept", formJSON).Body.Bytes(), &listing); err != nil || len(listing.Plugins) != len(p.entries) {
		t.Errorf("programs get %d entries: %v", len(listing.Plugins), err)
	}
}

// manyPlugins is more than anybody has.
const manyPlugins = 1000

// large: a page of many plugins is whole.
func (p *pageTest) large(t *testing.T) {
	rows := 0
	for _, head := range p.load(t, p.chromium, "/large/plugins/").all("th") {
		if head.attr["scope"] == "row" {
			rows++
		}
	}
	if rows != 2*manyPlugins {
		t.Errorf("%d rows for %d entries", rows, 2*manyPlugins)
	}
}

// narrow: nothing sticks out, from a telephone to a screen.
func (p *pageTest) narrow(t *testing.T) {
	paths, widths := []string{"/plugins/", "/plugins/key-auth/2.0.0/", "/plugins/zz-hostile/1.0.0/", "/plugins/access-log/"}, []int{320, 390, 800, 1050, 1060, 1280}
	query := url.Values{}
	var want []string
	for _, path := range paths {
		query.Add("path", "/framed"+path)
		for _, width := range widths {
			want = append(want, fmt.Sprintf("/framed%s %d %d", path, width, width))
		}
	}
	for _, width := range widths {
		query.Add("width", fmt.Sprint(width))
	}
	document, console := p.dom(t, site+frames+"?"+query.Encode(), "--window-size=1400,1000", "--virtual-time-budget=60000")
	measured := document.all("p")
	if len(measured) != len(want) {
		t.Fatalf("%d of %d are measured: %s %s", len(measured), len(want), document.words(), console)
	}
	for i, m := range measured {
		if fields := strings.Fields(m.words()); strings.Join(fields[:3], " ") != want[i] || fields[3] == "0" {
			t.Errorf("path, width, what it takes, rows, what sticks out: %s; want %s", m.words(), want[i])
		}
	}
}

// maxScreenshot is the size of the screenshot in the repository, in bytes.
const maxScreenshot = 200_000

// screenshot: the one for the README can be made, and is there. In the dark the
// page is dark.
func (p *pageTest) screenshot(t *testing.T) {
	picture := p.shot(t)
	for scheme, shown := range map[string]image.Image{"#ffffff": picture, "#12161d": p.shot(t, "--force-dark-mode")} {
		r, g, b, _ := shown.At(1, 1).RGBA()
		if got := fmt.Sprintf("#%02x%02x%02x", r>>8, g>>8, b>>8); got != scheme || !strings.Contains(pageCSS, "--bg: "+scheme) {
			t.Errorf("the ground is %s, want %s", got, scheme)
		}
	}
	const golden = "testdata/page.png"
	if *update {
		var b bytes.Buffer
		if err := (&png.Encoder{CompressionLevel: png.BestCompression}).Encode(&b, picture); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(golden, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	kept, err := os.ReadFile(golden)
	if err != nil {
		t.Fatal(err)
	}
	config, _, err := image.DecodeConfig(bytes.NewReader(kept))
	if size := picture.Bounds().Size(); err != nil || len(kept) > maxScreenshot || config.Width != size.X || config.Height != size.Y {
		t.Errorf("%s has %d bytes, %d by %d: %v; go test -tags browser ./internal/serve -run Chromium -update makes it anew", golden, len(kept), config.Width, config.Height, err)
	}
}

func (p *pageTest) shot(t *testing.T, flags ...string) image.Image {
	t.Helper()
	name := filepath.Join(p.dir, "page.png")
	p.run(t, site+"/plugins/", append(flags, "--window-size=1280,800", "--screenshot="+name)...)
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	picture, err := png.Decode(f)
	if err != nil {
		t.Fatal(err)
	}
	return picture
}
