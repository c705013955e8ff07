#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make arm`: cross-builds hydralm and the torch-free tests for 64-bit Arm (preset arm, cmake/aarch64.cmake), then runs,
# under qemu-user, hydralm, every test of the kernels, and the runtime against its goldens. Ends with "N passed, N
# failed". About 4 minutes of a processor, most of them the kernels' list. Not here: set-up (setup.sh arm).
set -u
cd "$(dirname "$0")/.."
build=build/arm
emulate=qemu-aarch64

tools/build.sh arm hydralm unit_tests || { echo "0 passed, 1 failed"; exit 1; }
$emulate $build/hydralm --version || { echo "0 passed, 1 failed"; exit 1; }

# run PROGRAM FILTER SHARDS: a program's tests, in so many processes side by side; their logs are $build/PROGRAM.N.log.
run() {
  rm -f "$build/$1".*.log
  seq 0 $(($3 - 1)) | GTEST_TOTAL_SHARDS=$3 xargs -P "$3" -I % sh -c \
    "GTEST_SHARD_INDEX=% exec $emulate $build/$1 --gtest_filter='$2' > $build/$1.%.log 2>&1"
}
run kernels_test '*' "${JOBS:-2}"
run runtime_test 'RuntimeGolden*:*HuggingFace*' "${JOBS:-2}"

# What ran and passed; a process that died has no summary and counts as one failure.
passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) tests*\.$/\1/p' $build/*_test.*.log | awk '{n += $1} END {print n + 0}')
failed=0
for log in $build/*_test.*.log; do
  if grep -q '^\[==========\] .* ran\.' "$log"; then
    failed=$((failed + $(grep -c '^\[  FAILED  \] .* (.* ms)$' "$log")))
  else
    failed=$((failed + 1))
  fi
  grep -B 8 '^\[  FAILED  \] .* (.* ms)$' "$log"
done
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
