// Package integration points other people's Deployments to a plugin server: it
// sets one environment variable by server-side apply, never by force, and
// takes it back. Whose value counts is decided in decide.go.
package integration

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/higress-group/plugin-server-operator/controllers/desired"
)

const (
	// ConsoleVariable is read by the Console once, at its start.
	ConsoleVariable = "HIGRESS_ADMIN_WASM_PLUGIN_CUSTOM_IMAGE_URL_PATTERN"
	// ControllerVariable is read by the container higress-core of the controller
	// once, at its start.
	ControllerVariable = "MCP_SERVER_WASM_IMAGE_URL"
	// MinimumVersion of Higress: before it the Console does not read its variable.
	MinimumVersion = "2.0.5"
)

// Target is one variable of one container of somebody else's Deployment. Which
// one is the operator's configuration.
type Target struct {
	// Kind is "Console" or "controller", for messages.
	Kind       string
	Deployment types.NamespacedName
	Container  string
	Variable   string
	// HelmValue is where the same can be set in the Higress chart.
	HelmValue string
}

// observation is what a target looks like.
type observation struct {
	found, containerFound bool
	uid                   types.UID
	version               string
	// value and set: what the variable's own entry says.
	value string
	set   bool
	// ours: our field manager owns the entry's value.
	ours bool
	// foreign is who else supplies the variable, in words; empty where nobody
	// does.
	foreign string
}

// observe reads a target from the API server itself: a decision to write is
// not taken from a cache.
func observe(ctx context.Context, live client.Reader, target Target) (observation, error) {
	var deployment appsv1.Deployment
	err := live.Get(ctx, target.Deployment, &deployment)
	if apierrors.IsNotFound(err) {
		return observation{}, nil
	}
	if err != nil {
		return observation{}, err
	}
	seen := observation{found: true, uid: deployment.UID, version: deployment.Labels["app.kubernetes.io/version"]}
	containers := deployment.Spec.Template.Spec.Containers
	at := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == target.Container })
	if at < 0 {
		return seen, nil
	}
	seen.containerFound = true
	owners := leafOwners(deployment.ManagedFields, target)
	seen.ours = slices.Contains(owners, desired.FieldManager)
	others := slices.DeleteFunc(owners, func(o string) bool { return o == desired.FieldManager })
	for _, env := range containers[at].Env {
		if env.Name != target.Variable {
			continue
		}
		seen.set, seen.value = true, env.Value
		switch {
		case env.ValueFrom != nil:
			seen.foreign = "a valueFrom in the Deployment"
		case len(others) > 0:
			seen.foreign = fmt.Sprintf("field manager %q", others[0])
		case !seen.ours:
			seen.foreign = "somebody whose name the API server did not keep"
		}
		return seen, nil
	}
	seen.foreign, seen.value, err = suppliedBy(ctx, live, target, containers[at].EnvFrom)
	seen.set = seen.foreign != ""
	return seen, err
}

// suppliedBy finds the ConfigMap or Secret of an envFrom that supplies the
// variable, and says it in words, with the value. Of several the last one counts.
func suppliedBy(ctx context.Context, live client.Reader, target Target, sources []corev1.EnvFromSource) (who, value string, err error) {
	for _, source := range slices.Backward(sources) {
		var name string
		data := map[string][]byte{}
		switch {
		case source.ConfigMapRef != nil:
			var object corev1.ConfigMap
			name = "ConfigMap " + source.ConfigMapRef.Name
			err = live.Get(ctx, types.NamespacedName{Namespace: target.Deployment.Namespace, Name: source.ConfigMapRef.Name}, &object)
			for key, text := range object.Data {
				data[key] = []byte(text)
			}
		case source.SecretRef != nil:
			var object corev1.Secret
			name = "Secret " + source.SecretRef.Name
			err = live.Get(ctx, types.NamespacedName{Namespace: target.Deployment.Namespace, Name: source.SecretRef.Name}, &object)
			data = object.Data
		}
		if client.IgnoreNotFound(err) != nil {
			return "", "", err
		}
		key, prefixed := strings.CutPrefix(target.Variable, source.Prefix)
		if supplied, found := data[key]; prefixed && found {
			return "an envFrom of " + name, string(supplied), nil
		}
	}
	return "", "", nil
}

// leafOwners gives the field managers that own the value of the target's variable.
func leafOwners(entries []metav1.ManagedFieldsEntry, target Target) []string {
	leaf := fieldpath.MakePathOrDie("spec", "template", "spec",
		"containers", fieldpath.KeyByFields("name", target.Container),
		"env", fieldpath.KeyByFields("name", target.Variable), "value")
	var owners []string
	for _, entry := range entries {
		if entry.FieldsV1 == nil || entry.Subresource != "" {
			continue
		}
		var set fieldpath.Set
		if err := set.FromJSON(bytes.NewReader(entry.FieldsV1.GetRawBytes())); err == nil && set.Has(leaf) {
			owners = append(owners, entry.Manager)
		}
	}
	return owners
}
