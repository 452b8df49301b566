//go:build envtest

package controllers_test

import (
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/registry"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
	"oras.land/oras-go/v2"
	orasfile "oras.land/oras-go/v2/content/file"
	"oras.land/oras-go/v2/registry/remote"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers"
	"github.com/higress-group/plugin-server-operator/internal/inspect/inspecttest"
)

const (
	thousand   = 1000
	moduleSize = 256 << 10
	// atOnce is how many pulls the parallel loop has under way: as many as the operator.
	atOnce = 8
)

// BenchmarkThousandVersions has the real operator fetch a thousand plugin
// versions, from apply to the status that says so, and beside it loops of plain
// oras pulls of the same artifacts from the same registry.
func BenchmarkThousandVersions(b *testing.B) {
	host := thousandArtifacts(b)
	admin, err := client.New(apiServer, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		b.Fatal(err)
	}
	program := filepath.Join(b.TempDir(), "operator")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", program, "../cmd/operator").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	var operator, serial, parallel time.Duration
	var peak int64
	for range b.N {
		parallel += pulls(b, host, atOnce)
		took, memory := operatorFetches(b, admin, program, host)
		operator, peak = operator+took, max(peak, memory)
		serial += pulls(b, host, 1)
	}
	each := func(d time.Duration) float64 { return d.Seconds() / float64(b.N) }
	b.ReportMetric(each(operator), "s/operator")
	b.ReportMetric(each(parallel), "s/oras-parallel")
	b.ReportMetric(each(serial), "s/oras-serial")
	b.ReportMetric(float64(operator)/float64(parallel), "operator/parallel")
	b.ReportMetric(float64(peak)/(1<<20), "MiB-peak")
	b.ReportMetric(0, "ns/op")
}

func version(i int) string { return "1.0." + strconv.Itoa(i) }

// thousandArtifacts fills a registry and gives its host.
func thousandArtifacts(b *testing.B) string {
	b.Helper()
	server := httptest.NewServer(registry.New(registry.Logger(log.New(io.Discard, "", 0))))
	b.Cleanup(server.Close)
	host := strings.TrimPrefix(server.URL, "http://")
	repo := plainRepository(b, host)
	random := rand.New(rand.NewPCG(1, 2))
	for i := range thousand {
		module := make([]byte, moduleSize)
		for at := 0; at < len(module); at += 64 { // what shrinks like a module
			copy(module[at:], strconv.FormatUint(random.Uint64(), 36))
		}
		inspecttest.Frame(module)
		layer, err := oras.PushBytes(b.Context(), repo, wasmLayer, module)
		if err != nil {
			b.Fatal(err)
		}
		layer.Annotations = map[string]string{ocispec.AnnotationTitle: "plugin.wasm"}
		manifest, err := oras.PackManifest(b.Context(), repo, oras.PackManifestVersion1_1, "application/vnd.test", oras.PackManifestOptions{Layers: []ocispec.Descriptor{layer}})
		if err == nil {
			err = repo.Tag(b.Context(), manifest, version(i))
		}
		if err != nil {
			b.Fatal(err)
		}
	}
	return host
}

func plainRepository(b *testing.B, host string) *remote.Repository {
	b.Helper()
	repo, err := remote.NewRepository(host + "/plugins/p")
	if err != nil {
		b.Fatal(err)
	}
	repo.PlainHTTP = true
	return repo
}

// pulls pulls every artifact into a folder, so many at a time.
func pulls(b *testing.B, host string, workers int) time.Duration {
	b.Helper()
	dir := b.TempDir()
	repo := plainRepository(b, host)
	begin := time.Now()
	var group errgroup.Group
	group.SetLimit(workers)
	for i := range thousand {
		group.Go(func() error {
			to, err := orasfile.New(filepath.Join(dir, version(i)))
			if err != nil {
				return err
			}
			defer to.Close()
			_, err = oras.Copy(b.Context(), repo, version(i), to, version(i), oras.DefaultCopyOptions)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	return time.Since(begin)
}

// operatorFetches applies a source to a namespace of its own and waits until
// the operator says that everything is fetched. It gives the operator's peak of resident memory too.
func operatorFetches(b *testing.B, admin client.Client, program, host string) (took time.Duration, peak int64) {
	b.Helper()
	ctx, cancel := context.WithTimeout(b.Context(), 5*time.Minute)
	defer cancel()
	made := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "bench-"}}
	if err := admin.Create(ctx, made); err != nil {
		b.Fatal(err)
	}
	namespace := made.Name
	cmd := exec.CommandContext(ctx, program, "--namespace="+namespace, "--higress-namespace="+namespace, "--store-dir="+b.TempDir(),
		"--artifact-listen=127.0.0.1:0", "--artifact-url=http://127.0.0.1:1", "--health-listen=127.0.0.1:0", "--metrics-listen=0",
		"--server-image=x", "--allow-loopback", "--log-level=ERROR")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+kubeconfig(b), "GOMEMLIMIT=64MiB")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	source := &v1alpha1.PluginSource{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "thousand"}}
	source.Spec.Registry, source.Spec.Insecure = host+"/plugins", true
	for i := range thousand {
		source.Spec.Plugins = append(source.Spec.Plugins, v1alpha1.Plugin{Name: "p", Version: version(i)})
	}
	time.Sleep(2 * time.Second) // the operator's caches are filled
	begin := time.Now()
	if err := admin.Create(ctx, source); err != nil {
		b.Fatal(err)
	}
	for source.Status.Fetched < thousand {
		select {
		case <-ctx.Done():
			b.Fatalf("%d fetched, %d failed", source.Status.Fetched, source.Status.Failed)
		case <-time.After(500 * time.Millisecond):
		}
		if err := admin.Get(ctx, client.ObjectKeyFromObject(source), source); err != nil {
			b.Fatal(err)
		}
	}
	took = time.Since(begin)
	return took, highWater(b, cmd.Process.Pid)
}

// highWater is the most resident memory that a process had, in bytes.
func highWater(b *testing.B, pid int) int64 {
	b.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	found := regexp.MustCompile(`VmHWM:\s+(\d+) kB`).FindSubmatch(status)
	if err != nil || found == nil {
		b.Fatalf("the operator's memory is not known: %v", err)
	}
	kilobytes, err := strconv.ParseInt(string(found[1]), 10, 64)
	if err != nil {
		b.Fatal(err)
	}
	return kilobytes << 10
}

// kubeconfig writes down how the API server is reached.
func kubeconfig(b *testing.B) string {
	b.Helper()
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: apiServer.Host, CertificateAuthorityData: apiServer.CAData}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{ClientCertificateData: apiServer.CertData, ClientKeyData: apiServer.KeyData}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	path := filepath.Join(b.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, path); err != nil {
		b.Fatal(err)
	}
	return path
}
