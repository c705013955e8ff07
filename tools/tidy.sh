#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# clang-tidy over the torch-free sources with the flags of a build folder; .clang-tidy has the checks.
#   tools/tidy.sh BUILD [files]
set -eu
cd "$(dirname "$0")/.."
build=$1
shift
if [ $# -eq 0 ]; then
  set -- $(git ls-files -co --exclude-standard 'hydra/*.cc' |
           grep -v -e '^hydra/nn/' -e '^hydra/train/' -e '^hydra/eval/' -e '^hydra/cli/torch_' \
             -e '^hydra/cli/train_main')
fi
# clang lacks some of the compiler's warning names.
printf '%s\n' "$@" | xargs -P 2 -n 4 clang-tidy -p "$build" --quiet --extra-arg=-Wno-unknown-warning-option
echo "tidy: $# files clean"
