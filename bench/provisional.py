#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What a provisional pass over several tokens and its commit take, in single steps of the same model: the cost of
# checking guesses. Writes bench/results/MACHINE/provisional.{md,json}. Not here: what guesses gain (speculation.py).
#   bench/provisional.py [BUILD] [--reps 9] [--rounds 3] [--tries 3] [--threads 2] [--only TEXT] [--out bench/results]
import json
import sys
from pathlib import Path

from common import Meter, Page, arguments, built, prose, run, spread, steady_words, verdict

TOKENS = [2, 4, 8, 16, 32]
STEPS = 128
MODELS = ["SmolLM2 Q8_0", "SmolLM2 Q4_1", "hydra-29m q8_0", "mamba2-29m q8_0"]
GOALS = {"SmolLM2 Q8_0": {4: 1.3, 8: 1.7}}  # steps that a pass of so many tokens takes, at most


def flags_of(hydralm):
    smollm2 = Path(run("tools/smollm2.sh").strip())
    q8 = smollm2.with_name("SmolLM2-135M-Instruct.Q8_0.gguf")
    run(hydralm, "quantize", smollm2, "-o", q8, "--type", "q8_0")  # each time: the quantiser is of this commit
    named = {name: ["--preset", name.split()[0], "--type", name.split()[1]] for name in MODELS[2:]}
    return named | {"SmolLM2 Q8_0": ["-m", q8], "SmolLM2 Q4_1": ["-m", smollm2]}


class Rows:
    def __init__(self, args):
        self.args, self.hydralm = args, built(args.build)
        self.meter, self.flags = Meter(self.hydralm, args), flags_of(self.hydralm)

    def bench(self, name):
        """Single steps and passes of each length, in turn."""
        return json.loads(run(
            self.hydralm, "bench", *self.flags[name], "-t", self.args.threads, "-p", 0, "-n", STEPS, "--provisional",
            ",".join(map(str, TOKENS)), "-r", self.args.reps, "--interleave", "-o", "json", "-q"))

    def measure(self, name):
        made = [self.meter.steady(lambda: self.bench(name)) for _ in range(self.args.rounds)]
        costs = {}
        steps = [rate for tests, _ in made for rate in alone(tests)["samples"]]
        for tokens in TOKENS:
            passes = [rate for tests, _ in made for rate in of_length(tests, tokens)["samples"]]
            costs[tokens] = [tokens * step / many for step, many in zip(steps, passes, strict=True)]
        print(f"{name}: {', '.join(f'{n}: {spread(c, 2)}' for n, c in costs.items())}", file=sys.stderr)
        return {"steps_per_s": steps, "costs": costs, "rounds": [note for _, note in made],
                "void": any(note["void"] for _, note in made)}


def alone(tests):
    return next(test for test in tests if test["n"] and not test.get("provisional"))


def of_length(tests, tokens):
    return next(test for test in tests if test.get("provisional") == tokens)


def lines(page):
    for name, row in page.rows.items():
        for tokens in TOKENS:
            costs = row["costs"].get(tokens) or row["costs"][str(tokens)]  # JSON's keys are texts
            goal = GOALS.get(name, {}).get(tokens)
            yield (f"| {name} | {spread(row['steps_per_s'])} | {tokens} | {spread(costs, 2)} | "
                   f"{verdict(costs, goal, row['void'], most=True)} |")


def text(page):
    return [
        "# Provisional passes", "",
        page.head(f"`hydralm bench --provisional`: {STEPS} tokens after an empty context, step by step and in passes "
                  "of several tokens, each of which is committed whole; all of a model take turns within one process, "
                  f"{page.about['command'].split('--reps ')[1].split()[0]} times a round. A cost is the time of a pass "
                  "and its commit over that of a single step beside it; figures are median (min .. max). " +
                  steady_words()), "",
        prose("A pass gives the bits of single steps, so its products keep their order, and cannot take the blocked "
              "products of a prompt."), "",
        "| model | single steps /s | tokens of a pass | cost in single steps | goal |", "|---" * 5 + "|", *lines(page)]


def main():
    parser = arguments("time provisional passes against single steps", rounds=3, threads=2)
    parser.add_argument("--reps", type=int, default=9, help="times that a process measures each test")
    args = parser.parse_args()
    Page("provisional", args, MODELS, text).measure(Rows(args).measure)


if __name__ == "__main__":
    main()
