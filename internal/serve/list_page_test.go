package serve

import (
	"crypto/sha256"
	"encoding/base64"
	"flag"
	"fmt"
	"log/slog"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/publish"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

var update = flag.Bool("update", false, "write the golden files anew")

// siteHost is how browsers name the server in these tests.
const siteHost = "higress-plugin-server.higress-system.svc"

// hostile is a description that must stay one: markup, and a word without an end.
var hostile = `</table></title><script>alert("hostile")</script><img src=//elsewhere.example/x onerror=alert(1)> {{.Host}} " ' &amp; ` + strings.Repeat("W", 300)

// listedVolume has a version of every kind.
func listedVolume(t *testing.T) http.Handler {
	t.Helper()
	dir := t.TempDir()
	v := publishtest.Open(t, dir, 0)
	module := func(name, version string, size int, seed uint64, with catalog.Entry) publishtest.Module {
		m := publishtest.New(name, version, size, seed)
		m.Entry.Created, m.Entry.Description, m.Entry.Source, m.Entry.Digest = with.Created, with.Description, with.Source, with.Digest
		m.Entry.RetainedUntil = with.RetainedUntil
		return m
	}
	of := func(text string) catalog.Entry {
		return catalog.Entry{
			Created: "2026-06-01T08:30:00+08:00", Description: text,
			Source: "oci://harbor.bank.internal/payments/my-auth:1.3.1", Digest: "sha256:" + strings.Repeat("d", 64),
		}
	}
	auth, alias := module("my-auth", "1.10.0+x", 1_600_000, 1, of("Lets known consumers in")), module("my-auth", "latest", 1_600_000, 1, of("Lets known consumers in"))
	old := of("No longer declared")
	old.RetainedUntil = "2026-06-03T23:59:59Z"
	modules := []publishtest.Module{
		auth, alias, module("my-auth", "1.9.0", 5000, 2, old),
		module("hostile", "1.0.0", 6000, 3, catalog.Entry{Description: hostile, Source: `https://"><script>alert(2)</script>`}),
		module("changed", "1.0.0", 7000, 4, of("Is about to change")),
	}
	publishtest.Put(t, v, modules...)
	publishtest.Publish(t, v, publishtest.Catalog(1, modules...))
	modules[4] = publishtest.New("changed", "1.0.0", 8000, 5)
	c := publishtest.Catalog(2, modules...)
	c.Entries = append(c.Entries, catalog.Entry{Name: "waiting", Version: "1.0.0"})
	publishtest.Publish(t, v, c)
	return handlerOf(dir)
}

func handlerOf(dir string) http.Handler {
	return New(Options{DataDir: dir, Logger: slog.New(slog.DiscardHandler)}).Handler()
}

func look(h http.Handler, method, path string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, nil)
	r.Host = siteHost
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func TestListingForms(t *testing.T) {
	t.Parallel()
	empty := t.TempDir()
	publishtest.Publish(t, publishtest.Open(t, empty, 0), &catalog.Catalog{})
	listed, nothing, unseen := listedVolume(t), handlerOf(empty), handlerOf(t.TempDir())
	for golden, tt := range map[string]struct {
		handler      http.Handler
		path, accept string
		status       int
	}{
		"all.html":      {listed, "/plugins/", "text/html,*/*;q=0.8", 200},
		"plugin.html":   {listed, "/plugins/my-auth/", "text/html", 200},
		"version.html":  {listed, "/plugins/my-auth/1.10.0+x/", "text/html", 200},
		"retained.html": {listed, "/plugins/my-auth/1.9.0", "text/html", 200},
		"hostile.html":  {listed, "/plugins/hostile/1.0.0/", "text/html", 200},
		"pending.html":  {listed, "/plugins/waiting/1.0.0/", "text/html", 200},
		"unknown.html":  {listed, "/plugins/other/1.0.0/", "text/html", 404},
		"empty.html":    {nothing, "/plugins/", "text/html", 200},
		"unseen.html":   {unseen, "/plugins/", "text/html", 503},
		"all.json":      {listed, "/plugins/", "application/json", 200},
		"empty.json":    {nothing, "/plugins/", "application/json", 200},
		"all.txt":       {listed, "/plugins", "*/*", 200},
		"unknown.txt":   {listed, "/plugins/other/", "*/*", 404},
		"unseen.txt":    {unseen, "/plugins/", "application/json", 503},
	} {
		t.Run(golden, func(t *testing.T) {
			t.Parallel()
			w := look(tt.handler, http.MethodGet, tt.path, "Accept", tt.accept)
			if w.Code != tt.status || w.Header().Get("Vary") != "Accept" {
				t.Errorf("status %d, want %d; Vary %q", w.Code, tt.status, w.Header().Get("Vary"))
			}
			if strings.HasSuffix(golden, ".html") {
				checkPolicy(t, w)
			}
			if got := w.Header().Get("X-Content-Type-Options"); got != "nosniff" {
				t.Errorf("X-Content-Type-Options: %q", got)
			}
			// The style is not repeated in each golden file.
			got, path := strings.Replace(w.Body.String(), pageCSS, "", 1), filepath.Join("testdata", golden)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(string(want), got); d != "" {
				t.Errorf("it differs from %s; if that is meant, run go test ./internal/serve -update (-want +got):\n%s", path, d)
			}
		})
	}
}

// checkPolicy: the page may use its own style, and nothing else whatever.
func checkPolicy(t *testing.T, w *httptest.ResponseRecorder) {
	t.Helper()
	_, style, _ := strings.Cut(w.Body.String(), "<style>")
	style, _, _ = strings.Cut(style, "</style>")
	sum := sha256.Sum256([]byte(style))
	want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
	if got := w.Header().Get("Content-Security-Policy"); got != want || style == "" {
		t.Errorf("the policy is %q, want %q", got, want)
	}
	for _, never := range []string{"<script", "<img", " style="} {
		if strings.Contains(w.Body.String(), never) {
			t.Errorf("%q is in the page", never)
		}
	}
}

func TestAccepted(t *testing.T) {
	t.Parallel()
	for accept, want := range map[string]string{
		"":    formText,
		"*/*": formText,
		"text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8": formHTML,
		"application/json, text/plain, */*":                                          formJSON,
		"text/html;q=0.5, application/json":                                          formJSON,
		"text/html, application/json":                                                formHTML,
		"text/plain, text/html":                                                      formText,
		"text/html;q=0":                                                              formText,
		"text/html;q=x, application/json;q=0.1":                                      formJSON,
		"TEXT/HTML":                                                                  formHTML,
		"image/png, , ;;":                                                            formText,
	} {
		if got := accepted(http.Header{"Accept": {accept}}); got != want {
			t.Errorf("%q: %s, want %s", accept, got, want)
		}
	}
	if got := accepted(http.Header{"Accept": {"image/png", "text/html"}}); got != formHTML {
		t.Errorf("two headers: %s", got)
	}
}

// TestListingsUnchanged: who has a listing already does not get it again, in
// each form.
func TestListingsUnchanged(t *testing.T) {
	t.Parallel()
	h := listedVolume(t)
	tags := map[string]string{}
	for _, form := range []string{formHTML, formJSON, formText} {
		first := look(h, http.MethodGet, "/plugins/", "Accept", form)
		tag := first.Header().Get("ETag")
		if other, there := tags[tag]; tag == "" || there {
			t.Errorf("%s: the ETag is %q, as of %s", form, tag, other)
		}
		tags[tag] = form
		if head := look(h, http.MethodHead, "/plugins/", "Accept", form); head.Code != 200 || head.Body.Len() != 0 ||
			head.Header().Get("ETag") != tag || head.Header().Get("Content-Length") != strconv.Itoa(first.Body.Len()) {
			t.Errorf("%s: HEAD gives %d with %d bytes and %v", form, head.Code, head.Body.Len(), head.Header())
		}
		if again := look(h, http.MethodGet, "/plugins/", "Accept", form, "If-None-Match", `"x", `+tag); again.Code != 304 || again.Body.Len() != 0 || again.Header().Get("Vary") != "Accept" {
			t.Errorf("%s: asked again, %d with %d bytes", form, again.Code, again.Body.Len())
		}
		if fresh := look(h, http.MethodGet, "/plugins/", "Accept", form, "If-None-Match", `"x"`); fresh.Code != 200 {
			t.Errorf("%s: another ETag, %d", form, fresh.Code)
		}
	}
	if w := look(h, http.MethodHead, "/plugins/other/", "Accept", formHTML); w.Code != 404 {
		t.Errorf("HEAD of what is unknown: %d", w.Code)
	}
}

// TestPageNamesTheService: an address that only the reader of the page has is
// no use to a gateway.
func TestPageNamesTheService(t *testing.T) {
	t.Parallel()
	h := listedVolume(t)
	for host, says := range map[string]bool{
		"localhost:8080": true, "10.0.0.7": true, "[::1]:8080": true, "plugins.example.com": true,
		"a.b.svc": false, "a.b.svc:80": false, "a.b.svc.cluster.local": false,
	} {
		r := httptest.NewRequest(http.MethodGet, "/plugins/my-auth/latest/", nil)
		r.Host = host
		r.Header.Set("Accept", formHTML)
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		if page := w.Body.String(); !strings.Contains(page, "http://"+host+"/plugins/my-auth/latest/plugin.wasm") || strings.Contains(page, "gateways use the name of the Service") != says {
			t.Errorf("%s: want a hint: %t", host, says)
		}
	}
}

// large serves many entries, two versions of each plugin.
func large(entries int) http.Handler {
	g := &publish.Generation{Catalog: &catalog.Catalog{}}
	for i := range entries {
		g.Entries = append(g.Entries, catalog.Entry{
			Name: fmt.Sprintf("plugin-%04d", i/2), Version: fmt.Sprintf("1.%d.0", i%2), SHA256: fmt.Sprintf("%064x", i), Size: 1 << 20,
			Source: "oci://registry.example.com/plugins/some:1.0.0", Description: "Does something", Created: "2026-06-01T08:30:00Z",
		})
	}
	g.Catalog.Entries = g.Entries
	v := &volume{}
	v.now.Store(newView(g))
	return &plugins{volume: v, logger: slog.New(slog.DiscardHandler)}
}

// TestLargestPage: a page of the largest catalog is whole.
func TestLargestPage(t *testing.T) {
	t.Parallel()
	w := look(large(catalog.MaxEntries), http.MethodGet, "/plugins/", "Accept", formHTML)
	if rows := strings.Count(w.Body.String(), `<th scope="row">`); w.Code != 200 || rows != catalog.MaxEntries || !strings.HasSuffix(w.Body.String(), "</html>\n") {
		t.Errorf("%d with %d rows", w.Code, rows)
	}
}

// TestContrast: every text can be read (WCAG AA: 4.5 to 1), in light and dark.
func TestContrast(t *testing.T) {
	t.Parallel()
	light, dark, _ := strings.Cut(pageCSS, "prefers-color-scheme: dark")
	for scheme, css := range map[string]string{"light": light, "dark": dark} {
		colors := map[string]float64{}
		for _, m := range regexp.MustCompile(`--([a-z-]+): #([0-9a-f]{6});`).FindAllStringSubmatch(css, -1) {
			colors[m[1]] = luminance(t, m[2])
		}
		for _, pair := range []string{"fg bg", "muted bg", "link bg", "fg head", "muted head", "good good-bg", "wait wait-bg", "old old-bg"} {
			text, ground, _ := strings.Cut(pair, " ")
			a, isA := colors[text]
			b, isB := colors[ground]
			if ratio := (max(a, b) + 0.05) / (min(a, b) + 0.05); !isA || !isB || ratio < 4.5 {
				t.Errorf("%s: %s has %.2f", scheme, pair, ratio)
			}
		}
	}
}

// luminance as WCAG 2 defines it.
func luminance(t *testing.T, hex string) float64 {
	t.Helper()
	sum := 0.0
	for i, weight := range []float64{0.2126, 0.7152, 0.0722} {
		n, err := strconv.ParseUint(hex[2*i:2*i+2], 16, 8)
		if err != nil {
			t.Fatal(err)
		}
		c := float64(n) / 255
		if c <= 0.04045 {
			c /= 12.92
		} else {
			c = math.Pow((c+0.055)/1.055, 2.4)
		}
		sum += weight * c
	}
	return sum
}
