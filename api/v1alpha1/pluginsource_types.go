package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PluginSourceSpec says where plugins come from.
//
// +kubebuilder:validation:XValidation:rule="has(self.registry) || !has(self.plugins) || self.plugins.all(p, has(p.url))",message="every plugin needs a url, or the source a registry"
type PluginSourceSpec struct {
	// Plugins are the plugins of this source. A pair of name and version may
	// stand in the list once. At most 1000.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +listMapKey=version
	// +kubebuilder:validation:MaxItems=1000
	Plugins []Plugin `json:"plugins,omitempty"`

	// Registry is the place of plugins that have no url of their own: a
	// registry host, with a port and a path where needed, without a scheme. The plugin
	// NAME at VERSION is then oci://REGISTRY/NAME:VERSION.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9]([a-zA-Z0-9.-]*[a-zA-Z0-9])?(:[0-9]{1,5})?(/[a-z0-9]+([._-]+[a-z0-9]+)*)*$`
	Registry string `json:"registry,omitempty"`

	// SecretRef names a Secret of type kubernetes.io/dockerconfigjson in the
	// same namespace with the login for the registries of this source. It is
	// read when something is fetched, so a changed Secret is taken up by itself.
	//
	// +optional
	SecretRef *LocalObjectReference `json:"secretRef,omitempty"`

	// CertSecretRef names a Secret in the same namespace whose key ca.crt holds
	// the PEM certificates to trust for the registries of this source, instead
	// of the system's.
	//
	// +optional
	CertSecretRef *LocalObjectReference `json:"certSecretRef,omitempty"`

	// Insecure asks for plain HTTP instead of HTTPS. It is never a fallback:
	// without it a registry that speaks plain HTTP is an error.
	//
	// +optional
	Insecure bool `json:"insecure,omitempty"`

	// Interval is how often a fetch is tried again that failed because of the
	// registry or its content, at least 10s and at most 24h. What fails for a moment is
	// tried again sooner.
	//
	// +optional
	// +kubebuilder:default="10m"
	// +kubebuilder:validation:Type=string
	// +kubebuilder:validation:MaxLength=32
	// +kubebuilder:validation:XValidation:rule="duration(self) >= duration('10s') && duration(self) <= duration('24h')",message="interval must be between 10s and 24h"
	Interval *metav1.Duration `json:"interval,omitempty"`

	// Suspend stops looking up and fetching. What was fetched stays served.
	//
	// +optional
	Suspend bool `json:"suspend,omitempty"`

	// Priority decides which source a plugin comes from when several sources
	// declare the same name and version: the highest priority, then the oldest
	// source, then the first by name. Whether the plugin can be fetched there
	// does not matter: the decision is made by declaration.
	//
	// +optional
	// +kubebuilder:validation:Minimum=-1000
	// +kubebuilder:validation:Maximum=1000
	Priority int32 `json:"priority,omitempty"`
}

// Plugin is one version of one plugin.
type Plugin struct {
	// Name is the plugin's name in the URL /plugins/NAME/VERSION/plugin.wasm:
	// lower case letters, digits, '-', '_' and '.', beginning and ending with a letter
	// or digit, at most 63 characters.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`
	Name string `json:"name"`

	// Version is the plugin's version in the URL: letters, digits, '.', '_',
	// '-' and '+', beginning and ending with a letter or digit, at most 128 characters.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9]([a-zA-Z0-9._+-]*[a-zA-Z0-9])?$`
	Version string `json:"version"`

	// URL is where the plugin is: oci://HOST[:PORT]/REPOSITORY:TAG or
	// oci://HOST[:PORT]/REPOSITORY@sha256:DIGEST. A tag is looked up once and then
	// kept by its digest. Without a url the plugin is looked for in the
	// source's registry.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^oci://[^\s?#]+$`
	URL string `json:"url,omitempty"`

	// SHA256 is the SHA-256 of the Wasm module in lower case hexadecimal. A
	// module with other bytes is refused.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[a-f0-9]{64}$`
	SHA256 string `json:"sha256,omitempty"`

	// Description is a line for people, shown in metadata.txt. Without it the
	// artifact's own description is taken.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[^\r\n]*$`
	Description string `json:"description,omitempty"`
}

// LocalObjectReference names an object in the same namespace.
type LocalObjectReference struct {
	// Name of the object.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
}

// PluginState says how far a plugin has come.
//
// +kubebuilder:validation:Enum=Pending;Fetched;Failed
type PluginState string

const (
	// PluginPending means that the first fetch has not ended yet.
	PluginPending PluginState = "Pending"
	// PluginFetched means that the module is verified and in the store.
	PluginFetched PluginState = "Fetched"
	// PluginFailed means that the last fetch failed; reason and message say
	// why. Where a digest is given, an earlier module is still served.
	PluginFailed PluginState = "Failed"
)

// PluginStatus is what is known of one declared plugin.
type PluginStatus struct {
	// Name of the plugin.
	//
	// +required
	// +kubebuilder:validation:MaxLength=63
	Name string `json:"name"`
	// Version of the plugin.
	//
	// +required
	// +kubebuilder:validation:MaxLength=128
	Version string `json:"version"`
	// State is Pending, Fetched or Failed.
	//
	// +required
	State PluginState `json:"state"`
	// URL is the reference that digest and sha256 were found by.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	URL string `json:"url,omitempty"`
	// Digest is the digest of the artifact's manifest.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=71
	Digest string `json:"digest,omitempty"`
	// SHA256 is the SHA-256 of the module: what a WasmPlugin's sha256 takes.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	SHA256 string `json:"sha256,omitempty"`
	// Size of the module in bytes.
	//
	// +optional
	Size int64 `json:"size,omitempty"`
	// Reason of the last failure, in CamelCase.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	Reason string `json:"reason,omitempty"`
	// Message says what failed, where, why and what to do.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Message string `json:"message,omitempty"`
}

// PluginSourceStatus says what has become of a source.
type PluginSourceStatus struct {
	// ObservedGeneration is the generation of the spec this status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// Conditions, by type: Ready, Reconciling, Stalled, Resolved, Fetched,
	// Served.
	//
	// +optional
	// +listType=map
	// +listMapKey=type
	// +kubebuilder:validation:MaxItems=16
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Plugins is the state of every declared plugin.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=4000
	Plugins []PluginStatus `json:"plugins,omitempty"`
	// Declared is the number of declared plugins.
	//
	// +optional
	Declared int32 `json:"declared,omitempty"`
	// Fetched is the number of plugins whose module is verified.
	//
	// +optional
	Fetched int32 `json:"fetched,omitempty"`
	// Failed is the number of plugins whose last fetch failed.
	//
	// +optional
	Failed int32 `json:"failed,omitempty"`
}

// PluginSource says where plugins come from.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:shortName=psrc,categories=higress
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Plugins",type=integer,JSONPath=`.status.declared`
// +kubebuilder:printcolumn:name="Fetched",type=integer,JSONPath=`.status.fetched`
// +kubebuilder:printcolumn:name="Failed",type=integer,JSONPath=`.status.failed`
// +kubebuilder:printcolumn:name="Message",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].message`
// +kubebuilder:printcolumn:name="Age",type=date,JSONPath=`.metadata.creationTimestamp`
type PluginSource struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	// Spec says where plugins come from.
	//
	// +required
	Spec PluginSourceSpec `json:"spec"`
	// Status says what has become of them.
	//
	// +optional
	Status PluginSourceStatus `json:"status,omitempty"`
}

// PluginSourceList is a list of PluginSources.
//
// +kubebuilder:object:root=true
type PluginSourceList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []PluginSource `json:"items"`
}
