#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Configures a preset when it is new (or TORCH changed) and builds it. Not here: set-up (setup.sh).
#   tools/build.sh PRESET [ninja targets]
set -eu
cd "$(dirname "$0")/.."
preset=$1
shift
folder=build/$preset
option=
case $preset in
  dev | tsan | fuzz | arm) ;;  # torch-free by themselves
  *) option=-DHYDRALM_TORCH=${TORCH:-auto} ;;
esac
mkdir -p "$folder"
key="$preset $option"
if [ ! -e "$folder/build.ninja" ] || [ "$(cat "$folder/configured" 2>/dev/null)" != "$key" ]; then
  cmake --preset "$preset" $option > "$folder/configure.log" 2>&1 || { cat "$folder/configure.log" >&2; exit 2; }
  tail -n 4 "$folder/configure.log" | grep '^-- hydralm' | sed 's/^-- //'
  echo "$key" > "$folder/configured"
fi
NINJA_STATUS="[%f/%t] " exec ninja -C "$folder" -j "${JOBS:-2}" "$@"
