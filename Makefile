# `make help` lists the targets.
SHELL      := /bin/bash
.ONESHELL:
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X main.version=$(VERSION) -X main.commit=$(COMMIT)
CACHE   := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/datera-csi
LINT    := $(CACHE)/bin/golangci-lint-v2.15.0
TESTSUM := $(CACHE)/bin/gotestsum-v1.13.0
GO      := $(shell hack/prerequisites.sh --print-go)
export PATH := $(dir $(GO)):$(PATH)
RERUN    = --rerun-fails=$(or $(RERUNS),0) --rerun-fails-max-failures=4 --rerun-fails-abort-on-data-race
RACE     = $(shell command -v gcc >/dev/null && echo -race)
export CGO_ENABLED = $(if $(RACE),1,0)

build: ## bin/datera-csi and bin/datera-sim, static
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...

image: prerequisites ## bin/datera-csi.tar and bin/datera-sim.tar, for docker load or ctr images import; VERSION=TAG for that of the manifests, ARCH=amd64,arm64 for both
	hack/prerequisites.sh vm
	mkdir -p bin
	for program in datera-csi datera-sim; do
		$(GO) run ./hack/image -program=$$program -version=$(VERSION) -commit=$(COMMIT) $(if $(ARCH),-arch=$(ARCH)) -o bin/$$program.tar
	done

test: prerequisites $(TESTSUM) ## everything that needs no VM: units, controller against the simulator, csi-sanity
	$(GO) vet ./... && $(GO) vet -tags e2e ./test/e2e/...
	$(TESTSUM) --format pkgname-and-test-fails $(RERUN) --packages ./... -- $(RACE) -p 4 -timeout 10m

test-deploy: prerequisites ## deploy/ built with kustomize and Helm, checked against the types of Kubernetes
	cd test/deploy && $(GO) vet ./... && $(GO) test -timeout 10m ./...

model: prerequisites ## 10,000 random controller calls with faults, compared with a model after each
	$(GO) test $(RACE) -count=1 -v -timeout 30m -run TestModel ./pkg/controller -model.ops=10000

fuzz: prerequisites ## every fuzz target for FUZZTIME (5m), one after the other; PKG=./pkg/iscsi for one package's
	for pkg in $(or $(PKG),$$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u)); do
		for target in $$($(GO) test -run '^$$' -list '^Fuzz' $$pkg | grep '^Fuzz'); do
			echo "== $$pkg $$target"
			$(GO) test $$pkg -run '^$$' -fuzz "^$$target\$$" -fuzztime $(or $(FUZZTIME),5m) -fuzzminimizetime 20x -parallel 1
		done
	done

lint: $(LINT) ## golangci-lint
	$(LINT) run --allow-parallel-runners ./...

sanity: prerequisites ## csi-sanity, verbose; ARGS="-array=https://HOST:7718 -array-user=U -array-password-file=F -array-ca=F" for hardware
	$(GO) test -count=1 -v -timeout 30m ./test/sanity $(ARGS)

demo: prerequisites ## the main job on the shipped array, with kubectl on a real cluster in QEMU guests; KEEP=1 keeps it
	hack/prerequisites.sh lab
	$(GO) run ./test/e2e/kubernetes/demo

demo-node: prerequisites ## the same by CSI calls, without Kubernetes: sooner there, and closer to the kernel
	hack/prerequisites.sh lab
	$(GO) run ./test/e2e/demo

# Who asks for guests wants no test skipped.
e2e e2e-long e2e-kubernetes e2e-kubernetes-long bench: export CI = true
e2e: prerequisites $(TESTSUM) ## the promises, proven in QEMU guests with a real target and initiator; RUN=Regexp for some, SKIP=Regexp without some, PARALLEL=N at a time, TABLE=docs/laboratory.md for the table in there
	$(call laboratory,$$($(GO) list -tags e2e ./test/e2e/... | grep -v e2e/kubernetes$$ | paste -sd ' '),$(if $(RUN),-run '$(RUN)' $(if $(SKIP),-skip '$(SKIP)'),-skip '$(LONG)$(if $(SKIP),|$(SKIP))'))

e2e-long: export E2E_OUTAGE = 10m
e2e-long: prerequisites $(TESTSUM) ## those of the promises that take as long as all others: crowds, accidents at every moment, ten minutes without a path; TABLE=docs/laboratory-long.md
	$(call laboratory,./test/e2e,-run '$(LONG)|TestNoPathForLongerThanEveryTimeout')

LONG = TestFiftyVolumes|TestVolumesBeside|TestNoAccident|TestPluginKilledAtAnyMoment
define laboratory
	hack/prerequisites.sh lab
	while sleep 60 && sudo -nv; do :; done >/dev/null 2>&1 & # so that a password holds for the packages that come later
	events=$$(mktemp); trap "kill $$! 2>/dev/null || true; rm -f $$events" EXIT; failed=0
	$(TESTSUM) --format testname --jsonfile $$events $(RERUN) --packages "$(1)" -- \
		-tags e2e -count=1 -p 1 -parallel $(or $(PARALLEL),2) -timeout 75m $(2) || failed=$$?
	$(GO) run ./test/e2e/report $(if $(TABLE),-markdown) $$events | tee $(or $(TABLE),/dev/null)
	exit $$failed
endef

e2e-kubernetes: prerequisites $(TESTSUM) ## what users do with kubectl, proven on a real cluster; RUN=Regexp for some, KEEP=1 keeps it
	$(call cluster,$(if $(RUN),-run '$(RUN)',-skip '$(SCALE)'))

e2e-kubernetes-long: prerequisites $(TESTSUM) ## a StatefulSet of 0, 50 and 0 replicas, and one of 20 whose controller is killed, on the same cluster
	$(call cluster,-run '$(SCALE)')

SCALE = TestScaleUpAndBack|TestControllerLeader
define cluster
	hack/prerequisites.sh lab
	$(TESTSUM) --format standard-verbose $(RERUN) --packages ./test/e2e/kubernetes -- -tags e2e -count=1 -timeout 150m $(1)
endef

e2e-conformance: prerequisites ## Kubernetes' own tests of storage drivers, on the same cluster; FOCUS=Regexp for some, PROCS=N at a time
	hack/prerequisites.sh lab
	$(GO) run ./test/e2e/kubernetes/conformance

bench: prerequisites ## ratios and counts: the client, the controller, and the node in a guest
	$(GO) test -run '^$$' -bench . -benchmem ./pkg/... ./internal/...
	hack/prerequisites.sh lab
	$(GO) test -tags e2e -count=1 -v -timeout 30m -run '^$$' -bench . ./test/e2e

clean: ## what the other targets made here; the cache stays: rm -r $(CACHE)
	rm -rf bin dist test/e2e/logs

prerequisites:
	@hack/prerequisites.sh go

$(LINT):
	GOBIN=$(CACHE)/bin $(GO) install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
	mv $(CACHE)/bin/golangci-lint $@

$(TESTSUM):
	GOBIN=$(CACHE)/bin $(GO) install gotest.tools/gotestsum@v1.13.0
	mv $(CACHE)/bin/gotestsum $@

help: ## this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 21

.PHONY: build image test test-deploy model fuzz lint sanity demo demo-node e2e e2e-long e2e-kubernetes e2e-kubernetes-long e2e-conformance bench clean prerequisites help
