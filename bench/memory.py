# SPDX-License-Identifier: Apache-2.0
# The peak memory of `hydralm generate` over a full context beside what `hydralm inspect` promises: SmolLM2 in Q4_1, Q8_0 and
# bf16, and models that are named. The pages of the program itself (what `hydralm --version` takes) are shared by all that
# run it and left out. Writes bench/results/memory.md. Not here: speed (runtime.py).
# Usage: bench/memory.py BUILD [--model NAME=PATH ...] [--ctx 8192] [--out bench/results]
import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

KEEP = 64  # tokens of the context left for writing


def run(*args):
    made = subprocess.run([str(a) for a in args], capture_output=True, text=True)
    if made.returncode != 0:
        sys.exit(f"{' '.join(map(str, args))}: {made.stderr.strip()}")
    return made.stdout


def peak(*args):
    """Bytes that a command had resident at most."""
    process = subprocess.Popen([str(a) for a in args], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    error = process.stderr.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f"{' '.join(map(str, args))}: {error.strip()}")
    return usage.ru_maxrss * 1024


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


def measure(hydralm, name, model, ctx, program, folder):
    bytes_of = json.loads(run(hydralm, "inspect", "-m", model, "-c", ctx, "--json", "-q"))["bytes"]
    promised = sum(bytes_of[part] for part in ("weights", "state", "kv", "scratch"))
    path, tokens = prompt(hydralm, model, ctx - KEEP, folder)
    had = peak(hydralm, "generate", "-m", model, "-c", ctx, "-f", path, "-n", "16", "--temp", "0", "-q") - program
    print(f"{name}: promised {promised / 2**20:.1f} MiB, had {had / 2**20:.1f}", file=sys.stderr)
    return f"| {name} | {tokens:,} | {promised / 2**20:.1f} | {had / 2**20:.1f} | {had / promised:.3f} |"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", nargs="?", default="build/release")
    parser.add_argument("--model", action="append", default=[])
    parser.add_argument("--ctx", type=int, default=8192)
    parser.add_argument("--out", default="bench/results")
    args = parser.parse_args()
    hydralm = Path(args.build) / "hydralm"
    smollm2 = Path(run("tools/smollm2.sh").strip())
    program = peak(hydralm, "--version")
    with tempfile.TemporaryDirectory() as folder:
        q8, bf16 = Path(folder) / "q8.gguf", Path(folder) / "bf16"
        run(hydralm, "quantize", smollm2, "-o", q8, "--type", "q8_0")
        run(hydralm, "convert", smollm2, "-o", bf16, "--dtype", "bf16")
        models = [("SmolLM2-135M Q4_1", smollm2), ("SmolLM2-135M Q8_0", q8), ("SmolLM2-135M bf16", bf16)]
        models += [tuple(model.split("=", 1)) for model in args.model]
        rows = [measure(hydralm, name, model, args.ctx, program, folder) for name, model in models]
    out = Path(args.out) / "memory.md"
    out.write_text(f"# Peak memory beside what `inspect` promises\n\nOne sequence, -c {args.ctx}, nearly all of it read, commit "
                   f"{run('git', 'rev-parse', '--short', 'HEAD').strip()}. Promised: weights + state + KV + scratch, MiB. Had: the most that "
                   f"was resident, less {program / 2**20:.1f} MiB of the program's own pages. Made by `bench/memory.py`.\n\n"
                   "| model | tokens | promised | had | ratio |\n|---|---|---|---|---|\n" + "\n".join(rows) + "\n")
    print(out)


if __name__ == "__main__":
    main()
