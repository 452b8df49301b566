//go:build envtest

package controllers_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
)

// TestSignature: what is not signed is refused, and taken where no signature is
// asked for any more.
func TestSignature(t *testing.T) {
	w := newWorld(t, 0)
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&private.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	p := w.push("p", "1", module("unsigned"))
	source := w.source("s", p.as("p", "1"))
	source.Spec.Signature = &v1alpha1.Signature{PublicKeys: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))}
	server := w.server(name)
	w.create(source)
	w.create(server)
	w.start()
	w.awaitCondition(source, "Fetched", no, "PluginsFailed", "SignatureMissing", "p:1")
	w.event(source, "SignatureMissing", "p:1")
	w.awaitEntry(name, "p", "1", "pending", catalog.Entry.Pending)
	edit(w, source, func(s *v1alpha1.PluginSource) { s.Spec.Signature = nil })
	w.awaitEntry(name, "p", "1", "served", is(p))
	// What is served already stays, and the source says that it is not signed.
	edit(w, source, func(s *v1alpha1.PluginSource) {
		s.Spec.Signature = &v1alpha1.Signature{PublicKeys: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))}
	})
	w.awaitCondition(source, "Fetched", no, "PluginsFailed", "SignatureMissing")
	w.awaitEntry(name, "p", "1", "still served", is(p))
}

// TestGatewayProfile: a module that wants more than the gateways offer is
// reported, or refused.
func TestGatewayProfile(t *testing.T) {
	w := newWorld(t, 0)
	wants := inspecttest.Module(
		inspecttest.Section(inspecttest.TypeSection, inspecttest.Vector([]byte{0x60, 0, 0})),
		inspecttest.Section(inspecttest.ImportSection, inspecttest.Vector(inspecttest.Function("env", "no_such_function"))),
		inspecttest.Section(inspecttest.ExportSection, inspecttest.Vector(inspecttest.Export("proxy_abi_version_0_2_1", 0, 0))),
	)
	p := w.push("p", "1", wants)
	source := w.source("s", p.as("p", "1"))
	source.Spec.Gateway = &v1alpha1.Gateway{Policy: v1alpha1.ImportBlock}
	server := w.server(name)
	w.create(source)
	w.create(server)
	w.start()
	w.awaitCondition(source, "Fetched", no, "PluginsFailed", "UnsupportedImports", "env.no_such_function", "gateway.allowedImports")
	w.awaitEntry(name, "p", "1", "pending", catalog.Entry.Pending)
	// As the message asks: it is built for these gateways and pushed again.
	better := w.push("p", "1", module("for these gateways"))
	w.lookAgain(source, "1")
	w.awaitCondition(source, "Fetched", no, "PluginsFailed", "names no version of the proxy-wasm ABI")
	w.eventuallyNot(source, "TagMoved")
	fits := w.push("p", "1", inspecttest.Module(inspecttest.Section(inspecttest.ExportSection, inspecttest.Vector(inspecttest.Export("proxy_abi_version_0_2_1", 0, 0)))))
	w.lookAgain(source, "2")
	w.awaitEntry(name, "p", "1", "served", is(fits))
	if better.sha256 == fits.sha256 {
		t.Fatal("they are the same")
	}
	p = w.push("p", "2", wants)
	edit(w, source, func(s *v1alpha1.PluginSource) {
		s.Spec.Gateway.Policy, s.Spec.Plugins[0].URL = v1alpha1.ImportWarn, p.url
	})
	w.awaitEntry(name, "p", "1", "served", is(p))
	w.awaitCondition(source, "Warned", yes, "WorthALook", "p:1: gateways of higress-2.2 lack what it imports: env.no_such_function")
	edit(w, source, func(s *v1alpha1.PluginSource) {
		s.Spec.Gateway = &v1alpha1.Gateway{Policy: v1alpha1.ImportBlock, AllowedImports: []string{"env.no_such_function"}}
	})
	w.awaitCondition(source, "Fetched", yes, "Succeeded")
}

// TestFortyFour: of 44 plugins one registry is down, one is a 404, one has
// other bytes than its digest says. The others are served, each failure is named,
// and everything recovers by itself.
func TestFortyFour(t *testing.T) {
	w := newWorld(t, 0)
	source := w.source("forty-four")
	var all []pushed
	for i := range 44 {
		p := w.push(fmt.Sprintf("p%d", i), "1", module(fmt.Sprintf("plugin %d", i)))
		all = append(all, p)
		source.Spec.Plugins = append(source.Spec.Plugins, p.as(fmt.Sprintf("p%d", i), "1"))
	}
	source.Spec.Interval = &metav1.Duration{Duration: 10 * time.Second}
	source.Spec.Plugins[7].URL = "oci://127.0.0.1:1/down:1"
	manifest := "/v2/" + w.namespace + "/p20/manifests/1"
	w.registry.fail(manifest, http.NotFound)
	w.registry.fail(all[33].layer, func(rw http.ResponseWriter, _ *http.Request) { _, _ = rw.Write(module("plugin ??")) })
	server := w.server(name)
	w.create(source)
	w.create(server)
	w.start()
	w.awaitCondition(source, "Fetched", no, "PluginsFailed", "41 of 44 plugins fetched, 3 failed: p7:1: Unreachable", "and 2 more, see status.plugins")
	w.eventually("each failure is named", func(ctx context.Context) error {
		if err := w.admin.Get(ctx, client.ObjectKeyFromObject(source), source); err != nil {
			return err
		}
		for i, want := range map[int]string{7: "Unreachable", 20: "NotFound", 33: "DigestMismatch", 0: ""} {
			if got := source.Status.Plugins[i]; got.Reason != want {
				return fmt.Errorf("%+v", got)
			}
		}
		return nil
	})
	for i, p := range all {
		if i != 7 && i != 20 && i != 33 {
			w.awaitEntry(name, fmt.Sprintf("p%d", i), "1", "served", is(p))
		}
	}
	w.registry.fail(manifest, nil)
	w.registry.fail(all[33].layer, nil)
	edit(w, source, func(s *v1alpha1.PluginSource) { s.Spec.Plugins[7].URL = all[7].url })
	w.awaitCondition(source, "Fetched", yes, "Succeeded", "44 of 44")
	for _, i := range []int{7, 20, 33} {
		w.awaitEntry(name, fmt.Sprintf("p%d", i), "1", "served", is(all[i]))
	}
}
