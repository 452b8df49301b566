package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PluginServerSpec says who serves plugins, and who is pointed to it. An empty
// spec is a complete one.
//
// +kubebuilder:validation:XValidation:rule="!has(self.server) || !has(self.server.type) || self.server.type != 'Image' || !has(self.sourceSelector) && (!has(self.storage) || self.storage.type == 'EmptyDir')",message="a server of type Image has neither sources nor storage"
type PluginServerSpec struct {
	// SourceSelector selects the PluginSources of this namespace to serve, by
	// their labels. Without it all of them are served.
	//
	// +optional
	SourceSelector *metav1.LabelSelector `json:"sourceSelector,omitempty"`

	// Replicas is the number of serving pods.
	//
	// +optional
	// +kubebuilder:default=2
	// +kubebuilder:validation:Minimum=0
	// +kubebuilder:validation:Maximum=100
	Replicas *int32 `json:"replicas,omitempty"`

	// Storage says where the pods keep the plugins.
	//
	// +optional
	// +kubebuilder:default={}
	Storage Storage `json:"storage,omitempty"`

	// Retention is how long a plugin that no source declares any more, and a
	// module that was replaced by another, is still served; from 0s to 720h.
	//
	// +optional
	// +kubebuilder:default="24h"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('0s') && duration(self) <= duration('720h')",message="retention must be between 0s and 720h"
	Retention *metav1.Duration `json:"retention,omitempty"`

	// Server says which image the pods run.
	//
	// +optional
	Server Server `json:"server,omitempty"`

	// URLPattern replaces the pattern that the Console is given; ${name} and
	// ${version} stand for the plugin. By default
	// http://NAME.NAMESPACE.svc/plugins/${name}/${version}/plugin.wasm.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^https?://[^\s]+$`
	// +kubebuilder:validation:XValidation:rule="self.contains('${name}') && self.contains('${version}')",message="urlPattern must contain ${name} and ${version}"
	URLPattern string `json:"urlPattern,omitempty"`

	// Service holds settings of the Service in front of the pods.
	//
	// +optional
	Service Service `json:"service,omitempty"`

	// Higress says which parts of Higress are pointed to this server.
	//
	// +optional
	Higress Higress `json:"higress,omitempty"`

	// Resources of the serving container. By default requests of 200m CPU and
	// 128Mi memory, limits of 500m and 256Mi. The page cache of the served
	// files counts against the memory limit, and is given back under pressure.
	//
	// +optional
	Resources *corev1.ResourceRequirements `json:"resources,omitempty"`

	// NodeSelector of the pods.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	NodeSelector map[string]string `json:"nodeSelector,omitempty"`

	// Tolerations of the pods.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	Tolerations []corev1.Toleration `json:"tolerations,omitempty"`

	// Affinity of the pods. By default they prefer different zones.
	//
	// +optional
	Affinity *corev1.Affinity `json:"affinity,omitempty"`

	// TopologySpreadConstraints of the pods. By default they prefer different nodes.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	TopologySpreadConstraints []corev1.TopologySpreadConstraint `json:"topologySpreadConstraints,omitempty"`

	// PriorityClassName of the pods.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	PriorityClassName string `json:"priorityClassName,omitempty"`

	// PodLabels are further labels of the pods. The labels of the operator win.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	PodLabels map[string]string `json:"podLabels,omitempty"`

	// PodAnnotations are further annotations of the pods.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	PodAnnotations map[string]string `json:"podAnnotations,omitempty"`
}

// Service holds settings of the Service in front of the pods.
type Service struct {
	// Annotations of the Service.
	//
	// +optional
	// +kubebuilder:validation:MaxProperties=32
	Annotations map[string]string `json:"annotations,omitempty"`
}

// IntegrationMode says what the operator does with a variable of somebody
// else's Deployment.
//
// +kubebuilder:validation:Enum=Patch;Observe;Off
type IntegrationMode string

const (
	// IntegrationPatch sets the variable, unless somebody else set it.
	IntegrationPatch IntegrationMode = "Patch"
	// IntegrationObserve writes nothing and reports whether the value is right.
	IntegrationObserve IntegrationMode = "Observe"
	// IntegrationOff neither writes nor looks.
	IntegrationOff IntegrationMode = "Off"
)

// Higress says which parts of Higress are pointed to this server.
type Higress struct {
	// Console is the Higress Console: its variable
	// HIGRESS_ADMIN_WASM_PLUGIN_CUSTOM_IMAGE_URL_PATTERN.
	//
	// +optional
	Console ConsoleIntegration `json:"console,omitempty"`
	// Controller is the Higress controller: its variable
	// MCP_SERVER_WASM_IMAGE_URL.
	//
	// +optional
	Controller ControllerIntegration `json:"controller,omitempty"`
}

// ConsoleIntegration says what is done with the Console.
type ConsoleIntegration struct {
	// Mode is Patch (set the variable, unless somebody else did), Observe
	// (report only) or Off.
	//
	// +optional
	// +kubebuilder:default=Patch
	Mode IntegrationMode `json:"mode,omitempty"`
}

// ControllerIntegration says what is done with the controller.
type ControllerIntegration struct {
	// Mode is Patch (set the variable, unless somebody else did), Observe
	// (report only) or Off.
	//
	// +optional
	// +kubebuilder:default=Patch
	Mode IntegrationMode `json:"mode,omitempty"`

	// MCPServerVersion is the version of the plugin mcp-server that the
	// controller is pointed to. By default the highest one that is served when
	// the controller is first pointed here, and then that one as long as a
	// source declares it, or no other is served. Of an existing image: as long
	// as every pod has it, or some pod has it and there is no other that all have.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9]([a-zA-Z0-9._+-]*[a-zA-Z0-9])?$`
	MCPServerVersion string `json:"mcpServerVersion,omitempty"`
}

// CatalogStatus says what the server has to serve.
type CatalogStatus struct {
	// Revision is the hash of the catalog.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Revision string `json:"revision,omitempty"`
	// Plugins is the number of plugin versions whose module is known.
	//
	// +optional
	Plugins int32 `json:"plugins,omitempty"`
	// Pending is the number of declared plugin versions that are not available.
	//
	// +optional
	Pending int32 `json:"pending,omitempty"`
	// Retained is the number of plugin versions that no source declares any more.
	//
	// +optional
	Retained int32 `json:"retained,omitempty"`
}

// PluginServerStatus says what has become of a server.
type PluginServerStatus struct {
	// ObservedGeneration is the generation of the spec this status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions, by type: Ready, Reconciling, Stalled, CatalogReady, Available,
	// ReplicasConsistent, ConsoleConfigured, ControllerConfigured, Degraded.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Replicas is the number of pods.
	//
	// +optional
	Replicas int32 `json:"replicas,omitempty"`
	// ReadyReplicas is the number of pods that serve.
	//
	// +optional
	ReadyReplicas int32 `json:"readyReplicas,omitempty"`
	// Selector of the pods, for the scale subresource.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Selector string `json:"selector,omitempty"`
	// URL is the base address of the server inside the cluster.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	URL string `json:"url,omitempty"`
	// Catalog is what the server has to serve.
	//
	// +optional
	Catalog CatalogStatus `json:"catalog,omitempty"`
	// Storage is what the volumes hold.
	//
	// +optional
	Storage StorageStatus `json:"storage,omitempty"`
	// ServedRevision is the revision of the catalog that every ready pod serves;
	// empty while they differ.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	ServedRevision string `json:"servedRevision,omitempty"`
}

// PluginServer serves plugins to Higress gateways over HTTP.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:subresource:scale:specpath=.spec.replicas,statuspath=.status.replicas,selectorpath=.status.selector
// +kubebuilder:resource:shortName=psrv,categories=higress
// +kubebuilder:validation:XValidation:rule="self.metadata.name.matches('^[a-z]([-a-z0-9]*[a-z0-9])?$') && size(self.metadata.name) <= 52",message="the name becomes a Service's name: lower case letters, digits and '-', beginning with a letter, at most 52 characters"
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Replicas",type=string,JSONPath=`.status.readyReplicas`
// +kubebuilder:printcolumn:name="Desired",type=integer,JSONPath=`.spec.replicas`
// +kubebuilder:printcolumn:name="Plugins",type=integer,JSONPath=`.status.catalog.plugins`
// +kubebuilder:printcolumn:name="Pending",type=integer,JSONPath=`.status.catalog.pending`
// +kubebuilder:printcolumn:name="Console",type=string,JSONPath=`.status.conditions[?(@.type=="ConsoleConfigured")].reason`
// +kubebuilder:printcolumn:name="Controller",type=string,JSONPath=`.status.conditions[?(@.type=="ControllerConfigured")].reason`
// +kubebuilder:printcolumn:name="URL",type=string,JSONPath=`.status.url`
// +kubebuilder:printcolumn:name="Message",type=string,priority=1,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type PluginServer struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says who serves plugins, and who is pointed to it.
	//
	// +required
	Spec PluginServerSpec `json:"spec"`
	// Status says what has become of it.
	//
	// +optional
	Status PluginServerStatus `json:"status,omitempty"`
}

// PluginServerList is a list of PluginServers.
//
// +kubebuilder:object:root=true
type PluginServerList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []PluginServer `json:"items"`
}
