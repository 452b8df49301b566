package v1alpha1

// Condition types of both kinds. Ready is the summary; Reconciling and Stalled
// are abnormal-true, as kstatus wants them.
const (
	// ConditionReady of a PluginSource: every ready replica of every server that
	// selects the source serves all its plugins. Of a PluginServer: its catalog
	// is written and its pods are available (CatalogReady and Available). Pods
	// that catch up with a new catalog show as Reconciling; a plugin that cannot
	// be had, a foreign value in the Console or a missing Console show as Degraded.
	ConditionReady = "Ready"
	// ConditionReconciling is true while something is under way.
	ConditionReconciling = "Reconciling"
	// ConditionStalled is true when only an edit can help.
	ConditionStalled = "Stalled"

	// ConditionResolved of a PluginSource: every reference has been looked up.
	ConditionResolved = "Resolved"
	// ConditionFetched of a PluginSource: every module is verified and stored.
	ConditionFetched = "Fetched"
	// ConditionServed of a PluginSource: every ready replica of every server
	// that selects the source serves what was fetched.
	ConditionServed = "Served"
	// ConditionTagMoved of a PluginSource is true while a tag points to another
	// digest than the one that is served.
	ConditionTagMoved = "TagMoved"
	// ConditionWarned of a PluginSource is true while something is worth a look
	// although everything is served: releases that disagree, a published digest that
	// the copy has not, a refresh that failed.
	ConditionWarned = "Warned"

	// ConditionCatalogReady of a PluginServer: the catalog is written.
	ConditionCatalogReady = "CatalogReady"
	// ConditionAvailable of a PluginServer: its Deployment is available.
	ConditionAvailable = "Available"
	// ConditionReplicasConsistent of a PluginServer: every ready pod serves the
	// newest catalog, whole.
	ConditionReplicasConsistent = "ReplicasConsistent"
	// ConditionConsoleConfigured of a PluginServer: the Console points here.
	ConditionConsoleConfigured = "ConsoleConfigured"
	// ConditionControllerConfigured of a PluginServer: the Higress controller
	// points here.
	ConditionControllerConfigured = "ControllerConfigured"
	// ConditionDegraded of a PluginServer is true while it serves, but not
	// everything that was asked for.
	ConditionDegraded = "Degraded"
)

// Reasons of conditions and events.
const (
	// ReasonSucceeded: it is as it should be.
	ReasonSucceeded = "Succeeded"
	// ReasonProgressing: it is under way.
	ReasonProgressing = "Progressing"
	// ReasonSuspended: spec.suspend is set.
	ReasonSuspended = "Suspended"
	// ReasonNothingDeclared: the source declares no plugin.
	ReasonNothingDeclared = "NothingDeclared"
	// ReasonPluginsFailed: some plugins cannot be fetched.
	ReasonPluginsFailed = "PluginsFailed"
	// ReasonNotSelected: no PluginServer selects the source.
	ReasonNotSelected = "NotSelected"
	// ReasonDeclaredElsewhere: another source wins a name and version.
	ReasonDeclaredElsewhere = "DeclaredElsewhere"
	// ReasonTagsMoved: some tags point to another digest than the one that is served.
	ReasonTagsMoved = "TagsMoved"
	// ReasonWorthALook: the message says what, and status.plugins for which plugins.
	ReasonWorthALook = "WorthALook"
	// ReasonLeftOut: some modules of an image cannot be served (an event).
	ReasonLeftOut = "LeftOut"
	// ReasonReplicasCatchingUp: ready pods serve an older catalog.
	ReasonReplicasCatchingUp = "ReplicasCatchingUp"
	// ReasonReplicasSilent: ready pods do not tell the operator what they serve.
	ReasonReplicasSilent = "ReplicasSilent"
	// ReasonIncomplete: something is served otherwise than asked for.
	ReasonIncomplete = "Incomplete"
	// ReasonInvalidSelector: spec.sourceSelector cannot be read.
	ReasonInvalidSelector = "InvalidSelector"
	// ReasonReplicasUnavailable: too few pods are ready.
	ReasonReplicasUnavailable = "ReplicasUnavailable"
	// ReasonScaledToZero: spec.replicas is 0.
	ReasonScaledToZero = "ScaledToZero"
	// ReasonNotOwned: an object of the needed name belongs to somebody else.
	ReasonNotOwned = "NotOwned"
	// ReasonCatalogTooLarge: the catalog does not fit into a ConfigMap.
	ReasonCatalogTooLarge = "CatalogTooLarge"
	// ReasonApplyFailed: the API server refused an object.
	ReasonApplyFailed = "ApplyFailed"
)

// Reasons of a plugin that could not be fetched, in status.plugins and events.
const (
	// ReasonInvalidReference: the url cannot be read.
	ReasonInvalidReference = "InvalidReference"
	// ReasonSecretNotFound: a Secret named in the spec does not exist.
	ReasonSecretNotFound = "SecretNotFound"
	// ReasonInvalidSecret: a Secret has the wrong type, lacks a key or cannot
	// be read.
	ReasonInvalidSecret = "InvalidSecret"
	// ReasonUnauthorized: the registry refused the login (401, 403).
	ReasonUnauthorized = "Unauthorized"
	// ReasonNotFound: the registry has no such repository, tag or digest (404).
	ReasonNotFound = "NotFound"
	// ReasonUnreachable: no answer from the registry.
	ReasonUnreachable = "Unreachable"
	// ReasonUntrustedCertificate: the registry's certificate is not signed by a
	// CA that the source trusts.
	ReasonUntrustedCertificate = "UntrustedCertificate"
	// ReasonForbiddenAddress: the address is one that the operator never dials.
	ReasonForbiddenAddress = "ForbiddenAddress"
	// ReasonTooManyRequests: the registry asks to slow down (429).
	ReasonTooManyRequests = "TooManyRequests"
	// ReasonRegistryError: the registry answered with an error of its own.
	ReasonRegistryError = "RegistryError"
	// ReasonDigestMismatch: bytes differ from the digest that names them.
	ReasonDigestMismatch = "DigestMismatch"
	// ReasonTruncated: the bytes ended too early.
	ReasonTruncated = "Truncated"
	// ReasonNoWasmLayer: the artifact holds no Wasm module.
	ReasonNoWasmLayer = "NoWasmLayer"
	// ReasonUnsupportedArtifact: the manifest is of a kind that is not known.
	ReasonUnsupportedArtifact = "UnsupportedArtifact"
	// ReasonNotWasm: the file is not a Wasm module of version 1.
	ReasonNotWasm = "NotWasm"
	// ReasonTooLarge: a limit on sizes is exceeded.
	ReasonTooLarge = "TooLarge"
	// ReasonStoreFull: the operator's store has no room.
	ReasonStoreFull = "StoreFull"
	// ReasonSignatureMissing: the artifact is not signed, and the source asks for a signature.
	ReasonSignatureMissing = "SignatureMissing"
	// ReasonSignatureInvalid: the artifact is signed, but by no key of the source.
	ReasonSignatureInvalid = "SignatureInvalid"
	// ReasonUnsupportedImports: the module imports functions that the gateways lack.
	ReasonUnsupportedImports = "UnsupportedImports"
	// ReasonInvalidList: a list of plugins, or a table of official ones, cannot be read.
	ReasonInvalidList = "InvalidList"
	// ReasonUnknownRelease: no table has a release of Higress that is named.
	ReasonUnknownRelease = "UnknownRelease"
	// ReasonConfigMapNotFound: a ConfigMap named in the spec, or its key, does not exist.
	ReasonConfigMapNotFound = "ConfigMapNotFound"
	// ReasonInvalidConfigMap: a ConfigMap with a module has not exactly one key,
	// or may not be read.
	ReasonInvalidConfigMap = "InvalidConfigMap"
	// ReasonInternal: an error of the operator itself.
	ReasonInternal = "InternalError"
)

// Reasons of ConsoleConfigured and ControllerConfigured.
const (
	// ReasonConfigured: the variable points here, set by the operator.
	ReasonConfigured = "Configured"
	// ReasonAlreadyConfigured: somebody else set the variable to the right value.
	ReasonAlreadyConfigured = "AlreadyConfigured"
	// ReasonForeignValue: somebody else set the variable to another value.
	ReasonForeignValue = "ForeignValue"
	// ReasonNotConfigured: the mode is Observe and the value is not right.
	ReasonNotConfigured = "NotConfigured"
	// ReasonOff: the mode is Off.
	ReasonOff = "Off"
	// ReasonTargetNotFound: the Deployment or its container does not exist.
	ReasonTargetNotFound = "TargetNotFound"
	// ReasonUnsupportedVersion: this version of Higress does not read the
	// variable.
	ReasonUnsupportedVersion = "UnsupportedVersion"
	// ReasonNamespaceNotAllowed: a server of this namespace may not integrate.
	ReasonNamespaceNotAllowed = "NamespaceNotAllowed"
	// ReasonHeldByAnother: another PluginServer holds the target.
	ReasonHeldByAnother = "HeldByAnother"
	// ReasonWaitingForPlugins: nothing is pointed to before it is served.
	ReasonWaitingForPlugins = "WaitingForPlugins"
	// ReasonFieldContested: somebody keeps reverting the variable.
	ReasonFieldContested = "FieldContested"
	// ReasonForbidden: the operator lacks the right.
	ReasonForbidden = "Forbidden"
)
