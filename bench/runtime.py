#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Times the runtime on hydra-29m, transformer-29m and mamba2-29m (random weights), the demo's nano where there is one, and SmolLM2:
# speed against context and batch. Writes bench/results/runtime.md and .json.
# Not here: llama.cpp (llama_cpp.py), kernels alone (kernels.cc, ops.cc), training (train_forward.py).
#   bench/runtime.py [BUILD] [--reps 5] [--threads 2] [--only TEXT] [--out bench/results]
import argparse
import json
import sys
from pathlib import Path

from common import commit, machine, median, run, spread

DEMO = Path("runs/demo/model")
# (what, numerator, denominator, ratio to reach); a side is (model, prompt, generated, depth, batch)
RATIOS = [
    ("hydra-29m f32: decode at 64K / at 1K", ("hydra-29m f32", 0, 512, 65536, 1), ("hydra-29m f32", 0, 512, 1024, 1), 0.95),
    ("hydra-29m Q8_0: decode at 64K / at 1K", ("hydra-29m q8_0", 0, 512, 65536, 1), ("hydra-29m q8_0", 0, 512, 1024, 1), 0.9),
    ("hydra-29m f32: prefill of 64K / of 1K", ("hydra-29m f32", 65536, 0, 0, 1), ("hydra-29m f32", 1024, 0, 0, 1), 0.9),
    ("nano (demo): decode at 64K / at 1K", ("nano", 0, 512, 65536, 1), ("nano", 0, 512, 1024, 1), 0.95),
    ("nano (demo): prefill of 64K / of 1K", ("nano", 65536, 0, 0, 1), ("nano", 1024, 0, 0, 1), 0.9),
    ("hydra-29m / transformer-29m, bf16: prefill of 8K", ("hydra-29m bf16", 8192, 0, 0, 1), ("transformer-29m bf16", 8192, 0, 0, 1), 2),
    ("hydra-29m / transformer-29m, bf16: decode at 8K", ("hydra-29m bf16", 0, 64, 8192, 1), ("transformer-29m bf16", 0, 64, 8192, 1), 2),
    ("hydra-29m / transformer-29m, bf16: decode at 32K", ("hydra-29m bf16", 0, 64, 32768, 1), ("transformer-29m bf16", 0, 64, 32768, 1), 6),
]
BATCHED = ["SmolLM2 Q8_0", "SmolLM2 Q4_1", "transformer-29m q8_0", "hydra-29m q8_0", "hydra-29m q8_0, state bf16", "mamba2-29m q8_0", "mamba2-29m q8_0, state bf16"]
BATCHES = [1, 2, 4, 8]


def batch_sides(name):
    return [(name, 0, 256, 0, b) for b in BATCHES]


def models(hydralm):
    smollm2 = run("tools/smollm2.sh").strip()
    q8 = Path(smollm2).with_name("SmolLM2-135M-Instruct.Q8_0.gguf")
    if not q8.exists():
        run(hydralm, "quantize", smollm2, "-o", q8, "--type", "q8_0")
    named = {f"{preset} {kind}": ["--preset", preset, "--type", kind] for preset in ("hydra-29m", "transformer-29m", "mamba2-29m") for kind in ("f32", "bf16", "q8_0")}
    named |= {f"{name}, state bf16": [*named[name], "--state-dtype", "bf16"] for name in ("hydra-29m q8_0", "mamba2-29m q8_0")}
    named |= {"SmolLM2 Q4_1": ["-m", smollm2], "SmolLM2 Q8_0": ["-m", q8]}
    if DEMO.exists():
        named["nano"] = ["-m", DEMO]
    return named


def once(hydralm, flags, side, threads):
    _, p, n, d, b = side
    repeats = 65536 // p if 0 < p < 8192 else 1  # a short prompt until it is 64K tokens: as long a look as at the long one
    return json.loads(run(hydralm, "bench", *flags, "-t", threads, "-p", p, "-n", n, "-d", d, "-b", b, "-r", repeats, "-o", "json", "-q"))[0]


def measure(hydralm, named, sides, rounds, threads):
    """All sides in turn, `rounds` times: side -> its rows."""
    rows = {side: [] for side in sides}
    for _ in range(rounds):
        for side in sides:
            rows[side].append(once(hydralm, named[side[0]], side, threads))
    for side in sides:
        print(f"{side}: {spread([row['tok_per_s']['median'] for row in rows[side]])} tok/s", file=sys.stderr)
    return rows


def rates(rows):
    return [row["tok_per_s"]["median"] for row in rows]


def work(rows):
    """What the row in the middle moved or computed, and its share of the machine's limit measured beside it."""
    row = sorted(rows, key=lambda r: r["tok_per_s"]["median"])[len(rows) // 2]
    if row["n"]:
        return f"{row['gb_per_s']:.1f} GB/s, {row['gb_per_s'] / row['read_gb_per_s']:.2f} of {row['read_gb_per_s']:.1f}"
    return f"{row['gflop_per_s']:.0f} GOP/s, {row['gflop_per_s'] / row['peak_gflop_per_s']:.2f} of {row['peak_gflop_per_s']:.0f}"


def state_bytes(hydralm, context):
    counted = json.loads(run(hydralm, "inspect", "--preset", "hydra-29m", "-c", context, "--json"))["bytes"]
    return counted["state"] + counted["kv"]


def side_cells(rows):
    return f"{spread(rates(rows))} | {work(rows)}"


def ratio_table(rows):
    out = ["| what | ratio | to reach | numerator tok/s | moved or computed | denominator tok/s | moved or computed |", "|---|---|---|---|---|---|---|"]
    for what, upper, lower, bar in RATIOS:
        if upper in rows and lower in rows:
            ratios = [a / b for a, b in zip(rates(rows[upper]), rates(rows[lower]))]  # of a round, whose two sides follow each other
            out.append(f"| {what} | {spread(ratios, 2)} | >= {bar} | {side_cells(rows[upper])} | {side_cells(rows[lower])} |")
    return out


def batch_table(rows):
    out = ["| model | " + " | ".join(f"batch {b}" for b in BATCHES) + " | 8 / 1 | to reach | MB a token at 1; 8: weights + state | 8 at the read bandwidth / 1 |",
           "|---" * (len(BATCHES) + 5) + "|"]
    for name in BATCHED:
        sides = batch_sides(name)
        if sides[0] in rows:
            one, eight = (rows[side][0]["bytes_per_tok"] for side in (sides[0], sides[-1]))
            megabytes = "; ".join(f"{b['weights'] / 1e6:.1f} + {b['state'] / 1e6:.1f}" for b in (one, eight))
            bandwidth = median([row["read_gb_per_s"] for row in rows[sides[-1]]])
            bound = bandwidth * 1e9 / (eight["weights"] + 2 * eight["state"] + eight["kv"]) / median(rates(rows[sides[0]]))
            out.append(f"| {name} | " + " | ".join(spread(rates(rows[side])) for side in sides) +
                       f" | {median(rates(rows[sides[-1]])) / median(rates(rows[sides[0]])):.2f} | {'>= 3' if 'Q8_0' in name or 'q8_0' in name else ''} | {megabytes} | "
                       f"{bound:.2f} |")
    return out


def main():
    parser = argparse.ArgumentParser(description="time the runtime against context and batch")
    parser.add_argument("build", nargs="?", default="build/release")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="models whose name holds this text")
    parser.add_argument("--out", default="bench/results")
    args = parser.parse_args()
    hydralm = Path(args.build) / "hydralm"
    named = models(hydralm)
    pairs = [(upper, lower) for _, upper, lower, _ in RATIOS if upper[0] in named and args.only in upper[0]]
    sides = list(dict.fromkeys(side for pair in pairs for side in pair))
    rows = measure(hydralm, named, sides, args.reps, args.threads)
    rows |= measure(hydralm, named, [side for name in BATCHED if args.only in name for side in batch_sides(name)], args.reps, args.threads)
    command = f"bench/runtime.py --reps {args.reps} --threads {args.threads}"
    text = ["# The runtime: context and batch", "",
            f"{machine()}; {args.threads} threads; commit {commit()}; kernels {next(iter(rows.values()))[0]['target']}. Made by `{command}`: {args.reps} rounds over all sides in turn, "
            "a process each; median (min .. max); a ratio is the median of the rounds' ratios. The 29M models have random weights: speed only. Keys and values are f16. Limits (read bandwidth, multiply-adds) are measured by `hydralm bench` "
            "beside each row; GB/s counts the bytes of weights, state and cache that a token touches.", "",
            *ratio_table(rows), "",
            f"State of one sequence of hydra-29m: {state_bytes(hydralm, 16384):,} bytes at 16K tokens, {state_bytes(hydralm, 1 << 20):,} at 1M.", "",
            "Decode of several sequences at once, tokens a second of all together. A batch reads each weight once, but every sequence has a state of its own and experts of "
            "its own. The last column is what 8 / 1 would be if the batch of 8 moved its bytes (weights and state read, state written) at the measured read bandwidth: the weights that one sequence of a 29M model reads fit the "
            "processor's last cache or nearly, the states and weights of eight do not.", "", *batch_table(rows), ""]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "runtime.json").write_text(json.dumps([{"side": side, "samples": made} for side, made in rows.items()], indent=1) + "\n")
    (out / "runtime.md").write_text("\n".join(text))
    print(out / "runtime.md")


if __name__ == "__main__":
    main()
