# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=60
"""`hydralm inspect` from outside: the golden numbers, files with and without a config, --fit, bad input.
Not here: the formulas (hydra/model/accounting_test.cc)."""
import json
import os
import subprocess
import sys
import tempfile
import unittest

HYDRALM = sys.argv[1]
GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")


def inspect(*args):
    env = {k: v for k, v in os.environ.items() if not k.startswith("HYDRALM_ARG_")}
    run = subprocess.run([HYDRALM, "inspect", *args], capture_output=True, text=True, env=env)
    return run.returncode, run.stdout, run.stderr


class Inspect(unittest.TestCase):
    def test_presets_have_the_numbers_of_the_specification(self):
        for name, total, active, scan, step, state in (
                ("hydra-1.6b", 1625378106, 744672570, 1585027700, 1574804084, 77170880),
                ("hydra-29m", 29211723, 15417419, 35750038, 35291286, 4172864),
                ("hydra-nano", 3151515, 2422939, 5603638, 5517622, 637744)):
            code, out, err = inspect("--preset", name, "--json")
            self.assertEqual((code, err), (0, ""))
            got = json.loads(out)
            self.assertEqual(got["params"]["total"], total)
            self.assertEqual(got["params"]["active"], active)
            self.assertEqual(sum(got["params"]["by_kind"].values()), total)
            self.assertEqual((got["flops"]["total"], got["flops"]["step_total"]), (scan, step))
            self.assertEqual((got["bytes"]["state"], got["bytes"]["kv"], got["ctx"], got["batch"]), (state, 0, 8192, 1))
            self.assertLessEqual({"linear", "attention", "scan", "train"}, set(got["flops"]))
            self.assertEqual(
                {"weights", "state", "kv", "kv_per_token", "snapshot", "scratch", "program", "read_per_token"},
                set(got["bytes"]))
            self.assertGreater(got["bytes"]["program"], 1 << 20)
            self.assertEqual({"have", "need", "ok", "advice"}, set(got["fit"]))

    def test_text_shows_the_same(self):
        code, out, _ = inspect("--preset", "hydra-29m", "--bandwidth", "25GB/s")
        self.assertEqual(code, 0)
        for word in ("29,211,723", "active 15,417,419", "= 35,750,038", "state 4,172,864", "tok/s at 25 GB/s",
                     "training"):
            self.assertIn(word, out)

    def test_a_known_llama(self):
        config = dict(model_type="llama", vocab_size=49152, hidden_size=576, num_hidden_layers=30,
                      intermediate_size=1536, num_attention_heads=9, num_key_value_heads=3, rms_norm_eps=1e-5,
                      rope_theta=100000, tie_word_embeddings=True, torch_dtype="bfloat16", hidden_act="silu",
                      max_position_embeddings=8192)
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(folder, "config.json"), "w") as f:
                json.dump(config, f)
            code, out, _ = inspect("-m", folder, "--fit", "2GB", "--bandwidth", "25GB/s")
            self.assertEqual(code, 0)
            for word in ("134,515,008 (embedding 28,311,552 tied; attention 26,542,080; ffn 79,626,240; norms 35,136)",
                         "268,959,744 linear + 566,231,040 attention at 8192", "weights 269,100,288 (bf16; norms f32)",
                         "state 0", "KV 188,743,680 (f16, 23,040 a token)",
                         "457,843,968 B: at most 54.6 tok/s at 25 GB/s", "weights 257 + KV 180", "of 1,907 MiB: fits"):
                self.assertIn(word, out)
            code, out, _ = inspect("-m", os.path.join(folder, "config.json"), "--fit", "400MB", "--json")
            fit = json.loads(out)["fit"]
            self.assertEqual((code, fit["ok"], fit["have"]), (1, False, 400000000))
            flag, value = fit["advice"].split()
            self.assertEqual(inspect("-m", folder, "--fit", "400MB", flag, value)[0], 0)

    def test_a_folder_with_weights_and_a_file_alone(self):
        code, out, _ = inspect("-m", os.path.join(GOLDEN, "mamba2"), "--tensors")
        self.assertEqual(code, 0)
        self.assertIn("(f64)", out)
        self.assertIn("model.layers.1.workspace.slot_queries", out)
        code, out, _ = inspect("-m", os.path.join(GOLDEN, "parts.safetensors"), "--json", "--tensors")
        self.assertEqual(code, 0)
        got = json.loads(out)
        self.assertEqual(got["n_tensors"], len(got["tensors"]))
        self.assertEqual(got["bytes"], sum(t["bytes"] for t in got["tensors"]))
        self.assertEqual(set(got["types"]), {"F64", "I64"})

    def test_state_in_bf16_is_half_of_mamba2s(self):
        def state(*args):
            return json.loads(inspect(*args, "--json")[1])["bytes"]["state"]

        for preset, heads in (("hydra-29m", 12 * 64 * 64 * 8), ("transformer-29m", 0)):
            saved = state("--preset", preset) - state("--preset", preset, "--state-dtype", "bf16")
            self.assertEqual(saved, 2 * heads)

    def test_bad_input_is_one_line_and_status_2(self):
        for args, word in ((("-m", "/nothing/here"), "/nothing/here"), (("--preset", "hydra-28m"), "hydra-29m"),
                           (("--preset", "hydra-nano", "--fit", "2XB"), "2XB"),
                           (("--preset", "hydra-nano", "--ctx", "0"), "--ctx"),
                           (("--preset", "hydra-nano", "--kv-dtype", "q4"), "q4"),
                           (("--preset", "hydra-nano", "--state-dtype", "f16"), "f16"),
                           (("-m", os.path.join(GOLDEN, "parts.safetensors"), "--fit", "1GB"), "config.json"),
                           (("-m", os.path.abspath(__file__)), "inspect_test.py")):
            code, out, err = inspect(*args)
            self.assertEqual((code, out), (2, ""), args)
            self.assertEqual(err.count("\n"), 1, err)
            self.assertIn(word, err)

    def test_a_model_that_does_not_match_its_config_is_refused(self):
        with tempfile.TemporaryDirectory() as folder:
            with open(os.path.join(GOLDEN, "mamba2", "config.json")) as f:
                config = json.load(f)
            os.symlink(os.path.join(GOLDEN, "mamba2", "model.safetensors"), os.path.join(folder, "model.safetensors"))
            config["moe_intermediate_size"] = 11
            with open(os.path.join(folder, "config.json"), "w") as f:
                json.dump(config, f)
            code, _, err = inspect("-m", folder)
            self.assertEqual(code, 2)
            self.assertIn("experts.gate_up_proj", err)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
