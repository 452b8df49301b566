package controllers

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/events"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// conditionSetter gives a function that sets conditions observed at a
// generation.
func conditionSetter(conditions *[]metav1.Condition, generation int64) func(metav1.Condition) {
	return func(c metav1.Condition) {
		c.ObservedGeneration = generation
		meta.SetStatusCondition(conditions, c)
	}
}

// setAbnormal sets an abnormal-true condition, which is only there while it is
// true.
func setAbnormal(set func(metav1.Condition), conditions *[]metav1.Condition, kind string, present bool, reason, message string) {
	if !present {
		meta.RemoveStatusCondition(conditions, kind)
		return
	}
	set(metav1.Condition{Type: kind, Status: metav1.ConditionTrue, Reason: reason, Message: message})
}

// recordReady makes an event of a change of Ready, and of nothing else.
func recordReady(recorder events.EventRecorder, object client.Object, before, after []metav1.Condition) {
	was, is := meta.FindStatusCondition(before, v1alpha1.ConditionReady), meta.FindStatusCondition(after, v1alpha1.ConditionReady)
	if is == nil || (was != nil && was.Status == is.Status) || (was == nil && is.Status != metav1.ConditionTrue) {
		return
	}
	kind := corev1.EventTypeNormal
	if is.Status != metav1.ConditionTrue {
		kind = corev1.EventTypeWarning
	}
	recorder.Eventf(object, nil, kind, is.Reason, "Reconcile", "%s", is.Message)
}
