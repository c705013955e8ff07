#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make bench`: every page but quality and nano_sweep, one after another, into bench/results/. It takes hours; leave the
# machine alone meanwhile. Run again, it goes on where it stopped and measures void rows anew.
#   bench/run.sh BUILD
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/release}
python=.venv/bin/python
[ -x "$python" ] || python=python3
for page in tokenizer runtime llama_cpp memory train_forward trainer; do
  "$python" "bench/$page.py" "$build"
done
