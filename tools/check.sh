#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# `make check`: the release build with every test that is not labelled slow. Ends with "N passed, N failed", counted
# from ctest's own report; a build that fails is one failure.
#   tools/check.sh slow               what takes longer, which continuous integration runs too: the slow tests of the
#                                     release build; ASan + UBSan over the torch-free unit tests and the commands; where
#                                     clang and libFuzzer are installed, 30 s each of the four fuzz targets of model
#                                     files, a target being one test
#   tools/check.sh [presets]          only their tests, and no fuzzing: `make tsan` is check.sh tsan
set -u
cd "$(dirname "$0")/.."
passed=0
failed=0

# attribute NAME FILE: a number of the report's <testsuite> line.
attribute() { sed -n "s/.*[ \t]$1=\"\([0-9]*\)\".*/\1/p" "$2" | head -n 1; }

# run PRESET LABELS: builds one preset, runs its tests that `ctest LABELS` selects, and adds to the counts.
run() {
  labels=$2
  started=$(date +%s)
  if ! tools/build.sh "$1"; then
    echo "$1: build failed"
    failed=$((failed + 1))
    return
  fi
  built=$(date +%s)
  report=$PWD/build/$1/junit.xml
  rm -f "$report"
  ctest --test-dir "build/$1" $labels -j 2 --output-on-failure --output-junit "$report" > "build/$1/ctest.log" 2>&1
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

# run_fuzz: adds the fuzz targets to the counts.
run_fuzz() {
  if ! tools/fuzz.sh --compiler > /dev/null; then
    echo "fuzz: left out, no clang++ with libFuzzer"
    return
  fi
  log=build/fuzz.log
  mkdir -p build
  tools/fuzz.sh --check > "$log" 2>&1
  status=$?
  [ $status -eq 0 ] || cat "$log"
  ran=$(sed -n 's/^\([0-9]*\) passed, [0-9]* failed$/\1/p' "$log" | tail -n 1)
  bad=$(sed -n 's/^[0-9]* passed, \([0-9]*\) failed$/\1/p' "$log" | tail -n 1)
  [ $status -eq 0 ] || [ "${bad:-0}" -gt 0 ] || bad=1
  echo "fuzz: ${ran:-0} passed, ${bad:-0} failed; $(sed -n 's/^fuzz: \(build .*\)/\1/p' "$log")"
  passed=$((passed + ${ran:-0}))
  failed=$((failed + ${bad:-0}))
}

if [ "${1:-}" = slow ]; then
  run release "-L slow"
  run dev "-LE slow"
  run_fuzz
elif [ $# -gt 0 ]; then
  for preset in "$@"; do run "$preset" "-LE slow"; done
else
  run release "-LE slow"
fi
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ]
