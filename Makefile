# Everything that is made here goes to dist/ or, for what is worth keeping, to the cache that test/cluster/env.sh names.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
TAG ?= dev
RUN ?= .
CACHE := $(or $(TENANTWIRE_CACHE),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tenantwire)
TOOL := go tool -modfile=$(CURDIR)/tools/go.mod
PROGRAMS := $(notdir $(wildcard cmd/*))
IMAGES := $(filter operator sidecar gateway,$(PROGRAMS))
MODULES := $(shell git ls-files --cached --others --exclude-standard -- go.mod '*/go.mod' | grep -v -e ^test/cluster/mod/ -e ^tools/ -e ^bench/tailnet/ | xargs -n1 dirname)
RBAC_PATHS := $(foreach d,tenant/controller tenant/coordinator webhook,$(if $(wildcard $(d)),paths=./$(d)/...))
export GOFLAGS := -buildvcs=false $(GOFLAGS)
export TAG TENANTWIRE_CACHE := $(CACHE)

.PHONY: build test unit race e2e demo bench generate verify lint image clean help

build: ## Build all packages, and the programs into dist/bin
	go build ./...
	$(if $(PROGRAMS),CGO_ENABLED=0 go build -trimpath -ldflags '-s -w -X main.version=$(TAG)' -o dist/bin/ ./cmd/...)

test: image ## Run all tests: of every module, with a real API server and etcd, then on a real cluster
	build/test.sh all

unit: ## Run all tests but those that need a cluster
	build/test.sh unit

# One package at a time: the detector slows everything down, and many tests wait in real time. A guest is emulated, which is slow enough without.
race: ## Run the sidecar's tests under the race detector: some 7 minutes with two CPUs, root for all of it, a C compiler
	CGO_ENABLED=1 go test -race -short -p 1 -timeout 30m -skip 'InGuest$$' ./sidecar/...

e2e: image ## Run the cluster tests that match RUN=REGEXP (KEEP_CLUSTER=1 keeps the cluster, KUBECONFIG uses yours)
	test/cluster/with-cluster.sh sh -c 'cd test && exec go test -count=1 -v -timeout 50m ./e2e/... -run "$$0"' '$(RUN)'

demo: image ## Show what TenantWire does on a real cluster
	test/cluster/with-cluster.sh sh -c 'cd test && exec go run ./demo'

bench: ## Run the whole benchmark into bench/report: about an hour on a quiet machine, as root (BENCHFLAGS, BENCH_PEERS=DIR)
	go test -run '^$$' -bench . ./...
	cd bench && go run ./cmd/bench $(BENCHFLAGS)

.PHONY: bench-quick
bench-quick: ## Print the headline ratios of our speed to others', one a line, in less than five minutes, as root
	cd bench && go run ./cmd/bench -quick $(BENCHFLAGS)

generate: ## Write deepcopy functions, CRDs and the operator's role from the markers, manifests/install.yaml, the chart's templates and docs/api.md
	$(TOOL) controller-gen object paths=./tenant/...
	$(TOOL) controller-gen crd paths=./tenant/... output:crd:dir=manifests/crds
	$(if $(RBAC_PATHS),$(TOOL) controller-gen rbac:roleName=tenantwire-operator $(RBAC_PATHS) output:rbac:dir=manifests/rbac)
	go run ./manifests/gen

verify: generate ## Check that generated files are committed, formatting and go vet
	git diff --exit-code -- manifests/crds manifests/rbac manifests/install.yaml manifests/chart docs/api.md ':(glob)**/zz_generated*'
	new=$$(git ls-files --others --exclude-standard -- manifests/crds manifests/rbac manifests/chart ':(glob)**/zz_generated*'); [[ -z $$new ]] || { echo "not committed: $$new"; exit 1; }
	bad=$$(git ls-files -- '*.go' | xargs gofmt -l); [[ -z $$bad ]] || { echo "not formatted: $$bad"; exit 1; }
	for m in $(MODULES); do (cd $$m && go vet ./...); done

lint: ## Run golangci-lint on every module and shellcheck on every script
	build/lint.sh $(MODULES)

image: ## Build the container images as archives dist/tenantwire-*.tar (TAG=dev)
	for i in $(IMAGES); do build/image.sh $$i; done

.PHONY: release release-verify
release: ## Make the release VERSION=vX.Y.Z of the commit in dist/release, without a network if Go's module cache has it all
	go -C build run ./release -root $(CURDIR) -version "$(VERSION)" $(RELEASEFLAGS)

release-verify: ## Check the release VERSION=vX.Y.Z in dist/release
	go -C build run ./release -verify -root $(CURDIR) -version "$(VERSION)" $(RELEASEFLAGS)

clean: ## Remove dist/ (the cache of the test cluster stays, see test/cluster)
	rm -rf dist

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*## ' Makefile | sed -E 's/^([a-z0-9-]+):.*## (.*)/\1\t\2/' | expand -t 12
