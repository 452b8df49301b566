package controllers

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client/fake"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/internal/serve"
)

// TestObservePodsWakesSources shows that sources hear of what the pods serve
// when it is news, and only then: no status of the server tells them.
func TestObservePodsWakesSources(t *testing.T) {
	t.Parallel()
	o := serverOf("1.0.0")
	o.server.UID = "uid"
	o.sources = []v1alpha1.PluginSource{{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "x"}}, {ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "y"}}}
	pod := func(name string, ready corev1.ConditionStatus) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: name, Labels: desired.Labels("s")},
			Status:     corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}},
		}
	}
	state := serve.State{Revision: o.catalog.Revision()}
	var woken []string
	r := &PluginServerReconciler{
		Client:     fake.NewClientBuilder().WithScheme(Scheme()).WithObjects(pod("ready", corev1.ConditionTrue), pod("unready", corev1.ConditionFalse)).Build(),
		Known:      &Knowledge{},
		Clock:      clock.RealClock{},
		WakeSource: func(source string) { woken = append(woken, source) },
		State:      func(context.Context, *corev1.Pod) (serve.State, error) { return state, nil },
	}
	r.Known.wrote(serverName, "uid", o.catalog)
	observe := func() []string {
		woken = nil
		if err := r.observePods(t.Context(), o); err != nil {
			t.Fatal(err)
		}
		return woken
	}
	both := []string{"n/x", "n/y"}
	if diff := cmp.Diff(both, observe()); diff != "" || len(o.pods) != 1 || len(o.served) != 1 {
		t.Errorf("the first look, with %d ready pods that serve %v, woke (-want +got):\n%s", len(o.pods), o.served, diff)
	}
	if got := observe(); got != nil {
		t.Errorf("no news, and %q were woken", got)
	}
	state.Missing = []serve.Missing{{Name: mcpServer, Version: "1.0.0"}}
	if diff := cmp.Diff(both, observe()); diff != "" {
		t.Errorf("a plugin is gone from a pod (-want +got):\n%s", diff)
	}
}

// TestLookAgain: pods that are behind are asked soon, but not those that say
// what keeps them, which may take days.
func TestLookAgain(t *testing.T) {
	t.Parallel()
	behind := func(why string) podState {
		return podState{state: serve.State{Revision: "old", SyncError: why, Behind: why == "full"}}
	}
	for name, c := range map[string]struct {
		pods []podState
		want time.Duration
	}{
		"one is behind":              {[]podState{behind("")}, lookSoon},
		"one says why":               {[]podState{behind("full")}, lookLater},
		"one has another problem":    {[]podState{behind("the operator cannot be reached")}, lookSoon},
		"one of two says why":        {[]podState{behind("full"), behind("")}, lookSoon},
		"one is silent":              {[]podState{behind("full"), {err: context.DeadlineExceeded}}, lookSoon},
		"one is behind, one is well": {[]podState{behind("full"), {}}, lookLater},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := healthy()
			o.encoded = []byte("catalog")
			for i := range c.pods {
				if c.pods[i].err == nil && c.pods[i].state.Revision == "" {
					c.pods[i].state.Revision = o.catalog.Revision()
				}
			}
			o.pods = c.pods
			if got := o.lookAgain(time.Unix(0, 0)); got != c.want {
				t.Errorf("looks again after %s, want %s", got, c.want)
			}
		})
	}
}
