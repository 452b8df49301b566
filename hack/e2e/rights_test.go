//go:build node

package e2e

import (
	"strings"
	"testing"
)

// TestRights tries, as the operator's own service account, what it must not be
// able to do.
func TestRights(t *testing.T) {
	as := "--as=system:serviceaccount:" + namespace + ":" + release
	for name, test := range map[string]struct {
		args   []string
		denied bool
	}{
		"patch the gateway": {
			[]string{"patch", "deployment", "higress-gateway", "--type=merge", "-p", `{"metadata":{"labels":{"mine":"now"}}}`}, true},
		"patch another field of the Console": {
			[]string{"patch", "deployment", "higress-console", "--type=merge", "-p", `{"spec":{"replicas":0}}`}, true},
		"list Secrets": {[]string{"get", "secrets"}, true},
		"patch pods": {
			[]string{"patch", "pod", "-l", "app=higress-console", "--type=merge", "-p", `{"metadata":{"labels":{"mine":"now"}}}`}, true},
		"delete a Deployment":                   {[]string{"delete", "deployment", "higress-gateway"}, true},
		"create a pod":                          {[]string{"run", "mine", "--image=busybox"}, true},
		"read a Secret by its name is its work": {[]string{"get", "secret", "registry"}, false},
	} {
		t.Run(name, func(t *testing.T) {
			args := test.args
			if args[1] == "pod" { // patch takes a name, not a selector
				out, err := run(t.Context(), "kubectl", "-n", namespace, "get", "pods", "-o", "name")
				if err != nil {
					t.Fatal(err)
				}
				pod, _, _ := strings.Cut(out, "\n")
				args = append([]string{"patch", pod}, args[4:]...)
			}
			out, err := run(t.Context(), append([]string{"kubectl", "-n", namespace, as}, args...)...)
			switch {
			case !test.denied && err != nil:
				t.Error(err)
			case test.denied && err == nil:
				t.Errorf("it was allowed:\n%s", out)
			case test.denied && !strings.Contains(err.Error(), "orbidden") && !strings.Contains(err.Error(), "denied"):
				t.Errorf("it failed for another reason: %v", err)
			}
		})
	}
}
