#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# This runtime against llama.cpp on the same GGUF files of SmolLM2-135M (Q4_1, Q4_0, Q8_0, F16): prefill, decode at
# depths 0, 2048 and 8000 with f16 keys and values, and the time from the start of a process to the first byte that it
# generates. In each round ours and two calls of llama.cpp take turns, a process each; its faster one counts. The two
# differ in flash attention, those of a start in --no-repack. Writes bench/results/llama_cpp.{md,json}. Needs nothing
# but the network once (peers/llama_cpp.sh fetches and builds it).
#   bench/llama_cpp.py [BUILD] [--rounds 5] [--tries 3] [--threads 2] [--only TEXT] [--out bench/results]
import json
import re
import subprocess
import sys
import time
from pathlib import Path

from common import Meter, Page, arguments, built, median, prose, quotients, run, spread, steady_words, verdict

KINDS = ["Q4_1", "Q4_0", "Q8_0", "F16"]
# prompt, generated, depth -> type -> ratio to reach
GOALS = {
    (0, 128, 0): {"Q4_1": 1.5, "Q4_0": 1.3, "Q8_0": 1.3, "F16": 1.1},
    (0, 64, 2048): {"Q4_1": 1.5, "Q4_0": 1.0, "Q8_0": 1.0, "F16": 1.0},
    (0, 32, 8000): {"Q4_1": 2.0, "Q4_0": 1.0, "Q8_0": 1.0, "F16": 1.0},
    (512, 0, 0): {"Q4_1": 2.0, "Q4_0": 0.9, "Q8_0": 1.2, "F16": 0.8},
    (8192, 0, 0): {"Q4_1": 1.5, "Q4_0": 0.9, "Q8_0": 0.9, "F16": 0.8}}
START_GOAL = 0.6
PROMPT = "The capital of France is"  # five tokens
FLASH = ["off", "on"]
# Calls of llama.cpp that start it. Weights that are laid out anew at load make its tokens faster and its start slower.
LAYOUTS = {"repacked": [], "--no-repack": ["--no-repack"]}


def name_of(kind, test):
    prompt, generated, depth = test
    return f"{kind} " + (f"prefill {prompt}" if prompt else f"decode {generated} at depth {depth}")


TESTS = {name_of(kind, test): (kind, test) for test, goals in GOALS.items() for kind in goals}
STARTS = {f"{kind} start": kind for kind in KINDS}


class Sides:
    """The two programs and the files that both read."""

    def __init__(self, args):
        self.args, self.hydralm = args, built(args.build)
        self.meter = Meter(self.hydralm, args)
        self.bin = Path(run("bench/peers/llama_cpp.sh").strip())
        self.files = {kind: self.bin.parents[1] / f"SmolLM2-135M-Instruct.{kind}.gguf" for kind in KINDS}
        self.files["Q4_1"] = Path(run("tools/smollm2.sh").strip())

    def ours(self, kind, test):
        p, n, d = test
        return json.loads(
            run(self.hydralm, "bench", "-m", self.files[kind], "-t", self.args.threads, "-p", p, "-n", n, "-d", d, "-r",
                1, "--kv-dtype", "f16", "-o", "json", "-q"))[0]

    def theirs(self, kind, test, flash):
        p, n, d = test
        rows = json.loads(
            run(self.bin / "llama-bench", "-m", self.files[kind], "-t", self.args.threads, "-p", p, "-n", n, "-d", d,
                "-r", 1, "-fa", flash, "-ctk", "f16", "-ctv", "f16", "-o", "json"))
        return rows[0]["samples_ts"][0]

    def once(self, kind, test):
        return {"ours": self.ours(kind, test), **{flash: self.theirs(kind, test, flash) for flash in FLASH}}

    def speed(self, key):
        kind, test = TESTS[key]
        self.theirs(kind, (32, 0, 0), "on")  # reads the file into the page cache
        made = [self.meter.steady(lambda: self.once(kind, test)) for _ in range(self.args.rounds)]
        both = {flash: [one[flash] for one, _ in made] for flash in FLASH}
        best = max(FLASH, key=lambda flash: median(both[flash]))
        samples = [one["ours"]["tok_per_s"]["median"] for one, _ in made]
        middle = sorted((one["ours"] for one, _ in made), key=lambda row: row["tok_per_s"]["median"])[len(made) // 2]
        row = {
            "kind": kind, "ours": samples, "flash_attention": both, "best": best, "goal": GOALS[test][kind],
            "ratios": quotients(samples, both[best]), "middle": middle, "rounds": [note for _, note in made],
            "void": any(note["void"] for _, note in made)}
        say(key, row["ratios"], row["void"])
        return row

    def start(self, key):
        kind = STARTS[key]
        same = ["-m", self.files[kind], "-p", PROMPT, "-n", 4, "-t", self.args.threads, "--temp", 0]
        theirs = [self.bin / "llama-completion", *same, "--no-warmup", "-no-cnv", "--no-display-prompt"]
        # Ours prints the prompt before it reads it, llama.cpp does not print it: the clock of both stops behind it.
        calls = {"ours": lambda: first_byte([self.hydralm, "generate", *same], PROMPT)}
        calls |= {name: lambda flags=flags: first_byte([*theirs, *flags]) for name, flags in LAYOUTS.items()}

        def once():
            return {name: 1e3 * call() for name, call in calls.items()}

        once()  # reads the file into the page cache
        made = [self.meter.steady(once) for _ in range(2 * self.args.rounds)]
        mine = [one["ours"] for one, _ in made]
        both = {name: [one[name] for one, _ in made] for name in LAYOUTS}
        best = min(LAYOUTS, key=lambda name: median(both[name]))
        row = {
            "kind": kind, "ours": mine, "llama_cpp": both, "best": best, "ratios": quotients(mine, both[best]),
            "goal": START_GOAL, "rounds": [note for _, note in made], "void": any(note["void"] for _, note in made)}
        say(key, row["ratios"], row["void"])
        return row

    def repacks(self):
        """Type -> MiB of weights that llama.cpp lays out anew when it loads a file, as its log says."""
        found = {}
        for kind, path in self.files.items():
            made = subprocess.run([self.bin / "llama-bench", "-m", path, "-p", "1", "-n", "0", "-r", "1", "-v"],
                                  capture_output=True, text=True)
            sizes = re.findall(r"(\w+) model buffer size = +([\d.]+) MiB", made.stderr)
            if made.returncode != 0 or not sizes:
                sys.exit(f"llama-bench -v: says no size of a buffer of weights for {path}")
            found[kind] = sum(float(size) for name, size in sizes if "REPACK" in name)
        return found


def say(key, ratios, void):
    print(f"{key}: {spread(ratios, 2)} of llama.cpp{' (void)' if void else ''}", file=sys.stderr)


def first_byte(command, prompt=""):
    """Seconds from the start of a process to the first byte of its standard output behind the prompt that it prints."""
    words, echo = [str(word) for word in command], prompt.encode()
    start = time.perf_counter()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    shown = process.stdout.read(len(echo))
    byte = process.stdout.read(1)
    seconds = time.perf_counter() - start
    error = process.communicate()[1].decode(errors="replace")
    if process.returncode != 0:
        sys.exit(f"{' '.join(words)}: {error.strip()[-300:]}")
    if shown != echo or not byte:
        sys.exit(f"{' '.join(words)}: its output begins with {shown + byte!r}: must be {echo!r} and then an answer")
    return seconds


def bound(key, row):
    """What the memory would allow, for a row of decode that misses its goal."""
    mine = row["middle"]
    if median(row["ratios"]) >= row["goal"] or not mine["n"] or row["void"]:
        return []
    limit = median(row["ours"]) * mine["read_gb_per_s"] / mine["gb_per_s"]
    other = median(row["flash_attention"][row["best"]])
    return ["", prose(
        f"{key} misses its goal. Both sides read the same weights, and at the whole read rate measured beside it ours "
        f"would be {limit:.0f} tokens/s, {limit / other:.2f} times llama.cpp's.")]


def speed_line(key, row):
    mine = row["middle"]
    if mine["n"]:
        rate, limit, work = mine["gb_per_s"], mine["read_gb_per_s"], f"{mine['gb_per_s']:.1f} GB/s"
        share = f"{rate / limit:.2f} of {limit:.1f} GB/s"
    else:
        rate, limit, work = mine["gflop_per_s"], mine["peak_gflop_per_s"], f"{mine['gflop_per_s']:.0f} GOP/s"
        share = f"{rate / limit:.2f} of {limit:.0f} GOP/s"
    theirs = " | ".join(spread(row["flash_attention"][flash]) for flash in FLASH)
    return (f"| {key} | {spread(row['ours'])} | {theirs} | {spread(row['ratios'], 2)} | "
            f"{verdict(row['ratios'], row['goal'], row['void'])} | {work} | {share} |")


def repacks_sentence(repacked):
    some = [f"{kind} ({size:.0f} MiB)" for kind, size in repacked.items() if size]
    none = [kind for kind, size in repacked.items() if not size]
    return (f"By its own log llama.cpp lays the weights out anew at load for {', '.join(some) or 'none of these types'}"
            + (f", and leaves {', '.join(none)} as in the file." if some and none else "."))


def text(page, repacked):
    speeds = [(key, page.rows[key]) for key in TESTS if key in page.rows]
    target = speeds[0][1]["middle"]["target"] if speeds else "not measured"
    out = [
        "# Against llama.cpp, on its own files", "",
        page.head(f"Kernels of ours: {target}. llama.cpp is the source that llama-cpp-python 0.3.36 vendors, built "
                  "Release with GGML_NATIVE for this processor. In each round ours and llama.cpp with `-fa off` and "
                  "`-fa on` take turns, each in a process of its own; the one with the higher median counts, and a "
                  "ratio is that of each round. Keys and values are f16 on both sides. Figures are median (min .. "
                  "max). " + steady_words()), "",
        prose(repacks_sentence(repacked) + " Ours lays out anew what it runs (docs/runtime.md). Q4_0, Q8_0 and F16 are "
              "made from the published Q4_1 file by `llama-quantize --allow-requantize --pure`. `hydralm bench` "
              "measures the read bandwidth and the multiply-add peak beside each of its rows. GB/s counts the bytes "
              "of weights and cache that a token reads, GOP/s the multiplications and additions of the products."), "",
        "| test | hydralm tok/s | llama.cpp tok/s, -fa off | -fa on | ratio | goal | moved or computed | share of the "
        "machine's |", "|---" * 8 + "|", *(speed_line(key, row) for key, row in speeds)]
    for key, row in speeds:
        out += bound(key, row)
    out += [
        "", prose("Milliseconds from the start of the process to the first byte that it generates, behind the prompt "
                  "where that is printed, with a prompt of five tokens and a warm page cache (`hydralm generate` "
                  "against `llama-completion --no-warmup`, with and without `--no-repack`; the one with the lower "
                  "median counts), in twice as many rounds:"), "",
        "| file | hydralm ms | llama.cpp ms | with --no-repack | ratio | goal |", "|---" * 6 + "|"]
    return out + [start_line(page.rows[key]) for key in STARTS if key in page.rows]


def start_line(row):
    theirs = " | ".join(spread(row["llama_cpp"][name], 0) for name in LAYOUTS)
    return (f"| {row['kind']} | {spread(row['ours'], 0)} | {theirs} | {spread(row['ratios'], 2)} | "
            f"{verdict(row['ratios'], row['goal'], row['void'], most=True)} |")


def main():
    args = arguments("time this runtime against llama.cpp on the same files", rounds=5, threads=2).parse_args()
    sides = Sides(args)
    repacked = sides.repacks()
    page = Page("llama_cpp", args, [*TESTS, *STARTS], lambda page: text(page, repacked))
    page.about["repacked_mib"] = repacked
    page.measure(lambda key: sides.speed(key) if key in TESTS else sides.start(key))


if __name__ == "__main__":
    main()
