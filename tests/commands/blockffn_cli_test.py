# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
# The verbs on a model with BlockFFN layers, from outside: planted routing and acceptance of `bench`, what a step reads
# in `inspect`, the drafter made of a part of the model. Not here: speed (bench/), the numbers (runtime_parity.py).
import json
import re
import sys
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from runtime_case import HYDRALM, PROMPT, RuntimeTest  # noqa: E402
from tiny_models import FAMILIES, make_model, run  # noqa: E402

CONFIG = FAMILIES["blockffn"]
# Of all layers, in f32: up and down.
EXPERT_BYTES = (4 * 2 * CONFIG["num_hidden_layers"] * CONFIG["num_experts"] * CONFIG["expert_size"] *
                CONFIG["hidden_size"])


class BlockFfn(RuntimeTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.models["blockffn"] = make_model(HYDRALM, f"{cls.folder}/blockffn", "blockffn", cls.tokenizer)

    def rows(self, *flags):
        return json.loads(self.done("bench", "blockffn", "-p", "0", "-r", "1", "--no-limits", "-o", "json", "-q",
                                    *flags))

    def test_planted_routing(self):
        sparse, dense = self.rows("-n", "40", "--plant", "0.25,0.5", "--plant", "1")
        self.assertEqual((sparse["planted"], dense["planted"]),
                         ({"active": 0.25, "reuse": 0.5}, {"active": 1, "reuse": 1}))
        self.assertEqual(dense["experts"], {"active": 1, "read": 1})
        share = sparse["experts"]["read"]
        self.assertEqual(sparse["experts"]["active"], share)  # one token a pass
        self.assertTrue(0.15 < share < 0.35, share)
        read = dense["bytes_per_tok"]["weights"] - sparse["bytes_per_tok"]["weights"]
        self.assertAlmostEqual(read, (1 - share) * EXPERT_BYTES, delta=1)
        # Sequences at one position run the same experts, which are read once.
        batch, = self.rows("-n", "40", "-b", "4", "--plant", "0.25,0.5")
        self.assertEqual(batch["experts"]["read"], batch["experts"]["active"])  # the trace is that of positions
        alone, = self.rows("-n", "40")
        self.assertNotIn("planted", alone)
        self.assertTrue(0 < alone["experts"]["active"] < 1, alone)

    def test_planted_rows_say_so(self):
        flags = ("-p", "8", "-n", "4", "-r", "1", "--provisional", "2", "--accept", "0.5", "--plant", "0.25,0.5")
        got = self.verb("bench", "blockffn", *flags)
        self.assertEqual(got.returncode, 0, got)
        self.assertIn("planted      routing of experts", got.stderr)
        tests = [line.split("|")[5].strip() for line in got.stdout.splitlines()[2:5]]
        plant = ", planted activity 0.25 reuse 0.5"
        self.assertEqual(tests, ["pp8 @ 0" + plant, "tg4 @ 0" + plant,
                                 "tg4 by 2 (planted acceptance 0.5) @ 0" + plant])
        table = self.done("bench", "blockffn", *flags, "-o", "csv", "-q").splitlines()
        names = table[0].split(",")
        rows = [dict(zip(names, line.split(","), strict=True)) for line in table[1:]]
        self.assertEqual([row["planted_acceptance"] for row in rows], ["", "", "0.5"])
        self.assertEqual({(row["planted_active"], row["planted_reuse"]) for row in rows}, {("0.25", "0.5")})
        for row in rows:
            self.assertTrue(0 < float(row["experts_read"]) <= 1, row)

    def test_planted_acceptance(self):
        weights = {}
        for accept in ("0", "1"):
            plain, guessed = self.rows("-n", "40", "--provisional", "4", "--accept", accept)
            self.assertNotIn("planted_acceptance", plain)
            self.assertEqual(guessed.get("planted_acceptance", 1), float(accept))
            weights[accept] = guessed["bytes_per_tok"]["weights"]
        self.assertGreater(weights["0"], 3 * weights["1"])  # a pass of four tokens for each token, or for four
        some = self.rows("-n", "40", "--provisional", "4", "--accept", "0.6")[1]["bytes_per_tok"]["weights"]
        self.assertTrue(weights["1"] < some < weights["0"], (weights, some))

    def test_weights_in_a_file(self):
        model, packed = self.path("nano.gguf"), self.path("nano.packed")
        got = run(HYDRALM, "quantize", "--preset", "blockffn-nano", "--type", "q8_0", "-o", model, "-q")
        self.assertEqual(got.returncode, 0, got)
        ids = ("logits", "-m", model, "--ids", "1,2,3,4,5", "-q", "-o")
        self.assertEqual(run(HYDRALM, *ids, self.path("plain.npy")).returncode, 0)
        for ask in ("routed", "last", "off"):
            out = self.path(f"{ask}.npy")
            got = run(HYDRALM, *ids, out, "--offload", packed, "--ask-ahead", ask)
            self.assertEqual(got.returncode, 0, got)
            self.assertEqual(Path(out).read_bytes(), Path(self.path("plain.npy")).read_bytes())
        bench = ("bench", "-m", model, "-p", "0", "-n", "4", "-r", "1", "--no-limits", "--offload", packed)
        got = run(HYDRALM, *bench)
        self.assertIn(f"mapped from {packed}", got.stderr)
        self.assertIn("| disk MB/token |", got.stdout)
        row, = json.loads(run(HYDRALM, *bench, "-o", "json", "-q").stdout)
        self.assertGreaterEqual(row["disk_bytes_per_tok"], 0)
        self.assertIn(",disk\n", run(HYDRALM, *bench, "-o", "csv", "-q").stdout)
        Path(self.path("notes.txt")).write_text("mine")
        for flags, words in ((("--offload", self.path("notes.txt")), "notes.txt: .* no file of packed weights"),
                             (("--offload", packed, "--ask-ahead", "most"), "--ask-ahead most: .* last or off"),
                             (("--ask-ahead", "last"), "--ask-ahead.*--offload")):
            self.refuse(run(HYDRALM, *ids, self.path("x.npy"), *flags), words)
        self.assertEqual(Path(self.path("notes.txt")).read_text(), "mine")
        for source in ((), (model, "--preset", "blockffn-nano")):
            self.refuse(run(HYDRALM, "quantize", *source, "-o", self.path("x.gguf")), "give a model, or --preset")

    def test_random_models_of_presets(self):
        for kind, word in (("bf16", "BF16"), ("q4_0", "Q4_0")):
            got = run(HYDRALM, "bench", "--preset", "blockffn-nano", "--type", kind, "-p", "8", "-n", "2", "-r", "1",
                      "-o", "json", "--plant", "0.2,0.8", "-q")
            self.assertEqual(got.returncode, 0, got)
            self.assertEqual(json.loads(got.stdout)[0]["model"], f"blockffn-nano {word}")

    def test_what_cannot_be_planted(self):
        for flags, pattern in (
                (("--plant", "0.16"), "--plant 0.16: give the reuse behind a comma, such as 0.16,0.87"),
                (("--plant", "0,1"), "planted activity 0: must be above 0, at most 1"),
                (("--plant", "0.8,0.1"), "planted reuse 0.1: must be 0.75 to 1 where a share of 0.8 is active"),
                (("--plant", "x,1"), "--plant x,1: active share = x: must be a number"),
                (("--plant", "0.2,"), "--plant 0.2,: reuse = : must be a number"),
                (("--accept", "0.5"), "--accept is for --provisional"),
                (("--accept", "1.5", "--provisional", "2"), "--accept 1.5: must be 0 to 1"),
                (("--plant", "1", "--spec", "ngram"), "--plant: not with --spec")):
            with self.subTest(flags=flags):
                self.refuse(self.verb("bench", "blockffn", *flags, "-q"), re.escape(pattern))
        self.refuse(self.verb("bench", "llama", "--plant", "0.2,0.5", "-q"),
                    re.escape("--plant 0.2,0.5: this model has no BlockFFN layers"))

    def test_a_step_reads_the_active_experts(self):
        whole, part = (json.loads(self.done("inspect", "blockffn", "--json", *flags))
                       for flags in ((), ("--active", "0.25")))
        self.assertEqual((whole["experts_read"], part["experts_read"]), (1, 0.25))
        self.assertEqual(whole["bytes"]["read_per_token"] - part["bytes"]["read_per_token"], 0.75 * EXPERT_BYTES)
        self.assertEqual(whole["bytes"]["weights"], part["bytes"]["weights"])
        # One vector of a token and layer, in f16, is its key and its value.
        width = CONFIG["kv_lora_rank"] + CONFIG["qk_rope_head_dim"]
        self.assertEqual(whole["bytes"]["kv_per_token"], 2 * width * CONFIG["num_hidden_layers"])
        self.assertIn(" with 25% of the experts", self.done("inspect", "blockffn", "--active", "0.25"))
        self.refuse(self.verb("inspect", "blockffn", "--active", "1.5"), "--active 1.5: must be 0 to 1")
        self.assertNotIn("experts_read", json.loads(self.done("inspect", "llama", "--json")))

    def test_quantised_experts(self):
        note = f"down matrices of experts are in BF16: experts are {CONFIG['expert_size']} wide, no multiple of 32"
        file = self.path("q8.gguf")
        got = run(HYDRALM, "quantize", self.models["blockffn"], "-o", file, "--type", "q8_0")
        self.assertEqual(got.returncode, 0, got)
        self.assertIn(f"  {note}\n", got.stdout)
        told = json.loads(run(HYDRALM, "quantize", self.models["blockffn"], "-o", file, "--type", "q4_0",
                              "--json").stdout)
        self.assertEqual(told["note"], note)
        types = {one["name"].rsplit(".", 1)[-1]: one["dtype"] for one in json.loads(
            run(HYDRALM, "inspect", "-m", file, "--tensors", "--json").stdout)["tensors"] if "mlp" in one["name"]}
        self.assertEqual((types["down_proj"], types["up_proj"]), ("BF16", "Q4_0"))
        # The same file for every split of threads, and a guess changes nothing there either.
        flags = ("-q", "--temp", "0", "-p", PROMPT, "-n", "40")
        texts = {run(HYDRALM, "generate", "-m", file, *flags, *more).stdout
                 for more in (("-t", "1"), ("-t", "2"), ("--spec", "self"), ("--spec", "ngram"))}
        self.assertEqual(len(texts), 1, texts)
        self.assertGreater(len(texts.pop()), len(PROMPT) + 1)

    def test_guesses_of_its_own_layers_change_no_token(self):
        want = self.generate("blockffn", "-p", PROMPT, "-n", "60")
        self.assertGreater(len(want), len(PROMPT) + 1)
        for drafter in ("self", "self:0", "self:1-2", "self:0,2", "ngram", self.models["blockffn"]):
            with self.subTest(drafter=drafter):
                self.assertEqual(self.generate("blockffn", "-p", PROMPT, "-n", "60", "--spec", drafter), want)
        for drafter, pattern in (("self:3", "--spec self:3 = 3: must be a whole number from 0 to 2"),
                                 ("self:", "--spec self: = : must be a whole number"),
                                 ("self:2-1", "--spec self:2-1: layers 2 to 1 are none"),
                                 ("self:1,0", "--spec self: layer 0: layers must ascend")):
            with self.subTest(drafter=drafter):
                flags = ("-q", "-p", PROMPT, "-n", "4", "--spec", drafter)
                self.refuse(self.verb("generate", "blockffn", *flags), pattern)
        self.refuse(self.verb("generate", "hydra", "-q", "-p", PROMPT, "-n", "4", "--spec", "self:0"),
                    "--spec self:0: only BlockFFN's drafter has layers to choose")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
