# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
# What the verbs that run a model are told and must obey or refuse: controls, numbers, -q and -v, special tokens of
# texts, generation_config.json, states that end inside a character; and that generate says why it ended. Not here: the
# numbers that models give (hydra/runtime tests).
import json
import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import VOCAB, make_model, make_text, make_tokenizer, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
TRAIN = sys.argv[2] if len(sys.argv) > 2 else ""
PROMPT = make_text(5, 12)


class FlagsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.models = {family: make_model(HYDRALM, f"{cls.folder}/{family}", family, cls.tokenizer)
                      for family in ("hydra", "llama", "mamba2")}
        cls.models["in-turn"] = make_model(HYDRALM, f"{cls.folder}/in-turn", "hydra", cls.tokenizer,
                                           router_mode="round_robin")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def verb(self, name, model, *flags, **options):
        return run(HYDRALM, name, "-m", self.models.get(model, model), *flags, **options)

    def generate(self, model, *flags, **options):
        got = self.verb("generate", model, "--temp", "0", *flags, **options)
        self.assertEqual(got.returncode, 0, got)
        return got

    def refuse(self, got, *words):
        self.assertEqual(got.returncode, 2, got)
        self.assertEqual(got.stderr.count("\n"), 1, got.stderr)
        for word in words:
            self.assertIn(word, got.stderr)

    def path(self, name):
        return f"{self.folder}/{self.id().split('.')[-1]}-{name}"

    def copy(self, name, **files):
        """A copy of the llama model with files changed."""
        folder = Path(self.path(name))
        shutil.copytree(self.models["llama"], folder)
        for file, content in files.items():
            (folder / f"{file}.json").write_text(json.dumps(content))
        return str(folder)


class Controls(FlagsTest):
    def test_a_part_that_is_missing_is_named(self):
        cases = [(model, control, "this model")
                 for model in ("llama", "mamba2")
                 for control in ("path_scale=1,0,1", "path_scale=1,1,1", "workspace_read=0", "pkm_read=1",
                                 "landmarks=off", "landmarks=on", "router_temperature=2", "moe_top_k=1",
                                 "force_experts=0", "ban_experts=1", "expert_bias=0,0,0,0")]
        cases += [("in-turn", control, "round_robin")
                  for control in ("router_temperature=2", "force_experts=0", "ban_experts=1", "expert_bias=0,0,0,1")]
        for model, control, why in cases:
            with self.subTest(model=model, control=control):
                self.refuse(self.verb("generate", model, "-q", "-p", "a", "--control", control),
                            f"--control {control}: ", why)
        self.generate("in-turn", "-q", "-p", "a", "-n", "2", "--control", "moe_top_k=1")
        for verb, flags in (("chat", ()), ("logits", ("--ids", "1", "-o", self.path("x.npy"))),
                            ("bench", ("--ppl", self.tokenizer))):
            self.refuse(self.verb(verb, "llama", *flags, "--control", "landmarks=off"), "landmarks=off", "no landmarks")
        if TRAIN:
            self.refuse(
                self.verb("logits", "llama", "--engine", "torch", "--ids", "1", "-o", self.path("x.npy"), "--control",
                          "pkm_read=0"), "pkm_read=0", "no product-key memory")

    def test_numbers_are_those_of_f32(self):
        for control in ("router_temperature=nan", "router_temperature=1e-50", "router_temperature=0",
                        "router_temperature=0x1p2", "pkm_read=inf", "workspace_read=1e39", "path_scale=1,nan,1",
                        "path_scale=1,1,", "path_scale=1,1,1,1", "expert_bias=0,0,0,nan", "expert_bias=1,2",
                        "moe_top_k=1.5", "moe_top_k=", "force_experts=1,,2", "force_experts=0x1", "ban_experts=0,1,2,3",
                        "force_experts=4"):
            with self.subTest(control=control):
                self.refuse(self.verb("generate", "hydra", "-q", "-p", "a", "--control", control),
                            f"--control {control.split('=')[0]}")

    def test_a_state_has_a_name(self):
        for flag in ("--state-save", "--state-load"):  # a script's variable that is not set
            self.refuse(self.verb("generate", "hydra", "-q", "-p", "a", "-n", "1", flag, ""), flag, "is empty")

    def test_a_word_is_one_of_a_list(self):
        self.refuse(self.verb("logits", "hydra", "-p", "a", "-o", "x.npy", "--engine", "steam"),
                    "--engine steam: must be one of {runtime,torch}")

    def test_a_control_leaves_the_others_of_a_saved_state(self):
        state = self.path("state")
        self.generate("hydra", "-q", "-p", PROMPT, "-n", "4", "--state-save", state, "--control", "path_scale=1,0,1",
                      "--control", "ban_experts=0,1")
        go_on = lambda *flags: self.generate("hydra", "-q", "--state-load", state, "-n", "40", *flags).stdout
        both = self.path("both")
        go_on("--control", "pkm_read=0.5", "--state-save", both)
        held = self.controls(both)
        self.assertEqual((held["path_scale"], held["ban_experts"], held["pkm_read"]), ([1, 0, 1], [0, 1], 0.5))
        self.assertEqual(go_on("--control", "ban_experts=0,1"), go_on())
        go_on("--control", "ban_experts=", "--state-save", both)  # an empty list takes them back
        self.assertEqual(self.controls(both)["ban_experts"], [])
        self.refuse(self.verb("generate", "hydra", "-q", "--state-load", state, "--control", "path_scale=1,1,1"),
                    "path_scale", "first token")

    def test_controls_of_a_layer(self):
        self.refuse(self.verb("generate", "hydra", "-q", "-p", "a", "--control", "ban_experts@99=1"),
                    "--control ban_experts@", "99")
        self.refuse(self.verb("generate", "hydra", "-q", "-p", "a", "--control", "landmarks@0=off"),
                    "--control landmarks@0=off", "all layers")
        state = self.path("layered")
        self.generate("hydra", "-q", "-p", "a", "-n", "1", "--control", "path_scale@0=1,1,0", "--state-save", state)
        self.assertEqual(self.controls(state)["layers"], {"0": {"path_scale": [1, 1, 0]}})

    def test_a_profile_is_controls_in_a_file(self):
        profile, state = self.path("careful.json"), self.path("profiled")
        Path(profile).write_text('{"pkm_read": 0.5, "ban_experts": [1], "layers": {"0": {"path_scale": [1, 1, 0.5]}}}')
        self.generate("hydra", "-q", "-p", "a", "-n", "1", "--control-profile", profile, "--control", "ban_experts=2",
                      "--state-save", state)
        held = self.controls(state)
        self.assertEqual((held["pkm_read"], held["ban_experts"]), (0.5, [2]))
        for text, words in (('{"pkm_raed": 1}', ("unknown control pkm_raed", "did you mean pkm_read")),
                            ('{"pkm_read": -1}', ("pkm_read=-1",)), ("[", ("careful.json",)), ("", ("careful.json",))):
            Path(profile).write_text(text)
            self.refuse(self.verb("generate", "hydra", "-q", "-p", "a", "--control-profile", profile), *words)
        self.refuse(self.verb("generate", "hydra", "-q", "-p", "a", "--control-profile", self.path("none.json")),
                    "none.json")

    def test_pins_are_texts_or_positions(self):
        state = self.path("pinned")
        self.generate("hydra", "-q", "-p", PROMPT, "-n", "2", "--pin", PROMPT[2:5], "--pin", "0", "--state-save", state)
        pins = self.controls(state)["pins"]
        self.assertEqual(pins[0], 0)
        self.assertGreater(len(pins), 1)
        self.refuse(self.verb("generate", "hydra", "-q", "-p", PROMPT, "--pin", "no such text"), "--pin", "no such")
        self.refuse(self.verb("generate", "llama", "-q", "-p", PROMPT, "--pin", "0"), "--pin 0", "no landmarks")
        self.refuse(self.verb("generate", "hydra", "-q", "-p", PROMPT, "--pin", ""), "--pin", "empty")

    def controls(self, state):
        data = Path(state).read_bytes()
        head = json.loads(data[8:8 + int.from_bytes(data[:8], "little")])
        return json.loads(head["__metadata__"]["controls"])


class Numbers(FlagsTest):
    def test_what_f32_cannot_hold_is_refused(self):
        for flags, words in ((("--logit-bias", "5=nan"), ["--logit-bias 5"]), (("--logit-bias", "5=-inf"), [
                "--logit-bias 5"]), (("--logit-bias", "0x5=1"), ["--logit-bias 0x5"]), (("--logit-bias", "5="), [
                    "--logit-bias 5"]), (("--logit-bias", "-1=1"),
                                         ["--logit-bias -1"]), (("--logit-bias", f"{VOCAB}=1"), [f"0 to {VOCAB - 1}"]),
                             (("--temp", "nan"), ["--temp nan"]), (("--temp", "1e-50"), ["--temp 1e-50", "1.2e-38"]),
                             (("--temp", "0x1p0"), ["--temp 0x1p0"]), (("--top-p", "nan"), ["--top-p nan"]),
                             (("--min-p", "inf"), ["--min-p inf"]),
                             (("--repeat-penalty", "1e39"), ["--repeat-penalty 1e+39"]), (("--presence-penalty", "nan"),
                                                                                          ["--presence-penalty nan"]),
                             (("--frequency-penalty", "-inf"),
                              ["--frequency-penalty -inf"]), (("--top-k", "0x10"), ["--top-k 0x10", "0..2147483647"]),
                             (("--repeat-last-n", "-1"), ["--repeat-last-n -1", "0..2147483647"]), (("-n", "0x10"), [
                                 "--n-predict 0x10", "-1..1073741824"
                             ]), (("--seed", "0x5"), ["--seed 0x5"]), (("-t", "0x2"), ["--threads 0x2"])):
            with self.subTest(flags=flags):
                self.refuse(self.verb("generate", "llama", "-q", "-p", "a", *flags), *words)
        self.refuse(self.verb("logits", "llama", "--ids", "0x10", "-o", self.path("x.npy")), "--ids 0x10")
        self.refuse(self.verb("inspect", "llama", "--fit", "0x10GB"), "--fit 0x10GB")
        folder = self.copy("wishes", generation_config={"temperature": 1e-50})
        self.refuse(self.verb("generate", folder, "-q", "-p", "a"), "generation_config.json", "temperature")

    def test_010_is_ten(self):
        got = self.generate("mamba2", "-p", PROMPT, "-n", "010", "--logit-bias", "0=-1e9", "--json", "-q")
        self.assertEqual(json.loads(got.stdout)["tokens"], 10)

    def test_every_verb_takes_quiet_and_verbose(self):
        text = self.path("text")
        Path(text).write_text(make_text(3, 300))
        data, out = self.path("data"), self.path("out")
        llama = self.models["llama"]
        verbs = [("data", "build", text, "--tokenizer", self.tokenizer, "-o", data), ("data", "info", data),
                 ("data", "check", data), ("tokenizer", "encode", "-m", self.tokenizer, text),
                 ("tokenizer", "decode", "-m", self.tokenizer), ("tokenizer", "info", "-m", self.tokenizer),
                 ("tokenizer", "train", text, "--vocab", "270", "-o", f"{out}.json"), ("inspect", "-m", llama),
                 ("convert", llama, "-o", f"{out}.gguf"), ("quantize", llama, "-o", f"{out}-q8_0.gguf"),
                 ("logits", "-m", llama, "--ids", "1", "-o", f"{out}.npy"),
                 ("generate", "-m", llama, "-p", "a", "-n", "1"), ("chat", "-m", llama),
                 ("bench", "-m", llama, "-p", "1", "-n", "0", "-r", "1")]
        if TRAIN:
            verbs += [("eval", "-m", llama, "-f", text)]
        for words in verbs:
            for flag in ("-q", "-v"):
                with self.subTest(verb=words[:2], flag=flag):
                    got = run(HYDRALM, *words, flag, input="1 2")
                    self.assertEqual(got.returncode, 0, got)
                    if flag == "-q":
                        # A warning is not hidden, nor that an answer of the random model was cut off.
                        self.assertEqual([line for line in got.stderr.splitlines()
                                          if "warning" not in line and "cut off" not in line], [], got)


class Ends(FlagsTest):
    def ended(self, *flags, model="mamba2"):
        """What --json and stderr say of an end."""
        self.assertEqual(self.generate(model, "-q", "-p", PROMPT, *flags).stderr, "")
        got = self.generate(model, "-p", PROMPT, "--json", *flags)
        json_end = json.loads(got.stdout)
        line = next(line for line in got.stderr.splitlines() if line.startswith("end "))
        return json_end, line

    def test_generate_says_why_it_ended(self):
        free = ("--logit-bias", "0=-1e9")
        got, line = self.ended("-n", "5", *free)
        self.assertEqual((got["finish_reason"], got["tokens"], got["prompt"]), ("length", 5, PROMPT))
        self.assertRegex(line, r"^end +length: -n 5$")
        text = self.generate("mamba2", "-q", "-p", PROMPT, "-n", "5", *free).stdout
        self.assertEqual(got["prompt"] + got["text"] + "\n", text)
        got, line = self.ended("-n", "5", "--logit-bias", "0=1e9")
        self.assertEqual((got["finish_reason"], got["tokens"], got["text"]), ("end_token", 0, ""))
        self.assertRegex(line, r"^end +end token <\|endoftext\|> \(id 0\)$")
        letter = next(c for c in text[len(PROMPT):] if c.isascii() and c.isalpha())
        got, line = self.ended("-n", "40", "--stop", letter, *free)
        self.assertEqual(got["finish_reason"], "stop_string")
        self.assertRegex(line, r"^end +stop string$")
        n = self.ended("-n", "0", model="llama")[0]["prompt_tokens"]
        got, line = self.ended("-n", "-1", "-c", str(n + 7), *free, model="llama")
        self.assertEqual(got["finish_reason"], "context")
        self.assertRegex(line, rf"^end +context full: --ctx-size {n + 7}$")

    def test_verbose_says_how_tokens_are_picked(self):
        got = self.verb("generate", "mamba2", "-p", PROMPT, "-n", "1", "-v", "--seed", "7", "--top-k", "9")
        self.assertRegex(got.stderr, r"(?m)^sampling +temp 0.8, top-k 9, .*seed 7$")


class Texts(FlagsTest):
    def test_a_state_inside_a_character(self):
        """Every cut of a text of bytes gives the text of one run, also by a chat's state and with a prompt between."""
        # only the bytes of two-byte characters are left to be picked
        tokens = json.loads(Path(self.tokenizer).read_text())["model"]["vocab"]
        alphabet = self.byte_alphabet()
        biases = []
        for token, i in tokens.items():
            raw = bytes(alphabet.get(c, 0) for c in token)
            if len(raw) != 1 or not (0x80 <= raw[0] < 0xC0 or 0xC2 <= raw[0] < 0xE0):
                biases.append(f"{i}=-1e6")
        biases += [f"{i}=-1e6" for i in range(3)]
        greedy = ["--temp", "0", "-q"]
        for bias in dict.fromkeys(biases):
            greedy += ["--logit-bias", bias]
        state = [self.path("a"), self.path("b")]
        one = self.verb("generate", "mamba2", "-p", PROMPT, "-n", "24", *greedy)
        self.assertEqual(one.returncode, 0, one)
        for first in (1, 2, 5):
            a = self.verb("generate", "mamba2", "-p", PROMPT, "-n", str(first), "--state-save", state[0],
                          *greedy).stdout[:-1]
            b = self.verb("generate", "mamba2", "--state-load", state[0], "-n", "1", "--state-save", state[1],
                          *greedy).stdout[:-1]
            c = self.verb("generate", "mamba2", "--state-load", state[1], "-n", str(23 - first), *greedy).stdout
            self.assertEqual(a + b + c, one.stdout, first)

    def byte_alphabet(self):
        """Characters of the byte-level alphabet and their bytes."""
        kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
        rest = [b for b in range(256) if b not in kept]
        return {**{chr(b): b for b in kept}, **{chr(256 + i): b for i, b in enumerate(rest)}}

    def test_wishes_that_are_not_obeyed_are_named(self):
        folder = self.copy(
            "wishes", generation_config={
                "temperature": 0.0, "num_beams": 4, "no_repeat_ngram_size": 3, "eos_token_id": [0, 99999],
                "transformers_version": "5.0.0", "pad_token_id": 0})
        for verb, flags, options in (("generate", ("-p", "a", "-n", "1"), {}), ("chat", ("--chat-template", "plain"),
                                                                                {"input": ""})):
            got = self.verb(verb, folder, *flags, "-q", **options)
            self.assertEqual(got.returncode, 0, got)
            self.assertEqual(got.stderr.count("warning: "), 2, got.stderr)
            self.assertIn("generation_config.json: not obeyed: num_beams = 4, no_repeat_ngram_size = 3\n", got.stderr)
            self.assertIn(f"eos_token_id = 99999: not obeyed: ids are 0 to {VOCAB - 1}", got.stderr)

    def test_special_tokens_of_a_text(self):
        # a tokenizer that puts <|endoftext|> before a text
        config = json.loads(Path(self.tokenizer).read_text())
        config["post_processor"] = {
            "type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
                                                     {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}}
        folder = self.copy("bos", tokenizer=config, tokenizer_config={"bos_token": "<|endoftext|>"})
        ids = lambda text, *flags: [
            int(i) for i in run(HYDRALM, "tokenizer", "encode", "-m", folder, *flags, input=text).stdout.split()]
        text = f"<|im_end|>{PROMPT}"
        rows = {}
        for flags, want in (((), ids(text)), (("--parse-special", "off"), ids(text, "--no-special")),
                            (("--add-special", "on"), [0] + ids(text))):
            out = self.path("l.npy")
            self.assertEqual(self.verb("logits", folder, "-p", text, *flags, "-o", out).returncode, 0)
            rows[flags] = np.load(out)
            self.assertEqual(len(rows[flags]), len(want), flags)
        self.refuse(self.verb("logits", folder, "--ids", "1", "--add-special", "on", "-o", out), "--add-special",
                    "-p and -f")
        file = Path(self.path("text"))
        file.write_text("<|im_end|> " * 20 + make_text(9, 60))
        ppl = lambda *flags: json.loads(
            self.verb("bench", folder, "--ppl", str(file), "-c", "32", "-o", "json", "-q", *flags).stdout)[0][
                "perplexity"]
        self.assertEqual(ppl(), ppl("--parse-special", "off", "--add-special", "on"))
        self.assertNotEqual(ppl()["loss"], ppl("--add-special", "off")["loss"])
        self.assertGreater(ppl()["chunks"], ppl("--parse-special", "on")["chunks"])
        self.refuse(self.verb("bench", folder, "-n", "1", "--parse-special", "on"), "--parse-special", "--ppl")
        self.refuse(self.verb("bench", folder, "--ppl", str(file), "--parse-special", "maybe"), "--parse-special",
                    "maybe")
        if TRAIN:
            tokens = lambda *flags: json.loads(self.verb("eval", folder, "-f", str(file), "--json", *flags).stdout)[
                "tokens"]
            self.assertEqual(tokens(), tokens("--parse-special", "off", "--add-special", "off"))
            self.assertEqual(tokens("--add-special", "on"), tokens() + 1)
            self.assertLess(tokens("--parse-special", "on"), tokens())
            self.refuse(self.verb("eval", folder, "--data", self.folder, "--add-special", "on"), "--add-special", "-f")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
