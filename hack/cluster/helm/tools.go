//go:build tools

// Package helm pins the Helm that the test cluster and the chart tests use. It
// is a module of its own, so that Helm's dependencies never reach the product's.
package helm

import _ "helm.sh/helm/v4/cmd/helm"
