#!/bin/bash
# The main job, for real: a cluster, Higress's stand-ins, the operator by its chart,
# plugins pulled from a private registry and served, Console and controller patched.
# "make quickstart" runs it; the cluster stays up.
#
# With USE_CURRENT_CONTEXT=true the cluster of the kubeconfig in use is taken. It
# must have the images bin/image.tar, bin/printenv.tar and bin/client.tar, and
# REGISTRY, REGISTRY_CA, REGISTRY_USER and REGISTRY_PASSWORD name a registry that the
# cluster can reach.
set -euo pipefail
cd "$(dirname "$0")/.."

export QUICKSTART_BEGAN=${QUICKSTART_BEGAN:-$(date +%s)}
namespace=higress-system
server=higress-plugin-server
# name, version and shape in the registry
plugins=("my-auth 1.0.0 tar" "my-log 0.2.0 raw" "mcp-server 1.0.0 docker")

step() { printf '\n\033[1m[%4ds] %s\033[0m\n' $(($(date +%s) - QUICKSTART_BEGAN)) "$*"; }

# plugin_file NAME VERSION: the module, built from source where it is not yet.
plugin_file() { hack/plugins/build.sh "$1" "$2"; }

prepare() {
	if [ "${USE_CURRENT_CONTEXT:-}" != true ] && [ "$(uname -s)-$(id -u)" != Linux-0 ]; then
		echo "quickstart: a cluster of its own needs Linux and root: use sudo, or set USE_CURRENT_CONTEXT=true" >&2
		exit 1
	fi
	if [ "${USE_CURRENT_CONTEXT:-}" != true ]; then
		step "Building the parts of a Kubernetes cluster (about ten minutes the first time, seconds the next)"
		make --no-print-directory parts
	fi
	step "Building the operator's image, and plugins with Higress's Go SDK"
	make --no-print-directory image printenv-client bin/cluster bin/push
	local name version
	for plugin in "${plugins[@]}"; do
		read -r name version _ <<<"$plugin"
		plugin_file "$name" "$version"
	done
	step "Starting the cluster"
	bin/cluster up
	bin/cluster load bin/image.tar bin/printenv.tar bin/client.tar
}

start_higress() {
	step "Starting stand-ins for Higress's Console, controller and gateway"
	kubectl create namespace $namespace --dry-run=client -o yaml | kubectl apply -f -
	local image
	image=$(<bin/printenv.ref)
	for manifest in hack/higress/*.yaml; do sed "s#IMAGE#$image#" "$manifest" | kubectl apply -f -; done
	sed "s#IMAGE#$(<bin/client.ref)#" <<-'EOF' | kubectl apply -f -
		apiVersion: v1
		kind: Pod
		metadata: {name: quickstart-client, namespace: default}
		spec:
		  terminationGracePeriodSeconds: 1
		  containers: [{name: client, image: IMAGE, imagePullPolicy: IfNotPresent, args: [wait]}]
	EOF
	kubectl -n $namespace rollout status --timeout=1m deployment higress-console
	kubectl -n $namespace rollout status --timeout=1m deployment higress-controller
}

install_operator() {
	step "Installing the operator with its chart"
	local ref
	ref=$(<bin/image.ref)
	# Helm never changes CRDs that are there already.
	if helm status plugin-server-operator --namespace $namespace >/dev/null 2>&1; then
		kubectl apply --server-side --force-conflicts -f config/crd/bases
	fi
	helm upgrade --install plugin-server-operator charts/plugin-server-operator --namespace $namespace \
		--set image.repository="${ref%:*}" --set image.tag="${ref##*:}" --wait --timeout 2m --hide-notes
}

push_plugins() {
	step "Pushing plugins to the registry $REGISTRY (login, and a CA of its own)"
	local name version shape
	for plugin in "${plugins[@]}"; do
		read -r name version shape <<<"$plugin"
		printf '%-24s %-7s ' "$name:$version" "$shape"
		bin/push -shape "$shape" -ca "$REGISTRY_CA" -user "$REGISTRY_USER" -description "a plugin of the quick start" \
			"$(plugin_file "$name" "$version")" "$REGISTRY/plugins/$name:$version"
	done
}

declare_plugins() {
	step "Applying a PluginSource and a PluginServer"
	kubectl -n $namespace create secret docker-registry registry-login --docker-server="$REGISTRY" \
		--docker-username="$REGISTRY_USER" --docker-password="$REGISTRY_PASSWORD" --dry-run=client -o yaml | kubectl apply -f -
	kubectl -n $namespace create secret generic registry-ca --from-file=ca.crt="$REGISTRY_CA" --dry-run=client -o yaml | kubectl apply -f -
	local list="" manifest name version
	for plugin in "${plugins[@]}"; do
		read -r name version _ <<<"$plugin"
		list+="  - {name: $name, version: $version}"$'\n'
	done
	manifest=$(cat <<-EOF
		apiVersion: plugins.higress.io/v1alpha1
		kind: PluginSource
		metadata: {name: quickstart, namespace: $namespace}
		spec:
		  registry: $REGISTRY/plugins
		  secretRef: {name: registry-login}
		  certSecretRef: {name: registry-ca}
		  plugins:
		$list---
		apiVersion: plugins.higress.io/v1alpha1
		kind: PluginServer
		metadata: {name: $server, namespace: $namespace}
		spec: {}
	EOF
	)
	echo "$manifest"
	kubectl apply -f - <<<"$manifest"
}

wait_ready() {
	step "Waiting until everything is served, and the Console and the controller point to it"
	local condition
	for condition in Ready ConsoleConfigured ControllerConfigured; do
		if ! kubectl -n $namespace wait --timeout=2m --for=condition=$condition pluginserver/$server; then
			kubectl -n $namespace get pluginserver,pluginsource,pods -o wide
			kubectl -n $namespace logs deployment/plugin-server-operator --tail=20
			return 1
		fi
	done
	kubectl -n $namespace wait --timeout=2m --for=condition=Ready pluginsource/quickstart
	kubectl -n $namespace rollout status --timeout=1m deployment higress-console
	kubectl -n $namespace rollout status --timeout=1m deployment higress-controller
}

download() {
	step "Downloading a plugin by its URL, from a pod"
	local name version file got want url
	read -r name version _ <<<"${plugins[0]}"
	file=$(plugin_file "$name" "$version")
	url=http://$server.$namespace.svc/plugins/$name/$version/plugin.wasm
	kubectl -n default wait --timeout=1m --for=condition=Ready pod/quickstart-client
	got=$(kubectl -n default exec quickstart-client -- /client get "$url" | sed -n 's/.*"sha256":"\([0-9a-f]*\)".*/\1/p')
	want=$(sha256sum "$file" | cut -d' ' -f1)
	echo "GET $url"
	echo "sha256 of what was built and pushed: $want"
	echo "sha256 of what was downloaded:       $got"
	[ "$got" = "$want" ] || { echo "quickstart: the bytes differ" >&2; return 1; }
}

# variable DEPLOYMENT CONTAINER NAME
variable() {
	echo "$1: $3=$(kubectl -n $namespace get deployment "$1" \
		-o "jsonpath={.spec.template.spec.containers[?(@.name==\"$2\")].env[?(@.name==\"$3\")].value}")"
}

summary() {
	step "Done"
	kubectl -n $namespace get pluginserver,pluginsource
	echo
	kubectl -n $namespace get pods -l app=$server
	printf '\nServed, inside the cluster:\n'
	local name version
	for plugin in "${plugins[@]}"; do
		read -r name version _ <<<"$plugin"
		echo "  http://$server.$namespace.svc/plugins/$name/$version/plugin.wasm"
	done
	printf '\nPatched:\n  '
	variable higress-console higress-console HIGRESS_ADMIN_WASM_PLUGIN_CUSTOM_IMAGE_URL_PATTERN
	printf '  '
	variable higress-controller higress-core MCP_SERVER_WASM_IMAGE_URL
	local in="bin/cluster exec --"
	[ "${USE_CURRENT_CONTEXT:-}" != true ] || in=
	cat <<-EOF

		Next:
		  $in kubectl -n $namespace describe pluginsource quickstart
		  $in kubectl -n $namespace logs -l app=$server
		  $in kubectl -n $namespace delete pluginserver $server    # both variables are as they were
		  make cluster-down
	EOF
}

if [ "${1:-}" = inside ]; then
	: "${REGISTRY:?names a registry that the cluster can reach}" "${REGISTRY_CA:?is a file}" "${REGISTRY_USER:?}" "${REGISTRY_PASSWORD:?}"
	start_higress
	install_operator
	push_plugins
	declare_plugins
	wait_ready
	download
	summary
else
	prepare
	bin/cluster exec -- hack/quickstart.sh inside
fi
