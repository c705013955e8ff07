#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# BlockFFN trained on real text beside its baselines and ablations (specs/blockffn.md 5, 9): dense SwiGLU of equal size,
# top-k, ReMoE; without locality or chunk loss, and with L1 in their place; and the layer within Hydra blocks. Each run
# is a cell (cells.py), two at a time on a thread each, at the lowest priority. Rates and coefficients are chosen by the
# training loss of short runs. Writes bench/results/MACHINE/blockffn_train.md of the cells that are there, and
# blockffn_train.svg. Not here: the speed that follows (blockffn.py).
#   bench/blockffn_train.py [BUILD] [--tokens 2457600] [--at-once 2] [--only NAME] [--page]
import json
import statistics
import sys
import tempfile
from pathlib import Path

from cells import kept, made_on, mean_spread, rows, table, together, trained, with_copy
from common import arguments, built, machine_folder, prose, run
from quality_model import DATA, VOCABULARY
from quality_model import prepare as prepare_texts

NAME, LENGTH, ROWS = "blockffn_train", 256, 16
STEP = LENGTH * ROWS  # tokens
SHORT_STEPS = 300
RATES, COEFFICIENTS, SEEDS = (1e-3, 3e-3, 6e-3), (1e-4, 1e-3, 1e-2), (1, 2, 3)
EXPERTS, EXPERT = 32, 32
# (2 E de + E) / 3 rounded up to 16: as many parameters as the experts and their router
DENSE = ["model.num_experts=0", f"model.intermediate_size={-(-(2 * EXPERTS * EXPERT + EXPERTS) // 48) * 16}"]
LOCAL, CHUNK, SIZE = "blockffn.al_weight=2e-3", "blockffn.cs_weight=1e-1", "blockffn.l1_weight=1e-3"
NO_LOCAL, NO_CHUNK = "blockffn.al_weight=0", "blockffn.cs_weight=0"
ABLATIONS = {"none": [NO_LOCAL, NO_CHUNK], "l1": [NO_LOCAL, NO_CHUNK, SIZE], "al": [LOCAL, NO_CHUNK],
             "al-l1": [LOCAL, NO_CHUNK, SIZE], "cs": [NO_LOCAL, CHUNK]}
# hydra-nano's chunk-routed experts, 8 of 3 x 64 rows, and as many numbers in experts of 2 x 16.
HYDRA = {"chunk": [f"model.vocab_size={VOCABULARY}"],
         "blockffn": [f"model.vocab_size={VOCABULARY}", 'model.moe_kind="blockffn"', "model.num_experts=48",
                      "model.expert_size=16", LOCAL, CHUNK]}
WINDOWS = (1, 2, 4, 8, 16, 32, 64)
GOALS = {"TLS": 0.80, "CLS_8": 0.70, "perplexity": 1.02, "over top-k": 0.07}
PUBLISHED = ["none", "l1", "al", "al-l1", "cs", "blockffn"]  # in rising order of CLS_8


def schedule(steps):
    """The published schedule and scheduler as shares of a run (specs/blockffn.md 9)."""
    return [f"optim.warmup_steps={steps // 20}", 'optim.schedule="wsd_exp"', "optim.decay_share=0.2",
            f"optim.half_life={max(1, steps // 25)}", f"blockffn.cs_start={steps // 10}",
            f"blockffn.cs_adjust={max(1, steps // 100)}"]


class Cells:
    """The cells of the experiment, which build on one another: rates, then coefficients, then the runs themselves."""

    def __init__(self, hydralm, args):
        self.hydralm, self.args, self.made = hydralm, args, {}

    def cell(self, name, settings, rate, seed=1, steps=None, preset="blockffn-nano"):
        steps = steps or self.args.tokens // STEP
        key = {"preset": preset, "tokens": steps * STEP,
               "settings": [f"optim.lr={rate}", f"optim.seed={seed}", *schedule(steps), *settings]}
        if self.args.page or self.args.only not in name:
            made = kept(NAME, name, key)
        else:
            made = trained(
                self.hydralm, NAME, name, key,
                ["--preset", preset, "--data", DATA, "-t", 1, "--seq-len", LENGTH, "--batch", ROWS, "--steps", steps,
                 "-q", "--set", "eval.every=0", "--set", f"checkpoint.every={max(50, steps // 6)}", "--set",
                 "checkpoint.keep=1", "--set", "optim.betas=[0.9,0.95]", "--set", "optim.weight_decay=0.1"],
                lambda folder: measure(self.hydralm, folder))
        if made:
            self.made[name] = made
        return made

    def run(self, jobs):
        return together(jobs, self.args.at_once)

    def best(self, names):
        """The one with the lowest training loss at its end; None while one of them is missing."""
        cells = [self.made.get(name) for name in names]
        return min(cells, key=lambda cell: cell["train_loss"])["name"] if all(cells) else None

    def all(self):
        of_rate = {f"rate-{rate:g}": rate for rate in RATES}
        self.run([lambda name=name, rate=rate: self.cell(name, DENSE, rate, steps=SHORT_STEPS)
                  for name, rate in of_rate.items()])
        if not (best := self.best(of_rate)):
            return
        rate = of_rate[best]
        self.run([lambda kind=kind, seed=seed: self.cell(f"{kind}-{seed}", settings, rate, seed)
                  for seed in SEEDS for kind, settings in (("blockffn", [LOCAL, CHUNK]), ("dense", DENSE))])
        self.run([lambda name=name, settings=settings: self.cell(name, settings, rate)
                  for name, settings in ABLATIONS.items()])
        self.run([lambda kind=kind, settings=settings: self.cell(f"hydra-{kind}", settings, rate, preset="hydra-nano")
                  for kind, settings in HYDRA.items()])
        if "blockffn-1" not in self.made:
            return
        # As many experts a token as BlockFFN has on average.
        k = max(1, round(EXPERTS * (1 - self.made["blockffn-1"]["sparsity"]["TLS"])))
        of_topk = ['model.expert_routing="top_k"', f"model.num_experts_per_tok={k}", NO_LOCAL, NO_CHUNK]
        names = {f"coefficient-{c:g}": [*of_topk, f"model.router_aux_loss_coef={c}"] for c in COEFFICIENTS}
        self.run([lambda name=name, settings=settings: self.cell(name, settings, rate, steps=SHORT_STEPS)
                  for name, settings in names.items()])
        remoe = ['model.expert_routing="relu_plain"', f"model.num_experts_per_tok={k}", NO_LOCAL, NO_CHUNK]
        jobs = [lambda: self.cell("remoe", remoe, rate)]
        if best := self.best(names):
            jobs.append(lambda: self.cell("top-k", names[best], rate))
        self.run(jobs)


def measure(hydralm, folder):
    """Loss, words and sparsity on held-out text, and what the run's log tells."""
    def evaluate(task, *flags):
        return json.loads(run("nice", "-n", 19, hydralm, "eval", task, "-m", folder / "model", "--data", DATA, "-c",
                              LENGTH, "-t", 1, "--json", *flags))
    held_out, log = evaluate("ppl"), rows(folder / "train.csv")
    config = json.loads((folder / "model/config.json").read_text())
    made = {"perplexity": held_out["perplexity"], "bits_per_byte": held_out["bits_per_byte"],
            "words": evaluate("words"),
            "train_loss": statistics.mean(row["train/lm_loss"] for row in log[-max(1, len(log) // 10):]),
            "seconds": sum(row.get("train/step_ms", 0) for row in log) / 1e3,
            "curve": [[row["step"], row["train/lm_loss"], row.get("blockffn/tls")]
                      for row in log[::max(1, len(log) // 60)]]}
    if config.get("num_experts", 0) and (config["model_type"] == "minicpm" or config.get("moe_kind") == "blockffn"):
        made["sparsity"] = evaluate("sparsity")["mean"]
    return made


def result(cell, dense):
    """A line of the table: words for a cell."""
    of = cell.get("sparsity")
    shares = [f"{of[key]:.1%}" if of else "-" for key in ("TLS", "CLS_8")]
    more = [f"{1 - of['CLS_8']:.3f}", f"{of['reuse']:.3f}", f"{of['dead']:.1f}"] if of else ["-"] * 3
    ratio = f"{cell['perplexity'] / dense:.4f}" if dense and cell["preset"] == "blockffn-nano" else "-"
    return [f"{cell['perplexity']:.3f}", ratio, f"{cell['words']['accuracy']:.2%}", *shares, *more]


def goals(made):
    """Lines that say what was to be reached, and whether it was: means over seeds."""
    ours, dense = ([made[f"{kind}-{seed}"] for seed in SEEDS if f"{kind}-{seed}" in made]
                   for kind in ("blockffn", "dense"))
    if len(ours) < len(SEEDS) or len(dense) < len(SEEDS):
        return ["Seeds are missing: nothing is said of goals yet.", ""]
    of = {key: [cell["sparsity"][key] for cell in ours] for key in ("TLS", "CLS_8")}
    ratios = [a["perplexity"] / b["perplexity"] for a, b in zip(ours, dense)]
    lines = [[key, mean_spread(values), f"> {GOALS[key]}", "met" if statistics.mean(values) > GOALS[key] else "missed"]
             for key, values in of.items()]
    lines.append(["perplexity / dense", mean_spread(ratios), f"<= {GOALS['perplexity']}",
                  "met" if statistics.mean(ratios) <= GOALS["perplexity"] else "missed"])
    if "top-k" in made:
        over = [value - made["top-k"]["sparsity"]["CLS_8"] for value in of["CLS_8"]]
        lines.append(["CLS_8 above top-k's", mean_spread(over), f">= {GOALS['over top-k']}",
                      "met" if statistics.mean(over) >= GOALS["over top-k"] else "missed"])
    return table(["over three seeds", "mean (min .. max)", "goal", ""], lines)


def order(made):
    """Whether the ablations stand in the published order of CLS_8."""
    names = [name if name != "blockffn" else "blockffn-1" for name in PUBLISHED]
    if any(name not in made for name in names):
        return []
    found = sorted(names, key=lambda name: made[name]["sparsity"]["CLS_8"])
    words = "as published" if found == names else f"published: {' < '.join(names)}"
    return [prose(f"Order of the ablations in CLS_8: {' < '.join(found)} ({words})."), ""]


def markdown(made, args, about):
    steps = args.tokens // STEP
    dense = made.get("dense-1", {}).get("perplexity")
    out = ["# BlockFFN trained on real text", "",
           prose(f"{made_on(made.values())}. blockffn-nano ({EXPERTS} experts of {EXPERT}, 6 layers, D 256) on the "
                 f"texts of quality_model.py, vocabulary {VOCABULARY}; {args.tokens:,} tokens a run, {steps} steps of "
                 f"{ROWS} rows of {LENGTH}; a thread a run. Held-out documents, context {LENGTH}: perplexity, its "
                 "ratio to dense of seed 1, words predicted whole (always saying the commonest: "
                 f"{next(iter(made.values()))['words']['chance']:.2%}), sparsity. Rates and coefficients were chosen "
                 f"by the training loss after {SHORT_STEPS} steps. DSMoE and GRIN are left out. Made by "
                 f"`{about['command']}`."),
           "", *goals(made)]
    head = ["run", "perplexity", "/ dense", "words", "TLS", "CLS_8", "union of 8", "reuse", "dead experts"]
    out += table(head, [[name, *result(cell, dense)] for name, cell in made.items()
                        if not name.startswith(("rate-", "coefficient-"))])
    out += order(made)
    short = [[name, f"{cell['train_loss']:.4f}"] for name, cell in made.items()
             if name.startswith(("rate-", "coefficient-"))]
    out += ["Short runs that rates and coefficients were chosen by:", "", *table(["run", "training loss"], short)]
    shown = ("blockffn-1", "top-k", "remoe", *ABLATIONS)
    with_sparsity = {name: made[name] for name in shown if "sparsity" in made.get(name, {})}
    out += ["CLS_n over windows of n tokens:", "",
            *table(["run", *map(str, WINDOWS)], [[name, *(f"{cell['sparsity'][f'CLS_{n}']:.1%}" for n in WINDOWS)]
                                                 for name, cell in with_sparsity.items()])]
    return "\n".join(out).rstrip() + "\n"


def plot(made, path):
    """Training loss and TLS against steps, by gnuplot."""
    shown = [name for name in ("dense-1", "blockffn-1", "top-k", "remoe", "none", "cs") if name in made]
    with tempfile.TemporaryDirectory() as folder:
        for name in shown:
            curve = made[name]["curve"]
            lines = (" ".join("nan" if value is None else f"{value:g}" for value in row) for row in curve)
            Path(folder, name).write_text("\n".join(lines) + "\n")
        draw = [", ".join(f"'{folder}/{name}' using 1:{column} with lines lw 2 title '{name}'" for name in shown)
                for column in (2, 3)]
        script = ["set terminal svg size 900,700 background 'white'", f"set output '{path}'",
                  "set multiplot layout 2,1", "set grid", "set ylabel 'training loss, nats'", f"plot {draw[0]}",
                  "set xlabel 'step'", "set ylabel 'TLS'", "set yrange [0:1]", f"plot {draw[1]}"]
        run("gnuplot", "-e", "; ".join(script))


def main():
    parser = arguments("BlockFFN trained beside its baselines")
    parser.add_argument("--tokens", type=int, default=600 * STEP)
    parser.add_argument("--at-once", type=int, default=2, help="runs at a time, a thread each")
    parser.add_argument("--page", action="store_true", help="only write the page of the cells that are there")
    args = parser.parse_args()
    hydralm = built(args.build)
    prepare_texts(hydralm)
    full, short = 6 + len(ABLATIONS) + len(HYDRA) + 2, len(RATES) + len(COEFFICIENTS)
    print(f"{full} runs of {args.tokens:,} tokens and {short} of {SHORT_STEPS * STEP:,}, {args.at_once} at a time; "
          "those that are kept are not done again", file=sys.stderr)

    def work(copy):
        cells = Cells(copy, args)
        cells.all()
        return cells.made
    made = with_copy(hydralm, work)
    if not made:
        sys.exit(f"{NAME}: no cell is there yet")
    out = Path(args.out) / machine_folder()
    out.mkdir(parents=True, exist_ok=True)
    about = {"command": " ".join(["bench/blockffn_train.py", *sys.argv[1:]])}
    (out / f"{NAME}.md").write_text(markdown(made, args, about))
    plot(made, out / f"{NAME}.svg")
    print(out / f"{NAME}.md")


if __name__ == "__main__":
    main()
