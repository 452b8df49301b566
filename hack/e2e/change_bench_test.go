//go:build node

package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"oras.land/oras-go/v2"
	"oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/registry/remote"
	"oras.land/oras-go/v2/registry/remote/auth"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/publish/publishtest"
)

// BenchmarkChangedDigest measures the time from an edit of a PluginSource that
// names another digest until every replica serves the new module, beside a plain
// pull of the same artifact by oras. Goal: the 95th percentile of 50 changes is at
// most a second beyond the pull's median.
func BenchmarkChangedDigest(b *testing.B) {
	const changes, size = 50, 8_000_000
	versions := make([]plugin, changes+1)
	for i := range versions {
		versions[i] = pushSized(b, fmt.Sprintf("changing-%d", i), size, uint64(i))
	}
	first := versions[0]
	first.name = "changing"
	src, srv := source("changing", first), quiet("changing", v1alpha1.Storage{})
	create(b, src)
	create(b, srv)
	expect(b, time.Minute, srv, v1alpha1.ConditionReplicasConsistent, metav1.ConditionTrue)
	expect(b, time.Minute, srv, v1alpha1.ConditionReady, metav1.ConditionTrue)
	for b.Loop() {
		var took, pulls []time.Duration
		for _, next := range versions[1:] {
			began := time.Now()
			pull(b, next)
			pulls = append(pulls, time.Since(began))
			began = time.Now()
			edit(b, src, func(s *v1alpha1.PluginSource) { s.Spec.Plugins[0].URL = next.url })
			edited := time.Now()
			awaitDigest(b, srv.Name, first, next.sha256)
			took = append(took, time.Since(edited))
			b.Logf("edit %s, served after %s, pull %s", edited.Sub(began), took[len(took)-1], pulls[len(pulls)-1])
			time.Sleep(3 * time.Second) // more often than people edit
		}
		slices.Sort(took)
		slices.Sort(pulls)
		pulled := pulls[len(pulls)/2]
		b.ReportMetric(pulled.Seconds(), "pull-s")
		b.ReportMetric(took[len(took)/2].Seconds(), "p50-s")
		b.ReportMetric(took[len(took)*95/100].Seconds(), "p95-s")
		b.ReportMetric((took[len(took)*95/100] - pulled).Seconds(), "p95-beyond-pull-s")
	}
}

// pushSized pushes a module of some size, which a gzip makes smaller.
func pushSized(t testing.TB, name string, size int, seed uint64) plugin {
	t.Helper()
	module := publishtest.New(name, "1.0.0", size, seed)
	p := plugin{name: name, version: "1.0.0", file: filepath.Join(t.TempDir(), name+".wasm"), sha256: module.Entry.SHA256, size: int64(size)}
	if err := os.WriteFile(p.file, module.Bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	p = pushAs(t, p, "tar", registry()+"/plugins/"+name+":1.0.0")
	p.url = "oci://" + registry() + "/plugins/" + name + "@" + p.digest
	return p
}

// pull is what a person's oras does.
func pull(t testing.TB, p plugin) {
	t.Helper()
	ca, err := os.ReadFile(os.Getenv("REGISTRY_CA"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	repository, err := remote.NewRepository(registry() + "/plugins/" + p.name)
	if err != nil {
		t.Fatal(err)
	}
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}}
	defer transport.CloseIdleConnections()
	repository.Client = &auth.Client{
		Client:     &http.Client{Transport: transport},
		Credential: auth.StaticCredential(registry(), auth.Credential{Username: os.Getenv("REGISTRY_USER"), Password: os.Getenv("REGISTRY_PASSWORD")}),
	}
	target, err := file.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	_, err = oras.Copy(context.Background(), repository, p.digest, target, "", oras.DefaultCopyOptions)
	if err := errors.Join(err, target.Close()); err != nil {
		t.Fatal(err)
	}
}

// awaitDigest waits until every replica serves a module under a plugin's name.
// It asks from the first node, and so often that the asking is not what is measured.
func awaitDigest(t testing.TB, server string, p plugin, sha256 string) {
	t.Helper()
	c := &http.Client{Timeout: time.Second}
	defer c.CloseIdleConnections()
	for _, pod := range pods(t, server) {
		url := fmt.Sprintf("http://%s:8080/plugins/%s/%s/plugin.wasm", pod.Status.PodIP, p.name, p.version)
		eventually(t, time.Minute, "the changed module on "+pod.Name, func() error {
			request, err := http.NewRequest(http.MethodHead, url, nil) //nolint:noctx // the client has a time-out
			if err != nil {
				return err
			}
			request.Header.Set("Accept-Encoding", "identity")
			response, err := c.Do(request)
			if err != nil {
				return err
			}
			defer response.Body.Close()
			if etag := response.Header.Get("ETag"); etag != `"sha256-`+sha256+`"` {
				return fmt.Errorf("it has the ETag %s", etag)
			}
			return nil
		})
	}
}
