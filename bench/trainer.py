#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What only `hydralm train` itself shows: the share of a step outside forward, backward and optimiser (data, guards,
# logs), and a step of hydra-1.6b on this machine. Real text: the King James Bible. Writes bench/results/trainer.md.
# Not here: speed against peers, memory against length (train_forward.py).
#   bench/trainer.py [BUILD] [--threads 2] [--only TEXT] [--out bench/results]
import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from common import commit, machine, median, peak, prose, run, spread

VOCABULARY = 2048
# (preset, T, rows, steps of a logged mean, logged means, settings); the first logged mean is warm-up
CASES = [("hydra-nano", 512, 2, 20, 6, []), ("hydra-29m", 2048, 1, 4, 4, []), ("transformer-29m", 2048, 1, 4, 4, []),
         ("hydra-1.6b", 2048, 1, 1, 3,
          ['optim.optimizer="adafactor"', "optim.checkpoint_blocks=true", 'model.torch_dtype="bfloat16"'])]


def prepare(hydralm, folder):
    """Shards of the Bible, none held out."""
    text, tokenizer, data = folder / "text.txt", folder / "tokenizer.json", folder / "data"
    text.write_text(run("tools/kjv.sh"))
    run(hydralm, "tokenizer", "train", text, "--vocab", VOCABULARY, "--pattern", "gpt2", "-o", tokenizer)
    run(hydralm, "data", "build", text, "--tokenizer", tokenizer, "--doc-sep", "\f", "--val", 0, "-o", data)
    return data


def measure(hydralm, data, folder, case, threads):
    preset, length, rows, every, means, settings = case
    name = folder / preset
    words = [word for setting in settings for word in ("--set", setting)]
    had = peak(hydralm, "train", "--preset", preset, "--data", data, "--run", name, "--seq-len", length, "--batch",
               rows, "--steps", every * means, "-t", threads, "-q", "--set", f"log.every={every}", "--set",
               "eval.every=0", "--set", "checkpoint.every=0", *words, pause=0.05)
    logged = [json.loads(line) for line in (name / "train.jsonl").read_text().splitlines()][1:]
    shutil.rmtree(name)
    row = {
        "preset": preset, "T": length, "rows": rows, "steps": every * (means - 1), "settings": settings,
        "peak_bytes": had, "step_ms": [r["train/step_ms"] for r in logged],
        "other_ms": [r["train/other_ms"] for r in logged], "loss": [r["train/loss"] for r in logged]}
    print(json.dumps(row), file=sys.stderr)
    return row


def markdown(rows, about):
    lines = [
        "# What a step costs around the model, and a step of hydra-1.6b", "",
        prose(f"{about}. Made by `bench/trainer.py`: `hydralm train` on the King James Bible (tokenizer of "
              f"{VOCABULARY} tokens), fp32, seed 1, one process a row. The first logged mean is left out; figures are "
              "median (min .. max) over the logged means that remain. Other is a step's time outside forward, "
              "backward and optimiser (batch, guards, logs; `train/other_ms`), which has to be below 2%. Peak is the "
              "most that the process had resident, up to and with the end of the run, when it writes the model "
              "folder."), "",
        "| preset | T | rows | steps timed | s a step | tokens/s | other, ms a step | other, % | peak MiB "
        "| loss of the first and last mean |", "|---" * 10 + "|"]
    for r in rows:
        seconds = [ms / 1e3 for ms in r["step_ms"]]
        share = [100 * other / whole for other, whole in zip(r["other_ms"], r["step_ms"])]
        lines.append(f"| {r['preset']} | {r['T']} | {r['rows']} | {r['steps']} | {spread(seconds, 2)} | "
                     f"{r['T'] * r['rows'] / median(seconds):.0f} | {spread(r['other_ms'], 2)} | {spread(share, 2)} | "
                     f"{r['peak_bytes'] / 2**20:,.0f} | {r['loss'][0]:.2f}, {r['loss'][-1]:.2f} |")
    settings = [f"{r['preset']}: " + ", ".join(f"`{s}`" for s in r["settings"]) for r in rows if r["settings"]]
    return "\n".join([*lines, "", *settings, ""])


def main():
    parser = argparse.ArgumentParser(description="time a step of hydralm train, its parts outside the model too")
    parser.add_argument("build", nargs="?", default="build/release")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="presets whose name holds this text")
    parser.add_argument("--out", default="bench/results")
    args = parser.parse_args()
    hydralm = Path(args.build) / "hydralm"
    with tempfile.TemporaryDirectory(dir=".") as name:
        folder = Path(name)
        data = prepare(hydralm, folder)
        rows = [measure(hydralm, data, folder, case, args.threads) for case in CASES if args.only in case[0]]
    out = Path(args.out) / "trainer.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(markdown(rows, f"{machine()}; {args.threads} threads; commit {commit()}"))
    print(out)


if __name__ == "__main__":
    main()
