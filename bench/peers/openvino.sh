#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fetches OpenVINO GenAI once into .cache/peers and prints the folder that PYTHONPATH needs for openvino_genai.py. Not
# here: measuring (../compare.py).
set -eu
cd "$(dirname "$0")/../.."
version=2026.4.0
folder=$PWD/.cache/peers/openvino-$version
if [ ! -e "$folder/openvino_genai/__init__.py" ]; then
  [ -x .venv/bin/python ] || { echo "openvino: no .venv: run \`make setup\` first" >&2; exit 2; }
  echo "openvino: fetching openvino-genai $version (90 MB), once" >&2
  mkdir -p .cache/peers
  .venv/bin/python -m pip install --quiet --disable-pip-version-check --target "$folder.part" \
    "openvino-genai==$version.0" "openvino==$version" > .cache/peers/log 2>&1 || {
    echo "openvino: pip could not fetch openvino-genai $version: $(tail -n 1 .cache/peers/log)" >&2
    exit 2
  }
  mv "$folder.part" "$folder"
fi
echo "$folder"
