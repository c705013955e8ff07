#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Prints the folder of chat templates that models are published with, for tests/parity/jinja_test.py. The first run
# fetches them from the sources of a Python package that carries them (77 MB, of which the templates are kept) into
# .cache; later ones fetch nothing.
set -eu
cd "$(dirname "$0")/.."
package=llama-cpp-python version=0.3.36
folder=.cache/templates/$version
refuse() { echo "templates: $*" >&2; exit 2; }

if [ ! -e "$folder/done" ]; then
  mkdir -p "$folder"
  part=$(mktemp -d "$folder/part-XXXXXX")
  trap 'rm -rf "$part"' EXIT
  trap 'exit 130' INT TERM
  python=$PWD/.venv/bin/python
  [ -x "$python" ] || refuse "no .venv: run \`make setup\` first"
  unpacked=llama_cpp_python-$version
  archive=.cache/peers/$unpacked.tar.gz  # where the benchmarks have it
  if [ ! -s "$archive" ]; then
    echo "templates: fetching the sources of $package $version, once" >&2
    archive=$part/$unpacked.tar.gz
    # pip asks the package's own build system for its name before it gives the file away.
    "$python" -m pip install --quiet --disable-pip-version-check --target "$PWD/$part/python" scikit-build-core \
      > "$part/log" 2>&1 || refuse "pip could not fetch scikit-build-core: $(tail -n 1 "$part/log")"
    PYTHONPATH=$PWD/$part/python "$python" -m pip download --quiet --disable-pip-version-check --no-deps \
      --no-binary :all: --no-build-isolation --dest "$part" "$package==$version" > "$part/log" 2>&1 ||
      refuse "pip could not fetch $package==$version: $(tail -n 1 "$part/log")"
  fi
  tar -xzf "$archive" -C "$part" --wildcards '*/models/templates/*.jinja' || refuse "$package holds no templates"
  find "$part" -name '*.jinja' -exec mv {} "$folder/" \;
  touch "$folder/done"
  rm -rf "$part"
  trap - EXIT INT TERM
fi
echo "$PWD/$folder"
