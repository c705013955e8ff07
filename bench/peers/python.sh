#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prints the folder that PYTHONPATH needs for torch_models.py: transformers and what it uses, fetched once into
# .cache/peers (torch itself is the one of .venv), and builds mkl_any_maker.so there. Not here: measuring
# (../train_forward.py).
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
cc -shared -fPIC -O1 -o .cache/peers/mkl_any_maker.so bench/peers/mkl_any_maker.c
echo "$folder"
