#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Training and forward of the 29M models at several lengths, ours and the peers in Python (peers/torch_models.py): a
# process a run, all cases in turn, several rounds; writes bench/results/train_forward.{json,md}. Not here: the measured
# loops (train_forward.cc, peers/torch_models.py).
#   bench/train_forward.py BUILD [--reps 5] [--long-reps 3] [--longest-reps 2] [--threads 2] [--only TEXT] [--no-peers]
#                          [-o bench/results]
import argparse
import json
import math
import os
import statistics
import subprocess
import sys

from common import commit, machine, median, prose, run

STEP_TOKENS = 2048  # tokens of a training step where T is not longer
PEERS = {"torch": ["eager"], "torch compiled": ["compiled"], "transformers": ["eager"], "torch, MKL as ours": ["eager"]}
# MKL asks for the maker of the processor; here it gets the answer that hydralm-train gives (cli/process.cc).
PRELOAD = "torch, MKL as ours"
# (mode, lengths, preset, engine)
GROUPS = [("train", (512, 2048, 8192, 16384, 32768), "hydra-29m", "hydralm"),
          ("train", (512, 2048, 8192), "transformer-29m", "hydralm"),
          ("train", (512, 2048, 8192), "transformer-29m", "torch"),
          ("train", (512, 2048), "transformer-29m", "torch compiled"),
          ("train", (512, 2048, 8192), "transformer-29m", PRELOAD),
          ("forward", (1024, 8192), "transformer-29m", PRELOAD), ("train", (512, 2048), "mamba2-29m", "hydralm"),
          ("train", (2048,), "mamba2-29m", "transformers"),
          ("forward", (1024, 8192, 32768, 65536), "hydra-29m", "hydralm"),
          ("forward", (1024, 8192, 32768, 65536), "transformer-29m", "hydralm"),
          ("forward", (1024, 8192, 32768, 65536), "transformer-29m", "torch"),
          ("forward", (1024, 8192), "mamba2-29m", "hydralm")]
# (mode, preset, against preset, against engine) -> {T: ratio to reach}
BARS = {("train", "hydra-29m", "transformer-29m", "torch"): {512: 1.2, 2048: 1.5, 8192: 2.5},
        ("train", "hydra-29m", "transformer-29m", PRELOAD): {512: None, 2048: None, 8192: None},
        ("train", "transformer-29m", "transformer-29m", "torch"): {512: 1.0, 2048: 1.0},
        ("train", "transformer-29m", "transformer-29m", PRELOAD): {512: None, 2048: None},
        ("train", "transformer-29m", "transformer-29m", "torch compiled"): {512: 0.97, 2048: 0.97},
        ("train", "mamba2-29m", "mamba2-29m", "transformers"): {2048: 1.5},
        ("forward", "hydra-29m", "transformer-29m", "torch"): {1024: 1.2, 8192: 2.5, 32768: 6.0, 65536: 12.0}}


def measure(case, build, threads, python):
    mode, length, preset, engine = case
    rows = max(1, STEP_TOKENS // length) if mode == "train" else 1
    arguments = [preset, length, rows, mode, 1, threads]
    if engine == "hydralm":
        return json.loads(run(os.path.join(build, "bench_train_forward"), *arguments))
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if engine == "transformers":
        environment["PYTHONPATH"] = python
    if engine == PRELOAD:
        environment["LD_PRELOAD"] = os.path.abspath(".cache/peers/mkl_any_maker.so")
    return json.loads(
        run(sys.executable, "bench/peers/torch_models.py", *arguments, *PEERS[engine],
            env=environment).splitlines()[-1])


def summarise(case, rows):
    """Rows of one case -> one row: median, min and max of its speeds."""
    mode, length, preset, engine = case
    speeds = [r["tok_per_s"] for r in rows]
    row = {
        "mode": mode, "T": length, "preset": preset, "engine": engine, "rows": rows[0]["rows"], "reps": len(rows),
        "tok_per_s": {"median": median(speeds), "min": min(speeds), "max": max(speeds)},
        "peak_bytes": max(r["peak_bytes"] for r in rows),
        "gemm_flops_per_s": median([r["gemm_flops_per_s"] for r in rows])}
    if engine == "hydralm":
        row |= {"flops_per_token": rows[0]["flops_per_token"], "peak_share": median([r["peak_share"] for r in rows])}
    return row


def ratios(rows):
    """One line a bar: what, T, ratio of the medians, ratio to reach, ratio of counted FLOPs, which bounds it where
    matrix products bound both sides."""
    found = {(r["mode"], r["T"], r["preset"], r["engine"]): r for r in rows}
    out = []
    for (mode, preset, other_preset, other_engine), bars in BARS.items():
        for length, bar in bars.items():
            mine = found.get((mode, length, preset, "hydralm"))
            other = found.get((mode, length, other_preset, other_engine))
            if not mine or not other:
                continue
            counted = found.get((mode, length, other_preset, "hydralm"), {}).get("flops_per_token")
            out.append({
                "mode": mode, "T": length, "what": f"{preset} / {other_engine}'s {other_preset}", "to_reach": bar,
                "ratio": mine["tok_per_s"]["median"] / other["tok_per_s"]["median"],
                "flops_ratio": counted / mine["flops_per_token"] if counted else None,
                "memory_ratio": mine["peak_bytes"] / other["peak_bytes"]})
    return out


def memory_slope(rows, preset):
    """Log-log slope of peak memory over the length, least squares; training at batch 1."""
    points = [(math.log(r["T"]), math.log(r["peak_bytes"]))
              for r in rows
              if (r["mode"], r["preset"], r["engine"], r["rows"]) == ("train", preset, "hydralm", 1)]
    return statistics.linear_regression(*zip(*points)).slope if len(points) > 1 else None


def markdown(rows, about):
    lines = [
        "# Training and forward of the 29M models", "",
        prose(f"{about['machine']}; {about['threads']} threads, fp32, seed 1 (random ids); commit {about['commit']}; "
              f"load average {about['load']:.1f} at the end. Made by `{about['command']}`: {about['reps']} rounds over "
              f"all cases in turn, each case in a process of its own ({about['long_reps']} rounds with T > 2048, "
              f"{about['longest_reps']} with T > 32768)."), "",
        prose("Tokens/s are median (min .. max) of one step each, after a warm-up step of the same shape (8,192 "
              "tokens a row at most). Training is forward, backward, clipping and AdamW on one step of 2,048 tokens "
              "(T tokens where T is longer). Forward gives the logits of the last position. The share is counted "
              "FLOPs (docs/DESIGN.md, promise 3; a backward pass counts as two forward passes) per second over the "
              "fp32 GEMM speed measured in the same process. The engine torch is a transformer of the same sizes in "
              "Python (bench/peers/torch_models.py); transformers is that library's Mamba2 of the same sizes. MKL, "
              "which both sides use, gives processors of other makers than Intel its AVX2 kernels; hydralm-train "
              "makes it take AVX-512 where there is. In the rows \"MKL as ours\" Python has that too, by a preloaded "
              "library; the other rows are torch as pip installs it."),
        "", "| | T | what | ratio of tokens/s | to reach | ratio of counted FLOPs | ratio of peak memory |",
        "|---|---|---|---|---|---|---|"]
    for r in ratios(rows):
        flops = f"{r['flops_ratio']:.2f}" if r["flops_ratio"] else ""
        bar = f">= {r['to_reach']}" if r["to_reach"] else ""
        lines.append(f"| {r['mode']} | {r['T']} | {r['what']} | {r['ratio']:.2f} | {bar} | {flops} | "
                     f"{r['memory_ratio']:.2f} |")
    lines += [
        "", "| | T | model | engine | tokens/s | FLOPs a token | share of GEMM limit | peak memory MiB |",
        "|---|---|---|---|---|---|---|---|"]
    for r in rows:
        t = r["tok_per_s"]
        counted = f"{r['flops_per_token'] / 1e6:.1f} M | {r['peak_share']:.2f}" if "flops_per_token" in r else " | "
        lines.append(f"| {r['mode']} | {r['T']} | {r['preset']} | {r['engine']} | {t['median']:.0f} ({t['min']:.0f} .. "
                     f"{t['max']:.0f}) | {counted} | {r['peak_bytes'] / 2**20:.0f} |")
    gemm = statistics.median(r["gemm_flops_per_s"] for r in rows)
    slope = memory_slope(rows, "hydra-29m")
    if slope:
        lines += ["", prose(
            "From 2K tokens on, the peak memory of training hydra-29m at batch 1 grows as T to the power of "
            f"{slope:.2f} (least squares of the logarithms; the bar is 1.05 at most).")]
    return "\n".join(lines + [
        "", f"Measured GEMM limit: {gemm / 1e9:.0f} GFLOP/s (median over cases).", "",
        "`hydralm train --device cuda` compiles. It has not run, because no GPU was at hand.", ""])


def main():
    parser = argparse.ArgumentParser(description="time training and forward of the 29M presets, ours and the peers")
    parser.add_argument("build")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--long-reps", type=int, default=3, help="rounds that have the cases of T > 2048")
    parser.add_argument("--longest-reps", type=int, default=2, help="rounds that have the cases of T > 32768")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="",
                        help="cases whose name, such as \"train hydra-29m T512\", holds this text")
    parser.add_argument("--no-peers", action="store_true", help="leave the Python side out")
    parser.add_argument("-o", "--output", default="bench/results")
    args = parser.parse_args()
    cases = [(mode, length, preset, engine) for mode, lengths, preset, engine in GROUPS for length in lengths
             if args.only in f"{mode} {preset} T{length}" and (engine == "hydralm" or not args.no_peers)]
    needs_python = any(engine in ("transformers", PRELOAD) for *_, engine in cases)
    python = run("bench/peers/python.sh").strip() if needs_python else ""
    subprocess.run(["cmake", "--build", args.build, "--target", "bench_train_forward"], check=True,
                   stdout=subprocess.DEVNULL)
    results = {case: [] for case in cases}
    for rep in range(args.reps):
        for case in cases:
            mode, length, preset, engine = case
            if rep >= (args.longest_reps if length > 32768 else args.long_reps if length > 2048 else args.reps):
                continue
            results[case].append(measure(case, args.build, args.threads, python))
            speed = results[case][-1]["tok_per_s"]
            print(f"round {rep + 1}/{args.reps}: {engine} {mode} {preset} T{length}: {speed:.0f} tokens/s",
                  file=sys.stderr)
    rows = [summarise(case, results[case]) for case in cases]
    about = {
        "machine": machine(), "commit": commit(), "threads": args.threads, "reps": args.reps,
        "long_reps": args.long_reps, "longest_reps": args.longest_reps, "load": os.getloadavg()[0],
        "command": f"bench/train_forward.py BUILD --reps {args.reps} --long-reps {args.long_reps} --longest-reps "
                   f"{args.longest_reps} --threads {args.threads}"}
    os.makedirs(args.output, exist_ok=True)
    with open(os.path.join(args.output, "train_forward.json"), "w") as f:
        json.dump({**about, "rows": rows, "ratios": ratios(rows)}, f, indent=1)
        f.write("\n")
    text = markdown(rows, about)
    with open(os.path.join(args.output, "train_forward.md"), "w") as f:
        f.write(text)
    print(text)


if __name__ == "__main__":
    main()
