package v1alpha1

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// PluginSourceSpec says where plugins come from.
//
// +kubebuilder:validation:XValidation:rule="has(self.registry) || !has(self.plugins) || self.plugins.all(p, has(p.url) || has(p.configMaps))",message="every plugin needs a url or configMaps, or the source a registry"
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

	// Official are the official plugins of Higress releases, by name of the
	// release: every path that their Consoles ask for.
	//
	// +optional
	Official *OfficialPlugins `json:"official,omitempty"`

	// PluginsFrom are lists of plugins that others publish. Where several parts of
	// the source declare the same name and version, plugins comes first, then
	// official, then these lists in their order. At most 8.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=8
	PluginsFrom []PluginList `json:"pluginsFrom,omitempty"`

	// AliasVersions are versions under which every plugin of this source is
	// served as well: with ["1.0.0"], NAME at any version is also NAME at 1.0.0. Of
	// several versions of one plugin the last in the list gets it. A plugin that is
	// declared at that version keeps it.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^[a-zA-Z0-9]([a-zA-Z0-9._+-]*[a-zA-Z0-9])?$`
	AliasVersions []string `json:"aliasVersions,omitempty"`

	// UpdatePolicy says what happens when a tag of something that is served
	// points to another digest: Pin keeps what is served and reports both digests
	// (TagMoved); a digest in the url, or Auto, accepts the new one.
	//
	// +optional
	// +kubebuilder:default=Pin
	UpdatePolicy UpdatePolicy `json:"updatePolicy,omitempty"`

	// Registry is the place of plugins that have no url of their own: a
	// registry host, with a port and a path where needed, without a scheme. The plugin
	// NAME at VERSION is then oci://REGISTRY/NAME:VERSION. For official plugins and
	// lists it replaces the registry that publishes them; their path below it may be as
	// published (REGISTRY/plugins/NAME) or without its first part (REGISTRY/NAME).
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
	// of the system's. Its keys tls.crt and tls.key, where it has them, are a client
	// certificate, which is shown to the hosts of the urls (and to an https proxy
	// before them), and to nobody that they redirect to.
	//
	// +optional
	CertSecretRef *LocalObjectReference `json:"certSecretRef,omitempty"`

	// Signature asks that every artifact of this source is signed. What is not
	// is refused; what was served before stays served and is reported.
	//
	// +optional
	Signature *Signature `json:"signature,omitempty"`

	// Gateway says which gateways will load the plugins: a module that imports
	// a function that they lack makes them refuse their whole configuration.
	//
	// +optional
	Gateway *Gateway `json:"gateway,omitempty"`

	// Insecure asks for plain HTTP instead of HTTPS. It is never a fallback:
	// without it a registry that speaks plain HTTP is an error.
	//
	// +optional
	Insecure bool `json:"insecure,omitempty"`

	// Interval is how often tags are looked up again, and how often a fetch is
	// tried again that failed because of the registry or its content: at least 10s and
	// at most 24h, a tenth more or less. What fails for a moment is tried again
	// sooner. The annotation plugins.higress.io/requested-at, with any new value, asks
	// for it at once.
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

// UpdatePolicy says what happens when a tag moves.
//
// +kubebuilder:validation:Enum=Pin;Auto
type UpdatePolicy string

const (
	// UpdatePin keeps what is served.
	UpdatePin UpdatePolicy = "Pin"
	// UpdateAuto takes what the tag points to.
	UpdateAuto UpdatePolicy = "Auto"
)

// RequestedAtAnnotation on a PluginSource, with a new value, has everything
// looked up again at once.
const RequestedAtAnnotation = "plugins.higress.io/requested-at"

// OfficialPlugins are the official plugins of Higress releases.
type OfficialPlugins struct {
	// HigressVersions are the releases, such as "2.2.4". Where two of them want
	// other bytes under the same path, the first in this list decides: what is added
	// at the end changes nothing that is served. At most 32.
	//
	// +required
	// +listType=set
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=32
	// +kubebuilder:validation:items:MaxLength=32
	// +kubebuilder:validation:items:Pattern=`^[0-9]+\.[0-9]+\.[0-9]+(-[a-zA-Z0-9.]+)?$`
	HigressVersions []string `json:"higressVersions"`

	// TableRef names a key of a ConfigMap with a table of releases that this
	// operator does not know: lines higress,name,version,repository,tag (CSV, with
	// that header). It adds to the operator's own table, and replaces its rows of
	// a release that both have.
	//
	// +optional
	TableRef *ConfigMapKeyReference `json:"tableRef,omitempty"`
}

// PluginList is a list of plugins: a plugins.properties, a Higress release
// snapshot, or the lock file of a plugin server (the content says which); or the
// image of a plugin server, which brings the plugins itself.
//
// +kubebuilder:validation:XValidation:rule="(has(self.configMapKeyRef) ? 1 : 0) + (has(self.url) ? 1 : 0) + (has(self.image) ? 1 : 0) == 1",message="a list has exactly one of configMapKeyRef, url and image"
// +kubebuilder:validation:XValidation:rule="!has(self.url) || !self.url.startsWith('http://') || has(self.sha256)",message="a list from http:// needs its sha256"
// +kubebuilder:validation:XValidation:rule="!has(self.sha256) || has(self.url)",message="sha256 is for a list with a url"
type PluginList struct {
	// ConfigMapKeyRef names the key of a ConfigMap that holds the list.
	//
	// +optional
	ConfigMapKeyRef *ConfigMapKeyReference `json:"configMapKeyRef,omitempty"`

	// URL is where the list is published: oci://HOST[:PORT]/REPOSITORY:TAG (an
	// artifact whose only layer it is), or the https:// or http:// address of the file.
	// It is read again at each interval, and what it declares then counts, whatever the
	// updatePolicy. http:// needs a sha256. The source's registry does not replace it.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^(oci://[^\s?#]+|https?://[^\s#]+)$`
	URL string `json:"url,omitempty"`

	// SHA256 is the SHA-256 of the list at the url, in lower case hexadecimal. A
	// list with other bytes is refused.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=64
	// +kubebuilder:validation:Pattern=`^[a-f0-9]{64}$`
	SHA256 string `json:"sha256,omitempty"`

	// Image is the image of a plugin server, oci://HOST[:PORT]/REPOSITORY:TAG or
	// @sha256:DIGEST: every /usr/share/nginx/html/plugins/NAME/VERSION/plugin.wasm in it
	// becomes the plugin NAME at VERSION. As with other tags, updatePolicy says what
	// happens when it moves. The source's registry does not replace it.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^oci://[^\s?#]+$`
	Image string `json:"image,omitempty"`

	// AliasVersions are versions under which every plugin of the list is served
	// as well, as in the source's own aliasVersions. Without the field that is 1.0.0
	// for a plugins.properties, since plugin servers used to put every line there
	// whatever its tag, and none for the others. An empty list means none.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=4
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^[a-zA-Z0-9]([a-zA-Z0-9._+-]*[a-zA-Z0-9])?$`
	AliasVersions []string `json:"aliasVersions,omitempty"`
}

// ConfigMapKeyReference names a key of a ConfigMap in the same namespace.
type ConfigMapKeyReference struct {
	// Name of the ConfigMap.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	Name string `json:"name"`
	// Key in its data.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	// +kubebuilder:validation:Pattern=`^[-._a-zA-Z0-9]+$`
	Key string `json:"key"`
}

// Alias is a further name and version of a plugin.
//
// +kubebuilder:validation:XValidation:rule="has(self.name) || has(self.version)",message="an alias needs a name, a version or both"
type Alias struct {
	// Name of the alias; without it, the plugin's own.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=63
	// +kubebuilder:validation:Pattern=`^[a-z0-9]([a-z0-9._-]*[a-z0-9])?$`
	Name string `json:"name,omitempty"`
	// Version of the alias; without it, the plugin's own.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=128
	// +kubebuilder:validation:Pattern=`^[a-zA-Z0-9]([a-zA-Z0-9._+-]*[a-zA-Z0-9])?$`
	Version string `json:"version,omitempty"`
}

// Plugin is one version of one plugin.
//
// +kubebuilder:validation:XValidation:rule="!has(self.url) || !has(self.configMaps)",message="a plugin has a url or configMaps, not both"
// +kubebuilder:validation:XValidation:rule="!has(self.configMaps) || has(self.sha256)",message="a plugin from configMaps needs its sha256"
// +kubebuilder:validation:XValidation:rule="!has(self.url) || !self.url.startsWith('http://') || has(self.sha256)",message="a plugin from http:// needs its sha256"
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

	// URL is where the plugin is: oci://HOST[:PORT]/REPOSITORY:TAG,
	// oci://HOST[:PORT]/REPOSITORY@sha256:DIGEST, or the https:// or http:// address of
	// a file (a .wasm, also gzipped or in a tar). What a tag or an address gives is
	// kept by its digest, see updatePolicy. http:// needs a sha256. Without a url the
	// plugin is looked for in the source's registry.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=1024
	// +kubebuilder:validation:Pattern=`^(oci://[^\s?#]+|https?://[^\s#]+)$`
	URL string `json:"url,omitempty"`

	// ConfigMaps are the names of ConfigMaps that hold the module itself, for
	// clusters without any registry: the .wasm file, best gzipped, split over as many
	// as it needs, in the order of the file. Each has exactly one key, and a name of at most 100 characters.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MinItems=1
	// +kubebuilder:validation:MaxItems=8
	// +kubebuilder:validation:items:MinLength=1
	// +kubebuilder:validation:items:MaxLength=100
	// +kubebuilder:validation:items:Pattern=`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`
	ConfigMaps []string `json:"configMaps,omitempty"`

	// Aliases are further names and versions under which the plugin is served.
	// A plugin that is declared under one of them in this source keeps it. At most 16.
	//
	// +optional
	// +listType=atomic
	// +kubebuilder:validation:MaxItems=16
	Aliases []Alias `json:"aliases,omitempty"`

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
