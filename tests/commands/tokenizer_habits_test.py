# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=120
"""Tokenizers of real folders at the command line: leftovers of a trainer, tokens that only tokenizer_config.json names,
prompts that begin with bos twice. Not here: the ids themselves (hydra/text, tests/parity/gguf_tokenizers.py)."""
import hashlib
import json
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "support"))
from tiny_models import VOCAB, make_model, make_text, make_tokenizer, run  # noqa: E402

HYDRALM = sys.argv[1]
BOS = "<|endoftext|>"  # id 0


class TokenizerHabits(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temp.name)
        tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.model = make_model(HYDRALM, cls.folder / "model", "llama", tokenizer, vocab_size=VOCAB + 2)

    @classmethod
    def tearDownClass(cls):
        cls.temp.cleanup()

    def changed(self, name, config=None, **tokenizer):
        """A copy of the model with other keys in tokenizer.json, and a tokenizer_config.json."""
        folder = self.folder / name
        shutil.copytree(self.model, folder)
        path = folder / "tokenizer.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **tokenizer}))
        if config is not None:
            (folder / "tokenizer_config.json").write_text(json.dumps(config))
        return folder

    def generate(self, model, prompt, *flags):
        done = run(HYDRALM, "generate", "-m", str(model), "-p", prompt, "-n", "3", "--temp", "0", *flags)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done

    def ids(self, model, text):
        done = run(HYDRALM, "tokenizer", "encode", "-m", str(model), "--json", input=text)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)["ids"]

    def test_saved_truncation_and_padding_are_not_applied(self):
        left = self.changed("left",
                            truncation={"max_length": 2, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
                            padding={"strategy": "BatchLongest", "direction": "Left", "pad_id": 0, "pad_token": BOS})
        plain, done = self.generate(self.model, "a b c d"), self.generate(left, "a b c d", "-q")
        self.assertEqual(done.stdout, plain.stdout)
        for key in ("truncation", "padding"):
            self.assertEqual(done.stderr.count(f"tokenizer.json: {key} is set"), 1, done.stderr)
        self.assertEqual(self.ids(left, "a b c d"), self.ids(self.model, "a b c d"))

    def test_two_bos_at_the_start_warn(self):
        around = {"type": "TemplateProcessing", "pair": [],
                  "single": [{"SpecialToken": {"id": BOS, "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                  "special_tokens": {BOS: {"id": BOS, "ids": [0], "tokens": [BOS]}}}
        model = self.changed("bos", {"bos_token": BOS}, post_processor=around)
        self.assertIn("two bos tokens", self.generate(model, BOS + "x").stderr)
        self.assertIn("two bos tokens", self.generate(model, BOS + "x", "-q").stderr)
        for model, prompt in ((model, "x"), (model, " " + BOS), (self.model, BOS + "x")):
            self.assertNotIn("two bos tokens", self.generate(model, prompt).stderr)

    def test_tokens_of_tokenizer_config_reach_every_verb(self):
        def token(text):
            return {"content": text, "special": True, "lstrip": False, "rstrip": False, "normalized": False,
                    "single_word": False}

        config = {"eos_token": BOS, "added_tokens_decoder": {str(VOCAB): token("<|tool|>")}}
        model = self.changed("added", config)
        self.assertEqual(self.ids(model, "<|tool|>"), [VOCAB])
        self.generate(model, "a<|tool|>b", "-q")
        out = self.folder / "added.gguf"
        self.assertEqual(run(HYDRALM, "convert", str(model), "-o", str(out)).returncode, 0)
        self.assertEqual(self.ids(out, "a<|tool|>b"), self.ids(model, "a<|tool|>b"))
        # A data folder keeps one tokenizer.json, which says it all.
        data, text = self.folder / "data", self.folder / "corpus.txt"
        text.write_text("a<|tool|>b " + make_text(3, 50))
        done = run(HYDRALM, "data", "build", str(text), "--tokenizer", str(model), "-o", str(data), "-q")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(run(HYDRALM, "data", "check", str(data)).returncode, 0)
        self.assertEqual(self.ids(data, "<|tool|>"), [VOCAB])
        digest = hashlib.sha256((data / "tokenizer.json").read_bytes()).hexdigest()
        info = json.loads(run(HYDRALM, "tokenizer", "info", "-m", str(model), "--json").stdout)
        self.assertEqual((info["sha256"], info["vocab_size"]), (digest, VOCAB + 1))

    def test_a_token_without_a_row_is_left_out(self):
        model = self.changed("full", {"pad_token": "<p0>", "additional_special_tokens": ["<p1>", "<p2>"]})
        done = self.generate(model, "a", "-q")
        self.assertIn(f'"<p2>": would be token {VOCAB + 2}, the model has {VOCAB + 2} tokens: it is left out',
                      done.stderr)
        self.assertEqual(self.ids(model, "<p0><p1>"), [VOCAB, VOCAB + 1])

    def test_bad_files_end_with_one_line(self):
        moved = json.loads((Path(self.model) / "tokenizer.json").read_text())["model"]
        del moved["vocab"]["<|im_end|>"]
        for name, config, tokenizer, words in (("gap", {"added_tokens_decoder": {"400": {"content": "<x>"}}}, {},
                                                ("added_tokens_decoder", "400", str(VOCAB))),
                                               ("moved", None, {"model": moved},
                                                ("added_tokens[2]", "tokenizers library gives it id 319"))):
            model = self.changed(name, config, **tokenizer)
            done = run(HYDRALM, "tokenizer", "encode", "-m", str(model), input="x")
            self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)
            for word in words:
                self.assertIn(word, done.stderr)
        done = run(HYDRALM, "generate", "-m", self.model, "-p", "x", "--pre", "qwen2", "-q")
        self.assertEqual((done.returncode, done.stderr.count("\n")), (2, 1), done.stderr)
        self.assertIn("--pre qwen2", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
