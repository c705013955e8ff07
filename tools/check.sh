#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make check`: the release build with every test, then ASan + UBSan over the torch-free ones. Ends with
# "N passed, N failed" over both, counted from ctest's own report; a build that fails is one failure.
set -u
cd "$(dirname "$0")/.."
passed=0
failed=0

# attribute NAME FILE: a number of the report's <testsuite> line.
attribute() { sed -n "s/.*[ \t]$1=\"\([0-9]*\)\".*/\1/p" "$2" | head -n 1; }

# run PRESET: builds and tests one preset, and adds to the counts.
run() {
  started=$(date +%s)
  if ! tools/build.sh "$1"; then
    echo "$1: build failed"
    failed=$((failed + 1))
    return
  fi
  built=$(date +%s)
  report=$PWD/build/$1/junit.xml
  rm -f "$report"
  ctest --test-dir "build/$1" -j 2 --output-on-failure --output-junit "$report" > "build/$1/ctest.log" 2>&1
  status=$?
  if [ ! -s "$report" ] || [ -z "$(attribute tests "$report")" ]; then
    cat "build/$1/ctest.log"
    failed=$((failed + 1))
    return
  fi
  tests=$(attribute tests "$report")
  bad=$(attribute failures "$report")
  skipped=$(($(attribute skipped "$report") + $(attribute disabled "$report")))
  [ "$bad" -eq 0 ] || grep -v '^ *[0-9]*/[0-9]* Test .* Passed ' "build/$1/ctest.log"
  if [ "$status" -ne 0 ] && [ "$bad" -eq 0 ]; then
    cat "build/$1/ctest.log"  # ctest itself was not content
    bad=1
  fi
  echo "$1: $((tests - bad - skipped)) passed, $bad failed, $skipped skipped;" \
    "build $((built - started)) s, tests $(($(date +%s) - built)) s"
  passed=$((passed + tests - bad - skipped))
  failed=$((failed + bad))
}

run release
run dev
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
