#!/bin/sh
# Runs a command inside the network of the cluster {{.Name}}, without Go:
#   {{.State}}/exec kubectl get pods
# There is no way out of that network, so settings of a proxy are dropped.
unset HTTP_PROXY HTTPS_PROXY ALL_PROXY http_proxy https_proxy all_proxy
export KUBECONFIG={{.State}}/kubeconfig
export PATH={{.Path}}
export REGISTRY={{.Registry}}
export REGISTRY_HOST={{.RegistryHost}}
export REGISTRY_CA={{.State}}/registry/ca.crt
export REGISTRY_USER={{.User}}
export REGISTRY_PASSWORD={{.Password}}
export CLUSTER_NAME={{.Name}}
export CLUSTER_STATE={{.State}}
export CONTAINERD_ADDRESS={{.Containerd}}
export CONTAINERD_NAMESPACE=k8s.io
exec nsenter --net={{.Netns}} -- "$@"
