#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make bench`: every benchmark, one after another, results into bench/results/. Leave the machine alone meanwhile.
#   bench/run.sh BUILD
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/release}
python=.venv/bin/python
[ -x "$python" ] || python=python3
"$python" bench/tokenizer.py --hydralm "$build/hydralm"
"$python" bench/runtime.py "$build"
"$python" bench/llama_cpp.py "$build"
"$python" bench/memory.py "$build"
"$python" bench/train_forward.py "$build"
"$python" bench/trainer.py "$build"
