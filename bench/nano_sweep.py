#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What the architecture costs or gains in quality: hydra-nano and its transformer control of equal parameters on the
# same tokens, each with its own best learning rate of one small sweep. The King James Bible is cut in three: rates are
# chosen (seed 0) on tuning chapters, the figures (seeds 1, 2, 3) are of test chapters that nothing was chosen on.
# Writes bench/results/MACHINE/nano_sweep.{md,json}.
# A run that is finished is not done again: remove runs/sweep to start anew. Not here: speed (train_forward.py).
#   bench/nano_sweep.py [BUILD] [--tokens 1150000] [--rates 1e-3,2e-3,4e-3,8e-3] [--seeds 1,2,3] [--jobs 2]
#                       [--set KEY=VALUE ..] [--out bench/results]
import argparse
import json
import shutil
import statistics
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import commit, machine, machine_folder, prose, run

PRESETS = ["hydra-nano", "transformer-nano"]
TUNING, TEST, EVERY = 7, 13, 20  # document i is for tuning where i % 20 == 7, for the test where i % 20 == 13
VOCABULARY = 2048


def prepare(hydralm, folder):
    """folder/{train,tuning,test}: shards of the three parts, one tokenizer trained on the first."""
    if (folder / "test/data.json").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    documents = run("tools/kjv.sh").split("\f")
    parts = {"train": [d for i, d in enumerate(documents) if i % EVERY not in (TUNING, TEST)],
             "tuning": [d for i, d in enumerate(documents) if i % EVERY == TUNING],
             "test": [d for i, d in enumerate(documents) if i % EVERY == TEST]}
    for name, part in parts.items():
        (folder / f"{name}.txt").write_text("\f".join(part))
        if name == "train":
            run(hydralm, "tokenizer", "train", folder / "train.txt", "--vocab", VOCABULARY, "--pattern", "gpt2", "-o",
                folder / "tokenizer.json")
        run(hydralm, "data", "build", folder / f"{name}.txt", "--tokenizer", folder / "tokenizer.json", "--doc-sep",
            "\f", "--val", 0, "-o", folder / name)


def train(hydralm, folder, preset, rate, seed, part, args):
    """Trains once, or takes a finished run of the same settings and sources; bits per byte on one held-out part."""
    name = folder / f"{preset}-{rate:g}-{args.tokens}-{seed}"
    result = name / "sweep.json"
    settings = [word for setting in args.set for word in ("--set", setting)]
    wanted = {"preset": preset, "lr": rate, "seed": seed, "part": part, "settings": settings, "commit": commit()}
    if result.exists() and (made := json.loads(result.read_text())).items() >= wanted.items():
        return made
    shutil.rmtree(name, ignore_errors=True)
    start = time.time()
    run(hydralm, "train", "-C", "examples/nano.toml", "--data", folder / "train", "--run", name, "-q", "-t",
        args.threads, "--set", f"model.preset={preset}", "--set", f"optim.tokens={args.tokens}", "--set",
        f"optim.lr={rate}", "--set", f"optim.seed={seed}", "--set", "eval.every=0", "--set", "checkpoint.every=0",
        *settings)
    seconds = time.time() - start
    scored = json.loads(
        run(hydralm, "eval", "-m", name / "model", "--data", folder / part, "--split", "train", "-t", args.threads,
            "--json"))
    made = {**wanted, "seconds": seconds, "bits_per_byte": scored["bits_per_byte"]}
    result.write_text(json.dumps(made) + "\n")
    print(f"{preset} lr {rate:g} seed {seed}: {part} {made['bits_per_byte']:.4f} bits per byte, {seconds:.0f} s",
          file=sys.stderr)
    return made


def markdown(sweep, final, best, args, about):
    out = [
        "# Bits per byte of hydra-nano and its control", "",
        prose(f"{about['machine']}; commit {about['commit']}; {args.tokens:,} tokens of the King James Bible, "
              f"vocabulary {VOCABULARY}, rows and schedule of "
              "examples/nano.toml" + "".join(f", {each}" for each in args.set) +
              f"; {args.jobs} runs at a time, {args.threads} thread each. Made by `{about['command']}`. The learning "
              "rates were chosen on tuning chapters with seed 0. The test chapters were read once, for the second "
              "table."),
        "", "| learning rate | " + " | ".join(f"{p}, tuning" for p in PRESETS) + " |",
        "|---|" + "---|" * len(PRESETS)]
    for rate in args.rates:
        cells = [
            f"{r['bits_per_byte']:.4f}" + (" (best)" if best[p] == rate else "")
            for p in PRESETS
            for r in sweep
            if r["preset"] == p and r["lr"] == rate]
        out.append(f"| {rate:g} | " + " | ".join(cells) + " |")
    out += [
        "", "| model | learning rate | seeds | test bits per byte, mean (min .. max) | seconds of a run |",
        "|---|---|---|---|---|"]
    for p in PRESETS:
        scores = [r["bits_per_byte"] for r in final if r["preset"] == p]
        seconds = statistics.median(r["seconds"] for r in final if r["preset"] == p)
        out.append(f"| {p} | {best[p]:g} | {', '.join(str(s) for s in args.seeds)} | {statistics.mean(scores):.4f} "
                   f"({min(scores):.4f} .. {max(scores):.4f}) | {seconds:.0f} |")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description="bits per byte of hydra-nano and its transformer control")
    parser.add_argument("build", nargs="?", default="build/release")
    parser.add_argument("--tokens", type=int, default=1_150_000)
    parser.add_argument("--rates", type=lambda text: [float(x) for x in text.split(",")],
                        default=[1e-3, 2e-3, 4e-3, 8e-3])
    parser.add_argument("--seeds", type=lambda text: [int(x) for x in text.split(",")], default=[1, 2, 3])
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--set", action="append", default=[],
                        help="a setting of both models' runs, such as optim.batch_rows=4")
    parser.add_argument("--folder", default="runs/sweep")
    parser.add_argument("--out", default="bench/results")
    args = parser.parse_args()
    hydralm, folder = Path(args.build) / "hydralm", Path(args.folder)
    prepare(hydralm, folder)
    with ThreadPoolExecutor(args.jobs) as pool:
        sweep = list(
            pool.map(lambda case: train(hydralm, folder, *case, 0, "tuning", args),
                     [(p, rate) for rate in args.rates for p in PRESETS]))
        best = {p: min((r for r in sweep if r["preset"] == p), key=lambda r: r["bits_per_byte"])["lr"] for p in PRESETS}
        final = list(
            pool.map(lambda case: train(hydralm, folder, *case, "test", args),
                     [(p, best[p], seed) for seed in args.seeds for p in PRESETS]))
    about = {"machine": machine(), "commit": commit(), "command": " ".join(["bench/nano_sweep.py", *sys.argv[1:]])}
    out = Path(args.out) / machine_folder()
    out.mkdir(parents=True, exist_ok=True)
    made = {**about, "tokens": args.tokens, "sweep": sweep, "final": final}
    (out / "nano_sweep.json").write_text(json.dumps(made, indent=1) + "\n")
    (out / "nano_sweep.md").write_text(markdown(sweep, final, best, args, about))
    print(out / "nano_sweep.md")


if __name__ == "__main__":
    main()
