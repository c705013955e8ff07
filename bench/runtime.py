# SPDX-License-Identifier: Apache-2.0
# Times the runtime on SmolLM2 (Q4_1 as published, Q8_0 made of it) and on random hydra-29m and transformer-29m, prefill
# and decode at several depths; with --llama-bench the same SmolLM2 files in llama.cpp, alternating. Writes
# bench/results/runtime.md and .json. Not here: kernels alone (kernels.cc), training (train_forward.py).
# Usage: bench/runtime.py BUILD [--llama-bench PATH] [--reps 5] [--out bench/results]
import argparse
import json
import math
import os
import platform
import subprocess
import sys
from pathlib import Path

THREADS = 2
# (prompt tokens, generated tokens, depth)
TESTS = [(512, 0, 0), (8192, 0, 0), (0, 64, 0), (0, 64, 8000)]


def run(*args):
    made = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    if made.returncode != 0:
        sys.exit(f"{' '.join(map(str, args))}: {made.stderr.strip()}")
    return made.stdout


def ours(hydralm, model, test, reps):
    p, n, d = test
    row = json.loads(run(hydralm, "bench", *model, "-t", THREADS, "-p", p, "-n", n, "-d", d, "-r", reps, "-o", "json", "-q"))
    return row[0]


def theirs(llama_bench, path, test, reps):
    p, n, d = test
    rows = json.loads(run(llama_bench, "-m", path, "-t", THREADS, "-p", p, "-n", n, "-d", d, "-r", reps, "-o", "json"))
    return rows[0]["samples_ts"]


def median(values):
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def processor():
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def test_name(test):
    p, n, d = test
    return f"prefill {p}" if p else f"decode {n} at depth {d}"


def measure(hydralm, llama_bench, models, reps):
    rounds = 5 if llama_bench else 1  # alternating, a few repeats each time
    rows = []
    for name, model, path in models:
        for test in TESTS:
            long = test[0] > 4096 or test[2] > 4096
            row, other = None, []
            beside = llama_bench and path and not long  # long ones take llama.cpp minutes
            for _ in range(rounds if beside else 1):
                made = ours(hydralm, model, test, 1 if beside else 3 if long else reps)
                if row is None:
                    row = dict(made, model=name, test=test_name(test), samples=[])
                row["samples"].append(made["tok_per_s"]["median"])
                row["low"] = min(row.get("low", math.inf), made["tok_per_s"]["min"])
                row["high"] = max(row.get("high", 0), made["tok_per_s"]["max"])
                if beside:
                    other += theirs(llama_bench, path, test, 1)
            row["median"] = median(row["samples"])
            row["other"] = other
            print(f"{name} {row['test']}: {row['median']:.1f} tok/s" + (f", llama.cpp {median(other):.1f}" if other else ""), file=sys.stderr)
            rows.append(row)
    return rows


def table(rows, command):
    first = rows[0]
    commit = run("git", "rev-parse", "--short", "HEAD").strip()
    out = ["# The runtime: tokens a second", "",
           f"{processor()}, {os.cpu_count()} CPUs, {THREADS} threads, SIMD level {first['target']}; commit {commit}; "
           f"read bandwidth {first['read_gb_per_s']:.1f} GB/s measured beside the first row. Made by `{command}`.", "",
           "Random weights for the 29M models (bf16): speed only. Median (min .. max). Of decode: bytes a token counted by the "
           "runtime, and the share of the read bandwidth that they come to. 5 repeats, 3 of the long tests. llama.cpp reads the same file in the same run, alternating (short tests).", "",
           "| model | test | tok/s | GB/s | of read bandwidth | llama.cpp tok/s | ratio |", "|---|---|---|---|---|---|---|"]
    for row in rows:
        other = row["other"]
        decode = row["n"] > 0
        cells = [row["model"], row["test"], f"{row['median']:.1f} ({row['low']:.1f} .. {row['high']:.1f})",
                 f"{row['gb_per_s']:.1f}" if decode else "", f"{row['gb_per_s'] / row['read_gb_per_s']:.2f}" if decode else "",
                 f"{median(other):.1f} ({min(other):.1f} .. {max(other):.1f})" if other else "",
                 f"{row['median'] / median(other):.2f}" if other else ""]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", nargs="?", default="build/release")
    parser.add_argument("--llama-bench")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--out", default="bench/results")
    args = parser.parse_args()
    hydralm = Path(args.build) / "hydralm"
    smollm2 = run("tools/smollm2.sh").strip()
    q8 = Path(smollm2).with_name("SmolLM2-135M-Instruct.Q8_0.gguf")
    if not q8.exists():
        run(hydralm, "quantize", smollm2, "-o", q8, "--type", "q8_0")
    models = [("SmolLM2-135M Q4_1", ["-m", smollm2], smollm2), ("SmolLM2-135M Q8_0", ["-m", q8], q8),
              ("hydra-29m", ["--preset", "hydra-29m"], None), ("transformer-29m", ["--preset", "transformer-29m"], None)]
    rows = measure(hydralm, args.llama_bench, models, args.reps)
    out = Path(args.out)
    command = "bench/runtime.py" + (" --llama-bench llama-bench" if args.llama_bench else "")
    (out / "runtime.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "runtime.md").write_text(table(rows, command))
    print(out / "runtime.md")


if __name__ == "__main__":
    main()
