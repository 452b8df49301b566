//go:build node

package e2e

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// power stops units of the cluster as a loss of power does, or starts them. Tests
// that fail in between leave a cluster that runs.
func power(t *testing.T, verb string, units ...string) {
	t.Helper()
	command := []string{"bin/cluster", verb, "--name", os.Getenv("CLUSTER_NAME")}
	mustRun(t, append(command, units...)...)
	if verb == "stop" {
		t.Cleanup(func() {
			command[1] = "start"
			if _, err := run(context.Background(), command...); err != nil {
				t.Error(err)
			}
		})
	}
}

// awaitClient waits until the client's pod is there again.
func awaitClient(t *testing.T) {
	t.Helper()
	eventually(t, 2*time.Minute, "the client's pod is back", func() error {
		_, err := run(t.Context(), "kubectl", "exec", clientPod, "--", "/client", "get", "http://127.0.0.1:1")
		return err
	})
}

// outside downloads from the first node itself until stop is called: not by way
// of the API server, as a pod's client is told to.
func outside(t *testing.T, url, sha256 string, flags ...string) (stop func() summary) {
	t.Helper()
	program, err := filepath.Abs(filepath.Join(root, "bin", "linux_"+runtime.GOARCH, "client"))
	if err != nil {
		t.Fatal(err)
	}
	return startLoad(t, exec.Command(program, append(append([]string{"load", "-sha256=" + sha256}, flags...), url)...))
}

// byAddress is a plugin's URL with the Service's address instead of its name.
func byAddress(t *testing.T, server string, p plugin) string {
	t.Helper()
	var service corev1.Service
	if err := env.client.Get(t.Context(), client.ObjectKey{Namespace: namespace, Name: server}, &service); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("http://%s/plugins/%s/%s/plugin.wasm", service.Spec.ClusterIP, p.name, p.version)
}

// TestKilledServer kills the serving process of a pod with SIGKILL under twenty
// downloads at once. What was being sent by it is cut, which nothing can prevent; a
// client sees that it was, and nobody else notices.
func TestKilledServer(t *testing.T) {
	const clients, kills = 20, 2
	p := push(t, "my-auth", "1.0.0", "raw")
	src, srv := source("killed-server", p), quiet("killed-server", v1alpha1.Storage{})
	create(t, src)
	create(t, srv)
	awaitReplicas(t, srv.Name, p, 2)
	stop := load(t, url(srv.Name, p), p.sha256, clients, "-retry", "-at-least=1000")
	for range kills {
		time.Sleep(3 * time.Second)
		for name, pod := range pods(t, srv.Name) {
			killServer(t, name)
			awaitRestart(t, srv.Name, pod)
			break
		}
		awaitReplicas(t, srv.Name, p, 2)
	}
	s := stop()
	cut := onlyCut(t, s)
	t.Logf("%d downloads, %d refused and tried again, %d cut by %d kills", s.Requests, s.Retried, cut, kills)
	if cut > clients*kills || s.Requests < 1000 {
		t.Errorf("%d of %d downloads were cut, at most %d were under way", cut, s.Requests, clients*kills)
	}
}

// awaitRestart waits until a pod of before is ready with another container.
func awaitRestart(t *testing.T, server string, before corev1.Pod) {
	t.Helper()
	eventually(t, time.Minute, before.Name+" has started again", func() error {
		now, ready := pods(t, server)[before.Name]
		if !ready || now.Status.ContainerStatuses[0].RestartCount == before.Status.ContainerStatuses[0].RestartCount {
			return errNothing
		}
		return nil
	})
}

// cutText is what a client says of a connection whose server was killed.
var cutText = regexp.MustCompile("EOF|reset by peer|broken pipe|server closed idle connection")

// onlyCut is how many downloads were cut: nothing else may have happened to any.
func onlyCut(t *testing.T, s summary) (cut int) {
	t.Helper()
	for what, n := range s.Failures {
		cut += n
		if !cutText.MatchString(what) {
			t.Errorf("%d downloads failed otherwise than by a cut: %s", n, what)
		}
	}
	return cut
}

// killServer kills the serving process of a pod with SIGKILL.
func killServer(t *testing.T, pod string) {
	t.Helper()
	serving := processes(t, func(cmdline, environ string) bool {
		return strings.HasPrefix(cmdline, "/plugin-server\x00serve\x00") && strings.Contains(environ, "POD_NAME="+pod+"\x00")
	})
	if len(serving) != 1 {
		t.Fatalf("pod %s has %d serving processes, want 1", pod, len(serving))
	}
	if err := syscall.Kill(serving[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
}

// TestLostNode takes a node away as a loss of power does, and gives it back.
// Until Kubernetes knows, some connections to its pods end in nothing; from then
// on no download fails.
func TestLostNode(t *testing.T) {
	p := push(t, "my-auth", "1.0.0", "raw")
	src, srv := source("lost-node", p), quiet("lost-node", v1alpha1.Storage{})
	create(t, src)
	create(t, srv)
	awaitReplicas(t, srv.Name, p, 2)
	onTwoNodes(t, srv.Name)
	before := pods(t, srv.Name)
	meanwhile := outside(t, byAddress(t, srv.Name, p), p.sha256, "-workers=4", "-pause=50ms", "-retry")
	began := time.Now()
	power(t, "stop", secondNode)
	eventually(t, 3*time.Minute, "the Service knows that a node is lost", func() error {
		if n := endpoints(t, srv.Name); n != 1 {
			return fmt.Errorf("it has %d endpoints", n)
		}
		return nil
	})
	t.Logf("the Service knew of the loss after %s", time.Since(began).Round(time.Second))
	time.Sleep(5 * time.Second) // until kube-proxy knows too
	// Another client than the one before: for two minutes the kernel remembers where
	// each of that one's ports was sent to in vain.
	after := load(t, url(srv.Name, p), p.sha256, 4, "-retry", "-at-least=500")
	s := after()
	t.Logf("%d downloads from the other node, the slowest took %.2f s", s.Requests, s.Slowest)
	if len(s.Failures) > 0 {
		t.Errorf("after the loss was known failed: %v", s.Failures)
	}

	power(t, "start", secondNode)
	awaitReplicas(t, srv.Name, p, 2)
	notReplaced(t, srv.Name, before)
	s = meanwhile()
	t.Logf("%d downloads in all, failures: %v, between %.1f and %.1f s after the start", s.Requests, s.Failures, s.FailedAt[0], s.FailedAt[1])
	for what := range s.Failures {
		if strings.HasPrefix(what, "status") || strings.HasPrefix(what, "other bytes") {
			t.Errorf("a download failed otherwise than for want of a connection: %s", what)
		}
	}
}

// notReplaced fails unless the pods are the ones of before, restarted or not.
func notReplaced(t *testing.T, server string, before map[string]corev1.Pod) {
	t.Helper()
	after := pods(t, server)
	for name, pod := range before {
		if after[name].UID != pod.UID {
			t.Errorf("pod %s was replaced", name)
		}
	}
}

// endpoints is how many pods a Service sends requests to.
func endpoints(t *testing.T, service string) (n int) {
	t.Helper()
	var slices discoveryv1.EndpointSliceList
	if err := env.client.List(t.Context(), &slices, client.InNamespace(namespace), client.MatchingLabels{discoveryv1.LabelServiceName: service}); err != nil {
		t.Fatal(err)
	}
	for _, s := range slices.Items {
		for _, e := range s.Endpoints {
			if ptr.Deref(e.Conditions.Ready, true) {
				n++
			}
		}
	}
	return n
}

// TestPowerCut takes the power from the whole cluster and gives it back to
// everything but the registry: for each type of storage everything is served again,
// and a further pod is filled too.
func TestPowerCut(t *testing.T) {
	makeVolume(t, "cut-0", corev1.ReadWriteOnce)
	makeVolume(t, "cut-1", corev1.ReadWriteOnce)
	makeVolume(t, "cut-shared", corev1.ReadWriteMany)
	served := []plugin{push(t, "my-auth", "1.0.0", "raw"), push(t, "my-log", "0.2.0", "tar"), push(t, "mcp-server", "1.0.0", "docker")}
	src := source("cut", served...)
	create(t, src)
	var servers []*v1alpha1.PluginServer
	for _, storage := range []v1alpha1.Storage{{Type: v1alpha1.StorageEmptyDir}, claimed(v1alpha1.StoragePerReplica), claimed(v1alpha1.StorageShared)} {
		srv := quiet("cut-"+strings.ToLower(string(storage.Type)), storage)
		create(t, srv)
		servers = append(servers, srv)
	}
	for _, srv := range servers {
		awaitReplicas(t, srv.Name, served[0], 2)
		expect(t, time.Minute, srv, v1alpha1.ConditionReplicasConsistent, metav1.ConditionTrue)
	}
	expect(t, time.Minute, src, v1alpha1.ConditionReady, metav1.ConditionTrue)

	served0 := byAddress(t, servers[0].Name, served[0])
	power(t, "stop")
	if response, err := http.Get(served0); err == nil { //nolint:noctx // it must not be there
		_ = response.Body.Close()
		t.Errorf("after the cut somebody answers: %s", response.Status)
	}
	began := time.Now()
	power(t, "start", "control-plane", firstNode, secondNode)
	t.Logf("the control plane is back after %s, without a registry", time.Since(began).Round(time.Second))
	awaitClient(t)
	for _, srv := range servers {
		for _, p := range served {
			awaitReplicas(t, srv.Name, p, 2)
		}
		t.Logf("%s serves everything %s after the start", srv.Name, time.Since(began).Round(time.Second))
	}
	scale(t, servers[0], 3)
	awaitReplicas(t, servers[0].Name, served[0], 3)

	power(t, "start", "registry")
	next := push(t, "my-auth", "1.0.1", "raw")
	edit(t, src, func(s *v1alpha1.PluginSource) {
		s.Spec.Plugins = append(s.Spec.Plugins, v1alpha1.Plugin{Name: next.name, Version: next.version, URL: next.url})
	})
	for _, srv := range servers {
		eventually(t, time.Minute, "what came after the cut is served by "+srv.Name, func() error { return onEveryReplica(t, srv.Name, next) })
	}
	expect(t, time.Minute, src, v1alpha1.ConditionReady, metav1.ConditionTrue)
}

// TestOnOwn stops the control plane, the operator and the registry: serving goes
// on, also by a serving container that starts anew, and a pod that starts once the
// API server is back is filled by its sibling.
func TestOnOwn(t *testing.T) {
	p := push(t, "my-auth", "1.0.0", "raw")
	src, srv := source("own", p), quiet("own", v1alpha1.Storage{})
	create(t, src)
	create(t, srv)
	awaitReplicas(t, srv.Name, p, 2)
	stop := outside(t, byAddress(t, srv.Name, p), p.sha256, "-workers=4", "-pause=20ms", "-retry")
	running := pods(t, srv.Name)
	withoutOperator(t, func() {
		power(t, "stop", "control-plane", "registry")
		time.Sleep(10 * time.Second)
		slowest := restartEach(t, running, p)
		t.Logf("without control plane, operator and registry a killed server answered again after %s at most", slowest.Round(10*time.Millisecond))
		if slowest > 5*time.Second {
			t.Errorf("a restarted server took %s, at most 5 s are promised", slowest)
		}
		s := stop()
		t.Logf("%d downloads meanwhile, failures: %v", s.Requests, s.Failures)
		onlyCut(t, s)
		// From here on kube-proxy may learn of changes later than the API server is back.
		power(t, "start", "control-plane")
		for name := range running {
			deletePod(t, name)
			break
		}
		awaitReplicas(t, srv.Name, p, 2)
		power(t, "start", "registry")
	})
}

// restartEach kills the server of each pod once and says how long the slowest
// took until it answered again.
func restartEach(t *testing.T, running map[string]corev1.Pod, p plugin) (slowest time.Duration) {
	t.Helper()
	c := &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for name, pod := range running {
		began := time.Now()
		killServer(t, name)
		eventually(t, 30*time.Second, name+" serves again", func() error {
			response, err := c.Get(fmt.Sprintf("http://%s:8080/plugins/%s/%s/plugin.wasm", pod.Status.PodIP, p.name, p.version)) //nolint:noctx // it has a time-out
			if err != nil {
				return err
			}
			defer response.Body.Close()
			if response.StatusCode != http.StatusOK {
				return fmt.Errorf("it answers %s", response.Status)
			}
			return nil
		})
		slowest = max(slowest, time.Since(began))
	}
	return slowest
}
