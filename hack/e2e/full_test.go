//go:build node

package e2e

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
)

const (
	// bulk is the size in bytes of a module that takes twice as much, since its gzip
	// is as large.
	bulk = 8 << 20
	// watched is how long everything is full: the kubelet measures volumes once a
	// minute and looks every ten seconds whom to evict.
	watched = 65 * time.Second
)

// bulky pushes a module that no gzip makes smaller.
func bulky(t *testing.T, version string) plugin {
	t.Helper()
	content := binary.AppendUvarint([]byte{0, 'a', 's', 'm', 1, 0, 0, 0, 0}, bulk)
	section := make([]byte, bulk)
	_, _ = rand.Read(section) // never fails
	content = append(content, section...)
	copy(content[len(content)-bulk:], "\x04bulk")
	sum := sha256.Sum256(content)
	p := plugin{
		name: "bulky", version: version, file: filepath.Join(t.TempDir(), "bulky.wasm"),
		sha256: hex.EncodeToString(sum[:]), size: int64(len(content)),
	}
	if err := os.WriteFile(p.file, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return pushAs(t, p, "raw", registry()+"/plugins/bulky:"+version)
}

// filling is a server that is filled up, under downloads of what it serves
// first.
type filling struct {
	src     *v1alpha1.PluginSource
	srv     *v1alpha1.PluginServer
	plugins []plugin
	pods    map[string]map[string]corev1.Pod // by the name of the workload, since everything is full
	stop    func() summary
}

// fill makes a server that serves the first plugin.
func fill(t *testing.T, name string, first plugin, storage v1alpha1.Storage) *filling {
	t.Helper()
	f := &filling{src: source(name, first), srv: server(name), plugins: []plugin{first}, pods: map[string]map[string]corev1.Pod{}}
	f.src.Labels = map[string]string{"test": name}
	f.srv.Spec.SourceSelector = &metav1.LabelSelector{MatchLabels: f.src.Labels}
	f.srv.Spec.Higress.Console.Mode, f.srv.Spec.Higress.Controller.Mode = v1alpha1.IntegrationOff, v1alpha1.IntegrationOff
	f.srv.Spec.Storage = storage
	f.srv.Spec.Retention = &metav1.Duration{} // what is removed takes no room
	create(t, f.src)
	create(t, f.srv)
	expect(t, 2*time.Minute, f.srv, v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	expect(t, time.Minute, f.src, v1alpha1.ConditionReady, metav1.ConditionTrue)
	// Some downloads at any time are enough. A pod that goes may refuse connections for a moment.
	f.stop = load(t, url(name, first), first.sha256, 2, "-pause=300ms", "-retry")
	return f
}

// add declares further plugins.
func (f *filling) add(t *testing.T, plugins ...plugin) {
	t.Helper()
	f.plugins = append(f.plugins, plugins...)
	edit(t, f.src, func(s *v1alpha1.PluginSource) {
		for _, p := range plugins {
			s.Spec.Plugins = append(s.Spec.Plugins, v1alpha1.Plugin{Name: p.name, Version: p.version, URL: p.url})
		}
	})
}

// served waits until every replica serves a plugin.
func (f *filling) served(t *testing.T, plugins ...plugin) {
	t.Helper()
	for _, p := range plugins {
		eventually(t, time.Minute, fmt.Sprintf("%s:%s is served by %s", p.name, p.version, f.srv.Name), func() error {
			if n := len(pods(t, f.srv.Name)); n < 2 {
				return fmt.Errorf("%d pods are ready", n)
			}
			return onEveryReplica(t, f.srv.Name, p)
		})
	}
}

// says waits for texts in a condition, and logs it.
func says(t *testing.T, o client.Object, kind string, status metav1.ConditionStatus, texts ...string) {
	t.Helper()
	var c metav1.Condition
	eventually(t, time.Minute, fmt.Sprintf("%s of %s says %q", kind, o.GetName(), texts), func() error {
		c = condition(t, o, kind)
		for _, text := range texts {
			if c.Status != status || !strings.Contains(c.Message, text) {
				return fmt.Errorf("it is %s %s: %s", c.Status, c.Reason, c.Message)
			}
		}
		return nil
	})
	t.Logf("%s of %s: %s", kind, o.GetName(), c.Message)
}

// refused: what is declared and does not fit is held and answered with 503.
func (f *filling) refused(t *testing.T, plugins ...plugin) {
	t.Helper()
	for _, p := range plugins {
		if a := get(t, url(f.srv.Name, p)); a.Status != 503 || a.Seconds < 7 {
			t.Errorf("%s:%s of %s is answered with %d after %.1f s (%s), want 503 after 8 s", p.name, p.version, f.srv.Name, a.Status, a.Seconds, a.Text)
		}
	}
}

// remember notes the pods of workloads, which must stay as they are from now on.
func (f *filling) remember(t *testing.T, workloads ...string) {
	t.Helper()
	for _, name := range workloads {
		if f.pods[name] = pods(t, name); len(f.pods[name]) == 0 {
			t.Fatalf("%s has no pods", name)
		}
	}
}

// unharmed: nothing was evicted or restarted since remember.
func (f *filling) unharmed(t *testing.T) {
	t.Helper()
	for name, before := range f.pods {
		samePods(t, name, before)
		notEvicted(t, name)
	}
}

// notEvicted: no pod of a workload was evicted, not even one that is gone.
func notEvicted(t *testing.T, workload string) {
	t.Helper()
	var events corev1.EventList
	if err := env.client.List(t.Context(), &events, client.InNamespace(namespace)); err != nil {
		t.Fatal(err)
	}
	for _, e := range events.Items {
		if e.Reason == "Evicted" && strings.HasPrefix(e.InvolvedObject.Name, workload+"-") {
			t.Errorf("%s was evicted: %s", e.InvolvedObject.Name, e.Message)
		}
	}
}

// end ends the downloads, of which none may have failed.
func (f *filling) end(t *testing.T) {
	t.Helper()
	s := f.stop()
	t.Logf("%d downloads from %s, %d refused and tried again, the slowest took %.2f s", s.Requests, f.srv.Name, s.Retried, s.Slowest)
	if len(s.Failures) > 0 || s.Requests < 100 {
		t.Errorf("%d downloads from %s, failures: %v, between %.1f and %.1f s after the start", s.Requests, f.srv.Name, s.Failures, s.FailedAt[0], s.FailedAt[1])
	}
}

// TestFullVolumes fills two kinds of volumes, and more is declared all the same:
// one up to its limit, at which the kubelet would evict all replicas together, the
// other up to the last byte of its file system.
func TestFullVolumes(t *testing.T) {
	small := tiny(t)
	var modules []plugin
	for i := range 6 {
		modules = append(modules, bulky(t, fmt.Sprintf("1.0.%d", i)))
	}
	limited := fillLimit(t, modules, small)
	disk, room := fillDisk(t, modules, small)
	watch(t, func() {
		limited.refused(t, modules[3:]...)
		disk.refused(t, modules[2], small)
	})
	limited.unharmed(t)
	limited.belowLimit(t, 64<<20)
	limited.served(t, modules[0], modules[1], modules[2], small)
	disk.unharmed(t)
	disk.served(t, modules[0], modules[1])

	room()
	disk.served(t, disk.plugins...)
	disk.well(t)
	disk.unharmed(t)
	limited.heal(t, modules)
	limited.end(t)
	disk.end(t)
}

// watch waits for a minute while something is full. The operator lives on,
// writes at most once more how much is free, and does not look again and again.
func watch(t *testing.T, do func()) {
	t.Helper()
	began, operator, before, reads := time.Now(), operatorPods(t), requests(t), reconciles(t)
	do()
	time.Sleep(time.Until(began.Add(watched)))
	after, again, now := requests(t), reconciles(t)-reads, operatorPods(t)
	t.Logf("%d reconciles within %s; writes: %v, then %v", again, watched, before, after)
	if after["PATCH"]+after["POST"] > before["PATCH"]+before["POST"]+4 || again > int(watched.Seconds())/2 {
		t.Errorf("the operator is busy")
	}
	if now[0].UID != operator[0].UID || now[0].Status.ContainerStatuses[0].RestartCount > 0 {
		t.Errorf("the operator was %v, and is %v", operator, now)
	}
	notEvicted(t, release)
}

// fillLimit fills volumes in the pods: three modules fit.
func fillLimit(t *testing.T, modules []plugin, small plugin) *filling {
	t.Helper()
	f := fill(t, "full-limit", modules[0], v1alpha1.Storage{Type: v1alpha1.StorageEmptyDir, SizeLimit: ptr.To(resource.MustParse("64Mi"))})
	for _, p := range modules[1:3] {
		f.add(t, p)
		f.served(t, p)
	}
	f.remember(t, f.srv.Name)
	f.add(t, modules[3])
	says(t, f.srv, v1alpha1.ConditionDegraded, metav1.ConditionTrue, "the volume is full: 17 MiB more are needed, ", "of its 64 MiB are free; raise spec.storage.sizeLimit")
	says(t, f.src, v1alpha1.ConditionReady, metav1.ConditionFalse, "3 of 4 plugins served")
	f.add(t, modules[4:]...)
	says(t, f.srv, v1alpha1.ConditionDegraded, metav1.ConditionTrue, "17 MiB more are needed", "for all 3 modules that do not fit: 49 MiB")
	f.add(t, small) // which fits
	f.served(t, small)
	says(t, f.srv, v1alpha1.ConditionReady, metav1.ConditionTrue, "4 of 7 plugins served by every replica")
	says(t, f.src, v1alpha1.ConditionReady, metav1.ConditionFalse, "4 of 7 plugins served")
	return f
}

// belowLimit measures the pods' volumes on the node.
func (f *filling) belowLimit(t *testing.T, limit int64) {
	t.Helper()
	for name, pod := range pods(t, f.srv.Name) {
		found, err := filepath.Glob(filepath.Join(os.Getenv("CLUSTER_STATE"), "*/kubelet/pods", string(pod.UID), "volumes/kubernetes.io~empty-dir/*"))
		if err != nil || len(found) != 1 {
			t.Fatalf("the volumes of %s are %q: %v", name, found, err)
		}
		out, err := run(t.Context(), "du", "-s", "--block-size=1", found[0])
		if err != nil {
			t.Fatal(err)
		}
		var used int64
		if _, err := fmt.Sscan(out, &used); err != nil || used < 6*bulk || used >= limit {
			t.Errorf("it is too much or too little: %v", err)
		}
		t.Logf("the volume of %s takes %.1f MiB, its limit is %d MiB", name, float64(used)/(1<<20), limit>>20)
	}
	if s := f.srv.Status.Storage; s.UsedBytes < 6*bulk || s.UsedBytes > s.BudgetBytes || s.BudgetBytes >= limit {
		t.Errorf("the status says of the storage %+v", s)
	}
}

// heal first declares less, and then gives more room.
func (f *filling) heal(t *testing.T, modules []plugin) {
	t.Helper()
	all := f.src.Spec.Plugins
	edit(t, f.src, func(s *v1alpha1.PluginSource) { s.Spec.Plugins = append(s.Spec.Plugins[:3:3], s.Spec.Plugins[6]) })
	f.well(t)
	f.unharmed(t)
	edit(t, f.src, func(s *v1alpha1.PluginSource) { s.Spec.Plugins = all })
	says(t, f.srv, v1alpha1.ConditionDegraded, metav1.ConditionTrue, "for all 3 modules that do not fit: 49 MiB")
	edit(t, f.srv, func(s *v1alpha1.PluginServer) { s.Spec.Storage.SizeLimit = ptr.To(resource.MustParse("192Mi")) })
	expect(t, 2*time.Minute, f.srv, v1alpha1.ConditionAvailable, metav1.ConditionTrue, v1alpha1.ReasonSucceeded)
	f.served(t, modules...)
	f.well(t)
	notEvicted(t, f.srv.Name)
}

// well: everything that is declared is served, and nothing is said against it.
func (f *filling) well(t *testing.T) {
	t.Helper()
	expect(t, time.Minute, f.src, v1alpha1.ConditionReady, metav1.ConditionTrue)
	says(t, f.srv, v1alpha1.ConditionReady, metav1.ConditionTrue, fmt.Sprintf("%d plugins served at ", len(f.src.Spec.Plugins)))
	eventually(t, time.Minute, f.srv.Name+" is well", func() error {
		if c := condition(t, f.srv, v1alpha1.ConditionDegraded); c.Status == metav1.ConditionTrue {
			return errors.New(c.Message)
		}
		return nil
	})
}

// fillDisk fills a volume whose claim is larger than its file system, for two
// modules, and then takes all that is left. room gives it more.
func fillDisk(t *testing.T, modules []plugin, small plugin) (f *filling, room func()) {
	t.Helper()
	const name = "full-disk"
	dir := mountDisk(t, name)
	makeVolumeAt(t, name, corev1.ReadWriteMany, dir)
	f = fill(t, name, modules[0], v1alpha1.Storage{
		Type: v1alpha1.StorageShared, StorageClassName: ptr.To(volumeClass), ClaimPolicy: v1alpha1.ClaimDelete, SizeLimit: ptr.To(resource.MustParse("2Gi")),
	})
	f.add(t, modules[1])
	f.served(t, modules[1])
	f.remember(t, name, desired.WriterName(name))
	f.add(t, modules[2:4]...)
	says(t, f.srv, v1alpha1.ConditionDegraded, metav1.ConditionTrue, "the file system below the volume is full: 17 MiB more are needed", "for all 2 modules that do not fit: 33 MiB", "free space there")
	says(t, f.src, v1alpha1.ConditionReady, metav1.ConditionFalse, "2 of 4 plugins served")

	// Somebody else takes the rest: there is not even room for a catalog.
	other, err := os.Create(filepath.Join(dir, "other"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(other, rand.Reader)
	if !errors.Is(err, syscall.ENOSPC) || other.Close() != nil {
		t.Fatalf("the disk is not full: %v", err)
	}
	f.add(t, small)
	says(t, f.srv, v1alpha1.ConditionDegraded, metav1.ConditionTrue, "for all 3 modules that do not fit",
		"cannot publish the catalog: the file system below the volume is full: 1 MiB more are needed, 0 MiB are free; free space there")
	return f, func() {
		t.Helper()
		if err := syscall.Mount("tmpfs", dir, "tmpfs", syscall.MS_REMOUNT, "size=256m"); err != nil {
			t.Fatal(err)
		}
	}
}

// mountDisk mounts a small file system below the cluster's state, where it is
// unmounted with the cluster even if the test is killed.
func mountDisk(t *testing.T, name string) string {
	t.Helper()
	dir := filepath.Join(os.Getenv("CLUSTER_STATE"), name)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=64m,mode=0777"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(syscall.Unmount(dir, syscall.MNT_DETACH), os.Remove(dir)); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// TestFullStore gives the operator's store less room than what is declared
// takes: what was served stays, what fits is served, and more room is all that it takes.
func TestFullStore(t *testing.T) {
	first, small := bulky(t, "2.0.0"), tiny(t)
	f := fill(t, "full-store", first, v1alpha1.Storage{})
	t.Cleanup(func() { storeBudget(t, "3500Mi") })
	storeBudget(t, "24Mi")
	f.remember(t, f.srv.Name)
	eventually(t, time.Minute, "the new operator has what is served", func() error {
		all := allOperatorPods(t)
		if len(all) != 1 {
			return fmt.Errorf("%d operators", len(all))
		}
		if a := get(t, "http://"+all[0].Status.PodIP+":8082/blobs/sha256/"+first.sha256); a.Status != 200 {
			return fmt.Errorf("%+v", a)
		}
		return nil
	})
	more := []plugin{bulky(t, "2.0.1"), bulky(t, "2.0.2")}
	f.add(t, more...)
	f.add(t, small)
	f.served(t, small)
	says(t, f.src, v1alpha1.ConditionReady, metav1.ConditionFalse, "2 of 4 plugins fetched, 2 failed: bulky:2.0.1: StoreFull: ",
		"the operator's store is full: 17 MiB more are needed for this module, 7 MiB of its budget of 24 MiB are free; raise the budget")
	watch(t, func() { f.refused(t, more...) })
	f.served(t, first, small)

	storeBudget(t, "3500Mi")
	f.served(t, more...)
	f.well(t)
	f.unharmed(t)
	f.end(t)
}

// storeBudget says what the operator's store may take, and replaces the operator
// with that.
func storeBudget(t *testing.T, budget string) {
	t.Helper()
	// Cleanups run after the test's own context has ended.
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	if _, err := run(ctx, "helm", "upgrade", release, "charts/plugin-server-operator", "--namespace", namespace,
		"--reuse-values", "--set", "store.budget="+budget, "--wait", "--timeout", "2m"); err != nil {
		t.Fatal(err)
	}
}
