#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Times training and forward of the 29M presets at several lengths, one process a run, all cases in turn, several
# rounds; writes bench/results/train_forward.{json,md}. Not here: the measured loop (train_forward.cc).
#   bench/train_forward.py BUILD [--reps 5] [--long-reps 3] [--threads 2] [--lengths 512,2048,8192] [-o bench/results]
import argparse
import json
import os
import platform
import statistics
import subprocess
import sys

PRESETS = ["hydra-29m", "transformer-29m", "mamba2-29m"]
STEP_TOKENS = 2048  # tokens of a training step where T is not longer


def machine():
    names = [line.split(":", 1)[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line for line in open("/proc/cpuinfo") if line.startswith("flags")), "").split()
    simd = "AVX-512 with VNNI" if "avx512_vnni" in flags else "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
    return f"{names[0] if names else platform.processor()}, {os.cpu_count()} CPUs, {simd}"


def commit():
    out = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return out.stdout.strip() or "unknown"


def run(build, preset, length, mode, threads):
    rows = max(1, STEP_TOKENS // length) if mode == "train" else 1
    command = [os.path.join(build, "bench_train_forward"), preset, str(length), str(rows), mode, "1", str(threads)]
    out = subprocess.run(command, capture_output=True, text=True)
    if out.returncode != 0:
        sys.exit(f"{' '.join(command)}: {out.stderr.strip()}")
    return json.loads(out.stdout)


def summarise(rows):
    """Rows of one case -> one row: median, min and max of its speeds."""
    row = dict(rows[0])
    for key in ("seconds", "tok_per_s", "peak_bytes", "peak_share", "gemm_flops_per_s"):
        row.pop(key)
    speeds = [r["tok_per_s"] for r in rows]
    row.update(reps=len(rows), tok_per_s={"median": statistics.median(speeds), "min": min(speeds), "max": max(speeds)},
               median_us=statistics.median(r["seconds"] for r in rows) * 1e6, min_us=min(r["seconds"] for r in rows) * 1e6,
               max_us=max(r["seconds"] for r in rows) * 1e6, peak_bytes=max(r["peak_bytes"] for r in rows),
               gemm_flops_per_s=statistics.median(r["gemm_flops_per_s"] for r in rows),
               peak_share=statistics.median(r["peak_share"] for r in rows))
    return row


def markdown(rows, about):
    lines = ["# Training and forward of the 29M models", "",
             f"{about['machine']}; {about['threads']} threads, fp32, seed 1 (random ids); commit {about['commit']}; load average {about['load']:.1f} "
             f"at the end. {about['reps']} rounds over all cases in turn ({about['long_reps']} with those of T > 2048), a process each. Made by `{about['command']}`.", "",
             "Tokens/s are median (min .. max) of one step each, after a warm-up step of 2,048 tokens at most. Training is forward, backward and AdamW on one step of 2,048 tokens (8,192 at T = 8192); forward "
             "gives the logits of the last position. The share is counted FLOPs (docs/DESIGN.md, promise 3; backward = 2 forwards) per second over "
             "the fp32 GEMM speed measured in the same process.", "",
             "| | T | model | tokens/s | against transformer | FLOPs a token | share of GEMM limit | peak memory MiB |", "|---|---|---|---|---|---|---|---|"]
    base = {(r["mode"], r["T"]): r["tok_per_s"]["median"] for r in rows if r["preset"].startswith("transformer")}
    for r in rows:
        t = r["tok_per_s"]
        lines.append(f"| {r['mode']} | {r['T']} | {r['preset']} | {t['median']:.0f} ({t['min']:.0f} .. {t['max']:.0f}) | "
                     f"{t['median'] / base[(r['mode'], r['T'])]:.2f}x | {r['flops_per_token'] / 1e6:.1f} M | {r['peak_share']:.2f} | {r['peak_bytes'] / 2**20:.0f} |")
    gemm = statistics.median(r["gemm_flops_per_s"] for r in rows)
    return "\n".join(lines + ["", f"Measured GEMM limit: {gemm / 1e9:.0f} GFLOP/s (median over cases).", ""])


def main():
    parser = argparse.ArgumentParser(description="time training and forward of the 29M presets")
    parser.add_argument("build")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--long-reps", type=int, default=3, help="rounds that have the cases of T > 2048")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--lengths", default="512,2048,8192")
    parser.add_argument("-o", "--output", default="bench/results")
    args = parser.parse_args()
    cases = [(mode, int(length), preset) for mode in ("train", "forward") for length in args.lengths.split(",") for preset in PRESETS]
    subprocess.run(["cmake", "--build", args.build, "--target", "bench_train_forward"], check=True, stdout=subprocess.DEVNULL)
    results = {case: [] for case in cases}
    for rep in range(args.reps):
        for case in cases:
            mode, length, preset = case
            if length > 2048 and rep >= args.long_reps:
                continue
            results[case].append(run(args.build, preset, length, mode, args.threads))
            print(f"round {rep + 1}/{args.reps}: {results[case][-1]['case']}: {results[case][-1]['tok_per_s']:.0f} tokens/s", file=sys.stderr)
    rows = [summarise(results[case]) for case in cases]
    about = {"machine": machine(), "commit": commit(), "threads": args.threads, "reps": args.reps, "long_reps": args.long_reps, "load": os.getloadavg()[0],
             "command": f"bench/train_forward.py BUILD --reps {args.reps} --long-reps {args.long_reps} --threads {args.threads} --lengths {args.lengths}"}
    os.makedirs(args.output, exist_ok=True)
    with open(os.path.join(args.output, "train_forward.json"), "w") as f:
        json.dump({**about, "rows": rows}, f, indent=1)
        f.write("\n")
    text = markdown(rows, about)
    with open(os.path.join(args.output, "train_forward.md"), "w") as f:
        f.write(text)
    print(text)


if __name__ == "__main__":
    main()
