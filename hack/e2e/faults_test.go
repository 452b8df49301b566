//go:build node

package e2e

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
)

// TestSyncFaults does to the sync of all replicas at once what can happen to
// it: no download may fail.
func TestSyncFaults(t *testing.T) {
	p := push(t, "my-auth", "1.0.0", "raw")
	src, srv := source("faults", p), quiet("faults", v1alpha1.Storage{})
	create(t, src)
	create(t, srv)
	expect(t, time.Minute, srv, v1alpha1.ConditionReplicasConsistent, metav1.ConditionTrue)
	expect(t, time.Minute, srv, v1alpha1.ConditionReady, metav1.ConditionTrue)
	running := pods(t, srv.Name)
	if len(running) != 2 {
		t.Fatalf("%d pods, want 2", len(running))
	}
	stop := load(t, url(srv.Name, p), p.sha256, 4)

	everySync := func(what string, harm func(pid int) error) {
		t.Helper()
		old := map[int]bool{}
		for name := range running {
			old[syncOf(t, srv.Name, name, nil)] = true
		}
		for pid := range old {
			if err := harm(pid); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
		}
		for name := range running {
			syncOf(t, srv.Name, name, old)
		}
	}
	for range 20 {
		everySync("kill", func(pid int) error { return syscall.Kill(pid, syscall.SIGKILL) })
	}
	t.Log("killed each sync twenty times")

	hostileCatalogs(t, srv, everySync)

	s := stop()
	t.Logf("%d downloads meanwhile, the slowest took %.2f s", s.Requests, s.Slowest)
	if len(s.Failures) > 0 || s.Requests < 200 {
		t.Errorf("%d downloads, failures: %v, between %.1f and %.1f s after the start", s.Requests, s.Failures, s.FailedAt[0], s.FailedAt[1])
	}
	samePods(t, srv.Name, running)

	// And sync still does its work.
	next := push(t, "my-log", "0.2.0", "raw")
	edit(t, src, func(s *v1alpha1.PluginSource) {
		s.Spec.Plugins = append(s.Spec.Plugins, v1alpha1.Plugin{Name: next.name, Version: next.version, URL: next.url})
	})
	eventually(t, 30*time.Second, "a plugin after all that", func() error { return onEveryReplica(t, srv.Name, next) })
}

// hostileCatalogs stops the operator and gives each sync first a catalog that
// it cannot read, and then one that it has no memory for.
func hostileCatalogs(t *testing.T, srv *v1alpha1.PluginServer, everySync func(what string, harm func(pid int) error)) {
	t.Helper()
	scaleOperator(t, 0)
	defer scaleOperator(t, 1)
	var config corev1.ConfigMap
	key := client.ObjectKey{Namespace: namespace, Name: srv.Name + "-catalog"}
	if err := env.client.Get(t.Context(), key, &config); err != nil {
		t.Fatal(err)
	}
	huge, err := catalog.Decode(config.BinaryData["catalog.json.gz"])
	if err != nil {
		t.Fatal(err)
	}
	write := func(encoded []byte) {
		config.BinaryData["catalog.json.gz"] = encoded
		if err := env.client.Update(t.Context(), &config); err != nil {
			t.Fatal(err)
		}
		// A change of a pod's annotations makes the kubelet refresh its ConfigMaps now.
		for _, pod := range pods(t, srv.Name) {
			annotation := fmt.Sprintf(`{"metadata":{"annotations":{"test/refresh":"%s"}}}`, config.ResourceVersion)
			if err := env.client.Patch(t.Context(), &pod, client.RawPatch(client.Merge.Type(), []byte(annotation))); err != nil {
				t.Fatal(err)
			}
		}
	}

	write([]byte("rubbish"))
	for name, pod := range pods(t, srv.Name) {
		eventually(t, 2*time.Minute, "sync of "+name+" reads the unreadable catalog", func() error {
			state := get(t, "http://"+pod.Status.PodIP+":8081/state")
			if !strings.Contains(state.Text, "the catalog of the ConfigMap cannot be used") {
				return fmt.Errorf("its state is %s", state.Text)
			}
			return nil
		})
	}
	t.Log("each sync met a catalog it cannot read")

	huge.Sequence++
	for i := range 3900 {
		huge.Entries = append(huge.Entries, catalog.Entry{
			Name: "huge", Version: strconv.Itoa(i), Description: strings.Repeat("x", 4000),
		})
	}
	encoded, err := huge.Encode()
	if err != nil {
		t.Fatal(err)
	}
	limited := 0
	everySync("run out of memory", func(pid int) error {
		// From here on it may have no more memory than it has. Its own user may
		// ask for that without further rights.
		_, err := run(t.Context(), "setpriv", "--reuid=65532", "--regid=65532", "--clear-groups",
			"prlimit", "--pid", strconv.Itoa(pid), "--data=1048576:1048576")
		if limited++; limited == len(pods(t, srv.Name)) {
			write(encoded)
		}
		return err
	})
	t.Log("each sync ran out of memory")
}

func scaleOperator(t *testing.T, replicas int) {
	t.Helper()
	if _, err := run(t.Context(), "kubectl", "-n", namespace, "scale", "deployment", release, fmt.Sprintf("--replicas=%d", replicas)); err != nil {
		t.Fatal(err)
	}
	if replicas > 0 {
		if _, err := run(t.Context(), "kubectl", "-n", namespace, "rollout", "status", "deployment", release, "--timeout=1m"); err != nil {
			t.Fatal(err)
		}
		return
	}
	eventually(t, time.Minute, "the operator's pods end", func() error {
		if n := len(allOperatorPods(t)); n > 0 { // also one that is only told to end works on
			return fmt.Errorf("%d are still there", n)
		}
		return nil
	})
}

func allOperatorPods(t *testing.T) []corev1.Pod {
	t.Helper()
	var list corev1.PodList
	if err := env.client.List(t.Context(), &list, client.InNamespace(namespace), client.MatchingLabels{"app.kubernetes.io/name": release}); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// operatorPods are those that are not told to end.
func operatorPods(t *testing.T) []corev1.Pod {
	t.Helper()
	return slices.DeleteFunc(allOperatorPods(t), func(p corev1.Pod) bool { return !p.DeletionTimestamp.IsZero() })
}

// syncOf waits for the process of a pod's sync that is none of the old ones.
func syncOf(t *testing.T, server, pod string, old map[int]bool) int {
	t.Helper()
	found := 0
	eventually(t, 2*time.Minute, "another sync of "+pod+" runs", func() error {
		for _, pid := range processes(t, func(cmdline, environ string) bool {
			return strings.Contains(cmdline, "\x00sync\x00") && !strings.Contains(cmdline, "\x00--\x00") &&
				strings.Contains(cmdline, "/"+server+"\x00") && strings.Contains(environ, "POD_NAME="+pod+"\x00")
		}) {
			if !old[pid] {
				found = pid
				return nil
			}
		}
		return errNothing
	})
	return found
}

// processes finds processes of this machine by their command line and
// environment.
func processes(t *testing.T, match func(cmdline, environ string) bool) []int {
	t.Helper()
	entries, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var pids []int
	for _, path := range entries {
		cmdline, err := os.ReadFile(path)
		if err != nil || !bytes.Contains(cmdline, []byte("\x00")) {
			continue // it ended meanwhile
		}
		environ, err := os.ReadFile(filepath.Join(filepath.Dir(path), "environ"))
		if err != nil || !match(string(cmdline), string(environ)) {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestOperatorKilled kills the operator with SIGKILL at random moments while
// servers and sources are made, changed and deleted: the end is the same as without.
func TestOperatorKilled(t *testing.T) {
	a, b := push(t, "my-auth", "1.0.0", "raw"), push(t, "my-log", "0.2.0", "tar")
	mcp := push(t, "mcp-server", "1.0.0", "docker")
	kill := func(after time.Duration) {
		t.Helper()
		time.Sleep(after)
		for _, pid := range processes(t, func(cmdline, _ string) bool { return strings.HasPrefix(cmdline, "/operator\x00") }) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	kills := 0
	for round := range 3 {
		src, srv := source("killed", a, mcp), server("killed")
		moments := []time.Duration{0, 0, 0}
		for i := range moments {
			moments[i] = time.Duration(rand.IntN(1500)) * time.Millisecond
		}
		t.Logf("round %d: killed %s after create, %s after update, %s after delete", round, moments[0], moments[1], moments[2])
		create(t, src)
		create(t, srv)
		kill(moments[0])
		// The kubelet waits longer before each restart of a container that keeps dying: a new pod does not.
		replaceOperator(t)
		expect(t, 2*time.Minute, srv, v1alpha1.ConditionConsoleConfigured, metav1.ConditionTrue)
		expect(t, time.Minute, srv, v1alpha1.ConditionControllerConfigured, metav1.ConditionTrue)

		edit(t, src, func(s *v1alpha1.PluginSource) {
			s.Spec.Plugins = append(s.Spec.Plugins, v1alpha1.Plugin{Name: b.name, Version: b.version, URL: b.url})
		})
		kill(moments[1])
		replaceOperator(t)
		expect(t, 2*time.Minute, src, v1alpha1.ConditionReady, metav1.ConditionTrue)
		for _, p := range []plugin{a, b, mcp} {
			if err := onEveryReplica(t, srv.Name, p); err != nil {
				t.Errorf("round %d: %v", round, err)
			}
		}

		if err := env.client.Delete(t.Context(), srv); err != nil {
			t.Fatal(err)
		}
		kill(moments[2])
		replaceOperator(t)
		remove(t, srv)
		eventually(t, time.Minute, "everything outside is released", func() error {
			console := variable(t, "higress-console", "higress-console", consoleVariable)
			controller := variable(t, "higress-controller", "higress-core", controllerVariable)
			if console != "" || controller != "" {
				return fmt.Errorf("the Console has %q, the controller %q", console, controller)
			}
			return nil
		})
		remove(t, src)
		kills += len(moments)
	}
	kill(0)
	replaceOperator(t)
	if kills++; kills != 10 {
		t.Errorf("killed %d times, want 10", kills)
	}
}

// replaceOperator deletes the operator's pod and waits for the next one.
func replaceOperator(t *testing.T) {
	t.Helper()
	for _, pod := range operatorPods(t) {
		if err := env.client.Delete(t.Context(), &pod, client.GracePeriodSeconds(0)); client.IgnoreNotFound(err) != nil {
			t.Fatal(err)
		}
	}
	if _, err := run(t.Context(), "kubectl", "-n", namespace, "rollout", "status", "deployment", release, "--timeout=1m"); err != nil {
		t.Fatal(err)
	}
}
