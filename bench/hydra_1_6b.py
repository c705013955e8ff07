#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# The reference size from end to end on one machine of 24 GB: hydra-1.6b is initialised, trained for a few steps of
# 2,048 tokens, stopped by Ctrl-C, resumed, written as a bf16 folder, quantised, and run: tokens/s, bytes a token, GB/s,
# and peak memory beside what was promised before. Its weights are nearly those of its initialisation: its texts say
# nothing. Writes bench/results/MACHINE/hydra_1_6b.{md,json}. Needs 20 GB of disk for runs/hydra-1.6b, which may be
# removed afterwards, and the texts of quality_model.py. Not here: small models' speed (runtime.py).
#   bench/hydra_1_6b.py [BUILD] [--threads 2] [--rounds 5]
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

from common import Meter, Page, arguments, built, peak, prose, run, spread, steady_words
from quality_model import DATA
from quality_model import prepare as prepare_texts

RUN = Path("runs/hydra-1.6b")
TOKENS, STEPS = 2048, 4
LEAST, MOST = 0.95, 1.0  # had / promised
KINDS = {"bf16": RUN / "model", "Q8_0": RUN / "q8_0.gguf", "Q4_K_M": RUN / "q4_k_m.gguf"}


def resident(pid):
    """The most that a process had so far, in bytes; 0 once it is gone."""
    try:
        with open(f"/proc/{pid}/status") as status:
            return max([0, *(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))])
    except FileNotFoundError:
        return 0


def train(hydralm, args):
    """Two steps and a checkpoint, Ctrl-C, and the rest by the same command."""
    command = [hydralm, "train", "--preset", "hydra-1.6b", "--data", DATA, "--run", RUN, "-t", args.threads, "--steps",
               STEPS, "--set", f"optim.seq_len={TOKENS}", "--set", "optim.batch_rows=1", "--set",
               'optim.optimizer="adafactor"', "--set", "optim.checkpoint_blocks=true", "--set", "optim.warmup_steps=2",
               "--set", "checkpoint.every=2", "--set", "checkpoint.keep=1", "--set", "eval.every=0", "--set",
               f"eval.tokens={TOKENS}", "--set", "eval.part_tokens=0", "--set", "log.every=1"]
    command = [str(word) for word in command]
    promised = json.loads(run(*command, "--dry-run", "--json"))
    made = {"promised_bytes": promised["bytes"]["total"], "parts": promised["bytes"]}
    most, stopped = 0, False
    for attempt in ("first", "resumed"):
        start = time.monotonic()
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            most = max(most, resident(process.pid))
            if attempt == "first" and not stopped and (RUN / "ckpt/step-00000002/DONE").exists():
                process.send_signal(signal.SIGINT)
                stopped = True
            time.sleep(0.05)
        words = process.stderr.read()
        made[attempt] = {"status": process.returncode, "seconds": time.monotonic() - start,
                         "last": words.splitlines()[-3:]}
        if process.returncode not in ((130, 0) if attempt == "first" else (0,)):
            sys.exit(f"{' '.join(command)}: status {process.returncode}: {words}")
    rows = [json.loads(line) for line in (RUN / "train.jsonl").read_text().splitlines()]
    made |= {"had_bytes": most, "losses": [row["train/lm_loss"] for row in rows],
             "step_seconds": [row["train/step_ms"] / 1000 for row in rows],
             "tokens_per_s": [row["train/tok_per_sec"] for row in rows]}
    return made


def infer(hydralm, kind, args, meter):
    model = KINDS[kind]
    if kind != "bf16" and not model.exists():
        run(hydralm, "quantize", KINDS["bf16"], "-o", model, "--type", kind.lower())
    cost = json.loads(run(hydralm, "inspect", "-m", model, "-c", TOKENS, "--json", "-q"))
    promised = sum(cost["bytes"][part] for part in ("weights", "state", "kv", "scratch", "program"))
    text = run(hydralm, "generate", "-m", model, "-p", "In the beginning", "-n", 16, "--temp", 0, "-q", "-t",
               args.threads)
    prompt = RUN / "prompt.txt"
    prompt.write_text((DATA / "text.txt").read_text()[:5000])
    had = peak(hydralm, "generate", "-m", model, "-c", TOKENS, "-f", prompt, "-n", 16, "--temp", 0, "-q")
    speed = [hydralm, "bench", "-m", model, "-t", args.threads, "-p", 512, "-n", 32, "-r", 1, "-o", "json", "-q"]
    rounds = [meter.steady(lambda: json.loads(run(*speed))) for _ in range(args.rounds)]
    of = {what: [row for bench, _ in rounds for row in bench if row[what] > 0] for what in ("p", "n")}
    decode = of["n"][0]
    return {"promised_bytes": promised, "had_bytes": had, "file_bytes": decode["file_bytes"], "text": text,
            "prefill_tokens_per_s": [row["tok_per_s"]["median"] for row in of["p"]],
            "decode_tokens_per_s": [row["tok_per_s"]["median"] for row in of["n"]],
            "bytes_per_token": decode["bytes_per_tok"], "gb_per_s": [row["gb_per_s"] for row in of["n"]],
            "read_gb_per_s": [around["read_gb_per_s"][0] for _, around in rounds],
            "void": any(around["void"] for _, around in rounds)}


def held(row):
    ratio = row["had_bytes"] / row["promised_bytes"]
    return f"{ratio:.3f} ({LEAST} to {MOST:.2f}: {'met' if LEAST <= ratio <= MOST else 'missed'})"


def text(page, args):
    out = ["# hydra-1.6b from end to end", "",
           page.head(f"Adafactor, blocks computed again in the backward pass, one row of {TOKENS:,} tokens a step, "
                     "f32. Peak memory is the most that was resident (VmHWM); promised is what `train --dry-run` and "
                     f"`inspect` said before. {steady_words()}"), ""]
    if trained := page.rows.get("training"):
        out += ["| training | |", "|---|---|",
                f"| losses of the steps, nats a token | {', '.join(f'{loss:.3f}' for loss in trained['losses'])} |",
                f"| seconds a step | {spread(trained['step_seconds'])} |",
                f"| tokens/s | {spread(trained['tokens_per_s'])} |",
                f"| stopped by Ctrl-C with its checkpoint, status | {trained['first']['status']} |",
                f"| the same command went on, status | {trained['resumed']['status']} |",
                f"| promised memory, MiB | {trained['promised_bytes'] / 2**20:,.0f} |",
                f"| had, MiB | {trained['had_bytes'] / 2**20:,.0f} |", f"| had / promised | {held(trained)} |", ""]
    out += ["| | file, MB | decode, tokens/s | MB a token | GB/s | share of the read rate | prefill of 512, tokens/s | "
            "promised, MiB | had, MiB | had / promised |", "|" + "---|" * 10]
    for kind in KINDS:
        if row := page.rows.get(kind):
            read = sum(row["bytes_per_token"].values())
            share = [moved / rate for moved, rate in zip(row["gb_per_s"], row["read_gb_per_s"], strict=True)]
            void = ", void" if row["void"] else ""
            out.append(f"| {kind}{void} | {row['file_bytes'] / 1e6:,.0f} | "
                       f"{spread(row['decode_tokens_per_s'])} | {read / 1e6:,.0f} | {spread(row['gb_per_s'])} | "
                       f"{spread(share, 2)} | {spread(row['prefill_tokens_per_s'])} | "
                       f"{row['promised_bytes'] / 2**20:,.0f} | {row['had_bytes'] / 2**20:,.0f} | {held(row)} |")
    return out + ["", prose("The parameters, FLOPs and bytes of every part, and how they grow with the length: "
                            "`hydralm inspect --preset hydra-1.6b --report hydra-1.6b.html`.")]


def main():
    args = arguments("hydra-1.6b from end to end", rounds=5, threads=2).parse_args()
    hydralm = built(args.build)
    prepare_texts(hydralm)
    meter = Meter(hydralm, args)
    page = Page("hydra_1_6b", args, ["training", *KINDS], lambda page: text(page, args))
    page.measure(lambda key: train(hydralm, args) if key == "training" else infer(hydralm, key, args, meter))


if __name__ == "__main__":
    main()
