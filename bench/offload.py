#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# A BlockFFN model larger than the memory that it may have: packed weights mapped from disk (--offload) under a limit of
# a control group, with planted routing; bytes read from disk a token beside what reuse predicts, and tokens a second by
# what is asked for ahead. Writes bench/results/MACHINE/offload.{md,json}. Needs the right to make control groups. Not
# here: speed in memory (blockffn.py).
#   bench/offload.py [BUILD] [--rounds 5] [--preset blockffn-large] [--type q8_0] [--tokens 96] [--only TEXT]
import contextlib
import json
import os
import subprocess
import sys
import threading
from pathlib import Path

from common import Page, arguments, built, median, prose, run, spread

ACTIVE, REUSE = 0.16, 0.87
SHARES = (1.25, 0.8, 0.6, 0.45)  # limits, of the bytes of all weights
MODES = ("off", "routed", "last")
WAYS = {"off": "nothing is asked for", "routed": "newly routed experts", "last": "besides, the last token's"}
FOLDER = Path("runs/offload")
GROUPS = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")  # of the first and the second version


class Limit:
    """A control group with a limit of memory, page cache included; what it had at most beside the cache."""

    def __init__(self, size):
        first = (GROUPS[0] / "memory.limit_in_bytes").exists()
        self.path = GROUPS[0 if first else 1] / f"hydralm-{os.getpid()}"
        self.own_key = "rss" if first else "anon"
        try:
            self.path.mkdir()
            (self.path / ("memory.limit_in_bytes" if first else "memory.max")).write_text(str(size))
        except OSError as error:
            sys.exit(f"{self.path}: {error.strerror}: this page needs the right to make control groups of memory")
        self.own, self.done = 0, threading.Event()

    def watch(self):
        while not self.done.wait(0.1):
            with contextlib.suppress(OSError):
                stat = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
                self.own = max(self.own, int(stat[self.own_key]))

    def run(self, *command):
        """The output of a command within the limit."""
        watch = threading.Thread(target=self.watch)
        watch.start()
        made = subprocess.run(["sh", "-c", 'echo $$ > "$0" && exec "$@"', self.path / "cgroup.procs",
                               *map(str, command)], capture_output=True, text=True)
        self.done.set()
        watch.join()
        self.path.rmdir()
        if made.returncode:
            sys.exit(f"{' '.join(map(str, command))}: {made.stderr.strip()}")
        return made.stdout


def forget(path):
    """Drops a file from the page cache, where its pages would count for whoever read them first."""
    fd = os.open(path, os.O_RDONLY)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)


class Study:
    def __init__(self, args):
        self.args, self.hydralm = args, built(args.build)
        FOLDER.mkdir(parents=True, exist_ok=True)
        name = f"{args.preset}-{args.type}"
        self.model, self.packed = FOLDER / f"{name}.gguf", FOLDER / f"{name}.packed"
        if not self.model.exists():
            run(self.hydralm, "quantize", "--preset", args.preset, "--type", args.type, "-o", self.model)
        self.bytes = self.sizes()

    def bench(self, mode):
        return [self.hydralm, "bench", "-m", self.model, "--offload", self.packed, "--ask-ahead", mode, "-p", 0, "-n",
                self.args.tokens, "-r", 1, "-d", 16, "-t", self.args.threads, "--plant", f"{ACTIVE},{REUSE}",
                "--no-limits", "-o", "json", "-q"]

    def sizes(self):
        """Bytes of all weights, and what a token reads of them with and without sparsity. Packs them first."""
        row = json.loads(run(*self.bench("off")))[0]
        dense = json.loads(run(*self.bench("off"), "--plant", 1))[-1]
        sparse, whole = row["bytes_per_tok"]["weights"], dense["bytes_per_tok"]["weights"]
        experts = (whole - sparse) / (1 - row["experts"]["active"])
        return {"all": self.packed.stat().st_size, "experts": experts, "others": whole - experts,
                "active": row["experts"]["active"]}

    def one(self, share, mode):
        limit = Limit(int(share * self.bytes["all"]))
        forget(self.packed)
        forget(self.model)
        row = json.loads(limit.run(*self.bench(mode)))[0]
        return {"rate": row["samples"][0], "disk": row["disk_bytes_per_tok"], "own": limit.own}

    def measure(self, key):
        """All ways in turn, round by round."""
        share = float(key)
        made = {mode: [] for mode in MODES}
        for number in range(self.args.rounds):
            print(f"{key}: round {number + 1} of {self.args.rounds}", file=sys.stderr)
            for mode in MODES:
                made[mode].append(self.one(share, mode))
        return {"limit": int(share * self.bytes["all"]), "bytes": self.bytes, "ways": made}


def union(n):
    """Share of the experts that any of n neighbouring tokens runs (specs/blockffn.md 5)."""
    return 1 - (1 - ACTIVE) * (1 - ACTIVE * (1 - REUSE) / (1 - ACTIVE)) ** (n - 1)


def predicted(row):
    """Bytes read a token where memory keeps what was used last: what the process has itself and the weights that every
    token reads come first; the rest holds the experts of the last k tokens, and what is new beside those is read. Too
    little for one token's, and all of it is read again and again."""
    sizes = row["bytes"]
    own = max(one["own"] for of in row["ways"].values() for one in of)
    room = row["limit"] - own - sizes["others"]
    held = room / sizes["experts"]
    if held >= 1:
        return 0.0
    if held < union(1):
        return sizes["experts"] * ACTIVE + (sizes["others"] if room < 0 else 0)
    n = 1
    while union(n + 1) <= held:
        n += 1
    part = (held - union(n)) / (union(n + 1) - union(n))
    news = (1 - part) * (union(n + 1) - union(n)) + part * (union(n + 2) - union(n + 1))
    return news * sizes["experts"]


def lines(key, row):
    forecast = predicted(row)
    out = []
    for mode, of in row["ways"].items():
        rates, disk = [one["rate"] for one in of], [one["disk"] / 1e6 for one in of]
        plain = [one["rate"] for one in row["ways"]["off"]]
        gains = [a / b for a, b in zip(rates, plain, strict=True)]
        out.append(f"| {row['limit'] / 2**20:,.0f} ({key}) | {WAYS[mode]} | {spread(rates, 2)} | {spread(gains, 2)} | "
                   f"{spread(disk)} | {forecast / 1e6:.1f} | {median(disk) * median(rates) / 1e3:.2f} |")
    return out


def text(page, args):
    sizes = next(iter(page.rows.values()))["bytes"]
    size, experts, others = (f"{sizes[key] / 2**20:,.0f}" for key in ("all", "experts", "others"))
    return ["# Weights larger than memory", "",
            page.head(f"{args.preset} in {args.type} with random weights and planted routing (active share {ACTIVE}, "
                      f"reuse {REUSE}): {size} MiB of packed weights, of which experts {experts}; a token reads "
                      f"{others} MiB of the others and {sizes['active']:.3f} of the experts. The packed file is "
                      f"dropped from the page cache before each run; {args.tokens} tokens are timed after as many."),
            "",
            prose("Limit: memory of the control group, page cache included, and its share of the weights. Gain: tokens "
                  "a second by those of the same round without asking. Disk: bytes that the process read from disk. "
                  "Predicted: what reuse lets expect where memory keeps what was used last, after what the process has "
                  "itself and the weights of every token."), "",
            "| limit, MiB | asked for ahead | tokens/s | gain | disk, MB a token | predicted | GB/s of disk |",
            "|---" * 7 + "|", *(line for key, row in page.rows.items() for line in lines(key, row))]


def main():
    parser = arguments("decoding with weights larger than memory", rounds=5, threads=2)
    parser.add_argument("--preset", default="blockffn-large")
    parser.add_argument("--type", default="q8_0")
    parser.add_argument("--tokens", type=int, default=96)
    args = parser.parse_args()
    study = Study(args)
    page = Page("offload", args, [f"{share:g}" for share in SHARES], lambda page: text(page, args))
    page.measure(study.measure)


if __name__ == "__main__":
    main()
