#!/bin/sh
# Runs a command inside the network of the cluster demo, without Go:
#   /state/demo/exec kubectl get pods
# There is no way out of that network, so settings of a proxy are dropped.
unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy
export KUBECONFIG=/state/demo/kubeconfig
export PATH='/cache/bin':"$PATH"
export REGISTRY=10.77.0.2:5000
export REGISTRY_HOST=registry.pso.test:5000
export REGISTRY_CA=/state/demo/registry/ca.crt
export REGISTRY_USER=plugins
export REGISTRY_PASSWORD=secret
export CLUSTER_NAME=demo
export CLUSTER_STATE=/state/demo
export CONTAINERD_ADDRESS=/state/demo/node-1/containerd.sock
export CONTAINERD_NAMESPACE=k8s.io
exec nsenter --net=/run/netns/pso-demo -- "$@"
