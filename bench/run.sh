#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make bench`: the pages, one after another, into bench/results/. It needs the model of `make demo` and takes hours:
# leave the machine alone meanwhile. Run again, it goes on where it stopped and measures void rows anew. quality is one
# of the pages where bench/quality_model.py has made its model; nano_sweep, which trains for hours, is none.
#   bench/run.sh BUILD
set -eu
cd "$(dirname "$0")/.."
build=${1:-build/release}
python=.venv/bin/python
[ -x "$python" ] || python=python3
pages="tokenizer runtime provisional blockffn compare busy memory serve moa_speed train_forward trainer"
if [ -e runs/quality/model/config.json ]; then
  pages="$pages quality"
else
  echo "bench: quality is left out: bench/quality_model.py has not made its model" >&2
fi
for page in $pages; do
  "$python" "bench/$page.py" "$build"
done
