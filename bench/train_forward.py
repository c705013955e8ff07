#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Training and forward of the 29M models at several lengths, ours and the peers in Python (peers/torch_models.py). A row
# is a length: in each round all its models and engines take turns, a process each. Writes
# bench/results/MACHINE/train_forward.{json,md}. Not here: the measured loops (train_forward.cc, peers/torch_models.py).
#   bench/train_forward.py [BUILD] [--rounds 5] [--tries 3] [--threads 2] [--only TEXT] [--out bench/results]
import functools
import json
import math
import os
import statistics
import sys

from common import Meter, Page, arguments, built, median, prose, quotients, run, spread, steady_words, verdict

STEP_TOKENS = 2048  # tokens of a training step where T is not longer
LEAST_TOKENS = 8192  # of the steps that are timed in one process
SAME, COMPILED, INSTALLED, LIBRARY = "torch", "torch compiled", "torch as installed", "transformers"
HYDRA, TRANSFORMER, MAMBA = ((f"{model}-29m", "hydralm") for model in ("hydra", "transformer", "mamba2"))
TORCH, TORCH_COMPILED, TORCH_INSTALLED = (("transformer-29m", engine) for engine in (SAME, COMPILED, INSTALLED))
MAMBA_LIBRARY = ("mamba2-29m", LIBRARY)
# (mode, T) -> what takes turns. Where a step of a peer takes minutes, what says the same is left out: torch as it is
# installed, and torch.compile at 64K, whose attention is the operator that eager calls too.
ROWS = {
    ("train", 512): [HYDRA, TRANSFORMER, TORCH, TORCH_COMPILED],
    ("train", 2048): [HYDRA, TRANSFORMER, TORCH, TORCH_COMPILED, TORCH_INSTALLED, MAMBA, MAMBA_LIBRARY],
    ("train", 8192): [HYDRA, TORCH, TORCH_COMPILED],
    ("train", 32768): [HYDRA],
    ("forward", 8192): [HYDRA, TRANSFORMER, TORCH, TORCH_COMPILED, MAMBA],
    ("forward", 32768): [HYDRA, TORCH, TORCH_COMPILED],
    ("forward", 65536): [HYDRA, TORCH]}
PAIRS = [(HYDRA, TORCH), (HYDRA, TORCH_COMPILED), (HYDRA, TORCH_INSTALLED), (TRANSFORMER, TORCH),
         (TRANSFORMER, TORCH_COMPILED), (TRANSFORMER, TORCH_INSTALLED), (MAMBA, MAMBA_LIBRARY)]
# Goals are for sides with the same kernels of MKL and the same malloc: none stands beside torch as it is installed.
HYDRA_GOALS = {("train", 512): 2.5, ("train", 2048): 2.5, ("train", 8192): 3.3, ("forward", 8192): 4,
               ("forward", 65536): 12}
GOALS = {(HYDRA, TORCH): HYDRA_GOALS, (HYDRA, TORCH_COMPILED): HYDRA_GOALS,
         (TRANSFORMER, TORCH): {("train", length): 1.0 for length in (512, 2048)},
         (TRANSFORMER, TORCH_COMPILED): {("train", length): 0.97 for length in (512, 2048)},
         (MAMBA, MAMBA_LIBRARY): {("train", 2048): 1.5}}


def name_of(row):
    mode, length = row
    return f"{mode} T{length}"


def rows_of(mode, length):
    """Sequences of a step."""
    return max(1, STEP_TOKENS // length) if mode == "train" else 1


def measure_once(mode, length, preset, engine, args, python):
    rows = rows_of(mode, length)
    steps = max(1, LEAST_TOKENS // (rows * length))
    arguments = [preset, length, rows, mode, steps, args.threads]
    environment = {**os.environ, "OMP_NUM_THREADS": str(args.threads)}
    if engine == "hydralm":
        return json.loads(run(os.path.join(args.build, "bench_train_forward"), *arguments, env=environment))
    environment["TORCHINDUCTOR_CACHE_DIR"] = os.path.abspath(".cache/peers/inductor")
    environment["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no helpers beside the process that is measured
    if engine == LIBRARY:
        environment["PYTHONPATH"] = python
    library = os.path.abspath(".cache/peers/same_process.so")
    if engine != INSTALLED:
        environment["LD_PRELOAD"] = library
    made = json.loads(
        run(sys.executable, "bench/peers/torch_models.py", *arguments, "compiled" if engine == COMPILED else "eager",
            env=environment).splitlines()[-1])
    if made["same_process"] != (engine != INSTALLED):
        sys.exit(f"{name_of((mode, length))}: {preset}, {engine}: {library} was "
                 f"{'loaded' if made['same_process'] else 'not loaded'} into it: must be in all but {INSTALLED!r}")
    return made


def measure_row(mode, length, meter, args, python):
    """All cases of a length, void ones and good ones. The next run measures a void row as a whole, since its ratios are
    those of sides that took turns: to keep the good cases would pair processes of different hours."""
    samples = {case: [] for case in ROWS[mode, length]}
    for turn in range(args.rounds):
        for preset, engine in samples:
            made, note = meter.steady(lambda: measure_once(mode, length, preset, engine, args, python))
            samples[preset, engine].append({**made, **note})
            print(f"{mode} T{length}, round {turn + 1}/{args.rounds}: {preset}, {engine}: {made['tok_per_s']:.0f} "
                  f"tokens/s{' (void)' if note['void'] else ''}", file=sys.stderr)
    cases = [{"preset": preset, "engine": engine, "void": any(one["void"] for one in made), "samples": made}
             for (preset, engine), made in samples.items()]
    check_sizes(cases)
    return {"void": any(case["void"] for case in cases), "cases": cases}


def check_sizes(cases):
    """Both sides of a pair must be one model: the same parameters up to 0.1%."""
    sizes = {}
    for case in cases:
        mine = case["samples"][0]["parameters"]
        first = sizes.setdefault(case["preset"], mine)
        if abs(mine - first) > 0.001 * first:
            sys.exit(f"{case['preset']}: {case['engine']} has {mine} parameters, another engine {first}")


def of(case, field):
    return [one[field] for one in case["samples"]]


def ratio_lines(page):
    for (mode, length), row in rows(page):
        cases = {(case["preset"], case["engine"]): case for case in row["cases"]}
        for mine, peer in PAIRS:
            if mine not in cases or peer not in cases:
                continue
            a, b = cases[mine], cases[peer]
            ratios = quotients(of(a, "tok_per_s"), of(b, "tok_per_s"))
            goal = GOALS.get((mine, peer), {}).get((mode, length))
            flops = page.flops(peer[0], length) / page.flops(mine[0], length)
            yield (f"| {mode} | {length} | {mine[0]} | {peer[0]}, {peer[1]} | {spread(ratios, 2)} | "
                   f"{verdict(ratios, goal, a['void'] or b['void'])} | {flops:.2f} | "
                   f"{max(of(a, 'peak_bytes')) / max(of(b, 'peak_bytes')):.2f} |")


def case_lines(page):
    for (mode, length), row in rows(page):
        for case in row["cases"]:
            counted = (f"{of(case, 'flops_per_token')[0] / 1e6:.1f} M | {median(of(case, 'peak_share')):.2f}"
                       if case["engine"] == "hydralm" else " | ")
            yield (f"| {mode} | {length} | {case['preset']} | {case['engine']} | {spread(of(case, 'tok_per_s'), 0)}"
                   f"{' void' if case['void'] else ''} | {counted} | "
                   f"{median(of(case, 'gemm_flops_per_s')) / 1e9:.0f} | {max(of(case, 'peak_bytes')) / 2**20:.0f} | "
                   f"{of(case, 'parameters')[0]:,} |")


def rows(page):
    return [(row, page.rows[name_of(row)]) for row in ROWS if name_of(row) in page.rows]


def memory_slope(page):
    """Log-log slope of the peak memory of training hydra-29m at batch 1 over the length, least squares."""
    points = [(math.log(length), math.log(max(of(row["cases"][0], "peak_bytes"))))
              for (mode, length), row in rows(page) if mode == "train" and rows_of(mode, length) == 1]
    return statistics.linear_regression(*zip(*points)).slope if len(points) > 1 else None


def text(page):
    lines = [
        "# Training and forward of the 29M models", "",
        page.head("fp32, seed 1, random ids. A row is a length; in each round its models and engines take turns, a "
                  "process each. Figures are median (min .. max) over the rounds, a ratio is that of each round. " +
                  steady_words("process", arithmetic=True)), "",
        prose("Each process makes a warm-up step first, of the same shape but of 8,192 tokens a row at most, and times "
              f"steps of {LEAST_TOKENS:,} tokens together at least. Training is forward, backward, clipping and AdamW "
              f"on a step of {STEP_TOKENS:,} tokens (T tokens where T is longer). Forward gives the logits of the last "
              "position. The engine torch is a transformer of the same sizes in Python (bench/peers/torch_models.py), "
              "compiled the same under torch.compile (for any length where the warm-up is shorter than the step); "
              "transformers is that library's Mamba2. All of these run with hydralm-train's own setting of malloc and "
              "with the kernels of MKL that it takes (a preloaded library made of hydra/cli/process.cc), and goals "
              "stand on these rows. \"As installed\" is torch without that library."), "",
        prose("The share is counted FLOPs (docs/DESIGN.md, promise 3; a backward pass counts as two forward passes) "
              "per second over the fp32 GEMM speed, which each process measures at its end."),
        "", "| | T | ours | peer | ratio of tokens/s | goal | ratio of counted FLOPs | ratio of peak memory |",
        "|---" * 8 + "|", *ratio_lines(page), "",
        "| | T | model | engine | tokens/s | FLOPs a token | share of GEMM | GEMM GFLOP/s | peak memory MiB | "
        "parameters |", "|---" * 10 + "|", *case_lines(page)]
    slope = memory_slope(page)
    if slope:
        lines += ["", prose(
            "From 2K tokens on, the peak memory of training hydra-29m at batch 1 grows as T to the power of "
            f"{slope:.2f} (least squares of the logarithms; the goal is 1.05 at most).")]
    return lines + ["", "`hydralm train --device cuda` compiles. It has not run, because no GPU was at hand."]


def main():
    args = arguments("time training and forward of the 29M presets", rounds=5, threads=2).parse_args()
    python = run("bench/peers/python.sh").strip()
    hydralm = built(args.build, "bench_train_forward")
    meter = Meter(hydralm, args, arithmetic=True)
    named = {name_of(row): row for row in ROWS}
    page = Page("train_forward", args, list(named), text)
    page.flops = functools.cache(lambda preset, length: json.loads(run(
        hydralm, "inspect", "--preset", preset, "-c", length, "--json"))["flops"]["forward_mean"])
    page.measure(lambda key: measure_row(*named[key], meter, args, python))


if __name__ == "__main__":
    main()
