#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fetches llama.cpp (the source that llama-cpp-python's sdist vendors) and builds the tools that we measure against, for
# this very processor, into a folder of .cache/peers that is named after its instructions; makes the quantised files of
# SmolLM2 that they share with us. Prints the folder of the programs. A second run on the same processor builds nothing.
# Not here: measuring (llama_cpp.py).
set -eu
cd "$(dirname "$0")/../.."
version=0.3.36
peers=$PWD/.cache/peers
source=$peers/llama_cpp_python-$version/vendor/llama.cpp
# "flags" of x86, "Features" of Arm: another processor's programs may lack instructions of this one, or have others.
instructions=$(grep -m 1 -E '^(flags|Features)' /proc/cpuinfo | sha256sum | cut -c 1-8)
build=$peers/llama.cpp-$version-$instructions
bin=$build/bin
refuse() { echo "llama_cpp: $*" >&2; exit 2; }

if [ ! -x "$bin/llama-completion" ]; then
  mkdir -p "$peers"
  if [ ! -e "$source/CMakeLists.txt" ]; then
    python=.venv/bin/python
    [ -x $python ] || refuse "no .venv: run \`make setup\` first"
    echo "llama_cpp: fetching the sdist of llama-cpp-python $version (70 MB)" >&2
    $python -m pip install --quiet --disable-pip-version-check --target "$peers/python" scikit-build-core \
      > "$peers/log" 2>&1 ||
      refuse "pip could not fetch scikit-build-core: $(tail -n 1 "$peers/log")"
    PYTHONPATH=$peers/python $python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
      --no-build-isolation --dest "$peers" "llama-cpp-python==$version" > "$peers/log" 2>&1 ||
      refuse "pip could not fetch llama-cpp-python==$version: $(tail -n 1 "$peers/log")"
    tar -xzf "$peers"/llama_cpp_python-$version.tar.gz -C "$peers"
  fi
  echo "llama_cpp: building (about 8 minutes on 2 cores)" >&2
  cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_MTMD=OFF > "$peers/log" 2>&1 ||
    refuse "cmake failed: $peers/log"
  cmake --build "$build" --target llama-bench llama-quantize llama-completion > "$peers/log" 2>&1 ||
    refuse "the build failed: $peers/log"
fi

# The types that SmolLM2 is not published in, made of its Q4_1 file.
model=$(tools/smollm2.sh)
for type in Q4_0 Q8_0 F16; do
  made=$peers/SmolLM2-135M-Instruct.$type.gguf
  [ -s "$made" ] && continue
  "$bin/llama-quantize" --allow-requantize --pure "$model" "$made.part" $type > "$peers/log" 2>&1 ||
    refuse "llama-quantize $type: $(tail -n 1 "$peers/log")"
  mv "$made.part" "$made"
done
echo "$bin"
