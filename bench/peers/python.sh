#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prints the folder that PYTHONPATH needs for torch_models.py: transformers and what it uses, fetched once into
# .cache/peers (torch itself is the one of .venv). Beside it there is same_process.so, made anew each time. Not here:
# measuring (../train_forward.py).
set -eu
cd "$(dirname "$0")/../.."
folder=$PWD/.cache/peers/transformers-5.23.0
if [ ! -e "$folder/transformers/__init__.py" ]; then
  [ -x .venv/bin/python ] || { echo "python.sh: no .venv: run \`make setup\` first" >&2; exit 2; }
  echo "python.sh: fetching transformers 5.23.0 (once)" >&2
  mkdir -p .cache/peers
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --target "$folder.part" transformers==5.23.0 >&2
  mv "$folder.part" "$folder"
fi
c++ -std=c++20 -shared -fPIC -O1 -I. -o .cache/peers/same_process.so bench/peers/same_process.cc hydra/cli/process.cc
echo "$folder"
