package v1alpha1

// Signature is how artifacts have to be signed.
type Signature struct {
	// PublicKeys are public keys in PEM, as cosign generate-key-pair writes them
	// to cosign.pub: one or several, one of which must have signed the artifact.
	// Signatures are looked for beside the artifact, by tag and by referrer, and
	// verified offline. Files and ConfigMaps have none and are refused.
	//
	// +required
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:MaxLength=16384
	// +kubebuilder:validation:Pattern=`^\s*-----BEGIN (PUBLIC|RSA PUBLIC) KEY-----`
	PublicKeys string `json:"publicKeys"`
}

// GatewayProfile names what gateways offer to modules.
//
// +kubebuilder:validation:Enum=higress-2.0;higress-2.1;higress-2.2
type GatewayProfile string

// ImportPolicy says what happens to a module that wants more than gateways offer.
//
// +kubebuilder:validation:Enum=Warn;Block
type ImportPolicy string

const (
	// ImportWarn reports it, and serves the module.
	ImportWarn ImportPolicy = "Warn"
	// ImportBlock refuses the module.
	ImportBlock ImportPolicy = "Block"
)

// Gateway says which gateways will load the plugins of a source.
type Gateway struct {
	// Profile is the release of the gateways, higress-2.0, higress-2.1 or
	// higress-2.2.
	//
	// +optional
	// +kubebuilder:default=higress-2.2
	Profile GatewayProfile `json:"profile,omitempty"`

	// AllowedImports are functions that these gateways offer beyond the profile,
	// as MODULE.NAME, such as wasi_snapshot_preview1.fd_pread.
	//
	// +optional
	// +listType=set
	// +kubebuilder:validation:MaxItems=64
	// +kubebuilder:validation:items:MaxLength=128
	// +kubebuilder:validation:items:Pattern=`^[^.,\s]+\.[^,\s]+$`
	AllowedImports []string `json:"allowedImports,omitempty"`

	// Policy is Warn, which reports a module that imports anything else, or Block,
	// which refuses it; what was served before stays served.
	//
	// +optional
	// +kubebuilder:default=Warn
	Policy ImportPolicy `json:"policy,omitempty"`
}
