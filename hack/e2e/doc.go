// Package e2e holds the tests on two real nodes: real kubelets and containerds,
// real registry, real Helm, the operator's own image. They run inside a cluster
// that was made for them:
//
//	make test-node
package e2e
