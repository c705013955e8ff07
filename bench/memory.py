# SPDX-License-Identifier: Apache-2.0
# The peak memory of `hydralm generate` over a full context, all its pages counted, beside what `hydralm inspect`
# promises: SmolLM2 in Q4_1, Q8_0 and bf16, and the demo's model where there is one. Writes bench/results/memory.md.
# Not here: speed (runtime.py).
# Usage: bench/memory.py [BUILD] [--ctx 8192] [--out bench/results]
import argparse
import json
import sys
import tempfile
from pathlib import Path

from common import commit, machine, peak, prose, run

DEMO = Path("runs/demo/model")
KEEP = 64  # tokens of the context left for writing


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


def measure(hydralm, name, model, ctx, folder):
    bytes_of = json.loads(run(hydralm, "inspect", "-m", model, "-c", ctx, "--json", "-q"))["bytes"]
    promised = sum(bytes_of[part] for part in ("weights", "state", "kv", "scratch", "program"))
    path, tokens = prompt(hydralm, model, ctx - KEEP, folder)
    had = peak(hydralm, "generate", "-m", model, "-c", ctx, "-f", path, "-n", "16", "--temp", "0", "-q")
    print(f"{name}: promised {promised / 2**20:.1f} MiB, had {had / 2**20:.1f}", file=sys.stderr)
    return f"| {name} | {tokens:,} | {promised / 2**20:.1f} | {had / 2**20:.1f} | {had / promised:.3f} |"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", nargs="?", default="build/release")
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--out", default="bench/results")
    args = parser.parse_args()
    hydralm = Path(args.build) / "hydralm"
    smollm2 = Path(run("tools/smollm2.sh").strip())
    with tempfile.TemporaryDirectory() as folder:
        q8, bf16 = Path(folder) / "q8.gguf", Path(folder) / "bf16"
        run(hydralm, "quantize", smollm2, "-o", q8, "--type", "q8_0")
        run(hydralm, "convert", smollm2, "-o", bf16, "--dtype", "bf16")
        models = [("SmolLM2-135M Q4_1", smollm2), ("SmolLM2-135M Q8_0", q8), ("SmolLM2-135M bf16", bf16)]
        if DEMO.exists():
            models.append(("hydra-nano of make demo", DEMO))
        rows = [measure(hydralm, name, model, args.ctx, folder) for name, model in models]
    out = Path(args.out) / "memory.md"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(
        "# Peak memory beside what `inspect` promises\n\n" +
        prose(f"One sequence that fills nearly all of -c {args.ctx}; {machine()}; commit {commit()}. Made by "
              "`bench/memory.py`. Promised is the sum of weights, state, KV, scratch and program (code, libraries, "
              "tokenizer) in MiB. Had is the most that was resident (VmHWM).") + "\n\n"
        "| model | tokens | promised | had | ratio |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n")
    print(out)


if __name__ == "__main__":
    main()
