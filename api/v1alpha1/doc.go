// Package v1alpha1 holds the two kinds that users write: PluginSource, which
// says where Wasm plugins come from, and PluginServer, which says who serves
// them. Conditions and reasons of both stand in conditions.go.
//
// +kubebuilder:object:generate=true
// +groupName=plugins.higress.io
package v1alpha1
