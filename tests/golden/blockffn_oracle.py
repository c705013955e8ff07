# SPDX-License-Identifier: Apache-2.0
"""Oracle of specs/blockffn.md: layer forward, losses with gradients, scheduler, metrics, counts, traffic.

Needs numpy only; everything in float64. Prints every golden value and exits 1 when a value differs from
GOLD below, or when specs/blockffn.md does not contain the value as it is printed here. Not here: the layer that is
trained (nn/blockffn_test.cc holds it to these values).
    python3 tests/golden/blockffn_oracle.py            check
    python3 tests/golden/blockffn_oracle.py --print    print without checking
"""
import os
import sys
import numpy as np

EPS = 1e-5


# ---------------------------------------------------------------- layer (section 1)
def silu(z):
    return z / (1.0 + np.exp(-z))


def route(raw, g, eps=EPS):
    """raw [T,E] -> gates A [T,E], active set [T,E] bool."""
    r1 = np.maximum(raw, 0.0)
    A = r1 / np.sqrt((r1 * r1).mean(-1, keepdims=True) + eps) * g
    return A, (raw > 0) & (g != 0)


def layer(x, Wr, g, Wup, Wdown, eps=EPS):
    """x [T,D], Wr [E,D], g [E], Wup [E*de,D], Wdown [D,E*de] -> y [T,D]; dense execution."""
    A, _ = route(x @ Wr.T, g, eps)
    h = silu(x @ Wup.T)
    return (h * np.repeat(A, Wup.shape[0] // Wr.shape[0], axis=1)) @ Wdown.T


def layer_sparse(x, Wr, g, Wup, Wdown, eps=EPS):
    """Same result from per-expert token lists: what the runtime does."""
    E, de = Wr.shape[0], Wup.shape[0] // Wr.shape[0]
    A, act = route(x @ Wr.T, g, eps)
    y = np.zeros_like(x)
    for e in range(E):
        t = np.flatnonzero(act[:, e])
        if t.size:
            s = slice(e * de, (e + 1) * de)
            y[t] += (silu(x[t] @ Wup[s].T) * A[t, e, None]) @ Wdown[:, s].T
    return y


# ---------------------------------------------------------------- losses (section 4)
def al_loss(raw, seg, valid, alpha=100.0):
    """Activation locality. raw [T,E]; seg [T] document id; valid [T] bool. -> loss, dloss/draw."""
    T, E = raw.shape
    left = np.flatnonzero((seg[:-1] == seg[1:]) & valid[:-1] & valid[1:])
    grad = np.zeros_like(raw)
    if not left.size:
        return 0.0, grad
    l, r = raw[left], raw[left + 1]
    y = 1.0 / (1.0 + np.exp(-alpha * r))
    sl = 1.0 / (1.0 + np.exp(-alpha * l))
    n = left.size * E
    loss = (np.logaddexp(0.0, alpha * l) - alpha * l * y).sum() / n
    np.add.at(grad, left, alpha * (sl - y) / n)
    np.add.at(grad, left + 1, -alpha * alpha * l * y * (1 - y) / n)
    return loss, grad


def cs_chunks(seg, valid, chunk):
    """Chunks of `chunk` consecutive positions counted from each document's first token."""
    out, i, T = [], 0, len(seg)
    while i < T:
        j = i
        while j < T and seg[j] == seg[i]:
            j += 1
        out += [np.arange(k, min(k + chunk, j)) for k in range(i, j, chunk)]
        i = j
    return [c[valid[c]] for c in out if valid[c].any()]


def cs_loss(raw, seg, valid, chunk=64, eps=EPS):
    """Chunk sparsification. -> loss, dloss/draw, P [chunks,E]."""
    r1 = np.maximum(raw, 0.0)
    S = r1.sum(-1, keepdims=True) + eps
    p = r1 / S
    cs = cs_chunks(seg, valid, chunk)
    E, grad, P = raw.shape[1], np.zeros_like(raw), []
    for c in cs:
        keep = np.exp(np.log(1.0 - p[c] + eps).sum(0))
        P.append(1.0 - keep)
        gp = keep / (1.0 - p[c] + eps) / (len(cs) * E)
        grad[c] += (gp - (gp * p[c]).sum(-1, keepdims=True)) / S[c] * (raw[c] > 0)
    P = np.array(P)
    return P.mean(), grad, P


class FactorScheduler:
    """lambda_cs of optimiser step s = 1, 2, ...: call value() for the step, then observe(mean chunk loss)."""

    def __init__(self, lam0, start=1000, adjust=100, growth_min=1.025, max_factor=4.0):
        self.lam0, self.start, self.adjust, self.gmin, self.cap = lam0, start, adjust, growth_min, max_factor
        self.lo = self.hi = lam0
        self.step, self.acc, self.prev = 0, 0.0, None

    def value(self):
        return self.lo + (self.hi - self.lo) * (self.step % self.adjust + 1) / self.adjust

    def observe(self, chunk_loss):
        self.acc += chunk_loss
        self.step += 1
        if self.step % self.adjust:
            return
        mean, prev = self.acc / self.adjust, self.prev
        self.acc, self.prev, self.lo = 0.0, mean, self.hi
        if prev is None or prev <= 0 or self.step < self.start:
            return
        gamma = mean / prev
        ratio = gamma if gamma <= 1 else max(gamma, self.gmin)
        self.hi = self.lo * min(ratio, self.lam0 * self.cap / self.lo) if self.lo > 0 else 0.0


# ---------------------------------------------------------------- metrics (section 5)
def metrics(act, seg, valid, ns):
    """act [T,E] bool -> TLS, {n: CLS_n}, reuse ratio, {n: union growth}."""
    E = act.shape[1]
    a = act[valid].sum() / (valid.sum() * E)
    cls, growth = {}, {}
    for n in ns:
        w = [c for c in cs_chunks(seg, valid, n) if len(c) == n]
        if w:
            un = sum(act[c].any(0).sum() for c in w) / (len(w) * E)
            cls[n], growth[n] = 1 - un, un * E / np.mean([act[c].sum(1).mean() for c in w])
    pair = [t for t in range(len(seg) - 1) if seg[t] == seg[t + 1] and valid[t] and valid[t + 1] and act[t].any()]
    reuse = np.mean([(act[t] & act[t + 1]).sum() / act[t].sum() for t in pair])
    return 1 - a, cls, reuse, growth


def markov_cls(a, r, n):
    return (1 - a) * (1 - a * (1 - r) / (1 - a)) ** (n - 1)


# ---------------------------------------------------------------- counts and traffic (sections 2, 6)
SIZES = {  # D, E, de, L, H, V, attention
    "Small": (768, 48, 64, 16, 6, 122753, "mla"), "Medium": (1280, 40, 128, 27, 10, 122753, "mla"),
    "Large": (1536, 48, 128, 32, 12, 122753, "mla"), "XLarge": (1792, 56, 128, 35, 14, 122753, "mla"),
    "3B": (2048, 128, 128, 36, 16, 73440, "gqa"),
    "30M": (512, 32, 64, 8, 8, 8192, "gqa", dict(kv=4, hd=64)),
    "Nano": (256, 32, 32, 6, 4, 4096, "gqa", dict(kv=2, hd=64))}
ROUTING = {"Large": (.1595, .8713, .2621), "XLarge": (.1819, .8957, .2722)}  # published a, r, u_8


def size_parts(name):
    s = SIZES[name]
    return parts(*s[:7], **(s[7] if len(s) > 7 else {}))


def parts(D, E, de, L, H, V, attn, q_lora=768, kv_lora=256, nope=128, pe=64, v=128, kv=4, hd=128):
    if attn == "mla":
        att = D * q_lora + q_lora * H * (nope + pe) + D * (kv_lora + pe) + kv_lora * H * (nope + v) + H * v * D
        norms = q_lora + kv_lora
    else:
        att, norms = 2 * D * H * hd + 2 * D * kv * hd, 0
    return dict(ffn=L * 2 * E * de * D, attn=L * att, router=L * E * D, norms=L * (norms + 2 * D + E) + D, head=V * D)


def non_embedding(name):
    p = size_parts(name)
    return p["ffn"] + p["attn"] + p["router"] + p["norms"]


def step_mb(name, u, w, w_rest=None):
    """Weight bytes of one forward in MB: u = share of experts read, w = bytes per FFN weight; router 4 bytes."""
    p = size_parts(name)
    return (p["ffn"] * u * w + (p["attn"] + p["head"]) * (w_rest or w) + p["router"] * 4) / 1e6


def bound(name, a, u4, w, w_rest=None, goal=3.67, gbs=25.0):
    """Byte bound of plain sparse decode; tokens per verify needed at n = 4 for `goal`; GMAC/s that hides n = 4."""
    p = size_parts(name)
    b0, b1, b4 = (step_mb(name, u, w, w_rest) for u in (1, a, u4))
    macs = p["ffn"] * a + p["attn"] + p["head"] + p["router"]
    return "%.2f | %.2f | %.0f" % (b0 / b1, goal * b4 / b0, 4 * macs / (b4 * 1e6 / (gbs * 1e9)) / 1e9)


W = {"bf16": 2.0, "Q8_0": 1.0625, "Q4_0": .5625}


def mla_check(T=5, D=12, H=3, nope=4, pe=4, v=4, qr=8, kr=6, theta=1e4):
    """Expanded attention over per-head K, V == absorbed attention over the latent cache."""
    rng = np.random.default_rng(0)
    m = lambda *s: rng.standard_normal(s) / np.sqrt(s[-1])
    x, Wqa, Wqb, Wkva, Wkvb = m(T, D), m(qr, D), m(H * (nope + pe), qr), m(kr + pe, D), m(H * (nope + v), kr)
    rms = lambda z: z / np.sqrt((z * z).mean(-1, keepdims=True) + 1e-6)

    def rope(z, pos):  # z [..., pe]; pairs (j, j + pe/2)
        ang = pos[..., None] * theta ** (-2 * np.arange(pe // 2) / pe)
        c, s, a, b = np.cos(ang), np.sin(ang), z[..., :pe // 2], z[..., pe // 2:]
        return np.concatenate([a * c - b * s, b * c + a * s], -1)

    pos = np.arange(T)
    q = (rms(x @ Wqa.T) @ Wqb.T).reshape(T, H, nope + pe)
    qn, qp = q[..., :nope], rope(q[..., nope:], pos[:, None])
    lat = x @ Wkva.T
    c, kp = rms(lat[:, :kr]), rope(lat[:, kr:], pos)
    U = Wkvb.reshape(H, nope + v, kr)
    kv = np.einsum("hik,tk->thi", U, c)
    scale, mask = (nope + pe) ** -0.5, np.triu(np.full((T, T), -np.inf), 1)

    def soft(s):
        e = np.exp(s * scale + mask - (s * scale + mask).max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    o1 = np.einsum("hts,shv->thv", soft(np.einsum("thi,shi->hts", qn, kv[..., :nope]) +
                                        np.einsum("thp,sp->hts", qp, kp)), kv[..., nope:])
    ql = np.einsum("thi,hik->thk", qn, U[:, :nope])
    P = soft(np.einsum("thk,sk->hts", ql, c) + np.einsum("thp,sp->hts", qp, kp))
    o2 = np.einsum("hvk,thk->thv", U[:, nope:], np.einsum("hts,sk->thk", P, c))
    assert np.abs(o1 - o2).max() < 1e-12


def small_model(attn, seed, D=12, L=2, H=2, E=4, de=16, V=20, kv=1, qr=10, kr=9, nope=7, pe=4, theta=100.0):
    """Config keys and tensors of a tiny decoder: every sign of g, zeros too, and in the last layer nobody active."""
    rng = np.random.default_rng(seed)
    m = lambda *s, gain=1.0: gain * rng.standard_normal(s) / np.sqrt(s[-1])
    ones = lambda *s: 1 + 0.1 * rng.standard_normal(s)
    hd = D // H
    config = dict(model_type="minicpm", vocab_size=V, hidden_size=D, num_hidden_layers=L, num_attention_heads=H,
                  attention_type=attn, rope_theta=theta, rms_norm_eps=EPS, scale_emb=3.0, scale_depth=1.4,
                  dim_model_base=6, tie_word_embeddings=False, num_experts=E, expert_size=de, norm_after_router="rms",
                  norm_scale=1, router_act="relu", intermediate_size=5760, torch_dtype="float64")
    if attn == "mla":
        config |= dict(q_lora_rank=qr, kv_lora_rank=kr, qk_nope_head_dim=nope, qk_rope_head_dim=pe)
    else:
        config |= dict(num_key_value_heads=kv)
    t = {"model.embed_tokens.weight": rng.standard_normal((V, D)), "lm_head.weight": m(V, D),
         "model.norm.weight": ones(D)}
    for i in range(L):
        pre, at = "model.layers.%d." % i, "model.layers.%d.self_attn." % i
        t[pre + "input_layernorm.weight"] = ones(D)
        if attn == "mla":
            t |= {at + "q_a_proj.weight": m(qr, D), at + "q_a_layernorm.weight": ones(qr),
                  at + "q_b_proj.weight": m(H * (nope + pe), qr, gain=2), at + "kv_a_layernorm.weight": ones(kr),
                  at + "kv_a_proj_with_mqa.weight": m(kr + pe, D), at + "kv_b_proj.weight": m(H * (nope + hd), kr)}
        else:
            t |= {at + "q_proj.weight": m(H * hd, D, gain=2), at + "k_proj.weight": m(kv * hd, D, gain=2),
                  at + "v_proj.weight": m(kv * hd, D)}
        t[at + "o_proj.weight"] = m(D, H * hd)
        t[pre + "post_attention_layernorm.weight"] = ones(D)
        g = (1 + rng.random(E)) * np.resize([1.0, -1.0, 0.0, 1.0], E)
        t |= {pre + "mlp.router_proj.weight": m(E, D), pre + "mlp.router_norm.weight": g if i + 1 < L else 0 * g,
              pre + "mlp.up_proj": m(E * de, D, gain=2), pre + "mlp.down_proj": m(D, E * de, gain=3)}
    return config, t


def small_decoder(config, t, ids):
    """Section 2 in float64, attention in its expanded form; one document. -> final hidden states [T,D]."""
    D, L, H = config["hidden_size"], config["num_hidden_layers"], config["num_attention_heads"]
    T, hd, pos = len(ids), D // H, np.arange(len(ids))
    rms = lambda x, w, eps=EPS: x / np.sqrt((x * x).mean(-1, keepdims=True) + eps) * w

    def rope(x):  # [T, heads, dim], pairs (j, j + dim/2)
        half = x.shape[-1] // 2
        angle = pos[:, None, None] * config["rope_theta"] ** (-np.arange(half) / half)
        a, b, c, s = x[..., :half], x[..., half:], np.cos(angle), np.sin(angle)
        return np.concatenate([a * c - b * s, b * c + a * s], -1)

    def attend(q, k, v):
        score = np.einsum("thd,shd->hts", q, k) / np.sqrt(q.shape[-1])
        score = np.where(np.tril(np.ones((T, T), bool)), score, -np.inf)
        p = np.exp(score - score.max(-1, keepdims=True))
        return np.einsum("hts,shd->thd", p / p.sum(-1, keepdims=True), v).reshape(T, -1)

    scale, x = config["scale_depth"] / np.sqrt(L), t["model.embed_tokens.weight"][ids] * config["scale_emb"]
    for i in range(L):
        w = lambda name: t["model.layers.%d.%s" % (i, name)]
        a = lambda name: w("self_attn." + name)
        u = rms(x, w("input_layernorm.weight"))
        if config["attention_type"] == "mla":
            kr, pe, nope = config["kv_lora_rank"], config["qk_rope_head_dim"], config["qk_nope_head_dim"]
            q = rms(u @ a("q_a_proj.weight").T, a("q_a_layernorm.weight"), 1e-6) @ a("q_b_proj.weight").T
            q = q.reshape(T, H, nope + pe)
            latent = u @ a("kv_a_proj_with_mqa.weight").T
            up = (rms(latent[:, :kr], a("kv_a_layernorm.weight"), 1e-6) @ a("kv_b_proj.weight").T).reshape(T, H, -1)
            k = np.concatenate([up[..., :nope], np.repeat(rope(latent[:, None, kr:]), H, 1)], -1)
            o = attend(np.concatenate([q[..., :nope], rope(q[..., nope:])], -1), k, up[..., nope:])
        else:
            heads = lambda name: (u @ a(name).T).reshape(T, -1, hd)
            q, k, v = rope(heads("q_proj.weight")), rope(heads("k_proj.weight")), heads("v_proj.weight")
            o = attend(q, np.repeat(k, H // k.shape[1], 1), np.repeat(v, H // v.shape[1], 1))
        x = x + scale * o @ a("o_proj.weight").T
        y = layer(rms(x, w("post_attention_layernorm.weight")), w("mlp.router_proj.weight"),
                  w("mlp.router_norm.weight"), w("mlp.up_proj"), w("mlp.down_proj"))
        assert (i + 1 < L) == bool(y.any())
        x = x + scale * y
    return rms(x, t["model.norm.weight"]) * config["dim_model_base"] / D


def tau(p, n):
    """Expected tokens of a verify of n tokens (1 known + n-1 drafted), acceptance p each."""
    return sum(p ** j for j in range(n))


def emitted(p, q):
    """Distribution of the token emitted by accept / residual sampling, target p, drafter q."""
    acc = np.minimum(p, q)
    res = np.maximum(p - q, 0)
    return acc + (1 - acc.sum()) * res / max(res.sum(), 1e-300)


# ---------------------------------------------------------------- goldens
GOLD = {
    "A_t0": "0.894413 0.000000 1.788826 0.000000",
    "A_t1": "0.697467 0.232489 1.859912 0.000000",
    "A_t2": "0.000000 1.109358 1.664037 0.000000",
    "A_t3": "0.044430 0.000000 1.999334 0.022215",
    "y_t0": "-0.338945 0.179900 -0.043623 0.134530",
    "y_t1": "0.164581 0.000152 0.090400 -0.345369",
    "y_t2": "0.238863 -0.092264 0.037928 -0.073945",
    "y_t3": "0.314545 -0.039305 -0.192312 0.032881",
    "L_al_one": "9.577298",
    "dL_al_t0": "0.000000 -8.332955 0.000000 0.000378",
    "dL_al_t3": "17.498931 0.000000 0.000000 16.384328",
    "L_al_two": "6.250125",
    "P": "0.510726 0.449970 0.998565 0.010713",
    "L_cs_4": "0.492493",
    "dL_cs_t1": "0.090915 0.080013 -0.044094 0.000000",
    "L_cs_2_two": "0.289338",
    "L_cs_4_mask": "0.476368",
    "TLS CLS_1 CLS_2 CLS_4 reuse growth_2": "0.375000 0.375000 0.125000 0.000000 0.722222 1.400000",
    "two: TLS CLS_2 reuse": "0.375000 0.250000 0.833333",
    "lambda targets": "0.050000 0.052500 0.051250 0.052531 0.076688 0.153376 0.200000",
    "lambda steps 8..13": "0.050000 0.050625 0.051250 0.051875 0.052500 0.052187",
    "params Small": "119,383,552",
    "total Small": "307,932,160",
    "params Medium": "494,721,848",
    "total Medium": "808,969,528",
    "params Large": "817,236,992",
    "total Large": "1,194,334,208",
    "params XLarge": "1,187,830,952",
    "total XLarge": "1,627,777,704",
    "params 3B": "2,802,997,760",
    "total 3B": "3,103,808,000",
    "params 30M": "23,208,704",
    "total 30M": "31,597,312",
    "params Nano": "4,378,048",
    "total Nano": "6,475,200",
    "MB Large bf16": "2016 | 1001 | 1073 | 1125",
    "bound Large bf16": "2.01 | 1.95 | 46",
    "MB Large Q8_0": "1075 | 536 | 575 | 602",
    "bound Large Q8_0": "2.01 | 1.96 | 87",
    "MB Large Q4_0": "574 | 288 | 309 | 323",
    "bound Large Q4_0": "1.99 | 1.97 | 161",
    "MB XLarge bf16": "2822 | 1351 | 1451 | 1513",
    "bound XLarge bf16": "2.09 | 1.89 | 46",
    "MB XLarge Q8_0": "1506 | 724 | 777 | 811",
    "bound XLarge Q8_0": "2.08 | 1.89 | 86",
    "MB XLarge Q4_0": "804 | 390 | 418 | 436",
    "bound XLarge Q4_0": "2.06 | 1.91 | 161",
    "MB Large mixed": "876 | 336 | 375 | 402",
    "bound Large mixed": "2.60 | 1.57 | 133",
    "MB 3B bf16": "5925 | 1695 | 2060 | 2585",
    "bound 3B bf16": "3.50 | 1.28 | 41",
    "MB 3B Q8_0": "3166 | 918 | 1112 | 1391",
    "bound 3B Q8_0": "3.45 | 1.29 | 75",
    "MB 3B Q4_0": "1694 | 504 | 606 | 754",
    "bound 3B Q4_0": "3.36 | 1.31 | 138",
    "tau": "1.875000 2.176000 2.533000 1.992188 3.141173",
}


def build():
    G = {}
    f = lambda v: " ".join("%.6f" % (0.0 if abs(z) < 5e-7 else z) for z in np.atleast_1d(v))
    raw = np.array([[.50, -.20, 1.00, -.10], [.30, .10, .80, -.40], [-.20, .40, .60, -.10], [.02, -.30, .90, .01]])
    one = np.ones(4)
    A, act = route(raw, one)
    for t in range(4):
        G["A_t%d" % t] = f(A[t])
    # layer: x = identity, so that x Wr^T = raw
    x, Wr, g = np.eye(4), raw.T.copy(), np.array([1.0, -0.5, 0.75, 1.25])
    Wup = ((np.arange(32) % 7 - 3) / 4.0).reshape(8, 4)
    Wdown = ((np.arange(32) % 5 - 2) / 4.0).reshape(4, 8)
    y = layer(x, Wr, g, Wup, Wdown)
    assert np.allclose(y, layer_sparse(x, Wr, g, Wup, Wdown), atol=1e-14)
    assert not layer(np.zeros((1, 4)), Wr, g, Wup, Wdown).any()
    for t in range(4):
        G["y_t%d" % t] = f(y[t])
    # losses: one document, then documents {0,1,2} and {3}
    ok = np.ones(4, bool)
    s1, s2 = np.zeros(4, int), np.array([0, 0, 0, 1])
    for nm, seg in (("one", s1), ("two", s2)):
        L, gr = al_loss(raw, seg, ok)
        G["L_al_" + nm] = f(L)
        if nm == "one":
            G["dL_al_t0"], G["dL_al_t3"] = f(gr[0]), f(gr[3])
        check_grad(lambda z: al_loss(z, seg, ok)[0], raw, gr)
    L, gr, P = cs_loss(raw, s1, ok, 4)
    G["P"], G["L_cs_4"] = f(P[0]), f(L)
    G["dL_cs_t1"] = f(gr[1])
    check_grad(lambda z: cs_loss(z, s1, ok, 4)[0], raw, gr)
    G["L_cs_2_two"] = f(cs_loss(raw, s2, ok, 2)[0])
    G["L_cs_4_mask"] = f(cs_loss(raw, s1, np.array([True, True, True, False]), 4)[0])
    # metrics
    tls, cls, reuse, gw = metrics(act, s1, ok, (1, 2, 4))
    G["TLS CLS_1 CLS_2 CLS_4 reuse growth_2"] = f([tls, cls[1], cls[2], cls[4], reuse, gw[2]])
    tls, cls, reuse, gw = metrics(act, s2, ok, (1, 2, 4))
    assert 4 not in cls
    G["two: TLS CLS_2 reuse"] = f([tls, cls[2], reuse])
    # scheduler
    S, targets, lam = FactorScheduler(.05, start=4, adjust=4), [], []
    for m in (.40, .42, .41, .411, .60, 1.2, 2.4):
        for _ in range(4):
            lam.append(S.value())
            S.observe(m)
        targets.append(S.hi)
    G["lambda targets"], G["lambda steps 8..13"] = f(targets), f(lam[7:13])
    # counts
    for n in SIZES:
        G["params " + n] = "{:,}".format(non_embedding(n))
        G["total " + n] = "{:,}".format(non_embedding(n) + 2 * size_parts(n)["head"])
    # traffic
    for n, (a, r, u8) in ROUTING.items():
        u4 = 1 - markov_cls(a, r, 4)
        for wn, w in W.items():
            G["MB %s %s" % (n, wn)] = " | ".join("%.0f" % step_mb(n, u, w) for u in (1, a, u4, u8))
            G["bound %s %s" % (n, wn)] = bound(n, a, u4, w)
    a, r, u8 = ROUTING["Large"]
    u4, mix = 1 - markov_cls(a, r, 4), (W["Q8_0"], W["Q4_0"])
    G["MB Large mixed"] = " | ".join("%.0f" % step_mb("Large", u, *mix) for u in (1, a, u4, u8))
    G["bound Large mixed"] = bound("Large", a, u4, *mix)
    for wn, w in W.items():
        G["MB 3B %s" % wn] = " | ".join("%.0f" % step_mb("3B", u, w) for u in (1, .1245, .20, .3086))
        G["bound 3B %s" % wn] = bound("3B", .1245, .20, w)
    mla_check()
    # speculation
    G["tau"] = f([tau(.5, 4), tau(.6, 4), tau(.7, 4), tau(.5, 8), tau(.7, 8)])
    p, q = np.array([.5, .3, .2, 0]), np.array([.1, .6, .1, .2])
    assert np.allclose(emitted(p, q), p) and np.allclose(emitted(p, np.eye(4)[1]), p)
    return G


def check_grad(fn, z, grad, h=1e-7):
    for i in np.ndindex(z.shape):
        a, b = z.copy(), z.copy()
        a[i] += h
        b[i] -= h
        assert abs((fn(a) - fn(b)) / (2 * h) - grad[i]) < 1e-4 * max(1.0, abs(grad[i])), (i, grad[i])


def main():
    G = build()
    for k, v in G.items():
        print("%-36s %s" % (k, v))
    if "--print" in sys.argv:
        return 0
    bad = ["%s: computed %s, golden %s" % (k, v, GOLD.get(k)) for k, v in G.items() if GOLD.get(k) != v]
    bad += ["%s: golden without a computation" % k for k in GOLD if k not in G]
    with open(os.path.join(os.path.dirname(__file__), "../../specs/blockffn.md"), encoding="utf-8") as spec:
        text = spec.read()
    bad += ["%s: %s is not in blockffn.md" % (k, v) for k, v in G.items() if v not in text]
    for b in bad:
        print("DIFFERS", b, file=sys.stderr)
    print("oracle: %d values, %d differences" % (len(G), len(bad)))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
