# SPDX-License-Identifier: Apache-2.0
# What the runtime and its quantised weights cost in quality: bits per byte of the demo's model on held-out chapters in
# LibTorch, in the runtime and as Q8_0; perplexity of a transformer-29m trained for a few minutes, as bf16, Q8_0, Q4_0,
# Q4_1 and q4_k_m; SmolLM2 against llama.cpp on 50,176 tokens. Writes bench/results/quality.md and .json.
# Not here: speed (runtime.py). Needs `make demo` to have run.
# Usage: bench/quality.py [BUILD] [--documents 20] [--steps 200] [--out bench/results]
import argparse
import json
import math
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

DEMO, DATA = Path("runs/demo/model"), Path("data/demo")


def run(*args, **options):
    made = subprocess.run([str(a) for a in args], capture_output=True, **options)
    if made.returncode != 0:
        sys.exit(f"{' '.join(map(str, args))[:300]}: {made.stderr.decode().strip()}")
    return made.stdout


def held_out(count):
    """Ids of the first documents of the held-out shard (specs/interfaces.md 2)."""
    shard = sorted(DATA.glob("val-*.tok"))[0].read_bytes()
    token_bytes, n_tokens, n_docs = struct.unpack_from("<IQQ", shard, 12)
    tokens_at, ends_at = struct.unpack_from("<QQ", shard, 72)
    ids = np.frombuffer(shard, {2: "<u2", 4: "<u4"}[token_bytes], n_tokens, tokens_at)
    ends = np.frombuffer(shard, "<u8", n_docs, ends_at)
    starts = [0, *ends[:-1]]
    return [ids[a:b].tolist() for a, b in list(zip(starts, ends))[:count]]


def bits_per_byte(hydralm, model, documents, lengths, *flags):
    nats = 0.0
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/logits.npy"
        for ids in documents:
            run(hydralm, "logits", "-m", model, "--ids", ",".join(map(str, ids)), "-o", out, *flags)
            rows = np.load(out).astype(np.float64)[:-1]
            top = rows.max(1, keepdims=True)
            log_sum = (top + np.log(np.exp(rows - top).sum(1, keepdims=True)))[:, 0]
            nats += float((log_sum - rows[np.arange(len(ids) - 1), ids[1:]]).sum())
    return nats / math.log(2) / sum(lengths)


def perplexity(hydralm, model, text, *flags):
    return json.loads(run(hydralm, "bench", "-m", model, "--ppl", text, "-o", "json", "-q",
                          *flags))[0]["perplexity"]["value"]


def train_transformer(hydralm, steps, folder):
    run_folder = folder / "transformer"
    run(hydralm, "train", "-C", "examples/nano.toml", "--data", DATA, "--run", run_folder, "-q", "--set",
        "model.preset=transformer-29m", "--set", f"optim.tokens={steps * 1024}", "--set", "optim.lr=1e-3", "--set",
        "eval.every=0")
    return run_folder / "model"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("build", nargs="?", default="build/release")
    parser.add_argument("--documents", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", default="bench/results")
    args = parser.parse_args()
    hydralm = Path(args.build) / "hydralm"
    rows = []

    def add(what, value, base=None, bar=""):
        change = None if base is None else value / base - 1
        rows.append({"what": what, "value": value, "change": change, "bar": bar})
        print(what, value, "" if change is None else f"{100 * change:+.3f}%", file=sys.stderr)

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        documents = held_out(args.documents)
        # Bytes of the predicted tokens: all of a document but its first.
        tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
        lengths = [len(tokenizer.decode(ids[1:], skip_special_tokens=True).encode()) for ids in documents]
        torch = bits_per_byte(hydralm, DEMO, documents, lengths, "--engine", "torch")
        add("hydra-nano of the demo, LibTorch, bits per byte", torch)
        add("the same in the runtime, f32 keys", bits_per_byte(hydralm, DEMO, documents, lengths, "--kv-dtype", "f32"),
            torch, "1e-4 bits")
        q8 = folder / "nano-q8_0.gguf"
        run(hydralm, "quantize", DEMO, "-o", q8, "--type", "q8_0")
        add("the same as Q8_0, f32 activations", bits_per_byte(hydralm, q8, documents, lengths, "--kv-dtype", "f32"),
            torch, "0.5%")
        text = folder / "text.txt"
        text.write_text("".join(tokenizer.decode(ids[:-1], skip_special_tokens=True) for ids in documents))
        base = perplexity(hydralm, DEMO, text)
        add("hydra-nano, perplexity in pieces of 512, f32", base)
        add("the same as Q8_0 with int8 activations", perplexity(hydralm, q8, text), base, "0.5%")

        model = train_transformer(hydralm, args.steps, folder)
        base = perplexity(hydralm, model, text)
        add(f"transformer-29m after {args.steps} steps, perplexity in pieces of 512, f32 activations", base)
        for kind, bar in (("q8_0", "0.5%"), ("q4_k_m", "3%"), ("q4_0", ""), ("q4_1", "")):
            file = folder / f"transformer-{kind}.gguf"
            run(hydralm, "quantize", model, "-o", file, "--type", kind)
            add(f"the same as {kind} with int8 activations", perplexity(hydralm, file, text), base, bar)

        golden = json.loads(Path("tests/golden/smollm2.json").read_text())["perplexity"][1]
        smollm2 = run("tools/smollm2.sh").decode().strip()
        bible = folder / "bible.txt"
        bible.write_bytes(run("tools/kjv.sh")[:600_000])
        ids = run(hydralm, "tokenizer", "encode", "-m", smollm2, bible).split()[:golden["tokens"] + 64]
        bible.write_bytes(run(hydralm, "tokenizer", "decode", "-m", smollm2, input=b" ".join(ids)))
        add(f"SmolLM2-135M Q4_1, llama.cpp, perplexity of {golden['tokens']} tokens", golden["value"])
        add("the same in the runtime, int8 activations", perplexity(hydralm, smollm2, bible), golden["value"], "0.5%")
        add("the same in the runtime, f32 activations", perplexity(hydralm, smollm2, bible, "--act", "f32"),
            golden["value"], "0.5%")

    commit = run("git", "rev-parse", "--short", "HEAD").decode().strip()
    lines = [
        "# Quality of the runtime and of quantised weights", "",
        f"Commit {commit}; the demo's model, {args.documents} held-out chapters ({sum(len(d) for d in documents):,} "
        "tokens, seed 1).", "Made by `bench/quality.py` after `make demo`.", "",
        "| what | value | change | bar |", "|---|---|---|---|"]
    lines += [
        f"| {r['what']} | {r['value']:.6f} | " + ("" if r["change"] is None else f"{100 * r['change']:+.4f}%") +
        f" | {r['bar']} |" for r in rows]
    out = Path(args.out)
    (out / "quality.json").write_text(json.dumps(rows, indent=1) + "\n")
    (out / "quality.md").write_text("\n".join(lines) + "\n")
    print(out / "quality.md")


if __name__ == "__main__":
    main()
