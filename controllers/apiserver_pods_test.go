//go:build envtest

package controllers_test

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/internal/serve"
)

// programs is the folder of what is built once for all tests.
var programs string

func removePrograms() { _ = os.RemoveAll(programs) }

// pluginServer builds the real program, which reports data races.
var pluginServer = sync.OnceValues(func() (path string, err error) {
	if programs, err = os.MkdirTemp("", "plugin-server-"); err != nil {
		return "", err
	}
	path = filepath.Join(programs, "plugin-server")
	if out, err := exec.Command("go", "build", "-race", "-o", path, "../cmd/plugin-server").CombinedOutput(); err != nil {
		return "", fmt.Errorf("build plugin-server: %w\n%s", err, out)
	}
	return path, nil
})

// pods are the replicas of a server as real processes, with what the kubelet
// does for them: start them on their volumes, and say which are ready.
type pods struct {
	w       *world
	service string // where they find the operator, whichever runs
	server  *v1alpha1.PluginServer
	all     []*pod
}

// pod is one replica. What it is reached at changes with each process.
type pod struct {
	of     *pods
	object *corev1.Pod
	dir    string // its volume

	mu      sync.Mutex
	process *process
}

// runPods makes the pods of a server that its Deployment asks for, and waits
// until all are ready.
func runPods(w *world, server *v1alpha1.PluginServer) *pods {
	w.t.Helper()
	p := &pods{w: w, server: server, service: operatorService(w)}
	deployment := await[appsv1.Deployment](w, server.Name)
	for i := range *deployment.Spec.Replicas {
		object := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{
				Namespace: w.namespace, Name: fmt.Sprintf("%s-real-%d", server.Name, i), Labels: deployment.Spec.Template.Labels,
			},
			Spec: deployment.Spec.Template.Spec,
		}
		w.create(object)
		one := &pod{of: p, object: object, dir: w.t.TempDir()}
		p.all = append(p.all, one)
		one.start()
		w.replicas.actual.Store(object.Name, one)
	}
	for _, one := range p.all {
		one.awaitReady()
	}
	w.replicas.available(deployment)
	return p
}

// operatorService is an address that stays when another operator starts. While
// none runs, connections to it end.
func operatorService(w *world) string {
	transport := &http.Transport{DisableCompression: true, MaxIdleConnsPerHost: 16}
	forward := func(rw http.ResponseWriter, r *http.Request) {
		w.replicas.mu.Lock()
		base := w.replicas.base
		w.replicas.mu.Unlock()
		target, err := url.Parse(base)
		if base == "" || err != nil {
			panic(http.ErrAbortHandler)
		}
		proxy := &httputil.ReverseProxy{
			Transport: transport, Rewrite: func(p *httputil.ProxyRequest) { p.SetURL(target) },
			ErrorHandler: func(http.ResponseWriter, *http.Request, error) { panic(http.ErrAbortHandler) },
		}
		proxy.ServeHTTP(rw, r)
	}
	service := httptest.NewServer(http.HandlerFunc(forward))
	w.t.Cleanup(func() {
		service.CloseClientConnections()
		service.Close()
		transport.CloseIdleConnections()
	})
	return service.URL
}

// start runs the program on the volume, and waits until it serves.
func (p *pod) start() {
	p.of.w.t.Helper()
	p.begin()()
}

// begin runs the program on the volume; await waits until it serves. Its environment
// names no API server.
func (p *pod) begin() (await func()) {
	t := p.of.w.t
	t.Helper()
	path, err := pluginServer()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(path, "serve", "--data-dir="+p.dir, "--listen=127.0.0.1:0", "--ops-listen=127.0.0.1:0",
		"--", "sync", "--data-dir="+p.dir, "--catalog="+filepath.Join(p.dir, "none"), "--operator-url="+p.of.service,
		"--server="+p.of.server.Namespace+"/"+p.of.server.Name, "--size-limit=1073741824",
		"--memory-limit=17179869184") // the race detector alone takes more than sync may
	cmd.Env = []string{"POD_NAME=" + p.object.Name}
	process, serves := launch(t, cmd)
	return func() {
		t.Helper()
		serves()
		p.mu.Lock()
		defer p.mu.Unlock()
		p.process = process
	}
}

// kill ends the program as a node that runs out of memory does. sync must end
// with it: it would be a second writer of the volume.
func (p *pod) kill() {
	t := p.of.w.t
	t.Helper()
	p.setReady(corev1.ConditionFalse)
	p.now().kill(t)
}

func (p *pod) now() *process {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.process
}

// at gives the address of a path.
func (p *pod) at(path string) string { return p.now().url + path }

// state asks the pod what it serves, as the operator does.
func (p *pod) state(ctx context.Context) (state serve.State, err error) {
	b, err := ask(ctx, p.now().ops+"/state", 1<<20)
	if err != nil {
		return state, err
	}
	return state, json.Unmarshal(b, &state)
}

// awaitReady waits until the pod is ready, and lets everybody know.
func (p *pod) awaitReady() {
	p.of.w.t.Helper()
	p.of.w.eventually(p.object.Name+" is ready", func(ctx context.Context) error {
		_, err := ask(ctx, p.now().ops+"/readyz", 1<<10)
		return err
	})
	p.setReady(corev1.ConditionTrue)
}

func (p *pod) setReady(ready corev1.ConditionStatus) {
	p.of.w.t.Helper()
	before := p.object.DeepCopy()
	p.object.Status = corev1.PodStatus{
		Phase: corev1.PodRunning, PodIP: "192.0.2.1", Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}},
	}
	if err := p.of.w.admin.Status().Patch(p.of.w.t.Context(), p.object, client.MergeFrom(before)); err != nil {
		p.of.w.t.Fatal(err)
	}
}

// awaitAll waits until every pod serves the newest catalog, and lacks so many
// of its entries.
func (p *pods) awaitAll(lacking int) {
	p.w.t.Helper()
	p.w.eventually(fmt.Sprintf("all pods serve the newest catalog but for %d plugins", lacking), func(ctx context.Context) error {
		newest, err := p.w.catalog(ctx, p.server.Name)
		if err != nil {
			return err
		}
		for _, one := range p.all {
			state, err := one.state(ctx)
			if err != nil {
				return err
			}
			if state.Revision != newest.Revision() || len(state.Missing) != lacking {
				return fmt.Errorf("%s serves %+v, newest is %s", one.object.Name, state, newest.Revision())
			}
		}
		return nil
	})
}

// process is a running program, with all that it started.
type process struct {
	cmd      *exec.Cmd
	url, ops string
	ended    chan struct{}

	mu     sync.Mutex
	said   []string // the last lines, without those of requests
	alarms []string // what no program should say: panics, data races
}

// launch starts the program; await waits until it serves. It ends with the test,
// also where that is killed.
func launch(t *testing.T, cmd *exec.Cmd) (p *process, await func()) {
	t.Helper()
	endWithTest(cmd)
	p = &process{cmd: cmd, ended: make(chan struct{})}
	serving, failed := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(p.ended)
		runtime.LockOSThread() // the program would be ended with the thread that started it
		defer runtime.UnlockOSThread()
		output, err := cmd.StderrPipe()
		if err == nil {
			err = cmd.Start()
		}
		if err != nil {
			failed <- err
			return
		}
		p.listen(output, sync.OnceFunc(func() { close(serving) }))
		failed <- cmd.Wait() // after the last of those that hold the pipe has ended
	}()
	t.Cleanup(func() {
		p.kill(t)
		if len(p.alarms) > 0 {
			t.Errorf("plugin-server said:\n%s", strings.Join(p.alarms, "\n"))
		}
		if t.Failed() {
			t.Logf("plugin-server said last:\n%s", p.log())
		}
	})
	return p, func() {
		t.Helper()
		select {
		case <-serving:
		case err := <-failed:
			t.Fatalf("plugin-server did not start: %v\n%s", err, p.log())
		}
	}
}

// listen reads what the program and its child say, until both have ended.
func (p *process) listen(output io.Reader, serving func()) {
	lines := bufio.NewScanner(output)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct{ Msg string }
		structured := json.Unmarshal(lines.Bytes(), &line) == nil
		switch line.Msg {
		case "request":
			continue
		case "serving":
			var at struct{ Plugins, Ops string }
			_ = json.Unmarshal(lines.Bytes(), &at) // it is tried in vain then
			p.url, p.ops = "http://"+at.Plugins, "http://"+at.Ops
			serving()
		}
		p.mu.Lock()
		if p.said = append(p.said, lines.Text()); len(p.said) > 200 {
			p.said = slices.Delete(p.said, 0, 100)
		}
		if !structured {
			p.alarms = append(p.alarms, lines.Text())
		}
		p.mu.Unlock()
	}
}

func (p *process) log() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return strings.Join(p.said, "\n")
}

func (p *process) kill(t *testing.T) {
	t.Helper()
	_ = p.cmd.Process.Kill() // has perhaps ended
	select {
	case <-p.ended:
	case <-time.After(10 * time.Second):
		t.Errorf("sync lives on after the server was killed:\n%s", p.log())
	}
}
