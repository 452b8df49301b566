//go:build node

package e2e

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
)

// TestNginxImage runs an existing plugin server's image as it is: nginx, which
// begins as root, with plugins baked in.
func TestNginxImage(t *testing.T) {
	image, err := imageRef("nginx")
	if err != nil {
		t.Fatal(err)
	}
	auth, mcp := build(t, "key-auth", "1.0.0"), build(t, "mcp-server", "1.0.0") // see the Makefile
	before := map[string]string{"higress-console": rollouts(t, "higress-console"), "higress-controller": rollouts(t, "higress-controller")}
	srv := server("existing")
	srv.Spec.Server = v1alpha1.Server{Type: v1alpha1.ServerImage, Image: "registry.invalid/nginx:absent"}
	srv.Spec.Higress.Controller.MCPServerVersion = "9.9.9" // not in the image
	create(t, srv)

	pointedWhenItAnswers(t, srv, image, auth)
	for _, p := range []plugin{auth, mcp} {
		a := get(t, url(srv.Name, p))
		if a.Status != 200 || a.SHA256 != p.sha256 || a.Size != p.size || a.Type != "application/wasm" {
			t.Errorf("%s: got %+v, want 200 with sha256 %s", p.name, a, p.sha256)
		}
		metadata := get(t, besides(url(srv.Name, p)))
		for _, line := range []string{"name: " + p.name, "version: " + p.version, fmt.Sprintf("size: %d", p.size), "md5: "} {
			if !strings.Contains(metadata.Text, line) {
				t.Errorf("metadata.txt of %s lacks %q: %+v", p.name, line, metadata)
			}
		}
	}
	if a := get(t, url2(srv.Name, "jwt-auth", "1.0.0")); a.Status != 404 || a.Seconds > 2 {
		t.Errorf("a plugin that the image lacks: %+v, want 404 at once", a)
	}
	for name, pod := range pods(t, srv.Name) {
		runsAsItWants(t, name, pod)
	}
	replacedUnderLoad(t, srv, auth)

	// No pod is there for a while: Higress's programs are not restarted for that.
	edit(t, srv, func(s *v1alpha1.PluginServer) { s.Spec.Replicas = ptr.To[int32](0) })
	expect(t, time.Minute, srv, v1alpha1.ConditionReplicasConsistent, metav1.ConditionFalse, v1alpha1.ReasonReplicasUnavailable)
	edit(t, srv, func(s *v1alpha1.PluginServer) { s.Spec.Replicas = ptr.To[int32](2) })
	awaitReplicas(t, srv.Name, auth, 2)
	expect(t, time.Minute, srv, v1alpha1.ConditionReplicasConsistent, metav1.ConditionTrue)
	for deployment, revision := range before {
		if got := rollouts(t, deployment); got != increment(revision) {
			t.Errorf("%s went from revision %s to %s, want one rollout", deployment, revision, got)
		}
	}
	remove(t, srv)
	if console, controller := variables(t); console != "" || controller != "" {
		t.Errorf("after the deletion the Console has %q, the controller %q", console, controller)
	}
}

// besides gives the URL of a plugin's metadata.txt.
func besides(url string) string { return strings.TrimSuffix(url, "plugin.wasm") + "metadata.txt" }

// variables gives what points the Console and the controller somewhere.
func variables(t *testing.T) (console, controller string) {
	t.Helper()
	return variable(t, "higress-console", "higress-console", consoleVariable), variable(t, "higress-controller", "higress-core", controllerVariable)
}

// pointedWhenItAnswers gives a server, whose image cannot be pulled, the right
// one, and watches what Higress is told.
func pointedWhenItAnswers(t *testing.T, srv *v1alpha1.PluginServer, image string, known plugin) {
	t.Helper()
	eventually(t, time.Minute, "a pod that cannot start", func() error {
		out, err := run(t.Context(), "kubectl", "-n", namespace, "get", "pods", "-l", "app="+srv.Name)
		if err == nil && !strings.Contains(out, "ImagePull") {
			return fmt.Errorf("the pods are\n%s", out)
		}
		return err
	})
	expect(t, 10*time.Second, srv, v1alpha1.ConditionReady, metav1.ConditionFalse)
	expect(t, 10*time.Second, srv, v1alpha1.ConditionConsoleConfigured, metav1.ConditionFalse, v1alpha1.ReasonWaitingForPlugins)
	if console, controller := variables(t); console != "" || controller != "" {
		t.Fatalf("before anything answers the Console has %q, the controller %q", console, controller)
	}

	edit(t, srv, func(s *v1alpha1.PluginServer) { s.Spec.Server.Image = image })
	base := "http://" + srv.Name + "." + namespace + ".svc/plugins/"
	eventually(t, time.Minute, "the Console is pointed here", func() error {
		if console, _ := variables(t); console != base+"${name}/${version}/plugin.wasm" {
			return fmt.Errorf("it has %q", console)
		}
		return nil
	})
	if len(pods(t, srv.Name)) == 0 {
		t.Error("the Console was pointed here although no pod is ready")
	}
	if err := onEveryReplica(t, srv.Name, known); err != nil {
		t.Errorf("the Console was pointed here too early: %v", err)
	}
	expect(t, time.Minute, srv, v1alpha1.ConditionReady, metav1.ConditionTrue)
	expect(t, time.Minute, srv, v1alpha1.ConditionReplicasConsistent, metav1.ConditionTrue)
	expect(t, time.Minute, srv, v1alpha1.ConditionControllerConfigured, metav1.ConditionFalse, v1alpha1.ReasonWaitingForPlugins)
	if _, controller := variables(t); controller != "" {
		t.Errorf("the controller has %q, which the image lacks", controller)
	}
	edit(t, srv, func(s *v1alpha1.PluginServer) { s.Spec.Higress.Controller.MCPServerVersion = "1.0.0" })
	expect(t, time.Minute, srv, v1alpha1.ConditionControllerConfigured, metav1.ConditionTrue, v1alpha1.ReasonConfigured)
	if got := printed(t, "higress-controller", "higress-core", controllerVariable); got != base+"mcp-server/1.0.0/plugin.wasm" {
		t.Errorf("the controller runs with %q", got)
	}
}

// runsAsItWants looks at the processes of a pod: a master that is root with the
// few rights that it needs to become another user, and workers without any.
func runsAsItWants(t *testing.T, name string, pod corev1.Pod) {
	t.Helper()
	const rights = "00000000000000c3" // CHOWN, DAC_OVERRIDE, SETGID, SETUID
	masters, workers := 0, 0
	entries, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range entries {
		if cgroup, err := os.ReadFile(file); err != nil || !strings.Contains(string(cgroup), string(pod.UID)) {
			continue
		}
		cmdline, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "cmdline"))
		status, _ := os.ReadFile(filepath.Join(filepath.Dir(file), "status"))
		want := []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapBnd:\t" + rights}
		switch {
		case strings.Contains(string(cmdline), "nginx: master process"):
			masters++
			want = append(want, "Uid:\t0\t0\t0\t0", "CapEff:\t"+rights)
		case strings.Contains(string(cmdline), "nginx: worker process"):
			workers++
			want = append(want, "Uid:\t101\t101\t101\t101", "CapEff:\t0000000000000000")
		default:
			continue // what holds the pod's network
		}
		for _, line := range want {
			if !slices.Contains(strings.Split(string(status), "\n"), line) {
				t.Errorf("pod %s: %q is not %q:\n%s", name, cmdline, line, status)
			}
		}
	}
	if masters != 1 || workers == 0 {
		t.Errorf("pod %s has %d masters and %d workers", name, masters, workers)
	}
}

// replacedUnderLoad replaces all pods by a rollout, and then by evictions, and
// no download fails.
func replacedUnderLoad(t *testing.T, srv *v1alpha1.PluginServer, p plugin) {
	t.Helper()
	stop := load(t, url(srv.Name, p), p.sha256, 4, "-retry", "-at-least=300")
	replaced := func(old map[string]corev1.Pod) {
		t.Helper()
		eventually(t, 2*time.Minute, "other pods than before", func() error {
			for name := range pods(t, srv.Name) {
				if _, there := old[name]; there {
					return fmt.Errorf("%s is still there", name)
				}
			}
			return nil
		})
		awaitReplicas(t, srv.Name, p, 2)
	}
	old := pods(t, srv.Name)
	edit(t, srv, func(s *v1alpha1.PluginServer) { s.Spec.PodAnnotations = map[string]string{"test/rollout": "1"} })
	replaced(old)
	for name, pod := range pods(t, srv.Name) {
		evict(t, srv.Name, name)
		replaced(map[string]corev1.Pod{name: pod})
	}
	s := stop()
	t.Logf("%d downloads while the pods were replaced, %d refused and tried again, the slowest took %.2f s", s.Requests, s.Retried, s.Slowest)
	if len(s.Failures) > 0 {
		t.Errorf("%d downloads, failures: %v, between %.1f and %.1f s after the start", s.Requests, s.Failures, s.FailedAt[0], s.FailedAt[1])
	}
}

// beside is an nginx that somebody runs on the volume of a plugin server, with
// and without the gzip that is there.
const beside = `daemon off;
user nginx;
pid /run/nginx.pid;
events {}
http {
	types { application/wasm wasm; text/plain txt; }
	access_log off;
	sendfile on;
	server {
		listen 8080;
		root /data;
		location /plugins/ { }
	}
	server {
		listen 8081;
		root /data;
		location /plugins/ { gzip_static on; }
	}
}
`

// startBeside starts that nginx and gives the base of its URLs, without and with
// gzip.
func startBeside(t *testing.T, claim string) (pod *corev1.Pod, bases []string) {
	t.Helper()
	image, err := imageRef("nginx")
	if err != nil {
		t.Fatal(err)
	}
	meta := metav1.ObjectMeta{Namespace: namespace, Name: "nginx-beside"}
	create(t, &corev1.ConfigMap{ObjectMeta: meta, Data: map[string]string{"nginx.conf": beside}})
	pod = &corev1.Pod{ObjectMeta: meta, Spec: corev1.PodSpec{
		TerminationGracePeriodSeconds: ptr.To[int64](1),
		Containers: []corev1.Container{{
			Name: "nginx", Image: image, ImagePullPolicy: corev1.PullIfNotPresent, Args: []string{"-c", "/config/nginx.conf"},
			VolumeMounts: []corev1.VolumeMount{{Name: "data", MountPath: "/data", ReadOnly: true}, {Name: "config", MountPath: "/config"}},
		}},
		Volumes: []corev1.Volume{
			{Name: "data", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim, ReadOnly: true}}},
			{Name: "config", VolumeSource: corev1.VolumeSource{ConfigMap: &corev1.ConfigMapVolumeSource{LocalObjectReference: corev1.LocalObjectReference{Name: meta.Name}}}},
		},
	}}
	create(t, pod)
	if _, err := run(t.Context(), "kubectl", "-n", namespace, "wait", "--for=condition=Ready", "pod/"+pod.Name, "--timeout=1m"); err != nil {
		t.Fatal(err)
	}
	if err := env.client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"8080", "8081"} {
		bases = append(bases, "http://"+pod.Status.PodIP+":"+port+"/plugins/")
	}
	return pod, bases
}

// TestNginxBeside: an nginx that mounts a server's volume, and may only read it,
// serves the same paths and bytes, through changes of the catalog too.
func TestNginxBeside(t *testing.T) {
	makeVolume(t, "nginx-shared", corev1.ReadWriteMany)
	stays, first := push(t, "my-auth", "1.0.0", "raw"), push(t, "added", "1.0.0", "tar")
	second := pushAs(t, build(t, "added", "1.0.1"), "raw", registry()+"/plugins/added:moved") // other bytes for the same name and version
	first.url = "oci://" + registry() + "/plugins/added@" + first.digest
	second.version, second.url = first.version, "oci://"+registry()+"/plugins/added@"+second.digest
	src := source("beside", stays, first)
	srv := quiet("beside", claimed(v1alpha1.StorageShared))
	create(t, src)
	create(t, srv)
	expect(t, 2*time.Minute, srv, v1alpha1.ConditionReady, metav1.ConditionTrue)
	awaitReplicas(t, srv.Name, first, 2)
	pod, bases := startBeside(t, desired.ClaimName(srv))
	served := []plugin{stays, first}
	same(t, srv.Name, bases, served)
	for i, want := range []string{"", "gzip"} {
		if got := encoding(t, bases[i]+first.name+"/"+first.version+"/plugin.wasm"); got != want {
			t.Errorf("nginx at %s answers in the encoding %q, want %q", bases[i], got, want)
		}
	}

	const least = "-at-least=200"
	path := func(p plugin) string { return p.name + "/" + p.version + "/plugin.wasm" }
	metadata := get(t, besides(bases[0]+path(stays)))
	loads := map[string]func() summary{
		"metadata":         load(t, besides(bases[0]+path(stays)), metadata.SHA256, 1, least),
		"one that changes": load(t, bases[0]+path(first), first.sha256+","+second.sha256, 2, least),
	}
	for i, base := range bases {
		loads[fmt.Sprintf("one that stays, gzip_static %t", i > 0)] = load(t, base+path(stays), stays.sha256, 1, least)
	}
	for i := range 6 {
		changed, added := []plugin{second, first}[i%2], stays
		added.version = fmt.Sprintf("2.0.%d", i)
		for _, p := range []plugin{changed, added} {
			declare(t, src, p)
			eventually(t, 30*time.Second, p.name+":"+p.version+" is served", func() error { return onEveryReplica(t, srv.Name, p) })
		}
		same(t, srv.Name, bases, []plugin{changed, added})
		served = append(served, added)
	}
	for what, stop := range loads {
		s := stop()
		t.Logf("%s: %d downloads, the slowest took %.2f s", what, s.Requests, s.Slowest)
		if len(s.Failures) > 0 {
			t.Errorf("%s: %d downloads, failures: %v, between %.1f and %.1f s after the start", what, s.Requests, s.Failures, s.FailedAt[0], s.FailedAt[1])
		}
	}
	same(t, srv.Name, bases, served) // after six changes it is the first one again
	uid := pod.UID
	if err := env.client.Get(t.Context(), client.ObjectKeyFromObject(pod), pod); err != nil {
		t.Fatal(err)
	}
	if n := pod.Status.ContainerStatuses[0].RestartCount; n > 0 || pod.UID != uid {
		t.Errorf("nginx was restarted %d times", n)
	}
}

// encoding gives the encoding in which a client is answered that accepts gzip.
func encoding(t *testing.T, url string) string {
	t.Helper()
	request, err := http.NewRequestWithContext(t.Context(), http.MethodHead, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	request.Header.Set("Accept-Encoding", "gzip") // set by hand, so that the answer tells
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	_ = response.Body.Close()
	return response.Header.Get("Content-Encoding")
}

// declare adds a plugin to a source, or changes the one of its name and version.
func declare(t *testing.T, src *v1alpha1.PluginSource, p plugin) {
	t.Helper()
	edit(t, src, func(s *v1alpha1.PluginSource) {
		s.Spec.Plugins = slices.DeleteFunc(s.Spec.Plugins, func(old v1alpha1.Plugin) bool { return old.Name == p.name && old.Version == p.version })
		s.Spec.Plugins = append(s.Spec.Plugins, v1alpha1.Plugin{Name: p.name, Version: p.version, URL: p.url})
	})
}

// same fails unless each nginx answers as the plugin server does.
func same(t *testing.T, server string, bases []string, plugins []plugin) {
	t.Helper()
	for _, p := range plugins {
		module, metadata := get(t, url(server, p)), get(t, besides(url(server, p)))
		if module.Status != 200 || module.SHA256 != p.sha256 || metadata.Status != 200 || !strings.Contains(metadata.Text, "sha256: "+p.sha256+"\n") {
			t.Errorf("the server answers for %s:%s %+v and %+v", p.name, p.version, module, metadata)
		}
		for _, base := range bases {
			m := get(t, base+p.name+"/"+p.version+"/plugin.wasm")
			if m.Status != 200 || m.SHA256 != module.SHA256 || m.Size != module.Size || m.Type != module.Type {
				t.Errorf("nginx at %s answers for %s:%s %+v, the server %+v", base, p.name, p.version, m, module)
			}
			d := get(t, besides(base+p.name+"/"+p.version+"/plugin.wasm"))
			if d.Status != 200 || d.Text != metadata.Text {
				t.Errorf("nginx at %s answers for the metadata of %s:%s %+v, the server %+v", base, p.name, p.version, d, metadata)
			}
		}
	}
}
