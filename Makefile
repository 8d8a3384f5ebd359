# Thin front door to CMake. `make demo` and `make test` need nothing but make itself on a fresh Debian 12.
SHELL := /bin/bash
PRESET ?= release
BUILD := build/$(PRESET)
PREFIX ?= /usr/local
DESTDIR ?=
JOBS ?= $(shell nproc 2>/dev/null || echo 2)

PACKAGES := build-essential cmake ninja-build pkg-config libjansson-dev libxxhash-dev libpcre2-dev libutf8proc-dev zlib1g-dev libopenblas-openmp-dev libopenmpi-dev openmpi-bin libcmocka-dev python3

.PHONY: help deps build demo test asan install clean
.NOTPARALLEL:

help:
	@echo 'make demo      install what is missing, build, fit a small model for 4 GPUs and prove it'
	@echo 'make test      install what is missing, build, run every test'
	@echo 'make build     build only                         (PRESET=release|dev|asan|tsan|clang)'
	@echo 'make asan      the tests under AddressSanitizer and UBSan'
	@echo 'make install   build and install                  (PREFIX=/usr/local, DESTDIR=)'
	@echo 'make deps      install missing packages with apt-get: $(PACKAGES)'
	@echo 'make clean     remove build/'

deps:
	@tools/install-packages $(PACKAGES)

build: deps
	@cmake --preset $(PRESET) --log-level=WARNING >/dev/null
	@cmake --build $(BUILD) --parallel $(JOBS)

demo: build
	@tools/demo $(BUILD)/fitq

test: build
	@ctest --test-dir $(BUILD) --output-on-failure --no-tests=error --output-junit tests.xml --parallel $(JOBS)

asan:
	@$(MAKE) --no-print-directory test PRESET=asan

install: build
	@cmake --install $(BUILD) --prefix $(PREFIX)

clean:
	rm -rf build
