# SPDX-License-Identifier: Apache-2.0
# Commands for people; the build itself is CMake's (CMakeLists.txt, CMakePresets.json).
#
#   make              set-up, build of the commands and every test
#   make demo         set-up, build of the commands, train hydra-nano on real text and write with it
#   make chat         set-up, build of hydralm, talk to SmolLM2-135M (fetched once; MODEL=path: another model)
#   make check        set-up, build, every test but the longest ones (make check-slow)
#   make evidence    set-up, build, an hour of the experiments behind what Hydra claims (docs/evidence.md)
#   make bench        every page of bench/results but nano_sweep, and quality where its model is (bench/run.sh)
#   make tsan         the torch-free tests under ThreadSanitizer
#   make fuzz         fuzz every reader, FUZZ_SECONDS=600 each (clang)
#   make arm          cross-build for 64-bit Arm, kernels and the runtime's goldens under qemu-user
#   make tidy         clang-tidy over the torch-free sources
#   make format       clang-format in place
#   make setup        what the build needs
#   make setup-torch  the same, LibTorch being a must
#   make clean        remove what was built
#
# TORCH=off builds without LibTorch; DATA=file gives the demo another text; JOBS=N limits the compilers.

# A torch unit takes about 1.2 GB to compile: as many jobs as cores and memory allow.
JOBS ?= $(shell m=$$(awk '/MemAvailable/ {print int($$2 / 1500000)}' /proc/meminfo); c=$$(nproc); \
          j=$$(( m < c ? m : c )); echo $$(( j < 1 ? 1 : j )))
TORCH ?= auto
PRESET ?= release
BUILD = build/$(PRESET)
export TORCH JOBS

all: build

setup:
	@tools/setup.sh

setup-torch:
	@tools/setup.sh torch

build: setup
	@tools/build.sh $(PRESET)

# The first things a user tries build no test.
demo: setup
	@tools/build.sh $(PRESET) commands
	@tools/demo.sh $(BUILD)

chat: setup
	@tools/build.sh $(PRESET) hydralm
	@tools/chat.sh $(BUILD)

check: setup
	@tools/check.sh

check-slow: setup
	@tools/check.sh slow

tsan: setup
	@tools/check.sh tsan

arm: setup
	@tools/setup.sh arm
	@tools/arm.sh

bench: build
	@bench/run.sh $(BUILD)

evidence: build
	@$(BUILD)/hydralm evidence all --minutes 60

tidy: build
	@tools/setup.sh dev
	@tools/tidy.sh $(BUILD)

fuzz:
	@tools/setup.sh dev
	@tools/fuzz.sh $(TARGETS)

format: setup
	@git ls-files -co --exclude-standard '*.cc' '*.h' | xargs clang-format -i

clean:
	rm -rf build

.PHONY: all setup setup-torch build demo chat check check-slow tsan arm bench evidence tidy fuzz format clean
