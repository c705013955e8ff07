# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
"""Python's `gguf` reads the GGUF files we write, we read those it writes, and quantised bytes and values are equal.

Called with the path of hydralm; the files come from text_test beside it (hydra/text/gguf_samples_test.cc)."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

import numpy as np

try:
    import gguf
except ImportError:
    print("skipped: the Python package `gguf` is not installed")
    sys.exit(77)

BIN = os.path.dirname(os.path.abspath(sys.argv[1]))
Type = gguf.GGMLQuantizationType
ROWS, COLUMNS = 5, 512
READ_ONLY = ["Q5_0", "Q5_1"]  # types that Python can quantise and we only read
SAME_BYTES = ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1"]
K_QUANTS = {"Q4_K": 1 / 15, "Q5_K": 1 / 31, "Q6_K": 1 / 32}  # steps of a range


def random_k_rows(name, rng):
    """Random bytes whose f16 scales are finite: Python writes no K-quants."""
    block, size = gguf.GGML_QUANT_SIZES[Type[name]]
    rows = rng.integers(0, 256, (ROWS, COLUMNS // block, size), dtype=np.uint8)
    for at in ([208] if name == "Q6_K" else [0, 2]):
        rows[..., at + 1] &= 0xBF
    return rows.reshape(ROWS, -1)


def write_theirs(path, values, rng):
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_custom_alignment(64)
    writer.add_uint64("some.u64", 1 << 40)
    writer.add_float64("some.f64", 0.1)
    writer.add_array("some.ints", [1, -2, 3])
    stored = {name: gguf.quants.quantize(values, Type[name]) for name in SAME_BYTES + READ_ONLY}
    stored.update({name: random_k_rows(name, rng) for name in K_QUANTS})
    for name, data in stored.items():
        writer.add_tensor("theirs." + name, data, raw_dtype=Type[name])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def write_tokenizer(path):
    """Byte-level BPE without merges: 256 bytes and one special token."""
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    letters = [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]
    vocab = {"<|endoftext|>": 0, **{c: i + 1 for i, c in enumerate(letters)}}
    step = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    added = {
        "id": 0, "content": "<|endoftext|>", "special": True, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False}
    with open(path, "w", encoding="utf-8") as file:
        json.dump({"added_tokens": [added], "normalizer": None, "pre_tokenizer": step, "post_processor": None,
                   "decoder": step, "model": {"type": "BPE", "vocab": vocab, "merges": []}}, file)


class Gguf(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.TemporaryDirectory()
        cls.folder = cls.temp.name
        rng = np.random.default_rng(7)
        cls.values = (rng.standard_normal((ROWS, COLUMNS)) * 10.0 ** rng.integers(-3, 2, (ROWS, 1))).astype(np.float32)
        np.save(f"{cls.folder}/values.npy", cls.values)
        write_tokenizer(f"{cls.folder}/tokenizer.json")
        cls.stored = write_theirs(f"{cls.folder}/theirs.gguf", cls.values, rng)
        result = subprocess.run([os.path.join(BIN, "text_test"), "--gtest_filter=GgufSamples.AreWritten"],
                                env=dict(os.environ, HYDRALM_GGUF_SAMPLES=cls.folder), capture_output=True, text=True)
        assert result.returncode == 0 and "[       OK ] GgufSamples" in result.stdout, result.stdout + result.stderr

    @classmethod
    def tearDownClass(cls):
        cls.temp.cleanup()

    def test_python_reads_our_metadata(self):
        reader = gguf.GGUFReader(f"{self.folder}/types.gguf")
        got = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
        self.assertEqual(got.pop("f32"), float(np.float32(0.1)))
        self.assertEqual(got, {"general.architecture": "none", "text": "\u00e9t\u00e9", "u32": 4000000000, "bool": True,
                               "i32s": [-1, 2], "texts": ["a", "", "c"]})

    def test_our_bytes_are_theirs(self):
        reader = gguf.GGUFReader(f"{self.folder}/types.gguf")
        self.assertEqual([t.name for t in reader.tensors], ["t." + n for n in SAME_BYTES + ["Q4_K", "Q6_K"]])
        for tensor in reader.tensors:
            name = tensor.name[2:]
            self.assertEqual(tensor.tensor_type, Type[name])
            self.assertEqual(list(tensor.shape), [COLUMNS, ROWS], name)
            if name in K_QUANTS:  # Python cannot quantise these: what it reads must be near
                back = gguf.quants.dequantize(tensor.data, Type[name])
                span = self.values.max(axis=1, keepdims=True) - self.values.min(axis=1, keepdims=True)
                self.assertLess(np.max(np.abs(back - self.values) / span), K_QUANTS[name], name)
            else:
                want = gguf.quants.quantize(self.values, Type[name])
                np.testing.assert_array_equal(np.asarray(tensor.data).view(np.uint8), want.view(np.uint8), name)

    def test_we_read_their_values(self):
        for name, data in self.stored.items():
            want = gguf.quants.dequantize(data, Type[name])
            got = np.load(f"{self.folder}/theirs.{name}.npy")
            np.testing.assert_array_equal(got.view(np.uint32), want.astype(np.float32).view(np.uint32), name)

    def test_python_reads_our_model(self):
        reader = gguf.GGUFReader(f"{self.folder}/model.gguf")
        get = lambda key: reader.fields[key].contents()  # noqa: E731
        self.assertEqual(get("general.architecture"), "llama")
        self.assertEqual([
            get("llama." + k) for k in ("block_count", "embedding_length", "feed_forward_length",
                                        "attention.head_count", "attention.head_count_kv")], [2, 32, 64, 4, 2])
        self.assertEqual(get("tokenizer.ggml.pre"), "gpt-2")
        self.assertEqual(len(get("tokenizer.ggml.tokens")), 320)
        self.assertEqual(get("tokenizer.ggml.token_type")[:2] + get("tokenizer.ggml.token_type")[-1:], [3, 1, 5])
        # Each name is one that llama.cpp's tools know for this architecture, in order without holes.
        known = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
        allowed = {
            gguf.TENSOR_NAMES[t].format(bid=b) for t in gguf.MODEL_TENSORS[gguf.MODEL_ARCH.LLAMA] for b in (0, 1)}
        next_value, end = 1.0, reader.data_offset
        for tensor in reader.tensors:
            self.assertIn(tensor.name.removesuffix(".weight"), allowed, known)
            self.assertEqual(tensor.data_offset, end, tensor.name)
            self.assertEqual(tensor.data.ravel()[0], next_value, tensor.name)
            next_value += tensor.n_elements
            end = tensor.data_offset + -(-tensor.n_bytes // 32) * 32
        self.assertEqual(os.path.getsize(f"{self.folder}/model.gguf"), end)
        shapes = {t.name: list(t.shape) for t in reader.tensors}
        self.assertEqual(shapes["blk.1.ffn_down.weight"], [64, 32])
        self.assertEqual(shapes["rope_freqs.weight"], [4])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
