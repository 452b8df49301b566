//go:build envtest

package controllers_test

import (
	"fmt"
	"log/slog"
	"os"
	"testing"

	"github.com/go-logr/logr"
	"k8s.io/client-go/rest"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/envtest"
)

// apiServer is how the tests reach the API server, as its administrator.
var apiServer *rest.Config

// TestMain starts a real API server with etcd, and the CRDs. There is no
// kubelet, no controller manager and no scheduler: see replicas.
func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	ctrl.SetLogger(logr.FromSlogHandler(slog.NewJSONHandler(&operatorLog, nil)))
	if os.Getenv("KUBEBUILDER_ASSETS") == "" {
		fmt.Fprintln(os.Stderr, `KUBEBUILDER_ASSETS must name the directory of kube-apiserver and etcd: "go run ./hack/cluster env" prints it`)
		return 1
	}
	environment := &envtest.Environment{
		CRDDirectoryPaths:     []string{"../config/crd/bases"},
		ErrorIfCRDPathMissing: true,
	}
	config, err := environment.Start()
	if err != nil {
		fmt.Fprintln(os.Stderr, "start the API server:", err)
		return 1
	}
	config.QPS = -1
	apiServer = config
	code := m.Run()
	removePrograms()
	if err := environment.Stop(); err != nil {
		fmt.Fprintln(os.Stderr, "stop the API server:", err)
		return 1
	}
	return code
}
