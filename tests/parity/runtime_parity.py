# SPDX-License-Identifier: Apache-2.0
# ctest: torch timeout=300
# The two engines of `hydralm logits` give the same numbers: random models of every family and odd sizes, read whole, in
# pieces and token by token. Not here: models of other programs (hydra/runtime/golden_test.cc).
import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

TOLERANCE = 1e-4  # specs/hydra.md 13: fp32, relative to max(1, largest logit)
T = 75


def hydra(rng, **changes):
    """A Hydra of sizes that are no multiples of any vector width; every part is in it."""
    heads, head_dim = int(rng.choice([1, 2, 3, 4])), int(rng.choice([3, 6, 8, 20]))
    chunk = int(rng.choice([3, 5, 8]))
    experts = int(rng.choice([1, 3, 5]))
    d = heads * head_dim
    config = {
        "model_type": "hydra", "vocab_size": int(rng.integers(11, 90)), "hidden_size": d, "num_hidden_layers": 4,
        "torch_dtype": "float32", "model_chunk_size": chunk, "tie_word_embeddings": bool(rng.integers(2)),
        "layer_types": ["ssm_moe", "ssm_sga", "ssm_sga_moe", "ssm"], "workspace_layers": [1, 3],
        "pkm_layers": [2], "gate_controller": bool(rng.integers(2)),
        "ssm_kind": "mamba2", "mamba_expand": 1, "mamba_n_heads": heads, "mamba_d_head": head_dim, "mamba_n_groups": 1,
        "mamba_norm_groups": 1, "mamba_d_state": int(rng.choice([1, 5, 17])),
        "mamba_chunk_size": int(rng.choice([4, 7, 16])), "num_attention_heads": int(rng.choice([1, 3])),
        "head_dim": int(rng.choice([2, 10, 16])), "sliding_window": int(rng.choice([chunk, chunk + 4, 30])),
        "rope_theta": 100.0, "landmark_budget": int(rng.choice([0, 3, 7])),
        "landmarks_per_chunk": int(rng.choice([1, 2])), "num_experts": experts,
        "num_experts_per_tok": int(rng.integers(1, experts + 1)),
        "moe_intermediate_size": int(rng.choice([1, 9, 33])), "workspace_slots": 5,
        "workspace_rank": int(rng.choice([3, 12])), "workspace_write_slots": 2, "pkm_heads": 2, "pkm_n_keys": 7,
        "pkm_d_key": 4, "pkm_d_value": 9, "pkm_top_k": 3}
    config["num_key_value_heads"] = config["num_attention_heads"] if rng.integers(2) else 1
    config.update(changes)
    return config


LLAMA = {"model_type": "llama", "vocab_size": 70, "hidden_size": 30, "intermediate_size": 41, "num_hidden_layers": 2,
         "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 10, "tie_word_embeddings": False,
         "rms_norm_eps": 1e-5, "torch_dtype": "float32"}
MAMBA2 = {"model_type": "mamba2", "vocab_size": 70, "hidden_size": 18, "num_hidden_layers": 2, "num_heads": 6,
          "head_dim": 6, "expand": 2, "state_size": 7, "n_groups": 2, "conv_kernel": 3, "chunk_size": 8,
          "tie_word_embeddings": True, "torch_dtype": "float32"}

# specs/blockffn.md 3
MINICPM = {"model_type": "minicpm", "vocab_size": 70, "hidden_size": 30, "num_hidden_layers": 3,
           "num_attention_heads": 3, "num_key_value_heads": 1, "attention_type": "vanilla", "rope_theta": 100.0,
           "rms_norm_eps": 1e-5, "scale_emb": 3.0, "scale_depth": 1.4, "dim_model_base": 10,
           "tie_word_embeddings": False, "num_experts": 37, "expert_size": 16, "norm_after_router": "rms",
           "torch_dtype": "float32"}
LATENT = {"attention_type": "mla", "q_lora_rank": 10, "kv_lora_rank": 9, "qk_nope_head_dim": 7, "qk_rope_head_dim": 4}

# specs/hydra.md 8
NANO = {
    "model_type": "hydra", "vocab_size": 2048, "hidden_size": 192, "num_hidden_layers": 6, "torch_dtype": "float32",
    "model_chunk_size": 16, "layer_types": ["ssm_moe", "ssm", "ssm_sga_moe", "ssm", "ssm_moe", "ssm_sga"],
    "workspace_layers": [3], "pkm_layers": [4], "mamba_n_heads": 12, "mamba_d_head": 32, "mamba_d_state": 32,
    "mamba_chunk_size": 32, "num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 32, "sliding_window": 64,
    "landmark_budget": 128, "num_experts": 8, "moe_intermediate_size": 64, "workspace_slots": 32, "workspace_rank": 32,
    "workspace_write_slots": 16, "pkm_n_keys": 32, "pkm_d_key": 32, "pkm_d_value": 64}


def cases():
    for seed in range(6):
        rng = np.random.default_rng(seed)
        kind = {"ssm_kind": "diagonal"} if seed % 3 == 2 else {}
        if seed % 3 == 1:
            kind = {
                "mamba_n_groups": 2, "mamba_norm_groups": 2, "mamba_n_heads": 4, "mamba_d_head": 6, "hidden_size": 24}
        yield f"hydra seed {seed}", hydra(rng, **kind)
    yield "llama", LLAMA
    yield "llama, one head", dict(LLAMA, num_attention_heads=1, tie_word_embeddings=True)
    yield "mamba2", MAMBA2
    yield "mamba2, one group, no conv bias", dict(MAMBA2, n_groups=1, use_conv_bias=False)
    yield "minicpm", MINICPM
    yield "minicpm, latent attention", dict(MINICPM, **LATENT)
    yield "minicpm, six latent heads, tied", dict(MINICPM, **LATENT, num_attention_heads=6, tie_word_embeddings=True)
    yield "minicpm, one expert", dict(MINICPM, num_experts=1, expert_size=32)
    for seed in (7, 8):
        rng = np.random.default_rng(seed)
        yield f"hydra with BlockFFN, seed {seed}", hydra(rng, moe_kind="blockffn", num_experts=9, expert_size=48)
    yield "hydra-nano", NANO
    yield "transformer-nano", dict(LLAMA, vocab_size=2048, hidden_size=192, intermediate_size=544, num_hidden_layers=6,
                                   num_attention_heads=6, num_key_value_heads=6, head_dim=32, tie_word_embeddings=True)
    yield "mamba2-nano", dict(MAMBA2, vocab_size=2048, hidden_size=192, num_hidden_layers=11, num_heads=12, head_dim=32,
                              state_size=64, n_groups=1, conv_kernel=4, chunk_size=64)


def write_model(folder, config, seed):
    """Weights of unit gain, no ones and no zeros, so that each tensor matters."""
    (folder / "config.json").write_text(json.dumps(config))
    listed = subprocess.run([HYDRALM, "inspect", "-m", str(folder / "config.json"), "--tensors", "--json"],
                            capture_output=True, text=True)
    assert listed.returncode == 0, listed.stderr
    rng = np.random.default_rng(seed)
    tensors = {}
    for row in json.loads(listed.stdout)["tensors"]:
        name, shape = row["name"], row["shape"]
        value = rng.standard_normal(shape)
        if name.endswith("path_gates"):
            value = np.array([0.8, 0.2, 0.5]) + 0.1 * value
        elif name.endswith("A_log"):
            value = np.log(rng.uniform(1, 16, shape))
        elif name.endswith("dt_bias") or name.endswith("lambda_log"):
            value = rng.uniform(-4, -1, shape)
        elif len(shape) == 1 or name.endswith(("query_norm.weight",)):
            value = ("norm" in name or name.endswith(".D")) + 0.3 * value
        else:
            value = value / np.sqrt(max(shape[-1], 2))
        tensors[name] = value.astype(np.float32)
    save_file(tensors, folder / "model.safetensors")


def logits(folder, ids, *flags):
    out = folder / "logits.npy"
    command = [HYDRALM, "logits", "-m", str(folder), "--ids", ",".join(map(str, ids)), "-o", str(out), *flags]
    made = subprocess.run(command, capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    return np.load(out)


class ParityTest(unittest.TestCase):
    def test_both_engines_agree(self):
        for number, (name, config) in enumerate(cases()):
            with self.subTest(name), tempfile.TemporaryDirectory() as temporary:
                folder = Path(temporary)
                write_model(folder, config, number)
                ids = np.random.default_rng(number).integers(0, config["vocab_size"], T).tolist()
                want = logits(folder, ids, "--engine", "torch")
                largest = max(1.0, float(np.abs(want).max()))
                for split in ("100", "1", "4,1,13"):
                    got = logits(folder, ids, "--split", split, "--kv-dtype", "f32", "-t", "2")
                    self.assertEqual(got.shape, want.shape)
                    self.assertLess(
                        float(np.abs(got - want).max()) / largest, TOLERANCE, f"{name}, split {split}: {config}")

    def test_both_engines_obey_controls(self):
        config = dict(NANO, landmark_budget=4)
        every = (("pins=1,2,18",), ("ban_experts@0=0,2", "moe_top_k@4=3"), ("path_scale@2=1,0.5,0", "pkm_read@4=2"),
                 ("workspace_read@3=0", "router_temperature=2"))
        with tempfile.TemporaryDirectory() as temporary:
            folder = Path(temporary)
            write_model(folder, config, 1)
            ids = np.random.default_rng(1).integers(0, config["vocab_size"], 2 * T).tolist()
            plain = logits(folder, ids, "--engine", "torch")
            for controls in every:
                flags = [word for control in controls for word in ("--control", control)]
                want = logits(folder, ids, "--engine", "torch", *flags)
                largest = max(1.0, float(np.abs(want).max()))
                self.assertGreater(float(np.abs(want - plain).max()) / largest, 1e-3, f"{controls} change nothing")
                for split in ("200", "1", "4,1,13"):
                    got = logits(folder, ids, "--split", split, "--kv-dtype", "f32", "-t", "2", *flags)
                    self.assertLess(float(np.abs(got - want).max()) / largest, TOLERANCE, f"{controls}, {split}")


if __name__ == "__main__":
    HYDRALM = sys.argv[1]
    unittest.main(argv=sys.argv[:1])
