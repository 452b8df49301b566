// Package desired builds the objects that a PluginServer wants, as typed apply
// configurations. It is pure: no client, no clock, no files, no network; what it
// needs to know stands in Parameters.
package desired

import (
	"github.com/higress-group/plugin-server-operator/api/v1alpha1"
)

const (
	// FieldManager is the one field manager of the operator, on its own objects
	// and on the leaves of other people's. It never changes: objects remember it.
	FieldManager = "plugin-server-operator"
	// ManagedByLabel marks everything the operator owns.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	// ManagedBy is the value of ManagedByLabel.
	ManagedBy     = "plugin-server-operator"
	instanceLabel = "app.kubernetes.io/instance"
	// Finalizer holds a PluginServer while other people's objects point to it.
	Finalizer = "plugins.higress.io/release"

	// ContainerName is the name of the serving container.
	ContainerName = "plugin-server"
	// WriterContainerName is the name of the container that fills a shared volume.
	WriterContainerName = "writer"
	// CatalogKey is the key of the catalog in its ConfigMap.
	CatalogKey = "catalog.json.gz"

	// HTTPPort is where plugins are served in the pod, and ServicePort in the Service.
	HTTPPort = 8080
	// ServicePort is the port of the Service.
	ServicePort = 80
	// OpsPort is where health, state and metrics are; not in the Service.
	OpsPort = 8081
	// ArtifactPort is where the operator hands out blobs and catalogs.
	ArtifactPort = 8082
)

// CatalogName is the name of the ConfigMap with the catalog of a server. Other
// objects have the server's own name, but where a function here says otherwise.
func CatalogName(server string) string { return server + "-catalog" }

// WriterName is the name of the Deployment that fills a shared volume.
func WriterName(server string) string { return server + "-writer" }

// ClaimName is the name of the claim of a shared volume.
func ClaimName(server *v1alpha1.PluginServer) string {
	if existing := server.Spec.Storage.ExistingClaim; existing != "" {
		return existing
	}
	return server.Name + "-plugins"
}

// Selector gives the labels that select the pods of a server. They are the
// ones that the plugin server's published manifests have, and must never change:
// a Deployment's selector is immutable.
func Selector(server string) map[string]string {
	return map[string]string{"app": server, "higress": server}
}

// Pods selects the pods of a server for what may be changed later, and must not
// reach the pods of somebody else's Deployment that has the same two labels.
func Pods(server string) map[string]string {
	labels := Selector(server)
	labels[ManagedByLabel] = ManagedBy
	return labels
}

// Members selects all pods of a server, that which fills a shared volume too.
func Members(server string) map[string]string {
	return map[string]string{ManagedByLabel: ManagedBy, instanceLabel: server}
}

// Labels gives the labels of every object of a server.
func Labels(server string) map[string]string {
	labels := Selector(server)
	labels[ManagedByLabel] = ManagedBy
	labels["app.kubernetes.io/name"] = "plugin-server"
	labels[instanceLabel] = server
	labels["app.kubernetes.io/part-of"] = "higress"
	return labels
}

// URL is the base address of a server inside the cluster.
func URL(server *v1alpha1.PluginServer) string {
	return "http://" + server.Name + "." + server.Namespace + ".svc"
}

// ConsolePattern is the pattern that the Console is given.
func ConsolePattern(server *v1alpha1.PluginServer) string {
	if server.Spec.URLPattern != "" {
		return server.Spec.URLPattern
	}
	return URL(server) + "/plugins/${name}/${version}/plugin.wasm"
}
