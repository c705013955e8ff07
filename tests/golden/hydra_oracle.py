# SPDX-License-Identifier: Apache-2.0
"""Numerical oracle of the Hydra model (numpy only, float64, tiny sizes), straight from specs/hydra.md.

Every part of a block is written twice:
  * the scan form: a whole row of packed, padded documents at once (section numbers as in specs/hydra.md), and
  * the step form: one token at a time, with the decode state that the specification lists.
Run alone it prints the largest difference of each comparison and exits with status 1 if one exceeds 1e-9, or if a
tensor that must influence the output (or a loss) does not. Not here: the files of tests/golden (make_golden.py).
Never optimised.     Run:  python3 tests/golden/hydra_oracle.py

Dims: T tokens, D width, H/P/N/G SSM heads/head dim/state/groups, K conv width, Q SSD chunk, C model chunk,
      A/Dh attention heads/head dim, W window, Gm/m landmark budget/promotions per chunk, E/F/k experts/width/top-k,
      S/r/Sw slots/rank/slots written, Hp/n/dk/dv/kp PKM heads/sub-keys/half-key/value/top-k.
"""
import sys
from types import SimpleNamespace as NS
import numpy as np

TOL = 1e-9
EPS = 1e-6
CFG = NS(D=24, L=4, H=4, P=6, N=5, G=2, norm_groups=2, K=4, Q=5, C=8, A=3, Dh=8, W=12, Gm=6, m=2, theta=100.0,
         E=4, F=10, k=2, S=5, r=6, Sw=3, Hp=2, n=7, dk=4, dv=9, kp=3, dt_limit=(0.0, 2.0),
         sga=(2,), moe=(0, 2), ws=(1, 3), pkm=(2,), ssm_kind="mamba2", controller=True)
DEFAULT = NS(top_k=None, ban=(), force=None, temperature=1.0, path=(1.0, 1.0, 1.0), ws_read=1.0, pkm=1.0)

sigmoid = lambda v: 1 / (1 + np.exp(-v))
silu = lambda v: v * sigmoid(v)
softplus = lambda v: np.logaddexp(0, v)
log_sigmoid = lambda v: -np.logaddexp(0, -v)

def softmax(v, axis=-1):
    e = np.exp(v - v.max(axis, keepdims=True))
    return e / e.sum(axis, keepdims=True)

def rms(v, w=1.0):
    return v / np.sqrt((v * v).mean(-1, keepdims=True) + EPS) * w

def top(v, k):
    """Indices of the k largest, ties to the lower index."""
    return np.argsort(-np.asarray(v), kind="stable")[:k]

# ---------------------------------------------------------------- parameters (names as in section 9)
def make_model(c, seed):
    g = np.random.default_rng(seed)
    R = lambda *s, fan=None, gain=1.0: g.normal(size=s) * gain / np.sqrt(fan if fan else s[-1])
    ones = lambda *s: 1 + 0.1 * g.normal(size=s)
    di, gn = c.H * c.P, c.G * c.N
    layers = []
    for i in range(c.L):
        b = NS(norm=ones(c.D), gates=np.array([0.8, 0.2, 0.5]), ctl_w=R(3, c.D), ctl_b=R(3, fan=4))
        if c.ssm_kind == "mamba2":
            b.in_proj, b.out_proj = R(2 * di + 2 * gn + c.H, c.D), R(c.D, di)
            b.conv_w, b.conv_b = R(di + 2 * gn, c.K), R(di + 2 * gn, fan=9)
            b.A_log, b.dt_bias, b.Dskip, b.gnorm = R(c.H, fan=4), R(c.H, fan=1), ones(c.H), ones(di)
        else:
            b.param_proj, b.lambda_log, b.skip_proj = R(4 * c.D, c.D), R(c.D, fan=1) - 1, R(c.D, c.D)
        if i in c.sga:
            b.q, b.k, b.v, b.o = (R(c.D, c.D, gain=1.5) for _ in range(4))
            b.qn, b.kn = ones(c.Dh), ones(c.Dh)
            b.score_w, b.score_b, b.lscale = R(c.D, gain=3), 0.3, R(c.A, fan=2)
        if i in c.moe:
            b.prev, b.first, b.m0, b.bal = R(c.E, c.D, gain=3), R(c.E, c.D, gain=3), R(c.D, fan=1), R(c.E, fan=4)
            b.gate_up, b.down = R(c.E, 2 * c.F, c.D, gain=2), R(c.E, c.D, c.F, gain=2)
        if i in c.ws:
            b.ws = NS(norm=ones(c.D), mnorm=ones(c.r), rq=R(c.r, c.D), wk=R(c.r, c.D), wv=R(c.r, c.D), o=R(c.D, c.r),
                      slot_q=R(c.S, c.r, fan=1), M0=R(c.S, c.r, fan=1), rk=R(c.r, c.r), rv=R(c.r, c.r),
                      wg=R(c.r, gain=2), wb=R(c.S, fan=1), ctl=R(2, c.D, gain=2), ctl_b=np.array([-1.0, 0.2]))
        if i in c.pkm:
            b.pkm = NS(norm=ones(c.D), q=R(2 * c.Hp * c.dk, c.D), qn=ones(c.Hp, 2, c.dk), keys=R(c.Hp, 2, c.n, c.dk),
                       o=R(c.D, c.dv), gw=R(c.D), gb=-2.0)
        layers.append(b)
    return NS(layers=layers, table=R(c.n * c.n, c.dv, fan=1), norm=ones(c.D))

def path_scales(c, b, u, ctl):
    """[.., 3] = control * gate * optional per-token controller (section 1)."""
    s = np.asarray(ctl.path) * b.gates
    return s * 2 * sigmoid(u @ b.ctl_w.T + b.ctl_b) if c.controller else s * np.ones(u.shape[:-1] + (3,))

# ---------------------------------------------------------------- section 2: SSM
def split_in_proj(c, b, u):
    di, gn = c.H * c.P, c.G * c.N
    z, xbc, dt = np.split(u @ b.in_proj.T, [di, 2 * di + 2 * gn], -1)
    return z, xbc, np.clip(softplus(dt + b.dt_bias), *c.dt_limit)

def gated_norm(c, b, y, z):
    v = (y * silu(z)).reshape(y.shape[:-1] + (c.norm_groups, -1))
    return rms(v).reshape(y.shape) * b.gnorm

def split_xbc(c, xbc):
    di, gn, s = c.H * c.P, c.G * c.N, xbc.shape[:-1]
    rep = lambda v: np.repeat(v.reshape(s + (c.G, c.N)), c.H // c.G, axis=-2)    # head h reads group h // (H / G)
    return xbc[..., :di].reshape(s + (c.H, c.P)), rep(xbc[..., di:di + gn]), rep(xbc[..., di + gn:])

def ssd_scan(c, X, Bm, Cm, dt, A, doc):
    """The four stages; X [T,H,P], Bm Cm [T,H,N], dt [T,H], A [H], doc [T] -> Y [T,H,P], without the skip."""
    T, Y = len(X), np.zeros_like(X)
    carry, last_doc = np.zeros((c.H, c.P, c.N)), None
    for s in range(0, T, c.Q):
        i = slice(s, min(s + c.Q, T))
        x, B, Cq, d, dc = X[i], Bm[i], Cm[i], dt[i], doc[i]
        a = np.cumsum(d * A, 0)                                                       # chunk_cumsum [q,H]
        keep = (dc == dc[-1])[:, None]
        state = np.einsum("jh,jhp,jhn->hpn", np.where(keep, np.exp(a[-1] - a) * d, 0), x, B)   # chunk_state
        same = np.tril(dc[:, None] == dc[None, :])
        dec = np.exp(np.where(same[..., None], a[:, None] - a[None], -np.inf))        # [i,j,H]
        Y[i] = np.einsum("ijh,jh,ihn,jhn,jhp->ihp", dec, d, Cq, B, x)                 # chunk_scan, inside
        if last_doc is not None:
            Y[i] += np.einsum("ih,hpn,ihn->ihp", np.where((dc == last_doc)[:, None], np.exp(a), 0), carry, Cq)
        cont = last_doc is not None and dc[-1] == last_doc
        carry = state + (np.exp(a[-1])[:, None, None] * carry if cont else 0)         # state_passing
        last_doc = dc[-1]
    return Y

def ssm_scan(c, b, u, doc):
    T = len(u)
    if c.ssm_kind == "diagonal":
        d, B, Cm, U = np.split(u @ b.param_proj.T, 4, -1)
        cum = np.cumsum(-softplus(d) * np.exp(b.lambda_log), 0)
        prev = np.vstack([np.zeros((1, c.D)), cum[:-1]])
        ok = np.tril(doc[:, None] == doc[None, :], -1)[..., None]
        M = np.exp(np.where(ok, prev[:, None] - cum[None], -np.inf))                  # strictly earlier tokens
        return Cm * np.einsum("tjd,jd->td", M, B * U) + u @ b.skip_proj.T
    z, raw, dt = split_in_proj(c, b, u)
    conv = np.zeros_like(raw) + b.conv_b
    for j in range(c.K):                                                              # tap j reads token t - j
        for t in range(j, T):
            if doc[t - j] == doc[t]:
                conv[t] += raw[t - j] * b.conv_w[:, c.K - 1 - j]
    X, Bm, Cm = split_xbc(c, silu(conv))
    Y = ssd_scan(c, X, Bm, Cm, dt, -np.exp(b.A_log), doc) + b.Dskip[:, None] * X
    return gated_norm(c, b, Y.reshape(T, -1), z) @ b.out_proj.T

def ssm_step(c, b, u, st):
    if c.ssm_kind == "diagonal":
        d, B, Cm, U = np.split(b.param_proj @ u, 4)
        y = Cm * st.s + b.skip_proj @ u                                               # reads before it writes
        st.s = np.exp(-softplus(d) * np.exp(b.lambda_log)) * st.s + B * U
        return y
    z, raw, dt = split_in_proj(c, b, u)
    win = np.hstack([st.conv, raw[:, None]])                                          # [conv_dim, K]
    st.conv = win[:, 1:]
    X, Bm, Cm = split_xbc(c, silu((win * b.conv_w).sum(1) + b.conv_b))
    st.h = np.exp(dt * -np.exp(b.A_log))[:, None, None] * st.h + dt[:, None, None] * X[:, :, None] * Bm[:, None]
    y = np.einsum("hpn,hn->hp", st.h, Cm) + b.Dskip[:, None] * X
    return b.out_proj @ gated_norm(c, b, y.reshape(-1), z)

# ---------------------------------------------------------------- section 3: sparse global attention
def rope(c, x, pos):
    """x [.., A, Dh]; rotate-half; pos scalar or [T]."""
    h = c.Dh // 2
    th = np.asarray(pos)[..., None, None] / c.theta ** (np.arange(h) / h)
    x1, x2 = x[..., :h], x[..., h:]
    return np.concatenate([x1 * np.cos(th) - x2 * np.sin(th), x1 * np.sin(th) + x2 * np.cos(th)], -1)

def qkvs(c, b, u, pos):
    hd = lambda w: (u @ w.T).reshape(u.shape[:-1] + (c.A, c.Dh))
    return rope(c, rms(hd(b.q), b.qn), pos), rope(c, rms(hd(b.k), b.kn), pos), hd(b.v), u @ b.score_w + b.score_b

def sga_scan(c, b, u, pos, doc):
    q, k, v, s = qkvs(c, b, u, pos)
    T, ch = len(u), pos // c.C
    promoted = np.zeros(T, bool)
    for d in set(doc[doc >= 0]):
        idx = np.flatnonzero(doc == d)
        for e in range(len(idx) // c.C):                                              # closed chunks only
            promoted[idx[e * c.C + top(s[idx[e * c.C:(e + 1) * c.C]], c.m)]] = True
    bias = np.full((T, T), -np.inf)
    for t in range(T):
        mine = doc == doc[t]
        older = np.flatnonzero(mine & promoted & (ch < ch[t]))
        pool = older[top(s[older], c.Gm)]                                             # prefix top-Gm: no eviction order
        pool = pool[pos[pool] <= pos[t] - c.W]
        bias[t, mine & (pos <= pos[t]) & (pos > pos[t] - c.W)] = 0
        bias[t, pool] = log_sigmoid(s[pool])
    lam = softplus(b.lscale)[:, None, None]
    with np.errstate(invalid="ignore"):
        p = softmax(np.einsum("tad,jad->atj", q, k) / np.sqrt(c.Dh) + np.where(np.isinf(bias), -np.inf, lam * bias))
    return np.einsum("atj,jad->tad", p, v).reshape(T, -1) @ b.o.T

def sga_step(c, b, u, t, st):
    q, k, v, s = qkvs(c, b, u, t)
    st.ring = (st.ring + [(t, k, v, s)])[-c.W:]
    far = [e for e in st.pool if e[0] <= t - c.W]
    al, bias = far + st.ring, np.array([log_sigmoid(e[3]) for e in far] + [0.0] * len(st.ring))
    lg = np.array([(e[1] * q).sum(-1) for e in al]).T / np.sqrt(c.Dh) + softplus(b.lscale)[:, None] * bias
    y = b.o @ np.einsum("aj,jad->ad", softmax(lg), np.array([e[2] for e in al])).reshape(-1)
    if (t + 1) % c.C == 0:                                                            # close: promote, evict
        seg = st.ring[-c.C:]
        st.pool += [seg[j] for j in sorted(top([e[3] for e in seg], c.m))]
        st.pool = [st.pool[j] for j in sorted(top([e[3] for e in st.pool], c.Gm))]
    return y

# ---------------------------------------------------------------- section 4: chunk-routed experts
def route(c, b, mean, first, ctl):
    z = b.prev @ mean + b.first @ first
    z[list(ctl.ban)] = -np.inf
    ids = np.array(ctl.force) if ctl.force is not None else top(z + b.bal, ctl.top_k or c.k)
    return ids, softmax(z[ids] / ctl.temperature), z

def expert(c, b, e, u):
    g, up = np.split(u @ b.gate_up[e].T, 2, -1)
    return (silu(g) * up) @ b.down[e].T

def routes_scan(c, b, u, pos, doc, ctl):
    out = []                                                                          # (rows, ids, weights, z)
    for s in np.flatnonzero((pos % c.C == 0) & (doc >= 0)):
        rows = np.arange(s, min(s + c.C, len(u)))
        rows = rows[doc[rows] == doc[s]]
        out.append((rows,) + route(c, b, b.m0 if pos[s] == 0 else u[s - c.C:s].mean(0), u[s], ctl))
    return out

def moe_scan(c, b, u, pos, doc, ctl):
    y, rs = np.zeros_like(u), routes_scan(c, b, u, pos, doc, ctl)
    for e in range(c.E):                                                              # one gathered GEMM per expert
        hit = [(rows, w[list(ids).index(e)]) for rows, ids, w, _ in rs if e in ids]
        if hit:
            rows, w = np.concatenate([h[0] for h in hit]), np.concatenate([np.full(len(h[0]), h[1]) for h in hit])
            y[rows] += w[:, None] * expert(c, b, e, u[rows])
    return y

def moe_step(c, b, u, t, st, ctl):
    if t % c.C == 0:
        st.ids, st.w, _ = route(c, b, st.mean, u, ctl)
    st.acc = st.acc + u
    y = sum(w * expert(c, b, e, u) for e, w in zip(st.ids, st.w))
    if (t + 1) % c.C == 0:
        st.mean, st.acc = st.acc / c.C, np.zeros(c.D)
    return y

def balance_loss(c, rs, tau=1.0):
    f = np.bincount(np.concatenate([ids for _, ids, _, _ in rs]), minlength=c.E) / sum(len(r[1]) for r in rs)
    return c.E * (f * np.mean([softmax(z / tau) for *_, z in rs], 0)).sum()

# ---------------------------------------------------------------- section 5: workspace
def ws_gate(c, w, U):
    rho = U @ w.wg + w.wb
    gam = np.zeros(c.S)
    on = top(rho, c.Sw)
    gam[on] = sigmoid(rho[on])
    return gam[:, None]

def ws_write(c, w, u):
    a = softmax((u @ w.wk.T) @ w.slot_q.T / np.sqrt(c.r) + (u @ w.ctl[1] + w.ctl_b[1])[:, None], 0)   # [C,S]
    U = a.T @ (u @ w.wv.T)
    return ws_gate(c, w, U), U

def ws_read(c, w, u, M, ctl):
    Mn = rms(M, w.mnorm)
    a = softmax((u @ w.rq.T) @ (Mn @ w.rk.T).T / np.sqrt(c.r))
    return ctl.ws_read * sigmoid(u @ w.ctl[0] + w.ctl_b[0])[..., None] * ((a @ (Mn @ w.rv.T)) @ w.o.T)

def ws_scan(c, w, x, pos, doc, ctl):
    """Inclusive associative scan over chunks; element (a, b) means M -> a M + b; (0, M0) restarts a document."""
    u, y = rms(x, w.norm), np.zeros_like(x)
    starts, el = np.flatnonzero((pos % c.C == 0) & (doc >= 0)), []
    for s in starts:                                                                  # element before chunk s
        if pos[s] == 0:
            el.append((np.zeros((c.S, c.r)), w.M0))
        else:
            gam, U = ws_write(c, w, u[s - c.C:s])
            el.append(((1 - gam) * np.ones((1, c.r)), gam * U))
    d = 1
    while d < len(el):                                                                # Kogge-Stone
        el = [e if i < d else (el[i - d][0] * e[0], e[0] * el[i - d][1] + e[1]) for i, e in enumerate(el)]
        d *= 2
    for s, (a, bb) in zip(starts, el):
        rows = np.arange(s, min(s + c.C, len(x)))
        rows = rows[doc[rows] == doc[s]]
        y[rows] = ws_read(c, w, u[rows], a * w.M0 + bb, ctl)
    return y

def ws_step(c, w, x, t, st, ctl):
    u = rms(x, w.norm)
    y = ws_read(c, w, u[None], st.M, ctl)[0]
    lg = w.slot_q @ (w.wk @ u) / np.sqrt(c.r) + u @ w.ctl[1] + w.ctl_b[1]             # online softmax, one row a slot
    mx = np.maximum(st.mx, lg)
    f, e = np.exp(st.mx - mx), np.exp(lg - mx)
    st.acc, st.sum, st.mx = st.acc * f[:, None] + e[:, None] * (w.wv @ u), st.sum * f + e, mx
    if (t + 1) % c.C == 0:
        U = st.acc / st.sum[:, None]
        gam = ws_gate(c, w, U)
        st.M = (1 - gam) * st.M + gam * U
        st.acc, st.sum, st.mx = np.zeros((c.S, c.r)), np.zeros(c.S), np.full(c.S, -np.inf)
    return y

# ---------------------------------------------------------------- section 6: product-key memory
def pkm_select(c, w, u):
    """u [D] -> per head (row ids [kp], scores [kp]): exact top-kp of the n*n sums."""
    q = rms((w.q @ u).reshape(c.Hp, 2, c.dk), w.qn)
    out = []
    for h in range(c.Hp):
        s1, s2 = w.keys[h, 0] @ q[h, 0], w.keys[h, 1] @ q[h, 1]
        i1, i2 = top(s1, c.kp), top(s2, c.kp)
        sc = (s1[i1][:, None] + s2[i2][None]).ravel()
        j = top(sc, c.kp)
        out.append(((i1[:, None] * c.n + i2[None]).ravel()[j], sc[j], s1, s2))
    return out

def pkm_read(c, w, table, x, ctl):
    u, y = rms(x, w.norm), np.zeros_like(x)
    for t in range(len(x)):
        o = sum(softmax(sc) @ table[ids] for ids, sc, _, _ in pkm_select(c, w, u[t]))
        y[t] = ctl.pkm * sigmoid(u[t] @ w.gw + w.gb) * (w.o @ o)
    return y

# ---------------------------------------------------------------- section 1: the model, scan and step
def forward(c, M, x, pos, doc, ctl=DEFAULT, aux=None):
    for i, b in enumerate(M.layers):
        u = rms(x, b.norm)
        g = path_scales(c, b, u, ctl)
        y = g[:, :1] * ssm_scan(c, b, u, doc)
        if i in c.sga: y = y + g[:, 1:2] * sga_scan(c, b, u, pos, doc)
        if i in c.moe: y = y + g[:, 2:] * moe_scan(c, b, u, pos, doc, ctl)
        if aux is not None and i in c.moe: aux.append(balance_loss(c, routes_scan(c, b, u, pos, doc, ctl)))
        x = x + y
        if i in c.ws: x = x + ws_scan(c, b.ws, x, pos, doc, ctl)
        if i in c.pkm: x = x + pkm_read(c, b.pkm, M.table, x, ctl)
    return rms(x, M.norm)

class Stream:
    """One sequence: exactly the decode state of section 10."""
    def __init__(s, c, M, ctl=DEFAULT):
        s.c, s.M, s.ctl, s.t = c, M, ctl, 0
        cd = c.H * c.P + 2 * c.G * c.N
        s.st = [NS(ssm=NS(h=np.zeros((c.H, c.P, c.N)), conv=np.zeros((cd, c.K - 1)), s=np.zeros(c.D)),
                   sga=NS(ring=[], pool=[]), moe=NS(mean=getattr(b, "m0", None), acc=np.zeros(c.D), ids=None, w=None),
                   ws=NS(M=b.ws.M0, acc=np.zeros((c.S, c.r)), sum=np.zeros(c.S), mx=np.full(c.S, -np.inf))
                   if i in c.ws else None) for i, b in enumerate(M.layers)]

    def step(s, x):
        c, t, ctl = s.c, s.t, s.ctl
        for i, (b, st) in enumerate(zip(s.M.layers, s.st)):
            u = rms(x, b.norm)
            g = path_scales(c, b, u, ctl)
            y = g[0] * ssm_step(c, b, u, st.ssm)
            if i in c.sga: y = y + g[1] * sga_step(c, b, u, t, st.sga)
            if i in c.moe: y = y + g[2] * moe_step(c, b, u, t, st.moe, ctl)
            x = x + y
            if i in c.ws: x = x + ws_step(c, b.ws, x, t, st.ws, ctl)
            if i in c.pkm: x = x + pkm_read(c, b.pkm, s.M.table, x[None], ctl)[0]
        s.t += 1
        return rms(x, s.M.norm)

# ---------------------------------------------------------------- names and config (section 9)
def tensors(c, M, embed):
    out = {"model.embed_tokens.weight": embed, "model.norm.weight": M.norm}
    if c.pkm: out["model.pkm_table.weight"] = M.table
    for i, b in enumerate(M.layers):
        t = {"input_layernorm.weight": b.norm, "path_gates": b.gates}
        if c.controller: t.update({"gate_controller.weight": b.ctl_w, "gate_controller.bias": b.ctl_b})
        if c.ssm_kind == "mamba2":
            t.update({"mamba.in_proj.weight": b.in_proj, "mamba.out_proj.weight": b.out_proj, "mamba.A_log": b.A_log,
                      "mamba.conv1d.weight": b.conv_w[:, None], "mamba.conv1d.bias": b.conv_b, "mamba.D": b.Dskip,
                      "mamba.dt_bias": b.dt_bias, "mamba.norm.weight": b.gnorm})
        else:
            t.update({"mamba.param_proj.weight": b.param_proj, "mamba.lambda_log": b.lambda_log,
                      "mamba.skip_proj.weight": b.skip_proj})
        if i in c.sga:
            t.update({f"self_attn.{n}_proj.weight": getattr(b, n) for n in "qkvo"})
            t.update({
                "self_attn.q_norm.weight": b.qn, "self_attn.k_norm.weight": b.kn, "self_attn.landmark_scale": b.lscale,
                "self_attn.landmark_scorer.weight": b.score_w[None], "self_attn.landmark_scorer.bias": [b.score_b]})
        if i in c.moe:
            t.update({"moe.router.prev_proj.weight": b.prev, "moe.router.first_proj.weight": b.first,
                      "moe.router.init_summary": b.m0, "moe.router.balance_bias": b.bal,
                      "moe.experts.gate_up_proj": b.gate_up, "moe.experts.down_proj": b.down})
        if i in c.ws:
            w = b.ws
            t.update({
                "workspace." + n: v
                for n, v in (("norm.weight", w.norm), ("memory_norm.weight", w.mnorm), ("read_q.weight", w.rq),
                             ("write_k.weight", w.wk), ("write_v.weight", w.wv), ("o_proj.weight", w.o),
                             ("slot_queries", w.slot_q), ("init_state", w.M0), ("read_k.weight", w.rk),
                             ("read_v.weight", w.rv), ("write_gate.weight", w.wg[None]), ("write_gate.bias", w.wb),
                             ("controller.weight", w.ctl), ("controller.bias", w.ctl_b))})
        if i in c.pkm:
            p = b.pkm
            t.update({"pkm." + n: v for n, v in (
                ("norm.weight", p.norm), ("query_proj.weight", p.q), ("query_norm.weight", p.qn), ("sub_keys", p.keys),
                ("value_proj.weight", p.o), ("gate.weight", p.gw[None]), ("gate.bias", [p.gb]))})
        out.update({f"model.layers.{i}.{k}": v for k, v in t.items()})
    return {k: np.asarray(v, np.float64) for k, v in out.items()}

def config(c, V):
    kind = lambda i: "ssm" + ("_sga" if i in c.sga else "") + ("_moe" if i in c.moe else "")
    return dict(model_type="hydra", vocab_size=V, hidden_size=c.D, num_hidden_layers=c.L, tie_word_embeddings=True,
                torch_dtype="float64", rms_norm_eps=EPS, model_chunk_size=c.C,
                layer_types=[kind(i) for i in range(c.L)], workspace_layers=list(c.ws), pkm_layers=list(c.pkm),
                gate_controller=c.controller, ssm_kind=c.ssm_kind, mamba_n_heads=c.H, mamba_d_head=c.P,
                mamba_expand=c.H * c.P // c.D, mamba_n_groups=c.G, mamba_norm_groups=c.norm_groups, mamba_d_state=c.N,
                mamba_d_conv=c.K, mamba_chunk_size=c.Q, time_step_limit=list(c.dt_limit), num_attention_heads=c.A,
                num_key_value_heads=c.A, head_dim=c.Dh, sliding_window=c.W, rope_theta=c.theta, landmark_budget=c.Gm,
                landmarks_per_chunk=c.m, num_experts=c.E, num_experts_per_tok=c.k, moe_intermediate_size=c.F,
                workspace_slots=c.S, workspace_rank=c.r, workspace_write_slots=c.Sw, pkm_heads=c.Hp, pkm_n_keys=c.n,
                pkm_d_key=c.dk, pkm_d_value=c.dv, pkm_top_k=c.kp)

# ---------------------------------------------------------------- checks
FAILED = []

def report(what, value, ok):
    print(f"{'ok  ' if ok else 'FAIL'} {what:<74} {value:.3e}")
    if not ok: FAILED.append(what)

def below(what, value): report(what, value, value <= TOL)

def one_doc(T): return np.arange(T), np.zeros(T, int)

def pack(c, lengths):
    pos, doc = [], []
    for d, n in enumerate(lengths):
        room = -(-n // c.C) * c.C
        pos += list(range(room)); doc += [d] * n + [-1] * (room - n)
    return np.array(pos), np.array(doc)

def check_model(label, c, ctl, rng):
    M, T = make_model(c, 11), 77
    x = rng.normal(size=(T, c.D))
    pos, doc = one_doc(T)
    Y = forward(c, M, x, pos, doc, ctl)
    S = Stream(c, M, ctl)
    below(label + ": scan - step", np.abs(Y - np.array([S.step(v) for v in x])).max())
    return M, x, Y

def main():
    rng = np.random.default_rng(3)
    c = CFG
    M, x, Y = check_model("mamba2, G=2, controller", c, DEFAULT, rng)
    T = len(x)
    pos, doc = one_doc(T)
    worst = reach = 0.0
    for t0 in range(0, T, 4):
        x2 = x.copy(); x2[t0] += rng.normal(size=c.D)
        dY = np.abs(forward(c, M, x2, pos, doc) - Y).max(1)
        worst, reach = max(worst, dY[:t0].max() if t0 else 0), max(reach, dY[t0:].max())
    below("causality: change at earlier positions after a later input changed", worst)
    report("causality: change at later positions (must not be zero)", reach, reach > 1e-3)
    below("prefixes of 1, C-1, C, 3C+5 tokens - longer run",
          max(np.abs(forward(c, M, x[:n], *one_doc(n)) - Y[:n]).max() for n in (1, c.C - 1, c.C, 3 * c.C + 5)))
    for q in (1, 4, 16, 77):
        c2 = NS(**{**vars(c), "Q": q})
        below(f"SSD chunk length {q}: output - output with Q={c.Q}", np.abs(forward(c2, M, x, pos, doc) - Y).max())
    lens = (19, 8, 30, 3)                                                             # packed row, pads between
    pp, dd = pack(c, lens)
    xp = rng.normal(size=(len(pp), c.D))
    Yp = forward(c, M, xp, pp, dd)
    alone = [forward(c, M, xp[dd == d], *one_doc(n)) for d, n in enumerate(lens)]
    below("packed documents - each document alone", max(np.abs(Yp[dd == d] - a).max() for d, a in enumerate(alone)))
    xq = xp.copy(); xq[dd < 0] += rng.normal(size=((dd < 0).sum(), c.D))
    below("change of the pad inputs: change at real tokens", np.abs(forward(c, M, xq, pp, dd) - Yp)[dd >= 0].max())
    for label, ctl in (("top_k=1, temperature 2", NS(**{**vars(DEFAULT), "top_k": 1, "temperature": 2.0})),
                       ("ban expert 0, SGA off", NS(**{**vars(DEFAULT), "ban": (0,), "path": (1.0, 0.0, 1.0)})),
                       ("force experts 1 and 3, memory reads x0.5",
                        NS(**{**vars(DEFAULT), "force": (1, 3), "ws_read": .5, "pkm": .5}))):
        check_model("controls, " + label, c, ctl, rng)
    check_model("ssm_kind = diagonal", NS(**{**vars(c), "ssm_kind": "diagonal"}), DEFAULT, rng)
    check_model("whole-width gated norm (norm_groups=1), no controller",
                NS(**{**vars(c), "norm_groups": 1, "controller": False}), DEFAULT, rng)
    w, diff = M.layers[2].pkm, 0.0                                                    # product top-k is exact
    for u in rng.normal(size=(50, c.D)):
        for ids, sc, s1, s2 in pkm_select(c, w, u):
            every = (s1[:, None] + s2[None]).ravel()
            diff = max(diff, np.abs(np.sort(every)[::-1][:c.kp] - sc).max(), np.abs(every[ids] - sc).max())
    below("PKM: product top-k - top-k over all n*n sums", diff)
    b = M.layers[0]  # routing: grouped == per-chunk loop
    u = rng.normal(size=(T, c.D))
    naive = np.zeros_like(u)
    for s in range(0, T, c.C):
        ids, ww, _ = route(c, b, b.m0 if s == 0 else u[s - c.C:s].mean(0), u[s], DEFAULT)
        for e, p in zip(ids, ww): naive[s:s + c.C] += p * expert(c, b, e, u[s:s + c.C])
    below("routing: gathered per expert - loop over chunks", np.abs(moe_scan(c, b, u, pos, doc, DEFAULT) - naive).max())
    aux = []
    forward(c, M, x, pos, doc, DEFAULT, aux)
    of_block = ("score_w", "score_b", "lscale", "prev", "first", "m0", "ctl_w", "A_log", "dt_bias")
    for where, name, obj in [(2, n, M.layers[2]) for n in of_block] + \
            [(1, n, M.layers[1].ws) for n in ("slot_q", "wg", "wb", "M0", "ctl", "wk")] + \
            [(2, n, M.layers[2].pkm) for n in ("keys", "qn", "gb")] + [(-1, "table", M)]:
        old = getattr(obj, name)
        setattr(obj, name, old + 1e-5 * rng.normal(size=np.shape(old)))
        d = np.abs(forward(c, M, x, pos, doc) - Y).max()
        setattr(obj, name, old)
        report(f"influence of {name} (block {where}) on the output (must not be zero)", d, d > 1e-12)
    b0, aux2 = M.layers[0], []
    old = b0.first
    b0.first = old + 1e-5 * rng.normal(size=old.shape)
    forward(c, M, x, pos, doc, DEFAULT, aux2)
    b0.first = old
    report("influence of the router on its balance loss (must not be zero)", abs(aux[0] - aux2[0]),
           abs(aux[0] - aux2[0]) > 1e-12)
    print("FAILED: " + ", ".join(FAILED) if FAILED else "all checks passed")
    return 1 if FAILED else 0

if __name__ == "__main__":
    sys.exit(main())
