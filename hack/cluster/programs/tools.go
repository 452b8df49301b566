//go:build tools

// Package programs pins what the test cluster runs, and Helm. It is a module of
// its own, so that hundreds of dependencies never reach the product's; and one for
// all, so that what several need is compiled once. Helm and CoreDNS therefore
// get the cluster's version of Kubernetes's client.
package programs

import (
	_ "helm.sh/helm/v4/cmd/helm"
	_ "k8s.io/kubernetes/cmd/kube-apiserver"
	_ "k8s.io/kubernetes/cmd/kube-controller-manager"
	_ "k8s.io/kubernetes/cmd/kube-proxy"
	_ "k8s.io/kubernetes/cmd/kube-scheduler"
	_ "k8s.io/kubernetes/cmd/kubectl"
	_ "k8s.io/kubernetes/cmd/kubelet"
)
