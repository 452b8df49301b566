package hostile_test

import (
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/hostile"
	"github.com/higress-group/plugin-server-operator/internal/list"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestCorpus: each case fails for its reason, as far as a machine without a
// network of its own can tell, and there are enough of each kind.
func TestCorpus(t *testing.T) {
	t.Parallel()
	corpus := hostile.All()
	count := map[hostile.Kind]int{}
	names := map[string]bool{}
	for _, c := range corpus {
		if count[c.Kind]++; names[c.Name] {
			t.Errorf("%s stands twice in it", c.Name)
		}
		names[c.Name] = true
	}
	t.Logf("%d cases: %v", len(corpus), count)
	if len(corpus) < 150 || count[hostile.Address] < 30 || count[hostile.Redirect] < 6 || count[hostile.Credential] < 6 {
		t.Error("too few")
	}
	var server *hostile.Server
	start := func(handler http.HandlerFunc) *httptest.Server {
		s := httptest.NewUnstartedServer(handler)
		s.Config.ErrorLog = log.New(io.Discard, "", 0)
		s.StartTLS()
		t.Cleanup(s.Close)
		return s
	}
	home := start(func(w http.ResponseWriter, r *http.Request) { server.ServeHTTP(w, r) })
	foreign := start(func(w http.ResponseWriter, r *http.Request) { server.Foreign(w, r) })
	host := func(s *httptest.Server) string { return strings.TrimPrefix(s.URL, "https://") }
	server = hostile.New(host(home), host(foreign), corpus)
	content, err := store.Open(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	fetcher := fetch.New(fetch.Options{Store: content, AllowLoopback: true})
	t.Cleanup(fetcher.Close)
	access := fetch.Access{DockerConfig: server.Login(), CA: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: home.Certificate().Raw})}
	get := func(c hostile.Case) error {
		_, err := fetcher.Fetch(t.Context(), fetch.Request{URL: c.URL(host(home), host(foreign)), SHA256: c.SHA256, Access: access})
		return err
	}
	for _, c := range corpus {
		if c.Turns() && c.List == "" && c.SHA256 == "" {
			if err := get(c); err != nil {
				t.Errorf("%s cannot be had while it is good: %v", c.Name, err)
			}
		}
	}
	server.Turn()
	for _, c := range corpus {
		var err error
		switch {
		case c.OwnMachine, c.Named:
			continue
		case c.List != "":
			_, err = list.Parse([]byte(c.List))
		default:
			err = get(c)
		}
		if err == nil {
			t.Errorf("%s is taken", c.Name)
			continue
		}
		e := failure.Of(err)
		if e.Reason != c.Reason || !strings.Contains(e.Message, c.Says) {
			t.Errorf("%s fails with %s, %s; want %s, %q", c.Name, e.Reason, e.Message, c.Reason, c.Says)
		}
		if hostile.Leaks(e.Message) || e.Err != nil && hostile.Leaks(e.Err.Error()) || len(e.Message) > 512 || strings.ContainsAny(e.Message, "\n\r\x1b") {
			t.Errorf("%s: the message is not to be shown: %q", c.Name, e.Message)
		}
	}
	for _, request := range server.Leaks() {
		t.Errorf("the foreign server got %s", request)
	}
}
