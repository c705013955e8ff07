# SPDX-License-Identifier: Apache-2.0
# What the tests of `hydralm train` share: a small corpus made by the real commands, a tiny model, comparing runs.
# Not a test itself.
import json
import os
import random
import subprocess
import sys
from pathlib import Path

CLOCK = {
    "train/tok_per_sec", "train/mfu", "train/step_ms", "train/data_ms", "train/other_ms", "train/mem_bytes", "seconds"}
CLOCK_STATE = {"seconds", "interval.seconds", "interval.data_seconds"}

TINY = {
    "model.preset": "hydra-nano", "model.vocab_size": 320, "model.hidden_size": 32, "model.num_hidden_layers": 3,
    "model.layer_types": ["ssm_moe", "ssm_sga", "ssm_moe"], "model.workspace_layers": [1], "model.pkm_layers": [2],
    "model.model_chunk_size": 8, "model.mamba_n_heads": 4, "model.mamba_d_head": 16, "model.mamba_d_state": 8,
    "model.mamba_chunk_size": 16, "model.num_attention_heads": 2, "model.num_key_value_heads": 2, "model.head_dim": 16,
    "model.sliding_window": 16, "model.landmark_budget": 8, "model.num_experts": 4, "model.moe_intermediate_size": 16,
    "model.workspace_slots": 8, "model.workspace_rank": 8, "model.workspace_write_slots": 4, "model.pkm_n_keys": 8,
    "model.pkm_d_key": 8, "model.pkm_d_value": 16, "model.pkm_top_k": 2, "model.torch_dtype": "float32",
}


def run(command, **options):
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, **options)
    return done.returncode, done.stdout, done.stderr


def must(command):
    status, out, err = run(command)
    if status != 0:
        sys.exit(f"{command}: status {status}\n{out}{err}")
    return out


def make_data(hydralm, folder, seed):
    """Text in which words follow from one another, a tokenizer of 320 entries, token shards."""
    rng = random.Random(seed)
    words = ["".join(rng.choice("abcdefghijklmno") for _ in range(rng.randint(1, 6))) for _ in range(60)]
    documents = []
    for _ in range(80):
        at, line = rng.randrange(60), []
        for _ in range(rng.randint(5, 80)):
            line.append(words[at])
            at = rng.randrange(60) if rng.random() < 0.2 else (at * 7 + 3) % 60
        documents.append(" ".join(line))
    text = Path(folder) / "text.jsonl"
    text.write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    plain = Path(folder) / "text.txt"
    plain.write_text("\n".join(documents))
    tokenizer = f"{folder}/tokenizer.json"
    must([hydralm, "tokenizer", "train", str(plain), "--vocab", "320", "--pattern", "gpt2", "-o", tokenizer])
    must([hydralm, "data", "build", str(text), "--tokenizer", tokenizer, "-o", f"{folder}/data", "--val", "0.1"])
    return f"{folder}/data"


def train_command(hydralm_train, data, folder, settings):
    command = [hydralm_train, "train", "--data", data, "--run", folder, "-t", "1"]
    for key, value in {**TINY, "log.peak_flops": 1e9, **settings}.items():
        command += ["--set", f"{key}={json.dumps(value) if not isinstance(value, str) else value}"]
    return command


def rows(path):
    out = []
    for line in Path(path).read_text().splitlines():
        row = json.loads(line)
        out.append({key: value for key, value in row.items() if key not in CLOCK})
    return out


def newest_checkpoint(folder):
    return Path(folder) / "ckpt" / (Path(folder) / "ckpt/latest").read_text().strip()


def differences(a, b):
    """What differs between two finished runs, clocks apart; [] when nothing does."""
    out = []
    x, y = newest_checkpoint(a), newest_checkpoint(b)
    if x.name != y.name:
        out.append(f"newest checkpoint {x.name} and {y.name}")
    for name in ("model.safetensors", "optim-00000-of-00001.safetensors"):
        if (x / name).read_bytes() != (y / name).read_bytes():
            out.append(f"{name} of {x.name}")
    read = [json.loads((c / "state.json").read_text()) for c in (x, y)]
    states = [{k: v for k, v in state.items() if k not in CLOCK_STATE} for state in read]
    out += [f"state.json: {key}" for key in states[0] if states[0][key] != states[1].get(key)]
    for name in ("train.jsonl", "val.jsonl"):
        left, right = rows(Path(a) / name), rows(Path(b) / name)
        if left != right:
            at = next((i for i, (p, q) in enumerate(zip(left, right)) if p != q), min(len(left), len(right)))
            out.append(f"{name}: {len(left)} and {len(right)} rows, the first other one is {at}")
    for name in ("train.csv", "val.csv"):
        if len((Path(a) / name).read_text().splitlines()) != len((Path(b) / name).read_text().splitlines()):
            out.append(f"{name}: rows")
    if (Path(a) / "model/model.safetensors").read_bytes() != (Path(b) / "model/model.safetensors").read_bytes():
        out.append("model/model.safetensors")
    return out


def environment():
    return {**os.environ, "OMP_NUM_THREADS": "1"}
