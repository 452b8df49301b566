package integration

import (
	"context"
	"fmt"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	appsv1ac "k8s.io/client-go/applyconfigurations/apps/v1"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers/desired"
)

// A variable that is taken away contestedAfter times within contestedWithin is not set again.
const (
	contestedAfter  = 3
	contestedWithin = 10 * time.Minute
)

// The rights on Higress's own objects. The Role holds them in Higress's namespace only, and an admission
// policy narrows the patch to the two variables.
//
// +kubebuilder:rbac:groups=apps,namespace=higress-system,roleName=plugin-server-operator-higress,resources=deployments,verbs=get;list;watch
// +kubebuilder:rbac:groups=apps,namespace=higress-system,roleName=plugin-server-operator-higress,resources=deployments,resourceNames=higress-console;higress-controller,verbs=patch
// +kubebuilder:rbac:groups="",namespace=higress-system,roleName=plugin-server-operator-higress,resources=configmaps;secrets,verbs=get

// Integrator brings targets to what their claims want.
type Integrator struct {
	Client client.Client
	// Live reads from the API server itself.
	Live  client.Reader
	Clock clock.PassiveClock

	mu   sync.Mutex
	seen map[types.NamespacedName]*history
}

// history remembers what was set, to notice that somebody keeps taking it away.
type history struct {
	value      string
	generation int64
	// set: it was written, and was there when it was last looked at.
	set      bool
	reverted []time.Time
}

// Reconcile brings one target to what the claim wants. One call at a time, so
// that two servers never decide about a target at once.
func (i *Integrator) Reconcile(ctx context.Context, target Target, claim Claim) (Outcome, error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	seen, err := observe(ctx, i.Live, target)
	if err != nil {
		return i.explain(target, observation{}, err)
	}
	d := decide(target, seen, claim)
	switch d.action {
	case set:
		if i.contested(target, d.value, claim.Generation) {
			return contestedOutcome(target), nil
		}
		if err := i.Client.Apply(ctx, leaf(target, seen, d.value), client.FieldOwner(desired.FieldManager)); err != nil {
			return i.explain(target, seen, err)
		}
		i.noteSet(target)
		d.outcome.Changed = fmt.Sprintf("set %s of %s to %s", target.Variable, place(target), d.value)
	case release:
		if err := i.Client.Apply(ctx, nothing(target, seen), client.FieldOwner(desired.FieldManager)); err != nil {
			return i.explain(target, seen, err)
		}
		delete(i.seen, target.Deployment)
		d.outcome.Changed = fmt.Sprintf("released %s of %s", target.Variable, place(target))
	case leave:
	}
	return d.outcome, nil
}

// Report says what Reconcile would make of the claim, and writes nothing.
func (i *Integrator) Report(ctx context.Context, target Target, claim Claim) (Outcome, error) {
	seen, err := observe(ctx, i.Live, target)
	if err != nil {
		return i.explain(target, observation{}, err)
	}
	d := decide(target, seen, claim)
	i.mu.Lock()
	defer i.mu.Unlock()
	if h := i.seen[target.Deployment]; d.action == set && h != nil &&
		h.value == d.value && h.generation == claim.Generation && len(h.reverted) >= contestedAfter {
		return contestedOutcome(target), nil
	}
	return d.outcome, nil
}

func contestedOutcome(target Target) Outcome {
	return Outcome{
		Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonFieldContested,
		Message: fmt.Sprintf("somebody took %s of %s away %d times within %s, so it is not set again: find who replaces the Deployment, or set the mode to Observe", target.Variable, place(target), contestedAfter, contestedWithin),
	}
}

// contested notes what is about to be set and says whether somebody keeps
// taking it away. A write that fails was taken away by nobody.
func (i *Integrator) contested(target Target, value string, generation int64) bool {
	if i.seen == nil {
		i.seen = map[types.NamespacedName]*history{}
	}
	h := i.seen[target.Deployment]
	if h == nil || h.value != value || h.generation != generation {
		i.seen[target.Deployment] = &history{value: value, generation: generation}
		return false
	}
	if h.set && len(h.reverted) < contestedAfter {
		h.set = false
		now := i.Clock.Now()
		recent := []time.Time{now}
		for _, t := range h.reverted {
			if now.Sub(t) < contestedWithin {
				recent = append(recent, t)
			}
		}
		h.reverted = recent
	}
	return len(h.reverted) >= contestedAfter
}

// noteSet notes that what was about to be set is set.
func (i *Integrator) noteSet(target Target) { i.seen[target.Deployment].set = true }

// explain turns an error of the API server into an outcome where the user can do something about it.
func (i *Integrator) explain(target Target, seen observation, err error) (Outcome, error) {
	outcome := Outcome{Status: metav1.ConditionFalse, Held: seen.ours}
	switch {
	case apierrors.IsForbidden(err):
		outcome.Reason = v1alpha1.ReasonForbidden
		outcome.Message = fmt.Sprintf("the operator may not change %s: %v", place(target), err)
	case apierrors.IsConflict(err), apierrors.IsInvalid(err):
		outcome.Reason = v1alpha1.ReasonForeignValue
		outcome.Message = fmt.Sprintf("%s of %s belongs to somebody else and is left alone: %v", target.Variable, place(target), err)
	default:
		return Outcome{}, fmt.Errorf("%s of %s: %w", target.Variable, place(target), err)
	}
	return outcome, nil
}

// leaf is the one value that the operator owns in somebody else's Deployment.
// The UID keeps a Deployment that was deleted meanwhile from being created.
func leaf(target Target, seen observation, value string) *appsv1ac.DeploymentApplyConfiguration {
	return nothing(target, seen).WithSpec(appsv1ac.DeploymentSpec().WithTemplate(corev1ac.PodTemplateSpec().
		WithSpec(corev1ac.PodSpec().WithContainers(corev1ac.Container().
			WithName(target.Container).
			WithEnv(corev1ac.EnvVar().WithName(target.Variable).WithValue(value))))))
}

// nothing is what is applied to let go: everything that was applied before and
// is not in it is removed.
func nothing(target Target, seen observation) *appsv1ac.DeploymentApplyConfiguration {
	return appsv1ac.Deployment(target.Deployment.Name, target.Deployment.Namespace).WithUID(seen.uid)
}
