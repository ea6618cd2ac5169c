# The one entry: `make help` lists the targets. Caches live outside the tree or are git-ignored.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/tunneld
export CARGO_TARGET_DIR ?= $(CACHE)/target
export PATH := $(PATH):/usr/sbin:/sbin
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_QUIET := 1

# The lab of `make run`.
HOSTS ?= 2
STORE ?= sqlite
BACKEND ?= udp
DATAPATH ?= userspace
ENCRYPTION ?= off
CIPHER ?= auto
IPV6 ?= 0
LAB ?= run

# Of `make fuzz`, for each of its targets.
FUZZ_SECONDS ?= 60

# The groups of tests that run beside each other, the longest first. Most of their time is waiting.
# Those of the last one need the processors to themselves, and come when the others are through.
TEST_JOBS ?= 4
TEST_GROUPS := wireguard docker e2e firewall interop encryption host dockerhost chaos unit native booted rest alone
TESTS_e2e := tests/e2e --ignore=tests/e2e/alone --ignore=tests/e2e/encryption
TESTS_encryption := tests/e2e/encryption
TESTS_chaos := tests/chaos
TESTS_docker := tests/docker
TESTS_dockerhost := tests/unit/docker
TESTS_host := tests/unit/host --ignore=tests/unit/host/firewall
TESTS_firewall := tests/unit/host/firewall
TESTS_interop := tests/interop --ignore=tests/interop/wireguard
# Three minutes of nothing but waiting for wireguard-go to rekey.
TESTS_wireguard := tests/interop/wireguard
TESTS_unit := tests/unit tests/sim --ignore=tests/unit/host --ignore=tests/unit/docker
TESTS_native := tests/native
TESTS_booted := tests/migration tests/systemd
TESTS_rest := tests/bench tests/repo
TESTS_alone := tests/e2e/alone

# Where `make install` puts things.
export DESTDIR ?=
export PREFIX ?= /usr/local
export SYSCONFDIR ?= /etc
export INSTALL_PYTHON ?= /usr/bin/python3

VENV := .venv
BIN := $(VENV)/bin
NATIVE := tunneld/_native.abi3.so
RUST_SOURCES := Cargo.toml $(wildcard Cargo.lock) pyproject.toml \
	$(shell find native -name target -prune -o \( -name '*.rs' -o -name Cargo.toml \) -print)
PYTHON_PATHS := tunneld tests testbed bench
STAGE := tools/stage.sh

.PHONY: help setup tools run test lint fmt build install bench fuzz docs clean
.PHONY: stage-rust stage-lint stage-fetch stage-pytest $(TEST_GROUPS:%=pytest-%)

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make run HOSTS=3 STORE=etcd      more hosts; STORE=sqlite|etcd"
	@echo "  make run ENCRYPTION=required     ENCRYPTION=off|preferred|required"
	@echo "                                   CIPHER=auto|aes-256-gcm|aes-128-gcm|chacha20-poly1305"

setup: tools $(NATIVE) ## Install what is missing, build, leave .venv/bin/tunneld

tools:
	@tools/check-tools.sh $(PYTHON)
	@tools/setup-debian.sh $(PYTHON)

$(VENV)/.requirements: requirements-dev.txt | tools
	@echo "setup: $(VENV) with the pinned packages of requirements-dev.txt"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --requirement requirements-dev.txt
	@touch $@

$(NATIVE): $(VENV)/.requirements $(RUST_SOURCES)
	@echo "setup: building the native core (release)"
	@said=$$(VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release 2>&1) || \
		{ echo "$$said" >&2; exit 1; }
	@touch $@

run: setup ## Run the main job: BACKEND=udp|vxlan|host-gw IPV6=0|1|only DATAPATH=userspace|kernel
	@$(BIN)/tunneld lab run --name '$(LAB)' --hosts '$(HOSTS)' --store '$(STORE)' --backend '$(BACKEND)' \
		--datapath '$(DATAPATH)' --encryption '$(ENCRYPTION)' --cipher '$(CIPHER)' --ipv6 '$(IPV6)'

test: ## Set up, lint, and run every test, Rust and Python (as root)
	@$(STAGE) setup $(MAKE) setup
	@$(STAGE) rust $(MAKE) stage-rust
	@$(STAGE) lint $(MAKE) stage-lint
	@$(STAGE) fetch $(MAKE) stage-fetch
	@$(STAGE) pytest $(MAKE) stage-pytest
	@$(MAKE) pytest-alone

stage-rust:
	@cargo test --workspace --quiet

# What cannot be had is said once more by the tests that need it; the others are run.
stage-fetch:
	@$(BIN)/python -m testbed.prepared || true

# All groups even if one fails, TEST_JOBS at once, each one's output whole when it ends.
stage-pytest:
	@$(MAKE) --jobs=$(TEST_JOBS) --keep-going --output-sync=target \
		$(filter-out pytest-alone,$(TEST_GROUPS:%=pytest-%))

# The leading + has the first line said at once, and not with the rest.
$(TEST_GROUPS:%=pytest-%): pytest-%:
	+@echo "pytest $*: begins"
	@$(STAGE) "pytest $*" env -u MAKEFLAGS -u MAKELEVEL $(BIN)/pytest --quiet --durations 8 --durations-min 5 $(TESTS_$*)

stage-lint:
	@$(BIN)/ruff check --quiet $(PYTHON_PATHS)
	@$(BIN)/ruff format --quiet --check $(PYTHON_PATHS)
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/python -m mypy.stubtest --concise tunneld._native
	@cargo fmt --all --check
	@cargo clippy --workspace --all-targets --quiet -- -D warnings

lint: setup stage-lint ## ruff, mypy --strict, stubtest, cargo fmt, clippy (purity of wire and core)

fmt: setup ## Format Python and Rust
	@$(BIN)/ruff check --quiet --fix $(PYTHON_PATHS) || true
	@$(BIN)/ruff format --quiet $(PYTHON_PATHS)
	@cargo fmt --all

build: setup ## Build the wheel into dist/
	@$(BIN)/maturin build --release --quiet --out dist
	@ls dist

install: build ## Install command, units and snippets: DESTDIR=, PREFIX=/usr/local
	@tools/install.sh "$$(ls -t dist/tunneld-*.whl | head -n1)" $(BIN)/pip

bench: setup ## Measure beside kernel vxlan and flanneld for 3 minutes; raw figures into bench/results/
	@$(BIN)/python -m bench.lab --short

fuzz: setup ## Random bytes through all that reads foreign bytes: FUZZ_SECONDS=60 for each target
	@cargo build --release --quiet --package tunneld-fuzz
	@for target in datagrams vnet vxlan esp sealed handshake; do echo "fuzz: $$target, $(FUZZ_SECONDS) s"; \
		$(CARGO_TARGET_DIR)/release/tunneld-fuzz $$target tests/vectors/fuzz/$$target $(FUZZ_SECONDS); done
	@HYPOTHESIS_PROFILE=fuzz $(BIN)/pytest --quiet --timeout 3600 -m hypothesis tests

docs: setup ## Check the documents' links and build the Rust documentation
	@$(BIN)/pytest --quiet tests/repo/test_documents.py
	@RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --quiet
	@echo "Rust documentation: $(CARGO_TARGET_DIR)/doc"

clean: ## Remove what make left in the tree (not the cache outside it)
	@rm -rf $(VENV) dist build target $(NATIVE) .mypy_cache .pytest_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
