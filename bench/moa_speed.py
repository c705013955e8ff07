#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What attention plans make of time and memory: `hydralm bench` and `generate` without a plan, under uniform ones and
# under those of specs/moa.md at equal densities, all methods in turn in each round; llama.cpp beside them where it runs
# the same. Prefill and decode at a depth, one sequence and a batch, keys of three types; the largest batch of equal KV
# memory; peak memory of a process; a block of the shape of an 8B model, Hydra's and BlockFFN's decoders with random
# weights. Writes bench/results/MACHINE/moa_speed.{md,json}. Not here: what plans do to answers (`hydralm eval`).
#   bench/moa_speed.py [BUILD] [--rounds 5] [--depth 8000] [--tokens 32] [--plans DIR] [--peers 1] [--only TEXT] ...
import json
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Meter, Page, arguments, built, median, peak, prose, quotients, run, spread, steady_words, verdict
from memory import prompt
from peers.sides import Ggml
from safetensors.numpy import save_file

DENSITIES = (0.5, 0.25, 0.125)
DENSE, PEER = "dense", "llama.cpp"
BLOCK = Path(".cache/models/llama-8b-block")
KEYS = ("f16", "f32", "q8_0")
BATCH, EQUAL_BATCH = 8, 4  # sequences; of the dense side where KV memory is equal
READ_GOAL, UNIFORM_GOAL, EQUAL_GOAL = 0.9, 0.95, 0.85
# row -> (model, keys, what); what: prefill, or decode of so many sequences, or a name of its own
ROWS = {}
for _keys in KEYS:
    ROWS |= {
        f"SmolLM2 Q8_0, {_keys} keys: prefill": ("SmolLM2", _keys, "prefill"),
        f"SmolLM2 Q8_0, {_keys} keys: decode": ("SmolLM2", _keys, 1),
        f"SmolLM2 Q8_0, {_keys} keys: decode, batch {BATCH}": ("SmolLM2", _keys, BATCH)}
ROWS |= {
    "SmolLM2 Q8_0, f16 keys: equal KV memory": ("SmolLM2", "f16", "equal"),
    "SmolLM2 Q8_0, f16 keys: peak memory": ("SmolLM2", "f16", "peak"),
    "a block of an 8B, f16 keys: prefill": ("8B block", "f16", "prefill"),
    f"a block of an 8B, f16 keys: decode, batch {BATCH}": ("8B block", "f16", BATCH),
    f"hydra-29m Q8_0, f16 keys: decode, batch {BATCH}": ("hydra-29m", "f16", BATCH),
    f"blockffn-30m Q8_0, f16 keys: decode, batch {BATCH}": ("blockffn-30m", "f16", BATCH)}
HEADS = {"SmolLM2": 3, "8B block": 8, "hydra-29m": 6, "blockffn-30m": 4}  # of keys, a layer
WINDOWS = {"hydra-29m": 256}  # of layers that see no more


def write_block():
    """One layer of the shape of an 8B model (random weights, f16) and a vocabulary that costs nothing."""
    if (BLOCK / "config.json").exists():
        return
    D, F, heads, kv, head, vocab = 4096, 14336, 32, 8, 128, 1024
    BLOCK.mkdir(parents=True, exist_ok=True)
    draw = np.random.default_rng(1)
    shapes = {"self_attn.q_proj": (heads * head, D), "self_attn.k_proj": (kv * head, D),
              "self_attn.v_proj": (kv * head, D), "self_attn.o_proj": (D, heads * head), "mlp.gate_proj": (F, D),
              "mlp.up_proj": (F, D), "mlp.down_proj": (D, F)}
    tensors = {f"model.layers.0.{name}.weight": (draw.standard_normal(shape, np.float32) / np.sqrt(shape[1]))
               .astype(np.float16) for name, shape in shapes.items()}
    tensors["model.embed_tokens.weight"] = draw.standard_normal((vocab, D), np.float32).astype(np.float16)
    for name in ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm"):
        tensors[f"{name}.weight"] = np.ones(D, np.float32)
    save_file(tensors, BLOCK / "model.safetensors")
    (BLOCK / "config.json").write_text(json.dumps(
        {"model_type": "llama", "vocab_size": vocab, "hidden_size": D, "intermediate_size": F, "num_hidden_layers": 1,
         "num_attention_heads": heads, "num_key_value_heads": kv, "head_dim": head, "tie_word_embeddings": True,
         "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "max_position_embeddings": 8192, "torch_dtype": "float16"}))


def uneven(units, density):
    """Rules of one density whose spans differ: every other unit short, the others as long as that leaves."""
    short = min(density / 4, 0.03125)
    return [short if unit % 2 else min(1.0, 2 * density - short) for unit in range(units)]


class Sides:
    """The models, their plans, and the programs."""

    def __init__(self, args, folder):
        self.args, self.hydralm, self.folder = args, built(args.build), Path(folder)
        self.meter = Meter(self.hydralm, args)
        write_block()
        if args.model:
            smollm2 = Path(args.model)
        else:
            smollm2 = Path(run("bench/peers/models.sh").strip()) / "SmolLM2-135M-Instruct.Q8_0.gguf"
        self.flags = {"SmolLM2": ["-m", smollm2], "8B block": ["-m", BLOCK],
                      "hydra-29m": ["--preset", "hydra-29m", "--type", "q8_0"],
                      "blockffn-30m": ["--preset", "blockffn-30m", "--type", "q8_0"]}
        self.file = smollm2
        self.peer = Ggml("llama_cpp", args, {f"-fa {f}": ["-fa", f] for f in ("off", "on")}) if args.peers else None
        self.plans = {}

    def plans_of(self, model):
        """method -> plan file. Uniform ones and, where no plan was found for the model, uneven ones are made here."""
        if model in self.plans:
            return self.plans[model]
        what = [flag for flag in self.flags[model] if flag not in ("--type", "q8_0")]
        named = [tensor["name"] for tensor in
                 json.loads(run(self.hydralm, "inspect", *what, "--tensors", "--json", "-q"))["tensors"]]
        layers = 1 + max(int(found[1]) for name in named if (found := re.search(r"layers\.(\d+)\.", name)))
        has = {int(found[1]) for name in named if (found := re.search(r"layers\.(\d+)\..*k_proj\.weight$", name))}
        heads = self.args.heads if model == "SmolLM2" and self.args.heads else HEADS[model]
        window, made = WINDOWS.get(model), {}
        for density in DENSITIES:
            shares = uneven(heads * len(has), density)
            for kind, betas in (("uniform", [density] * len(shares)), ("MoA", shares)):
                path, rest = self.folder / f"{model}-{kind}-{density}.json", iter(betas)
                lists = [[next(rest) for _ in range(heads)] if layer in has else [] for layer in range(layers)]
                zeros = [[0] * len(one) for one in lists]
                rules = {"alphas": zeros, "betas": lists}
                if window:
                    rules = {"alphas": [[window * share for share in one] for one in lists], "betas": zeros}
                path.write_text(json.dumps(rules))
                made[f"{kind} {density}"] = path
            found = self.args.plans and Path(self.args.plans) / f"smollm2-r{int(100 * density)}.json"
            if model == "SmolLM2" and found and found.exists():
                made[f"MoA {density}"] = found
        self.plans[model] = made
        return made

    def bench(self, model, keys, plan, test, batch):
        p, n, d = test
        words = ["-p", p, "-n", n, "-d", d, "-b", batch, "-r", 1, "--kv-dtype", keys, "-t", self.args.threads]
        return json.loads(run(self.hydralm, "bench", *self.flags[model], *words, *(["--plan", plan] if plan else []),
                              "-o", "json", "-q"))[0]

    def measure(self, key):
        model, keys, what = ROWS[key]
        if what == "peak":
            return self.peak(model)
        plans = {DENSE: None, **self.plans_of(model)}
        test = (self.args.depth, 0, 0) if what == "prefill" else (0, self.args.tokens, self.args.depth)
        batches = {method: what if isinstance(what, int) else 1 for method in plans}
        if what == "equal":  # as many sequences as have room in the memory of the dense ones
            for method in plans:
                share = 1.0 if method == DENSE else float(method.split()[1])
                batches[method] = int(EQUAL_BATCH / share)
            plans = {method: plan for method, plan in plans.items() if "uniform" not in method}

        def once():
            made = {method: self.bench(model, keys, plan, test, batches[method]) for method, plan in plans.items()}
            return made, self.theirs(model, keys, what, test)

        rounds = []
        for _ in range(self.args.rounds):
            (made, theirs), note = self.meter.steady(once)
            rounds.append({"ours": made, "theirs": theirs, **note})
        row = {"rounds": rounds, "void": any(one["void"] for one in rounds)}
        print(f"{key}: " + ", ".join(f"{method} {median(rates(row, method)):.1f}" for method in plans), file=sys.stderr)
        return row

    def theirs(self, model, keys, what, test):
        """Tokens a second of each call of the peer that runs it; batches are another program's."""
        if self.peer is None or model != "SmolLM2" or what not in ("prefill", 1):
            return {}
        made = {call: self.peer.rate(self.file, test, call, keys) for call in self.peer.calls}
        return {call: rate for call, rate in made.items() if isinstance(rate, float)}

    def peak(self, model):
        """Bytes resident at most of a process that fills its context; sizes, not times: once."""
        path, tokens = prompt(self.hydralm, self.file, self.args.depth, self.folder)
        made = {}
        for method, plan in {DENSE: None, **self.plans_of(model)}.items():
            made[method] = peak(self.hydralm, "generate", "-m", self.file, "-f", path, "-n", 16, "--temp", 0, "-q",
                                "-t", self.args.threads, *(["--plan", plan] if plan else []))
        return {"tokens": tokens, "bytes": made, "void": False}


def rates(row, method):
    return [one["ours"][method]["tok_per_s"]["median"] for one in row["rounds"]]


def peer_rates(row):
    """Of the call with the highest median."""
    calls = row["rounds"][0]["theirs"]
    best = [[one["theirs"][call] for one in row["rounds"]] for call in calls]
    return max(best, key=median, default=[])


def ratio(row, method, base):
    return quotients(rates(row, method), rates(row, base))


def moved(row, method):
    one = row["rounds"][0]["ours"][method]
    return sum(one["bytes_per_tok"].values())


def shares(row, method):
    """Of the read rate beside it, in decode."""
    return [one["ours"][method]["gb_per_s"] / one["ours"][method]["read_gb_per_s"] for one in row["rounds"]]


def speed_lines(key, row):
    _, _, what = ROWS[key]
    for method in row["rounds"][0]["ours"]:
        one = row["rounds"][0]["ours"][method]
        goal, values = None, []
        if what == "equal" and method != DENSE:
            goal, values = round(EQUAL_GOAL / float(method.split()[1]), 2), ratio(row, method, DENSE)
        elif what == BATCH and method.startswith("MoA 0.25"):
            goal, values = READ_GOAL, shares(row, method)
        twin = f"uniform {method.split()[1]}" if method.startswith("MoA") and what != "equal" else None
        against = ratio(row, method, twin) if twin else []
        allowed = moved(row, DENSE) / moved(row, method) if what != "prefill" else None
        yield (f"| {key} | {method} | {one['b']} | {spread(rates(row, method))} | "
               f"{spread(ratio(row, method, DENSE), 2)} | {f'{allowed:.2f}' if allowed else ''} | "
               f"{one['kv_bytes'] / 2**20:.1f} | {moved(row, method) / 1e6:.2f} | "
               f"{spread(shares(row, method), 2) if what != 'prefill' else one.get('key_tiles', '')} | "
               f"{verdict(values, goal, row['void'])} | {spread(against, 3)} | "
               f"{verdict(against, UNIFORM_GOAL, row['void']) if against else ''} |")
    if theirs := peer_rates(row):
        of_dense = quotients(theirs, rates(row, DENSE))
        yield f"| {key} | {PEER} | 1 | {spread(theirs)} | {spread(of_dense, 2)} |" + " |" * 7


def peak_lines(row):
    dense = row["bytes"][DENSE]
    for method, had in row["bytes"].items():
        yield f"| {method} | {had / 2**20:.1f} | {dense / had:.2f} |"


def text(page, args):
    out = [
        "# Attention plans: time and memory", "",
        page.head(f"`hydralm bench` at {args.depth} tokens, {args.tokens} tokens decoded; in each round all methods "
                  "take turns, and a ratio is that of each round. Dense is no plan. MoA and uniform plans of one "
                  "number have equal density. Where no plan was found for a model, MoA stands for uneven rules of "
                  "that density, every other unit short: what the kernels see of a plan is how its spans differ. "
                  "Figures are median (min .. max) over the rounds. " + steady_words()), "",
        prose("Allowed is the ratio of the bytes that a step moves, which bounds what a plan can gain where reading "
              "is all. The share is GB/s moved of the read rate measured beside it; of a prompt stand the tiles of 64 "
              "x 64 that were computed. A block of an 8B is one layer of its shape (32 heads, 8 KV heads of 128, "
              "width 4096, f16 weights), hydra-29m and blockffn-30m have random weights."), "",
        "| row | method | sequences | tok/s | of dense | allowed | KV MiB | MB a token | share of the read rate, or "
        "tiles | goal | MoA / uniform | goal |", "|---" * 12 + "|"]
    for key, row in page.rows.items():
        if ROWS[key][2] != "peak":
            out += speed_lines(key, row)
    for key, row in page.rows.items():
        if ROWS[key][2] == "peak":
            out += ["", prose(f"Resident at most of `hydralm generate` over {row['tokens']} tokens (VmHWM; weights, "
                              "program and working memory included):"), "", "| method | MiB | dense / this |",
                    "|---" * 3 + "|", *peak_lines(row)]
    return out


def main():
    parser = arguments("time and memory under attention plans", rounds=5, threads=2)
    parser.add_argument("--depth", type=int, default=8000, help="tokens of a prompt, and held before decoding")
    parser.add_argument("--tokens", type=int, default=32, help="decoded")
    parser.add_argument("--plans", default="examples/plans", help="folder of smollm2-r50.json, r25, r12")
    parser.add_argument("--model", default="", help="another model in SmolLM2's place")
    parser.add_argument("--heads", type=int, default=0, help="its KV heads")
    parser.add_argument("--peers", type=int, default=1, help="0: ours alone")
    args = parser.parse_args()
    args.isa = "native"
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(args, folder)
        Page("moa_speed", args, list(ROWS), lambda page: text(page, args)).measure(sides.measure)


if __name__ == "__main__":
    main()
