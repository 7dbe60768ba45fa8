# `make help` lists what there is. Every target sets up what it needs.
PYTHON ?= python3
CLANG ?= clang
LLVM_STRIP ?= llvm-strip
CC = gcc

ARCH := x86_64
BUILD := build
OBJECTS := $(patsubst bpf/%.bpf.c,$(BUILD)/$(ARCH)/%.bpf.o,$(wildcard bpf/*.bpf.c))
LOADS := $(patsubst tests/bench/%.c,$(BUILD)/%,$(wildcard tests/bench/*.c))
BIN := .venv/bin

# Which instructions a kernel must know: what plain.bpf.o is for are those that know only the oldest.
BPF_CPU := v3
$(BUILD)/$(ARCH)/plain.bpf.o: BPF_CPU := v2
BPF_CFLAGS = -target bpf -mcpu=$(BPF_CPU) -O2 -g -Wall -Wextra -Werror -Wno-unused-parameter \
	-D__TARGET_ARCH_x86 -I/usr/include/$(ARCH)-linux-gnu -Ibpf
CFLAGS := -O2 -g -std=gnu11 -Wall -Wextra -Werror

# bpftool and others live where a user's PATH does not look.
export PATH := $(PATH):/usr/sbin:/sbin
ROOT := $(if $(filter 0,$(shell id -u)),,sudo -E env "PATH=$(PATH)" PYTHONDONTWRITEBYTECODE=1)

# Kept apart, so that the demonstration does not wait for a browser to be installed.
PACKAGES := python3-venv clang llvm gcc libc6-dev libbpf-dev libbpf1 bpftool iproute2
TEST_PACKAGES := tcpdump tshark chromium fonts-dejavu-core clang-format \
	shellcheck libbpf-tools bpfcc-tools linux-headers-amd64 nginx-light nghttp2-client openssl iptables postgresql
MATRIX_PACKAGES := qemu-system-x86 busybox-static kmod

Q := $(if $(V),,@)

.DELETE_ON_ERROR:
.DEFAULT_GOAL := help
.PHONY: help setup setup-test bpf loads demo test matrix bench accuracy check format wire wheel clean

help: ## what can be made
	$(Q)sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 12

setup: $(BUILD)/.packages .venv/.setup $(OBJECTS) ## the command .venv/bin/tcptrace, with all it needs
	$(Q)$(if $(filter setup,$(MAKECMDGOALS)),echo "ready: .venv/bin/tcptrace",:)

setup-test: setup $(BUILD)/.packages-test .venv/.setup-test $(LOADS) ## what tests and checks need as well

bpf: $(OBJECTS) ## the eBPF programs alone

loads: $(LOADS) ## the loads of the benchmark alone

demo: setup ## record real connections between two namespaces: demo/demo.tct, demo/report.html
	$(Q)mkdir -p demo
	$(Q)$(ROOT) $(BIN)/python -m tcptrace.lab.demo demo

test: setup-test ## all tests; those of the kernel run as root
	$(Q)$(BIN)/python -m pytest tests/unit
	$(Q)TCPTRACE_REQUIRE_KERNEL=1 $(ROOT) $(BIN)/python -m pytest -p no:cacheprovider tests/kernel

# Guests are slow: byte code of modules, and of tests as pytest rewrites them, is made before.
matrix: setup .venv/.setup-test $(BUILD)/.packages-matrix ## under other kernels: all, KERNELS="6.1 6.12"; FAST=1: a few tests
	$(Q)$(BIN)/python -m compileall -q tcptrace tests/kernel
	$(Q)PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -p no:cacheprovider --collect-only -m matrix tests/kernel >/dev/null
	$(Q)$(ROOT) $(BIN)/python vagrant/matrix.py $(if $(FAST),--fast) $(KERNELS)

bench: setup-test ## what recording costs, in pairs with and without; ARGS=--help for more
	$(Q)$(ROOT) $(BIN)/python tests/bench/bench.py $(ARGS)

accuracy: setup-test ## compare what is recorded with what is true; write docs/accuracy.md, or ARGS=--help
	$(Q)$(ROOT) env PYTHONPATH=tests/kernel $(BIN)/python tests/accuracy/accuracy.py \
		$(or $(ARGS),--write docs/accuracy.md)

check: setup-test ## formatting, lint and types of every language
	$(Q)scripts/check

format: setup-test ## format Python and C in place
	$(Q)scripts/format

wire: setup ## generate tcptrace/trace/wire.py from bpf/tcptrace.h
	$(Q)$(BIN)/python scripts/generate-wire

wheel: setup ## dist/tcptrace-*.whl, with the compiled eBPF programs in it
	$(Q)rm -rf $(BUILD)/lib dist
	$(Q)$(BIN)/pip wheel -q --no-deps -w dist .
	$(Q)ls dist/*.whl

clean: ## remove what was made, except the virtual environment
	$(Q)rm -rf $(BUILD) dist demo *.egg-info

$(BUILD)/.packages: scripts/install-packages Makefile
	$(Q)scripts/install-packages $(PACKAGES)
	$(Q)mkdir -p $(@D) && touch $@

$(BUILD)/.packages-test: scripts/install-packages Makefile $(BUILD)/.packages
	$(Q)scripts/install-packages $(TEST_PACKAGES)
	$(Q)mkdir -p $(@D) && touch $@

$(BUILD)/.packages-matrix: scripts/install-packages Makefile $(BUILD)/.packages
	$(Q)scripts/install-packages $(MATRIX_PACKAGES)
	$(Q)mkdir -p $(@D) && touch $@

.venv/.created: | $(BUILD)/.packages
	$(Q)echo "creating the virtual environment"
	$(Q)$(PYTHON) -m venv .venv
	$(Q)touch $@

.venv/.setup: pyproject.toml setup.py .venv/.created
	$(Q)echo "installing the Python packages"
	$(Q)$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[report]'
	$(Q)touch $@

.venv/.setup-test: .venv/.setup
	$(Q)echo "installing the Python packages of the tests"
	$(Q)$(BIN)/python -m pip install -q --disable-pip-version-check -e '.[report,test]'
	$(Q)touch $@

$(BUILD)/$(ARCH)/%.bpf.o: bpf/%.bpf.c Makefile | $(BUILD)/.packages
	$(Q)mkdir -p $(@D)
	$(Q)echo "compiling $<"
	$(Q)$(CLANG) $(BPF_CFLAGS) -MMD -MP -MF $(BUILD)/$*.bpf.d -MT $@ -c $< -o $@
	$(Q)$(LLVM_STRIP) -g $@

$(BUILD)/%: tests/bench/%.c tests/bench/loopback.h Makefile | $(BUILD)/.packages
	$(Q)mkdir -p $(@D)
	$(Q)echo "compiling $<"
	$(Q)$(CC) $(CFLAGS) $< -o $@ -lpthread

-include $(wildcard $(BUILD)/*.bpf.d)
