//go:build envtest

package controllers_test

import (
	"context"
	"fmt"
	"strings"

	eventsv1 "k8s.io/api/events/v1"
	"sigs.k8s.io/controller-runtime/pkg/client"
)

// event waits for an event about an object.
func (w *world) event(about client.Object, reason string, says ...string) {
	w.t.Helper()
	w.eventually(fmt.Sprintf("an event %s of %s", reason, about.GetName()), func(ctx context.Context) error {
		var list eventsv1.EventList
		if err := w.admin.List(ctx, &list, client.InNamespace(about.GetNamespace())); err != nil {
			return err
		}
		var seen []string
		for _, e := range list.Items {
			if e.Regarding.Name != about.GetName() {
				continue
			}
			seen = append(seen, e.Reason+": "+e.Note)
			if e.Reason == reason && containsAll(e.Note, says) {
				return nil
			}
		}
		return fmt.Errorf("the events are %q", seen)
	})
}

func containsAll(text string, parts []string) bool {
	for _, part := range parts {
		if !strings.Contains(text, part) {
			return false
		}
	}
	return true
}
