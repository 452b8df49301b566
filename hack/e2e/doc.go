// Package e2e holds the tests on a real node: real kubelet and containerd,
// real registry, real Helm, the operator's own image. They run inside a cluster
// that was made for them:
//
//	make test-node
package e2e
