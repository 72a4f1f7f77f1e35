# Every command of the README is a target here. CARGO_FLAGS is passed to each build for demo, soak and benches.
.DEFAULT_GOAL := help
SHELL := /bin/bash
CARGO ?= cargo
# The tests wait for servers more than they compute.
export RUST_TEST_THREADS ?= 4
TARGET := $(or $(CARGO_TARGET_DIR),target)
# The program that demonstrates the daemon, measures it and makes it suffer.
TESTBED := $(TARGET)/release/testbed

.PHONY: help deps demo test check fmt clippy doc deny alerts soak bench bench-codec bench-baseline up browser shop shop-up shop-test deb deb-test image-test kubernetes-test compose-test packages-test package-deps clean

help: ## show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

deps: ## install what Debian has to give: a C toolchain for librdkafka, Java and Maven for the test servers, Postgres 15, Prometheus
	@./testbed/install-deps
	@./testbed/install-prometheus

demo: deps ## three databases, 20,000 transactions, kill -9 and a broker restart on the way; ends with the audit
	$(CARGO) build --release --workspace --bins $(CARGO_FLAGS)
	$(TESTBED) demo $(DEMO_FLAGS)

test: deps browser ## all tests, on real Postgres and Kafka servers that they start themselves, and in a browser
	# `cargo run -p testbed` would choose other features of the dependencies, and compile many of them twice.
	$(CARGO) test --workspace --all-targets --no-run
	$(TARGET)/debug/testbed fetch
	$(CARGO) test --workspace --all-targets

check: fmt clippy doc deny alerts ## formatting, lints, documentation, licences, alert rules

fmt:
	$(CARGO) fmt --all --check

clippy:
	$(CARGO) clippy --workspace --all-targets -- -D warnings

doc:
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps

deny: ## licences, sources and duplicate versions of all dependencies
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check licenses bans sources

alerts: ## the alert rules against their tests; where CI is set, it fails without promtool
	@command -v promtool >/dev/null || ./testbed/install-prometheus || true
	@if command -v promtool >/dev/null; then promtool test rules config/prometheus-alerts.test.yml; \
	else echo "promtool is not installed: the alert rules are not tested"; test -z "$$CI"; fi

soak: deps ## a million simulated schedules, all tests with the slow ones, takeover times, and half an hour of random faults
	OUTBOXD_SIM_SCHEDULES=1000000 nice $(CARGO) test --test simulation guarantees -- --nocapture
	$(CARGO) test --release --workspace --tests -- --include-ignored
	$(CARGO) build --release --workspace --bins $(CARGO_FLAGS)
	$(TESTBED) chaos takeover
	$(TESTBED) chaos run --minutes 30 $(CHAOS_FLAGS)

bench: deps ## drain and latency beside pg_recvlogical; writes benches/results/ (BENCH_FLAGS=--help shows what else)
	$(CARGO) build --release --workspace --bins $(CARGO_FLAGS)
	$(TESTBED) bench $(BENCH_FLAGS)

# Where criterion keeps what it measured, and the part of it that a comparison reads.
CRITERION := $(TARGET)/criterion
BASELINE := stored

bench-codec: ## a row from the wire to its record, each benchmark with its change against benches/baseline/
	mkdir -p $(CRITERION)
	if [ -d benches/baseline ]; then cp -r benches/baseline/. $(CRITERION)/; fi
	$(CARGO) bench --bench codec $(CARGO_FLAGS) -- --noplot --baseline-lenient $(BASELINE)

bench-baseline: ## measures the same, and stores it as benches/baseline/
	$(CARGO) bench --bench codec $(CARGO_FLAGS) -- --noplot --save-baseline $(BASELINE)
	rm -rf benches/baseline && mkdir benches/baseline
	cd $(CRITERION) && find . -path '*/$(BASELINE)/*' \( -name estimates.json -o -name sample.json \) -print0 \
		| xargs -0 cp --parents -t $(CURDIR)/benches/baseline

up: deps ## a Postgres and a Kafka to play with; prints their addresses and stays until Ctrl-C
	$(CARGO) run -p testbed -- up

browser: ## install Debian's Chromium, in which tests look at pages
	@./testbed/install-chromium

# The example has a workspace of its own, so that the daemon's build stays small. What both depend on is built once.
IN_SHOP := --manifest-path examples/shop/Cargo.toml --target-dir $(abspath $(TARGET))
SHOP := $(CARGO) run $(IN_SHOP) --
OUTBOXD := $(abspath $(TARGET))/release/outboxd

shop: deps ## examples/shop: from a monolith to three services under load, with kills and a way back; ends with the invariants
	$(CARGO) build --release --workspace --bins $(CARGO_FLAGS)
	$(SHOP) prove --outboxd $(OUTBOXD) $(SHOP_FLAGS)

shop-up: deps ## the same before its first phase, to play with, until Ctrl-C
	$(CARGO) build --release --workspace --bins $(CARGO_FLAGS)
	$(SHOP) up --outboxd $(OUTBOXD) $(SHOP_FLAGS)

shop-test: deps browser ## the tests of examples/shop, on servers that they start themselves
	$(CARGO) build --workspace --bins
	$(CARGO) fmt --manifest-path examples/shop/Cargo.toml --all --check
	$(CARGO) clippy $(IN_SHOP) --workspace --all-targets -- -D warnings
	# Each test starts everything: one at a time.
	SHOP_OUTBOXD=$(abspath $(TARGET))/debug/outboxd RUST_TEST_THREADS=1 $(CARGO) test $(IN_SHOP) --workspace

packages-test: package-deps deb-test image-test kubernetes-test compose-test ## the four below; .ci/run calls it

package-deps:
	@./packaging/install-deps

deb: deps package-deps ## the Debian package, into target/debian/
	./packaging/build-deb

deb-test: deb ## install, upgrade under load and purge the package in a clean Debian root; needs root and debootstrap
	./packaging/test-deb

image-test: ## build the image without a Docker engine and without network; needs root, buildah, and what `make deb` built
	./packaging/test-image

kubernetes-test: ## the Kubernetes manifests against the schemas of Kubernetes
	./packaging/test-kubernetes

compose-test: ## compose.yaml without a Docker engine: its form, and its commands on real servers; needs docker-compose and what `make deb` built
	./packaging/test-compose

clean: ## remove what was built and downloaded
	$(CARGO) clean
