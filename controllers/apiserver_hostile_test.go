//go:build envtest

package controllers_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/hostile"
)

// operatorLog takes what operators log, and keeps what they never should.
var operatorLog lineFilter

type lineFilter struct {
	mu    sync.Mutex
	lines int
	kept  []string
}

// Write takes one line.
func (f *lineFilter) Write(line []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lines++
	if text := string(line); hostile.Leaks(text) || strings.Contains(text, "panic") {
		f.kept = append(f.kept, text)
	}
	return len(line), nil
}

// besieged is a world whose registry is hostile. Each case has a plugin of its
// name, which is good at first.
type besieged struct {
	*world
	hostile       *hostile.Server
	host, foreign string
	corpus        []hostile.Case
	sources       []*v1alpha1.PluginSource
}

func newBesieged(t *testing.T) *besieged {
	b := &besieged{world: newWorld(t, 0)}
	for _, c := range hostile.All() {
		if !c.OwnMachine && !c.Named { // the registry is on this machine, and DNS is the real one
			b.corpus = append(b.corpus, c)
		}
	}
	start := func(handler http.HandlerFunc) (server *httptest.Server, host string) {
		server = httptest.NewUnstartedServer(handler)
		server.Config.ErrorLog = log.New(io.Discard, "", 0)
		server.StartTLS()
		t.Cleanup(server.Close)
		return server, strings.TrimPrefix(server.URL, "https://")
	}
	var home *httptest.Server
	home, b.host = start(func(w http.ResponseWriter, r *http.Request) { b.hostile.ServeHTTP(w, r) })
	_, b.foreign = start(func(w http.ResponseWriter, r *http.Request) { b.hostile.Foreign(w, r) })
	b.hostile = hostile.New(b.host, b.foreign, b.corpus)
	b.create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: "hostile-login"}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: b.hostile.Login()},
	})
	b.create(&corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: "hostile-ca"},
		Data:       map[string][]byte{"ca.crt": pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: home.Certificate().Raw})},
	})
	return b
}

// good is where every case has something good at first.
func (b *besieged) good(c hostile.Case) string {
	if c.Turns() {
		return c.URL(b.host, b.foreign)
	}
	return "oci://" + b.host + "/good-then-bad/" + c.Name + ":1"
}

func (b *besieged) list(c hostile.Case, content string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: b.namespace, Name: c.Name}, BinaryData: map[string][]byte{"list": []byte(content)}}
}

// shownTogether is how many lists that cannot be read a condition names.
const shownTogether = 3

// declare creates the sources: one for artifacts that turn bad, one whose urls
// do, and one for every few lists. Each secret has one of its own, since of
// events that are alike only the first is kept.
func (b *besieged) declare() {
	add := func(name string) *v1alpha1.PluginSource {
		source := b.source(name)
		source.Spec.SecretRef.Name, source.Spec.CertSecretRef.Name = "hostile-login", "hostile-ca"
		source.Spec.UpdatePolicy = v1alpha1.UpdateAuto
		b.sources = append(b.sources, source)
		return source
	}
	turning, edited := add("turning"), add("edited")
	var lists *v1alpha1.PluginSource
	for _, c := range b.corpus {
		p := v1alpha1.Plugin{Name: c.Name, Version: "1", URL: b.good(c)}
		switch {
		case c.List != "":
			b.create(b.list(c, hostile.GoodList(c.Name, p.URL)))
			if lists == nil || len(lists.Spec.PluginsFrom) == shownTogether {
				lists = add(c.Name)
			}
			lists.Spec.PluginsFrom = append(lists.Spec.PluginsFrom, v1alpha1.PluginList{ConfigMapKeyRef: &v1alpha1.ConfigMapKeyReference{Name: c.Name, Key: "list"}})
		case c.Kind == hostile.Credential:
			own := add(c.Name)
			own.Spec.Plugins = append(own.Spec.Plugins, p)
		case c.Turns():
			turning.Spec.Plugins = append(turning.Spec.Plugins, p)
		default:
			edited.Spec.Plugins = append(edited.Spec.Plugins, p)
		}
	}
	for _, s := range b.sources {
		b.create(s)
	}
}

// turn makes everything bad, and has all of it looked at. What the API server
// does not even take is not in the source afterwards.
func (b *besieged) turn() (refused map[string]bool) {
	b.hostile.Turn()
	refused = map[string]bool{}
	bad := map[string]v1alpha1.Plugin{}
	for _, c := range b.corpus {
		if c.List != "" {
			if err := b.admin.Update(b.t.Context(), b.list(c, c.List)); err != nil {
				b.t.Fatal(err)
			}
			continue
		}
		p := v1alpha1.Plugin{Name: c.Name, Version: "1", URL: c.URL(b.host, b.foreign), SHA256: c.SHA256}
		if err := b.admin.Create(b.t.Context(), b.source("probe", p), client.DryRunAll); err == nil {
			bad[c.Name] = p
		} else if refused[c.Name] = true; !apierrors.IsInvalid(err) {
			b.t.Errorf("%s is refused with %v", c.Name, err)
		}
	}
	for _, source := range b.sources {
		edit(b.world, source, func(s *v1alpha1.PluginSource) {
			metav1.SetMetaDataAnnotation(&s.ObjectMeta, v1alpha1.RequestedAtAnnotation, "now")
			for i, p := range s.Spec.Plugins {
				if p, found := bad[p.Name]; found {
					s.Spec.Plugins[i] = p
				}
			}
		})
	}
	return refused
}

// told waits until the status of every plugin, or of its source, says why.
func (b *besieged) told(refused map[string]bool) {
	b.eventually("every case is explained", func(ctx context.Context) error {
		var sources v1alpha1.PluginSourceList
		if err := b.admin.List(ctx, &sources, client.InNamespace(b.namespace)); err != nil {
			return err
		}
		lists, plugins := map[string]string{}, map[string]v1alpha1.PluginStatus{}
		for _, s := range sources.Items {
			if warned := meta.FindStatusCondition(s.Status.Conditions, "Warned"); warned != nil {
				for said := range strings.SplitSeq(warned.Message, "key list of ConfigMap ") {
					list, why, _ := strings.Cut(said, ": ")
					lists[list] = why
				}
			}
			for _, p := range s.Status.Plugins {
				plugins[p.Name] = p
			}
		}
		var missing []error
		for _, c := range b.corpus {
			p := plugins[c.Name]
			switch {
			case refused[c.Name]:
			case c.List != "" && strings.Contains(lists[c.Name], c.Says) && strings.Contains(lists[c.Name], "what it declared last counts on"):
			case p.State == v1alpha1.PluginFailed && p.Reason == string(c.Reason) && strings.Contains(p.Message, c.Says):
			case p.State == v1alpha1.PluginFetched && strings.Contains(p.Warning, c.Says): // not even its digest can be had
			default:
				missing = append(missing, fmt.Errorf("%s, %s %q: %s %s %s %s %s", c.Name, c.Reason, c.Says, p.State, p.Reason, p.Message, p.Warning, lists[c.Name]))
			}
		}
		return errors.Join(missing[:min(10, len(missing))]...)
	})
}

// entries waits until every case has something good in the catalog that is
// declared, and is handed out.
func (b *besieged) entries(o *operator) {
	b.eventually("all that was good is served", func(ctx context.Context) error {
		c, err := b.catalog(ctx, name)
		if err != nil {
			return err
		}
		served := map[string]string{}
		for _, e := range c.Entries {
			if e.Version == "1" && e.RetainedUntil == "" {
				served[e.Name] = e.SHA256
			}
		}
		for _, c := range b.corpus {
			if module := hostile.Good(c.Name); served[c.Name] != sha(module) || !b.replicas.has(sha(module)) {
				return fmt.Errorf("%s is served as %q", c.Name, served[c.Name])
			}
		}
		return nil
	})
	for _, c := range b.corpus {
		module := hostile.Good(c.Name)
		if got, err := ask(b.t.Context(), o.url+"/blobs/sha256/"+sha(module), 1<<20); err != nil || !bytes.Equal(got, module) {
			b.t.Errorf("%s is not handed out: %v", c.Name, err)
		}
	}
}

// silent looks for secrets in everything that others can read.
func (b *besieged) silent(o *operator) {
	var sources v1alpha1.PluginSourceList
	var servers v1alpha1.PluginServerList
	var events eventsv1.EventList
	for _, list := range []client.ObjectList{&sources, &servers, &events} {
		if err := b.admin.List(b.t.Context(), list, client.InNamespace(b.namespace)); err != nil {
			b.t.Fatal(err)
		}
	}
	for i := range sources.Items {
		sources.Items[i].Spec = v1alpha1.PluginSourceSpec{} // what the user wrote, as is the url in the status
		for j := range sources.Items[i].Status.Plugins {
			sources.Items[i].Status.Plugins[j].URL = ""
		}
		sources.Items[i].ManagedFields = nil
	}
	catalog, err := b.catalog(b.t.Context(), name)
	if err != nil || len(events.Items) == 0 {
		b.t.Fatalf("%v, %d events", err, len(events.Items))
	}
	for what, content := range map[string]any{"sources": sources, "servers": servers, "events": events, "catalog": catalog} {
		text, err := json.Marshal(content)
		if err != nil || hostile.Leaks(string(text)) {
			at := max(bytes.Index(text, []byte(hostile.Canary)), 0)
			b.t.Errorf("a secret is in the %s, or %v: %s", what, err, text[max(at-300, 0):min(at+100, len(text))])
		}
	}
	operatorLog.mu.Lock()
	defer operatorLog.mu.Unlock()
	if operatorLog.lines == 0 || len(operatorLog.kept) > 0 || len(b.hostile.Leaks()) > 0 {
		b.t.Errorf("of %d lines the log should not have %q, the foreign server got %q", operatorLog.lines, operatorLog.kept, b.hostile.Leaks())
	}
}

// TestHostile lets everything that is served turn bad at once, each in a way of
// its own: every plugin says why, and all go on being served as they were.
func TestHostile(t *testing.T) {
	b := newBesieged(t)
	b.declare()
	server := b.server(name)
	b.create(server)
	o := b.start()
	b.replicas.rollOut(server)
	b.entries(o)
	refused := b.turn()
	b.told(refused)
	b.entries(o)
	b.silent(o)
	t.Logf("%d cases, %d of which the API server refuses", len(b.corpus), len(refused))
}
