package controllers

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/apply"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
	"github.com/higress-group/plugin-server-operator/internal/serve"
)

// healthy is a server of two replicas with which everything is well, changed
// by some functions.
func healthy(changes ...func(*observedServer)) *observedServer {
	o := serverOf("1.0.0")
	o.server.Generation = 3
	o.workload = &workload{object: &appsv1.Deployment{}, want: 2, replicas: 2, updated: 2, ready: 2, available: 2}
	newest := serve.State{Revision: o.catalog.Revision()}
	o.pods = []podState{{name: "p", state: newest}, {name: "q", state: newest}}
	o.console = integration.Outcome{Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonConfigured, Message: "set", Held: true}
	o.controller = o.console
	for _, change := range changes {
		change(o)
	}
	return o
}

// wellConditions are those of healthy, with some others in their place; "" is
// none.
func wellConditions(others map[string]string) map[string]string {
	conditions := map[string]string{
		"Ready": "True Succeeded", "CatalogReady": "True Succeeded", "Available": "True Succeeded",
		"ReplicasConsistent": "True Succeeded", "ConsoleConfigured": "True Configured", "ControllerConfigured": "True Configured",
	}
	for kind, value := range others {
		conditions[kind] = value
		if value == "" {
			delete(conditions, kind)
		}
	}
	return conditions
}

func workloadIs(change func(*workload)) func(*observedServer) {
	return func(o *observedServer) { change(o.workload) }
}

func TestServerStatus(t *testing.T) {
	t.Parallel()
	notOwned := func(kind string) func(*observedServer) {
		return func(o *observedServer) {
			o.applyErrs = []error{&apply.NotOwnedError{Kind: kind, Namespace: "n", Name: "s"}}
		}
	}
	for name, c := range map[string]struct {
		observed *observedServer
		want     map[string]string // what differs from wellConditions
		kind     string            // whose message
		says     string
	}{
		"all is well": {healthy(), nil, "Ready", "1 plugin served at http://s.n.svc"},
		"no Deployment yet": {healthy(func(o *observedServer) { o.workload, o.pods = nil, nil }),
			map[string]string{"Ready": "False Progressing", "Available": "False Progressing", "ReplicasConsistent": "False ReplicasUnavailable", "Reconciling": "True Progressing"}, "Ready", "not there yet"},
		"one pod is down": {healthy(workloadIs(func(w *workload) { w.available, w.ready = 1, 1 })),
			map[string]string{"Ready": "False ReplicasUnavailable", "Available": "False ReplicasUnavailable", "Reconciling": "True ReplicasUnavailable"}, "Ready", "1 of 2 replicas"},
		"a rollout that loses nobody": {healthy(workloadIs(func(w *workload) { w.replicas, w.updated = 3, 1 })),
			map[string]string{"Available": "True Progressing", "Reconciling": "True Progressing"}, "Reconciling", "2 of 2 replicas"},
		"a rollout that was not begun": {healthy(workloadIs(func(w *workload) { w.object.SetGeneration(2); w.observed = 1 })),
			map[string]string{"Available": "True Progressing", "Reconciling": "True Progressing"}, "Reconciling", ""},
		"scaled to zero": {healthy(func(o *observedServer) { o.workload, o.pods = &workload{object: o.workload.object}, nil }),
			map[string]string{"Ready": "False ScaledToZero", "Available": "False ScaledToZero", "ReplicasConsistent": "False ReplicasUnavailable"}, "Ready", "replicas is 0"},
		"a pod is behind": {healthy(func(o *observedServer) { o.pods[1].state.Revision = "old" }),
			map[string]string{"ReplicasConsistent": "False ReplicasCatchingUp", "Reconciling": "True ReplicasCatchingUp"}, "ReplicasConsistent", "1 of 2 ready replicas"},
		"a pod is silent": {healthy(func(o *observedServer) { o.pods[1] = podState{name: "q", err: errors.New("timeout")} }),
			map[string]string{"ReplicasConsistent": "False ReplicasSilent", "Reconciling": "True ReplicasSilent"}, "ReplicasConsistent", "NetworkPolicy"},
		"the Deployment is somebody else's": {healthy(notOwned("Deployment")),
			map[string]string{"Ready": "False NotOwned", "Available": "False NotOwned", "Stalled": "True NotOwned"}, "Ready", "delete or rename it"},
		"the ConfigMap is somebody else's": {healthy(notOwned("ConfigMap")),
			map[string]string{"Ready": "False NotOwned", "CatalogReady": "False NotOwned", "Available": "False NotOwned", "Stalled": "True NotOwned"}, "CatalogReady", "ConfigMap n/s"},
		"the API server refuses": {healthy(func(o *observedServer) { o.applyErrs = []error{errors.New("quota exceeded")} }),
			map[string]string{"Ready": "False ApplyFailed", "CatalogReady": "False ApplyFailed", "Reconciling": "True ApplyFailed"}, "Ready", "quota exceeded"},
		"the selector cannot be read": {healthy(func(o *observedServer) { o.selectorErr = errors.New("bad operator") }),
			map[string]string{"Ready": "False InvalidSelector", "CatalogReady": "False InvalidSelector", "Stalled": "True InvalidSelector"}, "Ready", "bad operator"},
		"the catalog is too large": {healthy(func(o *observedServer) { o.catalogErr = errors.New("spread the sources") }),
			map[string]string{"Ready": "False CatalogTooLarge", "CatalogReady": "False CatalogTooLarge", "Stalled": "True CatalogTooLarge"}, "Ready", "spread the sources"},
		"a plugin cannot be had": {healthy(func(o *observedServer) {
			o.sources = []v1alpha1.PluginSource{{Status: v1alpha1.PluginSourceStatus{Failed: 2}}}
		}),
			map[string]string{"Degraded": "True Incomplete"}, "Degraded", "2 plugins cannot be fetched"},
		"a clash": {healthy(func(o *observedServer) { o.clashes = []declared.Clash{{Key: keyA("1"), Winner: "x", Loser: "y"}} }),
			map[string]string{"Degraded": "True Incomplete"}, "Degraded", "a:1 is declared by PluginSource x, which wins, and by y"},
		"a clash about the same module": {healthy(func(o *observedServer) {
			o.clashes = []declared.Clash{{Key: keyA("1"), Winner: "x", Loser: "y", Same: true}}
		}), nil, "Ready", ""},
		"a pod says what keeps it": {healthy(func(o *observedServer) { o.pods[0].state.SyncError, o.pods[1].state.SyncError = "full", "full" }), map[string]string{"Degraded": "True Incomplete"}, "Degraded", "full"},
		"a pod lacks a plugin": {healthy(func(o *observedServer) {
			o.pods[0].state.Missing, o.served = []serve.Missing{{Name: "a", Version: "1"}}, nil
		}), map[string]string{"Degraded": "True Incomplete"}, "Degraded", "replicas lack 1 plugin, first a:1"},
		"somebody's image": {healthy(func(o *observedServer) {
			o.server.Spec.Server.Type, o.catalog = v1alpha1.ServerImage, nil
		}), nil, "Ready", "the plugins of the image"},
		"a pod lacks the only plugin": {healthy(func(o *observedServer) {
			o.pods[0].state.Missing, o.served = []serve.Missing{{Name: "a", Version: "1"}}, nil
		}), map[string]string{"Degraded": "True Incomplete"}, "Ready", "0 of 1 plugin served by every replica"},
		"a foreign value in the Console":  {healthy(outcome(v1alpha1.ReasonForeignValue)), map[string]string{"ConsoleConfigured": "False ForeignValue", "Degraded": "True Incomplete"}, "Degraded", "why"},
		"no Console":                      {healthy(outcome(v1alpha1.ReasonTargetNotFound)), map[string]string{"ConsoleConfigured": "False TargetNotFound", "Degraded": "True Incomplete"}, "Degraded", "why"},
		"the Console is switched off":     {healthy(outcome(v1alpha1.ReasonOff)), map[string]string{"ConsoleConfigured": "False Off"}, "Ready", ""},
		"the Console waits":               {healthy(outcome(v1alpha1.ReasonWaitingForPlugins)), map[string]string{"ConsoleConfigured": "False WaitingForPlugins"}, "Ready", ""},
		"the Console is held by an older": {healthy(outcome(v1alpha1.ReasonHeldByAnother)), map[string]string{"ConsoleConfigured": "False HeldByAnother"}, "Ready", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := serverStatus(c.observed)
			checkConditions(t, status.Conditions, wellConditions(c.want), 3)
			if found := meta.FindStatusCondition(status.Conditions, c.kind); found != nil && !strings.Contains(found.Message, c.says) {
				t.Errorf("%s says %q, not %q", c.kind, found.Message, c.says)
			}
			c.observed.server.Status = status
			if diff := cmp.Diff(status, serverStatus(c.observed)); diff != "" {
				t.Errorf("the same observation gives another status the second time:\n%s", diff)
			}
			recovered := healthy()
			recovered.server.Status = status
			checkConditions(t, serverStatus(recovered).Conditions, wellConditions(nil), 3)
		})
	}
}

func outcome(reason string) func(*observedServer) {
	return func(o *observedServer) {
		o.console = integration.Outcome{Status: metav1.ConditionFalse, Reason: reason, Message: "why"}
	}
}

func TestServerStatusNumbers(t *testing.T) {
	t.Parallel()
	o := healthy()
	o.pods[0].state.Used, o.pods[0].state.Budget = 5, 9
	o.pods[1].state.Used, o.pods[1].state.Budget = 7, 9
	revision := o.catalog.Revision()
	status := serverStatus(o)
	want := v1alpha1.PluginServerStatus{
		ObservedGeneration: 3, Conditions: status.Conditions, Replicas: 2, ReadyReplicas: 2, Selector: "app=s,higress=s",
		URL: "http://s.n.svc", Catalog: v1alpha1.CatalogStatus{Revision: revision, Plugins: 1}, ServedRevision: revision,
		Storage: v1alpha1.StorageStatus{UsedBytes: 7, BudgetBytes: 9, Durability: durability(v1alpha1.Storage{})},
	}
	if diff := cmp.Diff(want, status); diff != "" {
		t.Errorf("status (-want +got):\n%s", diff)
	}
	o.server.Status = status
	for used, want := range map[int64]int64{7: 7, 1000: 1000, 0: 0} {
		o.server.Status.Storage.UsedBytes, o.server.Status.Storage.BudgetBytes = 500, 2000
		o.pods[0].state.Used, o.pods[0].state.Budget, o.pods[1].state.Used, o.pods[1].state.Budget = used, 2000, 0, 2000
		if got := serverStatus(o).Storage.UsedBytes; got != want {
			t.Errorf("of 500 in use it says %d after %d, want %d", got, used, want)
		}
	}
	o.pods[0].state.Used = 599
	if got := serverStatus(o).Storage.UsedBytes; got != 500 {
		t.Errorf("a small change is reported: %d", got)
	}
	o.server.Status = v1alpha1.PluginServerStatus{}
	o.catalog.Entries[0].RetainedUntil = "2026-01-01T00:00:00Z"
	o.catalog.Entries = append(o.catalog.Entries, catalogOf(0, map[string]string{"1": ""}).Entries...)
	status = serverStatus(o)
	if diff := cmp.Diff(v1alpha1.CatalogStatus{Revision: o.catalog.Revision(), Plugins: 1, Retained: 1, Pending: 1}, status.Catalog); diff != "" {
		t.Errorf("a retained plugin counts as served, a pending one does not (-want +got):\n%s", diff)
	}
	if status.ServedRevision != "" {
		t.Errorf("servedRevision is %s, while the pods serve an older one", status.ServedRevision)
	}
}

func TestPodProblems(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ problems, want []string }{
		"none":                   {[]string{"", ""}, nil},
		"the same":               {[]string{"full", "full"}, []string{"full"}},
		"others, in one order":   {[]string{"lost", "full"}, []string{"full", "lost"}},
		"others, in the other":   {[]string{"full", "lost"}, []string{"full", "lost"}},
		"figures, in one order":  {[]string{"5 MiB are free", "4 MiB are free"}, []string{"4 MiB are free"}},
		"figures, in the other":  {[]string{"4 MiB are free", "5 MiB are free"}, []string{"4 MiB are free"}},
		"figures of other words": {[]string{"4 MiB are free", "14 files were damaged"}, []string{"14 files were damaged", "4 MiB are free"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := healthy()
			for i, problem := range c.problems {
				o.pods[i].state.SyncError = problem
			}
			if diff := cmp.Diff(c.want, podProblems(o), cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("problems (-want +got):\n%s", diff)
			}
		})
	}
}
