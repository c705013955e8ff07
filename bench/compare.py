#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# This runtime against llama.cpp, ik_llama.cpp and OpenVINO GenAI on the same GGUF files of SmolLM2-135M: prefill and
# decode with f16 keys and values, and the time from the start of a process to the first byte that it generates. In each
# round ours and every call of each peer take turns; the peer's faster call counts (peers/sides.py). Writes
# bench/results/MACHINE/compare.{md,json}; with --isa avx2, compare_avx2: our AVX2 kernels, and peers built for AVX2.
# Needs nothing but the network once.
#   bench/compare.py [BUILD] [--isa native] [--rounds 5] [--tries 3] [--threads 2] [--only TEXT] [--out bench/results]
import json
import sys
from pathlib import Path

from common import Meter, Page, arguments, built, median, prose, quotients, run, spread, steady_words, verdict
from peers.sides import Ggml, OpenVino, first_byte

INT8_SHARE, F32_SHARE = 0.5, 0.9
# type, (prompt, generated, depth) -> ratio to the best peer, share of the machine's limit; None: no goal
DECODE, DEEP, SHORT, MIDDLE, LONG = (0, 128, 0), (0, 32, 8000), (512, 0, 0), (3072, 0, 0), (7800, 0, 0)
GOALS = {
    ("Q8_0", DECODE): (1.8, 0.85),
    ("Q4_1", DECODE): (1.8, 0.70),
    ("Q4_0", DECODE): (1.5, 0.70),
    ("F16", DECODE): (1.8, 0.85),
    ("BF16", DECODE): (None, 0.85),
    ("Q8_0", DEEP): (2.0, 0.8),
    ("Q4_1", DEEP): (2.0, None),
    ("Q8_0", SHORT): (1.8, INT8_SHARE),
    ("Q4_0", SHORT): (1.8, INT8_SHARE),
    ("Q4_1", SHORT): (1.8, INT8_SHARE),
    ("F16", SHORT): (None, F32_SHARE),
    ("BF16", SHORT): (1.2, None),
    ("Q8_0", MIDDLE): (1.3, None),
    ("Q8_0", LONG): (1.3, None)}
STARTS = {f"{kind} start": kind for kind in ("Q8_0", "Q4_1", "Q4_0", "F16")}
START_GOAL = 0.6
PROMPT = "The capital of France is"  # five tokens
TUNES = ["off", "on", "again"]


def name_of(kind, test):
    prompt, generated, depth = test
    return f"{kind} " + (f"prefill {prompt}" if prompt else f"decode {generated} at depth {depth}")


ROWS = {name_of(*key): key for key in GOALS}


class Sides:
    """All programs and the files that they read."""

    def __init__(self, args):
        self.args, self.hydralm = args, built(args.build)
        self.meter = Meter(self.hydralm, args)
        self.folder = Path(run("bench/peers/models.sh").strip())
        self.peers = [
            Ggml("llama_cpp", args, {f"-fa {flash}": ["-fa", flash] for flash in ("off", "on")}),
            Ggml("ik_llama_cpp", args, {f"-rtr {repack}, -fa {flash}": ["-rtr", repack, "-fa", flash]
                                        for repack in (0, 1) for flash in (0, 1)}),
            OpenVino(args, ("PA", "SDPA"))]

    def file(self, kind):
        return self.folder / f"SmolLM2-135M-Instruct.{kind}.gguf"

    def ours(self, kind, test):
        p, n, d = test
        target = [] if self.args.isa == "native" else ["--target", self.args.isa]
        return json.loads(
            run(self.hydralm, "bench", "-m", self.file(kind), "-t", self.args.threads, "-p", p, "-n", n, "-d", d, "-r",
                1, "--kv-dtype", "f16", *target, "-o", "json", "-q"))[0]

    def speed(self, key):
        kind, test = ROWS[key]
        calls = {(peer.name, call): lambda peer=peer, call=call: peer.rate(self.file(kind), test, call)
                 for peer in self.peers for call in peer.calls}
        missing = {name: text for name, text in ((name, call()) for name, call in calls.items())
                   if not isinstance(text, float)}  # and reads the file into the page cache
        calls = {name: call for name, call in calls.items() if name not in missing}

        def once():
            return self.ours(kind, test), {name: call() for name, call in calls.items()}

        self.ours(kind, test)
        made = [self.meter.steady(once) for _ in range(self.args.rounds)]
        peers = {}
        for peer in self.peers:
            rates = {call: [theirs[name] for (_, theirs), _ in made] for name in calls for owner, call in [name]
                     if owner == peer.name}
            best = max(rates, key=lambda call: median(rates[call]), default=None)
            peers[peer.name] = {
                "calls": rates, "best": best, "missing": {call: text for (owner, call), text in missing.items()
                                                          if owner == peer.name}}
        for peer in self.peers:
            peer.close()
        ours = [mine for (mine, _), _ in made]
        samples = [mine["tok_per_s"]["median"] for mine in ours]
        row = {
            "kind": kind, "test": test, "ours": samples, "peers": peers,
            "middle": sorted(ours, key=lambda mine: mine["tok_per_s"]["median"])[len(ours) // 2],
            "shares": [share_of(mine) for mine in ours], "rounds": [note for _, note in made],
            "void": any(note["void"] for _, note in made) or max(map(share_of, ours)) > 1}
        ratios = ratios_of(row)
        print(f"{key}: {spread(ratios, 2)} of the best peer, share {spread(row['shares'], 2)}"
              f"{' (void)' if row['void'] else ''}", file=sys.stderr)
        return row

    def start(self, key):
        kind = STARTS[key]
        same = ["-m", self.file(kind), "-p", PROMPT, "-n", 4, "-t", self.args.threads, "--temp", 0]
        # Ours prints the prompt before it reads it, llama.cpp does not print it: the clock of both stops behind it.
        calls = {f"--tune {tune}": lambda tune=tune: first_byte(
            [self.hydralm, "generate", *same, "--tune", tune], PROMPT) for tune in TUNES}
        calls |= {f"llama.cpp {name}": lambda flags=flags: first_byte(flags)
                  for name, flags in self.peers[0].starts(same).items()}

        def once():
            return {name: 1e3 * call() for name, call in calls.items()}

        once()  # reads the file into the page cache
        made = [self.meter.steady(once) for _ in range(2 * self.args.rounds)]
        times = {name: [one[name] for one, _ in made] for name in calls}
        best = min((name for name in times if "llama.cpp" in name), key=lambda name: median(times[name]))
        return {
            "kind": kind, "times": times, "best": best, "rounds": [note for _, note in made],
            "void": any(note["void"] for _, note in made)}


def share_of(mine):
    if mine["n"]:
        return mine["gb_per_s"] / mine["read_gb_per_s"]
    return mine["gflop_per_s"] / mine["peak_gflop_per_s"]


def best_of(row):
    """The rates of the fastest peer's fastest call."""
    best = [peer["calls"][peer["best"]] for peer in row["peers"].values() if peer["best"]]
    return max(best, key=median, default=[])


def ratios_of(row):
    return quotients(row["ours"], best_of(row))


def is_met(row, ratio, share):
    """In decode at depth 0 one of the two goals is enough: no program reads faster than the memory."""
    met = [median(values) >= goal for values, goal in ((ratios_of(row), ratio), (row["shares"], share)) if goal]
    return any(met) if row["test"][1] and not row["test"][2] else all(met)


def speed_line(key, row, peers):
    ratio, share = GOALS[ROWS[key]]
    mine = row["middle"]
    work = (f"{mine['gb_per_s']:.1f} of {mine['read_gb_per_s']:.1f} GB/s" if mine["n"] else
            f"{mine['gflop_per_s']:.0f} of {mine['peak_gflop_per_s']:.0f} GOP/s")
    cells = []
    for name in peers:
        peer = row["peers"][name]
        cells.append(f"{spread(peer['calls'][peer['best']])}, {peer['best']}" if peer["best"] else "does not run it")
    goals = [f">= {goal}{unit}" for goal, unit in ((ratio, "x"), (share, " of it")) if goal]
    joint = " or " if row["test"][1] and not row["test"][2] else " and "
    state = "void" if row["void"] else "met" if is_met(row, ratio, share) else "missed"
    return (f"| {key} | {spread(row['ours'])} | " + " | ".join(cells) +
            f" | {spread(ratios_of(row), 2)} | {work} | {spread(row['shares'], 2)} | {joint.join(goals)}: {state} |")


def start_lines(page):
    for key in STARTS:
        if key not in page.rows:
            continue
        row = page.rows[key]
        kept = row["times"]["--tune on"]
        later = [again - off for again, off in zip(row["times"]["--tune again"], row["times"]["--tune off"])]
        ratios = quotients(kept, row["times"][row["best"]])
        yield (f"| {row['kind']} | " + " | ".join(spread(row["times"][f"--tune {tune}"], 0) for tune in TUNES) +
               f" | {spread(later, 0)} | {verdict(later, 50, row['void'], most=True)} | "
               f"{spread(row['times'][row['best']], 0)} | {spread(ratios, 2)} | "
               f"{verdict(ratios, START_GOAL, row['void'], most=True)} |")


def text(page, sides):
    names = [peer.name for peer in sides.peers]
    rows = [(key, page.rows[key]) for key in ROWS if key in page.rows]
    target = rows[0][1]["middle"]["target"] if rows else "not measured"
    out = [
        "# Against llama.cpp, ik_llama.cpp and OpenVINO GenAI, on the same files", "",
        page.head(f"Kernels of ours: {target}. " + " ".join(peer.about for peer in sides.peers) +
                  " In each round ours and all calls take turns; of each peer stands the call with the highest median, "
                  "and a ratio is that of each round with the best of them. Keys and values are f16 on all sides. "
                  "Figures are median (min .. max). " + steady_words()), "",
        prose("Q4_0, Q8_0, F16 and BF16 are made from the published Q4_1 file by `llama-quantize --allow-requantize "
              "--pure`. `hydralm bench` measures the read rate (of as many bytes as a pass reads, by the best of "
              "several patterns) and the multiply-add peak beside each of its rows. GB/s counts the bytes of weights "
              "and cache that a token reads, GOP/s the multiplications and additions of the products. A share above 1 "
              "voids a row: the read rate would not "
              "be the best there is."), "",
        "| test | hydralm tok/s | " + " | ".join(f"{name} tok/s" for name in names) +
        " | ratio to the best | moved or computed, of | share | goal |", "|---" * (6 + len(names)) + "|",
        *(speed_line(key, row, names) for key, row in rows)]
    lines = list(start_lines(page))
    if lines:
        out += [
            "", prose("Milliseconds from the start of the process to the first byte that it generates, behind the "
                      "prompt where that is printed, with a prompt of five tokens and a warm page cache (`hydralm "
                      "generate` with each --tune, against `llama-completion --no-warmup`, with and without "
                      "`--no-repack`; the one with the lower median counts), in twice as many rounds:"), "",
            "| file | --tune off | --tune on, kept | --tune again | again - off | goal | llama.cpp | kept / llama.cpp "
            "| goal |", "|---" * 9 + "|", *lines]
    return out


def main():
    parser = arguments("time this runtime against three others on the same files", rounds=5, threads=2)
    parser.add_argument("--isa", choices=["native", "avx2"], default="native", help="instructions of all sides")
    args = parser.parse_args()
    sides = Sides(args)
    name = "compare" if args.isa == "native" else f"compare_{args.isa}"
    page = Page(name, args, [*ROWS, *STARTS], lambda page: text(page, sides))
    page.measure(lambda key: sides.speed(key) if key in ROWS else sides.start(key))


if __name__ == "__main__":
    main()
