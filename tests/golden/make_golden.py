# SPDX-License-Identifier: Apache-2.0
"""Writes the golden vectors of tests/golden: tiny float64 models, their outputs, and the outputs of single parts.

Numbers come from hydra_oracle.py and blockffn_oracle.py beside this file and from the two short references below (the
Llama and Mamba-2 families of the controls). Not here: the comparison (hydra/nn/golden_test.cc,
tests/parity/golden_test.py).
Run:  python3 tests/golden/make_golden.py [FOLDER]      numpy only; without FOLDER, the files beside this one

FOLDER/NAME/config.json, model.safetensors   the model
FOLDER/NAME/CASE.safetensors                 ids, pos, seq_idx [T] (-1 pads), hidden [T, D] and for some logits [T, V]
FOLDER/parts.safetensors                     single parts: see write_parts
"""
import json
import os
import struct
import sys
from types import SimpleNamespace as NS

import numpy as np

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import blockffn_oracle  # noqa: E402
import hydra_oracle as oracle  # noqa: E402

T = 77  # tokens, and ids of the vocabulary
DOCUMENTS = (19, 8, 30, 3)  # lengths of the packed row; pads follow all but the second


def write_safetensors(path, named):
    """F64 and I64 arrays, data 64-byte aligned, in the given order."""
    head, blob = {}, b""
    for name, value in named.items():
        value = np.ascontiguousarray(value)
        kind = {"f": "F64", "i": "I64"}[value.dtype.kind]
        head[name] = {"dtype": kind, "shape": list(value.shape), "data_offsets": [len(blob), len(blob) + value.nbytes]}
        blob += value.tobytes()
    text = json.dumps(head, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % 64)
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text + blob)


def controls(**changes):
    return NS(**{**vars(oracle.DEFAULT), **changes})


# name: (changes of the oracle's config, [(case, packed, controls of the oracle)])
HYDRA = {
    "mamba2": ({}, [
        ("plain", False, controls()),
        ("packed", True, controls()),
        ("top1_tau2", False, controls(top_k=1, temperature=2.0)),
        ("ban0_no_sga", False, controls(ban=(0,), path=(1.0, 0.0, 1.0))),
        ("force13_half_reads", False, controls(force=(1, 3), ws_read=0.5, pkm=0.5)),
        ("path_scale", True, controls(path=(0.5, 1.5, 0.0), ws_read=0.0, pkm=0.0)),
    ]),
    "one_group_no_controller": (dict(G=1, norm_groups=1, controller=False, dt_limit=(0.2, 0.5)), [
        ("plain", False, controls()),
        ("packed", True, controls()),
    ]),
    "diagonal": (dict(ssm_kind="diagonal"), [
        ("plain", False, controls()),
        ("packed", True, controls()),
    ]),
}


def rows(c, packed, rng):
    if packed:
        pos, doc = oracle.pack(c, DOCUMENTS)
        return rng.integers(0, T, size=len(pos)), pos, doc
    pos, doc = oracle.one_doc(T)
    return np.arange(T), pos, doc


def write_case(folder, case, ids, pos, doc, hidden, logits):
    named = {
        "ids": ids.astype(np.int64), "pos": pos.astype(np.int64), "seq_idx": doc.astype(np.int64), "hidden": hidden}
    if logits is not None:
        named["logits"] = logits
    write_safetensors(os.path.join(folder, case + ".safetensors"), named)


def write_model(folder, config, tensors):
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "config.json"), "w") as f:
        json.dump(config, f, indent=1)
        f.write("\n")
    write_safetensors(os.path.join(folder, "model.safetensors"), tensors)


def write_hydra(root):
    for name, (changes, cases) in HYDRA.items():
        c = NS(**{**vars(oracle.CFG), **changes})
        model, folder = oracle.make_model(c, 11), os.path.join(root, name)
        embed = np.random.default_rng(5).normal(size=(T, c.D))
        write_model(folder, oracle.config(c, T), oracle.tensors(c, model, embed))
        rng = np.random.default_rng(7)
        for case, packed, control in cases:
            ids, pos, doc = rows(c, packed, rng)
            hidden = oracle.forward(c, model, embed[ids], pos, doc, control)
            write_case(folder, case, ids, pos, doc, hidden, hidden @ embed.T if case == "plain" else None)


# ---------------------------------------------------------------- the controls' families, sequential wiring
def llama_layers(c, layers, x, pos):
    """RoPE attention over all earlier tokens with shared K and V heads, then SwiGLU; pre-norm."""
    causal = np.tril(np.ones((len(x), len(x)), bool))
    for b in layers:
        u = oracle.rms(x, b.norm)
        heads = lambda w: (u @ w.T).reshape(len(u), -1, c.Dh)
        q, k, v = oracle.rope(c, heads(b.q), pos), oracle.rope(c, heads(b.k), pos), heads(b.v)
        k, v = np.repeat(k, c.A // c.Akv, 1), np.repeat(v, c.A // c.Akv, 1)
        scores = np.where(causal, np.einsum("tad,jad->atj", q, k) / np.sqrt(c.Dh), -np.inf)
        x = x + np.einsum("atj,jad->tad", oracle.softmax(scores), v).reshape(len(u), -1) @ b.o.T
        u = oracle.rms(x, b.ffn_norm)
        x = x + (oracle.silu(u @ b.gate.T) * (u @ b.up.T)) @ b.down.T
    return x


def write_llama(root):
    c = NS(D=24, L=2, A=4, Akv=2, Dh=6, F=20, theta=100.0, V=T)
    g = np.random.default_rng(21)
    R = lambda *s: g.normal(size=s) / np.sqrt(s[-1])
    ones = lambda *s: 1 + 0.1 * g.normal(size=s)
    layers = [NS(norm=ones(c.D), q=2 * R(c.A * c.Dh, c.D), k=2 * R(c.Akv * c.Dh, c.D), v=R(c.Akv * c.Dh, c.D),
                 o=R(c.D, c.A * c.Dh), ffn_norm=ones(c.D), gate=R(c.F, c.D), up=R(c.F, c.D), down=R(c.D, c.F))
              for _ in range(c.L)]
    embed, head, norm = g.normal(size=(c.V, c.D)), R(c.V, c.D), ones(c.D)
    tensors = {"model.embed_tokens.weight": embed, "lm_head.weight": head, "model.norm.weight": norm}
    for i, b in enumerate(layers):
        pre = f"model.layers.{i}."
        tensors |= {pre + "input_layernorm.weight": b.norm, pre + "post_attention_layernorm.weight": b.ffn_norm}
        tensors |= {pre + f"self_attn.{n}_proj.weight": getattr(b, n) for n in "qkvo"}
        tensors |= {pre + f"mlp.{n}_proj.weight": getattr(b, n) for n in ("gate", "up", "down")}
    config = dict(model_type="llama", vocab_size=c.V, hidden_size=c.D, num_hidden_layers=c.L, intermediate_size=c.F,
                  num_attention_heads=c.A, num_key_value_heads=c.Akv, head_dim=c.Dh, rope_theta=c.theta,
                  rms_norm_eps=oracle.EPS, hidden_act="silu", tie_word_embeddings=False, torch_dtype="float64")
    folder = os.path.join(root, "llama")
    write_model(folder, config, tensors)
    pos, doc = oracle.one_doc(T)
    hidden = oracle.rms(llama_layers(c, layers, embed, pos), norm)
    write_case(folder, "plain", np.arange(T), pos, doc, hidden, hidden @ head.T)


def write_mamba2(root):
    c = NS(D=24, L=3, H=8, P=6, N=5, G=2, norm_groups=2, K=4, Q=16, ssm_kind="mamba2", dt_limit=(0.0, np.inf), V=T)
    g = np.random.default_rng(31)
    R = lambda *s, fan=None: g.normal(size=s) / np.sqrt(fan if fan else s[-1])
    ones = lambda *s: 1 + 0.1 * g.normal(size=s)
    di, gn = c.H * c.P, c.G * c.N
    layers = [
        NS(norm=ones(c.D), in_proj=R(2 * di + 2 * gn + c.H, c.D), out_proj=R(c.D, di), conv_w=R(di + 2 * gn, c.K),
           conv_b=R(di + 2 * gn, fan=9), A_log=R(c.H, fan=4), dt_bias=R(c.H, fan=1), Dskip=ones(c.H), gnorm=ones(di))
        for _ in range(c.L)]
    embed, norm = g.normal(size=(c.V, c.D)), ones(c.D)
    tensors = {"backbone.embeddings.weight": embed, "backbone.norm_f.weight": norm}
    for i, b in enumerate(layers):
        pre = f"backbone.layers.{i}."
        tensors |= {pre + "norm.weight": b.norm}
        tensors |= {pre + "mixer." + n: v for n, v in (
            ("in_proj.weight", b.in_proj), ("conv1d.weight", b.conv_w[:, None]), ("conv1d.bias", b.conv_b),
            ("A_log", b.A_log), ("D", b.Dskip), ("dt_bias", b.dt_bias), ("norm.weight", b.gnorm),
            ("out_proj.weight", b.out_proj))}
    config = dict(model_type="mamba2", vocab_size=c.V, hidden_size=c.D, num_hidden_layers=c.L, state_size=c.N,
                  head_dim=c.P, num_heads=c.H, expand=di // c.D, n_groups=c.G, conv_kernel=c.K, chunk_size=c.Q,
                  use_conv_bias=True, use_bias=False, time_step_limit=[0.0, {"__float__": "Infinity"}],
                  layer_norm_epsilon=oracle.EPS, tie_word_embeddings=True, torch_dtype="float64")
    folder = os.path.join(root, "mamba2_family")
    write_model(folder, config, tensors)
    pos, doc = oracle.one_doc(T)
    x = embed
    for b in layers:
        x = x + oracle.ssm_scan(c, b, oracle.rms(x, b.norm), doc)
    hidden = oracle.rms(x, norm)
    write_case(folder, "plain", np.arange(T), pos, doc, hidden, hidden @ embed.T)


# ---------------------------------------------------------------- BlockFFN's decoders
def write_blockffn(root):
    """Both kinds of attention."""
    for name, attn, changes in (("blockffn_mla", "mla", {}), ("blockffn_gqa", "vanilla", dict(H=6, kv=2))):
        config, tensors = blockffn_oracle.small_model(attn, 51, **changes)
        folder, ids = os.path.join(root, name), np.random.default_rng(52).integers(0, config["vocab_size"], size=T)
        write_model(folder, config, tensors)
        pos, doc = oracle.one_doc(T)
        write_case(folder, "plain", ids, pos, doc, blockffn_oracle.small_decoder(config, tensors, ids), None)


# ---------------------------------------------------------------- single parts
def ssd_part(prefix, rng, c, doc):
    """Inputs, outputs and last state of the SSD stages; the state comes from the recurrence, a token at a time."""
    n = len(doc)
    X, dt = rng.normal(size=(n, c.H, c.P)), rng.uniform(0.05, 1.0, size=(n, c.H))
    A, Bm, Cm = -rng.uniform(0.1, 2.0, size=c.H), rng.normal(size=(n, c.G, c.N)), rng.normal(size=(n, c.G, c.N))
    rep = lambda v: np.repeat(v, c.H // c.G, axis=1)
    Y, h = oracle.ssd_scan(c, X, rep(Bm), rep(Cm), dt, A, doc), np.zeros((c.H, c.P, c.N))
    for t in range(n):
        if t > 0 and doc[t] != doc[t - 1]:
            h = np.zeros_like(h)
        h = np.exp(dt[t] * A)[:, None, None] * h + dt[t][:, None, None] * X[t][:, :, None] * rep(Bm)[t][:, None]
    return {f"{prefix}.{k}": v for k, v in
            dict(x=X, dt=dt, A=A, B=Bm, C=Cm, doc=doc.astype(np.int64), y=Y, state=h).items()}


def write_parts(root):
    """ssd_*: the scan alone. The rest belongs to the models above: x, pos, seq_idx describe a packed row, and
    LAYER.PART is that part's output (before gates, without the residual) for u = x, or x itself for the memories."""
    rng = np.random.default_rng(41)
    small = NS(H=4, P=3, N=5, G=2, Q=7)
    out = ssd_part("ssd_one", rng, small, np.zeros(37, int))
    out |= ssd_part("ssd_documents", rng, small, np.repeat([0, 1, 2, 3], [5, 1, 20, 11]))
    c = oracle.CFG
    model = oracle.make_model(c, 11)
    pos, doc = oracle.pack(c, DOCUMENTS)
    x = rng.normal(size=(len(pos), c.D))
    ctl = oracle.DEFAULT
    out |= {"x": x, "pos": pos.astype(np.int64), "seq_idx": doc.astype(np.int64)}
    out["0.ssm"] = oracle.ssm_scan(c, model.layers[0], x, doc)
    out["2.sga"] = oracle.sga_scan(c, model.layers[2], x, pos, doc)
    for i in c.moe:
        b = model.layers[i]
        routes = oracle.routes_scan(c, b, x, pos, doc, ctl)
        z = np.array([r[3] for r in routes])
        out[f"{i}.moe"] = oracle.moe_scan(c, b, x, pos, doc, ctl)
        out[f"{i}.route_ids"] = np.array([r[1] for r in routes]).astype(np.int64)
        out[f"{i}.route_weights"] = np.array([r[2] for r in routes])
        out[f"{i}.router_logits"] = z
        out[f"{i}.balance_loss"] = np.array(oracle.balance_loss(c, routes))
        out[f"{i}.z_loss"] = np.array((np.logaddexp.reduce(z, 1) ** 2).mean())
        out[f"{i}.load"] = np.bincount(np.concatenate([r[1] for r in routes]), minlength=c.E).astype(np.int64)
    for i in c.ws:
        out[f"{i}.workspace"] = oracle.ws_scan(c, model.layers[i].ws, x, pos, doc, ctl)
    out["2.pkm"] = oracle.pkm_read(c, model.layers[2].pkm, model.table, x, ctl)
    diagonal = NS(**{**vars(c), "ssm_kind": "diagonal"})
    out["diagonal.0.ssm"] = oracle.ssm_scan(diagonal, oracle.make_model(diagonal, 11).layers[0], x, doc)
    write_safetensors(os.path.join(root, "parts.safetensors"), out)


def main():
    root = sys.argv[1] if len(sys.argv) > 1 else os.path.dirname(os.path.abspath(__file__))
    os.makedirs(root, exist_ok=True)
    write_hydra(root)
    write_llama(root)
    write_mamba2(root)
    write_blockffn(root)
    write_parts(root)


if __name__ == "__main__":
    main()
