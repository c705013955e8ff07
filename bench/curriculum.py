#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What the staged curriculum does for hydra-nano, on real text: with it and without it (same tokens, three seeds each),
# without each part, and with gate controllers. Each run is a cell (cells.py), trained at the lowest priority. Writes
# bench/results/MACHINE/curriculum.md of the cells that are there. Not here: speed.
#   bench/curriculum.py [BUILD] [--tokens 4000000] [--threads 2] [--only NAME] [--page]
import json
import statistics
import sys
from pathlib import Path

from cells import kept, made_on, mean_spread, rows, table, trained, with_copy
from common import arguments, built, machine_folder, prose, run
from quality_model import prepare as prepare_texts

NAME, TEXT, DATA = "curriculum", Path("data/quality/text.txt"), Path("data/curriculum")
VOCABULARY, HELD_OUT = 2048, 0.03
PARTS = {"ssm": "path_scale=0,1,1", "sga": "path_scale=1,0,1", "moe": "path_scale=1,1,0",
         "workspace": "workspace_read=0", "pkm": "pkm_read=0", "landmarks": "landmarks=off"}
WITHOUT = {"sga": 'model.layer_types=["ssm_moe","ssm","ssm_moe","ssm","ssm_moe","ssm"]',
           "moe": 'model.layer_types=["ssm","ssm","ssm_sga","ssm","ssm","ssm_sga"]',
           "workspace": "model.workspace_layers=[]", "pkm": "model.pkm_layers=[]"}
# Cell -> its settings. The last stage of the default curriculum has rows of 1,024 tokens; eval reads no longer ones.
STAGED, FLAT, LENGTH = ["curriculum=default"], ["curriculum=none"], 1024
CELLS = {
    **{f"curriculum-{seed}": [*STAGED, f"optim.seed={seed}"] for seed in (1, 2, 3)},
    **{f"none-{seed}": [*FLAT, f"optim.seed={seed}"] for seed in (1, 2, 3)},
    **{f"without-{part}": [*STAGED, "optim.seed=1", setting] for part, setting in WITHOUT.items()},
    "none-long-rows": [*FLAT, "optim.seed=1", f"optim.seq_len={LENGTH}", "optim.batch_rows=1"],
    "gate-controller": [*STAGED, "optim.seed=1", "model.gate_controller=true"]}


def prepare(hydralm):
    """DATA: the texts of quality_model.py with a tokenizer of hydra-nano's size."""
    prepare_texts(hydralm)
    DATA.mkdir(parents=True, exist_ok=True)
    tokenizer = DATA / "tokenizer.json"
    if not tokenizer.exists():
        run(hydralm, "tokenizer", "train", TEXT, "--doc-sep", "\f", "--vocab", VOCABULARY, "--pattern", "gpt2", "-o",
            tokenizer)
    if not (DATA / "data.json").exists():
        run(hydralm, "data", "build", TEXT, "--tokenizer", tokenizer, "--doc-sep", "\f", "--val", HELD_OUT, "-o", DATA)


def key_of(name, args):
    return {"tokens": args.tokens, "settings": CELLS[name]}


def train(hydralm, name, args):
    """Trains a cell, or takes a finished one of the same tokens and settings; its result."""
    command = ["-C", "examples/nano.toml", "--data", DATA, "-t", args.threads, "--set", f"optim.tokens={args.tokens}"]
    return trained(hydralm, NAME, name, key_of(name, args), command, lambda folder: measure(hydralm, folder))


def jumps(losses, steps=100):
    """At each border of stages: the mean training loss of the rows within `steps` after it, less that before it."""
    borders = [i for i in range(1, len(losses)) if losses[i].get("train/stage") != losses[i - 1].get("train/stage")]
    out = []
    for i in borders:
        at = losses[i - 1]["step"]
        before = [row["train/lm_loss"] for row in losses if at - steps < row["step"] <= at]
        after = [row["train/lm_loss"] for row in losses if at < row["step"] <= at + steps]
        out.append(max(after) - statistics.mean(before))
    return out


def measure(hydralm, folder):
    """Losses of the trained model on held-out text, whole and with each part switched off, and what its log tells."""
    config = json.loads((folder / "model/config.json").read_text())
    kinds = " ".join(config["layer_types"])
    has = {"ssm": True, "sga": "sga" in kinds, "landmarks": "sga" in kinds, "moe": "moe" in kinds,
           "workspace": bool(config["workspace_layers"]), "pkm": bool(config["pkm_layers"])}

    def score(*flags, context=LENGTH):
        made = run("nice", "-n", "19", hydralm, "eval", "-m", folder / "model", "--data", DATA, "-c", context, "--json",
                   *flags)
        return json.loads(made)["bits_per_byte"]
    whole = score()
    train_rows, val_rows = rows(folder / "train.csv"), rows(folder / "val.csv")
    last = {key: value for row in train_rows for key, value in row.items()}
    last |= {key: value for row in val_rows for key, value in row.items()}
    return {"bits_per_byte": whole,
            "off": {part: score("--control", control) - whole for part, control in PARTS.items() if has[part]},
            "bits_per_byte_512": score(context=512),
            "skipped": last["train/skipped"], "dead_experts": last.get("moe/dead_experts"),
            "load_cv": last.get("moe/load_cv"), "jumps": jumps(train_rows),
            "series": {key: value for key, value in sorted(last.items())
                       if key.split("/")[0] in ("gate", "ssm", "landmark", "workspace", "pkm", "off")}}


def markdown(cells, args, about):
    names = {cell["name"]: cell for cell in cells}
    kinds = {kind: [names[f"{kind}-{seed}"] for seed in (1, 2, 3) if f"{kind}-{seed}" in names]
             for kind in ("curriculum", "none")}
    out = ["# hydra-nano with and without its curriculum", "",
           prose(f"{made_on(cells)}; {args.tokens:,} tokens a run of the texts of "
                 f"quality_model.py, vocabulary {VOCABULARY}, {100 * HELD_OUT:.0f} % of the documents held out; rates "
                 f"and rows of examples/nano.toml. Bits per byte of all held-out text, context {LENGTH:,}. Nothing was "
                 f"chosen on the held-out text. Made by `{about['command']}`."), ""]
    out += table(["run", "seeds", "bits per byte, mean (min .. max)", "dead experts", "spread of loads",
                  "skipped updates", "largest rise of the loss within 100 steps of a border"],
                 [[kind, str(len(of)), mean_spread([cell["bits_per_byte"] for cell in of]),
                   ", ".join(f"{cell['dead_experts']:.0f}" for cell in of),
                   ", ".join(f"{cell['load_cv']:.2f}" for cell in of),
                   ", ".join(f"{cell['skipped']:.0f}" for cell in of),
                   ", ".join(f"{max(cell['jumps']):+.3f}" for cell in of if cell["jumps"]) or "-"]
                  for kind, of in kinds.items() if of])
    out += ["Bits per byte that switching a part off costs after training, mean (min .. max); and of a run that was "
            "trained without the part from the start, less those of the run with it (seed 1, with the curriculum):", ""]
    lines = []
    for part in PARTS:
        costs = {kind: [cell["off"][part] for cell in of if part in cell["off"]] for kind, of in kinds.items()}
        without = names.get(f"without-{part}")
        gain = f"{without['bits_per_byte'] - names['curriculum-1']['bits_per_byte']:+.4f}" if without else "-"
        lines.append([part, *(mean_spread(of) if of else "-" for of in costs.values()), gain])
    out += table(["part", "off, with curriculum", "off, none", "trained without"], lines)
    others = [names[name] for name in ("none-long-rows", "gate-controller") if name in names]
    if others:
        out += table(["other run", "bits per byte", "against curriculum-1"],
                     [[cell["name"], f"{cell['bits_per_byte']:.4f}",
                       f"{cell['bits_per_byte'] - names['curriculum-1']['bits_per_byte']:+.4f}"] for cell in others])
    return "\n".join(out).rstrip() + "\n"


def main():
    parser = arguments("hydra-nano with and without its curriculum", threads=2)
    parser.add_argument("--tokens", type=int, default=4_000_000)
    parser.add_argument("--page", action="store_true", help="only write the page of the cells that are there")
    args = parser.parse_args()
    hydralm = built(args.build)
    prepare(hydralm)
    wanted = [name for name in CELLS if args.only in name and (not args.page or kept(NAME, name, key_of(name, args)))]
    cells = with_copy(hydralm, lambda copy: [train(copy, name, args) for name in wanted])
    about = {"command": " ".join(["bench/curriculum.py", *sys.argv[1:]])}
    out = Path(args.out) / machine_folder()
    out.mkdir(parents=True, exist_ok=True)
    (out / "curriculum.md").write_text(markdown(cells, args, about))
    print(out / "curriculum.md")


if __name__ == "__main__":
    main()
