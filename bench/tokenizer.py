#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# Times `hydralm tokenizer` against Python's `tokenizers`, both on one thread, in turn. Of that library's calls for one
# job the fastest counts. Writes bench/results/MACHINE/tokenizer.{md,json}. Not here: whether the ids agree
# (tests/parity/tokenizer_parity.py).
#   bench/tokenizer.py [BUILD] [--rounds 7] [--tries 3] [--only TEXT] [--out bench/results]
import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before the import; ours has one thread
os.environ["RAYON_NUM_THREADS"] = "1"

import json
import platform
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import tokenizers
from common import Meter, Page, arguments, built, median, prose, quotients, run, spread, steady_words
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
PATTERNS, CORPORA, VOCABULARY = ("gpt2", "llama3"), ("english", "code"), 16384
TRAIN, WHOLE, LINES = f"train {VOCABULARY}", "encode one text", "encode lines"
ROWS = {f"{job}, {pattern}, {corpus}": (job, pattern, corpus)
        for corpus in CORPORA for pattern in PATTERNS for job in (TRAIN, WHOLE, LINES)}


def corpus_text(name):
    """English: the King James Bible. Code: Python's standard library."""
    if name == "english":
        return run("tools/kjv.sh")
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    return "".join(f.read_text("utf-8", "replace") for f in files)[:4_400_000]


def timed(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def their_training(pattern):
    """A new tokenizer of the library and what trains it."""
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == "gpt2")
    split = [pre_tokenizers.Split(Regex(LLAMA3), "isolated")] if pattern == "llama3" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level]) if split else level
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<|endoftext|>"], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    return tokenizer, trainer


class Jobs:
    """The same jobs done by both sides: each gives the seconds of one run."""

    def __init__(self, hydralm, folder):
        self.hydralm, self.folder, self.texts = hydralm, folder, {}

    def corpus(self, name):
        path = self.folder / f"{name}.txt"
        if name not in self.texts:
            self.texts[name] = corpus_text(name)
            path.write_text(self.texts[name], "utf-8")
        return path, self.texts[name]

    def train_ours(self, pattern, path, out):
        run(self.hydralm, "tokenizer", "train", path, "--vocab", VOCABULARY, "--pattern", pattern, "-o", out, "-q")

    def of(self, job, pattern, corpus):
        """What is timed of ours, that function, and the library's calls for the same: name -> function."""
        path, text = self.corpus(corpus)
        model = self.folder / f"{corpus}-{pattern}.json"
        if job == TRAIN:
            def calls_of(call):
                tokenizer, trainer = their_training(pattern)
                return timed(lambda: call(tokenizer, trainer))

            return "whole command", lambda: timed(lambda: self.train_ours(pattern, path, model)), {
                "train_from_iterator([text])": lambda: calls_of(lambda t, how: t.train_from_iterator([text], how)),
                "train([file])": lambda: calls_of(lambda t, how: t.train([str(path)], how))}
        self.train_ours(pattern, path, model)
        theirs = Tokenizer.from_file(str(model))
        if job == WHOLE:
            def encoding():
                info = json.loads(run(self.hydralm, "tokenizer", "info", "-m", model, path, "--json"))
                return info["file"]["seconds"]

            return "encoding only, no cache kept", encoding, {
                "encode(text)": lambda: timed(lambda: theirs.encode(text, add_special_tokens=False)),
                "encode_batch_fast([text])": lambda: timed(
                    lambda: theirs.encode_batch_fast([text], add_special_tokens=False))}
        lines = text.split("\n")
        return "whole command, ids printed", lambda: timed(
            lambda: run(self.hydralm, "tokenizer", "encode", "-m", model, "--lines", path)), {
                "encode_batch_fast(lines)": lambda: timed(
                    lambda: theirs.encode_batch_fast(lines, add_special_tokens=False))}


def measure_row(key, jobs, meter, rounds):
    job, pattern, corpus = ROWS[key]
    counted, ours, theirs = jobs.of(job, pattern, corpus)
    for function in (ours, *theirs.values()):  # the warm-up
        function()
    sides = {"hydralm": ours, **theirs}
    made = [meter.steady(lambda: {name: function() for name, function in sides.items()}) for _ in range(rounds)]
    seconds = {name: [one[name] for one, _ in made] for name in sides}
    best = min(theirs, key=lambda name: median(seconds[name]))
    row = {
        "timed": counted, "bytes": jobs.corpus(corpus)[0].stat().st_size, "seconds": seconds, "best": best,
        "ratios": quotients(seconds[best], seconds["hydralm"]), "rounds": [note for _, note in made],
        "void": any(note["void"] for _, note in made)}
    print(f"{key}: {spread(row['ratios'])} times as fast{' (void)' if row['void'] else ''}", file=sys.stderr)
    return row


def row_line(key, row):
    ours, theirs = row["seconds"]["hydralm"], row["seconds"][row["best"]]
    size = row["bytes"] / 1e6
    return (f"| {key} | {size:.2f} | {row['timed']} | {spread(ours, 3)} | `{row['best']}` | {spread(theirs, 3)} | "
            f"{size / median(ours):.1f} | {size / median(theirs):.1f} | {spread(row['ratios'])} | "
            f"{'void' if row['void'] else ''} |")


def text(page):
    slower = [key for key, row in page.rows.items() if median(row["ratios"]) < 1 and not row["void"]]
    return [
        "# Tokenizer: hydralm against Python's tokenizers", "",
        page.head(f"One thread each side (TOKENIZERS_PARALLELISM=false, RAYON_NUM_THREADS=1); tokenizers "
                  f"{tokenizers.__version__}, Python {platform.python_version()}. In each round the sides take turns, "
                  "after a warm-up of all. " + steady_words(arithmetic=True)), "",
        prose("Seconds are median (min .. max). Where our side is a whole command, its time holds the start of the "
              "process, reading the files and printing; the other side is the bare call on text already in memory. "
              "Where the library has two calls for a job, both are measured and the one with the lower median counts; "
              "`train([file])` reads the file itself and cuts it into lines. A ratio is their time over ours in the "
              "same round."),
        "", "| job | MB | timed of ours | hydralm s | call of tokenizers | s | hydralm MB/s | tokenizers MB/s | times "
        "as fast | |", "|---" * 10 + "|", *(row_line(key, row) for key, row in page.rows.items()), "",
        prose(f"Slower than tokenizers, void rows left out: {'; '.join(slower) or 'none'}.")]


def main():
    args = arguments("time hydralm tokenizer against Python's tokenizers, one thread", rounds=7).parse_args()
    hydralm = built(args.build)
    with tempfile.TemporaryDirectory() as folder:
        jobs, meter = Jobs(hydralm, Path(folder)), Meter(hydralm, args, arithmetic=True)
        page = Page("tokenizer", args, list(ROWS), text)
        page.measure(lambda key: measure_row(key, jobs, meter, args.rounds))


if __name__ == "__main__":
    main()
