//go:build envtest

package controllers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
	"github.com/higress-group/plugin-server-operator/controllers"
	"github.com/higress-group/plugin-server-operator/controllers/integration"
)

// patience is how long something may take that has to happen.
const patience = 40 * time.Second

// account is the operator's ServiceAccount; installed is the namespace that the
// generated manifests have it in.
const account, installed = "plugin-server-operator", "higress-system"

var worlds atomic.Int32

// world is one installation in a namespace of its own, in which the operator,
// Higress and the plugin servers are, as by default. admin is everybody else.
type world struct {
	t         *testing.T
	namespace string
	admin     client.Client
	config    *rest.Config // the operator's
	registry  *registryServer
	replicas  *replicas
	settings  controllers.Settings
	watched   []string
	resync    time.Duration
	storeDir  string
}

// newWorld installs the operator's rights. more are further namespaces with
// plugin servers, to be found in watched.
func newWorld(t *testing.T, more int) *world {
	t.Helper()
	t.Parallel()
	return newWorldAt(t, apiServer, sharedRegistry(), more)
}

// newWorldAt is newWorld at an API server and a registry of its own.
func newWorldAt(t *testing.T, apiServer *rest.Config, registry *registryServer, more int) *world {
	t.Helper()
	n := worlds.Add(1)
	w := &world{t: t, namespace: fmt.Sprintf("world-%d", n), resync: 10 * time.Minute, storeDir: t.TempDir()}
	admin, err := client.New(apiServer, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		t.Fatal(err)
	}
	w.admin = admin
	w.watched = []string{w.namespace}
	for i := range more {
		w.watched = append(w.watched, fmt.Sprintf("world-%d-%d", n, i))
	}
	for _, namespace := range w.watched {
		w.create(&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}})
		w.grant(namespace, "servers")
	}
	w.grant(w.namespace, "higress")
	w.grant(w.namespace, "leader")
	w.install("../config/policy/admissionpolicy.yaml", w.namespace)
	w.config = rest.CopyConfig(apiServer)
	w.config.Impersonate = rest.ImpersonationConfig{
		UserName: "system:serviceaccount:" + w.namespace + ":" + account,
		Groups:   []string{"system:serviceaccounts", "system:serviceaccounts:" + w.namespace, "system:authenticated"},
	}
	w.registry = registry
	w.settings = controllers.Settings{
		Namespace: w.namespace, Image: "example.com/plugin-server-operator:test", ArtifactURL: "http://artifacts.example:8082",
		Console: integration.Target{Kind: "Console", Container: "higress-console", Variable: integration.ConsoleVariable,
			Deployment: types.NamespacedName{Namespace: w.namespace, Name: "higress-console"}, HelmValue: "higress-console.podEnvs." + integration.ConsoleVariable},
		Controller: integration.Target{Kind: "controller", Container: "higress-core", Variable: integration.ControllerVariable,
			Deployment: types.NamespacedName{Namespace: w.namespace, Name: "higress-controller"}, HelmValue: "higress-core.controller.env." + integration.ControllerVariable},
		IntegrationNamespaces: []string{w.namespace},
	}
	w.replicas = newReplicas(w)
	w.createLogin(w.namespace)
	w.awaitRights()
	return w
}

// grant installs one of the generated Roles and binds the operator to it.
func (w *world) grant(namespace, role string) {
	w.t.Helper()
	w.install("../config/rbac/"+role+"_role.yaml", namespace)
	w.create(&rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: account + "-" + role},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "Role", Name: account + "-" + role},
		Subjects:   []rbacv1.Subject{{Kind: "ServiceAccount", Namespace: w.namespace, Name: account}},
	})
}

// install creates the objects of a generated manifest, in a namespace instead
// of the one it is written for.
func (w *world) install(path, namespace string) {
	w.t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		w.t.Fatal(err)
	}
	decoder := yaml.NewYAMLOrJSONDecoder(bytes.NewReader(bytes.ReplaceAll(content, []byte(installed), []byte(namespace))), 4096)
	for {
		object := &unstructured.Unstructured{}
		err := decoder.Decode(object)
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			w.t.Fatalf("%s: %v", path, err)
		}
		if len(object.Object) == 0 {
			continue
		}
		if object.GetKind() == "Role" {
			object.SetNamespace(namespace)
		}
		w.create(object)
	}
}

// awaitRights waits until roles and policies are in force: the API server takes
// them up some time after they are written.
func (w *world) awaitRights() {
	w.t.Helper()
	operator := w.operatorClient()
	probe := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: w.namespace, Name: "probe"}}
	w.eventually("the operator's policy is in force", func(ctx context.Context) error {
		err := operator.Create(ctx, probe.DeepCopy(), client.DryRunAll)
		if err == nil || !strings.Contains(err.Error(), "may only touch objects that carry") {
			return fmt.Errorf("creating a foreign ConfigMap gives %w", err)
		}
		return nil
	})
}

func (w *world) operatorClient() client.Client {
	w.t.Helper()
	c, err := client.New(w.config, client.Options{Scheme: controllers.Scheme()})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *world) create(object client.Object) {
	w.t.Helper()
	if err := w.admin.Create(w.t.Context(), object); err != nil {
		w.t.Fatalf("create %s: %v", object.GetName(), err)
	}
}

func (w *world) delete(object client.Object) {
	w.t.Helper()
	if err := w.admin.Delete(w.t.Context(), object); err != nil {
		w.t.Fatalf("delete %s: %v", object.GetName(), err)
	}
}

// get reads an object of the world's namespace.
func get[T any, P interface {
	*T
	client.Object
}](w *world, name string) P {
	w.t.Helper()
	object := P(new(T))
	if err := w.admin.Get(w.t.Context(), types.NamespacedName{Namespace: w.namespace, Name: name}, object); err != nil {
		w.t.Fatalf("get %T %s: %v", object, name, err)
	}
	return object
}

// edit changes an object as somebody else would, with a merge patch.
func edit[T client.Object](w *world, object T, change func(T)) T {
	w.t.Helper()
	before := object.DeepCopyObject().(client.Object)
	change(object)
	if err := w.admin.Patch(w.t.Context(), object, client.MergeFrom(before), client.FieldOwner("somebody")); err != nil {
		w.t.Fatalf("change %s: %v", object.GetName(), err)
	}
	return object
}

// eventually waits until check finds nothing wrong.
func (w *world) eventually(what string, check func(context.Context) error) {
	w.t.Helper()
	var last error
	err := wait.PollUntilContextTimeout(w.t.Context(), 50*time.Millisecond, patience, true, func(ctx context.Context) (bool, error) {
		if err := check(ctx); err != nil {
			if ctx.Err() == nil {
				last = err
			}
			return false, nil
		}
		return true, nil
	})
	if err != nil {
		w.t.Fatalf("never: %s; last: %v", what, last)
	}
}

// awaitCondition waits for a condition of a PluginSource or PluginServer of the
// newest generation, and gives it.
func (w *world) awaitCondition(object client.Object, kind string, status metav1.ConditionStatus, reason string, says ...string) metav1.Condition {
	w.t.Helper()
	var found *metav1.Condition
	w.eventually(fmt.Sprintf("%s of %s is %s %s %q", kind, object.GetName(), status, reason, says), func(ctx context.Context) error {
		if err := w.admin.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		found = meta.FindStatusCondition(conditionsOf(object), kind)
		if found == nil || found.Status != status || found.Reason != reason || found.ObservedGeneration != object.GetGeneration() {
			return fmt.Errorf("conditions are %+v", conditionsOf(object))
		}
		for _, part := range says {
			if !strings.Contains(found.Message, part) {
				return fmt.Errorf("it says %q", found.Message)
			}
		}
		return nil
	})
	return *found
}

// eventuallyNot waits until an abnormal condition is gone.
func (w *world) eventuallyNot(object client.Object, kind string) {
	w.t.Helper()
	w.eventually(kind+" is gone", func(ctx context.Context) error {
		if err := w.admin.Get(ctx, client.ObjectKeyFromObject(object), object); err != nil {
			return err
		}
		if c := meta.FindStatusCondition(conditionsOf(object), kind); c != nil {
			return fmt.Errorf("%+v", *c)
		}
		return nil
	})
}

func conditionsOf(object client.Object) []metav1.Condition {
	switch o := object.(type) {
	case *v1alpha1.PluginSource:
		return o.Status.Conditions
	case *v1alpha1.PluginServer:
		return o.Status.Conditions
	}
	return nil
}
