#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Fetches llama.cpp or ik_llama.cpp (the sources that packages of Python bindings vendor) and builds the tools that we
# measure against, into a folder of .cache/peers that is named after the instructions they were built for (those of this
# very processor, or AVX2) and after the flags. Prints the folder of the programs. A second run builds nothing.
# Not here: the models (models.sh), measuring (../compare.py).
#   bench/peers/ggml.sh llama_cpp|ik_llama_cpp [native|avx2]
set -eu
cd "$(dirname "$0")/../.."
name=$1
isa=${2:-native}
peers=$PWD/.cache/peers
before=  # a header before every unit of C++
refuse() { echo "$name: $*" >&2; exit 2; }

case $name in
  llama_cpp)
    package=llama-cpp-python version=0.3.36 vendored=llama.cpp
    programs="llama-bench llama-quantize llama-completion llama-lookup llama-server"
    options="-DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_APP=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_BUILD_SERVER=ON"
    before=$PWD/bench/peers/tile_config.h ;;
  ik_llama_cpp)
    package=ik-llama-cpp-python version=0.1.5 vendored=ik_llama.cpp
    programs=llama-bench
    options=-DLLAMA_BUILD_SERVER=OFF ;;
  *) refuse "must be llama_cpp or ik_llama_cpp" ;;
esac
case $isa in
  # "flags" of x86, "Features" of Arm: another processor's programs may lack instructions of this one, or have others.
  native)
    instructions=$(grep -m 1 -E '^(flags|Features)' /proc/cpuinfo | sha256sum | cut -c 1-8)
    options="$options -DGGML_NATIVE=ON" ;;
  avx2)
    instructions=avx2
    options="$options -DGGML_NATIVE=OFF -DGGML_AVX=ON -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_BMI2=ON" ;;
  *) refuse "$isa: must be native or avx2" ;;
esac
unpacked=$(echo "$package" | tr - _)-$version
source=$peers/$unpacked/vendor/$vendored
# Other flags, another folder: what was built before is not taken for what is asked for now.
flags=$(echo "$options" | cat - ${before:+"$before"} | sha256sum | cut -c 1-8)
build=$peers/$vendored-$version-$instructions-$flags

if [ ! -x "$build/bin/${programs##* }" ]; then
  mkdir -p "$peers"
  if [ ! -e "$source/CMakeLists.txt" ]; then
    python=.venv/bin/python
    [ -x $python ] || refuse "no .venv: run \`make setup\` first"
    echo "$name: fetching the sdist of $package $version" >&2
    $python -m pip install --quiet --disable-pip-version-check --target "$peers/python" scikit-build-core \
      > "$peers/log" 2>&1 ||
      refuse "pip could not fetch scikit-build-core: $(tail -n 1 "$peers/log")"
    PYTHONPATH=$peers/python $python -m pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
      --no-build-isolation --dest "$peers" "$package==$version" > "$peers/log" 2>&1 ||
      refuse "pip could not fetch $package==$version: $(tail -n 1 "$peers/log")"
    tar -xzf "$peers/$unpacked.tar.gz" -C "$peers"
  fi
  # The package of ik_llama.cpp lacks the script that fills in common/build-info.cpp.in.
  fill=$source/common/cmake/build-info-gen-cpp.cmake
  if [ -e "$source/common/build-info.cpp.in" ] && [ ! -e "$fill" ]; then
    mkdir -p "$source/common/cmake"
    printf '%s\n' 'include(cmake/build-info.cmake)' \
      'configure_file(common/build-info.cpp.in common/build-info.cpp)' > "$fill"
  fi
  echo "$name: building (about 8 minutes on 2 cores)" >&2
  # $options holds flags without spaces.
  log=$peers/$name-$isa.log
  cmake -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DLLAMA_CURL=OFF -DLLAMA_BUILD_TESTS=OFF \
    ${before:+"-DCMAKE_CXX_FLAGS=-include $before"} $options > "$log" 2>&1 || refuse "cmake failed: $log"
  cmake --build "$build" --target $programs >> "$log" 2>&1 || refuse "the build failed: $log"
fi
echo "$build/bin"
