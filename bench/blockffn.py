#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What BlockFFN's sparsity gains on this machine, with planted activity: the feed-forward stack at the dimensions of the
# large preset (bench_blockffn) and whole decoding of full sizes with random weights (hydralm bench --plant), each
# beside dense execution of the same weights in the same process, and beside the bound that bytes set. Writes
# bench/results/MACHINE/blockffn.{md,json}. Not here: quality (the runs of training), kernels alone (kernels.cc).
#   bench/blockffn.py [BUILD] [--reps 15] [--rounds 3] [--tries 3] [--threads 2] [--depth 512] [--tokens 48]
#                     [--model FOLDER --text FILE] [--sizes tiny] [--only TEXT] [--out bench/results]
import json
import statistics
import sys
from pathlib import Path

from common import Meter, Page, arguments, built, median, prose, quotients, run, spread, steady_words, verdict

ACTIVE, REUSE = 0.16, 0.87  # of the stack's figures
GUESSES, ACCEPT = 4, 0.6
TAU = (1 - ACCEPT**GUESSES) / (1 - ACCEPT)  # tokens of a pass
# Stacks: row -> flags of bench_blockffn
STACKS = {
    "stack: decode, bf16": ["--mode", "decode", "--type", "bf16"],
    "stack: decode, Q8_0": ["--mode", "decode", "--type", "q8_0"],
    "stack: columns of a file, f32": ["--mode", "decode", "--type", "f32", "--layers", 16],
    "stack: verify 4, bf16": ["--mode", "verify", "--type", "bf16", "--tokens", 4],
    "stack: verify 8, bf16": ["--mode", "verify", "--type", "bf16", "--tokens", 8],
    "stack: verify 32, bf16": ["--mode", "verify", "--type", "bf16", "--tokens", 32],
    "stack: verify 8, Q8_0": ["--mode", "verify", "--type", "q8_0", "--tokens", 8],
    "stack: thresholds of a prompt, bf16": ["--mode", "thresholds", "--type", "bf16", "--tokens", 512]}
# Rows of verify with one thread: what the specification asks for stands there for one.
ONE_THREAD = [key for key in STACKS if "verify" in key]
# Whole models: row -> preset, type, activity and reuse, goals of plain decoding and with guesses
MODELS = {
    "decode: large, bf16": ("blockffn-large", "bf16", (0.1595, 0.8713), 1.7, None),
    "decode: large, Q8_0": ("blockffn-large", "q8_0", (0.1595, 0.8713), 1.7, 2.8),
    "decode: xlarge, Q8_0": ("blockffn-xlarge", "q8_0", (0.1819, 0.8957), None, None),
    "decode: 3b, Q8_0": ("blockffn-3b", "q8_0", (0.1245, 0.87), 2.9, 3.67)}
TRAINED = "trained model, real text"
LIST_GOALS = {8: 1.5, 32: 2.8}  # all then mask / lists, one thread
TOKEN_GOALS = {4: 1.5, 8: 2.2}  # verify / one token, at most
LIMIT_GOAL = 1.15               # verify / max(its bytes at the read rate, its products), at most


def quarter(values):
    """The 25th percentile: of a machine with short disturbances."""
    return statistics.quantiles(values, n=4)[0] if len(values) > 1 else values[0]


class Rows:
    def __init__(self, args):
        self.args, self.hydralm = args, built(args.build, "bench_blockffn")
        self.stack = Path(args.build) / "bench_blockffn"
        self.meter = Meter(self.hydralm, args)

    def measure(self, key):
        made, note = self.meter.steady(lambda: self.sides(key))
        row = {"sides": made, **note}
        print(f"{key}: done{' (void)' if note['void'] else ''}", file=sys.stderr)
        return row

    def sides(self, key):
        if key in STACKS:
            return self.of_stack(key)
        return self.of_text() if key == TRAINED else self.of_model(key)

    def of_stack(self, key):
        flags = [*STACKS[key], "--threads", 1 if key in ONE_THREAD else self.args.threads, "--reps", self.args.reps]
        if "thresholds" not in key:
            flags += ["--active", ACTIVE, "--reuse", REUSE]
        if self.args.sizes == "tiny":
            flags += ["--layers", 1, "--d", 64, "--experts", 6, "--width", 32]
        sides = [json.loads(line) for line in run(self.stack, *flags).splitlines()]
        if key in ONE_THREAD:
            rate = json.loads(run(self.hydralm, "bench", "--stream", "-t", 1, "-o", "json", "-q"))[0]["read_gb_per_s"]
            sides.append({"side": "read rate of one thread", "gb_per_s": rate})
        return sides

    def of_model(self, key):
        preset, kind, (active, reuse), _, _ = MODELS[key]
        flags = ["--preset", "blockffn-nano" if self.args.sizes == "tiny" else preset, "--type", kind, "-p", 0, "-n",
                 self.args.tokens, "-d", self.args.depth, "--provisional", GUESSES, "--accept", ACCEPT, "--plant", 1,
                 "--plant", f"{active},{reuse}", "--interleave", "-r", self.args.reps]
        return json.loads(run(self.hydralm, "bench", *flags, "-t", self.args.threads, "-o", "json", "-q"))

    def of_text(self):
        """Dense execution, then plain decoding of a text beside decoding with guesses, round by round."""
        model = ["-m", self.args.model, "-t", self.args.threads, "-r", max(1, self.args.reps // self.args.rounds)]
        rounds = []
        for _ in range(self.args.rounds):
            dense = json.loads(run(self.hydralm, "bench", *model, "-p", 0, "-n", self.args.tokens, "-d",
                                   self.args.depth, "--plant", 1, "-o", "json", "-q"))
            text = json.loads(run(self.hydralm, "bench", *model, "-p", self.args.depth, "-n", self.args.tokens,
                                  "--spec", "ngram", "--spec-text", self.args.text, "-o", "json", "-q"))
            rounds.append({"dense": dense[0], "text": text[0]})
        return rounds


# ---- the page ----


def side(row, name):
    return next(one for one in row["sides"] if one["side"] == name)


def stack_line(key, row):
    """Ratio of two sides, its goal, and what the bytes alone would give."""
    void, cells = row["void"], []
    if "verify" in key:
        lists, masked = side(row, "lists"), side(row, "all then mask")
        n = lists["n"]
        goal = LIST_GOALS.get(n, 1) if "bf16" in key else 1
        cells += [("all then mask / lists", quotients(masked["ms"], lists["ms"]), goal, False, "")]
        alone = quotients(lists["ms"], side(row, "one token")["ms"])
        cells += [(f"{n} tokens / one token", alone, TOKEN_GOALS.get(n) if "bf16" in key else None, True, "")]
        by_bytes = lists["mb"] / side(row, "read rate of one thread")["gb_per_s"]
        bound = [max(by_bytes, ms) for ms in side(row, "lists, weights of one expert")["ms"]]
        cells += [("lists / the larger of bytes and products", quotients(lists["ms"], bound), LIMIT_GOAL, True,
                   f"{lists['mb']:.0f} MB, {lists['gmac']:.2f} GMAC")]
    elif "columns" in key:
        ratios = quotients(side(row, "column-sliced")["ms"], side(row, "sparse")["ms"])
        cells += [("columns of a file / panels", ratios, 1.8, False, "")]
    elif "thresholds" not in key:
        sparse, dense = side(row, "sparse"), side(row, "dense")
        best = [min(pair) for pair in zip(dense["ms"], side(row, "dense, two matrices")["ms"], strict=True)]
        ratios, by_bytes = quotients(best, sparse["ms"]), dense["mb"] / sparse["mb"]
        cells += [("dense (the better of two layouts) / sparse", ratios, 5.5 if "bf16" in key else None, False,
                   f"{by_bytes:.2f} by bytes")]
        cells += [("that ratio / the ratio of bytes", [r / by_bytes for r in ratios], 0.9, False,
                   f"{sparse['mb']:.0f} of {dense['mb']:.0f} MB")]
    for what, values, goal, most, about in cells:
        yield f"| {key} | {what} | {spread(values, 2)} | {verdict(values, goal, void, most)} | {about} |"


def threshold_lines(row):
    """For each share the time of gathered lists over that of all tokens: below 1, gathering pays."""
    for gathered, whole in zip(row["sides"][::2], row["sides"][1::2], strict=True):
        name = gathered["side"].rsplit(",", 1)[0]
        yield f"| {name} | {quarter(gathered['ms']) / quarter(whole['ms']):.3f} |"


def model_lines(key, row):
    _, _, planted, plain_goal, spec_goal = MODELS[key]
    dense, sparse, spec_dense, spec = row["sides"]
    total = lambda one: sum(one["bytes_per_tok"].values()) / 1e6
    bound = total(dense) / total(sparse)
    ratios = quotients(sparse["samples"], dense["samples"])
    yield (f"| {key} | plain | {spread(dense['samples'])} | {spread(sparse['samples'])} | {spread(ratios, 2)} | "
           f"{verdict(ratios, plain_goal, row['void'])} | {bound:.2f} | {total(sparse):.0f} of {total(dense):.0f} | "
           f"{sparse['gb_per_s'] / sparse['read_gb_per_s']:.2f} |")
    ratios, bound = quotients(spec["samples"], dense["samples"]), total(dense) / total(spec)
    yield (f"| {key} | verify {GUESSES}, planted acceptance {ACCEPT} | {spread(dense['samples'])} | "
           f"{spread(spec['samples'])} | {spread(ratios, 2)} | {verdict(ratios, spec_goal, row['void'])} | "
           f"{bound:.2f} | {total(spec):.0f} of {total(dense):.0f} | {spec['gb_per_s'] / spec['read_gb_per_s']:.2f} |")
    ratios = quotients(spec_dense["samples"], dense["samples"])
    yield (f"| {key} | the same, all experts active | {spread(dense['samples'])} | {spread(spec_dense['samples'])} | "
           f"{spread(ratios, 2)} |  |  | {total(spec_dense):.0f} of {total(dense):.0f} | "
           f"{spec_dense['gb_per_s'] / spec_dense['read_gb_per_s']:.2f} |")


def text_lines(row):
    dense = [median(one["dense"]["samples"]) for one in row["sides"]]
    plain, guessed = ([median(one["text"][side]) for one in row["sides"]] for side in ("plain_tok_per_s", "tok_per_s"))
    for what, values in (("plain", plain), ("with ngram guesses", guessed)):
        yield (f"| {TRAINED} | {what} | {spread(dense)} | {spread(values)} | {spread(quotients(values, dense), 2)} | "
               f"{'void' if row['void'] else ''} |  |  |  |")


def text(page, args):
    stacks = {key: page.rows[key] for key in STACKS if key in page.rows}
    models = {key: page.rows[key] for key in MODELS if key in page.rows}
    tiny = ["**Made with --sizes tiny, which shows that the script works and nothing else.**", ""]
    out = [
        "# BlockFFN: what sparsity gains", "", *(tiny if args.sizes == "tiny" else []),
        page.head("Activity is planted: a Markov chain for each expert, position and layer, with the published share "
                  "of active experts and of reuse; weights are random. So these are figures of the engine, not of a "
                  "model's text, except in the row of a trained model. All sides of a row take turns in one process, "
                  f"{args.reps} times; a ratio is the median (min .. max) of the turns' ratios. " +
                  steady_words("row")), ""]
    if TRAINED in page.rows or models:
        out += [
            "## Whole decoding", "",
            prose("Tokens a second of one sequence. The ratio is R_same: against dense execution of the same weights "
                  "(every expert, without speculation), same types, threads and process. The bound is the ratio of the "
                  f"bytes that a token moves. A verify reads {GUESSES} tokens, of which {TAU:.2f} are kept on average; "
                  "what a drafter itself takes is not in it."), "",
            "| model | decoding | dense tok/s | tok/s | R_same | goal | by bytes | MB a token, of dense | of read rate "
            "|",
            "|---" * 9 + "|"]
        if TRAINED in page.rows:
            out += list(text_lines(page.rows[TRAINED]))
        out += [line for key, row in models.items() for line in model_lines(key, row)] + [""]
    if stacks:
        out += [
            "## The feed-forward stack", "",
            prose(f"32 layers of 48 experts of 128 at width 1536, activity {ACTIVE}, reuse {REUSE}; verify with one "
                  "thread, the others with all. \"Products\" are the same lists with the weights of one expert, which "
                  "stay in the cache."), "", "| row | what | ratio | goal | |", "|---" * 5 + "|",
            *(line for key, row in stacks.items() for line in stack_line(key, row)), ""]
    for key, row in stacks.items():
        if "thresholds" in key:
            out += [prose("A prompt of 512 tokens of which a share runs each expert: the time of gathered lists over "
                          "that of all tokens. Lists are left where it passes 1 (kernels/blockffn.h: kWholeExpert, "
                          "kWholeLayer)."), "", "| experts | gathered / all |", "|---|---|", *threshold_lines(row), ""]
    return out[:-1]


def main():
    parser = arguments("time BlockFFN's sparse execution against dense execution", rounds=3, threads=2)
    parser.add_argument("--reps", type=int, default=15, help="turns of each row")
    parser.add_argument("--depth", type=int, default=512, help="tokens before those that are decoded")
    parser.add_argument("--tokens", type=int, default=48, help="tokens decoded in a turn")
    parser.add_argument("--model", default="none", help="a trained model's folder, for the row on real text")
    parser.add_argument("--text", default="none", help="its text")
    parser.add_argument("--sizes", choices=["full", "tiny"], default="full", help="tiny: to try the script")
    args = parser.parse_args()
    if (args.model == "none") != (args.text == "none"):
        parser.error("--model and --text go together")
    keys = ([TRAINED] if args.model != "none" else []) + list(MODELS) + list(STACKS)
    Page("blockffn", args, keys, lambda page: text(page, args)).measure(Rows(args).measure)


if __name__ == "__main__":
    main()
