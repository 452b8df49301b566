package controllers

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/fetch"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
	"github.com/higress-group/plugin-server-operator/internal/store"
)

// sourceOf makes an observed source of the versions of plugin a, with what the
// queue says of each.
func sourceOf(results ...pipeline.Result) observedSource {
	o := observedSource{source: &v1alpha1.PluginSource{}, results: results}
	o.source.Generation = 3
	for i := range results {
		version := string(rune('1' + i))
		o.results[i].Key = keyA(version)
		o.source.Spec.Plugins = append(o.source.Spec.Plugins, v1alpha1.Plugin{Name: "a", Version: version, URL: "oci://r.example/a:" + version})
	}
	o.plugins = (&PluginSourceReconciler{}).targets(declared.Plugins(o.source), fetch.Access{}, nil)
	return o
}

// servedBy adds a server that serves these versions.
func servedBy(o observedSource, served map[catalog.Key]string) observedSource {
	o.servers = append(o.servers, servingServer{name: "s", served: served, asked: true})
	return o
}

func fetchedAs(sha256 string) pipeline.Result {
	return pipeline.Result{State: pipeline.Fetched, Ended: true, Artifact: store.Artifact{Digest: "sha256:d" + sha256, Blob: store.Blob{SHA256: sha256, Size: 7, ABI: "0.2.1"}}}
}

func failed(class failure.Class, reason failure.Reason) pipeline.Result {
	return pipeline.Result{State: pipeline.Failed, Ended: true, Err: failure.New(class, reason, nil, "it is so: do that")}
}

var waiting = pipeline.Result{State: pipeline.Pending}

func TestSourceStatus(t *testing.T) {
	t.Parallel()
	all := map[catalog.Key]string{keyA("1"): "aa", keyA("2"): "bb"}
	suspended := servedBy(sourceOf(fetchedAs("aa"), waiting), all)
	suspended.source.Spec.Suspend, suspended.results = true, nil
	noAccess := servedBy(sourceOf(waiting), all)
	noAccess.results, noAccess.accessFailure = nil, failure.New(failure.Waiting, failure.SecretNotFound, nil, "Secret n/x does not exist: create it")
	clashing := servedBy(sourceOf(fetchedAs("aa")), map[catalog.Key]string{keyA("1"): "zz"})
	clashing.clashes = []declared.Clash{{Key: keyA("1"), Winner: "older", Loser: "me"}, {Key: keyA("2"), Winner: "older", Loser: "me"}}
	both := servedBy(servedBy(sourceOf(fetchedAs("aa")), all), map[catalog.Key]string{keyA("1"): "old"})

	for name, c := range map[string]struct {
		observed observedSource
		want     map[string]string // condition: status and reason
		says     string            // part of Ready's message
	}{
		"fetched and served": {servedBy(sourceOf(fetchedAs("aa"), fetchedAs("bb")), all),
			map[string]string{"Ready": "True Succeeded", "Resolved": "True Succeeded", "Fetched": "True Succeeded", "Served": "True Succeeded"},
			"2 plugins fetched and served"},
		"on its way": {servedBy(sourceOf(fetchedAs("aa"), waiting), map[catalog.Key]string{keyA("1"): "aa"}),
			map[string]string{"Ready": "False Progressing", "Reconciling": "True Progressing", "Resolved": "False Progressing", "Fetched": "False Progressing", "Served": "False Progressing"},
			"1 of 2 plugins fetched"},
		"one failed": {servedBy(sourceOf(fetchedAs("aa"), failed(failure.Upstream, failure.NotFound)), map[catalog.Key]string{keyA("1"): "aa"}),
			map[string]string{"Ready": "False PluginsFailed", "Reconciling": "True PluginsFailed", "Resolved": "False PluginsFailed", "Fetched": "False PluginsFailed", "Served": "False PluginsFailed"},
			"1 failed: a:2: NotFound: it is so: do that"},
		"two failed": {servedBy(sourceOf(failed(failure.Upstream, failure.NotFound), failed(failure.Upstream, failure.NotWasm)), nil),
			map[string]string{"Ready": "False PluginsFailed", "Reconciling": "True PluginsFailed", "Resolved": "False PluginsFailed", "Fetched": "False PluginsFailed", "Served": "False PluginsFailed"},
			"and 1 more"},
		"only an edit helps": {servedBy(sourceOf(failed(failure.Spec, failure.InvalidReference)), nil),
			map[string]string{"Ready": "False PluginsFailed", "Stalled": "True PluginsFailed", "Resolved": "False PluginsFailed", "Fetched": "False PluginsFailed", "Served": "False PluginsFailed"},
			"InvalidReference"},
		"an edit helps one, and the other is under way": {servedBy(sourceOf(failed(failure.Spec, failure.InvalidReference), waiting), nil),
			map[string]string{"Ready": "False PluginsFailed", "Reconciling": "True PluginsFailed", "Resolved": "False PluginsFailed", "Fetched": "False PluginsFailed", "Served": "False PluginsFailed"},
			""},
		"a replica is behind": {both,
			map[string]string{"Ready": "False ReplicasCatchingUp", "Reconciling": "True ReplicasCatchingUp", "Resolved": "True Succeeded", "Fetched": "True Succeeded", "Served": "False ReplicasCatchingUp"},
			"PluginServer s is behind; where that lasts, its condition Degraded says why"},
		"no server": {sourceOf(fetchedAs("aa")),
			map[string]string{"Ready": "False NotSelected", "Reconciling": "True NotSelected", "Resolved": "True Succeeded", "Fetched": "True Succeeded", "Served": "False NotSelected"},
			"no PluginServer"},
		"somebody else's plugin": {clashing,
			map[string]string{"Ready": "False DeclaredElsewhere", "Reconciling": "True DeclaredElsewhere", "Resolved": "True Succeeded", "Fetched": "True Succeeded", "Served": "False DeclaredElsewhere"},
			"older, which wins: remove it from one of them, or set priority; and 1 more"},
		"suspended": {suspended,
			map[string]string{"Ready": "False Suspended", "Resolved": "False Progressing", "Fetched": "False Suspended", "Served": "False Progressing"},
			"spec.suspend stops the rest"},
		"no Secret": {noAccess,
			map[string]string{"Ready": "False PluginsFailed", "Reconciling": "True PluginsFailed", "Resolved": "False SecretNotFound", "Fetched": "False PluginsFailed", "Served": "False PluginsFailed"},
			"SecretNotFound: Secret n/x does not exist: create it"},
		"nothing declared": {servedBy(sourceOf(), nil),
			map[string]string{"Ready": "True Succeeded", "Resolved": "True NothingDeclared", "Fetched": "True NothingDeclared", "Served": "True Succeeded"},
			"0 plugins"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			status := sourceStatus(c.observed)
			checkConditions(t, status.Conditions, c.want, 3)
			if message := meta.FindStatusCondition(status.Conditions, "Ready").Message; !strings.Contains(message, c.says) {
				t.Errorf("Ready says %q, not %q", message, c.says)
			}
			again := c.observed
			again.source = c.observed.source.DeepCopy()
			again.source.Status = status
			if diff := cmp.Diff(status, sourceStatus(again)); diff != "" {
				t.Errorf("the same observation gives another status the second time:\n%s", diff)
			}
		})
	}
}

// checkConditions compares conditions, as "status reason" by type.
func checkConditions(t *testing.T, conditions []metav1.Condition, want map[string]string, generation int64) {
	t.Helper()
	got := map[string]string{}
	for _, c := range conditions {
		got[c.Type] = string(c.Status) + " " + c.Reason
		if c.ObservedGeneration != generation {
			t.Errorf("%s speaks of generation %d, not %d", c.Type, c.ObservedGeneration, generation)
		}
		if c.Message == "" {
			t.Errorf("%s says nothing", c.Type)
		}
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("conditions (-want +got):\n%s", diff)
	}
}

// TestServedAfterRestart shows that an operator that just started does not take
// back what the last one knew.
func TestServedAfterRestart(t *testing.T) {
	t.Parallel()
	o := sourceOf(fetchedAs("aa"))
	o.source.Status = sourceStatus(servedBy(o, map[catalog.Key]string{keyA("1"): "aa"}))
	o.servers = []servingServer{{name: "s"}}
	if diff := cmp.Diff(o.source.Status, sourceStatus(o)); diff != "" {
		t.Errorf("the status changed before a pod was asked:\n%s", diff)
	}
	o.source.Generation++
	if meta.IsStatusConditionTrue(sourceStatus(o).Conditions, "Served") {
		t.Error("what was edited counts as served before a pod was asked")
	}
}

func TestPluginStatus(t *testing.T) {
	t.Parallel()
	p := target{Plugin: declared.Plugin{Key: keyA("1"), URL: "oci://r.example/a:1"}}
	pinned := p
	pinned.SHA256 = "bb"
	fetched := v1alpha1.PluginStatus{Name: "a", Version: "1", State: v1alpha1.PluginFetched, URL: p.URL, Digest: "sha256:daa", SHA256: "aa", Size: 7}
	pending := v1alpha1.PluginStatus{Name: "a", Version: "1", State: v1alpha1.PluginPending, URL: p.URL}
	bad := fetched
	bad.State, bad.Reason, bad.Message = v1alpha1.PluginFailed, "Unreachable", "it is so: do that"
	elsewhere := fetched
	elsewhere.URL = "oci://old.example/a:1"
	failing := failed(failure.Transient, failure.Unreachable)
	arrived := fetchedAs("aa")
	noSecret := failure.New(failure.Waiting, failure.SecretNotFound, nil, "it is so: do that")
	secretMissing := pending
	secretMissing.State, secretMissing.Reason, secretMissing.Message = v1alpha1.PluginFailed, "SecretNotFound", "it is so: do that"

	for name, c := range map[string]struct {
		plugin target
		before v1alpha1.PluginStatus
		result *pipeline.Result
		access *failure.Error
		want   v1alpha1.PluginStatus
	}{
		"new":                                     {p, v1alpha1.PluginStatus{}, &waiting, nil, pending},
		"arrived":                                 {p, pending, &arrived, nil, fetched},
		"fetched again: it stays what it was":     {p, fetched, &waiting, nil, fetched},
		"failed again: what was found stays":      {p, fetched, &failing, nil, bad},
		"failed, and under way again":             {p, bad, &waiting, nil, bad},
		"recovered":                               {p, bad, &arrived, nil, fetched},
		"not asked (suspended)":                   {p, fetched, nil, nil, fetched},
		"the url changed: what was found is void": {p, elsewhere, &waiting, nil, pending},
		"another module is expected":              {pinned, fetched, &waiting, nil, pending},
		"the Secret is gone, what was found stays": {
			p, fetched, nil, noSecret, fetched},
		"the Secret is missing": {p, pending, nil, noSecret, secretMissing},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if diff := cmp.Diff(c.want, pluginStatus(c.plugin, c.before, c.result, c.access)); diff != "" {
				t.Errorf("status (-want +got):\n%s", diff)
			}
		})
	}
}

func TestShorten(t *testing.T) {
	t.Parallel()
	for name, in := range map[string]string{
		"a limit":            strings.Repeat("x", maxMessage+1),
		"no half characters": strings.Repeat("世", maxMessage),
	} {
		got := shorten(in)
		if len(got) > maxMessage || !strings.HasSuffix(got, "...") || strings.ContainsRune(got, '\uFFFD') {
			t.Errorf("%s: %d bytes, %q", name, len(got), got[len(got)-8:])
		}
	}
	if got := shorten("short"); got != "short" {
		t.Errorf("shorten(short) = %q", got)
	}
}
