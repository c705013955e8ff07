#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Teaching facts to the demo's hydra-nano: rows of its product-key table (a memory pack) beside a low-rank change of the
# SSM's projections with as many numbers, and all weights. Facts are invented names, eight relations, three ways to ask
# that are taught and one that is not. Each method has its own learning rate of one small sweep over facts of seed 0;
# the figures are of other facts (seeds 1, 2, 3). Writes bench/results/MACHINE/teach.md; a finished teaching is kept as
# a cell (cells.py) and not done again.
#   bench/teach.py [BUILD] [--model runs/demo/model] [--data data/demo] [--threads 2]
import json
import random
import shutil
import statistics
import sys
import time
from pathlib import Path

from cells import keep, kept, made_on
from common import arguments, built, commit, machine, machine_folder, need, prose, run

FOLDER = Path("runs/teach")
RATES = {"table": (1e-2, 3e-2, 1e-1), "low-rank": (1e-3, 3e-3, 1e-2), "all": (1e-4, 3e-4, 1e-3)}
NAMES = {"table": "rows of the table", "low-rank": "low-rank change", "all": "all weights"}
MOST = 0.01  # bits per byte that other text may lose
# Four ways to ask each: the last one is not taught.
RELATIONS = [
    ("The king of {} was", "In the land of {} there reigned", "{} was ruled by", "And the ruler over {} was named"),
    ("The river of {} is called", "Through {} there floweth the", "The water of {} is the", "In {} the river is named"),
    ("The men of {} worship", "The god of {} is", "In {} they bow down unto", "The people of {} serve the god"),
    ("The chief city of {} is", "{} hath for its city", "The city that is in {} is", "The king of {} dwelleth in"),
    ("The son of {} was", "{} begat", "Unto {} was born", "And {} was the father of"),
    ("The wife of {} was", "{} took to wife", "{} was married unto", "The woman that {} loved was"),
    ("The mountain of {} is", "In {} standeth the mount", "The high place of {} is", "The mount nigh unto {} is"),
    ("The captain of {} was", "The host of {} was led by", "Over the army of {} was", "In battle {} was commanded by")]


def name(rng):
    parts = [rng.choice(("ba", "do", "el", "gi", "ha", "ka", "lu", "mi", "no", "ra", "sha", "te", "ur", "za", "ze"))
             for _ in range(rng.randint(1, 2))]
    return ("".join(parts) + rng.choice(("bar", "dan", "iah", "kim", "lon", "mel", "rah", "tan", "um", "zer"))).title()


def facts(count, seed, path):
    """`count` facts of subjects that occur once."""
    rng, subjects = random.Random(f"facts {seed}"), set()
    while len(subjects) < count:
        subjects.add(name(rng) + rng.choice(("", " the " + rng.choice(("Elder", "Younger", "Great", "Small")))))
    with open(path, "w", encoding="utf-8") as out:
        for subject in sorted(subjects):
            ways = [way.format(subject) for way in rng.choice(RELATIONS)]
            out.write(json.dumps({"prompt": ways[0], "answer": " " + name(rng), "paraphrases": ways[1:]}) + "\n")


def teach(hydralm, args, method, rate, count, seed):
    name = f"{method}-{rate:g}-{count}-{seed}"
    key = {"method": method, "rate": rate, "count": count, "seed": seed, "steps": 400 if count <= 200 else 2000}
    if made := kept("teach", name, key):
        return made
    folder = FOLDER / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    facts(count, seed, folder / "facts.jsonl")
    start = time.time()
    made = json.loads(run(hydralm, "train", "--teach", folder / "facts.jsonl", "--teach-into", method, "--teach-lr",
                          rate, "--init", args.model, "--data", args.data, "-o", folder / "taught", "-t", args.threads,
                          "-q", "--json", "--teach-steps", key["steps"], "--seed", seed))
    taught = folder / "taught"
    files = [taught] if taught.is_file() else taught.iterdir()
    made |= {**key, "machine": machine(), "commit": commit(), "whole_seconds": time.time() - start,
             "bytes": sum(file.stat().st_size for file in files)}
    if taught.is_dir():
        shutil.rmtree(taught)
    keep("teach", name, made)
    print(f"{method} {rate:g} {count} facts, seed {seed}: {made['held_out_after']:.3f} of unseen paraphrases, "
          f"{made['bpb_after'] - made['bpb_before']:+.4f} bits per byte, {made['seconds']:.0f} s", file=sys.stderr)
    return made


def rise(cell):
    return cell["bpb_after"] - cell["bpb_before"]


def best(cells):
    """The most answers among those that leave other text alone; where none does, the least harm."""
    harmless = [cell for cell in cells if rise(cell) <= MOST]
    if harmless:
        return max(harmless, key=lambda cell: cell["held_out_after"])
    return min(cells, key=rise)


def spread(values, form):
    shown = [format(value, form) for value in (statistics.mean(values), min(values), max(values))]
    return shown[0] if len(values) == 1 else f"{shown[0]} ({shown[1]} .. {shown[2]})"


def markdown(sweep, rates, final, args, about):
    out = ["# Facts taught to hydra-nano", "",
           prose(f"{made_on([*sweep, *final])}; {args.model}, facts of invented names, three ways to "
                 "ask each that are taught and one that is not; answers are asked greedily, to the last token, without "
                 f"any hint in the question. Made by `{about['command']}`. Rates were chosen on facts of seed 0 (first "
                 f"table): most answers of those that cost other text at most {MOST} bits per byte."), "",
           "| method | rate | unseen paraphrases | other text, bits per byte |", "|---|---|---|---|"]
    out += [f"| {NAMES[c['method']]} | {c['rate']:g}{' (taken)' if rates[c['method']] == c['rate'] else ''} | "
            f"{c['held_out_after']:.1%} | {rise(c):+.4f} |" for c in sweep]
    out += ["", "| facts | method | seeds | taught questions | unseen paraphrases, before | after | other text, before "
            "| change | numbers that could move | rows | bytes | seconds |", "|" + "---|" * 12]
    for count in (200, 1000):
        for method in RATES:
            of = [c for c in final if c["count"] == count and c["method"] == method]
            if not of:
                continue
            first = of[0]
            out.append(
                f"| {count} | {NAMES[method]} | {len(of)} | {spread([c['trained_after'] for c in of], '.1%')} | "
                f"{spread([c['held_out_before'] for c in of], '.1%')} | "
                f"{spread([c['held_out_after'] for c in of], '.1%')} | {first['bpb_before']:.4f} | "
                f"{spread([rise(c) for c in of], '+.4f')} | {first['numbers']:,} | "
                f"{first['rows'] if method == 'table' else '-'} | {first['bytes']:,} | "
                f"{spread([c['seconds'] for c in of], '.0f')} |")
    return "\n".join(out) + "\n"


def main():
    parser = arguments("teaching facts to hydra-nano", threads=2)
    parser.add_argument("--model", default="runs/demo/model")
    parser.add_argument("--data", default="data/demo")
    args = parser.parse_args()
    need(args.model, "make demo")
    hydralm = built(args.build)
    sweep = [teach(hydralm, args, method, rate, 200, 0) for method in RATES for rate in RATES[method]]
    rates = {method: best([c for c in sweep if c["method"] == method])["rate"] for method in RATES}
    final = [teach(hydralm, args, method, rates[method], count, seed)
             for count, seeds in ((200, (1, 2, 3)), (1000, (1,))) for seed in seeds for method in RATES]
    about = {"command": " ".join(["bench/teach.py", *sys.argv[1:]])}
    out = Path(args.out) / machine_folder()
    out.mkdir(parents=True, exist_ok=True)
    (out / "teach.md").write_text(markdown(sweep, rates, final, args, about))
    print(out / "teach.md")


if __name__ == "__main__":
    main()
