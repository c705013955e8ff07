#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# The peak memory of `hydralm generate` over a full context, all its pages counted, beside what `hydralm inspect`
# promises: SmolLM2 in Q4_1, Q8_0 and bf16, and the demo's model. Writes bench/results/MACHINE/memory.{md,json}. Needs
# `make demo` to have run. Not here: speed (runtime.py).
#   bench/memory.py [BUILD] [--ctx 8192] [--only TEXT] [--out bench/results]
import json
import sys
import tempfile
from pathlib import Path

from common import Page, arguments, built, need, peak, run, verdict

DEMO, NANO = Path("runs/demo/model"), "hydra-nano of make demo"
KEEP = 64  # tokens of the context left for writing
GOAL = 1.02  # had / promised, at most


def prompt(hydralm, model, tokens, folder):
    """A file of just under so many tokens."""
    words = ["river", "stone", "light", "seven", "garden", "winter", "paper", "signal"]
    path = Path(folder) / "prompt.txt"
    text = " ".join(words[(i * i + i // 3) % len(words)] for i in range(2 * tokens))
    while True:
        path.write_text(text)
        count = len(run(hydralm, "tokenizer", "encode", "-m", model, path).split())
        if count <= tokens:
            return path, count
        text = text[:len(text) * tokens // count - 8]


def models(hydralm, folder):
    smollm2 = Path(run("tools/smollm2.sh").strip())
    q8, bf16 = folder / "q8.gguf", folder / "bf16"
    run(hydralm, "quantize", smollm2, "-o", q8, "--type", "q8_0")
    run(hydralm, "convert", smollm2, "-o", bf16, "--dtype", "bf16")
    return {"SmolLM2-135M Q4_1": smollm2, "SmolLM2-135M Q8_0": q8, "SmolLM2-135M bf16": bf16, NANO: DEMO}


def measure(hydralm, model, ctx, folder):
    bytes_of = json.loads(run(hydralm, "inspect", "-m", model, "-c", ctx, "--json", "-q"))["bytes"]
    promised = sum(bytes_of[part] for part in ("weights", "state", "kv", "scratch", "program"))
    path, tokens = prompt(hydralm, model, ctx - KEEP, folder)
    had = peak(hydralm, "generate", "-m", model, "-c", ctx, "-f", path, "-n", "16", "--temp", "0", "-q")
    print(f"{model}: promised {promised / 2**20:.1f} MiB, had {had / 2**20:.1f}", file=sys.stderr)
    return {"tokens": tokens, "promised_bytes": promised, "had_bytes": had}


def row_line(name, row):
    promised, had = row["promised_bytes"], row["had_bytes"]
    return (f"| {name} | {row['tokens']:,} | {promised / 2**20:.1f} | {had / 2**20:.1f} | {had / promised:.3f} | "
            f"{verdict([had / promised], GOAL, void=False, most=True)} |")


def text(page, ctx):
    return [
        "# Peak memory beside what `inspect` promises", "",
        page.head(f"One sequence that fills nearly all of -c {ctx}. Promised is the sum of weights, state, KV, scratch "
                  "and program (code, libraries, tokenizer) in MiB. Had is the most that was resident (VmHWM)."), "",
        "| model | tokens | promised | had | ratio | goal |", "|---" * 6 + "|",
        *(row_line(name, row) for name, row in page.rows.items())]


def main():
    parser = arguments("peak memory of a full context beside what hydralm inspect promises")
    parser.add_argument("--ctx", type=int, default=8192)
    args = parser.parse_args()
    if args.only in NANO:
        need(DEMO, "make demo")
    hydralm = built(args.build)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        named = models(hydralm, folder)
        page = Page("memory", args, list(named), lambda page: text(page, args.ctx))
        page.measure(lambda key: measure(hydralm, named[key], args.ctx, folder))


if __name__ == "__main__":
    main()
