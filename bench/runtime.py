#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Times the runtime on hydra-29m, transformer-29m and mamba2-29m (random weights), the demo's nano where there is one,
# and SmolLM2: speed against context and batch. Writes bench/results/runtime.md and .json.
# Not here: llama.cpp (llama_cpp.py), kernels alone (kernels.cc, ops.cc), training (train_forward.py).
#   bench/runtime.py [BUILD] [--reps 15] [--rounds 5] [--threads 2] [--only TEXT] [--out bench/results]
import argparse
import json
import sys
from pathlib import Path

from common import commit, machine, median, prose, run, spread

DEMO = Path("runs/demo/model")
SHORT, LONG = 1024, 65536
SHORT_PROMPTS = 8  # beside a long one, so that both are looked at for more than a moment
DECODE = ["-p", 0, "-n", 512, "-d", f"{LONG},{SHORT}"]
PREFILL = ["-n", 0, "-p", ",".join(map(str, [LONG] + [SHORT] * SHORT_PROMPTS))]
# One model, a process: what, model, tests (the long one first), repetitions for each of --reps, ratio to reach
CONTEXT = [
    ("hydra-29m f32: decode at 64K / at 1K", "hydra-29m f32", DECODE, 4, 0.95),
    ("hydra-29m Q8_0: decode at 64K / at 1K", "hydra-29m q8_0", DECODE, 8, 0.9),
    ("hydra-29m f32: prefill of 64K / of 1K", "hydra-29m f32", PREFILL, 0.5, 0.9),
    ("nano (demo): decode at 64K / at 1K", "nano", DECODE, 8, 0.95),
    ("nano (demo): prefill of 64K / of 1K", "nano", PREFILL, 1, 0.9),
]
# Two models, a process each, in turn: tests, and of each what it is and the ratio to reach
PEERS = ("hydra-29m bf16", "transformer-29m bf16")
AGAINST = [
    (["-p", 8192, "-n", 0], [("prefill of 8K", 2)]),
    (["-p", 0, "-n", 64, "-d", "8192,32768"], [("decode at 8K", 2), ("decode at 32K", 6)]),
]
BATCHED = [
    "SmolLM2 Q8_0", "SmolLM2 Q4_1", "transformer-29m q8_0", "hydra-29m q8_0", "hydra-29m q8_0, state bf16",
    "mamba2-29m q8_0", "mamba2-29m q8_0, state bf16"]
BATCHES = [1, 2, 4, 8]


def models(hydralm):
    smollm2 = run("tools/smollm2.sh").strip()
    q8 = Path(smollm2).with_name("SmolLM2-135M-Instruct.Q8_0.gguf")
    if not q8.exists():
        run(hydralm, "quantize", smollm2, "-o", q8, "--type", "q8_0")
    named = {
        f"{preset} {kind}": ["--preset", preset, "--type", kind]
        for preset in ("hydra-29m", "transformer-29m", "mamba2-29m")
        for kind in ("f32", "bf16", "q8_0")}
    named |= {
        f"{name}, state bf16": [*named[name], "--state-dtype", "bf16"]
        for name in ("hydra-29m q8_0", "mamba2-29m q8_0")}
    named |= {"SmolLM2 Q4_1": ["-m", smollm2], "SmolLM2 Q8_0": ["-m", q8]}
    if DEMO.exists():
        named["nano"] = ["-m", DEMO]
    return named


def middle(tests):
    """The one whose rate lies in the middle."""
    return sorted(tests, key=lambda t: t["tok_per_s"]["mean"])[len(tests) // 2]


def together(tests):
    """Tests of one kind as one: their mean rate in each repetition."""
    return middle(tests) | {
        "samples": [len(rates) / sum(1 / r for r in rates) for rates in zip(*(t["samples"] for t in tests))]}


def over_rounds(tests):
    """A test's rows of several processes as one."""
    return middle(tests) | {"samples": [rate for t in tests for rate in t["samples"]]}


def row(what, bar, upper, lower):
    ratios = [a / b for a, b in zip(upper["samples"], lower["samples"], strict=True)]
    print(f"{what}: {spread(ratios, 2)}", file=sys.stderr)
    return {"what": what, "bar": bar, "ratios": ratios, "upper": upper, "lower": lower}


def ratios(bench, reps, rounds, named, only):
    """Rows of the table of ratios."""
    rows = []
    for what, name, tests, share, bar in CONTEXT:
        if name in named and only in name:
            long, *short = bench(name, *tests, "-r", max(2, round(share * reps)), "--interleave")
            rows.append(row(what, bar, long, together(short)))
    if only not in PEERS[0]:
        return rows
    for tests, cases in AGAINST:
        made = [[bench(name, *tests, "-r", 1) for name in PEERS] for _ in range(rounds)]
        for i, (what, bar) in enumerate(cases):
            ours, theirs = (over_rounds([one[side][i] for one in made]) for side in (0, 1))
            rows.append(row(f"hydra-29m / transformer-29m, bf16: {what}", bar, ours, theirs))
    return rows


def batches(bench, reps, rounds, only):
    """model -> tests, one for each of BATCHES. All models take turns, so that those that differ in the type of their
    state may be compared."""
    names = [name for name in BATCHED if only in name]
    flags = ["-p", 0, "-n", 256, "-b", ",".join(map(str, BATCHES)), "-r", max(1, round(reps / rounds)), "--interleave"]
    made = [{name: bench(name, *flags) for name in names} for _ in range(rounds)]
    return {name: [over_rounds([one[name][i] for one in made]) for i in range(len(BATCHES))] for name in names}


def work(side):
    """What a test moved or computed, and its share of the machine's limit measured beside it."""
    if side["n"]:
        rate, limit = side["gb_per_s"], side["read_gb_per_s"]
        return f"{rate:.1f} GB/s, {rate / limit:.2f} of {limit:.1f}"
    rate, limit = side["gflop_per_s"], side["peak_gflop_per_s"]
    return f"{rate:.0f} GOP/s, {rate / limit:.2f} of {limit:.0f}"


def token_work(side):
    if side["n"]:
        return sum(side["bytes_per_tok"].values()) / 1e6, "MB"
    return side["gflop_per_s"] / side["tok_per_s"]["mean"] * 1e3, "MFLOP"


def ratio_table(rows):
    out = [
        "| what | turns | ratio | to reach | numerator tok/s | moved or computed | denominator tok/s | moved or "
        "computed | of a token | by that alone | with the further bytes at the read bandwidth |", "|---" * 11 + "|"]
    for made in rows:
        (above, unit), (below, _) = token_work(made["upper"]), token_work(made["lower"])
        further = ""
        if unit == "MB" and above > below:
            seconds = (above - below) / 1e3 / made["upper"]["read_gb_per_s"]
            further = f"{1 / (1 + seconds * median(made['lower']['samples'])):.2f}"
        cells = " | ".join(f"{spread(side['samples'])} | {work(side)}" for side in (made["upper"], made["lower"]))
        out.append(f"| {made['what']} | {len(made['ratios'])} | {spread(made['ratios'], 3)} | >= {made['bar']} | "
                   f"{cells} | {above:.2f}, {below:.2f} {unit} | {below / above:.2f} | {further} |")
    return out


def batch_row(name, tests):
    one, eight = tests[0]["bytes_per_tok"], tests[-1]["bytes_per_tok"]
    ratios = [b / a for a, b in zip(tests[0]["samples"], tests[-1]["samples"], strict=True)]
    moved = eight["weights"] + 2 * eight["state"] + eight["kv"]
    bound = tests[-1]["read_gb_per_s"] * 1e9 / moved / median(tests[0]["samples"])
    print(f"{name}: 8 / 1 = {spread(ratios, 2)}", file=sys.stderr)
    return (f"| {name} | " + " | ".join(spread(test["samples"]) for test in tests) +
            f" | {spread(ratios, 2)} | {'>= 3' if 'Q8_0' in name or 'q8_0' in name else ''} | " +
            "; ".join(f"{b['weights'] / 1e6:.1f} + {b['state'] / 1e6:.1f}" for b in (one, eight)) + f" | {bound:.2f} |")


def state_bytes(hydralm, context):
    counted = json.loads(run(hydralm, "inspect", "--preset", "hydra-29m", "-c", context, "--json"))["bytes"]
    return counted["state"] + counted["kv"]


def main():
    parser = argparse.ArgumentParser(description="time the runtime against context and batch")
    parser.add_argument("build", nargs="?", default="build/release")
    parser.add_argument("--reps", type=int, default=15, help="turns of batches; other turns follow")
    parser.add_argument("--rounds", type=int, default=5, help="rounds over two models")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="models whose name holds this text")
    parser.add_argument("--out", default="bench/results")
    args = parser.parse_args()
    hydralm = Path(args.build) / "hydralm"
    named = models(hydralm)

    def bench(name, *flags):
        return json.loads(run(hydralm, "bench", *named[name], "-t", args.threads, *flags, "-o", "json", "-q"))

    rows = ratios(bench, args.reps, args.rounds, named, args.only)
    batched = batches(bench, args.reps, args.rounds, args.only)
    if not rows and not batched:
        sys.exit(f"--only {args.only}: no model that is there has this in its name")
    lines = [batch_row(name, tests) for name, tests in batched.items()]
    target = next(test["target"]
                  for test in [*(made["upper"] for made in rows), *(tests[0] for tests in batched.values())])
    text = [
        "# The runtime: context and batch", "",
        prose(f"{machine()}; {args.threads} threads; commit {commit()}; kernels {target}. Made by `bench/runtime.py "
              f"--reps {args.reps} --rounds {args.rounds} --threads {args.threads}`. The tests of one model take turns "
              f"in one process (`hydralm bench --interleave`), {args.reps} turns for batches; beside a prompt of 64K "
              f"tokens stand {SHORT_PROMPTS} prompts of 1K. Models that are compared, and those of the second table, "
              f"take turns as processes in {args.rounds} rounds. Rates are median (min .. max); a ratio is the median "
              "(min .. max) of the turns' ratios. The 29M models have random weights, so these rows say something of "
              "speed only. Keys and values are f16."), "",
        prose("`hydralm bench` measures the limits (read bandwidth, multiply-adds) beside each row. GB/s counts the "
              "bytes of weights, state and cache that a token touches. The last three columns are what a token of "
              "each side counts for, the ratio that would follow from those counts alone, and the ratio if the bytes "
              "that the numerator moves beyond the denominator's come from memory: the weights of the 29M models in "
              "Q8_0 fill the last cache, which then has no room for them."), "", *ratio_table(rows), "",
        prose(f"The state of one sequence of hydra-29m has {state_bytes(hydralm, 16384):,} bytes at 16K tokens and "
              f"{state_bytes(hydralm, 1 << 20):,} at 1M."), "",
        prose("The second table is decode of several sequences at once, in tokens a second of all together. A batch "
              "reads each weight once, but every sequence has a state of its own and experts of its own. The last "
              "column is what 8 / 1 would be if the batch of 8 moved its bytes (weights and state read, state "
              "written) at the measured read bandwidth: the weights that one sequence of a 29M model reads fit the "
              "processor's last cache or nearly do, the states and weights of eight do not."), "",
        "| model | " + " | ".join(f"batch {b}" for b in BATCHES) +
        " | 8 / 1 | to reach | MB a token at 1; 8: weights + state | 8 at the read bandwidth / 1 |",
        "|---" * (len(BATCHES) + 5) + "|", *lines, ""]
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "runtime.json").write_text(json.dumps({"ratios": rows, "batches": batched}, indent=1) + "\n")
    (out / "runtime.md").write_text("\n".join(text))
    print(out / "runtime.md")


if __name__ == "__main__":
    main()
