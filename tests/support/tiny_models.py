# SPDX-License-Identifier: Apache-2.0
# What the tests of the runtime's verbs share: running commands, tiny models of random weights as folders with a
# tokenizer. Not a test itself.
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

VOCAB = 320
FAMILIES = {
    "hydra": dict(model_type="hydra", vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3, torch_dtype="float32",
                  layer_types=["ssm_moe", "ssm_sga", "ssm_moe"], workspace_layers=[1], pkm_layers=[2],
                  model_chunk_size=8, mamba_n_heads=4, mamba_d_head=16, mamba_d_state=8, mamba_chunk_size=16,
                  num_attention_heads=2, num_key_value_heads=2, head_dim=16, sliding_window=16, landmark_budget=8,
                  num_experts=4, moe_intermediate_size=16, workspace_slots=8, workspace_rank=8, workspace_write_slots=4,
                  pkm_n_keys=8, pkm_d_key=8, pkm_d_value=16, pkm_top_k=2, tie_word_embeddings=True),
    "llama": dict(model_type="llama", vocab_size=VOCAB, hidden_size=48, num_hidden_layers=2, intermediate_size=80,
                  num_attention_heads=6, num_key_value_heads=2, rms_norm_eps=1e-5, rope_theta=10000.0,
                  hidden_act="silu", tie_word_embeddings=False, torch_dtype="float32", max_position_embeddings=256),
    "mamba2": dict(model_type="mamba2", vocab_size=VOCAB, hidden_size=32, num_hidden_layers=2, state_size=16, expand=2,
                   head_dim=16, num_heads=4, n_groups=1, conv_kernel=4, chunk_size=16, layer_norm_epsilon=1e-5,
                   tie_word_embeddings=True, torch_dtype="float32", time_step_limit=[0.0, float("inf")]),
    "blockffn": dict(model_type="minicpm", vocab_size=VOCAB, hidden_size=32, num_hidden_layers=3,
                     num_attention_heads=2, attention_type="mla", q_lora_rank=16, kv_lora_rank=24, qk_nope_head_dim=8,
                     qk_rope_head_dim=4, rope_theta=10000.0, rms_norm_eps=1e-5, scale_emb=2.0, scale_depth=1.4,
                     dim_model_base=32, num_experts=8, expert_size=16, norm_after_router="rms",
                     tie_word_embeddings=False, torch_dtype="float32", max_position_embeddings=256),
}


def run(*command, text=True, env=None, **options):
    """stdout, stderr and status of a command, away from the caller's variables and terminal."""
    full = {key: value for key, value in os.environ.items() if not key.startswith("HYDRALM_ARG_")}
    full.update(env or {})
    if "input" not in options:
        options["stdin"] = subprocess.DEVNULL
    return subprocess.run(command, capture_output=True, text=text, env=full, timeout=120, **options)


def must(*command):
    done = run(*command)
    if done.returncode != 0:
        sys.exit(f"{command}: status {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def make_text(seed, words=2000):
    """Words that follow from one another."""
    rng = random.Random(seed)
    known = ["".join(rng.choice("abcdefghijklmno") for _ in range(rng.randint(1, 6))) for _ in range(60)]
    at, text = 0, []
    for _ in range(words):
        text.append(known[at])
        at = rng.randrange(60) if rng.random() < 0.2 else (at * 7 + 3) % 60
    return " ".join(text)


def make_tokenizer(hydralm, folder):
    """tokenizer.json of VOCAB tokens; <|endoftext|>, <|im_start|> and <|im_end|> are 0, 1 and 2."""
    text = Path(folder) / "text.txt"
    text.write_text(make_text(1), encoding="utf-8")
    specials = [word for token in ("<|endoftext|>", "<|im_start|>", "<|im_end|>") for word in ("--special", token)]
    must(hydralm, "tokenizer", "train", str(text), "--vocab", str(VOCAB), *specials, "-o", f"{folder}/tokenizer.json",
         "-q")
    return f"{folder}/tokenizer.json"


def make_model(hydralm, folder, family, tokenizer, seed=1, **changes):
    """A model folder of unit-gain random weights, so that its texts wander."""
    folder = Path(folder)
    folder.mkdir()
    config = {**FAMILIES[family], **changes}
    (folder / "config.json").write_text(json.dumps(config))
    listed = json.loads(must(hydralm, "inspect", "-m", str(folder), "--tensors", "--json"))["tensors"]
    rng = np.random.default_rng(seed)
    tensors = {}
    for tensor in listed:
        shape = tensor["shape"]
        gain = 1 / np.sqrt(shape[-1]) if len(shape) > 1 else 0.1
        values = rng.normal(size=shape) * gain
        norms = ("norm.weight", "norm_f.weight", "norm1.weight", "norm2.weight", "layernorm.weight")
        if tensor["name"].endswith(norms):
            values = 1 + values
        tensors[tensor["name"]] = values.astype(np.float32)
    save_file(tensors, str(folder / "model.safetensors"))
    (folder / "tokenizer.json").write_bytes(Path(tokenizer).read_bytes())
    return str(folder)


def without_ends(folder):
    """The same model, which never picks the special tokens as the most probable ones: its texts end where one says."""
    path = str(Path(folder) / "model.safetensors")
    tensors = load_file(path)
    for values in tensors.values():
        if values.ndim == 2 and values.shape[0] == VOCAB:  # embeddings and head
            values[:3] *= 0.01
    save_file(tensors, path)
    return folder
