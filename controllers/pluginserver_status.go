package controllers

import (
	"cmp"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/apply"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
)

// serverStatus makes the status of a server from what was observed. It is pure.
func serverStatus(o *observedServer) v1alpha1.PluginServerStatus {
	status := *o.server.Status.DeepCopy()
	status.ObservedGeneration = o.server.Generation
	status.URL = desired.URL(o.server)
	status.Selector = labels.Set(desired.Selector(o.server.Name)).String()
	status.Replicas, status.ReadyReplicas = 0, 0
	if o.workload != nil {
		status.Replicas, status.ReadyReplicas = o.workload.replicas, o.workload.ready
	}
	status.Storage = storageStatus(o)
	status.Catalog, status.ServedRevision = v1alpha1.CatalogStatus{}, ""
	if o.catalog != nil {
		status.Catalog = catalogStatus(o)
		if len(o.pods) > 0 && o.consistent() {
			status.ServedRevision = status.Catalog.Revision
		}
	}
	set := conditionSetter(&status.Conditions, o.server.Generation)
	catalogReady, available, consistent := catalogCondition(o, status), availableCondition(o), consistentCondition(o)
	set(catalogReady)
	set(available)
	set(consistent)
	set(integrationCondition(v1alpha1.ConditionConsoleConfigured, o.console))
	set(integrationCondition(v1alpha1.ConditionControllerConfigured, o.controller))
	problems := degradations(o)
	setAbnormal(set, &status.Conditions, v1alpha1.ConditionDegraded, len(problems) > 0, v1alpha1.ReasonIncomplete, strings.Join(problems, "; "))
	summarizeServer(set, &status, o, catalogReady, available, consistent)
	return status
}

func catalogStatus(o *observedServer) v1alpha1.CatalogStatus {
	status := v1alpha1.CatalogStatus{Revision: o.catalog.Revision()}
	for _, e := range o.catalog.Entries {
		switch {
		case e.Pending():
			status.Pending++
		case e.RetainedUntil != "":
			status.Plugins++
			status.Retained++
		default:
			status.Plugins++
		}
	}
	return status
}

func catalogCondition(o *observedServer, status v1alpha1.PluginServerStatus) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionCatalogReady, Status: metav1.ConditionFalse}
	notOwned, others := splitApplyErrors(o.applyErrs)
	switch {
	case o.selectorErr != nil:
		c.Reason, c.Message = v1alpha1.ReasonInvalidSelector, fmt.Sprintf("sourceSelector cannot be read: %v", o.selectorErr)
	case o.catalogErr != nil:
		c.Reason, c.Message = v1alpha1.ReasonCatalogTooLarge, o.catalogErr.Error()
	case notOwned != nil && notOwned.Kind == "ConfigMap":
		c.Reason, c.Message = v1alpha1.ReasonNotOwned, notOwned.Error()
	case others != nil:
		c.Reason, c.Message = v1alpha1.ReasonApplyFailed, others.Error()
	case runsImage(o.server):
		c.Status, c.Reason, c.Message = metav1.ConditionTrue, v1alpha1.ReasonSucceeded, "the image brings its own plugins"
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonSucceeded
		c.Message = fmt.Sprintf("%s available, %d pending, %d retained", count(int(status.Catalog.Plugins)), status.Catalog.Pending, status.Catalog.Retained)
	}
	return c
}

func availableCondition(o *observedServer) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionAvailable, Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonReplicasUnavailable}
	if notOwned, _ := splitApplyErrors(o.applyErrs); notOwned != nil {
		c.Reason, c.Message = v1alpha1.ReasonNotOwned, notOwned.Error()
		return c
	}
	w := o.workload
	if w == nil {
		c.Reason, c.Message = v1alpha1.ReasonProgressing, "what runs the pods is not there yet"
		return c
	}
	c.Message = fmt.Sprintf("%d of %d replicas are available", w.available, w.want)
	if w.scaledBy != "" {
		c.Message += fmt.Sprintf(" (their number is set by %s, so spec.replicas does not count)", w.scaledBy)
	}
	switch {
	case w.want == 0:
		c.Reason, c.Message = v1alpha1.ReasonScaledToZero, "replicas is 0: nothing is served"
	case w.available < w.want:
		if w.observed < w.object.GetGeneration() || w.updated < w.want || w.replicas > w.updated {
			c.Reason = v1alpha1.ReasonProgressing
		}
	case w.whole():
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonSucceeded
	default: // a rollout that loses nobody
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonProgressing
	}
	return c
}

func consistentCondition(o *observedServer) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionReplicasConsistent, Status: metav1.ConditionFalse}
	silent, newest := 0, 0
	for _, pod := range o.pods {
		switch {
		case pod.err != nil:
			silent++
		case runsImage(o.server), o.catalog != nil && pod.state.Revision == o.catalog.Revision():
			newest++
		}
	}
	c.Message = fmt.Sprintf("%d of %d ready replicas serve the newest catalog", newest, len(o.pods))
	if runsImage(o.server) {
		c.Message = fmt.Sprintf("%d of %d ready replicas answer", newest, len(o.pods))
	}
	switch {
	case len(o.pods) == 0:
		c.Reason = v1alpha1.ReasonReplicasUnavailable
	case silent > 0:
		c.Reason = v1alpha1.ReasonReplicasSilent
		c.Message += fmt.Sprintf("; %d do not answer on port %d: check that the operator may reach the pods (NetworkPolicy)", silent, askedPort(o.server))
	case newest < len(o.pods):
		c.Reason = v1alpha1.ReasonReplicasCatchingUp
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonSucceeded
	}
	return c
}

// askedPort is where the operator asks the pods.
func askedPort(server *v1alpha1.PluginServer) int {
	if runsImage(server) {
		return desired.HTTPPort
	}
	return desired.OpsPort
}

func integrationCondition(kind string, outcome integration.Outcome) metav1.Condition {
	return metav1.Condition{Type: kind, Status: outcome.Status, Reason: outcome.Reason, Message: outcome.Message}
}

// degradations lists what is not as it was asked for, although the server
// serves.
func degradations(o *observedServer) []string {
	var problems []string
	failed := 0
	for i := range o.sources {
		failed += int(o.sources[i].Status.Failed)
	}
	if failed > 0 {
		problems = append(problems, fmt.Sprintf("%s cannot be fetched (kubectl get pluginsource says why)", count(failed)))
	}
	for _, clash := range o.clashes {
		if !clash.Same {
			problems = append(problems, fmt.Sprintf("%s is declared by PluginSource %s, which wins, and by %s: remove it from one of them, or set priority", clash.Key, clash.Winner, clash.Loser))
			break
		}
	}
	problems = append(problems, podProblems(o)...)
	for _, outcome := range []integration.Outcome{o.console, o.controller} {
		switch outcome.Reason {
		case v1alpha1.ReasonForeignValue, v1alpha1.ReasonTargetNotFound, v1alpha1.ReasonUnsupportedVersion,
			v1alpha1.ReasonNamespaceNotAllowed, v1alpha1.ReasonFieldContested, v1alpha1.ReasonForbidden:
			problems = append(problems, outcome.Message)
		}
	}
	return problems
}

func servedMessage(o *observedServer, status *v1alpha1.PluginServerStatus) string {
	if runsImage(o.server) {
		return fmt.Sprintf("the plugins of the image are served at %s", status.URL)
	}
	all := int(status.Catalog.Plugins)
	if served := o.servedByAll(); served < all {
		return fmt.Sprintf("%d of %s served by every replica at %s", served, count(all), status.URL)
	}
	return fmt.Sprintf("%s served at %s", count(all), status.URL)
}

// servedByAll is how many plugins of the catalog every ready pod serves as it wants
// them.
func (o *observedServer) servedByAll() (n int) {
	for _, e := range o.catalog.Entries {
		if !e.Pending() && o.served[e.Key()] == e.SHA256 {
			n++
		}
	}
	return n
}

// podProblems says what the pods lack, each problem once, in the same order
// whoever answers first. Sizes, of what is free for instance, differ a little from pod to
// pod: one of them is enough.
func podProblems(o *observedServer) []string {
	var problems []string
	for _, pod := range o.pods {
		problem := pod.state.SyncError
		if problem == "" && len(pod.state.Missing) > 0 {
			first := pod.state.Missing[0]
			problem = fmt.Sprintf("replicas lack %s, first %s:%s", count(len(pod.state.Missing)), first.Name, first.Version)
		}
		if problem != "" {
			problems = append(problems, problem)
		}
	}
	slices.SortFunc(problems, func(a, b string) int {
		return cmp.Or(cmp.Compare(withoutSizes(a), withoutSizes(b)), cmp.Compare(a, b))
	})
	return slices.CompactFunc(problems, func(a, b string) bool { return withoutSizes(a) == withoutSizes(b) })
}

var sizes = regexp.MustCompile(`\d+ MiB`)

func withoutSizes(s string) string { return sizes.ReplaceAllString(s, "MiB") }

// summarizeServer sets Ready, Reconciling and Stalled. Ready is made of
// CatalogReady and Available; pods that are catching up show as Reconciling.
func summarizeServer(
	set func(metav1.Condition), status *v1alpha1.PluginServerStatus, o *observedServer, catalogReady, available, consistent metav1.Condition,
) {
	ready := available
	if catalogReady.Status != metav1.ConditionTrue {
		ready = catalogReady
	}
	ready.Type = v1alpha1.ConditionReady
	if ready.Status == metav1.ConditionTrue {
		ready.Reason = v1alpha1.ReasonSucceeded
		ready.Message = servedMessage(o, status)
		if status.Catalog.Pending > 0 {
			ready.Message += fmt.Sprintf(", %d pending", status.Catalog.Pending)
		}
	}
	set(ready)
	stalled := false
	switch ready.Reason {
	case v1alpha1.ReasonNotOwned, v1alpha1.ReasonInvalidSelector, v1alpha1.ReasonCatalogTooLarge:
		stalled = true
	}
	setAbnormal(set, &status.Conditions, v1alpha1.ConditionStalled, stalled, ready.Reason, ready.Message)
	under := ready
	if ready.Status == metav1.ConditionTrue {
		under = available
		if available.Reason != v1alpha1.ReasonProgressing {
			under = consistent
		}
	}
	busy := !stalled && ready.Reason != v1alpha1.ReasonScaledToZero &&
		(ready.Status != metav1.ConditionTrue || available.Reason == v1alpha1.ReasonProgressing || consistent.Status != metav1.ConditionTrue)
	setAbnormal(set, &status.Conditions, v1alpha1.ConditionReconciling, busy, under.Reason, under.Message)
}

// splitApplyErrors parts objects that belong to somebody else from all other
// errors.
func splitApplyErrors(errs []error) (*apply.NotOwnedError, error) {
	var first *apply.NotOwnedError
	var others []error
	for _, err := range errs {
		var notOwned *apply.NotOwnedError
		switch {
		case !errors.As(err, &notOwned):
			others = append(others, err)
		case first == nil:
			first = notOwned
		}
	}
	return first, errors.Join(others...)
}
