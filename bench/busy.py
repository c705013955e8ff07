#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Decode of SmolLM2 in Q8_0 beside another program that wants one CPU: one thread and two, of ours and of llama.cpp, on
# a machine that is quiet otherwise. Writes bench/results/MACHINE/busy.{md,json}. Not here: speed on a quiet machine
# (compare.py).
#   bench/busy.py [BUILD] [--rounds 7] [--tries 3] [--only TEXT] [--out bench/results]
import contextlib
import json
import os
import subprocess
import sys
from pathlib import Path

from common import Page, arguments, built, prose, quotients, run, spread, verdict
from peers.sides import Ggml

GOAL = 0.9
TEST = (0, 256, 0)
# What runs beside: nothing, a program that must stay on one CPU, one that may go anywhere.
LAST = max(os.sched_getaffinity(0))
BESIDE = {"nothing": None, "a program on one CPU": {LAST}, "a program anywhere": os.sched_getaffinity(0)}
SPIN = "while True: pass"


@contextlib.contextmanager
def spinning(cpus):
    """Another program, of the same priority, that always wants to run, on these CPUs; None: none."""
    if cpus is None:
        yield
        return
    process = subprocess.Popen([sys.executable, "-c", SPIN], preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    try:
        yield
    finally:
        process.kill()
        process.wait()


class Sides:
    def __init__(self, args):
        self.args, self.hydralm = args, built(args.build)
        self.file = Path(run("bench/peers/models.sh").strip()) / "SmolLM2-135M-Instruct.Q8_0.gguf"
        args.isa, args.threads = "native", 2
        self.peer = Ggml("llama_cpp", args, {"": []})

    def ours(self, threads):
        p, n, d = TEST
        made = run(self.hydralm, "bench", "-m", self.file, "-t", threads, "-p", p, "-n", n, "-d", d, "-r", 3, "-o",
                   "json", "-q")
        return json.loads(made)[0]["tok_per_s"]["median"]

    def measure(self, key):
        rounds = []
        for _ in range(self.args.rounds):
            with spinning(BESIDE[key]):
                rounds.append({"1": self.ours(1), "2": self.ours(2), "llama.cpp": self.peer.rate(self.file, TEST, "")})
        print(f"{key}: {spread(quotients(of(rounds, '2'), of(rounds, '1')), 2)}", file=sys.stderr)
        return {"rounds": rounds}


def of(rounds, side):
    return [one[side] for one in rounds]


def text(page):
    lines = []
    for key, row in page.rows.items():
        rounds = row["rounds"]
        ratios = quotients(of(rounds, "2"), of(rounds, "1"))
        goal = GOAL if BESIDE[key] else None
        lines.append(f"| {key} | {spread(of(rounds, '1'))} | {spread(of(rounds, '2'))} | {spread(ratios, 2)} | "
                     f"{verdict(ratios, goal, False)} | {spread(of(rounds, 'llama.cpp'))} |")
    return [
        "# Beside another program", "",
        page.head("SmolLM2 in Q8_0, decode of 256 tokens, medians of 3 repetitions a process; the sides take turns "
                  "in each round. The other program is a loop that always wants to run. Figures are median (min .. "
                  "max) over the rounds."), "",
        prose("Threads of one product wait for one another, so a thread whose CPU is taken away holds back all. Such a "
              "thread is left out for a while (hydra/base/leave_out.h)."), "",
        "| beside | 1 thread tok/s | 2 threads tok/s | 2 / 1 | goal | llama.cpp, 2 threads tok/s |", "|---" * 6 + "|",
        *lines]


def main():
    parser = arguments("time decode beside another program", rounds=7)
    args = parser.parse_args()
    Page("busy", args, list(BESIDE), text).measure(Sides(args).measure)


if __name__ == "__main__":
    main()
