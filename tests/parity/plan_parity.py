# SPDX-License-Identifier: Apache-2.0
# ctest: torch timeout=600
# Attention plans in both engines against an independent program: a Llama model in numpy float64 whose heads see what
# tests/golden/moa_oracle.py says, read whole, in pieces and token by token from rings; query heads with spans of their
# own; Hydra's windows, where the engines are held to each other. Not here: rings to the bit
# (hydra/runtime/plan_test.cc), files that are refused (hydra/model/attention_plan_test.cc).
import json
import math
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden"))
import moa_oracle  # noqa: E402

HYDRALM = sys.argv[1] if len(sys.argv) > 1 else "build/release/hydralm"
TOLERANCE = 1e-4  # specs/hydra.md 13: fp32, relative to max(1, largest logit)
T = 333  # no multiple of a block
BLOCK = 64
LLAMA = {"model_type": "llama", "vocab_size": 90, "hidden_size": 48, "intermediate_size": 56, "num_hidden_layers": 3,
         "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False,
         "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "max_position_embeddings": 512, "torch_dtype": "float32"}
# Two layers of sparse attention with landmarks, windows of four blocks.
HYDRA = {"model_type": "hydra", "vocab_size": 90, "hidden_size": 48, "num_hidden_layers": 3, "torch_dtype": "float32",
         "layer_types": ["ssm_sga", "ssm_moe", "ssm_sga"], "workspace_layers": [], "pkm_layers": [],
         "model_chunk_size": 16, "mamba_n_heads": 6, "mamba_d_head": 16, "mamba_d_state": 8, "mamba_chunk_size": 16,
         "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 12, "sliding_window": 256,
         "landmark_budget": 6, "num_experts": 1, "num_experts_per_tok": 1, "moe_intermediate_size": 16}


def hydralm(*arguments):
    return subprocess.run([HYDRALM, *map(str, arguments)], capture_output=True, text=True, stdin=subprocess.DEVNULL)


def write_model(folder, config, seed):
    """Weights of unit gain, no ones and no zeros, so that each tensor matters."""
    (folder / "config.json").write_text(json.dumps(config))
    listed = hydralm("inspect", "-m", folder / "config.json", "--tensors", "--json")
    assert listed.returncode == 0, listed.stderr
    rng = np.random.default_rng(seed)
    tensors = {}
    for row in json.loads(listed.stdout)["tensors"]:
        name, shape = row["name"], row["shape"]
        value = rng.standard_normal(shape)
        if name.endswith("path_gates"):
            value = np.array([0.8, 0.7, 0.5]) + 0.1 * value
        elif name.endswith("A_log"):
            value = np.log(rng.uniform(1, 16, shape))
        elif name.endswith("dt_bias"):
            value = rng.uniform(-4, -1, shape)
        elif len(shape) == 1:
            value = ("norm" in name or name.endswith(".D")) + 0.3 * value
        else:
            value = value / np.sqrt(max(shape[-1], 2))
        tensors[name] = value.astype(np.float32)
    save_file(tensors, folder / "model.safetensors")


def write_plan(folder, alphas, betas):
    path = folder / "plan.json"
    path.write_text(json.dumps({"alphas": alphas, "betas": betas}))
    return path


def logits(folder, ids, *flags):
    out = folder / "logits.npy"
    made = hydralm("logits", "-m", folder, "--ids", ",".join(map(str, ids)), "-o", out, *flags)
    assert made.returncode == 0, made.stderr
    return np.load(out)


def llama(folder, config, ids, spans):
    """Logits [T, V] in float64; spans [layer][query head]."""
    w = {name: value.astype(np.float64) for name, value in load_file(folder / "model.safetensors").items()}
    d, heads, groups = config["head_dim"], config["num_attention_heads"], config["num_key_value_heads"]
    n = len(ids)
    frequency = config["rope_theta"] ** (-2 * np.arange(d // 2) / d)
    angle = np.arange(n)[:, None] * frequency[None, :]
    cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]

    def norm(x, weight):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + config["rms_norm_eps"]) * weight

    def rope(x):
        a, b = x[..., :d // 2], x[..., d // 2:]
        return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)

    x = w["model.embed_tokens.weight"][ids]
    for layer in range(config["num_hidden_layers"]):
        def of(name, layer=layer):
            return w[f"model.layers.{layer}.{name}.weight"]
        u = norm(x, of("input_layernorm"))
        q = rope((u @ of("self_attn.q_proj").T).reshape(n, heads, d))
        k = rope((u @ of("self_attn.k_proj").T).reshape(n, groups, d))
        v = (u @ of("self_attn.v_proj").T).reshape(n, groups, d)
        mask = np.array([moa_oracle.visible(n, span, BLOCK, BLOCK) for span in spans[layer]])
        out, _ = moa_oracle.dense(q, k, v, mask)
        x = x + out.reshape(n, heads * d) @ of("self_attn.o_proj").T
        u = norm(x, of("post_attention_layernorm"))
        gate = u @ of("mlp.gate_proj").T
        x = x + (gate / (1 + np.exp(-gate)) * (u @ of("mlp.up_proj").T)) @ of("mlp.down_proj").T
    return norm(x, w["model.norm.weight"]) @ w["lm_head.weight"].T


class PlanParity(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.folder = Path(temporary.name)
        self.ids = np.random.default_rng(3).integers(0, 90, T).tolist()

    def close(self, got, want, what):
        self.assertEqual(got.shape, want.shape)
        difference = float(np.abs(got - want).max()) / max(1.0, float(np.abs(want).max()))
        self.assertLess(difference, TOLERANCE, what)

    def test_rings_and_masks_are_what_the_oracle_computes(self):
        write_model(self.folder, LLAMA, 1)
        length = BLOCK * math.ceil(T / BLOCK)
        rng = np.random.default_rng(2)
        for case in range(3):
            alphas = rng.integers(-128, 256, (3, 2)).tolist()
            betas = rng.choice([0, 0.125, 0.5, 1], (3, 2)).tolist()
            spans = [[moa_oracle.span_of(alphas[layer][h // 3], betas[layer][h // 3], length) for h in range(6)]
                     for layer in range(3)]
            want = llama(self.folder, LLAMA, self.ids, spans)
            plan = write_plan(self.folder, alphas, betas)
            self.close(logits(self.folder, self.ids, "--engine", "torch", "--plan", plan), want, f"torch, {spans}")
            for split in ("400", "1", "64", "63,65,7,1"):
                got = logits(self.folder, self.ids, "--plan", plan, "--split", split, "--kv-dtype", "f32", "-t", "2")
                self.close(got, want, f"case {case}, split {split}, spans {spans}")

    def test_query_heads_see_their_ring_or_their_own_span(self):
        write_model(self.folder, LLAMA, 4)
        length = BLOCK * math.ceil(T / BLOCK)
        alphas = [[0, 64, 128, 192, 256, 128], [128, 128, 192, 0, 0, 0], [0, 0, 256, 256, 0, 192]]
        betas = [[0] * 6, [0] * 6, [0.5, 0, 0, 0, 0.125, 0]]
        own = [[moa_oracle.span_of(a, b, length) for a, b in zip(*rows)] for rows in zip(alphas, betas)]
        ring = [[max(row[h // 3 * 3:h // 3 * 3 + 3]) for h in range(6)] for row in own]
        plan = write_plan(self.folder, alphas, betas)
        wants = {"ring": llama(self.folder, LLAMA, self.ids, ring), "own": llama(self.folder, LLAMA, self.ids, own)}
        self.assertGreater(float(np.abs(wants["ring"] - wants["own"]).max()), 1e-2)
        for how, want in wants.items():
            flags = ["--plan", plan, "--head-spans", how]
            self.close(logits(self.folder, self.ids, "--engine", "torch", *flags), want, f"torch, {how}")
            for split in ("400", "100,1"):
                got = logits(self.folder, self.ids, "--split", split, "--kv-dtype", "f32", "-t", "2", *flags)
                self.close(got, want, f"{how}, split {split}")

    def test_the_dense_plan_is_the_model(self):
        write_model(self.folder, LLAMA, 5)
        plan = write_plan(self.folder, [[0, 0]] * 3, [[1, 1]] * 3)
        want = logits(self.folder, self.ids, "--kv-dtype", "f32")
        for split in ("400", "1"):
            got = logits(self.folder, self.ids, "--plan", plan, "--split", split, "--kv-dtype", "f32")
            self.close(got, want, split)

    def test_hydras_windows_agree_between_the_engines(self):
        write_model(self.folder, HYDRA, 6)
        plain = logits(self.folder, self.ids, "--engine", "torch")
        full, narrow = [[0] * 4, [], [0] * 4], [[64, 128, 192, 256], [], [0, 64, 128, 0]]
        ones, zeros = [[1] * 4, [], [1] * 4], [[0] * 4, [], [0] * 4]
        self.close(logits(self.folder, self.ids, "--engine", "torch", "--plan", write_plan(self.folder, full, ones)),
                   plain, "the dense plan")
        plan = write_plan(self.folder, narrow, zeros)
        want = logits(self.folder, self.ids, "--engine", "torch", "--plan", plan)
        self.assertGreater(float(np.abs(want - plain).max()), 1e-2)
        for split in ("400", "1", "30,1,7"):
            got = logits(self.folder, self.ids, "--plan", plan, "--split", split, "--kv-dtype", "f32", "-t", "2")
            self.close(got, want, f"split {split}")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
