# "make help" lists what there is to make.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.NOTPARALLEL:

# IMAGE may carry a tag. Without one the tag is made from the content, so that a
# changed program is a changed reference.
IMAGE ?= docker.io/higress/plugin-server-operator
PLATFORMS ?= linux/$(shell go env GOARCH)
VERSION ?= $(shell git describe --tags --always 2>/dev/null || echo dev)

HOST := linux/$(shell go env GOARCH)
CLUSTER := go run ./hack/cluster
# GOGC: a linter is a sixth faster when it collects less often. It includes go vet.
LINT := GOGC=400 go tool -modfile=hack/tools/go.mod golangci-lint
# The API server, kubectl and Helm of the cluster's cache: builds what is missing
# (five minutes the first time) and sets KUBEBUILDER_ASSETS, KUBECTL and HELM.
PARTS = $(CLUSTER) build envtest >&2 && eval "$$($(CLUSTER) env)"

comma := ,
# programs BUILDS PLATFORM PROGRAMS for an image.
programs = GOOS=$(word 1,$(subst /, ,$(1))) GOARCH=$(word 2,$(subst /, ,$(1))) VERSION=$(VERSION) \
	hack/image/build.sh bin/$(subst /,_,$(1)) $(2)

.PHONY: help
help: ## List the targets.
	@awk 'BEGIN {FS = ":.*## "} /^[a-z-]+:.*## / {printf "%-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: quickstart
quickstart: ## The main job on a cluster of its own, which stays up.
	@hack/quickstart.sh

.PHONY: test
test: test-unit test-page test-chart test-api test-node ## All tests.

.PHONY: test-unit
test-unit: ## Tests that need nothing but Go.
	go test -race ./...

.PHONY: test-page
test-page: ## The listing's page in a real Chromium (needs Linux; root installs the package).
ifeq ($(shell uname -s),Linux)
	hack/chromium.sh
	go test -race -tags browser -count=1 -run InChromium ./internal/serve
else
	@echo "test-page: SKIPPED, the test in a real Chromium needs Linux"
endif

.PHONY: test-chart
test-chart: ## What the charts render (needs Helm, from the cluster's cache).
	@$(PARTS) && set -x && go test -tags chart ./charts/...

.PHONY: test-api
test-api: ## Tests on a real API server.
	@$(PARTS) && set -x && go test -race -tags envtest -timeout 20m ./controllers/... ./charts/...

.PHONY: test-node
test-node: ## Tests on a real node (needs Linux and root).
ifeq ($(shell uname -s)-$(shell id -u),Linux-0)
	$(MAKE) node-parts
	bin/cluster run --name test --nodes 2 -- go test -tags node -count=1 -v -timeout 60m ./hack/e2e
	bin/cluster leftovers --name test
else
	@echo "test-node: SKIPPED, the tests on a real node need Linux and root"
endif

.PHONY: bench
bench: ## Benchmarks, each beside a peer in the same run (half an hour; wants an idle machine, Linux and root).
ifeq ($(shell uname -s)-$(shell id -u),Linux-0)
	go build -o bin/bench ./hack/bench && bin/bench
	$(MAKE) bench-node
else
	@echo "bench: SKIPPED hack/bench and the benchmarks on a real node, they need Linux and root"
endif
	go test -run '^$$' -bench . -benchtime 3x ./internal/...
	@$(PARTS) && set -x && go test -tags envtest -run '^$$' -bench . -benchtime 3x ./controllers

# The life cycle's long run, and how long a change takes, on the nodes of test-node.
.PHONY: bench-node
bench-node: node-parts
	set -o pipefail; bin/cluster run --name bench --nodes 2 -- go test -tags node -count=1 -v -timeout 60m \
		-run '^TestLifeCycle$$' -bench . -benchtime 1x ./hack/e2e -args -small-requests=500000 | tee hack/bench/raw/node.txt

.PHONY: verify
verify: generate ## Generate, format, lint; fails when the tree is dirty.
	@test -z "$$(gofmt -l .)" || { echo "run gofmt -w on:"; gofmt -l .; exit 1; }
	$(LINT) run ./...
	@for module in . hack/tools hack/plugins; do (cd $$module && go mod tidy -diff) || exit 1; done
	@test -z "$$(git status --porcelain)" || { echo "the tree is dirty (commit, or run make generate):"; git status --short; exit 1; }

.PHONY: generate
generate: ## Everything that is derived: deepcopy, CRDs, roles, copies in charts/ and config/.
	@$(PARTS) && hack/tools/generate.sh

.PHONY: image
image: ## bin/image.tar, an OCI archive, and bin/image.ref (IMAGE, PLATFORMS, VERSION).
	@$(foreach platform,$(subst $(comma), ,$(PLATFORMS)),$(call programs,$(platform)) &&) true
	go run ./hack/image -ref $(IMAGE) -platform $(PLATFORMS) -out bin/image.tar

.PHONY: cluster-up
cluster-up: ## A Kubernetes cluster with one node, on this machine.
	$(CLUSTER) up

.PHONY: cluster-down
cluster-down: ## Remove it, and everything that belongs to it.
	$(CLUSTER) down

# What follows is made on behalf of others.

# The cluster has no way out to download modules, so the tests are compiled before.
.PHONY: node-parts
node-parts: parts image next-image stand-ins bin/cluster bin/push
	go test -tags node -c -o /dev/null ./hack/e2e

# The image of a later version, to upgrade to.
.PHONY: next-image
next-image:
	VERSION=next hack/image/build.sh bin/next/$(subst /,_,$(HOST))
	go run ./hack/image -ref plugin-server-operator/next -platform $(HOST) -from bin/next -out bin/next.tar

.PHONY: parts
parts:
	$(CLUSTER) build

# Images of the programs that run in the cluster beside ours. The quick start needs
# the first two, wherever its cluster is; nginx is for the tests on a real node.
.PHONY: printenv-client
printenv-client:
	@$(call programs,$(HOST),./hack/printenv ./hack/e2e/client)
	go run ./hack/image -ref plugin-server-operator/printenv -platform $(HOST) -programs printenv -entrypoint printenv -out bin/printenv.tar
	go run ./hack/image -ref plugin-server-operator/client -platform $(HOST) -programs client -entrypoint client -out bin/client.tar

.PHONY: stand-ins
stand-ins: printenv-client
	$(CLUSTER) build debian && nginx=$$($(CLUSTER) which nginx) && hack/nginx/tree.sh "$$nginx" bin/nginx key-auth:1.0.0 mcp-server:1.0.0
	go run ./hack/image -ref plugin-server-operator/nginx -platform $(HOST) -tree bin/nginx \
		-entrypoint usr/sbin/nginx -user 0:0 -stop-signal SIGQUIT -out bin/nginx.tar

.PHONY: bin/cluster bin/push
bin/cluster bin/push:
	go build -o $@ ./hack/$(@F)
