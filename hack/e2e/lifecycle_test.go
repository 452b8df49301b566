//go:build node

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// Downloads of TestLifeCycle, at least. The long run asks for more.
var (
	smallRequests = flag.Int("small-requests", 100_000, "downloads of 300 bytes")
	largeRequests = flag.Int("large-requests", 2_000, "downloads of a plugin's size")
)

// tiny is a module of some 300 bytes.
func tiny(t *testing.T) plugin {
	t.Helper()
	section := append([]byte{4, 't', 'e', 's', 't'}, bytes.Repeat([]byte{7}, 300-5)...)
	content := append([]byte{0, 'a', 's', 'm', 1, 0, 0, 0, 0, 0x80 | 300&0x7f, 300 >> 7}, section...)
	sum := sha256.Sum256(content)
	p := plugin{name: "tiny", version: "1.0.0", file: filepath.Join(t.TempDir(), "tiny.wasm"), sha256: hex.EncodeToString(sum[:]), size: int64(len(content))}
	if err := os.WriteFile(p.file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return pushAs(t, p, "raw", registry()+"/plugins/tiny:1.0.0")
}

// TestLifeCycle does with a server what is done in a year, under the downloads
// of twenty gateways that try again where a connection is refused, and nowhere
// else: none may fail.
func TestLifeCycle(t *testing.T) {
	small, large := tiny(t), push(t, "my-auth", "1.0.0", "raw")
	src, srv := source("lifecycle", small, large), quiet("lifecycle", v1alpha1.Storage{})
	create(t, src)
	create(t, srv)
	settled := func() {
		t.Helper()
		expect(t, 2*time.Minute, srv, v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
		expect(t, time.Minute, srv, v1alpha1.ConditionReplicasConsistent, metav1.ConditionTrue)
	}
	settled()
	onTwoNodes(t, srv.Name)
	stopSmall := load(t, url(srv.Name, small), small.sha256, 16, "-retry", "-pause=0s", fmt.Sprintf("-at-least=%d", *smallRequests))
	stopLarge := load(t, url(srv.Name, large), large.sha256, 4, "-retry", fmt.Sprintf("-at-least=%d", *largeRequests))
	began := time.Now()
	step := func(what string, do func()) {
		t.Helper()
		do()
		settled()
		t.Logf("%s, %s after the start", what, time.Since(began).Round(time.Second))
	}
	step("a rollout", func() {
		edit(t, srv, func(s *v1alpha1.PluginServer) { s.Spec.PodAnnotations = map[string]string{"test/rollout": "1"} })
	})
	step("scaled to 3", func() { scale(t, srv, 3) })
	step("scaled to 2", func() { scale(t, srv, 2) })
	for name := range pods(t, srv.Name) {
		step("evicted "+name, func() {
			evict(t, srv.Name, name)
			awaitReplicas(t, srv.Name, small, 2)
		})
	}
	step("a pod was deleted by force", func() {
		for name := range pods(t, srv.Name) {
			mustRun(t, "kubectl", "-n", namespace, "delete", "pod", name, "--force", "--grace-period=0")
			break
		}
		awaitReplicas(t, srv.Name, small, 2)
	})
	step("a node was drained", func() {
		mustRun(t, "kubectl", "drain", secondNode, "--ignore-daemonsets", "--delete-emptydir-data", "--force", "--timeout=3m")
	})
	step("the node came back", func() {
		mustRun(t, "kubectl", "uncordon", secondNode)
		mustRun(t, "kubectl", "-n", namespace, "rollout", "restart", "deployment", srv.Name)
		mustRun(t, "kubectl", "-n", namespace, "rollout", "status", "deployment", srv.Name, "--timeout=2m")
	})
	onTwoNodes(t, srv.Name)
	step("the operator was replaced", func() {
		mustRun(t, "kubectl", "-n", namespace, "rollout", "restart", "deployment", release)
		mustRun(t, "kubectl", "-n", namespace, "rollout", "status", "deployment", release, "--timeout=1m")
	})
	step("the operator and its servers were upgraded", func() { upgrade(t, srv.Name) })
	step("and the upgrade was taken back", func() {
		mustRun(t, "helm", "rollback", release, "--namespace", namespace, "--wait", "--timeout", "2m")
		awaitImage(t, srv.Name, env.image)
	})
	step("20 changes of the catalog", func() { changeCatalog(t, src, small, 20) })
	for what, s := range map[string]summary{"small": stopSmall(), "large": stopLarge()} {
		t.Logf("%d %s downloads, %d refused and tried again, the slowest took %.2f s", s.Requests, what, s.Retried, s.Slowest)
		if len(s.Failures) > 0 {
			t.Errorf("of the %s downloads failed: %v, between %.1f and %.1f s after the start", what, s.Failures, s.FailedAt[0], s.FailedAt[1])
		}
	}
}

// upgrade gives the operator another image: it is the servers' too.
func upgrade(t *testing.T, server string) {
	t.Helper()
	next, err := imageRef("next")
	if err != nil {
		t.Fatal(err)
	}
	repository, tag, _ := cutLast(next, ":")
	mustRun(t, "helm", "upgrade", release, "charts/plugin-server-operator", "--namespace", namespace, "--reuse-values",
		"--set", "image.repository="+repository, "--set", "image.tag="+tag, "--wait", "--timeout", "2m")
	awaitImage(t, server, next)
}

// awaitImage waits until all pods of a server run an image, and are ready.
func awaitImage(t *testing.T, server, image string) {
	t.Helper()
	eventually(t, 3*time.Minute, "all pods of "+server+" run "+image, func() error {
		running := pods(t, server)
		for name, pod := range running {
			if pod.Spec.Containers[0].Image != image {
				return fmt.Errorf("%s runs %s", name, pod.Spec.Containers[0].Image)
			}
		}
		if len(running) != 2 {
			return fmt.Errorf("%d pods are ready", len(running))
		}
		return nil
	})
}

// onTwoNodes fails unless the two pods of a server are spread.
func onTwoNodes(t *testing.T, server string) {
	t.Helper()
	nodes := map[string]bool{}
	for _, pod := range pods(t, server) {
		nodes[pod.Spec.NodeName] = true
	}
	if len(nodes) != 2 {
		t.Errorf("the pods of %s are on %v, want two nodes", server, nodes)
	}
}

func mustRun(t *testing.T, args ...string) string {
	t.Helper()
	out, err := run(t.Context(), args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func scale(t *testing.T, srv *v1alpha1.PluginServer, replicas int) {
	t.Helper()
	mustRun(t, "kubectl", "-n", namespace, "scale", "pluginserver", srv.Name, fmt.Sprintf("--replicas=%d", replicas))
	eventually(t, time.Minute, "the operator sees the new number", func() error {
		if err := env.client.Get(t.Context(), client.ObjectKeyFromObject(srv), srv); err != nil {
			return err
		}
		if srv.Status.ObservedGeneration < srv.Generation || int(srv.Status.Replicas) != replicas {
			return fmt.Errorf("%d replicas", srv.Status.Replicas)
		}
		return nil
	})
}

// evict takes a pod of a server away as a drain does, again while the budget forbids it.
func evict(t *testing.T, server, name string) {
	t.Helper()
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	eviction := &policyv1.Eviction{ObjectMeta: pod.ObjectMeta}
	eventually(t, 2*time.Minute, "evict "+name, func() error {
		return client.IgnoreNotFound(env.client.SubResource("eviction").Create(t.Context(), pod, eviction))
	})
	eventually(t, 2*time.Minute, name+" ends", func() error {
		if _, there := pods(t, server)[name]; there {
			return errNothing
		}
		return nil
	})
}

// changeCatalog adds further versions of a plugin, one after the other, and waits
// for each to be served by every replica.
func changeCatalog(t *testing.T, src *v1alpha1.PluginSource, p plugin, n int) {
	t.Helper()
	for i := range n {
		next := p
		next.version = fmt.Sprintf("2.0.%d", i)
		edit(t, src, func(s *v1alpha1.PluginSource) {
			s.Spec.Plugins = append(s.Spec.Plugins, v1alpha1.Plugin{Name: next.name, Version: next.version, URL: next.url})
		})
		eventually(t, 30*time.Second, next.version+" is served", func() error { return onEveryReplica(t, "lifecycle", next) })
	}
}
