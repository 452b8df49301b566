package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

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
	// URL is where the plugin is declared to be. Digest and sha256 were found
	// there, or under one of the other paths that mirrors have.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	URL string `json:"url,omitempty"`
	// Mirror is the reference that was asked instead, where the operator's
	// registry defaults replace the url.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	Mirror string `json:"mirror,omitempty"`
	// List is what declares the plugin, where something in pluginsFrom or a table
	// does: NAME/KEY of a ConfigMap, the url of a list, or an image.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	List string `json:"list,omitempty"`
	// Aliases are further names and versions under which the plugin is served,
	// as NAME:VERSION.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=192
	Aliases []string `json:"aliases,omitempty"`
	// Digest is the digest of the artifact's manifest.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=71
	Digest string `json:"digest,omitempty"`
	// MovedTo is the digest that the tag has now, where it is another one than
	// digest.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=71
	MovedTo string `json:"movedTo,omitempty"`
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
	// Warning says what is worth a look although the plugin is served.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Warning string `json:"warning,omitempty"`
}

// PluginSourceStatus says what has become of a source.
type PluginSourceStatus struct {
	// ObservedGeneration is the generation of the spec this status speaks of.
	//
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// RequestedAt is the value of the annotation plugins.higress.io/requested-at
	// that was acted on last.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=256
	RequestedAt string `json:"requestedAt,omitempty"`
	// Conditions, by type: Ready, Reconciling, Stalled, Resolved, Fetched,
	// Served, TagMoved, Warned.
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
