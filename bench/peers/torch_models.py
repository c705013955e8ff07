#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# One case of the training benchmark in Python, in one process: the peers of bench_train_forward, with its arguments and
# its JSON line. transformer-29m and transformer-nano are written here in torch with care: one product for q, k and v,
# one for gate and up, SDPA, F.rms_norm, fused AdamW; mamba2-29m is transformers' Mamba2 of the preset's size. Losses
# read the logits where they lie: they are neither shifted nor cast. The line says whether same_process.so was loaded.
# Not here: which cases (../train_forward.py).
#   torch_models.py PRESET T ROWS train|forward STEPS THREADS [eager|compiled]
import ctypes
import json
import resource
import sys
import time

import torch
from torch import nn
from torch.nn import functional as F

# vocabulary, width, layers, heads, SwiGLU
TRANSFORMERS = {"transformer-29m": (4096, 512, 8, 8, 1504), "transformer-nano": (2048, 192, 6, 6, 544)}
MAMBAS = {"mamba2-29m": (4096, 576, 13, 64, 64)}  # vocabulary, width, layers, head dimension, state
WARM_UP = 8192  # tokens of a row at most, as in bench_train_forward


def next_token_loss(hidden, embedding, ids):
    """Mean over all tokens that have a next one. Targets are shifted, not logits [B, T, V]: those of a slice would be
    copied. hidden [B, T, D], embedding [V, D], ids [B, T]."""
    targets = F.pad(ids[:, 1:], (0, 1), value=-100)  # which cross_entropy leaves out
    return F.cross_entropy(F.linear(hidden, embedding).flatten(0, 1), targets.flatten())


def rotate(x, cos, sin):
    """RoPE on halves; x [B, heads, T, head_dim]."""
    low, high = x.chunk(2, -1)
    return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)


class Layer(nn.Module):
    def __init__(self, width, heads, hidden):
        super().__init__()
        self.heads = heads
        self.attention_norm = nn.Parameter(torch.ones(width))
        self.ffn_norm = nn.Parameter(torch.ones(width))
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cos, sin):
        batch, length, width = x.shape
        qkv = self.qkv(F.rms_norm(x, (width,), self.attention_norm, 1e-5))
        q, k, v = qkv.view(batch, length, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(rotate(q, cos, sin), rotate(k, cos, sin), v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, length, width))
        gate, up = self.gate_up(F.rms_norm(x, (width,), self.ffn_norm, 1e-5)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


class Transformer(nn.Module):
    def __init__(self, vocabulary, width, layers, heads, hidden):
        super().__init__()
        self.head_dim = width // heads
        self.embedding = nn.Parameter(0.02 * torch.randn(vocabulary, width))  # tied
        self.layers = nn.ModuleList(Layer(width, heads, hidden) for _ in range(layers))
        self.norm = nn.Parameter(torch.ones(width))
        for p in self.layers.parameters():
            if p.dim() > 1:
                nn.init.normal_(p, std=0.02)

    def hidden(self, ids):
        angles = torch.arange(ids.shape[1])[:, None] * 10000.0 ** (-torch.arange(0, self.head_dim, 2) / self.head_dim)
        cos, sin = angles.cos(), angles.sin()
        x = F.embedding(ids, self.embedding)
        for layer in self.layers:
            x = layer(x, cos, sin)
        return F.rms_norm(x, x.shape[-1:], self.norm, 1e-5)

    def loss(self, ids):
        return next_token_loss(self.hidden(ids), self.embedding, ids)

    def last_logits(self, ids):
        return F.linear(self.hidden(ids)[:, -1], self.embedding)


class Mamba2(nn.Module):
    def __init__(self, vocabulary, width, layers, head_dim, state):
        super().__init__()
        import transformers  # only here: the transformer needs torch alone
        self.model = transformers.Mamba2ForCausalLM(
            transformers.Mamba2Config(vocab_size=vocabulary, hidden_size=width, num_hidden_layers=layers,
                                      head_dim=head_dim, num_heads=2 * width // head_dim, state_size=state, expand=2,
                                      conv_kernel=4, n_groups=1, chunk_size=64, tie_word_embeddings=True))

    def loss(self, ids):
        return next_token_loss(self.hidden(ids), self.model.lm_head.weight, ids)

    def last_logits(self, ids):
        return F.linear(self.hidden(ids)[:, -1], self.model.lm_head.weight)

    def hidden(self, ids):
        return self.model.backbone(ids, use_cache=False)[0]


def gemm_limit():
    """Best of ten square products, in FLOP/s."""
    n = 1024
    a, b, best = torch.randn(n, n), torch.randn(n, n), 0.0
    for _ in range(10):
        start = time.perf_counter()
        torch.mm(a, b)
        best = max(best, 2 * n**3 / (time.perf_counter() - start))
    return best


def same_process():
    """Was same_process.so preloaded, and did it set this process up? Where it cannot load it, ld.so only warns."""
    found = getattr(ctypes.CDLL(None), "HydraSameProcess", None)
    return found is not None and found() == 1


def compiles():
    """Graphs that torch.compile has made so far."""
    made = sys.modules.get("torch._dynamo.utils")  # an eager run does not load it
    return made.counters["stats"]["unique_graphs"] if made else 0


def steps_of(model, mode, maybe_compiled):
    """A function of ids that does one step."""
    if mode == "forward":
        forward = maybe_compiled(model.last_logits)

        def step(ids):
            with torch.no_grad():
                forward(ids).sum().item()
        return step
    loss = maybe_compiled(model.loss)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True)

    def step(ids):
        loss(ids).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return step


def main():
    preset, length, rows, mode = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    steps, threads = int(sys.argv[5]), int(sys.argv[6])
    torch.set_num_threads(threads)
    torch.manual_seed(1)
    size = (TRANSFORMERS | MAMBAS)[preset]
    model = Transformer(*size) if preset in TRANSFORMERS else Mamba2(*size)
    warm_up = min(length, WARM_UP)

    def maybe_compiled(function):
        # One length is compiled for itself. Where the warm-up is shorter, the code has to serve any length.
        return torch.compile(function, dynamic=warm_up != length) if sys.argv[7:] == ["compiled"] else function

    step = steps_of(model, mode, maybe_compiled)
    step(torch.randint(size[0], (rows, warm_up)))
    ids, made = torch.randint(size[0], (rows, length)), compiles()
    start = time.perf_counter()
    for _ in range(steps):
        step(ids)
    seconds = (time.perf_counter() - start) / steps
    if compiles() != made:
        sys.exit(f"torch.compile worked within the measured time: warm-up of {warm_up} tokens, step of {length}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(
        json.dumps({
            "preset": preset, "T": length, "rows": rows, "mode": mode, "threads": threads,
            "same_process": same_process(), "seconds": seconds, "tok_per_s": rows * length / seconds,
            "peak_bytes": peak, "parameters": sum(p.numel() for p in model.parameters()),
            "gemm_flops_per_s": gemm_limit()}))


if __name__ == "__main__":
    main()
