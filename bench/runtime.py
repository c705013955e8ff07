#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Times the runtime on hydra-29m, transformer-29m and mamba2-29m (random weights), the demo's nano and SmolLM2: speed
# against context and batch. Writes bench/results/MACHINE/runtime.{md,json}. Needs `make demo` to have run.
# Not here: llama.cpp (llama_cpp.py), kernels alone (kernels.cc, ops.cc), training (train_forward.py).
#   bench/runtime.py [BUILD] [--reps 15] [--rounds 5] [--tries 3] [--threads 2] [--only TEXT] [--out bench/results]
import json
import sys
from pathlib import Path

from common import Meter, Page, arguments, built, median, need, prose, quotients, run, spread, steady_words, verdict

DEMO, NANO = Path("runs/demo/model"), "nano"
SHORT, LONG = 1024, 65536
SHORT_PROMPTS = 8  # beside a long one, so that both are looked at for more than a moment
DECODE = ["-p", 0, "-n", 512, "-d", f"{LONG},{SHORT}"]
PREFILL = ["-n", 0, "-p", ",".join(map(str, [LONG] + [SHORT] * SHORT_PROMPTS))]
# One model, a process: what -> model, tests (the long one first), repetitions for each of --reps, ratio to reach
CONTEXT = {
    "hydra-29m f32: decode at 64K / at 1K": ("hydra-29m f32", DECODE, 4, 0.95),
    "hydra-29m Q8_0: decode at 64K / at 1K": ("hydra-29m q8_0", DECODE, 8, 0.9),
    "hydra-29m f32: prefill of 64K / of 1K": ("hydra-29m f32", PREFILL, 0.5, 0.9),
    "nano (demo): decode at 64K / at 1K": (NANO, DECODE, 8, 0.95),
    "nano (demo): prefill of 64K / of 1K": (NANO, PREFILL, 1, 0.9)}
# Two models, a process each, in turn: what -> test, ratio to reach
PEERS = ("hydra-29m bf16", "transformer-29m bf16")
AGAINST = {
    "hydra-29m / transformer-29m, bf16: prefill of 8K": (["-p", 8192, "-n", 0], 2),
    "hydra-29m / transformer-29m, bf16: decode at 8K": (["-p", 0, "-n", 64, "-d", 8192], 2),
    "hydra-29m / transformer-29m, bf16: decode at 32K": (["-p", 0, "-n", 64, "-d", 32768], 6)}
BATCH_ROW = "decode of batches"
BATCHED = [
    "SmolLM2 Q8_0", "SmolLM2 Q4_1", "transformer-29m q8_0", "hydra-29m q8_0", "hydra-29m q8_0, state bf16",
    "mamba2-29m q8_0", "mamba2-29m q8_0, state bf16"]
BATCHES = [1, 2, 4, 8]


def models(hydralm):
    smollm2 = run("tools/smollm2.sh").strip()
    q8 = Path(smollm2).with_name("SmolLM2-135M-Instruct.Q8_0.gguf")
    run(hydralm, "quantize", smollm2, "-o", q8, "--type", "q8_0")  # each time: the quantiser is of this commit
    named = {
        f"{preset} {kind}": ["--preset", preset, "--type", kind]
        for preset in ("hydra-29m", "transformer-29m", "mamba2-29m")
        for kind in ("f32", "bf16", "q8_0")}
    named |= {
        f"{name}, state bf16": [*named[name], "--state-dtype", "bf16"]
        for name in ("hydra-29m q8_0", "mamba2-29m q8_0")}
    return named | {"SmolLM2 Q4_1": ["-m", smollm2], "SmolLM2 Q8_0": ["-m", q8], NANO: ["-m", DEMO]}


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


def row(what, goal, upper, lower, notes):
    ratios = quotients(upper["samples"], lower["samples"])
    void = any(note["void"] for note in notes)
    print(f"{what}: {spread(ratios, 2)}{' (void)' if void else ''}", file=sys.stderr)
    return {"goal": goal, "ratios": ratios, "upper": upper, "lower": lower, "rounds": notes, "void": void}


class Rows:
    """What is measured for each key of the page."""

    def __init__(self, args):
        self.args, self.hydralm = args, built(args.build)
        self.meter, self.named = Meter(self.hydralm, args), models(self.hydralm)

    def bench(self, name, *flags):
        return json.loads(
            run(self.hydralm, "bench", *self.named[name], "-t", self.args.threads, *flags, "-o", "json", "-q"))

    def measure(self, key):
        if key in CONTEXT:
            return self.context(key)
        return self.against(key) if key in AGAINST else self.batches()

    def context(self, what):
        name, tests, share, goal = CONTEXT[what]
        reps = max(2, round(share * self.args.reps))
        (long, *short), note = self.meter.steady(lambda: self.bench(name, *tests, "-r", reps, "--interleave"))
        return row(what, goal, long, together(short), [note])

    def against(self, what):
        flags, goal = AGAINST[what]
        made = [self.meter.steady(lambda: [self.bench(name, *flags, "-r", 1)[0] for name in PEERS])
                for _ in range(self.args.rounds)]
        ours, theirs = (over_rounds([one[side] for one, _ in made]) for side in (0, 1))
        return row(what, goal, ours, theirs, [note for _, note in made])

    def batches(self):
        """A test for each of BATCHES and model. All models take turns, so that those that differ in the type of their
        state may be compared."""
        reps = max(1, round(self.args.reps / self.args.rounds))
        flags = ["-p", 0, "-n", 256, "-b", ",".join(map(str, BATCHES)), "-r", reps, "--interleave"]
        made = [{name: self.meter.steady(lambda: self.bench(name, *flags)) for name in BATCHED}
                for _ in range(self.args.rounds)]
        tests = {name: [over_rounds([one[name][0][i] for one in made]) for i in range(len(BATCHES))]
                 for name in BATCHED}
        notes = {name: [one[name][1] for one in made] for name in BATCHED}
        void = any(note["void"] for of_one in notes.values() for note in of_one)
        return {"tests": tests, "rounds": notes, "void": void}


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


def ratio_line(what, made):
    (above, unit), (below, _) = token_work(made["upper"]), token_work(made["lower"])
    further = ""
    if unit == "MB" and above > below:
        seconds = (above - below) / 1e3 / made["upper"]["read_gb_per_s"]
        further = f"{1 / (1 + seconds * median(made['lower']['samples'])):.2f}"
    cells = " | ".join(f"{spread(side['samples'])} | {work(side)}" for side in (made["upper"], made["lower"]))
    return (f"| {what} | {len(made['ratios'])} | {spread(made['ratios'], 3)} | "
            f"{verdict(made['ratios'], made['goal'], made['void'])} | {cells} | {above:.2f}, {below:.2f} {unit} | "
            f"{below / above:.2f} | {further} |")


def batch_line(name, tests, notes):
    one, eight = tests[0]["bytes_per_tok"], tests[-1]["bytes_per_tok"]
    ratios = quotients(tests[-1]["samples"], tests[0]["samples"])
    moved = sum(eight.values())  # state is counted as read and as written
    bound = tests[-1]["read_gb_per_s"] * 1e9 / moved / median(tests[0]["samples"])
    goal = 3 if "q8_0" in name.lower() else None
    return (f"| {name} | " + " | ".join(spread(test["samples"]) for test in tests) +
            f" | {spread(ratios, 2)} | {verdict(ratios, goal, any(note['void'] for note in notes))} | " +
            "; ".join(f"{b['weights'] / 1e6:.1f} + {b['state'] / 1e6:.1f}" for b in (one, eight)) + f" | {bound:.2f} |")


def state_bytes(hydralm, context):
    counted = json.loads(run(hydralm, "inspect", "--preset", "hydra-29m", "-c", context, "--json"))["bytes"]
    return counted["state"] + counted["kv"]


def text(page, args, state_of):
    ratios = [(what, made) for what, made in page.rows.items() if what != BATCH_ROW]
    out = [
        "# The runtime: context and batch", "",
        page.head("The tests of one model take turns in one process (`hydralm bench --interleave`); beside a prompt of "
                  f"64K tokens stand {SHORT_PROMPTS} prompts of 1K. Models that are compared, and those of the second "
                  f"table ({args.reps} turns), take turns as processes in {args.rounds} rounds. Rates are median "
                  "(min .. max); a ratio is the median (min .. max) of the turns' ratios. The 29M models have random "
                  "weights, so these rows say something of speed only. Keys and values are f16. " +
                  steady_words("process or round")), "",
        prose("`hydralm bench` measures the limits (read bandwidth of as many bytes as a pass reads, multiply-adds) "
              "beside each row. GB/s counts the "
              "bytes of weights, state and cache that a token touches. The last three columns are what a token of "
              "each side counts for, the ratio that would follow from those counts alone, and the ratio if the bytes "
              "that the numerator moves beyond the denominator's come from memory: the weights of the 29M models in "
              "Q8_0 fill the last cache, which then has no room for them."), "",
        "| what | turns | ratio | goal | numerator tok/s | moved or computed | denominator tok/s | moved or computed | "
        "of a token | by that alone | with the further bytes at the read bandwidth |", "|---" * 11 + "|",
        *(ratio_line(what, made) for what, made in ratios), "",
        prose(f"The state of one sequence of hydra-29m has {state_of[16384]:,} bytes at 16K tokens and "
              f"{state_of[1 << 20]:,} at 1M.")]
    batched = page.rows.get(BATCH_ROW)
    if not batched:
        return out
    return out + [
        "",
        prose("The second table is decode of several sequences at once, in tokens a second of all together. A batch "
              "reads each weight once, but every sequence has a state of its own and experts of its own. The last "
              "column is what 8 / 1 would be if the batch of 8 moved its bytes (weights and state read, state "
              "written) at the measured read bandwidth: the weights that one sequence of a 29M model reads fit the "
              "processor's last cache or nearly do, the states and weights of eight do not."), "",
        "| model | " + " | ".join(f"batch {b}" for b in BATCHES) +
        " | 8 / 1 | goal | MB a token at 1; 8: weights + state read and written | 8 at the read bandwidth / 1 |",
        "|---" * (len(BATCHES) + 5) + "|",
        *(batch_line(name, tests, batched["rounds"][name]) for name, tests in batched["tests"].items())]


def main():
    parser = arguments("time the runtime against context and batch", rounds=5, threads=2)
    parser.add_argument("--reps", type=int, default=15, help="turns of batches; other turns follow")
    args = parser.parse_args()
    if any(args.only in what for what, (name, *_) in CONTEXT.items() if name == NANO):
        need(DEMO, "make demo")
    rows = Rows(args)
    state_of = {context: state_bytes(rows.hydralm, context) for context in (16384, 1 << 20)}
    keys = [*CONTEXT, *AGAINST, BATCH_ROW]
    Page("runtime", args, keys, lambda page: text(page, args, state_of)).measure(rows.measure)


if __name__ == "__main__":
    main()
