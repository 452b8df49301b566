//go:build node

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"maps"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

// steadyFor is how long the operator is watched, with everything looked at
// again every 10 s.
const steadyFor = 2 * time.Minute

// TestSteadyState counts the operator's own requests at its HTTP transport: at
// rest it writes nothing but its lease.
func TestSteadyState(t *testing.T) {
	src := source("steady", push(t, "my-auth", "1.0.0", "raw"), push(t, "mcp-server", "1.0.0", "docker"),
		plugin{name: "nowhere", version: "1.0.0", url: "oci://" + registry() + "/plugins/nowhere:1.0.0"})
	src.Spec.Interval = &metav1.Duration{Duration: 10 * time.Second}
	srv := server("steady")
	create(t, src)
	create(t, srv)
	expect(t, time.Minute, srv, v1alpha1.ConditionControllerConfigured, metav1.ConditionTrue)
	expect(t, time.Minute, srv, v1alpha1.ConditionConsoleConfigured, metav1.ConditionTrue)
	expect(t, time.Minute, srv, v1alpha1.ConditionReplicasConsistent, metav1.ConditionTrue)
	if _, err := run(t.Context(), "helm", "upgrade", release, "charts/plugin-server-operator", "--namespace", namespace,
		"--reuse-values", "--set", "resync=10s", "--wait"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if _, err := run(context.Background(), "helm", "rollback", release, "--namespace", namespace, "--wait", "--timeout", "2m"); err != nil {
			t.Error(err)
		}
	})
	eventually(t, time.Minute, "the old operator ends", func() error {
		if n := len(operatorPods(t)); n != 1 {
			return fmt.Errorf("%d pods", n)
		}
		return nil
	})

	// What the new operator finds out anew comes to rest first.
	eventually(t, time.Minute, "the operator comes to rest", func() error {
		before := requests(t)
		time.Sleep(10 * time.Second)
		if after := requests(t); !maps.Equal(before, after) {
			return fmt.Errorf("it writes: %v, then %v", before, after)
		}
		return nil
	})
	before := requests(t)
	reads := reconciles(t)
	time.Sleep(steadyFor)
	after := requests(t)
	if !maps.Equal(before, after) {
		t.Errorf("at rest the operator wrote within %s: %v, then %v", steadyFor, before, after)
	}
	if again := reconciles(t) - reads; again < 10 {
		t.Errorf("only %d reconciles within %s: nothing was looked at again", again, steadyFor)
	} else {
		t.Logf("%d reconciles within %s, no write", again, steadyFor)
	}
}

var metric = regexp.MustCompile(`^(rest_client_requests_total|controller_runtime_reconcile_total)\{(.*)\} ([0-9.e+]+)$`)

// requests gives the number of mutating requests by method. PUT is left out:
// only leases are written by it, which the code holds (nothing else is updated).
func requests(t *testing.T) map[string]int {
	t.Helper()
	counts := map[string]int{}
	each(t, "rest_client_requests_total", func(labels string, value int) {
		for _, method := range []string{"POST", "PATCH", "DELETE"} {
			if strings.Contains(labels, `method="`+method+`"`) {
				counts[method] += value
			}
		}
	})
	return counts
}

func reconciles(t *testing.T) int {
	t.Helper()
	sum := 0
	each(t, "controller_runtime_reconcile_total", func(_ string, value int) { sum += value })
	return sum
}

// each reads a metric of the operator.
func each(t *testing.T, name string, add func(labels string, value int)) {
	t.Helper()
	pods := operatorPods(t)
	if len(pods) != 1 {
		t.Fatalf("%d operator pods, want 1", len(pods))
	}
	a := get(t, "http://"+pods[0].Status.PodIP+":8080/metrics")
	lines := bufio.NewScanner(strings.NewReader(a.Text))
	found := false
	for lines.Scan() {
		if m := metric.FindStringSubmatch(lines.Text()); m != nil && m[1] == name {
			value, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				t.Fatal(err)
			}
			found = true
			add(m[2], int(value))
		}
	}
	if !found {
		t.Fatalf("the operator's metrics lack %s", name)
	}
}
