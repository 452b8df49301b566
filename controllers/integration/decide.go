package integration

import (
	"fmt"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilversion "k8s.io/apimachinery/pkg/util/version"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// Claim is what a PluginServer wants of a target. The zero Claim wants nothing:
// what is held is let go.
type Claim struct {
	Mode v1alpha1.IntegrationMode
	// Value gives the value to set, when the target now holds the given value
	// of ours (empty: none), or what it still waits for.
	Value func(ours string) (value, wait string)
	// Note gives what is worth knowing when the target, of a version of Higress,
	// points here; it may be nil.
	Note func(version string) string
	// Generation of the PluginServer: an edit gives a contested field another try.
	Generation int64
}

// Outcome is what has become of a claim, in the terms of a condition.
type Outcome struct {
	Status  metav1.ConditionStatus
	Reason  string
	Message string
	// Held is true while the target holds a value of ours.
	Held bool
	// Changed says what was written, for an event; empty when nothing was.
	Changed string
}

type action int

const (
	leave action = iota
	set
	release
)

// decision is what to do with a target, and how to report it.
type decision struct {
	action  action
	value   string
	outcome Outcome
}

// decide looks at a target and a claim and says what to do. The rules, in their
// order:
//
//  1. Off, and nobody claiming: let go of what is ours.
//  2. No Deployment, no container: report; nothing is ever created.
//  3. A Higress that does not read the variable: report, let go.
//  4. Observe: let go, report whether the value is right.
//  5. Somebody else supplies the variable: the same value is fine, another wins.
//  6. Nothing to point to yet: wait. A value of ours that is no longer wanted goes.
//  7. Otherwise the value is set, unless it already is.
func decide(target Target, seen observation, claim Claim) decision {
	d := judge(target, seen, claim)
	if d.outcome.Status == metav1.ConditionTrue && claim.Note != nil {
		d.outcome.Message += claim.Note(seen.version)
	}
	return d
}

func judge(target Target, seen observation, claim Claim) decision {
	for _, rule := range []func(Target, observation, Claim) (decision, bool){
		whenOff, whenAbsent, whenUnsupported, whenObserving, whenForeign, whenWaiting,
	} {
		if d, applies := rule(target, seen, claim); applies {
			return d
		}
	}
	value, _ := claim.Value(ourValue(seen))
	d := decision{value: value, outcome: Outcome{
		Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonConfigured, Held: true,
		Message: fmt.Sprintf("%s of %s is %s", target.Variable, place(target), value),
	}}
	if !seen.ours || seen.value != value {
		d.action = set
	}
	return d
}

func whenOff(_ Target, seen observation, claim Claim) (decision, bool) {
	off := claim.Mode == v1alpha1.IntegrationOff || claim.Mode == ""
	return letGo(seen, Outcome{
		Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonOff, Message: "mode is Off: the operator does not look at it",
	}), off
}

func whenAbsent(target Target, seen observation, _ Claim) (decision, bool) {
	outcome := Outcome{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonTargetNotFound}
	switch {
	case !seen.found:
		outcome.Message = fmt.Sprintf("Deployment %s does not exist: install Higress there, or tell the operator its name and namespace", target.Deployment)
	case !seen.containerFound:
		outcome.Message = fmt.Sprintf("Deployment %s has no container %s: tell the operator the container's name", target.Deployment, target.Container)
	default:
		return decision{}, false
	}
	return decision{outcome: outcome}, true
}

func whenUnsupported(target Target, seen observation, _ Claim) (decision, bool) {
	version, err := utilversion.ParseGeneric(seen.version)
	if err != nil || version.AtLeast(utilversion.MustParseGeneric(MinimumVersion)) {
		return decision{}, false // an unknown version gets the benefit of the doubt
	}
	return letGo(seen, Outcome{
		Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonUnsupportedVersion,
		Message: fmt.Sprintf("%s is Higress %s, which does not read %s: upgrade Higress to %s or later", place(target), seen.version, target.Variable, MinimumVersion),
	}), true
}

func whenObserving(target Target, seen observation, claim Claim) (decision, bool) {
	if claim.Mode != v1alpha1.IntegrationObserve {
		return decision{}, false
	}
	value, wait := claim.Value("")
	switch {
	case wait != "":
		return letGo(seen, Outcome{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonWaitingForPlugins, Message: wait}), true
	case seen.set && !seen.ours && seen.value == value:
		return decision{outcome: Outcome{
			Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAlreadyConfigured,
			Message: fmt.Sprintf("%s of %s is %s", target.Variable, place(target), value),
		}}, true
	}
	return letGo(seen, Outcome{
		Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonNotConfigured,
		Message: fmt.Sprintf("mode is Observe, and %s of %s is not %s: set the Helm value %s to it", target.Variable, place(target), value, target.HelmValue),
	}), true
}

func whenForeign(target Target, seen observation, claim Claim) (decision, bool) {
	if seen.foreign == "" {
		return decision{}, false
	}
	value, wait := claim.Value(ourValue(seen))
	if wait == "" && seen.set && seen.value == value {
		outcome := Outcome{Status: metav1.ConditionTrue, Reason: v1alpha1.ReasonAlreadyConfigured, Held: seen.ours,
			Message: fmt.Sprintf("%s of %s is %s, set by %s", target.Variable, place(target), value, seen.foreign)}
		return decision{outcome: outcome}, true
	}
	wanted := "the plugin server's URL"
	if wait == "" {
		wanted = value
	}
	return letGo(seen, Outcome{
		Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonForeignValue,
		Message: fmt.Sprintf("%s of %s is set by %s and is left alone: remove it there (Helm value %s) to hand it over, or set it to %s", target.Variable, place(target), seen.foreign, target.HelmValue, wanted),
	}), true
}

func whenWaiting(target Target, seen observation, claim Claim) (decision, bool) {
	_, wait := claim.Value(ourValue(seen))
	if wait == "" {
		return decision{}, false
	}
	return letGo(seen, Outcome{Status: metav1.ConditionFalse, Reason: v1alpha1.ReasonWaitingForPlugins, Message: wait}), true
}

// letGo releases what is ours, if anything is.
func letGo(seen observation, outcome Outcome) decision {
	if seen.ours {
		return decision{action: release, outcome: outcome}
	}
	return decision{outcome: outcome}
}

func ourValue(seen observation) string {
	if seen.ours {
		return seen.value
	}
	return ""
}

func place(target Target) string {
	return fmt.Sprintf("Deployment %s (container %s)", target.Deployment, target.Container)
}
