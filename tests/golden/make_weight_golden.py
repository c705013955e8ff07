# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/weights.safetensors: rows as each weight type stores them, and what the stored bytes mean.

Bytes of blocks come from ggml's own reference quantisers, other bytes and all readings from Python's `gguf` (0.17.1).
(Its Q4_0 rounds ties as a fused multiply-add does; else its bytes are the same: tests/parity/gguf_test.py.)
Not here: the comparison (hydra/io/weight_type_test.cc).
Run:  python3 tests/golden/make_weight_golden.py LIBGGML [FILE]
LIBGGML: a shared library of ggml's ggml-quants.c and ggml.c (llama.cpp), built with -O2
-ffp-contract=off and without -march: a fused multiply-add would round differently.

values [R, 512] f32   rows: random, wide range of groups, one sign, half zeros, few levels, all zero, constant, tiny
                      values, uniform
TYPE.bytes [R, n] u8  each row as TYPE stores it (types that are written)
TYPE.raw [n] u8       512 stored weights, random bytes with finite scales
TYPE.decoded [512]    f32, their meaning
"""
import ctypes
import os
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Type
from safetensors.numpy import save_file

N = 512
TYPES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q4_K", "Q5_K", "Q6_K"]
READ_ONLY = {"Q5_0", "Q5_1", "Q5_K"}
# Where a block keeps its f16 numbers.
HALVES = {"F16": [0], "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q4_K": [0, 2],
          "Q5_K": [0, 2], "Q6_K": [208]}


def rows(rng):
    x = rng.standard_normal((11, N)).astype(np.float32)
    x[1] *= np.repeat(10.0 ** rng.integers(-7, 4, N // 32), 32)
    x[2] = np.abs(x[2])
    x[3] = -np.abs(x[3]) * 1e-3
    x[4, rng.integers(0, N, N // 2)] = 0
    x[5] = np.round(x[5] * 2) / 4
    x[6] = 0
    x[7] = -0.3125
    x[8, :256] *= 1e-12
    for row, seed in ((9, 38), (10, 139)):  # seeds whose values need the largest of the scales that Q4_K tries
        x[row] = np.random.default_rng(seed).random(2 * N)[N:]
    return x.astype(np.float32)


def encode(ggml, name, values):
    if name in ("F32", "F16", "BF16"):
        return np.stack([np.frombuffer(gguf.quants.quantize(row, Type[name]).tobytes(), np.uint8) for row in values])
    block, size = gguf.GGML_QUANT_SIZES[Type[name]]
    out = np.zeros((len(values), N // block * size), np.uint8)
    function = getattr(ggml, "quantize_" + name.lower().replace("_k", "_K"))
    function.restype = ctypes.c_size_t
    function(values.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(len(values)),
             ctypes.c_int64(N), None)
    return out


def raw(name, rng):
    block, size = gguf.GGML_QUANT_SIZES[Type[name]]
    if name in ("F32", "BF16"):
        blocks = gguf.quants.quantize(rng.standard_normal(N).astype(np.float32), Type[name])
        return np.frombuffer(blocks.tobytes(), np.uint8)
    blocks = rng.integers(0, 256, (N // block, size), dtype=np.uint8)
    for at in HALVES[name]:
        blocks[:, at + 1] &= 0xBF  # an exponent below 16: finite
    blocks[0, HALVES[name][0] + 1] &= 0x83  # one that is subnormal
    return blocks.reshape(-1)


def main():
    ggml = ctypes.CDLL(sys.argv[1], mode=os.RTLD_LAZY)
    beside = os.path.join(os.path.dirname(os.path.abspath(__file__)), "weights.safetensors")
    path = sys.argv[2] if len(sys.argv) > 2 else beside
    rng = np.random.default_rng(5)
    values = rows(rng)
    named = {"values": values}
    for name in TYPES:
        if name not in READ_ONLY:
            named[name + ".bytes"] = encode(ggml, name, values)
        named[name + ".raw"] = raw(name, rng).copy()
        named[name + ".decoded"] = gguf.quants.dequantize(named[name + ".raw"], Type[name]).astype(np.float32)
        assert np.isfinite(named[name + ".decoded"]).all(), name
    save_file(named, path)


if __name__ == "__main__":
    main()
