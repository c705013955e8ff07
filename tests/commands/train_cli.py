# SPDX-License-Identifier: Apache-2.0
# ctest: torch timeout=300
# `hydralm train` and `hydralm eval` from outside: what they print, write and refuse.
import json
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from train_common import make_data, must, run, train_command  # noqa: E402

SETTINGS = {"optim.steps": 6, "optim.batch_rows": 2, "optim.seq_len": 32, "optim.lr": 0.01, "log.every": 2,
            "eval.every": 3, "eval.tokens": 512}


class TrainTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.data = make_data(HYDRALM, cls.folder, 3)
        cls.run_folder = f"{cls.folder}/run"
        cls.command = train_command(TRAIN, cls.data, cls.run_folder, SETTINGS)
        cls.status, cls.out, cls.err = run(cls.command + ["-v"])

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_run_prints_costs_progress_and_what_to_do_next(self):
        self.assertEqual(self.status, 0, self.err)
        for text in ("model        hydra-nano: ", "run          6 steps", "memory       weights", "val loss",
                     f"next         hydralm generate -m {self.run_folder}/model"):
            self.assertIn(text, self.out)
        self.assertRegex(
            self.err, r"step 2/6 \| loss \d\.\d+ \| bpb \d\.\d+ \| lr \S+ \| [\d,]+ tok/s \| mfu \S+ \| eta \d+:\d\d")
        self.assertRegex(self.err, r"step 3/6 \| val loss \d\.\d+ \| val bpb \d\.\d+")
        self.assertNotIn("\r", self.err)

    def test_piped_without_a_step_to_do_it_is_silent(self):
        status, out, err = run(self.command)  # finished: only writes the model again
        self.assertEqual((status, err), (0, ""))
        self.assertIn("val loss", out)
        self.assertEqual(run(self.command + ["-q"])[1], "")

    def test_a_finished_run_keeps_its_record(self):
        before = Path(self.run_folder, "run.toml").read_text()
        status, _, err = run([*self.command, "--lr", "0.5"])
        self.assertEqual(status, 2)
        self.assertRegex(err, r"^hydralm: .*: finished at step \d+, and optim\.lr.*: give another --run")
        self.assertEqual(Path(self.run_folder, "run.toml").read_text(), before)

    def test_folder_is_as_documented(self):
        folder = Path(self.run_folder)
        for name in ("run.toml", "env.json", "log.txt", "train.jsonl", "train.csv", "val.jsonl", "val.csv",
                     "ckpt/latest", "ckpt/step-00000006/DONE", "ckpt/step-00000006/state.json", "model/config.json",
                     "model/model.safetensors", "model/tokenizer.json"):
            self.assertTrue((folder / name).exists(), name)
        self.assertTrue(list(folder.glob("events.out.tfevents.*")))
        env = json.loads((folder / "env.json").read_text())
        self.assertEqual(env["seed"], "1")
        self.assertIn("machine", env)
        with safe_open(folder / "model/model.safetensors", "pt") as file:
            self.assertIn("model.embed_tokens.weight", file.keys())
        rows = [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]
        self.assertEqual([row["step"] for row in rows], [2, 4, 6])

    def test_json(self):
        status, out, _ = run(self.command + ["--json"])
        self.assertEqual(status, 0)
        result = json.loads(out)
        self.assertTrue(result["finished"])
        self.assertGreater(result["val"]["bpb"], 0)
        self.assertGreater(result["costs"]["params"]["total"], 0)

    def test_run_toml_repeats_the_run(self):
        again = f"{self.folder}/again"
        must([TRAIN, "train", "-C", f"{self.run_folder}/run.toml", "--run", again, "-t", "1"])
        self.assertEqual(Path(f"{again}/model/model.safetensors").read_bytes(),
                         Path(f"{self.run_folder}/model/model.safetensors").read_bytes())

    def test_dry_run_writes_nothing(self):
        status, out, _ = run(train_command(TRAIN, self.data, f"{self.folder}/dry", SETTINGS) + ["--dry-run"])
        self.assertEqual(status, 0)
        self.assertIn("parameters", out)
        self.assertFalse(Path(f"{self.folder}/dry").exists())

    def test_bad_input_is_one_clear_line(self):
        base = train_command(TRAIN, self.data, f"{self.folder}/bad", SETTINGS)
        broken = f"{self.folder}/broken.toml"
        Path(broken).write_text("[optim]\nstep = 4\n")
        empty = f"{self.folder}/empty.toml"
        Path(empty).write_text("")
        cases = [
            (base + ["--set", "optim.lrr=1"], "did you mean optim.lr?"),
            (base + ["--set", "model.vocab_size=16"], "--set model.vocab_size="),
            (train_command(TRAIN, f"{self.folder}/nothing", f"{self.folder}/bad", SETTINGS),
             "nothing: no such folder: give a folder"),
            (base + ["--device", "cuda:9"], "--device cuda:9"),
            (base + ["--device", "gpu"], "must be auto, cpu, cuda or cuda:N"),
            (base + ["--seq-len", "33"], "must be a multiple of model_chunk_size"),
            (base + ["--steps", "many"], "--steps many: must be a whole number"),
            (base + ["--preset", "hydra-nan"], "hydra-nano"),
            (base + ["--init", f"{self.folder}/nothing"], "nothing"),
            (base + ["--batch", "1000000", "--seq-len", "1024"], "GiB free"),
            ([TRAIN, "train", "-C", broken], "unknown key optim.step (did you mean optim.steps?)"),
            ([TRAIN, "train", "-C", f"{self.folder}/missing.toml"], "missing.toml"),
            ([TRAIN, "train", "-C", empty], f"hydralm: {empty}: model.preset: missing"),
            (base + ["-C", empty, "--set", "optim.steps=0"], f"hydralm: {empty}: optim.steps: missing"),
            ([TRAIN, "train", "--steps", "3"], "model.preset: missing"),
            ([TRAIN, "train", "--steps", "3", "--preset", "hydra-nano"], "data.dir: missing"),
        ]
        for command, want in cases:
            status, _, err = run(command)
            self.assertEqual(status, 2, (command, err))
            self.assertIn(want, err)
            self.assertEqual(err.count("\n"), 1, err)
            self.assertFalse(Path(f"{self.folder}/bad").exists(), command)

    def test_eval(self):
        model = f"{self.run_folder}/model"
        result = json.loads(must([TRAIN, "eval", "-m", model, "--data", self.data, "-c", "32", "--json", "-t", "1"]))
        rows = [json.loads(line) for line in Path(f"{self.run_folder}/val.jsonl").read_text().splitlines()]
        self.assertEqual(sum(b["tokens"] for b in result["by_position"]), result["tokens"])
        self.assertAlmostEqual(result["loss"],
                               rows[-1]["val/loss"] if "val/loss" in rows[-1] else rows[-1]["values"]["val/loss"],
                               delta=0.3)
        part = json.loads(must([TRAIN, "eval", "-m", model, "--data", self.data, "--max-tokens", "17", "--json"]))
        self.assertEqual(part["tokens"], 17)
        self.assertLess(part["documents"], part["of_documents"])
        head = must([TRAIN, "eval", "-m", model, "--data", self.data, "--max-tokens", "17"]).splitlines()[1]
        self.assertRegex(head, rf"^17 tokens predicted, .* {part['documents']} of {part['of_documents']} documents,")
        table = must([TRAIN, "eval", "-m", model, "-f", f"{self.folder}/text.txt", "-t", "1"])
        self.assertIn("bits per byte", table)
        self.assertRegex(table, r"1 - 15 +30 ")
        empty = f"{self.folder}/empty.txt"
        Path(empty).write_text("")
        for arguments, want in ((["-f", empty], "two or more are needed"), ([], "give either --data"),
                                (["recall", "-f", empty], "unknown task recall"),
                                (["--data", self.data, "--split", "test"], "test")):
            status, _, err = run([TRAIN, "eval", "-m", model, *arguments])
            self.assertEqual(status, 2, err)
            self.assertIn(want, err)


    def test_weights_that_are_not_finite_have_no_loss(self):
        model = Path(f"{self.folder}/nan")
        shutil.copytree(f"{self.run_folder}/model", model)
        tensors = load_file(model / "model.safetensors")
        next(value for value in tensors.values() if value.ndim == 2)[0, 0] = np.nan
        save_file(tensors, model / "model.safetensors")
        status, out, err = run([TRAIN, "eval", "-m", str(model), "--data", self.data])
        self.assertEqual((status, out), (2, ""), err)
        self.assertRegex(err, rf"^hydralm: {model}: its loss is -?nan: a number of its weights is not finite.*\n$")


HYDRALM, TRAIN = sys.argv[1], sys.argv[2]
unittest.main(argv=sys.argv[:1])
