package controllers

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilversion "k8s.io/apimachinery/pkg/util/version"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/controller/controllerutil"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/declared"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
	"github.com/higress-group/plugin-server-operator/internal/catalog"
	"github.com/higress-group/plugin-server-operator/internal/official"
)

// mcpServer is the plugin that the controller's variable names.
const mcpServer = "mcp-server"

// integrate points the Console and the controller to the server, where it has
// the say. While something outside is held, a finalizer keeps the server.
func (r *PluginServerReconciler) integrate(ctx context.Context, o *observedServer) error {
	var servers v1alpha1.PluginServerList
	if err := r.Client.List(ctx, &servers); err != nil {
		return err
	}
	console := integration.Claim{
		Mode: modeOf(o.server.Spec.Higress.Console.Mode), Generation: o.server.Generation, Value: o.consoleValue, Note: o.consoleNote,
	}
	controller := integration.Claim{
		Mode: modeOf(o.server.Spec.Higress.Controller.Mode), Generation: o.server.Generation, Value: o.controllerValue,
	}
	var err error
	if o.console, err = r.claim(ctx, o, r.Settings.Console, console, claimant(servers.Items, r.Settings, consoleMode)); err != nil {
		return err
	}
	if o.controller, err = r.claim(ctx, o, r.Settings.Controller, controller, claimant(servers.Items, r.Settings, controllerMode)); err != nil {
		return err
	}
	if !o.console.Held && !o.controller.Held {
		return r.setFinalizer(ctx, o.server, false)
	}
	return nil
}

// claim brings one target to what this server wants of it, unless another one
// has the say.
func (r *PluginServerReconciler) claim(
	ctx context.Context, o *observedServer, target integration.Target, claim integration.Claim, has *v1alpha1.PluginServer,
) (integration.Outcome, error) {
	mine := has != nil && has.UID == o.server.UID
	switch {
	case claim.Mode != v1alpha1.IntegrationOff && !slices.Contains(r.Settings.IntegrationNamespaces, o.server.Namespace):
		return integration.Outcome{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNamespaceNotAllowed,
			Message: fmt.Sprintf("a PluginServer in namespace %s may not change the %s; allowed are: %s. Set the mode to Off, or let the operator's administrator allow the namespace", o.server.Namespace, target.Kind, strings.Join(r.Settings.IntegrationNamespaces, ", "))}, nil
	case has != nil && !mine && claim.Mode == v1alpha1.IntegrationPatch:
		return integration.Outcome{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonHeldByAnother,
			Message: fmt.Sprintf("PluginServer %s/%s is older and holds the %s: set the mode to Off here or there", has.Namespace, has.Name, target.Kind)}, nil
	case has != nil && !mine:
		return r.Integrator.Report(ctx, target, claim)
	case mine && !controllerutil.ContainsFinalizer(o.server, desired.Finalizer):
		// Held before it is written: a write that nobody remembers would stay for ever.
		foreseen, err := r.Integrator.Report(ctx, target, claim)
		if err != nil || !foreseen.Held {
			return foreseen, err
		}
		if err := r.setFinalizer(ctx, o.server, true); err != nil {
			return foreseen, err
		}
	}
	outcome, err := r.Integrator.Reconcile(ctx, target, claim)
	if err == nil && outcome.Changed != "" {
		r.Recorder.Eventf(o.server, nil, corev1.EventTypeNormal, outcome.Reason, "Integrate", "%s", outcome.Changed)
	}
	return outcome, err
}

func (r *PluginServerReconciler) setFinalizer(ctx context.Context, server *v1alpha1.PluginServer, present bool) error {
	before := server.DeepCopy()
	changed := false
	if present {
		changed = controllerutil.AddFinalizer(server, desired.Finalizer)
	} else {
		changed = controllerutil.RemoveFinalizer(server, desired.Finalizer)
	}
	if !changed {
		return nil
	}
	patch := client.MergeFromWithOptions(before, client.MergeFromWithOptimisticLock{})
	status := server.Status // the answer carries the old one, which is what we have
	err := r.Client.Patch(ctx, server, patch)
	server.Status = status
	if present {
		return err // a server that is gone must not take hold of anything
	}
	return client.IgnoreNotFound(err)
}

// claimant is the server that has the say over a target: of those that patch
// it and may, the oldest.
func claimant(servers []v1alpha1.PluginServer, settings Settings, mode func(*v1alpha1.PluginServer) v1alpha1.IntegrationMode) *v1alpha1.PluginServer {
	var oldest *v1alpha1.PluginServer
	for i := range servers {
		s := &servers[i]
		if !s.DeletionTimestamp.IsZero() || modeOf(mode(s)) != v1alpha1.IntegrationPatch ||
			!slices.Contains(settings.IntegrationNamespaces, s.Namespace) {
			continue
		}
		if oldest == nil || older(s, oldest) {
			oldest = s
		}
	}
	return oldest
}

func older(a, b *v1alpha1.PluginServer) bool {
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return a.CreationTimestamp.Before(&b.CreationTimestamp)
	}
	return a.Namespace+"/"+a.Name < b.Namespace+"/"+b.Name
}

func consoleMode(s *v1alpha1.PluginServer) v1alpha1.IntegrationMode {
	return s.Spec.Higress.Console.Mode
}

func controllerMode(s *v1alpha1.PluginServer) v1alpha1.IntegrationMode {
	return s.Spec.Higress.Controller.Mode
}

// modeOf fills in the CRD's default: an empty object inside the spec gets none
// from the API server.
func modeOf(mode v1alpha1.IntegrationMode) v1alpha1.IntegrationMode {
	if mode == "" {
		return v1alpha1.IntegrationPatch
	}
	return mode
}

// consoleValue is the pattern for the Console. A Console that has it keeps it;
// one that has not gets it once the first fetch of every plugin has ended, one
// way or the other, and something is served.
func (o *observedServer) consoleValue(ours string) (value, wait string) {
	pattern := desired.ConsolePattern(o.server)
	switch {
	case ours == pattern:
		return pattern, ""
	case len(o.served) == 0:
		return "", "nothing is served yet; the Console is pointed here once something is"
	case !o.fetchesEnded():
		return "", "the first fetch of some plugins has not ended yet; the Console is pointed here after it"
	}
	return pattern, ""
}

// consoleNote counts the plugins that the Console of a release offers and that
// are not served: an operator of Higress who enables one of them would break gateways.
func (o *observedServer) consoleNote(version string) string {
	release := strings.TrimPrefix(version, "v")
	asked, unknown := official.Embedded().Plugins([]string{release})
	if len(unknown) > 0 {
		return ""
	}
	var missing []string
	for _, p := range asked {
		if _, served := o.served[p.Key]; !served {
			missing = append(missing, p.Key.String())
		}
	}
	if len(missing) == 0 {
		return fmt.Sprintf("; all %d plugins that the Console of Higress %s offers are served", len(asked), release)
	}
	return fmt.Sprintf("; of the %d plugins that the Console of Higress %s offers %d are not served, such as %s: a PluginSource with official.higressVersions has them all",
		len(asked), release, len(missing), missing[0])
}

// controllerValue is the URL for the controller. The version it has stays as
// long as a source declares it, unless the spec names another that is served; else
// it is the highest that every ready replica serves and a source declares. One that is only
// retained is left for such a one before it goes, and kept as long as there is none.
func (o *observedServer) controllerValue(ours string) (value, wait string) {
	prefix, suffix := desired.URL(o.server)+"/plugins/"+mcpServer+"/", "/plugin.wasm"
	wanted := o.server.Spec.Higress.Controller.MCPServerVersion
	present := strings.TrimSuffix(strings.TrimPrefix(ours, prefix), suffix)
	keep, retained := o.has(catalog.Key{Name: mcpServer, Version: present})
	stands := ours != "" && prefix+present+suffix == ours
	if stands && !o.imageKnown() {
		return ours, ""
	}
	keep = keep && stands
	if keep && !retained && (wanted == "" || wanted == present) {
		return ours, ""
	}
	highest := ""
	for key := range o.served {
		if _, old := o.has(key); key.Name == mcpServer && !old && (wanted == "" || wanted == key.Version) && (highest == "" || higher(key.Version, highest)) {
			highest = key.Version
		}
	}
	switch {
	case highest != "":
		return prefix + highest + suffix, ""
	case keep:
		return ours, ""
	case wanted != "":
		return "", fmt.Sprintf("plugin %s:%s, which the spec names, is not served by every ready replica", mcpServer, wanted)
	}
	return "", fmt.Sprintf("no plugin %s is served; the controller keeps its default", mcpServer)
}

// imageKnown says whether it is known what the pods serve. Of somebody's image
// only they can say it: while there are none, or one is silent, nothing has changed.
func (o *observedServer) imageKnown() bool {
	silent := slices.ContainsFunc(o.pods, func(p podState) bool { return p.err != nil })
	return !runsImage(o.server) || (len(o.pods) > 0 && !silent)
}

// has says whether the catalog has a module for a key, and whether only because
// it is retained. Of somebody's image, while its pods are replaced, that is what only
// some of them serve.
func (o *observedServer) has(key catalog.Key) (there, retained bool) {
	if runsImage(o.server) {
		_, everywhere := o.served[key]
		return slices.ContainsFunc(o.pods, func(p podState) bool { return p.plugins[key] }), !everywhere
	}
	if o.catalog == nil {
		return false, false
	}
	i := slices.IndexFunc(o.catalog.Entries, func(e catalog.Entry) bool { return e.Key() == key && !e.Pending() })
	return i >= 0, i >= 0 && o.catalog.Entries[i].RetainedUntil != ""
}

// fetchesEnded says whether a first attempt at every declared plugin has ended.
func (o *observedServer) fetchesEnded() bool {
	for i := range o.sources {
		source := &o.sources[i]
		if source.Spec.Suspend {
			continue // nothing more will come of it
		}
		known := declared.Statuses(source)
		for _, p := range declared.Plugins(source) {
			status, reported := known[p.Key]
			if !reported || status.State == v1alpha1.PluginPending {
				return false
			}
		}
	}
	return true
}

// higher compares versions: semantic ones by their rules and above all others,
// others as text.
func higher(a, b string) bool {
	va, errA := utilversion.ParseSemantic(a)
	vb, errB := utilversion.ParseSemantic(b)
	switch {
	case errA == nil && errB == nil:
		return vb.LessThan(va)
	case errA == nil || errB == nil:
		return errA == nil
	}
	return a > b
}
