#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What the runtime and its quantised weights cost in quality. The formats are judged on a Llama-type model that was
# trained for this (quality_model.py), by held-out text, with llama.cpp's quantiser beside ours; the runtime is compared
# with LibTorch on the demo's model and with llama.cpp on SmolLM2. Writes bench/results/MACHINE/quality.{md,json}. Not
# here: speed (runtime.py). Needs `make demo` and bench/quality_model.py to have run.
#   bench/quality.py [BUILD] [--documents 20] [--only TEXT] [--out bench/results]
import json
import math
import struct
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Page, arguments, built, need, prose, run
from quality_model import PACKAGES
from tokenizers import Tokenizer

DEMO, DEMO_DATA = Path("runs/demo/model"), Path("data/demo")
JUDGED, JUDGED_DATA, JUDGED_RUN = Path("runs/quality/model"), Path("data/quality"), Path("runs/quality")
# Format -> its name in llama-quantize and the highest change of the perplexity
FORMATS = {"q8_0": ("Q8_0", 0.005), "q4_k_m": ("Q4_K_M", 0.03), "q4_1": ("Q4_1", None), "q4_0": ("Q4_0", None)}
ENGINES, SMOLLM2 = "runtime and LibTorch", "runtime and llama.cpp"
BIT_GOAL = 1e-4  # bits per byte between the runtime and LibTorch
SHARE_GOAL = 0.005


def held_out(data, count=None):
    """Ids of the first documents of the held-out shard (specs/interfaces.md 2), or of all."""
    shard = sorted(data.glob("val-*.tok"))[0].read_bytes()
    token_bytes, n_tokens, n_docs = struct.unpack_from("<IQQ", shard, 12)
    tokens_at, ends_at = struct.unpack_from("<QQ", shard, 72)
    ids = np.frombuffer(shard, {2: "<u2", 4: "<u4"}[token_bytes], n_tokens, tokens_at)
    ends = np.frombuffer(shard, "<u8", n_docs, ends_at)
    starts = [0, *ends[:-1]]
    return [ids[a:b].tolist() for a, b in list(zip(starts, ends))[:count]]


def text_of(model, documents):
    """Their characters, without the token that ends each."""
    tokenizer = Tokenizer.from_file(str(model / "tokenizer.json"))
    return "".join(tokenizer.decode(ids[:-1], skip_special_tokens=True) for ids in documents)


def bits_per_byte(hydralm, model, documents, *flags):
    tokenizer = Tokenizer.from_file(str(DEMO / "tokenizer.json"))
    # Bytes of the predicted tokens: all of a document but its first.
    size = sum(len(tokenizer.decode(ids[1:], skip_special_tokens=True).encode()) for ids in documents)
    nats = 0.0
    with tempfile.TemporaryDirectory() as folder:
        out = f"{folder}/logits.npy"
        for ids in documents:
            run(hydralm, "logits", "-m", model, "--ids", ",".join(map(str, ids)), "-o", out, *flags)
            rows = np.load(out).astype(np.float64)[:-1]
            top = rows.max(1, keepdims=True)
            log_sum = (top + np.log(np.exp(rows - top).sum(1, keepdims=True)))[:, 0]
            nats += float((log_sum - rows[np.arange(len(ids) - 1), ids[1:]]).sum())
    return nats / math.log(2) / size


class Rows:
    """What is measured for each key of the page."""

    def __init__(self, args, folder):
        self.args, self.folder, self.hydralm = args, folder, built(args.build)
        self.quantiser = Path(run("bench/peers/ggml.sh", "llama_cpp").strip()) / "llama-quantize"

    def perplexity(self, model, text, *flags):
        """In pieces of 512 tokens, the second half of each."""
        return json.loads(run(self.hydralm, "bench", "-m", model, "--ppl", text, "-o", "json", "-q",
                              *flags))[0]["perplexity"]

    def measure(self, key):
        made = {ENGINES: self.engines, SMOLLM2: self.smollm2}.get(key, lambda: self.judge(key))()
        print(key, json.dumps(made), file=sys.stderr)
        return made

    def judge(self, kind):
        """One format, by our quantiser and by llama.cpp's, run here with int8 and with f32 activations."""
        need(JUDGED, "bench/quality_model.py")
        text, whole = self.folder / "held-out.txt", self.folder / "f32.gguf"
        if not whole.exists():
            text.write_text(text_of(JUDGED, held_out(JUDGED_DATA)))
            run(self.hydralm, "convert", JUDGED, "-o", whole)
        ours, theirs = self.folder / f"ours-{kind}.gguf", self.folder / f"theirs-{kind}.gguf"
        run(self.hydralm, "quantize", JUDGED, "-o", ours, "--type", kind)
        run(self.quantiser, whole, theirs, FORMATS[kind][0])
        base = self.perplexity(whole, text)
        row = {"base": base["value"], "tokens": base["tokens"], "bytes": [ours.stat().st_size, theirs.stat().st_size],
               "goal": FORMATS[kind][1]}
        for act in ("q8", "f32"):
            row[act] = [self.perplexity(path, text, "--act", act)["value"] for path in (ours, theirs)]
        return row

    def engines(self):
        need(DEMO, "make demo")
        documents = held_out(DEMO_DATA, self.args.documents)
        q8 = self.folder / "demo-q8_0.gguf"
        run(self.hydralm, "quantize", DEMO, "-o", q8, "--type", "q8_0")
        return {"tokens": sum(map(len, documents)),
                "torch": bits_per_byte(self.hydralm, DEMO, documents, "--engine", "torch"),
                "runtime": bits_per_byte(self.hydralm, DEMO, documents, "--kv-dtype", "f32"),
                "q8_0": bits_per_byte(self.hydralm, q8, documents, "--kv-dtype", "f32")}

    def smollm2(self):
        golden = json.loads(Path("tests/golden/smollm2.json").read_text())["perplexity"][1]
        model, text = run("tools/smollm2.sh").strip(), self.folder / "bible.txt"
        text.write_text(run("tools/kjv.sh")[:600_000])
        ids = run(self.hydralm, "tokenizer", "encode", "-m", model, text).split()[:golden["tokens"] + 64]
        text.write_text(run(self.hydralm, "tokenizer", "decode", "-m", model, input=" ".join(ids)))
        return {"tokens": golden["tokens"], "llama_cpp": golden["value"],
                **{act: self.perplexity(model, text, "--act", act)["value"] for act in ("q8", "f32")}}


def change(value, base, goal=None):
    """+0.12%, and whether that is within the goal."""
    share = value / base - 1
    words = "" if goal is None else f" (<= {goal:.1%}: {'met' if share <= goal else 'missed'})"
    return f"{share:+.3%}{words}"


def format_line(kind, row):
    ours, theirs = row["bytes"]
    base = row["base"]
    cells = " | ".join(f"{mine:.4f}, {change(mine, base, row['goal'])} | {other:.4f}, {change(other, base)}"
                       for mine, other in (row["q8"], row["f32"]))
    return f"| {kind} | {ours / 1e6:.2f}, {theirs / 1e6:.2f} | {cells} |"


def packages_words():
    """Debian's packages of the corpus, with their versions where quality_model.py wrote these down."""
    path = JUDGED_DATA / "packages.json"
    versions = json.loads(path.read_text()) if path.exists() else dict.fromkeys(PACKAGES)
    words = [f"{name} {version}" if version else name for name, version in versions.items()]
    return f"{', '.join(words[:-1])} and {words[-1]}" + ("" if path.exists() else " (versions not written down)")


def formats_text(rows):
    """The part on formats: rows of (format, what was measured)."""
    if not rows:
        return []
    first = rows[0][1]
    trained_at = json.loads((JUDGED_RUN / "env.json").read_text())["commit"][:7]
    trained = [json.loads(line) for line in (JUDGED_RUN / "train.jsonl").read_text().splitlines()]
    corpus = json.loads((JUDGED_DATA / "data.json").read_text())
    held = [json.loads(line) for line in (JUDGED_RUN / "val.jsonl").read_text().splitlines()]
    return [
        "", "## Formats", "",
        prose("The model is examples/llama-6m.toml (rows of 256 and 768 numbers), trained by bench/quality_model.py "
              f"({'last started at commit ' + trained_at if trained_at else 'its commit was not written down'}) on "
              f"{trained[-1]['tokens']:,} tokens, drawn from {corpus['train']['tokens']:,} of the King James Bible and "
              f"of Debian's packages {packages_words()}. At the end it had "
              f"{held[-1]['val/bpb']:.3f} bits per byte on held-out documents. Its own weights in f32 have a "
              f"perplexity of {first['base']:.4f} ({first['tokens']:,} tokens scored: all held-out documents, in "
              "pieces of 512 of which the second half counts). Each format is made by `hydralm quantize` and by "
              "`llama-quantize` from the same f32 weights, and both files run here, with int8 and with f32 "
              "activations. A change is that of the perplexity from f32."), "",
        "| format | MB: ours, llama.cpp's | int8 activations: ours | llama.cpp's file | f32 activations: ours | "
        "llama.cpp's file |", "|---" * 6 + "|", *(format_line(kind, row) for kind, row in rows)]


def engines_text(row):
    def line(what, value):
        bits = abs(value - row["torch"])
        return f"| {what} | {value:.6f} | {change(value, row['torch'])} | {bits:.1e} |"

    bits, share = abs(row["runtime"] - row["torch"]), row["q8_0"] / row["torch"] - 1
    return [
        "", "## The runtime and LibTorch", "",
        prose(f"Bits per byte of the demo's hydra-nano on {row['tokens']:,} tokens of held-out chapters. Goals: the "
              f"runtime within {BIT_GOAL:g} bits ({'met' if bits <= BIT_GOAL else 'missed'}), Q8_0 within "
              f"{SHARE_GOAL:.1%} ({'met' if share <= SHARE_GOAL else 'missed'})."), "",
        "| engine | bits per byte | change | bits apart |", "|---" * 4 + "|", line("LibTorch", row["torch"]),
        line("runtime, f32 keys", row["runtime"]), line("runtime, Q8_0 weights, f32 keys", row["q8_0"])]


def smollm2_text(row):
    base = row["llama_cpp"]
    return [
        "", "## The runtime and llama.cpp", "",
        prose(f"The same file, SmolLM2-135M in Q4_1, over {row['tokens']:,} tokens of the King James Bible; the figure "
              "of llama.cpp is that of tests/golden/smollm2.json. This compares programs. It says nothing of the "
              "format, since this model's weights lie on the grid of Q4_1 already."), "",
        "| program | perplexity | change |", "|---" * 3 + "|", f"| llama.cpp | {base:.6f} | |",
        f"| runtime, int8 activations | {row['q8']:.6f} | {change(row['q8'], base, SHARE_GOAL)} |",
        f"| runtime, f32 activations | {row['f32']:.6f} | {change(row['f32'], base, SHARE_GOAL)} |"]


def text(page):
    formats = [(kind, row) for kind, row in page.rows.items() if kind in FORMATS]
    out = ["# Quality of the runtime and of quantised weights", "", page.head("Nothing here is a time.")]
    out += formats_text(formats)
    if row := page.rows.get(ENGINES):
        out += engines_text(row)
    if row := page.rows.get(SMOLLM2):
        out += smollm2_text(row)
    return out


def main():
    parser = arguments("what the runtime and its quantised weights cost in quality")
    parser.add_argument("--documents", type=int, default=20, help="held-out chapters for the demo's model")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rows = Rows(args, Path(folder))
        Page("quality", args, [*FORMATS, ENGINES, SMOLLM2], text).measure(rows.measure)


if __name__ == "__main__":
    main()
