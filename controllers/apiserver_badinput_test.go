//go:build envtest

package controllers_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// badInput makes a plugin that cannot be had, and says what is told about it.
type badInput struct {
	make   func(w *world, s *v1alpha1.PluginSource) string // the url
	reason string
	says   []string
}

// tarball is a layer as docker build makes it, without a module.
func tarball(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	zw := gzip.NewWriter(&b)
	tw := tar.NewWriter(zw)
	err := tw.WriteHeader(&tar.Header{Name: "readme.md", Mode: 0o644, Size: 4})
	_, werr := tw.Write([]byte("text"))
	if err := errors.Join(err, werr, tw.Close(), zw.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func badInputs() map[string]badInput {
	pushed := func(content []byte, mediaType ...string) func(*world, *v1alpha1.PluginSource) string {
		return func(w *world, _ *v1alpha1.PluginSource) string { return w.push("bad", "1", content, mediaType...).url }
	}
	secret := func(change func(w *world, s *v1alpha1.PluginSource)) func(*world, *v1alpha1.PluginSource) string {
		return func(w *world, s *v1alpha1.PluginSource) string {
			change(w, s)
			return w.push("bad", "1", module("fine")).url
		}
	}
	return map[string]badInput{
		"unreachable registry": {func(*world, *v1alpha1.PluginSource) string { return "oci://127.0.0.1:1/a:1" }, "Unreachable", []string{"127.0.0.1:1", "check"}},
		"unknown CA": {secret(func(_ *world, s *v1alpha1.PluginSource) { s.Spec.CertSecretRef = nil }), "UntrustedCertificate",
			[]string{"unknown authority", "certSecretRef"}},
		"401": {secret(func(w *world, s *v1alpha1.PluginSource) {
			w.create(w.login(w.namespace, "wrong", "not-the-password"))
			s.Spec.SecretRef.Name = "wrong"
		}), "Unauthorized", []string{"401", "check the Secret named in secretRef"}},
		"401 without a login": {secret(func(_ *world, s *v1alpha1.PluginSource) { s.Spec.SecretRef = nil }), "Unauthorized", []string{"401", "secretRef"}},
		"404": {func(w *world, _ *v1alpha1.PluginSource) string {
			return strings.TrimSuffix(w.push("bad", "1", module("x")).url, ":1") + ":2"
		}, "NotFound", []string{"404", "check the url, or push it"}},
		"another module than expected": {func(w *world, s *v1alpha1.PluginSource) string {
			s.Spec.Plugins[1].SHA256 = strings.Repeat("a", 64)
			return w.push("bad", "1", module("x")).url
		}, "DigestMismatch", nil},
		"a layer with other bytes": {func(w *world, _ *v1alpha1.PluginSource) string {
			p := w.push("bad", "1", module("x"))
			w.registry.fail(p.layer, func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(module("y")) })
			return p.url
		}, "DigestMismatch", []string{"push it again"}},
		"a truncated layer": {func(w *world, _ *v1alpha1.PluginSource) string {
			p := w.push("bad", "1", module("a longer one"))
			w.registry.fail(p.layer, func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(p.module[:12]) })
			return p.url
		}, "Truncated", []string{"push it again"}},
		"a layer without Wasm": {func(w *world, s *v1alpha1.PluginSource) string {
			return pushed(tarball(w.t), "application/vnd.oci.image.layer.v1.tar+gzip")(w, s)
		}, "NoWasmLayer", nil},
		"not Wasm":            {pushed([]byte("#!/bin/sh\necho this is no module\n")), "NotWasm", nil},
		"not a url":           {func(*world, *v1alpha1.PluginSource) string { return "oci://r.example/UPPER:1" }, "InvalidReference", []string{"write oci://HOST/REPOSITORY:TAG"}},
		"a forbidden address": {func(*world, *v1alpha1.PluginSource) string { return "oci://169.254.169.254/a:1" }, "ForbiddenAddress", []string{"does not connect there"}},
	}
}

// TestBadInput shows for each bad plugin that the status and an event say what
// is wrong and what to do, without the password, while the other plugin of the
// source is served.
func TestBadInput(t *testing.T) {
	t.Parallel()
	for title, c := range badInputs() {
		t.Run(title, func(t *testing.T) {
			w := newWorld(t, 0)
			fine := w.push("fine", "1", module("fine"))
			good := w.source("good", fine.as("good", "1"))
			source := w.source("bad", fine.as("fine", "1"), v1alpha1.Plugin{Name: "bad", Version: "1"})
			source.Spec.Plugins[1].URL = c.make(w, source)
			server := w.server(name)
			w.create(good)
			w.create(source)
			w.create(server)
			w.start()
			w.replicas.rollOut(server)
			w.settled(good, server)
			condition := w.awaitCondition(source, "Ready", no, "PluginsFailed", append(c.says, c.reason)...)
			w.event(source, c.reason, c.says...)
			w.awaitCondition(server, "Degraded", yes, "Incomplete", "cannot be fetched")
			w.eventually("the plugin's own status says it", func(ctx context.Context) error {
				if err := w.admin.Get(ctx, client.ObjectKeyFromObject(source), source); err != nil {
					return err
				}
				for _, p := range source.Status.Plugins {
					if p.Name == "bad" && p.State == v1alpha1.PluginFailed && p.Reason == c.reason && containsAll(p.Message, c.says) {
						return nil
					}
				}
				return fmt.Errorf("%+v", source.Status.Plugins)
			})
			if strings.Contains(condition.Message, password) || strings.Contains(condition.Message, "not-the-password") {
				t.Errorf("the message tells the password: %s", condition.Message)
			}
			w.awaitEntry(name, "good", "1", "served", func(e catalog.Entry) bool { return !e.Pending() })
			w.awaitEntry(name, "bad", "1", "pending", catalog.Entry.Pending)
			if !w.replicas.has(fine.sha256) {
				t.Error("the good plugin is not in the pods")
			}
		})
	}
}

// TestBadSecret has Secrets that are missing or wrong, and shows that the source
// recovers when they are put right.
func TestBadSecret(t *testing.T) {
	t.Parallel()
	meta := func(w *world) metav1.ObjectMeta { return metav1.ObjectMeta{Namespace: w.namespace, Name: "late"} }
	for title, c := range map[string]struct {
		cert   bool // the Secret of certSecretRef, not of secretRef
		wrong  func(w *world) *corev1.Secret
		reason string
		says   []string
	}{
		"no login": {reason: "SecretNotFound", says: []string{"named in secretRef, does not exist: create it"}},
		"no CA":    {cert: true, reason: "SecretNotFound", says: []string{"named in certSecretRef, does not exist: create it"}},
		"another type": {wrong: func(w *world) *corev1.Secret {
			return &corev1.Secret{ObjectMeta: meta(w), Type: corev1.SecretTypeOpaque}
		}, reason: "InvalidSecret", says: []string{"has type Opaque", "kubectl create secret docker-registry"}},
		"another key": {cert: true, wrong: func(w *world) *corev1.Secret {
			return &corev1.Secret{ObjectMeta: meta(w), Data: map[string][]byte{"ca.pem": w.registry.ca()}}
		}, reason: "InvalidSecret", says: []string{"has no key ca.crt"}},
	} {
		t.Run(title, func(t *testing.T) {
			w := newWorld(t, 0)
			p := w.push("p", "1", module("p"))
			source, server := w.source("own", p.as("p", "1")), w.server(name)
			right := w.login(w.namespace, "late", password)
			if c.cert {
				source.Spec.CertSecretRef.Name = "late"
				right = &corev1.Secret{ObjectMeta: meta(w), Data: map[string][]byte{"ca.crt": w.registry.ca()}}
			} else {
				source.Spec.SecretRef.Name = "late"
			}
			if c.wrong != nil {
				w.create(c.wrong(w))
			}
			w.create(source)
			w.create(server)
			w.start()
			w.awaitCondition(source, "Ready", no, "PluginsFailed", append(c.says, c.reason, w.namespace+"/late")...)
			w.event(source, c.reason, c.says...)
			if c.wrong != nil {
				w.delete(c.wrong(w))
			}
			w.create(right)
			w.replicas.rollOut(server)
			w.settled(source, server)
		})
	}
}

// TestSameFromTwoSources shows that the older source decides, also while it has
// nothing to give.
func TestSameFromTwoSources(t *testing.T) {
	w := newWorld(t, 0)
	first, second := w.push("first", "1", module("first")), w.push("second", "1", module("second"))
	older := w.source("a-older", v1alpha1.Plugin{Name: "p", Version: "1", URL: strings.TrimSuffix(first.url, ":1") + ":not-yet"})
	younger := w.source("b-younger", second.as("p", "1"))
	server := w.server(name)
	w.create(older)
	w.create(younger)
	w.create(server)
	w.start()
	w.replicas.rollOut(server)
	w.awaitCondition(older, "Fetched", no, "PluginsFailed", "404")
	w.awaitCondition(younger, "Fetched", yes, "Succeeded")
	w.awaitCondition(younger, "Ready", no, "DeclaredElsewhere", "p:1 is also declared by PluginSource a-older, which wins", "or set priority")
	w.event(server, "Succeeded")
	w.awaitCondition(server, "Degraded", yes, "Incomplete", "p:1 is declared by PluginSource a-older, which wins, and by b-younger")
	w.awaitEntry(name, "p", "1", "pending", catalog.Entry.Pending)

	edit(w, older, func(s *v1alpha1.PluginSource) { s.Spec.Plugins[0].URL = first.url })
	w.awaitEntry(name, "p", "1", "the older one's", func(e catalog.Entry) bool { return e.SHA256 == first.sha256 })
	w.settled(older, server)
	edit(w, younger, func(s *v1alpha1.PluginSource) { s.Spec.Priority = 1 })
	w.awaitEntry(name, "p", "1", "the one's with priority", func(e catalog.Entry) bool { return e.SHA256 == second.sha256 })
	w.settled(younger, server)
	w.awaitCondition(older, "Ready", no, "DeclaredElsewhere")
}

// TestInvalidSelector shows that a selector that cannot be read takes nothing away.
func TestInvalidSelector(t *testing.T) {
	w := newWorld(t, 0)
	w.start()
	server := w.serving(name, nil)
	edit(w, server, func(s *v1alpha1.PluginServer) {
		s.Spec.SourceSelector = &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "Resembles"}}}
	})
	w.awaitCondition(server, "Ready", no, "InvalidSelector", "Resembles")
	w.awaitCondition(server, "Stalled", yes, "InvalidSelector")
	w.awaitEntry(name, "p", "1", "as it was", func(e catalog.Entry) bool { return !e.Pending() && e.RetainedUntil == "" })
	edit(w, server, func(s *v1alpha1.PluginServer) {
		s.Spec.SourceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"no": "such"}}
	})
	w.awaitEntry(name, "p", "1", "retained", func(e catalog.Entry) bool { return e.RetainedUntil != "" })
}
