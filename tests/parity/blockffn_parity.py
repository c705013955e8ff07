# SPDX-License-Identifier: Apache-2.0
# ctest: torch timeout=600
"""Models of the published BlockFFN sizes, a layer or two deep with a small vocabulary: written by torch as the
publication writes them (bf16, pytorch_model.bin), converted, and their logits against a decoder of numpy in float64
whose ffn is that of the oracle (tests/golden/blockffn_oracle.py).

Called with the paths of hydralm and hydralm-train. Not here: bytes of converted files (torch_bin_test.py)."""
import json
import os
import subprocess
import sys
import tempfile
import unittest
from collections import OrderedDict
from pathlib import Path

import numpy as np

try:
    import torch
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

sys.path.insert(0, str(Path(__file__).parents[1] / "golden"))
import blockffn_oracle as oracle  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
ENGINES = [("torch", ()), ("runtime", ("--kv-dtype", "f32")), ("runtime", ("--kv-dtype", "f32", "--split", "1"))]
TOLERANCE = 1e-4  # specs/blockffn.md 9: fp32, relative to the largest logit
T, V = 20, 64
DEPTHS = {"Small": 2, "Medium": 1, "Large": 1, "XLarge": 1, "3B": 1}
COUNTS = {"Small": 119_383_552, "Medium": 494_721_848, "Large": 817_236_992, "XLarge": 1_187_830_952,
          "3B": 2_802_997_760}  # without embeddings, of the whole models


def config_of(name):
    D, E, de, _, H, _, attention = oracle.SIZES[name][:7]
    config = dict(
        model_type="minicpm", hidden_size=D, num_hidden_layers=DEPTHS[name], num_attention_heads=H, vocab_size=V,
        rms_norm_eps=1e-5, rope_theta=10000.0, scale_emb=12, scale_depth=1.4, dim_model_base=256,
        tie_word_embeddings=False, num_experts=E, expert_size=de, norm_after_router="rms", norm_scale=1,
        router_act="relu", ffn_gated=True, intermediate_size=5760, max_position_embeddings=4096, hidden_act="silu",
        torch_dtype="bfloat16", bos_token_id=1, eos_token_id=2)
    if attention == "mla":
        return dict(config, attention_type="mla", q_lora_rank=768, kv_lora_rank=256, qk_nope_head_dim=128,
                    qk_rope_head_dim=64, v_head_dim=128, num_key_value_heads=H)
    return dict(config, attention_type="vanilla", num_key_value_heads=4)


def make_state(c, seed):
    """Weights of unit gain in bf16; some experts' norms are negative."""
    rng = torch.Generator().manual_seed(seed)

    def matrix(*shape):
        return (torch.randn(shape, generator=rng) / shape[-1] ** 0.5).bfloat16()

    def norm(n):
        return (1 + 0.3 * torch.randn(n, generator=rng)).bfloat16()

    D, E, de, H = c["hidden_size"], c["num_experts"], c["expert_size"], c["num_attention_heads"]
    state = OrderedDict({"model.embed_tokens.weight": matrix(V, D), "lm_head.weight": matrix(V, D),
                         "model.norm.weight": norm(D)})
    for layer in range(c["num_hidden_layers"]):
        root = f"model.layers.{layer}."
        if c["attention_type"] == "mla":
            attention = {
                "q_a_proj": matrix(768, D), "q_a_layernorm": norm(768), "q_b_proj": matrix(H * 192, 768),
                "kv_a_proj_with_mqa": matrix(320, D), "kv_a_layernorm": norm(256), "kv_b_proj": matrix(H * 256, 256),
                "o_proj": matrix(D, H * 128)}
        else:
            hd = D // H
            attention = {"q_proj": matrix(H * hd, D), "k_proj": matrix(4 * hd, D), "v_proj": matrix(4 * hd, D),
                         "o_proj": matrix(D, H * hd)}
        state |= {f"{root}self_attn.{name}.weight": tensor for name, tensor in attention.items()}
        state |= {f"{root}input_layernorm.weight": norm(D), f"{root}post_attention_layernorm.weight": norm(D),
                  f"{root}mlp.router_proj.weight": matrix(D, E).t(),  # a view, as the publication saves it
                  f"{root}mlp.router_norm.weight": norm(E) * torch.where(torch.arange(E) % 5 == 0, -1, 1).bfloat16(),
                  f"{root}mlp.up_proj": matrix(E * de, D), f"{root}mlp.down_proj": matrix(D, E * de)}
    return state


def rms(x, weight, eps):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * weight


def rope(x, theta):
    """x [T, .., dim]: pairs (j, j + dim / 2), positions from 0."""
    dim = x.shape[-1]
    angle = np.arange(len(x))[:, None] * theta ** (-2 * np.arange(dim // 2) / dim)
    angle = angle.reshape(len(x), *[1] * (x.ndim - 2), dim // 2)
    a, b = x[..., :dim // 2], x[..., dim // 2:]
    return np.concatenate([a * np.cos(angle) - b * np.sin(angle), b * np.cos(angle) + a * np.sin(angle)], -1)


def attend(q, k, v):
    """q, k [T, H, d], v [T, H, e] -> [T, H e]; causal."""
    score = np.einsum("thd,shd->hts", q, k) / np.sqrt(q.shape[-1])
    score += np.triu(np.full(score.shape[1:], -np.inf), 1)
    p = np.exp(score - score.max(-1, keepdims=True))
    return np.einsum("hts,she->the", p / p.sum(-1, keepdims=True), v).reshape(len(q), -1)


def latent(x, w, c):
    H, theta = c["num_attention_heads"], c["rope_theta"]
    q = (rms(x @ w["q_a_proj"].T, w["q_a_layernorm"], 1e-6) @ w["q_b_proj"].T).reshape(len(x), H, 192)
    down = x @ w["kv_a_proj_with_mqa"].T
    kv = (rms(down[:, :256], w["kv_a_layernorm"], 1e-6) @ w["kv_b_proj"].T).reshape(len(x), H, 256)
    shared = np.repeat(rope(down[:, 256:], theta)[:, None], H, 1)
    q = np.concatenate([q[..., :128], rope(q[..., 128:], theta)], -1)
    return attend(q, np.concatenate([kv[..., :128], shared], -1), kv[..., 128:])


def grouped(x, w, c):
    H, kv = c["num_attention_heads"], c["num_key_value_heads"]
    q = rope((x @ w["q_proj"].T).reshape(len(x), H, -1), c["rope_theta"])
    k = rope((x @ w["k_proj"].T).reshape(len(x), kv, -1), c["rope_theta"])
    v = (x @ w["v_proj"].T).reshape(len(x), kv, -1)
    return attend(q, np.repeat(k, H // kv, 1), np.repeat(v, H // kv, 1))


def decoder(c, state, ids):
    """Logits [T, V] in float64 (specs/blockffn.md 2), and how many experts were active of how many."""
    w = {name: tensor.double().numpy() for name, tensor in state.items()}
    s, active = c["scale_depth"] / np.sqrt(c["num_hidden_layers"]), []
    h = w["model.embed_tokens.weight"][ids] * c["scale_emb"]
    for layer in range(c["num_hidden_layers"]):
        root = f"model.layers.{layer}."
        inner = {name[len(root) + 10:].rsplit(".", 1)[0]: t for name, t in w.items()
                 if name.startswith(root + "self_attn.")}
        x = rms(h, w[root + "input_layernorm.weight"], c["rms_norm_eps"])
        out = latent(x, inner, c) if c["attention_type"] == "mla" else grouped(x, inner, c)
        h = h + s * (out @ inner["o_proj"].T)
        x = rms(h, w[root + "post_attention_layernorm.weight"], c["rms_norm_eps"])
        router, g = w[root + "mlp.router_proj.weight"], w[root + "mlp.router_norm.weight"]
        active.append(oracle.route(x @ router.T, g)[1].mean())
        h = h + s * oracle.layer(x, router, g, w[root + "mlp.up_proj"], w[root + "mlp.down_proj"])
    h = rms(h, w["model.norm.weight"], c["rms_norm_eps"])
    return (h * (c["dim_model_base"] / c["hidden_size"])) @ w["lm_head.weight"].T, float(np.mean(active))


def must(*args):
    done = subprocess.run([HYDRALM, *map(str, args)], capture_output=True, text=True)
    assert done.returncode == 0, f"{args}: {done.stderr}"
    return done.stdout


class BlockFfn(unittest.TestCase):
    def test_published_sizes_against_the_oracle(self):
        for number, name in enumerate(DEPTHS):
            with self.subTest(name), tempfile.TemporaryDirectory() as temporary:
                source, model = Path(temporary, "source"), Path(temporary, "model")
                source.mkdir()
                config = config_of(name)
                (source / "config.json").write_text(json.dumps(config))
                state = make_state(config, number)
                torch.save(state, source / "pytorch_model.bin")
                must("convert", source, "-o", model)
                ids = np.random.default_rng(number).integers(0, V, T)
                want, active = decoder(config, state, ids)
                self.assertTrue(0.2 < active < 0.8, active)
                for engine, flags in ENGINES:
                    out = Path(temporary, "logits.npy")
                    must("logits", "--engine", engine, *flags, "-m", model, "--ids", ",".join(map(str, ids)), "-o", out)
                    got = np.load(out)
                    difference = np.abs(got - want).max() / np.abs(want).max()
                    self.assertLess(difference, TOLERANCE, f"{name} {engine} {flags}")

    def test_counts_of_the_published_sizes(self):
        for name, count in COUNTS.items():
            params = json.loads(must("inspect", "--preset", f"blockffn-{name.lower()}", "--json"))["params"]
            self.assertEqual(params["total"] - params["by_kind"]["embedding"], count, name)
            self.assertEqual(count, oracle.non_embedding(name))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
