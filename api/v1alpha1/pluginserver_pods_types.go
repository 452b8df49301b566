package v1alpha1

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// StorageType says where the pods keep the plugins.
//
// +kubebuilder:validation:Enum=EmptyDir;Shared;PerReplica
type StorageType string

const (
	// StorageEmptyDir is a volume that lives as long as its pod.
	StorageEmptyDir StorageType = "EmptyDir"
	// StorageShared is one claim for all pods, filled by one writer.
	StorageShared StorageType = "Shared"
	// StoragePerReplica is a claim for each pod.
	StoragePerReplica StorageType = "PerReplica"
)

// ClaimPolicy says what becomes of claims with their server.
//
// +kubebuilder:validation:Enum=Retain;Delete
type ClaimPolicy string

const (
	// ClaimRetain keeps them.
	ClaimRetain ClaimPolicy = "Retain"
	// ClaimDelete deletes them.
	ClaimDelete ClaimPolicy = "Delete"
)

// Storage says where the pods keep the plugins.
//
// +kubebuilder:validation:XValidation:rule="!has(self.existingClaim) || self.type == 'Shared'",message="existingClaim is for storage of type Shared"
// +kubebuilder:validation:XValidation:rule="!has(self.storageClassName) || self.type != 'EmptyDir' && !has(self.existingClaim)",message="storageClassName is for claims that the operator makes"
type Storage struct {
	// Type of the storage. EmptyDir survives restarts of the container and of
	// the node, not the loss of the pod. Shared is one ReadWriteMany claim, which one
	// writer fills and the pods mount read-only. PerReplica is a ReadWriteOnce claim for
	// each pod (a StatefulSet). Both survive the loss of all pods, and so a start of the
	// whole cluster without any registry. Another type is there, filled, before the one
	// before it goes.
	//
	// +optional
	// +kubebuilder:default=EmptyDir
	Type StorageType `json:"type,omitempty"`

	// SizeLimit of the volume, from 64Mi to 1Ti: what a claim asks for. The pods
	// stay below it by themselves. The default holds the official plugins of two
	// Higress releases.
	//
	// +optional
	// +kubebuilder:default="2Gi"
	// +kubebuilder:validation:XValidation:rule="quantity(string(self)).compareTo(quantity('64Mi')) >= 0 && quantity(string(self)).compareTo(quantity('1Ti')) <= 0",message="sizeLimit must be between 64Mi and 1Ti"
	SizeLimit *resource.Quantity `json:"sizeLimit,omitempty"`

	// StorageClassName of the claims that the operator makes. Without it they
	// get the cluster's default class.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=253
	StorageClassName *string `json:"storageClassName,omitempty"`

	// ExistingClaim names a ReadWriteMany claim of this namespace to use for
	// Shared, instead of one that the operator makes. It is never changed or deleted.
	//
	// +optional
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=253
	ExistingClaim string `json:"existingClaim,omitempty"`

	// ClaimPolicy says what becomes of the claims that the operator made when
	// the PluginServer is deleted, and of those of replicas that a PerReplica server no
	// longer has: Retain keeps them, for a server of the same name; Delete deletes them.
	//
	// +optional
	// +kubebuilder:default=Retain
	ClaimPolicy ClaimPolicy `json:"claimPolicy,omitempty"`
}

// ServerType says what the pods are.
//
// +kubebuilder:validation:Enum=Builtin;Image
type ServerType string

const (
	// ServerBuiltin serves the PluginSources.
	ServerBuiltin ServerType = "Builtin"
	// ServerImage is an existing plugin server with plugins of its own.
	ServerImage ServerType = "Image"
)

// Server says which image the pods run.
//
// +kubebuilder:validation:XValidation:rule="!has(self.type) || self.type != 'Image' || has(self.image)",message="a server of type Image needs an image"
type Server struct {
	// Type is Builtin, which serves the PluginSources, or Image, which runs an
	// existing plugin server's image as it is (nginx on port 8080, plugins baked in):
	// without sources and storage, as root if the image wants that, and 404 for whatever it
	// lacks. Higress is pointed to it all the same, once it answers; the controller to
	// mcpServerVersion, or to the version of mcp-server that a Console knows.
	//
	// +optional
	// +kubebuilder:default=Builtin
	Type ServerType `json:"type,omitempty"`

	// Image of the pods. By default the operator's own image.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	// +kubebuilder:validation:Pattern=`^[^\s]+$`
	Image string `json:"image,omitempty"`

	// ImagePullPolicy of the image.
	//
	// +optional
	// +kubebuilder:default=IfNotPresent
	// +kubebuilder:validation:Enum=Always;IfNotPresent;Never
	ImagePullPolicy corev1.PullPolicy `json:"imagePullPolicy,omitempty"`

	// ImagePullSecrets name Secrets of this namespace to pull the image with. By
	// default the operator's own setting.
	//
	// +optional
	// +listType=map
	// +listMapKey=name
	// +kubebuilder:validation:MaxItems=16
	ImagePullSecrets []LocalObjectReference `json:"imagePullSecrets,omitempty"`
}

// StorageStatus says what the volumes hold, as the pods say.
type StorageStatus struct {
	// Type of the storage.
	//
	// +optional
	Type StorageType `json:"type,omitempty"`
	// UsedBytes is what the fullest volume holds, in bytes, give or take a
	// twentieth of the budget.
	//
	// +optional
	UsedBytes int64 `json:"usedBytes,omitempty"`
	// BudgetBytes is what it may hold, in bytes: below sizeLimit, since a pod at
	// that limit is evicted.
	//
	// +optional
	BudgetBytes int64 `json:"budgetBytes,omitempty"`
	// Durability says what the plugins survive.
	//
	// +optional
	// +kubebuilder:validation:MaxLength=512
	Durability string `json:"durability,omitempty"`
}
