package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/failure"
	"github.com/higress-group/plugin-server-operator/internal/pipeline"
)

// maxMessage is the length of a plugin's message in the CRD.
const maxMessage = 512

// observedSource is everything that the status of a source is made from.
type observedSource struct {
	source  *v1alpha1.PluginSource
	plugins []target
	left    int // keys that are too many
	// refreshed is true if everything was asked to be looked at again.
	refreshed bool
	// results of the queue, in the order of plugins; nil when it was not asked.
	results       []pipeline.Result
	accessFailure *failure.Error
	listFailures  []listFailure
	reading       []string                   // lists and images that are read for the first time
	images        map[string]pipeline.Result // by ListName
	servers       []servingServer
	clashes       []declared.Clash // that the source loses
	wins          []declared.Clash
}

// servingServer is a server that selects the source, and what all its ready replicas serve.
type servingServer struct {
	name   string
	served map[catalog.Key]string
	// asked is false until its pods were asked for the first time.
	asked bool
}

// observeServers finds the servers that select the source, and the plugins that
// other sources win there.
func (r *PluginSourceReconciler) observeServers(ctx context.Context, observed *observedSource) error {
	var servers v1alpha1.PluginServerList
	var sources v1alpha1.PluginSourceList
	namespace := client.InNamespace(observed.source.Namespace)
	if err := r.Client.List(ctx, &servers, namespace); err != nil {
		return err
	}
	if err := r.Client.List(ctx, &sources, namespace); err != nil {
		return err
	}
	for i := range servers.Items {
		server := &servers.Items[i]
		selected, err := selectSources(server, sources.Items)
		if err != nil || !server.DeletionTimestamp.IsZero() {
			continue // the server's own status says what is wrong
		}
		if !slices.ContainsFunc(selected, func(s v1alpha1.PluginSource) bool { return s.Name == observed.source.Name }) {
			continue
		}
		serving := servingServer{name: server.Name}
		serving.served, serving.asked = r.Known.Served(client.ObjectKeyFromObject(server))
		observed.servers = append(observed.servers, serving)
		for _, clash := range declared.Clashes(selected) {
			switch {
			case clash.Same:
			case clash.Loser == observed.source.Name && !slices.Contains(observed.clashes, clash):
				observed.clashes = append(observed.clashes, clash)
			case clash.Winner == observed.source.Name && !slices.Contains(observed.wins, clash):
				observed.wins = append(observed.wins, clash)
			}
		}
	}
	return nil
}

// sourceStatus makes the status of a source from what was observed. It is pure.
func sourceStatus(o observedSource) v1alpha1.PluginSourceStatus {
	status := *o.source.Status.DeepCopy()
	status.ObservedGeneration = o.source.Generation
	if o.refreshed {
		status.RequestedAt = requestedAt(o.source)
	}
	status.Plugins = make([]v1alpha1.PluginStatus, len(o.plugins))
	status.Declared, status.Fetched, status.Failed = int32(len(o.plugins)), 0, 0
	known := declared.Statuses(o.source)
	for i, p := range o.plugins {
		var result *pipeline.Result
		if o.results != nil {
			result = &o.results[i]
		}
		status.Plugins[i] = pluginStatus(p, known[p.Key], o.judged(result), o.accessFailure)
		switch status.Plugins[i].State {
		case v1alpha1.PluginFetched:
			status.Fetched++
		case v1alpha1.PluginFailed:
			status.Failed++
		case v1alpha1.PluginPending:
		}
	}
	if len(status.Plugins) == 0 {
		status.Plugins = nil
	}
	trim(status.Plugins)
	set := conditionSetter(&status.Conditions, o.source.Generation)
	fetched := fetchedCondition(o, status)
	served := servedCondition(o, status)
	set(resolvedCondition(o, status))
	set(fetched)
	set(served)
	setAbnormal(set, &status.Conditions, v1alpha1.ConditionTagMoved, slices.ContainsFunc(status.Plugins, moved), v1alpha1.ReasonTagsMoved, movedTags(status, o.source.Spec.UpdatePolicy))
	warnings := warnings(o, status)
	setAbnormal(set, &status.Conditions, v1alpha1.ConditionWarned, warnings != "", v1alpha1.ReasonWorthALook, warnings)
	summarizeSource(set, o, &status, fetched, served)
	return status
}

// pluginStatus says how far a plugin has come. What was found before for the
// same url stays known while it is fetched again, or cannot be.
func pluginStatus(
	p target, before v1alpha1.PluginStatus, result *pipeline.Result, access *failure.Error,
) v1alpha1.PluginStatus {
	status := v1alpha1.PluginStatus{Name: p.Key.Name, Version: p.Key.Version, State: v1alpha1.PluginPending, URL: p.URL, Mirror: p.mirror}
	if before.URL == p.URL && (p.SHA256 == "" || p.SHA256 == before.SHA256) {
		status = before
		status.Name, status.Version = p.Key.Name, p.Key.Version
	}
	status.List, status.Aliases = p.List, declared.Aliases(p.Aliases)
	switch {
	case access != nil && status.State != v1alpha1.PluginFetched:
		status.State, status.Reason, status.Message = v1alpha1.PluginFailed, string(access.Reason), shorten(access.Message)
	case result == nil:
	case result.State == pipeline.Fetched:
		status.State, status.Reason, status.Message = v1alpha1.PluginFetched, "", ""
		status.Digest, status.SHA256, status.Size = result.Artifact.Digest, result.Artifact.SHA256, result.Artifact.Size
		status.Mirror = p.mirror
	case result.State == pipeline.Failed && result.Err != nil:
		status.State, status.Reason, status.Message = v1alpha1.PluginFailed, string(result.Err.Reason), shorten(result.Err.Message)
	case status.State == v1alpha1.PluginFetched || status.State == v1alpha1.PluginFailed:
		// Being fetched again: it stays what it was until the attempt has ended.
	default:
		status.State, status.Reason, status.Message = v1alpha1.PluginPending, "", ""
	}
	status.MovedTo = p.movedTo(status, result)
	status.Warning = shorten(p.warning(status, result))
	return status
}

func shorten(message string) string { return cut(message, maxMessage) }

func cut(message string, length int) string {
	if len(message) <= length {
		return message
	}
	return strings.ToValidUTF8(message[:length-3], "") + "..."
}

func resolvedCondition(o observedSource, status v1alpha1.PluginSourceStatus) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionResolved, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonSucceeded}
	resolved := 0
	for _, p := range status.Plugins {
		if p.Digest != "" {
			resolved++
		}
	}
	c.Message = fmt.Sprintf("the digests of %d of %s are known", resolved, count(len(status.Plugins)))
	switch {
	case o.accessFailure != nil:
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, string(o.accessFailure.Reason), o.accessFailure.Message
	case len(o.unread(status)) > 0:
		first := o.unread(status)[0]
		c.Status, c.Reason, c.Message = metav1.ConditionFalse, string(first.Reason), first.Message
	case len(o.reading) > 0:
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonProgressing
	case len(o.plugins) == 0:
		c.Reason = v1alpha1.ReasonNothingDeclared
	case resolved < len(status.Plugins) && status.Failed > 0:
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonPluginsFailed
	case resolved < len(status.Plugins):
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonProgressing
	}
	return c
}

func fetchedCondition(o observedSource, status v1alpha1.PluginSourceStatus) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionFetched, Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonSucceeded}
	c.Message = fmt.Sprintf("%d of %s fetched", status.Fetched, count(len(status.Plugins)))
	switch {
	case len(o.unread(status)) > 0:
		first := o.unread(status)[0]
		c.Status, c.Reason = metav1.ConditionFalse, string(first.Reason)
		c.Message += "; " + first.Message
	case len(o.reading) > 0:
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonProgressing
		c.Message += "; being read: " + strings.Join(o.reading, ", ")
	case len(o.plugins) == 0:
		c.Reason, c.Message = v1alpha1.ReasonNothingDeclared, "the source declares no plugin"
	case status.Failed > 0:
		first := status.Plugins[slices.IndexFunc(status.Plugins, func(p v1alpha1.PluginStatus) bool { return p.State == v1alpha1.PluginFailed })]
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonPluginsFailed
		c.Message += fmt.Sprintf(", %d failed: %s: %s: %s", status.Failed, keyOf(first), first.Reason, first.Message)
		if status.Failed > 1 {
			c.Message += fmt.Sprintf("; and %d more, see status.plugins", status.Failed-1)
		}
	case o.source.Spec.Suspend && int(status.Fetched) < len(status.Plugins):
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonSuspended
		c.Message += "; spec.suspend stops the rest"
	case int(status.Fetched) < len(status.Plugins):
		c.Status, c.Reason = metav1.ConditionFalse, v1alpha1.ReasonProgressing
	}
	return c
}

func servedCondition(o observedSource, status v1alpha1.PluginSourceStatus) metav1.Condition {
	c := metav1.Condition{Type: v1alpha1.ConditionServed, Status: metav1.ConditionFalse}
	if len(o.servers) == 0 {
		c.Reason, c.Message = v1alpha1.ReasonNotSelected, "no PluginServer of this namespace selects the source"
		return c
	}
	if len(o.clashes) > 0 {
		clash := o.clashes[0]
		c.Reason = v1alpha1.ReasonDeclaredElsewhere
		c.Message = fmt.Sprintf("%s is also declared by PluginSource %s, which wins: remove it from one of them, or set priority", clash.Key, clash.Winner)
		if len(o.clashes) > 1 {
			c.Message += fmt.Sprintf("; and %d more", len(o.clashes)-1)
		}
		return c
	}
	if before := meta.FindStatusCondition(o.source.Status.Conditions, c.Type); before != nil && before.ObservedGeneration == o.source.Generation &&
		slices.ContainsFunc(o.servers, func(s servingServer) bool { return !s.asked }) {
		return *before // an operator that just started has not asked the pods yet
	}
	served := 0
	var lagging string
	for _, p := range status.Plugins {
		behind := slices.IndexFunc(o.servers, func(s servingServer) bool { return p.SHA256 == "" || !s.serves(p) })
		if behind < 0 {
			served++
		} else if p.SHA256 != "" && lagging == "" {
			lagging = o.servers[behind].name
		}
	}
	c.Message = fmt.Sprintf("%d of %s served by every ready replica", served, count(len(status.Plugins)))
	switch {
	case lagging != "":
		c.Reason = v1alpha1.ReasonReplicasCatchingUp
		c.Message += fmt.Sprintf("; PluginServer %s is behind; where that lasts, its condition Degraded says why", lagging)
	case served < len(status.Plugins) && status.Failed > 0:
		c.Reason = v1alpha1.ReasonPluginsFailed
	case served < len(status.Plugins):
		c.Reason = v1alpha1.ReasonProgressing
	default:
		c.Status, c.Reason = metav1.ConditionTrue, v1alpha1.ReasonSucceeded
	}
	return c
}

// summarizeSource sets Ready, Reconciling and Stalled.
func summarizeSource(set func(metav1.Condition), o observedSource, status *v1alpha1.PluginSourceStatus, fetched, served metav1.Condition) {
	ready := served
	if fetched.Status != metav1.ConditionTrue {
		ready = fetched
	}
	ready.Type = v1alpha1.ConditionReady
	if ready.Status == metav1.ConditionTrue {
		ready.Message = fmt.Sprintf("%s fetched and served", count(len(status.Plugins)))
	}
	set(ready)
	unread := o.unread(*status)
	stalled := fetched.Reason == v1alpha1.ReasonPluginsFailed && onlyEditsHelp(o, status.Plugins) || len(unread) > 0 && unread[0].Class == failure.Spec
	setAbnormal(set, &status.Conditions, v1alpha1.ConditionStalled, stalled, fetched.Reason, fetched.Message)
	under := ready.Status != metav1.ConditionTrue && !stalled && ready.Reason != v1alpha1.ReasonSuspended
	setAbnormal(set, &status.Conditions, v1alpha1.ConditionReconciling, under, ready.Reason, ready.Message)
}

// onlyEditsHelp says whether nothing is under way, and every failure is one
// that only an edit of the source can mend.
func onlyEditsHelp(o observedSource, plugins []v1alpha1.PluginStatus) bool {
	for i, p := range plugins {
		switch {
		case p.State == v1alpha1.PluginPending:
			return false
		case p.State != v1alpha1.PluginFailed:
		case o.results != nil && o.results[i].Err != nil:
			if o.results[i].Err.Class != failure.Spec {
				return false
			}
		case p.Reason != v1alpha1.ReasonInvalidReference:
			return false
		}
	}
	return true
}

// selectSources gives the sources that a server selects.
func selectSources(server *v1alpha1.PluginServer, sources []v1alpha1.PluginSource) ([]v1alpha1.PluginSource, error) {
	if runsImage(server) {
		return nil, nil
	}
	if server.Spec.SourceSelector == nil {
		return sources, nil
	}
	selector, err := metav1.LabelSelectorAsSelector(server.Spec.SourceSelector)
	if err != nil {
		return nil, err
	}
	var selected []v1alpha1.PluginSource
	for _, s := range sources {
		if selector.Matches(labels.Set(s.Labels)) {
			selected = append(selected, s)
		}
	}
	return selected, nil
}
