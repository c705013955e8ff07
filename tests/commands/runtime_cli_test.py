# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=600
# The verbs that run a model without LibTorch, from outside: generate, logits, inspect. What they print where, what they
# refuse, that states go on exactly. Not here: bench_cli_test.py, chat_cli_test.py; the numbers (hydra/runtime tests).
import json
import os
import re
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
from runtime_case import HYDRALM, PROMPT, TRAIN, RuntimeTest  # noqa: E402
from tiny_models import VOCAB, make_text, run  # noqa: E402


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
        self.assertNotIn("drafter ", got.stderr)
        for family, drafter, memory in (("hydra", "self", "self: "),
                                        ("mamba2", self.models["llama"], "llama: [0-9]+ of weights, ")):
            told = self.verb("generate", family, "-p", PROMPT, "-n", "1", "--spec", drafter).stderr
            self.assertRegex(told, rf"(?m)^drafter      {memory}[0-9]+ of state and passes \(MiB\)$")
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
