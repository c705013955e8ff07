#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Builds fuzz targets (fuzz/*.cc) with clang and runs each for FUZZ_SECONDS (600), FUZZ_JOBS (2) at a time. Corpora stay
# in build/fuzz-corpus, logs in build/fuzz-logs, what crashes in build/fuzz-crashes. Ends with "N passed, N failed".
#
#   tools/fuzz.sh [targets]           all of them, or those named
#   tools/fuzz.sh --check             the four of `make check-slow`: 30 s each, corpora thrown away
#   tools/fuzz.sh --compiler          prints the clang++ to be used; fails where there is none
#
# Not here: what counts as a failure (fuzz/input.h).
set -u
cd "$(dirname "$0")/.."
build=build/fuzz

# A clang++ whose libFuzzer is there too: Debian has it in a package of its own.
compiler() {
  for name in clang++ clang++-19 clang++-18 clang++-17 clang++-16 clang++-15 clang++-14; do
    command -v $name > /dev/null || continue
    echo 'extern "C" int LLVMFuzzerTestOneInput(const unsigned char*, unsigned long) { return 0; }' |
      $name -fsanitize=fuzzer,address,undefined -x c++ - -o /dev/null 2> /dev/null || continue
    command -v $name && return 0
  done
  return 1
}

# One target: its log is kept, one line is printed.
run_one() {
  name=$1 corpus=$FUZZ_CORPUS/$1 log=build/fuzz-logs/$1.log
  mkdir -p "$corpus" "$build/seeds/$name" build/fuzz-crashes build/fuzz-logs
  "$build/fuzz_$name" -max_total_time="$FUZZ_SECONDS" -timeout=10 -rss_limit_mb=2048 -malloc_limit_mb=1024 \
    -use_value_profile=1 -artifact_prefix="build/fuzz-crashes/$name-" -print_final_stats=1 -verbosity=1 \
    "$corpus" "$build/seeds/$name" > "$log" 2>&1
  status=$?
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  edges=$(sed -n 's/.* cov: \([0-9]*\) .*/\1/p' "$log" | tail -n 1)
  if [ $status -eq 0 ]; then
    echo "fuzz $name: ok, ${runs:-0} inputs, ${edges:-0} edges"
    return 0
  fi
  echo "fuzz $name: FAILED after ${runs:-?} inputs; log $log; $(grep -m 1 -e '^fuzz: ' -e 'SUMMARY: ' "$log")"
  grep 'Test unit written to' "$log" | sed 's/^/  /'
  return 1
}

targets=fuzz
FUZZ_CORPUS=${FUZZ_CORPUS:-build/fuzz-corpus}
case ${1:-} in
  --compiler) compiler; exit ;;
  --one) run_one "$2"; exit ;;
  --check)
    targets=fuzz_readers
    FUZZ_SECONDS=${FUZZ_SECONDS:-30}
    FUZZ_CORPUS=$build/check-corpus
    rm -rf "$FUZZ_CORPUS"
    set -- safetensors gguf tokenizer_file config
    ;;
esac

CXX=$(compiler) || { echo "fuzz: needs clang++ and libFuzzer: make fuzz installs them"; exit 2; }
FUZZ_SECONDS=${FUZZ_SECONDS:-600}
export CXX FUZZ_SECONDS FUZZ_CORPUS
started=$(date +%s)
tools/build.sh fuzz $targets || { echo "0 passed, 1 failed"; exit 1; }
built=$(date +%s)
rm -rf "$build/seeds"
for program in make_seeds state_seeds torch_seeds; do
  [ ! -x "$build/$program" ] || "$build/$program" "$build/seeds" || { echo "0 passed, 1 failed"; exit 1; }
done
if [ $# -eq 0 ]; then
  set -- $(ls fuzz/*.cc | sed -e 's,fuzz/,,' -e 's/\.cc$//' | grep -v '_seeds$')
fi
results=$build/results
printf '%s\n' "$@" | xargs -P "${FUZZ_JOBS:-2}" -n 1 tools/fuzz.sh --one > "$results"
cat "$results"
passed=$(grep -c '^fuzz [a-z_]*: ok' "$results")
echo "fuzz: build $((built - started)) s, run $(($(date +%s) - built)) s"
echo "$passed passed, $(($# - passed)) failed"
[ "$passed" -eq $# ]
