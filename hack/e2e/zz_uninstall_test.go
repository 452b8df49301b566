//go:build node

package e2e

import (
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// TestUninstall removes the operator with Helm while a server holds the Console
// and the controller, and looks at what is left. It is the last test: the file
// names order them.
func TestUninstall(t *testing.T) {
	src, srv := source("last", push(t, "my-auth", "1.0.0", "raw"), push(t, "mcp-server", "1.0.0", "docker")), server("last")
	create(t, src)
	create(t, srv)
	expect(t, time.Minute, srv, v1alpha1.ConditionConsoleConfigured, metav1.ConditionTrue)
	expect(t, time.Minute, srv, v1alpha1.ConditionControllerConfigured, metav1.ConditionTrue)
	p := plugin{name: "my-auth", version: "1.0.0"}

	if _, err := run(t.Context(), "helm", "uninstall", release, "--namespace", namespace, "--wait", "--timeout", "3m"); err != nil {
		t.Fatal(err)
	}
	if value := variable(t, "higress-console", "higress-console", consoleVariable); value != "" {
		t.Errorf("after the uninstall the Console still has %q", value)
	}
	if value := variable(t, "higress-controller", "higress-core", controllerVariable); value != "" {
		t.Errorf("after the uninstall the controller still has %q", value)
	}
	if a := get(t, url(srv.Name, p)); a.Status != 200 {
		t.Errorf("a server that somebody else made stopped serving: %+v", a)
	}
	remove(t, srv) // no finalizer holds it: nobody is there to take it off
	remove(t, src)
	eventually(t, time.Minute, "nothing is left", func() error {
		left, err := objects(t.Context())
		if err == nil && left != env.before {
			return fmt.Errorf("before the install there were\n%s\nnow there are\n%s", env.before, left)
		}
		return err
	})
	out, err := run(t.Context(), "kubectl", "get", "validatingadmissionpolicies,validatingadmissionpolicybindings,clusterroles,clusterrolebindings", "-o", "name")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(out, release) {
		t.Errorf("left in the cluster:\n%s", out)
	}
}
