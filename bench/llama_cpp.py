#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# This runtime against llama.cpp on the same GGUF files of SmolLM2-135M (Q4_1, Q4_0, Q8_0, F16), in turn, one repetition
# each: prefill, decode at depths 0, 2048 and 8000 with f16 keys and values, and the time from the start of a process
# to its first byte. Writes bench/results/llama_cpp.{md,json}. Needs nothing but the network once (peers/llama_cpp.sh
# fetches and builds llama.cpp).
#   bench/llama_cpp.py [BUILD] [--reps 5] [--long-reps 5] [--threads 2] [--only TEXT] [--out bench/results]
import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

from common import commit, machine, median, prose, run, spread

# (type, prompt, generated, depth, ratio to reach)
TESTS = [("Q4_1", 0, 128, 0, 1.5), ("Q4_0", 0, 128, 0, 1.3), ("Q8_0", 0, 128, 0, 1.3), ("F16", 0, 128, 0, 1.1),
         ("Q4_1", 0, 64, 2048, 1.5), ("Q4_1", 0, 32, 8000, 2.0), ("Q4_1", 512, 0, 0, 2.0), ("Q4_0", 512, 0, 0, 0.9),
         ("Q8_0", 512, 0, 0, 1.2), ("F16", 512, 0, 0, 0.8), ("Q4_1", 8192, 0, 0, 1.5)]
START_TYPES = ["Q4_1", "Q4_0", "Q8_0", "F16"]
START_RATIO = 0.6
PROMPT = "The capital of France is"  # five tokens


def name_of(test):
    kind, prompt, generated, depth, _ = test
    return f"{kind} " + (f"prefill {prompt}" if prompt else f"decode {generated} at depth {depth}")


def ours(hydralm, path, test, threads):
    _, p, n, d, _ = test
    return json.loads(
        run(hydralm, "bench", "-m", path, "-t", threads, "-p", p, "-n", n, "-d", d, "-r", 1, "--kv-dtype", "f16", "-o",
            "json", "-q"))[0]


def theirs(bin, path, test, threads):
    _, p, n, d, _ = test
    rows = json.loads(
        run(bin / "llama-bench", "-m", path, "-t", threads, "-p", p, "-n", n, "-d", d, "-r", 1, "-o", "json"))
    return rows[0]["samples_ts"][0]


def first_byte(command):
    """Seconds from the start of a process to the first byte of its standard output."""
    start = time.perf_counter()
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    byte = process.stdout.read(1)
    seconds = time.perf_counter() - start
    error = process.communicate()[1].decode(errors="replace")
    if process.returncode != 0 or not byte:
        sys.exit(f"{' '.join(map(str, command))}: {error.strip()[-300:]}")
    return seconds


def start_commands(hydralm, bin, path, threads):
    same = ["-m", path, "-p", PROMPT, "-n", 4, "-t", threads, "--temp", 0]
    return ([hydralm, "generate", *same],
            [bin / "llama-completion", *same, "--no-warmup", "-no-cnv", "--no-display-prompt"])


def measure(hydralm, bin, files, args):
    rows = []
    for test in TESTS:
        if args.only not in name_of(test):
            continue
        path, mine, other = files[test[0]], [], []
        if test[1] <= 512 and test[3] == 0:
            theirs(bin, path, test, args.threads)  # warms the page cache too
        for _ in range(args.long_reps if max(test[1], test[3]) > 4096 else args.reps):
            mine.append(ours(hydralm, path, test, args.threads))
            other.append(theirs(bin, path, test, args.threads))
        samples = [row["tok_per_s"]["median"] for row in mine]
        middle = sorted(mine, key=lambda row: row["tok_per_s"]["median"])[len(mine) // 2]
        rows.append({
            "test": name_of(test), "type": test[0], "p": test[1], "n": test[2], "d": test[3], "ours": samples,
            "llama_cpp": other, "ratio": median(samples) / median(other), "to_reach": test[4], "row": middle})
        print(f"{name_of(test)}: {spread(samples)} tok/s, llama.cpp {spread(other)}: {rows[-1]['ratio']:.2f}",
              file=sys.stderr)
    return rows


def measure_start(hydralm, bin, files, args):
    rows = []
    for kind in START_TYPES:
        if args.only not in f"{kind} start":
            continue
        mine, other = [], []
        commands = start_commands(hydralm, bin, files[kind], args.threads)
        for rep in range(2 * args.reps + 1):
            times = [first_byte(command) * 1e3 for command in commands]
            if rep > 0:  # the first warms the page cache
                mine.append(times[0])
                other.append(times[1])
        rows.append({
            "test": f"{kind} start", "type": kind, "ours": mine, "llama_cpp": other,
            "ratio": median(mine) / median(other), "to_reach": START_RATIO})
        print(f"{kind} start: {spread(mine)} ms, llama.cpp {spread(other)}: {rows[-1]['ratio']:.2f}", file=sys.stderr)
    return rows


def bounds(rows):
    """A line for each decode row below its bar: what the memory would allow."""
    out = []
    for row in rows:
        mine = row["row"]
        if row["ratio"] < row["to_reach"] and mine["n"]:
            limit = median(row["ours"]) * mine["read_gb_per_s"] / mine["gb_per_s"]
            out += ["", prose(
                f"{row['test']} is below its bar because the memory bounds it: both sides read the same weights, and "
                f"at the whole read rate measured beside it ours would be {limit:.0f} tokens/s, "
                f"{limit / median(row['llama_cpp']):.2f} times llama.cpp's.")]
    return out


def table(rows, starts, about):
    first = rows[0]["row"] if rows else {"target": "?"}
    out = [
        "# Against llama.cpp, on its own files", "",
        prose(f"{about['machine']}; {about['threads']} threads; commit {about['commit']}; kernels {first['target']}. "
              "llama.cpp is the source that llama-cpp-python 0.3.36 vendors, built Release with GGML_NATIVE for this "
              f"processor. Made by `{about['command']}`: {about['reps']} rounds a row ({about['long_reps']} for rows "
              "of more than 4096 tokens), in which the two sides take turns, each in a process of its own. Keys and "
              "values are f16 on both sides. Figures are median (min .. max)."), "",
        prose("`hydralm bench` measures the read bandwidth and the multiply-add peak beside each of its rows. GB/s "
              "counts the bytes of weights and cache that a token reads, GOP/s the multiplications and additions of "
              "the products. Q4_0, Q8_0 and F16 are made from the published Q4_1 file by `llama-quantize "
              "--allow-requantize --pure`."),
        "",
        "| test | hydralm tok/s | llama.cpp tok/s | ratio | to reach | moved or computed | share of the machine's |",
        "|---|---|---|---|---|---|---|"]
    for row in rows:
        mine = row["row"]
        if row["n"]:
            rate, limit, work = mine["gb_per_s"], mine["read_gb_per_s"], f"{mine['gb_per_s']:.1f} GB/s"
            share = f"{rate / limit:.2f} of {limit:.1f} GB/s"
        else:
            rate, limit, work = mine["gflop_per_s"], mine["peak_gflop_per_s"], f"{mine['gflop_per_s']:.0f} GOP/s"
            share = f"{rate / limit:.2f} of {limit:.0f} GOP/s"
        out.append(f"| {row['test']} | {spread(row['ours'])} | {spread(row['llama_cpp'])} | {row['ratio']:.2f} | "
                   f">= {row['to_reach']} | {work} | {share} |")
    out += bounds(rows)
    out += [
        "",
        prose("Milliseconds from the start of the process to the first byte of the answer, with a prompt of five "
              "tokens and a warm page cache (`hydralm generate` against `llama-completion --no-warmup`, "
              f"{2 * about['reps']} rounds):"),
        "", "| file | hydralm ms | llama.cpp ms | ratio | to reach |",
        "|---|---|---|---|---|"]
    for row in starts:
        out.append(f"| {row['type']} | {spread(row['ours'], 0)} | {spread(row['llama_cpp'], 0)} | {row['ratio']:.2f} | "
                   f"<= {row['to_reach']} |")
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description="time this runtime against llama.cpp on the same files")
    parser.add_argument("build", nargs="?", default="build/release")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--long-reps", type=int, default=5, help="rounds of the tests of more than 4096 tokens")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--only", default="", help="tests whose name holds this text")
    parser.add_argument("--out", default="bench/results")
    args = parser.parse_args()
    hydralm = Path(args.build) / "hydralm"
    bin = Path(run("bench/peers/llama_cpp.sh").strip())
    published = Path(run("tools/smollm2.sh").strip())
    files = {kind: bin.parents[1] / f"SmolLM2-135M-Instruct.{kind}.gguf" for kind in ("Q4_0", "Q8_0", "F16")}
    files["Q4_1"] = published
    rows = measure(hydralm, bin, files, args)
    starts = measure_start(hydralm, bin, files, args)
    about = {
        "machine": machine(), "commit": commit(), "threads": args.threads, "reps": args.reps,
        "long_reps": args.long_reps,
        "command": f"bench/llama_cpp.py --reps {args.reps} --long-reps {args.long_reps} --threads {args.threads}"}
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "llama_cpp.json").write_text(json.dumps({**about, "rows": rows, "starts": starts}, indent=1) + "\n")
    (out / "llama_cpp.md").write_text(table(rows, starts, about))
    print(out / "llama_cpp.md")


if __name__ == "__main__":
    main()
