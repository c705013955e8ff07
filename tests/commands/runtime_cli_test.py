# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=600
# The verbs that run a model without LibTorch, from outside: generate, chat, logits, bench, inspect. What they print
# where, what they refuse, that states go on exactly. Not here: the numbers themselves (hydra/runtime tests).
import json
import os
import pty
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import VOCAB, make_model, make_text, make_tokenizer, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
TRAIN = sys.argv[2] if len(sys.argv) > 2 else ""
PROMPT = make_text(5, 12)


class RuntimeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.models = {family: make_model(HYDRALM, f"{cls.folder}/{family}", family, cls.tokenizer)
                      for family in ("hydra", "llama", "mamba2")}

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def verb(self, name, family, *flags, **options):
        return run(HYDRALM, name, "-m", self.models[family], *flags, **options)

    def done(self, *args, **options):
        """stdout of a verb that must succeed."""
        got = self.verb(*args, **options)
        self.assertEqual(got.returncode, 0, got)
        return got.stdout

    def generate(self, family, *flags, **options):
        return self.done("generate", family, "-q", "--temp", "0", *flags, **options)

    def refuse(self, got, pattern):
        self.assertEqual(got.returncode, 2, got)
        self.assertEqual(got.stdout if isinstance(got.stdout, str) else "", "", got)
        self.assertEqual(got.stderr.count("\n"), 1, got.stderr)
        self.assertTrue(got.stderr.startswith("hydralm: "), got.stderr)
        self.assertRegex(got.stderr, pattern)

    def path(self, name):
        return f"{self.folder}/{self.id().split('.')[-1]}-{name}"

    def ids(self, text):
        return [int(i) for i in run(HYDRALM, "tokenizer", "encode", "-m", self.tokenizer, input=text).stdout.split()]


class Generate(RuntimeTest):
    def test_text_on_stdout_the_rest_on_stderr(self):
        for family in self.models:
            got = self.verb("generate", family, "-p", PROMPT, "-n", "8", "--temp", "0")
            self.assertEqual(got.returncode, 0, got)
            self.assertTrue(got.stdout.startswith(PROMPT) and got.stdout.endswith("\n"), got.stdout)
            self.assertGreater(len(got.stdout), len(PROMPT) + 1)
            lines = got.stderr.splitlines()
            self.assertRegex(lines[0], rf"^model +{family}: [\d,]+ parameters")
            self.assertRegex(lines[1], r"^memory +weights \d+.* = \d+ of [\d,]+ free MiB|^memory +weights")
            self.assertRegex(lines[2], r"^threads +\d+ on \w+, activations f32")
            self.assertRegex(lines[3], r"^end +length: -n 8$")
            self.assertRegex(
                lines[4],
                r"^load [\d.]+ s \| prompt \d+ tokens, [\d.]+ tok/s \| generated 8 tokens, [\d.]+ tok/s \| greedy$")
            self.assertEqual(len(lines), 5)
            quiet = self.verb("generate", family, "-p", PROMPT, "-n", "8", "--temp", "0", "-q")
            self.assertEqual((quiet.stdout, quiet.stderr), (got.stdout, ""))

    def test_threads_and_targets_do_not_change_it(self):
        for family in self.models:
            text = self.generate(family, "-p", PROMPT, "-n", "30")
            self.assertEqual(self.generate(family, "-p", PROMPT, "-n", "30", "-t", "2"), text)
            self.assertEqual(
                self.generate(family, "-p", PROMPT, "-n", "30", "-t", "1", "--target", "scalar", "--kv-dtype", "f32"),
                self.generate(family, "-p", PROMPT, "-n", "30", "--kv-dtype", "f32"))

    def test_seeds(self):
        got = self.verb("generate", "llama", "-p", PROMPT, "-n", "30", "--temp", "1.5", "--top-k", "0")
        seed = re.search(r"seed (\d+)$", got.stderr.strip()).group(1)
        self.assertEqual(
            self.done("generate", "llama", "-p", PROMPT, "-n", "30", "--temp", "1.5", "--top-k", "0", "--seed", seed),
            got.stdout)
        self.assertNotEqual(
            self.done("generate", "llama", "-p", PROMPT, "-n", "30", "--temp", "1.5", "--top-k", "0", "--seed", "1"),
            self.done("generate", "llama", "-p", PROMPT, "-n", "30", "--temp", "1.5", "--top-k", "0", "--seed", "2"))

    def test_prompts_from_files(self):
        text = self.generate("llama", "-p", PROMPT, "-n", "5")
        file = Path(self.path("prompt"))
        file.write_text(PROMPT)
        self.assertEqual(self.generate("llama", "-f", str(file), "-n", "5"), text)
        self.assertEqual(self.generate("llama", "-f", "-", "-n", "5", input=PROMPT), text)

    def test_stop_strings(self):
        text = self.generate("hydra", "-p", PROMPT, "-n", "40")[len(PROMPT):-1]
        parts = ((i, text[i:i + 3]) for i in range(10, len(text) - 3))
        stop = next(part for i, part in parts if part.isascii() and text.find(part) == i)
        self.assertEqual(
            self.generate("hydra", "-p", PROMPT, "-n", "40", "--stop", stop)[len(PROMPT):-1], text[:text.find(stop)])

    def test_every_end_id_ends_the_text(self):
        text = self.generate("llama", "-p", PROMPT, "-n", "12")[len(PROMPT):-1]
        # the tokens themselves, from the logits of each step
        ids = self.ids(PROMPT)
        for _ in range(6):
            self.done("logits", "llama", "--ids", ",".join(map(str, ids)), "-o", self.path("l.npy"))
            ids.append(int(np.load(self.path("l.npy"))[-1].argmax()))
        new = ids[-6:]
        end = next(i for i in range(2, 6) if new[i] not in new[:i])
        want = run(HYDRALM, "tokenizer", "decode", "-m", self.tokenizer, input=" ".join(map(str, new[:end]))).stdout
        self.assertTrue(text.startswith(want.rstrip("\n")), (text, want))
        for place in ("config", "generation"):
            folder = self.path(place)
            shutil.copytree(self.models["llama"], folder)
            name = f"{folder}/{'config' if place == 'config' else 'generation_config'}.json"
            config = json.loads(Path(name).read_text()) if os.path.exists(name) else {}
            config["eos_token_id"] = [VOCAB - 1, new[end]]
            Path(name).write_text(json.dumps(config))
            got = run(HYDRALM, "generate", "-m", folder, "-q", "--temp", "0", "-p", PROMPT, "-n", "12")
            self.assertEqual(got.stdout, PROMPT + want.rstrip("\n") + "\n", got)

    def test_flags_win_over_variables_win_over_the_model(self):
        folder = self.path("model")
        shutil.copytree(self.models["llama"], folder)
        Path(f"{folder}/generation_config.json").write_text(json.dumps({"temperature": 0.0}))
        words = [HYDRALM, "generate", "-m", folder, "-p", PROMPT, "-n", "2"]
        last = lambda *flags, **more: run(*words, *flags, **more).stderr.splitlines()[-1]
        self.assertTrue(last().endswith("| greedy"), last())
        self.assertRegex(last(env={"HYDRALM_ARG_TEMP": "0.5"}), r"seed \d+$")
        self.assertTrue(last("--temp", "0", env={"HYDRALM_ARG_TEMP": "0.5"}).endswith("| greedy"))
        self.assertRegex(
            run(HYDRALM, "generate", "-m", self.models["llama"], "-p", PROMPT, "-n", "2").stderr, r"seed \d+\n$")

    def test_a_saved_state_goes_on_exactly(self):
        for family in self.models:
            for first in (0, 1, 7):
                state = self.path(f"{family}-{first}.state")
                whole = self.generate(family, "-p", PROMPT, "-n", "20")
                head = self.generate(family, "-p", PROMPT, "-n", str(first), "--state-save", state)
                tail = self.generate(family, "--state-load", state, "-n", str(20 - first))
                self.assertEqual(head[:-1] + tail, whole, (family, first))
            # a prompt after a state is read after it: the same as one text, where its tokens are the same
            more = " " + make_text(6, 5)
            self.assertEqual(self.ids(PROMPT + more), self.ids(PROMPT) + self.ids(more))
            self.generate(family, "-p", PROMPT, "-n", "0", "--state-save", state)
            self.assertEqual(PROMPT + self.generate(family, "--state-load", state, "-p", more, "-n", "9"),
                             self.generate(family, "-p", PROMPT + more, "-n", "9"))

    def test_bad_states_are_refused(self):
        state = self.path("state")
        self.generate("hydra", "-p", PROMPT, "-n", "3", "--state-save", state)
        self.refuse(self.verb("generate", "mamba2", "--state-load", state, "-q"), "another model")
        self.refuse(self.verb("generate", "hydra", "--state-load", state, "--kv-dtype", "f32", "-q"), "kv_dtype")
        self.refuse(self.verb("generate", "hydra", "--state-load", state + "x", "-q"), "state")
        data = Path(state).read_bytes()
        Path(state).write_bytes(data[:-20])
        self.refuse(self.verb("generate", "hydra", "--state-load", state, "-q"), re.escape(state))
        broken = bytearray(data)
        broken[-3] ^= 1
        Path(state).write_bytes(broken)
        self.refuse(self.verb("generate", "hydra", "--state-load", state, "-q"), "crc32")

    def test_ctrl_c_ends_cleanly_with_the_text_so_far(self):
        for sent, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            command = [
                HYDRALM, "generate", "-m", self.models["hydra"], "-p", PROMPT, "-n", "-1", "--temp", "0",
                "--logit-bias", "0=-1e9"]
            with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
                head = process.stdout.read(len(PROMPT) + 50)
                process.send_signal(sent)
                tail, err = process.communicate(timeout=60)
            self.assertEqual(process.returncode, status, err)
            self.assertTrue(head.startswith(PROMPT.encode()) and tail.endswith(b"\n"), tail)
            (head + tail).decode("utf-8")  # whole characters
            self.assertRegex(err.decode(), r"\| generated \d+ tokens")

    def test_a_full_context_ends_the_text(self):
        n = len(self.ids(PROMPT))
        got = self.verb("generate", "llama", "-p", PROMPT, "-n", "-1", "-c", str(n + 6), "--temp", "0", "--logit-bias",
                        "0=-1e9")
        self.assertEqual(got.returncode, 0, got)
        self.assertRegex(got.stderr, r"generated 7 tokens")  # the last one is not read
        self.refuse(self.verb("generate", "llama", "-p", PROMPT, "-c", "3", "-q"), "--ctx-size is 3")
        self.assertIn("the model was trained for 256 tokens",
                      self.verb("generate", "llama", "-p", PROMPT, "-n", "1", "-c", "300").stderr)

    def test_controls(self):
        text = self.generate("hydra", "-p", PROMPT, "-n", "30")
        self.assertNotEqual(self.generate("hydra", "-p", PROMPT, "-n", "30", "--control", "path_scale=1,0,0"), text)
        self.assertEqual(self.generate("hydra", "-p", PROMPT, "-n", "30", "--control", "path_scale=1,1,1"), text)
        for control, word in (("x=1", "unknown control"), ("path_scale=1", "three numbers"),
                              ("ban_experts=9", "from 0 to 3"), ("landmarks=maybe", "on or off"),
                              ("moe_top_k", "KEY=VALUE"), ("router_temperature=hot",
                                                           "must be a number"), ("moe_top_k=0", "1 to 4")):
            self.refuse(self.verb("generate", "hydra", "-p", PROMPT, "--control", control, "-q"), word)

    def test_explain(self):
        got = self.verb("generate", "hydra", "-p", PROMPT, "-n", "1", "--explain", "-q")
        for word in ("SIMD level", "activations f32: the weights are not quantised", "ssm in", "expert gate+up",
                     "head"):
            self.assertIn(word, got.stderr)

    def test_speculation_changes_no_text(self):
        for family, drafters in (("llama", ("ngram", self.models["mamba2"])), ("hydra", ("ngram", "self")),
                                 ("mamba2", ("ngram", self.models["llama"]))):
            for sampling in (("--temp", "0"), ("--temp", "1.5", "--seed", "3", "--repeat-penalty", "1.2")):
                flags = ("-p", PROMPT, "-n", "60", *sampling, "--json", "-q")
                plain = json.loads(self.done("generate", family, *flags))
                self.assertNotIn("speculation", plain)
                for drafter in drafters:
                    made = json.loads(self.done("generate", family, *flags, "--spec", drafter, "--spec-n", "3"))
                    self.assertEqual((made["text"], made["finish_reason"]), (plain["text"], plain["finish_reason"]))
                    spec = made["speculation"]
                    self.assertEqual(spec["tokens"], made["tokens"] - (plain["finish_reason"] == "length"))
                    self.assertGreaterEqual(spec["passes"], spec["plain_passes"])
                    self.assertEqual(len(spec["tried"]), 3)
                    self.assertTrue(all(right <= tried for right, tried in zip(spec["right"], spec["tried"])))
        got = self.verb("generate", "mamba2", "-p", PROMPT, "-n", "5", "--temp", "0", "--spec", "ngram")
        self.assertRegex(got.stderr, r"memory .* \+ provisional passes [0-9]+ ")
        self.assertRegex(got.stderr, r"(?m)^speculation  ngram: [0-9]+ tokens in [0-9]+ passes, .* MB a token$")

    def test_drafters_that_cannot_guess(self):
        for family, drafter, pattern in (
                ("llama", "self", "--spec self: this model has no path"),
                ("mamba2", "self", "--spec self: "), ("llama", "/nothing", "/nothing: no such file"),
                ("llama", "", "--spec")):
            self.refuse(self.verb("generate", family, "-p", "a", "--spec", drafter, "-q"), pattern)
        self.refuse(self.verb("generate", "llama", "-p", "a", "--spec", "ngram", "--spec-n", "0", "-q"), "--spec-n 0")
        other = self.path("other")
        shutil.copytree(self.models["llama"], other)
        tokenizer = json.loads(Path(other, "tokenizer.json").read_text())
        vocab = tokenizer["model"]["vocab"]
        first, second = sorted(vocab, key=vocab.get)[-2:]
        vocab[first], vocab[second] = vocab[second], vocab[first]
        Path(other, "tokenizer.json").write_text(json.dumps(tokenizer))
        self.refuse(self.verb("generate", "llama", "-p", "a", "--spec", other, "-q"),
                    "its tokenizer is another one: token [0-9]+ is")

    def test_tune(self):
        """On a model that the caches do not hold."""
        cache = Path(self.path("cache"))

        def about(*flags, env=None):
            got = run(HYDRALM, "bench", "--preset", "transformer-29m", "--type", "q8_0", "-p", "0", "-n", "1", "-r",
                      "1", "-t", "2", "--explain", *flags, env=env or {"XDG_CACHE_HOME": str(cache)})
            self.assertEqual(got.returncode, 0, got)
            return re.search("weights of few tokens: .* [(](.*)[)]", got.stderr)[1]

        kept = cache / "hydralm" / "tuning.json"
        self.assertEqual(about("--tune", "off"), "not measured")
        self.assertFalse(kept.exists())
        self.assertRegex(about("--tune", "again"), "^measured in [0-9]+ ms")
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_text("not ours")
        self.assertRegex(about(), "^measured in [0-9]+ ms")  # the default is on
        self.assertRegex(about(env={"XDG_CACHE_HOME": "", "HOME": ""}), "^measured in [0-9]+ ms$|differed")
        self.refuse(self.verb("generate", "llama", "-p", "a", "--tune", "maybe", "-q"), "--tune maybe: must be on, off")

    def test_rounded_state(self):
        got = self.verb("generate", "hydra", "-p", PROMPT, "-n", "4", "--state-dtype", "bf16", "--explain", "-q")
        self.assertEqual(got.returncode, 0, got.stderr)
        self.assertIn("recurrent state bf16", got.stderr)


class Mistakes(RuntimeTest):
    def test_bad_values_are_one_line_and_status_2(self):
        for flags, pattern in (
                ((), "no prompt"), (("-p", ""), "no tokens"), (("-p", "a", "-f", "b"), "one of -p and -f"),
                (("-f", "/nothing"), "/nothing"), (("-p", "a", "-n", "-2"), "--n-predict -2"),
                (("-p", "a", "-n", "0.5"), "--n-predict 0.5"), (("-p", "a", "-t", "-1"), "--threads -1"),
                (("-p", "a", "-t", "1e9"), "--threads"), (("-p", "a", "-c", "-1"), "--ctx-size -1"),
                (("-p", "a", "--kv-dtype", "q4"), "q4"),
                (("-p", "a", "--state-dtype", "f16"), "--state-dtype f16: must be f32 or bf16"),
                (("-p", "a", "--act", "q9"), "--act q9"), (("-p", "a", "--target", "avx99"), "avx99"),
                (("-p", "a", "--device", "cuda"), "CPU only"), (("-p", "a", "--device", "tpu"), "--device tpu"),
                (("-p", "a", "--temp", "-1"), "--temp"), (("-p", "a", "--top-p", "0"), "--top-p"),
                (("-p", "a", "--top-k", "-1"), "--top-k"), (("-p", "a", "--min-p", "2"), "--min-p"),
                (("-p", "a", "--repeat-penalty", "0"), "--repeat-penalty"), (("-p", "a", "--seed", "-2"), "--seed -2"),
                (("-p", "a", "--logit-bias", "x"), "ID=VALUE"),
                (("-p", "a", "--logit-bias", "99999=1"), "--logit-bias 99999=1: the id must be 0 to"),
                (("-f", "/dev/null"), "/dev/null: a character device"), (("-p", "a", "--stop", ""), "--stop"),
                (("-p", "a", "--temp", "warm"), "--temp warm")):
            with self.subTest(flags=flags):
                self.refuse(self.verb("generate", "llama", *flags, "-q"), pattern)

    def test_bad_model_files(self):
        llama = Path(self.models["llama"])
        data = (llama / "model.safetensors").read_bytes()

        def broken(name, weights=None, config=None, drop=()):
            folder = Path(self.path(name))
            shutil.copytree(llama, folder)
            if weights is not None:
                (folder / "model.safetensors").write_bytes(weights)
            if config is not None:
                (folder / "config.json").write_text(config)
            for file in drop:
                (folder / file).unlink()
            return str(folder)

        config = json.loads((llama / "config.json").read_text())
        cases = {
            "/no/such/model": "/no/such/model",
            broken("empty", weights=b""): "model.safetensors",
            broken("cut", weights=data[:len(data) // 2]): "model.safetensors",
            broken("tail", weights=data + b"x"): "model.safetensors",
            broken("noise", weights=os.urandom(4096)): "model.safetensors",
            broken("no-config", drop=["config.json"]): "config.json",
            broken("no-weights", drop=["model.safetensors"]): "model.safetensors",
            broken("no-tokenizer", drop=["tokenizer.json"]): "tokenizer.json",
            broken("bad-json", config="{"): "config.json",
            broken("other-size", config=json.dumps({**config, "intermediate_size": 81})): "mlp",
            broken("small-vocab", config=json.dumps({**config, "vocab_size": VOCAB + 1})): "embed_tokens",
            broken("family", config=json.dumps({**config, "model_type": "bert"})): "bert",
        }
        for name, content in (("empty.gguf", b""), ("short.gguf", b"GGUF\3\0\0\0"), ("noise.gguf", os.urandom(2000)),
                              ("text.txt", b"hello")):
            Path(self.path(name)).write_bytes(content)
            cases[self.path(name)] = re.escape(name)
        for path, pattern in cases.items():
            for verb in (["generate", "-p", "a", "-q"], ["bench", "-n", "1", "-p", "0", "-q"], ["chat", "-q"]):
                if "no-tokenizer" in path and verb[0] == "bench":
                    continue
                with self.subTest(path=path, verb=verb[0]):
                    self.refuse(run(HYDRALM, *verb, "-m", path), pattern)


class Logits(RuntimeTest):
    def logits(self, family, *flags):
        out = self.path("out.npy")
        text = self.done("logits", family, "-o", out, *flags)
        return np.load(out), text

    def test_any_split_gives_the_same(self):
        ids = ",".join(str(3 + i * 7 % (VOCAB - 3)) for i in range(40))
        for family in self.models:
            whole, text = self.logits(family, "--ids", ids, "--kv-dtype", "f32")
            self.assertEqual((whole.shape, whole.dtype), ((40, VOCAB), np.float32))
            self.assertRegex(text, r"out\.npy: \[40, 320\] float32\n$")
            for split in ("1", "7", "16,1", "39,1"):
                got, _ = self.logits(family, "--ids", ids, "--split", split, "--kv-dtype", "f32")
                self.assertLess(np.abs(got - whole).max(), 1e-4 * max(1, np.abs(whole).max()), (family, split))
            self.assertGreater(np.abs(whole).max(), 0.1)

    def test_a_signal_leaves_no_unfinished_file(self):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "text").write_text(make_text(3, 300_000))
            process = subprocess.Popen([
                HYDRALM, "logits", "-m", self.models["hydra"], "-f", f"{folder}/text", "-o", f"{folder}/out.npy"])
            end = time.time() + 60
            while not list(Path(folder).glob("out.npy.tmp-*")):
                self.assertIsNone(process.poll())
                self.assertLess(time.time(), end)
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            self.assertEqual(process.wait(60), -signal.SIGTERM)
            self.assertEqual(os.listdir(folder), ["text"])

    def test_text_and_json(self):
        ids = self.ids(PROMPT)
        text, _ = self.logits("llama", "-p", PROMPT)
        by_ids, out = self.logits("llama", "--ids", ",".join(map(str, ids)), "--json")
        self.assertTrue(np.array_equal(text, by_ids))
        self.assertEqual(json.loads(out), {"file": self.path("out.npy"), "tokens": len(ids), "vocab": VOCAB})

    def test_mistakes(self):
        out = ("-o", self.path("x.npy"))
        for flags, pattern in (
                ((), "no tokens"), (("--ids", f"1,{VOCAB}"), f"must be 0 to {VOCAB - 1}"),
                (("--ids", "-1"), "must be 0"), (("--ids", "1", "-p", "a"), "one of -p, -f and --ids"),
                (("--ids", "1,,"), "--ids 1,,: a number is missing"), (("--ids", ",1"), "--ids ,1: a number is"),
                (("--ids", "1,x"), "--ids x: must be"), (("--ids", "1", "--split", "1,"), "--split 1,: a number is"),
                (("--ids", "1", "--split", "0"), "--split 0"), (("--ids", "1", "--engine", "abacus"), "abacus"),
                (("--ids", "1", "--act", "q8"), "unknown flag --act"),
                (("--ids", "1", "--engine", "torch", "--split", "1"), "--split is for --engine runtime")):
            with self.subTest(flags=flags):
                self.refuse(self.verb("logits", "llama", *flags, *out), pattern)
        self.assertFalse(os.path.exists(self.path("x.npy")))

    def test_the_other_engine(self):
        if not TRAIN:
            self.refuse(self.verb("logits", "llama", "--ids", "1", "--engine", "torch", "-o", self.path("x.npy")),
                        "was not built")
            return
        ids = ",".join(map(str, self.ids(PROMPT)))
        for family in self.models:
            ours, _ = self.logits(family, "--ids", ids, "--kv-dtype", "f32")
            theirs, _ = self.logits(family, "--ids", ids, "--engine", "torch")
            self.assertLess(np.abs(ours - theirs).max(), 1e-4 * max(1, np.abs(theirs).max()), family)


class Early(RuntimeTest):
    def test_an_error_that_is_known_early_stands_alone(self):
        short = Path(self.path("short"))
        short.write_text("short")
        for verb, flags, pattern in (
                ("generate", ("-p", "a", "--logit-bias", "99999=1"), "--logit-bias 99999=1"),
                ("generate", ("-p", PROMPT, "-c", "3"), "--ctx-size is 3"),
                ("generate", ("-p", "a", "--state-load", "/nothing"), "/nothing"),
                ("chat", ("--chat-template", "nothing"), "nothing"),
                ("chat", ("--chat-template", "chatml", "--logit-bias", "99999=1"), "99999=1"),
                ("bench", ("--ppl", "/nothing"), "/nothing"),
                ("bench", ("--ppl", str(short)), "a chunk needs 512")):
            with self.subTest(verb=verb, flags=flags):
                self.refuse(self.verb(verb, "llama", *flags), pattern)


class Bench(RuntimeTest):
    def test_a_stopped_perplexity_is_none(self):
        text = Path(self.path("text"))
        text.write_text(make_text(3, 300_000))
        process = subprocess.Popen([HYDRALM, "bench", "-m", self.models["hydra"], "--ppl", str(text), "-v"],
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while "chunk 2 of" not in (line := process.stderr.readline()):
            self.assertTrue(line, "ended before its second chunk")
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        self.assertEqual((process.returncode, out), (130, ""), err)
        self.assertRegex(err, rf"hydralm: --ppl {text}: stopped after \d+ chunks of 512 tokens: no perplexity\n$")

    def test_json_rows(self):
        rows = json.loads(
            self.done("bench", "hydra", "-p", "16,32", "-n", "4", "-d", "0,8", "-b", "1,2", "--provisional", "3", "-r",
                      "2", "-o", "json", "-q"))
        self.assertEqual([(r["p"], r["n"], r["provisional"], r["d"], r["b"]) for r in rows],
                         [(p, n, v, d, b) for b in (1, 2) for d in (0, 8)
                          for p, n, v in ((16, 0, 0), (32, 0, 0), (0, 4, 0), (0, 4, 3))])
        for r in rows:
            flops = {"gflop_per_s", "peak_gflop_per_s"} if r["p"] else set()
            self.assertEqual(
                set(r), {
                    "model", "params", "file_bytes", "threads", "target", "kernels", "p", "n", "d", "b", "provisional",
                    "tok_per_s", "samples", "bytes_per_tok", "gb_per_s", "read_gb_per_s"} | flops)
            self.assertEqual(set(r["bytes_per_tok"]), {"weights", "state", "kv"})
            rate = r["tok_per_s"]
            self.assertTrue(
                0 < rate["min"] <= rate["median"] <= rate["max"] and rate["min"] <= rate["mean"] <= rate["max"], rate)
            self.assertEqual((len(r["samples"]), min(r["samples"]), max(r["samples"])), (2, rate["min"], rate["max"]))
            self.assertAlmostEqual(r["gb_per_s"], rate["mean"] * sum(r["bytes_per_tok"].values()) / 1e9,
                                   delta=1e-6 * r["gb_per_s"])
            self.assertGreater(r["read_gb_per_s"], 0.1)
            self.assertEqual(r["model"], "hydra")
        inspect = json.loads(self.done("inspect", "hydra", "--json"))
        self.assertEqual(rows[0]["params"], inspect["params"]["total"])
        # Each token's products but the head's, which only the last one takes; little is added at 32 tokens.
        prompt = next(r for r in rows if (r["p"], r["d"], r["b"]) == (32, 0, 1))
        flops = prompt["gflop_per_s"] * 1e9 / prompt["tok_per_s"]["mean"]
        config = json.loads((Path(self.models["hydra"]) / "config.json").read_text())
        head = 2 * config["vocab_size"] * config["hidden_size"] * 31 / 32
        linear = inspect["flops"]["linear"] - head
        self.assertTrue(
            linear < flops <
            linear + inspect["flops"]["scan"] + inspect["flops"]["workspace"] + inspect["flops"]["attention"], prompt)
        self.assertGreater(prompt["peak_gflop_per_s"], prompt["gflop_per_s"])
        self.assertRegex(prompt["kernels"], r"rows x f32")
        one = next(r for r in rows if (r["n"], r["d"], r["b"]) == (4, 0, 1))
        self.assertLess(one["bytes_per_tok"]["weights"], inspect["bytes"]["weights"])  # not every expert is read
        two = next(r for r in rows if (r["n"], r["d"], r["b"]) == (4, 0, 2))
        self.assertLess(two["bytes_per_tok"]["weights"],
                        one["bytes_per_tok"]["weights"])  # weights are shared by a batch

    def test_keys_and_values_are_counted(self):
        # A step reads the keys up to its own and writes its own.
        rows = json.loads(
            self.done("bench", "llama", "-p", "0", "-n", "2", "-d", "0,100", "-r", "1", "-o", "json", "-q"))
        per_token = json.loads(self.done("inspect", "llama", "--json"))["bytes"]["kv_per_token"]
        self.assertEqual([r["bytes_per_tok"]["kv"] for r in rows], [2.5 * per_token, 102.5 * per_token])

    def test_other_formats(self):
        flags = ("-p", "8", "-n", "2", "-r", "1", "-q")
        table = self.done("bench", "llama", *flags).splitlines()
        self.assertRegex(table[0], r"^\| model \| params \| threads \| target \| test \| t/s \|")
        self.assertRegex(table[2], r"^\| llama \| 0\.\d M \| \d+ \| \w+ \| pp8 @ 0 \| [\d.]+ \+- [\d.]+ \|")
        self.assertIn("tg2 @ 0", table[3])
        lines = self.done("bench", "llama", *flags, "-o", "jsonl").splitlines()
        self.assertEqual([json.loads(line)["p"] for line in lines], [8, 0])
        csv = self.done("bench", "llama", *flags, "-o", "csv").splitlines()
        self.assertEqual({len(line.split(",")) for line in csv}, {len(csv[0].split(","))})
        self.assertEqual(len(csv), 3)

    def test_presets_with_random_weights(self):
        for kind, word in (("f32", "F32"), ("q8_0", "Q8_0")):
            got = run(HYDRALM, "bench", "--preset", "hydra-nano", "--type", kind, "-p", "8", "-n", "2", "-r", "1", "-o",
                      "json")
            self.assertEqual(got.returncode, 0, got)
            self.assertEqual(json.loads(got.stdout)[0]["model"], f"hydra-nano {word}")
            self.assertRegex(got.stderr, rf"parameters \(hydra\), .*{word}")

    def test_perplexity_is_that_of_the_logits(self):
        text = Path(self.path("text"))
        text.write_text(make_text(9, 300))
        ppl = self.check_perplexity("llama", (), text)
        both = json.loads(
            self.done("bench", "llama", "--ppl", str(text), "-c", "64", "-p", "8", "-n", "0", "-r", "1", "-o", "json",
                      "-q"))
        self.assertEqual((both[0]["p"], both[0]["perplexity"]), (8, ppl))
        free = self.check_perplexity("hydra", (), text)
        held = self.check_perplexity("hydra", ("--control", "workspace_read=0", "--control", "ban_experts=0"), text)
        self.assertNotEqual(free["loss"], held["loss"])

    def check_perplexity(self, family, flags, text):
        ids, chunk = np.array(self.ids(text.read_text())), 64
        losses = []
        for i in range(len(ids) // chunk):
            part = ids[i * chunk:(i + 1) * chunk]
            self.done("logits", family, *flags, "--ids", ",".join(map(str, part)), "-o", self.path("l.npy"))
            rows = np.load(self.path("l.npy")).astype(np.float64)
            log_sum = np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1)) + rows.max(1)
            losses += [log_sum[t] - rows[t, part[t + 1]] for t in range(chunk // 2, chunk - 1)]
        row, = json.loads(self.done("bench", family, *flags, "--ppl", str(text), "-c", str(chunk), "-o", "json", "-q"))
        ppl = row["perplexity"]
        self.assertEqual((ppl["chunks"], ppl["chunk"], ppl["tokens"]), (len(ids) // chunk, chunk, len(losses)))
        self.assertAlmostEqual(ppl["loss"], np.mean(losses), delta=2e-4)
        self.assertAlmostEqual(ppl["value"], np.exp(ppl["loss"]), delta=1e-6 * ppl["value"])
        return ppl

    def test_another_engine_beside(self):
        log = self.path("log")
        command = f"echo {{p}}-{{n}}-{{t}} >> {log}; echo noise; echo 'speed: 250.5 tok/s'"
        rows = json.loads(
            self.done("bench", "llama", "-p", "4", "-n", "2", "-r", "3", "-t", "1", "-o", "json", "-q", "--compare-cmd",
                      command))
        for r in rows:
            self.assertEqual(r["compare"]["tok_per_s"], {"mean": 250.5, "median": 250.5, "min": 250.5, "max": 250.5})
            self.assertAlmostEqual(r["compare"]["ratio"], r["tok_per_s"]["median"] / 250.5)
        self.assertEqual(Path(log).read_text().split(), ["4-0-1"] * 4 + ["0-2-1"] * 4)  # a warm-up, then one each time
        Path(log).unlink()
        self.done("bench", "llama", "-p", "4", "-n", "2", "-r", "3", "-t", "1", "-o", "json", "-q", "--interleave",
                  "--compare-cmd", command)
        self.assertEqual(Path(log).read_text().split(), ["4-0-1", "0-2-1"] * 4)
        bench = self.done("bench", "llama", "-p", "4", "-n", "0", "-r", "1", "-o", "json", "-q", "--compare-cmd",
                          "echo '[{\"avg_ts\": 77.5, \"stddev_ts\": 1}]'")
        self.assertEqual(json.loads(bench)[0]["compare"]["tok_per_s"]["mean"], 77.5)
        self.refuse(self.verb("bench", "llama", "-p", "4", "-n", "0", "-q", "--compare-cmd", "echo none"),
                    "no tokens a second")
        self.refuse(self.verb("bench", "llama", "-p", "4", "-n", "0", "-q", "--compare-cmd", "exit 3"), "status 3")

    def test_stream_alone_needs_no_model(self):
        got = run(HYDRALM, "bench", "--stream", "-t", "2", "-o", "jsonl", cwd=self.folder)
        self.assertEqual([json.loads(line)["threads"] for line in got.stdout.splitlines()], [1, 2], got)
        self.assertRegex(json.loads(got.stdout.splitlines()[0])["pattern"], "^[14] streams?(, [0-9]+ bytes ahead)?$")

    def test_profile_accounts_for_the_time(self):
        for family, part in (("llama", "full attention"), ("hydra", "Mamba-2"), ("mamba2", "Mamba-2")):
            flags = ("-p", "64", "-n", "8", "-r", "1", "-t", "2", "--profile", "-o", "json", "-q")
            prompt, steps = json.loads(self.done("bench", family, *flags))
            for row, passes in ((prompt, 1), (steps, 8)):
                made = row["profile"]
                self.assertEqual(made["passes"], passes)
                self.assertIn(part, [one["part"] for one in made["parts"]])
                self.assertIn("head", [one["part"] for one in made["parts"]])
                self.assertGreater(made["barriers"], 0)
                busy = sum(one["products_ms"] + one["tasks_ms"] for one in made["parts"])
                self.assertGreater(busy, 0)
                self.assertGreaterEqual(made["waiting_ms"], 0)
                self.assertGreaterEqual(made["serial_ms"], 0)
                self.assertAlmostEqual(busy + made["waiting_ms"] + made["serial_ms"], made["sum_ms"])
                self.assertAlmostEqual(made["sum_ms"], made["wall_ms"])
        text = self.done("bench", "llama", "-p", "4", "-n", "2", "-r", "1", "--profile", "-q")
        self.assertRegex(text, r"(?m)^\| .*tg2 @ 0 .*\n\n\S+ pp4 @ 0: ms of a pass$")
        self.assertRegex(text, r"(?m)^  sum +[0-9.]+ +[0-9.]+ without the profile$")

    def test_mistakes(self):
        for flags, pattern in ((("-o", "xml"), "--format xml"), (("-p", "0", "-n", "0"), "nothing to do"),
                               (("-p", "x"), "--n-prompt"), (("-r", "0"), "--repeats 0"), (("-b", "0"), "--batch 0"),
                               (("-n", "64", "-c", "16"), "the longest test needs"),
                               (("--ppl", "/nothing"), "/nothing"), (("--type", "q8_0"), "--preset"),
                               (("--control", "moe_top_k=1"), "--control moe_top_k=1: for --ppl alone")):
            with self.subTest(flags=flags):
                self.refuse(self.verb("bench", "llama", *flags, "-q"), pattern)
        self.refuse(run(HYDRALM, "bench", "--preset", "hydra-30m"), "hydra-29m")
        self.refuse(run(HYDRALM, "bench", "--preset", "hydra-nano", "--type", "q3"), "--type q3")
        short = Path(self.path("short"))
        short.write_text("a b c")
        self.refuse(self.verb("bench", "llama", "--ppl", str(short), "-q"),
                    f"--ppl {short}: the text has \\d+ tokens: a chunk needs 512")


class Chat(RuntimeTest):
    def chat(self, lines, *flags, family="llama", **options):
        return self.verb("chat", family, "--chat-template", "chatml", "--temp", "0", "-n", "6", *flags,
                         input="".join(line + "\n" for line in lines), **options)

    def test_piped(self):
        got = self.chat(["hello", "", "and now?"])
        self.assertEqual(got.returncode, 0, got)
        self.assertIn("template chatml", got.stderr)
        self.assertEqual(got.stdout, self.chat(["hello", "and now?"], "-q").stdout)
        self.assertGreaterEqual(got.stdout.count("\n"), 2)
        self.assertEqual(self.chat(["hello"], "-q").stderr.count("model  "), 0)

    def test_a_turn_reads_its_own_tokens_only(self):
        got = self.chat(["hello there", "/stats", "go on", "/stats"], "-q")
        read = [int(n) for n in re.findall(r"read (\d+) tokens", got.stderr)]
        context = [int(n) for n in re.findall(r"context (\d+) of", got.stderr)]
        self.assertEqual(len(read), 2, got)
        self.assertLess(read[1], context[0] + 1)
        wrote = [int(n) for n in re.findall(r"wrote (\d+)", got.stderr)]
        turn = len(self.ids("<|im_end|>\n<|im_start|>user\ngo on<|im_end|>\n<|im_start|>assistant\n"))
        self.assertIn(read[1], (turn, turn + 1))  # and the last token of the answer where that was cut off
        self.assertLessEqual(abs(context[1] - context[0] - turn - wrote[1]), 1)

    def test_the_conversation_is_the_template(self):
        """What the state holds equals the template's text, answer included."""
        state = self.path("state")
        got = self.chat(["hello", f"/save {state}"], "--system", "be brief", "-q")
        self.assertEqual(got.returncode, 0, got)
        answer = got.stdout.rstrip("\n")
        text = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
        prompt = self.ids(text)
        held = self.held(state)
        self.assertEqual(held[:len(prompt)], prompt)
        kept = " ".join(map(str, held[len(prompt):]))
        said = run(HYDRALM, "tokenizer", "decode", "-m", self.tokenizer, input=kept).stdout
        self.assertTrue(said.startswith(answer), (said, answer))

    def held(self, state):
        """All tokens of a saved conversation."""
        data = Path(state).read_bytes()
        n = int.from_bytes(data[:8], "little")
        head = json.loads(data[8:8 + n])
        return [
            id for name in ("ids", "pending")
            for id in np.frombuffer(data[8 + n:][slice(*head[name]["data_offsets"])], "<i4").tolist()]

    def test_turns_follow_one_another_as_the_template_says(self):
        """With a model that says its end at once, the state holds the template's text exactly."""
        state = self.path("state")
        for form, end, text in (
            ("chatml", 2,
             "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\ngo on<|im_end|>\n"
             "<|im_start|>assistant\n<|im_end|>"),
            ("llama2", 0, "[INST] hello [/INST]<|endoftext|>[INST] go on [/INST]<|endoftext|>")):
            got = self.verb("chat", "llama", "--chat-template", form, "--temp", "0", "-q", "--logit-bias", f"{end}=1e9",
                            input=f"hello\ngo on\n/save {state}\n")
            self.assertEqual((got.returncode, got.stdout), (0, "\n\n"), got)
            self.assertEqual(self.held(state), self.ids(text), form)

    def test_the_plain_form_ends_answers_where_a_user_would_speak(self):
        got = self.verb("chat", "mamba2", "--chat-template", "plain", "--temp", "0", "-q", "-n", "4",
                        input=f"hello\ngo on\n/save {self.path('state')}\n")
        self.assertEqual(got.returncode, 0, got)
        held = self.held(self.path("state"))
        self.assertEqual(held[:len(self.ids("User: hello\n"))], self.ids("User: hello\n"))
        text = run(HYDRALM, "tokenizer", "decode", "-m", self.tokenizer, input=" ".join(map(str, held))).stdout
        self.assertRegex(text, r"(?s)^User: hello\nAssistant:.*\nUser: go on\nAssistant:")

    def test_save_load_reset(self):
        state = self.path("state")
        whole = self.chat(["hello", "go on"], "-q").stdout
        first = self.chat(["hello", f"/save {state}"], "-q").stdout
        second = self.chat([f"/load {state}", "go on"], "-q").stdout
        self.assertEqual(first + second, whole)
        again = self.chat(["hello", "/reset", "hello"], "-q").stdout
        self.assertEqual(again, 2 * self.chat(["hello"], "-q").stdout)

    def test_commands(self):
        got = self.chat(["/quit", "hello"], "-q")
        self.assertEqual((got.returncode, got.stdout), (0, ""))
        self.refuse(self.chat(["/qui"], "-q"), r"/qui: unknown command \(did you mean /quit\?\)")
        self.refuse(self.chat(["/save"], "-q"), "needs a file")
        self.refuse(self.chat(["/load /nothing"], "-q"), "/nothing")

    def test_special_tokens_of_strangers_are_text(self):
        """What a user types never ends a turn."""
        got = self.chat(["<|im_end|>", "/stats"], "-q")
        self.assertGreater(int(re.search(r"read (\d+) tokens", got.stderr).group(1)),
                           len(self.ids("<|im_start|>user\n<|im_end|><|im_end|>\n<|im_start|>assistant\n")))

    def test_unknown_templates(self):
        self.refuse(self.verb("chat", "llama", "--chat-template", "jinja", "-q"), "jinja")

    def test_ctrl_c_stops_the_answer_and_not_the_program(self):
        command = [
            HYDRALM, "chat", "-m", self.models["hydra"], "--chat-template", "chatml", "--temp", "0", "-n", "-1", "-q",
            "--logit-bias", "0=-1e9", "--logit-bias", "2=-1e9"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            process.stdout.read(60)
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            process.stdin.write(b"/stats\n/quit\n")
            process.stdin.flush()
            _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        self.assertIn(b"last turn: read", err)

    def test_at_a_terminal_a_second_ctrl_c_leaves(self):
        command = [
            HYDRALM, "chat", "-m", self.models["hydra"], "--chat-template", "chatml", "--temp", "0", "-n", "3", "-q"]
        for typed, status in ((["/quit\n"], 0), (["\x04"], 0), (["\x03", "\x03"], 130),
                              (["\x03", "/typo\n", "hello\n", "\x03", "\x03"], 130)):
            shown = b""
            pid, terminal = pty.fork()
            if pid == 0:
                os.execv(command[0], command)
            for keys in typed:
                shown += self.until_prompt(terminal)
                os.write(terminal, keys.encode())
            try:
                while chunk := self.read(terminal, shown):
                    shown += chunk
            except OSError:  # the other side is closed
                pass
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), status, (typed, shown))
            os.close(terminal)
            if len(typed) > 2:  # a mistake does not end it
                self.assertIn(b"/typo: unknown command", shown)

    def until_prompt(self, terminal):
        shown = b""
        while b"> " not in shown:
            shown += self.read(terminal, shown)
        return shown

    def read(self, terminal, shown):
        ready, _, _ = select.select([terminal], [], [], 60)
        self.assertTrue(ready, shown)
        return os.read(terminal, 4096)


class Inspect(RuntimeTest):
    def test_models_of_every_family(self):
        for family in self.models:
            got = json.loads(self.done("inspect", family, "--json", "--tensors", "-c", "100"))
            self.assertEqual(got["ctx"], 100)
            self.assertEqual(got["bytes"]["weights"], sum(t["bytes"] for t in got["tensors"]))
            self.assertGreater(got["fit"]["have"], 0)
            self.assertTrue(got["fit"]["ok"])
            self.assertIn("packed", got)
            self.assertIn("free here: fits", self.done("inspect", family))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
