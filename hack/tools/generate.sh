#!/bin/bash
# Generates everything that is derived from the Go sources: deepcopy functions,
# CRDs, RBAC rules, their copies in the charts, and the manifests in config/ that
# are rendered from the chart. HELM names the helm program (default: helm).
set -euo pipefail
cd "$(dirname "$0")/../.."

app=plugin-server-operator
chart=charts/$app
gen() { go tool -modfile=hack/tools/go.mod controller-gen "$@"; }

# role NAME PACKAGE...: the rules that the markers in these packages ask for.
role() {
	local name=$1 file=config/rbac/$1_role.yaml
	shift
	local paths=() rules documents
	for package; do paths+=("paths=$package"); done
	rules=$(gen "rbac:roleName=$app-$name" "${paths[@]}" output:rbac:stdout || true)
	documents=$(grep -c '^kind:' <<<"$rules" || true)
	if [ "$documents" = 0 ] && ! grep -rqs --include='*.go' '+kubebuilder:rbac:.*'"$app-$name" controllers cmd; then
		echo "generate: no markers in $*: $file stays as it is" >&2
	elif [ "$documents" = 0 ]; then
		echo "generate: the markers in $* are not seen: they must stand in a comment of their own or above a function, not in that of a type" >&2
		exit 1
	elif [ "$documents" != 1 ]; then
		echo "generate: the markers in $* make $documents roles instead of one" >&2
		exit 1
	else
		{
			printf '%s\n' '# Generated from the markers in the Go sources.' \
				'apiVersion: rbac.authorization.k8s.io/v1' 'kind: Role' 'metadata:' "  name: $app-$name"
			sed -n '/^rules:/,$p' <<<"$rules"
		} >"$file"
	fi
	sed '1,/^rules:/d' "$file" >"$chart/files/$name-rules.yaml"
}

# render TEMPLATE FILE: a template of the chart with its default values, without
# what says that Helm installed it.
render() {
	{
		echo "# Generated from $chart/templates/$1."
		"${HELM:-helm}" template "$app" "$chart" --namespace higress-system --show-only "templates/$1" |
			sed -e '/^# Source: /d' -e '/helm\.sh\/chart:/d' -e '/app\.kubernetes\.io\/managed-by: Helm$/d' -e '/^$/d'
	} >"config/$2"
}

gen object paths=./api/...
gen crd paths=./api/... output:crd:dir=config/crd/bases
for crd in config/crd/bases/*.yaml; do
	name=$(basename "$crd")
	cp "$crd" "$chart/crds/$name"
	# Removing the CRDs would remove every object of their kinds.
	sed '0,/^  annotations:$/s//&\n    helm.sh\/resource-policy: keep/' "$crd" >"$chart-crds/files/$name"
done

render serviceaccount.yaml rbac/serviceaccount.yaml
render rolebindings.yaml rbac/rolebindings.yaml
render deployment.yaml manager/deployment.yaml
render service.yaml manager/service.yaml
render networkpolicy.yaml manager/networkpolicy.yaml
render admissionpolicy.yaml policy/admissionpolicy.yaml

role leader ./cmd/operator
role higress ./controllers/integration
# shellcheck disable=SC2046 # one package a word
role servers ./controllers $(go list ./controllers/... | grep -v -e '/controllers$' -e '/controllers/integration$')
