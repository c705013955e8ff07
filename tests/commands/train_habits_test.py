# SPDX-License-Identifier: Apache-2.0
# ctest: torch timeout=300
# Habits of `hydralm train`: rows of chats without an answer, progress through a pipe, numbers and presets in run files,
# threads of a process that may use one core only, a run that is made longer.
import json
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from train_common import differences, make_data, must, newest_checkpoint, run, train_command  # noqa: E402

SETTINGS = {"optim.steps": 6, "optim.batch_rows": 2, "optim.seq_len": 32, "optim.lr": 0.01, "optim.warmup_steps": 0,
            "log.every": 2, "eval.every": 3, "eval.tokens": 512}


def make_chats(folder):
    """Every third chat has a question that fills a row of 32 tokens; the answers come in other rows."""
    words = "abc def gh ijkl mno bcd ".split()
    lines = []
    for i in range(60):
        question = " ".join(words[(i + j) % 6] for j in range(90 if i % 3 == 0 else 4))
        answer = " ".join(words[(i * 5 + j) % 6] for j in range(6))
        lines.append(json.dumps({"messages": [{"role": "user", "content": question},
                                              {"role": "assistant", "content": answer}]}))
    Path(folder, "chats.jsonl").write_text("\n".join(lines) + "\n")
    must([HYDRALM, "data", "build", f"{folder}/chats.jsonl", "--field", "messages",
          "--tokenizer", f"{folder}/tokenizer.json", "-o", f"{folder}/chats", "--val", "0.1"])
    return f"{folder}/chats"


class HabitsTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.data = make_data(HYDRALM, cls.folder, 3)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_steps_without_targets_are_counted_and_a_resume_counts_the_same(self):
        chats = make_chats(self.folder)
        settings = {**SETTINGS, "optim.steps": 24, "optim.batch_rows": 1, "log.every": 4, "checkpoint.every": 8,
                    "checkpoint.keep": 5, "eval.every": 0, "guard.sigma": 0}
        whole, part = f"{self.folder}/whole", f"{self.folder}/part"
        status, out, err = run([*train_command(TRAIN, chats, whole, settings), "--json"])
        self.assertEqual(status, 0, err)
        skipped = json.loads(out)["skipped"]
        self.assertGreater(skipped, 2)
        self.assertLess(skipped, 24)
        self.assertEqual(err.count("no token of its batch counts in the loss"), 1, err)
        rows = [json.loads(line) for line in Path(whole, "train.jsonl").read_text().splitlines()]
        self.assertEqual(rows[-1]["train/skipped"], skipped)
        self.assertEqual(rows[-1]["step"], 24)
        # As if it had died after its checkpoint of step 8.
        shutil.copytree(whole, part)
        for name in ("step-00000016", "step-00000024"):
            shutil.rmtree(f"{part}/ckpt/{name}")
        Path(part, "ckpt/latest").write_text("step-00000008\n")
        shutil.rmtree(f"{part}/model")
        status, out, err = run([*train_command(TRAIN, chats, part, settings), "--json"])
        self.assertEqual(status, 0, err)
        self.assertEqual(json.loads(out)["skipped"], skipped)
        self.assertEqual(newest_checkpoint(part).name, "step-00000024")
        self.assertEqual(differences(whole, part), [])

    def test_piped_it_shows_that_it_lives(self):
        command = train_command(TRAIN, self.data, f"{self.folder}/piped", SETTINGS)
        status, _, err = run(command)
        self.assertEqual(status, 0, err)
        self.assertRegex(err, r"(?m)^step 1/6 \| loss \d")
        self.assertRegex(err, r"(?m)^step 6/6 \| loss \d")
        self.assertRegex(err, r"(?m)^step 6/6 \| val loss \d")
        self.assertNotIn("\r", err)
        status, out, err = run(train_command(TRAIN, self.data, f"{self.folder}/quiet", SETTINGS) + ["-q"])
        self.assertEqual((status, out, err), (0, "", ""))

    def test_run_files_name_bad_numbers_and_presets(self):
        file = f"{self.folder}/bad.toml"
        for text, want in (("[optim]\nlr = inf", "optim.lr = inf: must be a finite number"),
                           ("[guard]\nsigma = nan", "guard.sigma = nan: must be a finite number"),
                           ("[optim]\nsteps = 0x10", "optim.steps = 16, written in another base"),
                           ('[model]\npreset = "hydra-nan"', "did you mean hydra-nano?"),
                           ('[model]\npreset = "hydra-nano"\nhiden_size = 3\n[optim]\nsteps = 1',
                            '[model]: unknown key "hiden_size"')):
            Path(file).write_text(text + "\n")
            status, _, err = run([TRAIN, "train", "-C", file, "--data", self.data, "--run", f"{self.folder}/never"])
            self.assertEqual(status, 2, err)
            self.assertIn(want, err)
            self.assertIn(file, err)
            self.assertEqual(err.count("\n"), 1, err)
        for setting in ("optim.lr=nan", "optim.lr=-inf", "optim.eps=1e-50"):
            status, _, err = run([*train_command(TRAIN, self.data, f"{self.folder}/never", SETTINGS), "--set", setting])
            self.assertEqual(status, 2, err)
            self.assertIn("--set: " + setting.split("=")[0], err)
        self.assertFalse(Path(self.folder, "never").exists())

    def test_names_that_are_not_utf8(self):
        odd = os.fsencode(self.folder) + b"/d\xe9"
        os.symlink(self.data, odd)
        command = [os.fsencode(word) for word in train_command(TRAIN, self.data, "", SETTINGS)]
        for flag in (b"--data", b"--preset", b"--model"):
            done = subprocess.run([command[0], b"train", flag, odd], capture_output=True, check=False)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertEqual(done.stderr, b"hydralm: " + flag + b" " + odd
                             + b": not UTF-8, which a run file must be: rename it, or give a link to it\n")
        command[command.index(b"--run") + 1] = odd + b"-run"
        done = subprocess.run([*command, b"--json"], capture_output=True, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertTrue(json.loads(done.stdout)["model"].endswith("d\ufffd-run/model"))

    def test_threads_are_those_of_the_cores_that_it_may_use(self):
        command = train_command(TRAIN, self.data, f"{self.folder}/threads", {**SETTINGS, "optim.steps": 1})
        at = command.index("-t")
        del command[at:at + 2]
        first = min(os.sched_getaffinity(0))
        must(["taskset", "-c", str(first), *command])
        self.assertEqual(json.loads(Path(self.folder, "threads/env.json").read_text())["threads"], "1")

    def test_a_run_made_longer_warns_of_its_rate(self):
        folder = f"{self.folder}/longer"
        must(train_command(TRAIN, self.data, folder, SETTINGS))
        status, _, err = run(train_command(TRAIN, self.data, folder, {**SETTINGS, "optim.steps": 12}))
        self.assertEqual(status, 0, err)
        self.assertRegex(err, r"warning: step 7: the learning rate rises from 1\.0e-03 to \d")


HYDRALM, TRAIN = sys.argv[1], sys.argv[2]
unittest.main(argv=sys.argv[:1])
