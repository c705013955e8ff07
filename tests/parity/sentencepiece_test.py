# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
"""tokenizer.model against Python's `sentencepiece`, which trains and reads the files here: ids and texts of many lines,
from the file, from folders and GGUF files that `hydralm convert` makes of it, and back; 100 damaged files. What
converted folders say is read by Python's `tokenizers`, what comes back from GGUF by `sentencepiece`.

Called with the path of hydralm. Not here: scores in GGUF files of others (gguf_tokenizers.py)."""
import io
import json
import os
import random
import re
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import gguf
    import numpy as np
    import sentencepiece
    from tokenizers import Tokenizer
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import make_model, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
ROOT = Path(__file__).parents[2]
HAN = ("\u6e05\u534e\u5927\u5b66\u7684\u5b66\u751f\u5728\u5b66\u4e60\u81ea\u7136\u8bed\u8a00\u5904\u7406\u548c\u673a"
       "\u5668\u5b66\u4e60\uff0c\u6bcf\u4e2a\u7528\u6237\u90fd\u53ef\u4ee5\u4f7f\u7528\u8fd9\u4e2a\u6a21\u578b\u3002")


def corpus():
    """Lines of the documents and sources of this project, and Chinese made of the sentence above."""
    rng = random.Random(1)
    lines = []
    for path in ("docs/DESIGN.md", "docs/formats.md", "tests/golden/blockffn_oracle.py", "hydra/text/bpe.cc"):
        lines += (ROOT / path).read_text(encoding="utf-8").splitlines()
    for _ in range(400):
        at = rng.randrange(len(HAN) - 3)
        lines.append(HAN[at:at + rng.randrange(3, 30)] + rng.choice(["", " ", "<\u7528\u6237>", "<AI>", "123"]))
    return [line for line in lines if line.strip()]


def train(**options):
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(corpus()), model_writer=out, minloglevel=2,
        **{**dict(vocab_size=2400, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
                  remove_extra_whitespaces=False, allow_whitespace_only_pieces=True, split_digits=True,
                  character_coverage=0.999, num_threads=1), **options})
    return out.getvalue()


def texts(rng):
    lines = corpus()
    out = ["", " ", "  ", "   a  b ", " \u2581x\u2581", "\n", "a\nb\n\n c", "\t\tx",
           "\u00e9e\u0301\U0001F600\U0001F1E9",
           "aaaaaaaaaaaaaaaaaaaaaaaaa", "==================", "\u0001\u007f\u200b", "x" * 3000, "\\n \\ \\r",
           "<\u7528\u6237>\u4f60\u597d<AI>", "unk <unk> ??", "1234567890 3.14"]
    alphabet = "abcdefgh  \n\u00e9\u4f60\u5b66<>/_=-\U0001F680\u0416" + "".join(chr(rng.randrange(32, 0x3000))
                                                                         for _ in range(200))
    for _ in range(300):
        out.append("".join(rng.choice(alphabet) for _ in range(rng.randrange(60))))
    for _ in range(500):
        a, b = rng.choice(lines), rng.choice(lines)
        out.append(a[rng.randrange(len(a)):] + rng.choice(["", " ", "\n"]) + b[:rng.randrange(len(b))])
    return [t for t in out if not re.search("</?s>|<unk>", t)]


class SentencePieceFiles(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.root = Path(cls.temporary.name)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def run_ok(self, *args, **options):
        done = run(HYDRALM, *map(str, args), **options)
        self.assertEqual(done.returncode, 0, f"{args}: {done.stderr}")
        return done.stdout

    def encode(self, model, lines, *flags):
        escaped = "".join(t.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r") + "\n" for t in lines)
        out = self.run_ok("tokenizer", "encode", "-m", model, "--lines", "--unescape", "--json", *flags, input=escaped)
        return json.loads(out)["lines"]

    def decode(self, model, ids):
        lines = "".join(" ".join(map(str, row)) + "\n" for row in ids)
        out = self.run_ok("tokenizer", "decode", "-m", model, "--lines", input=lines)
        one = re.compile(r"\\([nr\\])")
        said = {"n": "\n", "r": "\r", "\\": "\\"}
        return [one.sub(lambda m: said[m.group(1)], line) for line in out.split("\n")[:-1]]

    def model_with(self, name, pieces, config=None, **changes):
        """A llama of the vocabulary's size whose folder has tokenizer.model and no tokenizer.json."""
        (self.root / "none.json").write_text("{}")
        size = sentencepiece.SentencePieceProcessor(model_proto=pieces).vocab_size()
        folder = Path(make_model(HYDRALM, self.root / name, "llama", self.root / "none.json", vocab_size=size,
                                 bos_token_id=1, eos_token_id=2, **changes))
        (folder / "tokenizer.json").unlink()
        (folder / "tokenizer.model").write_bytes(pieces)
        (folder / "tokenizer_config.json").write_text(json.dumps(config or {"tokenizer_class": "LlamaTokenizer"}))
        return folder

    def test_ids_and_texts_are_those_of_sentencepiece_wherever_the_file_goes(self):
        rng = random.Random(2)
        for name, options in (("plain", {}), ("no-prefix", dict(add_dummy_prefix=False)),
                              ("no-bytes", dict(byte_fallback=False)), ("small", dict(vocab_size=900))):
            with self.subTest(name):
                pieces = train(**options)
                theirs = sentencepiece.SentencePieceProcessor(model_proto=pieces)
                lines = texts(rng)
                want = [theirs.encode(t) for t in lines]
                folder = self.model_with(name, pieces)
                self.assertEqual(self.encode(folder / "tokenizer.model", lines), want)
                self.assertEqual(self.encode(folder, lines), want)
                if name == "no-bytes":  # what is unknown has no text, and GGUF says no such tokenizers
                    continue
                self.assertEqual(self.decode(folder, want), [theirs.decode(ids) for ids in want])
                file, back = self.root / f"{name}.gguf", self.root / f"{name}-back"
                self.run_ok("convert", folder, "-o", file)
                self.run_ok("convert", file, "-o", back)
                self.run_ok("convert", folder, "-o", self.root / f"{name}-copy")
                for model in (file, back, self.root / f"{name}-copy"):
                    self.assertEqual(self.encode(model, lines), want)
                    self.assertEqual(self.encode(model, lines[:50], "--add-special"), [[1] + ids for ids in want[:50]])
                again = sentencepiece.SentencePieceProcessor(model_file=str(back / "tokenizer.model"))
                self.assertEqual([again.encode(t) for t in lines], want)
                self.assertEqual([again.bos_id(), again.eos_id(), again.unk_id(), again.pad_id()], [1, 2, 0, -1])
                for copy in (back, self.root / f"{name}-copy"):
                    json_file = Tokenizer.from_file(str(copy / "tokenizer.json"))
                    self.assertEqual([json_file.encode(t, add_special_tokens=False).ids for t in lines], want)
                self.assertEqual((self.root / f"{name}-copy" / "tokenizer.model").read_bytes(), pieces)
                fields = gguf.GGUFReader(str(file)).fields
                self.assertEqual(fields["tokenizer.ggml.model"].contents(), "llama")
                scores = np.array(fields["tokenizer.ggml.scores"].contents(), np.float32)
                size = theirs.vocab_size()
                np.testing.assert_array_equal(scores, np.array([theirs.get_score(i) for i in range(size)], np.float32))
                kinds = fields["tokenizer.ggml.token_type"].contents()
                self.assertEqual(kinds, [2 if theirs.is_unknown(i) else 3 if theirs.is_control(i) else
                                         6 if theirs.is_byte(i) else 1 for i in range(size)])

    def test_special_tokens_are_found_as_tokenizers_finds_them(self):
        pieces = train(user_defined_symbols=["<tool>", "\n"], control_symbols=["<call>"])
        call = sentencepiece.SentencePieceProcessor(model_proto=pieces).piece_to_id("<call>")
        lines = ["a<tool>b", "<s>a b</s>c", "one\ntwo\n\n three", "<call> x<call>y", "<tool>", " <s> "]
        for name, config in (("legacy", {}), ("new", {"legacy": False}),
                             ("added", {"add_eos_token": True, "added_tokens_decoder": {
                                 str(call): {"content": "<call>", "special": True}},
                                 "additional_special_tokens": ["<|more|>"]})):
            with self.subTest(name):
                folder = self.model_with(name, pieces, config)
                if name == "added":  # a row of the embedding for the new token
                    lines = lines + ["a<|more|> b"]
                    config_json = json.loads((folder / "config.json").read_text())
                    config_json["vocab_size"] += 1
                    (folder / "config.json").write_text(json.dumps(config_json))
                    from safetensors.numpy import load_file, save_file
                    tensors = load_file(folder / "model.safetensors")
                    for key in ("model.embed_tokens.weight", "lm_head.weight"):
                        tensors[key] = np.concatenate([tensors[key], tensors[key][:1]])
                    save_file(tensors, folder / "model.safetensors")
                copy = self.root / f"{name}-copy"
                self.run_ok("convert", folder, "-o", copy)
                theirs = Tokenizer.from_file(str(copy / "tokenizer.json"))
                want = [theirs.encode(t).ids for t in lines]
                self.assertEqual(self.encode(folder, lines, "--add-special"), want)
                self.run_ok("convert", folder, "-o", self.root / f"{name}.gguf")
                self.assertEqual(self.encode(self.root / f"{name}.gguf", lines, "--add-special"), want)
                self.assertEqual(self.encode(copy, lines, "--add-special"), want)

    def test_other_models_are_refused_by_name(self):
        for name, options, pattern in (
                ("unigram", dict(model_type="unigram", hard_vocab_limit=False),
                 r"model_type = 1 \(UNIGRAM\): only 2 \(BPE\)"),
                ("nfkc", dict(normalization_rule_name="nmt_nfkc"), r"precompiled_charsmap has \d+ bytes"),
                ("spaces", dict(remove_extra_whitespaces=True), "remove_extra_whitespaces = true: only false"),
                ("suffix", dict(treat_whitespace_as_suffix=True), "treat_whitespace_as_suffix = true: only false")):
            with self.subTest(name):
                file = self.root / f"{name}.model"
                file.write_bytes(train(**options))
                done = run(HYDRALM, "tokenizer", "encode", "-m", str(file), input="a")
                self.assertEqual(done.returncode, 2, done.stderr)
                self.assertRegex(done.stderr, f"{re.escape(str(file))}: .*{pattern}")
                self.assertEqual(done.stderr.count("\n"), 1)

    def test_a_hundred_damaged_files(self):
        good = train()
        rng = random.Random(3)
        file = self.root / "damaged.model"
        refused = 0
        for case in range(100):
            damaged = bytearray(good)
            at = rng.randrange(len(good))
            if case % 4 == 0:
                del damaged[at:]
            elif case % 4 == 1:
                damaged[at] = rng.randrange(256)
            elif case % 4 == 2:
                del damaged[at:at + rng.randrange(1, 50)]
            else:
                damaged[at:at] = rng.randbytes(rng.randrange(1, 50))
            file.write_bytes(damaged)
            done = run(HYDRALM, "tokenizer", "encode", "-m", str(file), input="a cat")
            with self.subTest(case):
                self.assertIn(done.returncode, (0, 2), done.stderr)
                if done.returncode == 2:
                    refused += 1
                    self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                    self.assertIn("damaged.model: ", done.stderr)
        self.assertGreater(refused, 50)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
