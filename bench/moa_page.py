# SPDX-License-Identifier: Apache-2.0
# The page of the study of attention plans: tables of the cells that are there. Not here: the cells (moa.py).
import json
import re
from pathlib import Path

from cells import table
from common import machine_folder, prose

KINDS = ("copy", "lookup", "passkey")
TEXT_KINDS = ("cloze", "continuation")  # what a document itself says next
ENOUGH = 0.9  # share of right answers of the dense model from which a cell enters a ratio
GOALS = {0.5: 0.95, 0.25: 0.8}  # of the dense model's answers
MOST_DROP = {0.5: 0.05}  # of right choices of what a document says next, relative to dense


def interval(value):
    return f"{value['mean']:.2f} ({value['low']:.2f} .. {value['high']:.2f})"


def gate_lines(cells):
    rows = {}
    for cell in cells.values():
        if found := re.fullmatch(r"gate-(chat|raw)-(\w+)-(\d+)", cell["name"]):
            rows.setdefault((found[1], found[2]), {})[int(found[3])] = cell
    lengths = sorted({length for of in rows.values() for length in of})
    lines = [[form, kind, *(f"{of[n]['right']:.2f}, {of[n]['nll']:.2f}" if n in of else "" for n in lengths)]
             for (form, kind), of in sorted(rows.items())]
    return ["## What the dense model answers", "",
            prose("Share of right answers and nats a token of the right answer, on calibration documents, before any "
                  "plan was made. Test prompts have the form with more right answers."), "",
            *table(["form", "question", *map(str, lengths)], lines)] if rows else []


def profile_lines(cells):
    lines = [[name, str(row["length"]), str(row["items"]), f"{row['loss']:.3f}",
              *(f"{row['halves'][e]:.3f}" if row["halves"][e] is not None else "" for e in ("jabs", "jsgn", "f"))]
             for name, cell in sorted(cells.items()) if name.startswith("profile-") for row in cell["lengths"]]
    return ["## Profiles", "", "Rank correlation of two halves of the items, all heads' curves; stable from 0.9 on:",
            "", *table(["profile", "length", "items", "loss", "jabs", "jsgn", "f"], lines)] if lines else []


def plan_lines(cells):
    out = []
    lines = []
    for name, cell in sorted(cells.items()):
        if name.startswith("plans-"):
            judged = {plan["name"]: plan for plan in cell["answers"]["plans"]}
            best = judged[cell["answers"]["chosen"]]
            heads = cell["heads"]
            lines.append([cell["answers"]["chosen"], str(len(cell["set"]["plans"])), f"{best['loss']:.4f}",
                          f"{best['above_first']:+.4f} +- {best['above_error']:.4f}",
                          f"{heads['grow']} / {heads['local']} / {heads['whole']}"])
    if lines:
        out += ["## Plans", "", "The plan that was chosen of each set by answers at a length that none was made for:",
                "", *table(["plan", "of", "nats", "above dense", "heads that grow / stay / see all"], lines)]
    order = [[name.split("-")[-1], f"{of['rank_correlation']:.3f}" if of["rank_correlation"] is not None else "",
              str(of["plans"])] for name, cell in sorted(cells.items()) if name.startswith("first-order-")
             for of in cell["first_order"].values()]
    if order:
        out += ["Rank correlation of predicted and true loss over plans by chance (0.7 was to be reached):", "",
                *table(["length", "correlation", "plans"], order)]
    return out


# What a table of answers shows; of what documents say next.
WORDS = ("Share of right answers from the rings of the runtime, 95% interval over texts; in bold where the dense model "
         f"is right in {ENOUGH:.0%} of the cell, which alone enters a ratio.",
         "Share of right choices, by log-probability, from the rings of the runtime, 95% interval over texts; chance "
         "is 0.10 for a word (cloze), 0.25 for a passage (continuation).")


def test_lines(cells):
    out = []
    for kind in (*KINDS, *TEXT_KINDS):
        rows = {}
        for name, cell in cells.items():
            if found := re.fullmatch(rf"test-{kind}-(\d+)", name):
                for plan in cell["plans"]:
                    for one in plan["cells"]:
                        if one["kind"] == kind:
                            rows.setdefault(plan["name"], {})[int(found[1])] = one
        lengths = sorted({length for of in rows.values() for length in of})
        if not rows:
            continue
        dense = rows.get("dense", {})
        out += [f"## Answers: {kind}", "",
                prose(WORDS[kind in TEXT_KINDS]), ""]
        lines = []
        for name, of in rows.items():
            shown = []
            for n in lengths:
                text = interval(of[n]["accuracy"]) if n in of else ""
                strong = n in of and n in dense and dense[n]["accuracy"]["mean"] >= ENOUGH
                shown.append(f"**{text}**" if strong else text)
            lines.append([name, *shown])
        out += table(["plan", *map(str, lengths)], lines)
        lines = [[name, *(f"{of[n]['nll']['mean']:.3f}" if n in of else "" for n in lengths)]
                 for name, of in rows.items()]
        out += ["Nats a token of the right answer:", "", *table(["plan", *map(str, lengths)], lines)]
    return out


def ratio_lines(cells, densities):
    """Plans and uniform against dense, over the cells in which dense answers."""
    lines = []
    for density in densities:
        for kind in KINDS:
            for name, cell in sorted(cells.items()):
                if not (found := re.fullmatch(rf"test-{kind}-(\d+)", name)):
                    continue
                of = {plan["name"]: next((c for c in plan["cells"] if c["kind"] == kind), None)
                      for plan in cell["plans"]}
                dense = of.get("dense")
                moa = next((c for n, c in of.items() if re.search(rf"moa-1-r{density:g}(-\d+)?$", n)), None)
                uniform = next((c for n, c in of.items() if n.endswith(f"uniform-r{100 * density:02.0f}")), None)
                if not (dense and moa and uniform) or dense["accuracy"]["mean"] < ENOUGH:
                    continue
                d, m, u = (c["accuracy"]["mean"] for c in (dense, moa, uniform))
                goal = GOALS.get(density)
                met = "" if goal is None else "met" if m >= goal * d else "missed"
                lines.append([f"{density:g}", kind, found[1], f"{m / d:.2f}", f"{u / d:.2f}",
                              f"{m / u:.1f}" if u > 0 else "-", met])
    return ["## Against dense and uniform", "",
            prose("Right answers by those of the dense model, where that answers; and of the plan by those of the "
                  f"uniform plan. To reach: {', '.join(f'{g} at density {d:g}' for d, g in GOALS.items())}."), "",
            *table(["density", "question", "length", "plan / dense", "uniform / dense", "plan / uniform", "goal"],
                   lines)] if lines else []


def drop_lines(cells):
    """The largest relative drop of right choices, over kinds and lengths, of each plan."""
    drops = {}
    for kind in TEXT_KINDS:
        for name, cell in sorted(cells.items()):
            if not (found := re.fullmatch(rf"test-{kind}-(\d+)", name)):
                continue
            right = {plan["name"]: one["accuracy"]["mean"] for plan in cell["plans"] for one in plan["cells"]
                     if one["kind"] == kind}
            for plan, share in right.items():
                if plan != "dense" and right.get("dense", 0) > 0:
                    drops.setdefault(plan, []).append((1 - share / right["dense"], f"{kind} {found[1]}"))
    goals = ", ".join(f"{goal:.0%} at density {d:g}" for d, goal in MOST_DROP.items())
    return ["## What documents say next: the largest drop", "",
            prose(f"Against the dense model, over questions and lengths; at most {goals} was to be reached."), "",
            *table(["plan", "largest drop", "where"],
                   [[plan, f"{max(of)[0]:+.1%}", max(of)[1]] for plan, of in drops.items()])] if drops else []


def perplexity_lines(cells):
    if "perplexity" not in cells:
        return []
    plans = cells["perplexity"]["plans"]
    first = plans[0]["perplexity"]
    return ["## Perplexity", "", "Of the last quarter of each chunk of held-out prose:", "",
            *table(["plan", "density", "perplexity", "by dense"],
                   [[p["name"], f"{p['density']:.3f}", f"{p['perplexity']:.3f}", f"{p['perplexity'] / first:.3f}"]
                    for p in plans])]


def write_page(out, name, densities, cells, about):
    """moa.md and moa.json in the machine's folder of `out`; `name` is the model's."""
    folder = Path(out) / machine_folder()
    lines = ["# Attention plans: what they do to answers", "",
             prose(f"{about['machine']}; commit {about['commit']}; {name}. Made by `{about['command']}`. Texts, "
                   "words and numbers of calibration, choice and test are apart; prompts and fillers were fixed before "
                   "the first plan. Chance is 1e-5 for numbers of five digits."), ""]
    for part in (gate_lines(cells), profile_lines(cells), plan_lines(cells), test_lines(cells),
                 ratio_lines(cells, densities), drop_lines(cells), perplexity_lines(cells)):
        lines += part
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "moa.json").write_text(json.dumps({**about, "cells": cells}, indent=1) + "\n")
    (folder / "moa.md").write_text("\n".join(lines).rstrip() + "\n")
    print(folder / "moa.md")
