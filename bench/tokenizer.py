# SPDX-License-Identifier: Apache-2.0
# Times `hydralm tokenizer` against Python's `tokenizers`, both on one thread, alternating, in one run; writes
# bench/results/tokenizer.md and .json. Not here: whether the ids agree (tests/parity/tokenizer_parity.py).
# Usage: bench/tokenizer.py [--hydralm build/release/hydralm] [--reps 7] [--out bench/results]
import os

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # before the import
os.environ["RAYON_NUM_THREADS"] = "1"

import argparse
import json
import platform
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

import tokenizers
from common import prose
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")


def corpora():
    """English: the Bible of Debian's bible-kjv. Code: Python's standard library."""
    out = {}
    if Path("/usr/bin/bible").exists():
        out["english"] = run("bible", "-f", "gen1:1-rev22:21").decode()
    else:
        print("english: the package bible-kjv is not installed, left out", file=sys.stderr)
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py"))
    out["code"] = "".join(f.read_text("utf-8", "replace") for f in files)[:4_400_000]
    return out


def their_bpe(pattern):
    tokenizer = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pattern == "gpt2")
    split = [pre_tokenizers.Split(Regex(LLAMA3), "isolated")] if pattern == "llama3" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*split, level]) if split else level
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def timed(function):
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def run(*args):
    return subprocess.run(list(map(str, args)), capture_output=True, check=True).stdout


def alternate(ours, theirs, reps):
    """Seconds of each side, A B A B after a warm-up of both."""
    ours(), theirs()
    times = [], []
    for _ in range(reps):
        times[0].append(ours())
        times[1].append(theirs())
    return times


class Bench:
    def __init__(self, hydralm, reps):
        self.hydralm, self.reps, self.rows = hydralm, reps, []

    def add(self, case, counted, size, ours, theirs):
        a, b = alternate(ours, theirs, self.reps)
        row = {"bench": "tokenizer", "case": case, "timed": counted, "threads": 1, "reps": self.reps, "bytes": size}
        for name, times in (("hydralm", a), ("tokenizers", b)):
            row[name] = {"median_s": statistics.median(times), "min_s": min(times), "max_s": max(times),
                         "median_mb_per_s": size / 1e6 / statistics.median(times)}
        row["speedup"] = row["tokenizers"]["median_s"] / row["hydralm"]["median_s"]
        row["worst_speedup"] = min(b) / max(a)
        self.rows.append(row)
        print(json.dumps(row), flush=True)

    def corpus(self, name, text, folder):
        path = folder / f"{name}.txt"
        path.write_bytes(text.encode("utf-8"))
        size = path.stat().st_size
        lines = text.split("\n")
        for pattern in ("gpt2", "llama3"):
            model = folder / f"{name}-{pattern}.json"

            def train_ours():
                return timed(lambda: run(self.hydralm, "tokenizer", "train", path, "--vocab", 16384,
                                         "--pattern", pattern, "-o", model, "-q"))[0]

            def train_theirs():
                trainer = trainers.BpeTrainer(vocab_size=16384, special_tokens=["<|endoftext|>"], show_progress=False,
                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
                return timed(lambda: their_bpe(pattern).train_from_iterator([text], trainer))[0]

            self.add(f"train 16384, {pattern}, {name}", "whole command / train_from_iterator only", size, train_ours,
                     train_theirs)
            theirs = Tokenizer.from_file(str(model))

            def text_ours():
                info = json.loads(run(self.hydralm, "tokenizer", "info", "-m", model, path, "--json"))
                return info["file"]["seconds"]

            self.add(f"encode one text, {pattern}, {name}", "encoding only, no cache kept / encode", size, text_ours,
                     lambda: timed(lambda: theirs.encode(text, add_special_tokens=False))[0])

            def lines_ours():
                return timed(lambda: run(self.hydralm, "tokenizer", "encode", "-m", model, "--lines", path))[0]

            def lines_theirs():
                return timed(lambda: theirs.encode_batch_fast(lines, add_special_tokens=False))[0]

            self.add(f"encode lines, {pattern}, {name}", "whole command, ids printed / encode_batch_fast only", size,
                     lines_ours, lines_theirs)


def cpu_name():
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":")[1].strip()
    return platform.machine()


def commit():
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else "unknown"


def table(bench, info):
    out = [
        "# Tokenizer: hydralm against Python's tokenizers", "",
        prose(f"{info['cpu']}, {info['cpus']} CPUs, one thread each side; tokenizers {info['tokenizers']}, Python "
              f"{info['python']}; commit {info['commit']}. Made by `bench/tokenizer.py`: the sides take turns, "
              f"{bench.reps} runs after a warm-up. The load average was {info['load_5_min']} after the run; where it "
              "is above the number of CPUs, other work shared the machine and both sides are slower than alone."), "",
        prose("Seconds are median (min .. max). Where our side is a whole command, its time holds the start of the "
              "process, reading the files and printing; the other side is the bare call on text already in memory. The "
              "last column is their fastest run over our slowest."), "",
        "| case | MB | hydralm s | tokenizers s | hydralm MB/s | tokenizers MB/s | faster | at worst |",
        "|---|---|---|---|---|---|---|---|"]
    for row in bench.rows:
        cells = [row["case"], f"{row['bytes'] / 1e6:.2f}"]
        for side in (row["hydralm"], row["tokenizers"]):
            cells.append(f"{side['median_s']:.3f} ({side['min_s']:.3f} .. {side['max_s']:.3f})")
        cells += [f"{row[s]['median_mb_per_s']:.1f}" for s in ("hydralm", "tokenizers")]
        cells += [f"{row['speedup']:.1f}x", f"{row['worst_speedup']:.1f}x"]
        out.append("| " + " | ".join(cells) + " |")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description="hydralm tokenizer against Python's tokenizers, one thread")
    parser.add_argument("--hydralm", default="build/release/hydralm")
    parser.add_argument("--reps", type=int, default=7)
    parser.add_argument("--out", default="bench/results")
    args = parser.parse_args()
    bench = Bench(args.hydralm, args.reps)
    with tempfile.TemporaryDirectory() as folder:
        for name, text in corpora().items():
            bench.corpus(name, text, Path(folder))
    info = {"cpu": cpu_name(), "cpus": os.cpu_count(), "python": platform.python_version(),
            "tokenizers": tokenizers.__version__, "commit": commit(), "load_5_min": round(os.getloadavg()[1], 1)}
    folder = Path(args.out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.json").write_text(json.dumps({"machine": info, "rows": bench.rows}, indent=1) + "\n")
    (folder / "tokenizer.md").write_text(table(bench, info))
    print(table(bench, info))
    slower = [row["case"] for row in bench.rows if row["speedup"] < 1]
    return f"slower than tokenizers: {', '.join(slower)}" if slower else 0


if __name__ == "__main__":
    sys.exit(main())
