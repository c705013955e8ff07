# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
"""Other programs read our files, and we theirs: safetensors, NumPy, TensorBoard, and token shards by docs/formats.md.

Called with the paths of hydralm and hydralm-train (empty in a build without LibTorch)."""
import json
import os
import struct
import subprocess
import sys
import tempfile
import unittest
import zlib

import numpy as np

HYDRALM = os.path.abspath(sys.argv[1])
BIN = os.path.dirname(HYDRALM)


def run_test(binary, case, folder):
    """Runs one GoogleTest case with its sample folder; a case that is not there is an error."""
    result = subprocess.run([os.path.join(BIN, binary), "--gtest_filter=" + case],
                            env=dict(os.environ, HYDRALM_SAMPLES=folder), capture_output=True, text=True)
    ran = "1 test ran" in result.stdout.replace("from 1 test suite ", "")
    assert result.returncode == 0 and ran, result.stdout + result.stderr


class Formats(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.TemporaryDirectory()
        folder = cls.folder = cls.temp.name
        from safetensors.numpy import save_file
        save_file({"a": np.arange(4, dtype=np.float32).reshape(2, 2), "b": np.ones(3, np.float16)},
                  f"{folder}/theirs.safetensors", metadata={"k": "v"})
        for dtype in ("i4", "i8", "f4"):
            np.save(f"{folder}/theirs_{dtype}.npy", np.array([1, -2, 3], "<" + dtype))
        run_test("io_test", "FormatSamples.AreWritten", folder)

    @classmethod
    def tearDownClass(cls):
        cls.temp.cleanup()

    def test_safetensors_opens_ours(self):
        from safetensors import safe_open
        want = {
            "u8": ("U8", [3]), "f32": ("F32", [2, 3]), "f16": ("F16", [3]), "bf16": ("BF16", [2, 1]),
            "f64": ("F64", [1]), "i64": ("I64", [2]), "i32": ("I32", []), "none": ("F32", [0, 5])}
        with safe_open(f"{self.folder}/ours.safetensors", framework="np") as file:
            self.assertEqual(file.metadata(), {"format": "pt", "note": 'a "quoted" \u00e9'})
            self.assertEqual(set(file.keys()), set(want))
            for name, (dtype, shape) in want.items():
                piece = file.get_slice(name)
                self.assertEqual((piece.get_dtype(), list(piece.get_shape())), (dtype, shape), name)
            np.testing.assert_array_equal(file.get_tensor("f32"), np.array([[0.5, -1.5, 3e38], [0, 1, 2]], np.float32))
            np.testing.assert_array_equal(file.get_tensor("f16"), np.array([0.25, -2, 3], np.float16))
            np.testing.assert_array_equal(file.get_tensor("i64"), [1 << 40, -1])
            np.testing.assert_array_equal(file.get_tensor("u8"), [1, 0, 255])
            self.assertEqual(file.get_tensor("i32"), 7)
            self.assertEqual(file.get_tensor("f64")[0], 1 / 3)
        with open(f"{self.folder}/ours.safetensors", "rb") as file:
            data_at = 8 + struct.unpack("<Q", file.read(8))[0]
            header = json.loads(file.read(data_at - 8))
            self.assertEqual(data_at % 64, 0)
            self.assertEqual([k for k in header if k != "__metadata__"], list(want))  # table order
            begin, end = header["bf16"]["data_offsets"]
            file.seek(data_at + begin)
            self.assertEqual(np.frombuffer(file.read(end - begin), "<u2").tolist(), [0x3FC0, 0xC100])

    def test_numpy_opens_ours(self):
        want = np.array([0.5, -1.5, 3e38, 0, 1, 2], np.float32)
        for name, shape in (("ours", (2, 3)), ("ours1", (6,)), ("rows", (2, 3))):
            got = np.load(f"{self.folder}/{name}.npy")
            self.assertEqual((got.dtype, got.shape, got.flags.c_contiguous), (np.float32, shape, True))
            np.testing.assert_array_equal(got.ravel(), want)

    def test_tensorboard_opens_ours(self):
        if not sys.argv[2]:
            self.skipTest("no LibTorch in this build, so no training logs")
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
        with tempfile.TemporaryDirectory() as folder:
            run_test("train_test", "MetricsLog.WritesSampleFiles", folder)
            events = EventAccumulator(folder)
            events.Reload()
            self.assertEqual(sorted(events.Tags()["scalars"]), ["moe/load/0", "train/loss", "val/bpb"])
            loss = [(e.step, e.value) for e in events.Scalars("train/loss")]
            want = [(1000000, 1.0), (2000000, 0.5), (3000000, 1 / 3), (4000000, -7.5)]
            self.assertEqual(loss, [(step, float(np.float32(value))) for step, value in want])
            self.assertEqual([(e.step, e.value) for e in events.Scalars("val/bpb")], [(4000000, 1.25)])
            self.assertEqual(len(events.Scalars("moe/load/0")), 3)
            self.assertGreater(events.Scalars("train/loss")[0].wall_time, 1.7e9)
            with open(f"{folder}/train.jsonl") as file:
                self.assertEqual([json.loads(line)["step"] for line in file], [step for step, _ in want])


class Data(unittest.TestCase):
    """hydralm data, its shards read again by an independent reader of the documented bytes."""

    def setUp(self):
        from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.folder = temp.name
        self.tokenizer = Tokenizer(models.BPE())
        self.tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        self.tokenizer.decoder = decoders.ByteLevel()
        self.documents = [
            f"Document {i}: the cat sat on mat {i * i}, caf\u00e9 \U0001f600.\n" * (1 + i % 3) for i in range(300)]
        trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["<|endoftext|>"], show_progress=False,
                                      initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
        self.tokenizer.train_from_iterator(self.documents, trainer)
        self.tokenizer.save(f"{self.folder}/tokenizer.json")
        with open(f"{self.folder}/a.jsonl", "w") as file:
            for text in self.documents[:150]:
                file.write(json.dumps({"text": text}) + "\n")
        with open(f"{self.folder}/b.txt", "w") as file:
            file.write("<sep>".join(self.documents[150:]))

    def hydralm(self, *args, status=0):
        result = subprocess.run([HYDRALM, "data", *args], capture_output=True, text=True, cwd=self.folder)
        self.assertEqual(result.returncode, status, result.stdout + result.stderr)
        return result

    def read_shard(self, path):
        with open(path, "rb") as file:
            raw = file.read()
        magic, version, token_bytes, n_tokens, n_docs, vocab, flags = struct.unpack_from("<8sIIQQII", raw)
        tokens_at, ends_at, mask_at, payload_crc, header_crc = struct.unpack_from("<QQQII", raw, 72)
        self.assertEqual((magic, version, token_bytes, flags, tokens_at, mask_at), (b"HYDRATOK", 1, 2, 0, 4096, 0))
        self.assertEqual(vocab, self.tokenizer.get_vocab_size())
        self.assertEqual(header_crc, zlib.crc32(raw[:100]))
        self.assertEqual(payload_crc, zlib.crc32(raw[256:]))
        tokens = np.frombuffer(raw, "<u2", n_tokens, tokens_at)
        ends = np.frombuffer(raw, "<u8", n_docs, ends_at)
        self.assertEqual(len(raw), ends_at + 8 * n_docs)
        return np.split(tokens, ends[:-1].astype(int))

    def test_build_info_check(self):
        built = json.loads(
            self.hydralm("build", "a.jsonl", "b.txt", "--tokenizer", "tokenizer.json", "-o", "data", "--val", "0.1",
                         "--doc-sep", "<sep>", "--shard-tokens", "2000", "--json").stdout)
        self.assertEqual(built["train"]["documents"] + built["val"]["documents"], 300)
        self.assertEqual(built["train"]["text_bytes"] + built["val"]["text_bytes"],
                         sum(len(text.encode()) for text in self.documents))
        self.assertGreater(len(built["shards"]), 3)
        info = json.loads(self.hydralm("info", "data", "--json").stdout)
        self.assertEqual(info["shards"], built["shards"])
        self.assertEqual(json.loads(self.hydralm("check", "data", "--json").stdout),
                         {"folder": "data", "ok": True, "problems": []})
        import hashlib
        want = {"train": [], "val": []}
        for text in self.documents:
            fraction = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") / 2**64
            want["val" if fraction < 0.1 else "train"].append(self.tokenizer.encode(text).ids + [0])
        got = {"train": [], "val": []}
        for shard in built["shards"]:
            got[shard["split"]] += [ids.tolist() for ids in self.read_shard(f"{self.folder}/data/{shard['file']}")]
        self.assertEqual(got, want)  # token for token as the tokenizers library
        self.assertIn("train", self.hydralm("info", "data").stdout)
        self.assertIn("good", self.hydralm("check", "data").stdout)

    def test_check_fails_with_status_1_and_errors_with_2(self):
        self.hydralm("build", "b.txt", "--tokenizer", "tokenizer.json", "-o", "data", "--doc-sep", "<sep>", "--val",
                     "0.2")
        path = f"{self.folder}/data/train-00001-of-00001.tok"
        with open(path, "r+b") as file:
            file.seek(5000)
            file.write(b"\x01\x01")
        self.assertIn("payload CRC", self.hydralm("check", "data", status=1).stdout)
        os.truncate(path, 5000)
        self.assertFalse(json.loads(self.hydralm("check", "data", "--json", status=1).stdout)["ok"])
        for args, message in (
                (["check", "none"], "none: no such folder"), (["info", "none"], "none: no such folder"),
                (["build", "none.txt", "--tokenizer", "tokenizer.json", "-o", "x"], "none.txt"),
                (["build", "b.txt", "--tokenizer", "none.json", "-o", "x"], "none.json"),
                (["build", "b.txt", "--tokenizer", "tokenizer.json", "-o", "x", "--val", "2"], "--val 2")):
            errors = self.hydralm(*args, status=2).stderr
            self.assertTrue(errors.startswith("hydralm: ") and message in errors and errors.count("\n") == 1, errors)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
