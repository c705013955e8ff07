#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What guessing tokens ahead gains and costs: `hydralm generate` with and without --spec on the same prompts, greedy,
# and llama.cpp's lookup decoding beside its plain decoding. In each round all sides take a prompt in turn. A text that
# differs from that of plain decoding ends the script. Writes bench/results/MACHINE/speculation.{md,json}. Needs `make
# demo` to have run. Not here: the prompts (spec_prompts.py).
#   bench/speculation.py [BUILD] [--rounds 5] [--tries 3] [--threads 2] [--only TEXT] [--out bench/results]
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
from common import Meter, Page, arguments, built, median, need, prose, quotients, run, spread, steady_words, verdict
from safetensors.numpy import save_file
from spec_prompts import bible, smollm2

TOKENS = 128
DEMO, DEMO_DATA = Path("runs/demo/model"), Path("data/demo")
MAMBA_RUN, MAMBA_STEPS = Path("runs/speculation/mamba2-nano"), 300
WRONG = Path(".cache/models/wrong-drafter")
PLAIN, LOOKUP, LOOKUP_PLAIN = "off", "llama.cpp lookup", "llama.cpp"
NEVER_BELOW, COPIES_GOAL = 0.97, 1.5
# row -> model, class of prompts, drafters
ROWS = {f"SmolLM2 Q8_0: {kind}": ("SmolLM2", kind, ["ngram", "always wrong"])
        for kind in ("copies", "code", "prose", "lists", "noise", "summaries")}
ROWS |= {
    "hydra-nano of make demo: Bible": ("hydra-nano", "Bible", ["ngram", "self", "mamba2-nano"]),
    "mamba2-nano: Bible": ("mamba2-nano", "Bible", ["ngram"])}


def wrong_drafter(hydralm, smollm2_file):
    """A small model of random weights with SmolLM2's tokenizer: it guesses with confidence, and wrongly."""
    if not (WRONG / "config.json").exists():
        run(hydralm, "convert", smollm2_file, "-o", WRONG, "--dtype", "bf16")
        config = json.loads((WRONG / "config.json").read_text())
        D, F, vocab = 64, 128, config["vocab_size"]
        for path in WRONG.glob("*.safetensors*"):
            path.unlink()
        draw = np.random.default_rng(1)
        layer = "model.layers.0."
        shapes = {"model.embed_tokens.weight": (vocab, D), f"{layer}self_attn.q_proj.weight": (D, D),
                  f"{layer}self_attn.k_proj.weight": (D, D), f"{layer}self_attn.v_proj.weight": (D, D),
                  f"{layer}self_attn.o_proj.weight": (D, D), f"{layer}mlp.gate_proj.weight": (F, D),
                  f"{layer}mlp.up_proj.weight": (F, D), f"{layer}mlp.down_proj.weight": (D, F)}
        weights = {name: draw.normal(0, 0.1, shape).astype(np.float32) for name, shape in shapes.items()}
        weights |= {name: np.ones(D, np.float32) for name in (
            "model.norm.weight", f"{layer}input_layernorm.weight", f"{layer}post_attention_layernorm.weight")}
        save_file(weights, WRONG / "model.safetensors")
        config |= {"hidden_size": D, "intermediate_size": F, "num_hidden_layers": 1, "num_attention_heads": 2,
                   "num_key_value_heads": 2, "head_dim": D // 2, "torch_dtype": "float32"}
        (WRONG / "config.json").write_text(json.dumps(config))
    return WRONG


def mamba(hydralm):
    """mamba2-nano, trained a little on the demo's text; as quality_model.py it goes on where it stopped."""
    model = MAMBA_RUN / "model"
    if not (model / "config.json").exists():
        run("nice", "-n", 19, hydralm, "train", "--preset", "mamba2-nano", "--data", DEMO_DATA, "--run", MAMBA_RUN,
            "--seq-len", 512, "--batch", 4, "--steps", MAMBA_STEPS, "-q")
    return model


class Sides:
    """All programs and what they read."""

    def __init__(self, args):
        self.args, self.hydralm = args, built(args.build)
        self.meter = Meter(self.hydralm, args, arithmetic=True)
        self.llama = Path(run("bench/peers/ggml.sh", "llama_cpp").strip())
        q8 = Path(run("bench/peers/models.sh").strip()) / "SmolLM2-135M-Instruct.Q8_0.gguf"
        need(DEMO, "make demo")
        self.models = {"SmolLM2": q8, "hydra-nano": DEMO, "mamba2-nano": mamba(self.hydralm)}
        self.drafters = {"always wrong": wrong_drafter(self.hydralm, run("tools/smollm2.sh").strip()),
                         "mamba2-nano": self.models["mamba2-nano"]}
        self.prompts = {**smollm2(), "Bible": bible()}

    def ours(self, model, prompt, drafter):
        made = json.loads(run(
            self.hydralm, "generate", "-m", self.models[model], "-p", prompt, "-n", TOKENS, "--temp", 0, "-t",
            self.args.threads, "--spec", self.drafters.get(drafter, drafter), "--json", "-q"))
        return {"seconds": made["decode_seconds"], "tokens": max(made["tokens"] - 1, 0), "text": made["text"],
                "speculation": made.get("speculation")}

    def theirs(self, prompt, program, pattern):
        words = [self.llama / program, "-m", self.models["SmolLM2"], "-p", prompt, "-n", TOKENS, "--temp", 0, "-t",
                 self.args.threads]
        if program == "llama-completion":
            words += ["-no-cnv", "--no-display-prompt"]
        made = subprocess.run([str(word) for word in words], capture_output=True, text=True, errors="replace")
        found = re.search(pattern, made.stdout + made.stderr)
        if made.returncode or not found:
            sys.exit(f"{program}: {made.stderr.strip().splitlines()[-1:]}")
        return {"seconds": float(found["seconds"]) * (1e-3 if program == "llama-completion" else 1),
                "tokens": int(found["tokens"])}

    def round(self, model, kind, drafters):
        """side -> what it did with each prompt. Each prompt begins with the next side."""
        calls = {side: lambda prompt, side=side: self.ours(model, prompt, side) for side in [PLAIN, *drafters]}
        if model == "SmolLM2" and kind != "summaries":
            calls[LOOKUP_PLAIN] = lambda prompt: self.theirs(
                prompt, "llama-completion", r"\beval time = +(?P<seconds>[\d.]+) ms / +(?P<tokens>\d+) runs")
            calls[LOOKUP] = lambda prompt: self.theirs(
                prompt, "llama-lookup", r"decoded +(?P<tokens>\d+) tokens in +(?P<seconds>[\d.]+) seconds")
        made = {side: [] for side in calls}
        for i, prompt in enumerate(self.prompts[kind]):
            for k in range(len(calls)):
                side = list(calls)[(i + k) % len(calls)]
                made[side].append(calls[side](prompt))
        for drafter in drafters:
            for plain, guessed in zip(made[PLAIN], made[drafter]):
                if plain.pop("text", guessed["text"]) != guessed.pop("text"):
                    sys.exit(f"{model}, {kind}, {drafter}: the text differs from that of plain decoding")
        return made

    def measure(self, key):
        model, kind, drafters = ROWS[key]
        rounds = []
        for _ in range(self.args.rounds):
            made, note = self.meter.steady(lambda: self.round(model, kind, drafters))
            rounds.append({"sides": made, **note})
        row = {"rounds": rounds, "void": any(one["void"] for one in rounds)}
        for side in rounds[0]["sides"]:
            if side not in (PLAIN, LOOKUP_PLAIN):
                print(f"{key}, {side}: {spread(ratios_of(row, side), 2)}", file=sys.stderr)
        return row


def rates(row, side):
    """Tokens a second over all prompts, of each round."""
    return [sum(p["tokens"] for p in one["sides"][side]) / sum(p["seconds"] for p in one["sides"][side])
            for one in row["rounds"]]


def ratios_of(row, side):
    return quotients(rates(row, side), rates(row, LOOKUP_PLAIN if side == LOOKUP else PLAIN))


def worst(row, side):
    """The lowest of the prompts' median ratios; prompts of a few tokens say nothing."""
    sides = [one["sides"] for one in row["rounds"]]
    base = LOOKUP_PLAIN if side == LOOKUP else PLAIN
    ratios = [median([one[base][i]["seconds"] / one[side][i]["seconds"] for one in sides])
              for i, prompt in enumerate(sides[0][PLAIN]) if prompt["tokens"] >= 16 and side != LOOKUP]
    return f"{min(ratios):.2f}" if ratios else ""


def guesses(row, side):
    """Tokens a pass, the share of right guesses by place, MB a token, over the prompts of the last round."""
    made = [p["speculation"] for p in row["rounds"][-1]["sides"][side] if p.get("speculation")]
    if not made:
        return " |  | "
    passes, tokens = (sum(one[key] for one in made) for key in ("passes", "tokens"))
    tried, right = ([sum(places) for places in zip(*(one[key] for one in made))] for key in ("tried", "right"))
    moved = sum(one["bytes_per_token"] * one["tokens"] for one in made) / max(tokens, 1)
    places = " ".join(f"{r / t:.2f}" for r, t in zip(right, tried) if t)
    return f"{tokens / max(passes, 1):.2f} | {places} of {sum(tried)} | {moved / 1e6:.1f}"


def lines(page):
    for key, row in page.rows.items():
        for side in row["rounds"][0]["sides"]:
            if side in (PLAIN, LOOKUP_PLAIN):
                continue
            goal = None if side == LOOKUP else COPIES_GOAL if "copies" in key and side == "ngram" else NEVER_BELOW
            plain = LOOKUP_PLAIN if side == LOOKUP else PLAIN
            yield (f"| {key} | {side} | {spread(rates(row, plain))} | {spread(rates(row, side))} | "
                   f"{spread(ratios_of(row, side), 3)} | {worst(row, side)} | "
                   f"{verdict(ratios_of(row, side), goal, row['void'])} | {guesses(row, side)} |")


def text(page):
    return [
        "# Guessing tokens ahead", "",
        page.head(f"`hydralm generate --spec`, up to 4 guesses a pass, greedy, {TOKENS} tokens at most for each of 20 "
                  "prompts of a class (bench/spec_prompts.py); a process for each text and side, which take turns "
                  "prompt by prompt, another one first each time. A rate is that of decoding, over all prompts of a "
                  "class; figures are median (min .. max) over the rounds. All texts with guesses are those without, "
                  "to the letter. " + steady_words(arithmetic=True)), "",
        prose("\"Copies\" ask to repeat a text, and to write a function once more with a parameter renamed; "
              "\"summaries\" ask for sentences to be quoted, of which this model quotes few: what it writes is mostly "
              "its own. \"Always wrong\" is a small model of random weights. The goals are those of a class; the worst "
              f"prompt is the lowest median ratio of a prompt. mamba2-nano was trained for {MAMBA_STEPS} steps on the "
              "demo's text. llama.cpp is its lookup decoding (`llama-lookup`), against its plain decoding "
              "(`llama-completion`), whose texts may differ from ours."), "",
        "| prompts | drafter | plain tok/s | with guesses tok/s | ratio | worst prompt | goal | tokens a pass | right, "
        "by place | MB a token |", "|---" * 10 + "|", *lines(page)]


def main():
    args = arguments("time decoding with and without guesses", rounds=5, threads=2).parse_args()
    Page("speculation", args, list(ROWS), text).measure(Sides(args).measure)


if __name__ == "__main__":
    main()
