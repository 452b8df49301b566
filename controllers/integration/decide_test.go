package integration

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

var console = Target{
	Kind: "Console", Deployment: types.NamespacedName{Namespace: "higress-system", Name: "higress-console"},
	Container: "higress-console", Variable: ConsoleVariable, HelmValue: "higress-console.podEnvs." + ConsoleVariable,
}

const wanted = "http://s.n.svc/plugins/${name}/${version}/plugin.wasm"

// always wants one value, whatever is there.
func always(string) (string, string) { return wanted, "" }

// never has nothing to point to yet.
func never(string) (string, string) { return "", "nothing is served yet" }

// keeping wants to keep what is there, and has nothing new.
func keeping(ours string) (string, string) {
	if ours != "" {
		return ours, ""
	}
	return "", "nothing is served yet"
}

// there is a Console of a version that reads the variable, changed by some
// functions.
func there(changes ...func(*observation)) observation {
	seen := observation{found: true, containerFound: true, uid: "u", version: "2.2.4"}
	for _, change := range changes {
		change(&seen)
	}
	return seen
}

func ours(value string) func(*observation) {
	return func(o *observation) { o.set, o.ours, o.value = true, true, value }
}

func foreign(value string) func(*observation) {
	return func(o *observation) { o.set, o.value, o.foreign = true, value, `field manager "helm"` }
}

func version(v string) func(*observation) { return func(o *observation) { o.version = v } }

type decideCase struct {
	seen  observation
	mode  v1alpha1.IntegrationMode
	value func(string) (string, string)

	action action
	status metav1.ConditionStatus
	reason string
	held   bool
	says   []string // parts of the message
}

// TestDecide has the rules of decide in their order, each with its neighbours.
func TestDecide(t *testing.T) {
	t.Parallel()
	groups := []map[string]decideCase{offCases(), absentCases(), unsupportedCases(), observeCases(), foreignCases(), valueCases()}
	for _, group := range groups {
		for name, c := range group {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				runDecide(t, c)
			})
		}
	}
}

func runDecide(t *testing.T, c decideCase) {
	t.Helper()
	if c.value == nil {
		c.value = always
	}
	got := decide(console, c.seen, Claim{Mode: c.mode, Value: c.value})
	if got.action != c.action {
		t.Errorf("action = %d, want %d", got.action, c.action)
	}
	want := Outcome{Status: c.status, Reason: c.reason, Held: c.held, Message: got.outcome.Message}
	if diff := cmp.Diff(want, got.outcome); diff != "" {
		t.Errorf("outcome (-want +got):\n%s", diff)
	}
	for _, part := range c.says {
		if !strings.Contains(got.outcome.Message, part) {
			t.Errorf("the message %q does not say %q", got.outcome.Message, part)
		}
	}
	if got.action == set && got.value != wanted {
		t.Errorf("value = %q, want %q", got.value, wanted)
	}
}

func offCases() map[string]decideCase {
	off := v1alpha1.IntegrationOff
	return map[string]decideCase{
		"off and nothing of ours: nothing to do": {seen: there(), mode: off, action: leave, status: metav1.ConditionFalse, reason: v1alpha1.ReasonOff},
		"off lets go of ours":                    {seen: there(ours(wanted)), mode: off, action: release, status: metav1.ConditionFalse, reason: v1alpha1.ReasonOff},
		"off leaves a foreign value":             {seen: there(foreign("x")), mode: off, action: leave, status: metav1.ConditionFalse, reason: v1alpha1.ReasonOff},
		"off does not complain that nobody is there, it comes first": {
			seen: observation{}, mode: off, action: leave, status: metav1.ConditionFalse, reason: v1alpha1.ReasonOff},
		"nobody claims: like off":              {seen: there(ours(wanted)), mode: "", action: release, status: metav1.ConditionFalse, reason: v1alpha1.ReasonOff},
		"off lets go of a Higress that is old": {seen: there(ours(wanted), version("2.0.4")), mode: off, action: release, status: metav1.ConditionFalse, reason: v1alpha1.ReasonOff},
	}
}

func absentCases() map[string]decideCase {
	patch, observe := v1alpha1.IntegrationPatch, v1alpha1.IntegrationObserve
	return map[string]decideCase{
		"no Deployment": {seen: observation{}, mode: patch, action: leave, status: metav1.ConditionFalse, reason: v1alpha1.ReasonTargetNotFound,
			says: []string{"higress-system/higress-console", "does not exist", "install Higress"}},
		"no Deployment, observed only": {seen: observation{}, mode: observe, action: leave, status: metav1.ConditionFalse, reason: v1alpha1.ReasonTargetNotFound},
		"no container": {seen: observation{found: true, version: "2.2.4"}, mode: patch, action: leave, status: metav1.ConditionFalse, reason: v1alpha1.ReasonTargetNotFound,
			says: []string{"no container higress-console"}},
		"no container comes before an old version": {seen: observation{found: true, version: "2.0.4"}, mode: patch, action: leave, status: metav1.ConditionFalse, reason: v1alpha1.ReasonTargetNotFound},
	}
}

func unsupportedCases() map[string]decideCase {
	patch, observe := v1alpha1.IntegrationPatch, v1alpha1.IntegrationObserve
	unsupported := func(action action, seen observation, mode v1alpha1.IntegrationMode) decideCase {
		return decideCase{seen: seen, mode: mode, action: action, status: metav1.ConditionFalse, reason: v1alpha1.ReasonUnsupportedVersion,
			says: []string{"2.0.4", "2.0.5 or later"}}
	}
	fine := func(v string) decideCase {
		return decideCase{seen: there(version(v)), mode: patch, action: set, status: metav1.ConditionTrue, reason: v1alpha1.ReasonConfigured, held: true}
	}
	return map[string]decideCase{
		"a version before the first that reads it":            unsupported(leave, there(version("2.0.4")), patch),
		"the same, with a v":                                  unsupported(leave, there(version("v2.0.4")), patch),
		"it is old, and still carries ours: let go":           unsupported(release, there(ours(wanted), version("2.0.4")), patch),
		"it is old and observed":                              unsupported(leave, there(version("2.0.4")), observe),
		"the first version that reads it":                     fine("2.0.5"),
		"a version without label gets the benefit of doubt":   fine(""),
		"an unreadable version gets the benefit of the doubt": fine("latest"),
		"a much later version":                                fine("10.0.0"),
	}
}

func observeCases() map[string]decideCase {
	mode := v1alpha1.IntegrationObserve
	helm := "set the Helm value higress-console.podEnvs." + ConsoleVariable
	no := metav1.ConditionFalse
	return map[string]decideCase{
		"observed, nothing set":                      {seen: there(), mode: mode, action: leave, status: no, reason: v1alpha1.ReasonNotConfigured, says: []string{wanted, helm}},
		"observed, another value":                    {seen: there(foreign("x")), mode: mode, action: leave, status: no, reason: v1alpha1.ReasonNotConfigured, says: []string{wanted, helm}},
		"observed, the right value of somebody else": {seen: there(foreign(wanted)), mode: mode, action: leave, status: metav1.ConditionTrue, reason: v1alpha1.ReasonAlreadyConfigured, says: []string{wanted}},
		"observed, ours is let go":                   {seen: there(ours(wanted)), mode: mode, action: release, status: no, reason: v1alpha1.ReasonNotConfigured},
		"observed, nothing to point to": {seen: there(), mode: mode, value: never, action: leave, status: no, reason: v1alpha1.ReasonWaitingForPlugins,
			says: []string{"nothing is served yet"}},
		"observed, nothing to point to, ours is let go": {seen: there(ours(wanted)), mode: mode, value: never, action: release, status: no, reason: v1alpha1.ReasonWaitingForPlugins},
		"observed, right by an envFrom": {seen: there(func(o *observation) { o.value, o.set, o.foreign = wanted, true, "an envFrom of ConfigMap c" }), mode: mode,
			action: leave, status: metav1.ConditionTrue, reason: v1alpha1.ReasonAlreadyConfigured},
	}
}

func foreignCases() map[string]decideCase {
	mode := v1alpha1.IntegrationPatch
	no := metav1.ConditionFalse
	both := func(value string) observation {
		return there(ours(value), func(o *observation) { o.foreign = `field manager "helm"` })
	}
	return map[string]decideCase{
		"another value wins": {seen: there(foreign("x")), mode: mode, action: leave, status: no, reason: v1alpha1.ReasonForeignValue,
			says: []string{`field manager "helm"`, "left alone", "Helm value higress-console.podEnvs", wanted}},
		"the same value is fine": {seen: there(foreign(wanted)), mode: mode, action: leave, status: metav1.ConditionTrue, reason: v1alpha1.ReasonAlreadyConfigured,
			says: []string{`set by field manager "helm"`}},
		"the same value, owned by both":                {seen: both(wanted), mode: mode, action: leave, status: metav1.ConditionTrue, reason: v1alpha1.ReasonAlreadyConfigured, held: true},
		"another value, owned by both: ours is let go": {seen: both("x"), mode: mode, action: release, status: no, reason: v1alpha1.ReasonForeignValue},
		"a valueFrom": {seen: there(func(o *observation) { o.set, o.foreign = true, "a valueFrom in the Deployment" }), mode: mode,
			action: leave, status: no, reason: v1alpha1.ReasonForeignValue, says: []string{"valueFrom"}},
		"a foreign value is told while nothing is served yet": {seen: there(foreign("x")), mode: mode, value: never, action: leave, status: no, reason: v1alpha1.ReasonForeignValue,
			says: []string{"the plugin server's URL"}},
	}
}

func valueCases() map[string]decideCase {
	mode := v1alpha1.IntegrationPatch
	return map[string]decideCase{
		"nothing there: set":           {seen: there(), mode: mode, action: set, status: metav1.ConditionTrue, reason: v1alpha1.ReasonConfigured, held: true, says: []string{wanted}},
		"ours and right: no write":     {seen: there(ours(wanted)), mode: mode, action: leave, status: metav1.ConditionTrue, reason: v1alpha1.ReasonConfigured, held: true},
		"ours and old: set":            {seen: there(ours("old")), mode: mode, action: set, status: metav1.ConditionTrue, reason: v1alpha1.ReasonConfigured, held: true},
		"nothing to point to: wait":    {seen: there(), mode: mode, value: never, action: leave, status: metav1.ConditionFalse, reason: v1alpha1.ReasonWaitingForPlugins, says: []string{"nothing is served yet"}},
		"no longer wanted: let go":     {seen: there(ours("old")), mode: mode, value: never, action: release, status: metav1.ConditionFalse, reason: v1alpha1.ReasonWaitingForPlugins},
		"kept while there is no other": {seen: there(ours("old")), mode: mode, value: keeping, action: leave, status: metav1.ConditionTrue, reason: v1alpha1.ReasonConfigured, held: true, says: []string{"old"}},
	}
}
