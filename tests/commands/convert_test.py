# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
"""`hydralm convert` and `quantize` from outside: what stands in a target afterwards, what --verify sees, models that
are cut while they run. Not here: the writers themselves (hydra/convert/convert_test.cc)."""
import json
import os
import re
import signal
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import make_model, make_tokenizer, must, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
QWEN2 = dict(model_type="qwen2", num_key_value_heads=2, use_sliding_window=False)
QWEN3 = dict(model_type="qwen3", num_key_value_heads=2, head_dim=8)


class Convert(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.a = make_model(HYDRALM, f"{cls.folder}/a", "llama", cls.tokenizer, seed=1)
        cls.b = make_model(HYDRALM, f"{cls.folder}/b", "llama", cls.tokenizer, seed=2)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def path(self, name):
        return f"{self.folder}/{name}"

    def text(self, model):
        return must(HYDRALM, "generate", "-m", model, "-p", "abc", "-n", "8", "--temp", "0", "-q")

    def refuse(self, done, pattern):
        self.assertEqual(done.returncode, 2, done.stderr)
        self.assertRegex(done.stderr, pattern)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_a_folder_has_what_the_last_verb_wrote(self):
        out = self.path("out")
        self.assertNotEqual(self.text(self.a), self.text(self.b))
        for source, flags in ((self.a, []), (self.b, ["--shard-size", "20KB"]), (self.a, [])):
            must(HYDRALM, "convert", source, "-o", out, "--to", "hf", *flags)
            self.assertEqual(self.text(out), self.text(source))
            self.assertEqual(bool(list(Path(out).glob("model-*-of-*"))), bool(flags))

    def test_a_name_without_a_folder(self):
        work = self.path("work")
        Path(work).mkdir()
        for name in ("out", "out", "slash/"):
            done = run(HYDRALM, "convert", self.a, "-o", name, "--to", "hf", cwd=work)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(self.text(f"{work}/{name}"), self.text(self.a))
        self.assertEqual(sorted(os.listdir(work)), ["out", "slash"])
        self.refuse(run(HYDRALM, "convert", self.a, "-o", "", "--to", "hf"), "name of a folder: it is empty")

    def test_a_name_of_a_plain_file_makes_no_folder(self):
        for name in ("out.txt", "out.json", "out.safetensors", "out.bin"):
            self.refuse(run(HYDRALM, "convert", self.a, "-o", self.path(name)),
                        rf"-o {re.escape(self.path(name))}: is the name of a file, and a folder would be made")
            self.assertFalse(os.path.exists(self.path(name)))
        for name in ("model-v1.5", "my.model"):
            must(HYDRALM, "convert", self.a, "-o", self.path(name))
        must(HYDRALM, "convert", self.a, "-o", self.path("odd.txt"), "--to", "hf")
        for verb, what in (("convert", "folder"), ("quantize", ".gguf file")):
            self.refuse(run(HYDRALM, verb, self.a, "-o", ""), f"^hydralm: -o: needs the name of a {what}: it is empty$")

    def test_a_signal_leaves_no_stage(self):
        big = make_model(HYDRALM, self.path("large"), "llama", self.tokenizer, hidden_size=384, intermediate_size=1024,
                         num_hidden_layers=12, num_key_value_heads=6)
        for target in ("stopped", "stopped.gguf"):
            out = Path(self.path(target))
            child = subprocess.Popen([HYDRALM, "convert", big, "-o", str(out)], stdout=subprocess.DEVNULL)
            while child.poll() is None and not list(Path(self.folder).glob(out.name + ".tmp-*")):
                time.sleep(0.001)
            child.send_signal(signal.SIGTERM)
            status = child.wait(60)
            self.assertIn(status, (0, 143))
            self.assertEqual(list(Path(self.folder).glob(out.name + ".tmp-*")), [])
            self.assertEqual(out.exists(), status == 0)

    def test_every_copied_file_may_be_replaced(self):
        source, out = make_model(HYDRALM, self.path("texts"), "llama", self.tokenizer), self.path("texts-out")
        files = {"tokenizer_config.json": "{}", "special_tokens_map.json": "{}", "added_tokens.json": "{}",
                 "generation_config.json": "{}", "chat_template.json": json.dumps({"chat_template": "{{ x }}"}),
                 "chat_template.jinja": "{{ x }}"}
        for name, text in files.items():
            Path(source, name).write_text(text)
        for _ in range(2):
            must(HYDRALM, "convert", source, "-o", out, "--to", "hf")
            for name, text in files.items():
                self.assertEqual(Path(out, name).read_text(), text)

    def test_files_of_others_are_not_lost(self):
        out = Path(self.path("mine"))
        out.mkdir()
        (out / "README.md").write_text("mine")
        self.refuse(run(HYDRALM, "convert", self.a, "-o", str(out)), "mine: holds README.md")
        self.assertEqual([f.name for f in out.iterdir()], ["README.md"])
        self.refuse(run(HYDRALM, "convert", self.a, "-o", str(out), "--to", "gguf"), "mine: is a folder")
        self.refuse(run(HYDRALM, "convert", self.a, "-o", str(out / "README.md"), "--to", "gguf"),
                    "another kind of file")
        self.refuse(run(HYDRALM, "convert", self.a, "-o", str(out / "README.md"), "--to", "hf"), "is no folder")
        self.assertEqual((out / "README.md").read_text(), "mine")
        pipe = self.path("pipe.gguf")
        os.mkfifo(pipe)
        for verb in ("convert", "quantize"):
            self.refuse(run(HYDRALM, verb, self.a, "-o", pipe), "is no regular file")
        self.assertTrue(stat.S_ISFIFO(os.stat(pipe).st_mode))

    def test_the_source_is_never_the_target(self):
        for source in (self.a, f"{self.a}/model.safetensors"):
            self.refuse(run(HYDRALM, "convert", source, "-o", self.a), "is the source")
        self.refuse(run(HYDRALM, "convert", self.a, "-o", f"{self.a}/model.safetensors", "--to", "gguf"),
                    "another kind")
        gguf = self.path("same.gguf")
        must(HYDRALM, "convert", self.a, "-o", gguf)
        os.link(gguf, self.path("link.gguf"))
        self.refuse(run(HYDRALM, "quantize", gguf, "-o", self.path("link.gguf")), "is the source")

    def test_a_killed_convert_leaves_the_earlier_model(self):
        out, big = self.path("kept"), self.path("big")
        make_model(HYDRALM, big, "llama", self.tokenizer, hidden_size=384, intermediate_size=1024, num_hidden_layers=8,
                   num_key_value_heads=6)
        must(HYDRALM, "convert", self.a, "-o", out)
        before = self.text(out)
        child = subprocess.Popen([HYDRALM, "convert", big, "-o", out, "--to", "hf", "--shard-size", "1MB"],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        stages = lambda: [f for f in Path(self.folder).glob("kept.tmp-*")]  # noqa: E731
        while child.poll() is None and not any(list(stage.glob("model-*")) for stage in stages()):
            time.sleep(0.001)
        child.send_signal(signal.SIGKILL)
        child.wait()
        self.assertIn(self.text(out), (before, self.text(big)))  # whole, whichever it is
        must(HYDRALM, "convert", self.b, "-o", out)
        self.assertEqual(self.text(out), self.text(self.b))
        self.assertEqual(stages(), [])

    def test_an_empty_current_folder_is_filled(self):
        here = Path(self.path("here"))
        here.mkdir()
        done = run(HYDRALM, "convert", self.a, "-o", ".", cwd=here)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(self.text(str(here)), self.text(self.a))
        self.refuse(run(HYDRALM, "convert", self.b, "-o", ".", cwd=here), "is the current folder")

    def test_verify_compares_the_tokenizer(self):
        got = json.loads(must(HYDRALM, "convert", self.a, "-o", self.path("v.gguf"), "--verify", "--json"))
        self.assertTrue(got["verify"]["ok"], got)
        self.assertEqual(got["verify"]["differences"], [])
        must(HYDRALM, "convert", self.path("v.gguf"), "-o", self.path("v"), "--verify")

    def test_qwen_goes_to_gguf_and_back(self):
        for name, changes in (("qwen2", QWEN2), ("qwen3", QWEN3)):
            model = make_model(HYDRALM, self.path(name), "llama", self.tokenizer, **changes)
            gguf, back = self.path(name + ".gguf"), self.path(name + "-back")
            must(HYDRALM, "convert", model, "-o", gguf, "--verify")
            must(HYDRALM, "convert", gguf, "-o", back, "--verify")
            want, got = load_file(f"{model}/model.safetensors"), load_file(f"{back}/model.safetensors")
            self.assertEqual(set(want), set(got))
            for key, values in want.items():
                np.testing.assert_array_equal(got[key], values)
            self.assertEqual(self.text(gguf), self.text(model))
            self.check_names(gguf, name, want)
            must(HYDRALM, "quantize", model, "-o", self.path(name + "-q8.gguf"))
            self.text(self.path(name + "-q8.gguf"))

    def check_names(self, path, name, tensors):
        """Names and values as Python's gguf package has them for the family."""
        try:
            import gguf
        except ImportError:
            return
        names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[name.upper()], 2)
        read = {t.name: np.array(t.data) for t in gguf.GGUFReader(path).tensors}
        want = {names.get_name(key, try_suffixes=(".weight", ".bias")): values for key, values in tensors.items()}
        self.assertEqual(set(want), set(read))
        for key, values in want.items():
            np.testing.assert_array_equal(read[key], values)  # no row is permuted

    def test_a_model_that_changes_under_a_run_ends_it(self):
        for how in ("cut", "overwritten"):
            model = self.path(how)
            must(HYDRALM, "convert", self.a, "-o", model)
            weights = f"{model}/model.safetensors"
            chat = subprocess.Popen(
                [HYDRALM, "chat", "-m", model, "--chat-template", "chatml", "--temp", "0", "-n", "2", "-q"],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            chat.stdin.write("hello\n/stats\n")
            chat.stdin.flush()
            chat.stdout.readline()  # it has answered
            if how == "cut":
                os.truncate(weights, 0)
            else:
                with open(weights, "r+b") as file:
                    file.seek(os.path.getsize(weights) - 64)
                    file.write(b"\0" * 64)
                os.utime(weights, (1, 1))  # a clock that stands still hides no change
            out, err = chat.communicate("go on\n", timeout=60)
            self.assertEqual(chat.returncode, 2, (how, out, err))
            self.assertRegex(err.strip().splitlines()[-1], re.escape(weights) + ".*(cut|changed)")

    def test_scratch_follows_the_tokens_of_a_pass(self):
        scratch = {}
        for chunk in (16, 512, 65536):
            model = make_model(HYDRALM, self.path(f"chunk{chunk}"), "mamba2", self.tokenizer, chunk_size=chunk)
            scratch[chunk] = json.loads(must(HYDRALM, "inspect", "-m", model, "--json"))["bytes"]["scratch"]
            self.assertEqual(self.text(model), self.text(self.path("chunk16")))
        self.assertLess(scratch[16], scratch[512])
        self.assertEqual(scratch[512], scratch[65536])

    def test_buffers_and_one_name_of_a_tied_matrix(self):
        model = make_model(HYDRALM, self.path("old"), "llama", self.tokenizer, pretraining_tp=1, rope_scaling=None)
        file = f"{model}/model.safetensors"
        want, tensors = self.text(model), load_file(file)
        tensors["model.layers.1.self_attn.rotary_emb.inv_freq"] = (10000.0 ** (-np.arange(0, 8, 2) / 8)).astype(
            np.float32)
        save_file(tensors, file)
        done = run(HYDRALM, "generate", "-m", model, "-p", "abc", "-n", "8", "--temp", "0", "-q")
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, want, ""))
        must(HYDRALM, "inspect", "-m", model)
        tied = make_model(HYDRALM, self.path("tied"), "llama", self.tokenizer, tie_word_embeddings=True)
        file = f"{tied}/model.safetensors"
        want, tensors = self.text(tied), load_file(file)
        tensors["lm_head.weight"] = tensors.pop("model.embed_tokens.weight")
        save_file(tensors, file)
        self.assertEqual(self.text(tied), want)
        must(HYDRALM, "inspect", "-m", tied, "--tensors")

    def test_mistral_opens_as_a_llama(self):
        model = make_model(HYDRALM, self.path("mistral"), "llama", self.tokenizer, seed=1, model_type="mistral",
                           sliding_window=None)
        self.assertEqual(self.text(model), self.text(self.a))
        config = Path(model) / "config.json"
        config.write_text(config.read_text().replace('"sliding_window": null', '"sliding_window": 128'))
        self.refuse(run(HYDRALM, "generate", "-m", model, "-p", "a", "-q"), "sliding_window = 128")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
