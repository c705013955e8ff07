#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What only `hydralm train` itself shows: the share of a step outside forward, backward and optimiser (data, guards,
# logs), and a step of hydra-1.6b on this machine. Real text: the King James Bible. Writes
# bench/results/MACHINE/trainer.{md,json}. Not here: speed against peers, memory against length (train_forward.py).
#   bench/trainer.py [BUILD] [--rounds 5] [--tries 3] [--threads 2] [--only TEXT] [--out bench/results]
import json
import shutil
import sys
import tempfile
from pathlib import Path

from common import Meter, Page, arguments, built, median, peak, prose, run, spread, steady_words, verdict

VOCABULARY = 2048
OTHER_GOAL = 2.0  # percent of a step
# preset -> T, rows, steps of a logged mean, settings
CASES = {
    "hydra-nano": (512, 2, 20, []),
    "hydra-29m": (2048, 1, 4, []),
    "transformer-29m": (2048, 1, 4, []),
    "hydra-1.6b": (2048, 1, 1, ['optim.optimizer="adafactor"', "optim.checkpoint_blocks=true",
                                'model.torch_dtype="bfloat16"'])}


def prepare(hydralm, folder):
    """Shards of the Bible, none held out."""
    text, tokenizer, data = folder / "text.txt", folder / "tokenizer.json", folder / "data"
    text.write_text(run("tools/kjv.sh"))
    run(hydralm, "tokenizer", "train", text, "--vocab", VOCABULARY, "--pattern", "gpt2", "-o", tokenizer)
    run(hydralm, "data", "build", text, "--tokenizer", tokenizer, "--doc-sep", "\f", "--val", 0, "-o", data)
    return data


def train(preset, hydralm, data, folder, args):
    """One run: a logged mean of warm-up, then one for each of --rounds."""
    length, rows, every, settings = CASES[preset]
    name = folder / preset
    words = [word for setting in settings for word in ("--set", setting)]
    had = peak(hydralm, "train", "--preset", preset, "--data", data, "--run", name, "--seq-len", length, "--batch",
               rows, "--steps", every * (args.rounds + 1), "-t", args.threads, "-q", "--set", f"log.every={every}",
               "--set", "eval.every=0", "--set", "checkpoint.every=0", *words, pause=0.05)
    logged = [json.loads(line) for line in (name / "train.jsonl").read_text().splitlines()][1:]
    shutil.rmtree(name)
    return {
        "T": length, "rows": rows, "steps": every * args.rounds, "settings": settings, "peak_bytes": had,
        "step_ms": [r["train/step_ms"] for r in logged], "other_ms": [r["train/other_ms"] for r in logged],
        "loss": [r["train/loss"] for r in logged]}


def row_line(preset, row):
    seconds = [ms / 1e3 for ms in row["step_ms"]]
    share = [100 * other / whole for other, whole in zip(row["other_ms"], row["step_ms"])]
    return (f"| {preset} | {row['T']} | {row['rows']} | {row['steps']} | {spread(seconds, 2)} | "
            f"{row['T'] * row['rows'] / median(seconds):.0f} | {spread(row['other_ms'], 2)} | {spread(share, 2)} | "
            f"{verdict(share, OTHER_GOAL, row['void'], most=True)} | {row['peak_bytes'] / 2**20:,.0f} | "
            f"{row['loss'][0]:.2f}, {row['loss'][-1]:.2f} |")


def text(page):
    settings = [f"{preset}: " + ", ".join(f"`{s}`" for s in row["settings"])
                for preset, row in page.rows.items() if row["settings"]]
    return [
        "# What a step costs around the model, and a step of hydra-1.6b", "",
        page.head(f"`hydralm train` on the King James Bible (tokenizer of {VOCABULARY} tokens), fp32, seed 1, one "
                  "process a row. A round is a logged mean; the first one is warm-up and is left out. Figures are "
                  "median (min .. max). " + steady_words("process", arithmetic=True)), "",
        prose("Other is a step's time outside forward, backward and optimiser (batch, guards, logs; "
              "`train/other_ms`). Peak is the most that the process had resident, up to and with the end of the run, "
              "when it writes the model folder."), "",
        "| preset | T | rows | steps timed | s a step | tokens/s | other, ms a step | other, % | goal | peak MiB "
        "| loss of the first and last mean |", "|---" * 11 + "|",
        *(row_line(preset, row) for preset, row in page.rows.items()), "", *settings]


def main():
    args = arguments("time a step of hydralm train, its parts outside the model too", rounds=5, threads=2).parse_args()
    hydralm = built(args.build)
    meter = Meter(hydralm, args, arithmetic=True)
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        data = prepare(hydralm, folder)

        def measure(preset):
            made, note = meter.steady(lambda: train(preset, hydralm, data, folder, args))
            print(f"{preset}: {spread(made['step_ms'])} ms{' (void)' if note['void'] else ''}", file=sys.stderr)
            return {**made, **note}

        Page("trainer", args, list(CASES), text).measure(measure)


if __name__ == "__main__":
    main()
