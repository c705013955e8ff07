# SPDX-License-Identifier: Apache-2.0
# ctest: torch timeout=300
# What `hydralm train` finds in its run folder and what changes under it: nothing is lost, refusals name the file.
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from train_common import environment, make_data, must, rows, run, train_command  # noqa: E402

SETTINGS = {"optim.steps": 8, "optim.batch_rows": 2, "optim.seq_len": 32, "optim.lr": 0.01, "log.every": 1,
            "eval.every": 4, "eval.tokens": 256, "checkpoint.every": 4, "checkpoint.keep": 9}
LONG = {**SETTINGS, "optim.steps": 1000000, "eval.every": 0, "checkpoint.every": 0}


def content(folder):
    """Every file below a folder with its bytes; the lock and the log of words apart, which each command may write."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(Path(folder).rglob("*"))
            if path.is_file() and path.name not in (".lock", "log.txt")}


class RunFolderTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.data = make_data(HYDRALM, cls.temporary.name, 5)
        cls.done = f"{cls.temporary.name}/done"
        must(train_command(TRAIN, cls.data, cls.done, SETTINGS))

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def setUp(self):
        self.run_folder = f"{self.temporary.name}/{self.id().split('.')[-1]}"

    def copy(self):
        """A finished run of its own: checkpoints of steps 4 and 8."""
        shutil.copytree(self.done, self.run_folder)
        return Path(self.run_folder)

    def train(self, settings=SETTINGS, *more, data=None):
        return run(train_command(TRAIN, data or self.data, self.run_folder, settings) + list(more))

    def refused(self, answer, *parts):
        status, _, err = answer
        lines = [line for line in err.splitlines() if not line.startswith("hydralm: warning: ")]
        self.assertEqual(status, 2, err)
        self.assertEqual(len(lines), 1, err)
        for part in parts:
            self.assertIn(part, lines[0])

    def start(self, settings=LONG, *more, data=None):
        """A run that is under way: its first row is there. Quiet, or a slow machine adds lines to what it says last."""
        process = subprocess.Popen(train_command(TRAIN, data or self.data, self.run_folder, settings) + ["-q", *more],
                                   env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        log = Path(self.run_folder, "train.jsonl")
        while process.poll() is None and not (log.exists() and log.stat().st_size > 0):
            time.sleep(0.01)
        return process

    def end(self, process):
        _, err = process.communicate(timeout=120)
        return process.returncode, "", err

    def test_a_folder_whose_checkpoints_all_fail_is_refused_and_kept(self):
        def cut(name):
            return lambda folder: [os.truncate(path, path.stat().st_size // 2)
                                   for path in folder.glob(f"ckpt/*/{name}")]

        def remove(pattern):
            return lambda folder: [path.unlink() for path in folder.glob(pattern)]

        def loop(folder):
            for path in list(folder.glob("ckpt/step-*")):
                shutil.rmtree(path)
                path.symlink_to(path.name)

        def unmount(folder):  # a link to a disk that is not there
            shutil.rmtree(folder / "ckpt")
            (folder / "ckpt").symlink_to("/nonexistent/ckpt")

        damages = {"model": cut("model.safetensors"), "optimiser": cut("optim-*"), "state": cut("state.json"),
                   "marker": cut("DONE"), "no-marker": remove("ckpt/*/DONE"),
                   "no-model": remove("ckpt/*/model.safetensors"),
                   "loop": loop, "circle": loop, "unmounted": unmount,
                   "folders": lambda folder: [shutil.rmtree(path) for path in folder.glob("ckpt/step-*")],
                   "no-latest": lambda folder: (cut("model.safetensors")(folder), (folder / "ckpt/latest").unlink())}
        for name, damage in damages.items():
            with self.subTest(name):
                folder = self.copy()
                damage(folder)
                before = content(folder)
                more = ["--resume", "none"] if name == "loop" else []
                self.refused(self.train(SETTINGS, *more), f"{folder}/ckpt")
                self.assertEqual(content(folder), before)
                shutil.rmtree(folder)

    def test_a_finished_model_without_checkpoints_is_kept(self):
        folder = self.copy()
        shutil.rmtree(folder / "ckpt")
        before = content(folder)
        for more in ([], ["--resume", "none"]):
            self.refused(self.train({**SETTINGS, "optim.seed": 9}, *more), f"{folder}/model: a finished model")
            self.assertEqual(content(folder), before)

    def test_files_of_others_are_not_taken_for_logs(self):
        folder = Path(self.run_folder)
        folder.mkdir()
        for name, text in (("train.jsonl", '{"text": "words"}\n'), ("val.jsonl", '{"messages": []}'),
                           ("val.csv", "a,b\n1,2\n")):
            with self.subTest(name):
                (folder / name).write_text(text)
                self.refused(self.train(), f"{folder}/{name}: not the log of a run")
                self.assertEqual(content(folder), {name: text.encode()})
                (folder / name).unlink()

    def test_what_cannot_be_looked_at_is_passed_over(self):
        folder = self.copy()
        shutil.rmtree(folder / "ckpt/step-00000008")
        (folder / "ckpt/step-00000008").symlink_to("step-00000008")
        (folder / "ckpt/step-00000099").symlink_to("/nonexistent")
        (folder / "ckpt/latest").unlink()
        os.mkfifo(folder / "ckpt/latest")
        status, _, err = self.train()
        self.assertEqual(status, 0, err)
        for name in ("latest", "step-00000008", "step-00000099"):
            self.assertRegex(err, f"warning: .*ckpt/{name}: .*passed over")
        self.assertEqual((folder / "ckpt/latest").read_text(), "step-00000008\n")
        self.assertTrue((folder / "ckpt/step-00000008/DONE").exists())
        self.assertTrue((folder / "ckpt/step-00000099").is_symlink())
        self.assertEqual(rows(folder / "train.jsonl"), rows(Path(self.done) / "train.jsonl"))

    @unittest.skipIf(os.geteuid() == 0, "nothing is forbidden to root")
    def test_what_may_not_be_read_is_kept(self):
        folder = self.copy()
        (folder / "ckpt/step-00000008").chmod(0)
        status, _, err = self.train({**SETTINGS, "optim.steps": 9})
        self.assertEqual(status, 0, err)
        for step in (4, 8, 9):  # 8 is a new one: the run took its name
            (folder / f"ckpt/step-0000000{step}").chmod(0)
        self.refused(self.train({**SETTINGS, "optim.steps": 9}), "none of its checkpoints can be opened")
        (folder / "ckpt").chmod(0)
        self.refused(self.train({**SETTINGS, "optim.steps": 9}), "ckpt")
        (folder / "ckpt").chmod(0o755)

    def test_going_back_loses_nothing_before_the_next_checkpoint(self):
        folder = self.copy()
        before = content(folder)
        back = ["--resume", f"{folder}/ckpt/step-00000004", "--lr", "0.02"]
        process = self.start(LONG, *back)
        while process.poll() is None and "step 7/1000000" not in (folder / "log.txt").read_text():
            time.sleep(0.01)
        process.kill()
        process.communicate()
        after = content(folder)
        for name in before:
            if name not in ("run.toml", "env.json"):
                self.assertEqual(after[name], before[name], name)
        # Now it saves: what lay beyond goes, and the advice goes on from the new checkpoint.
        process = self.start({**LONG, "checkpoint.every": 3}, *back)
        while process.poll() is None and not (folder / "ckpt/step-00000006/DONE").exists():
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        status, _, err = self.end(process)
        self.assertEqual(status, 143, err)
        self.assertNotIn("--resume", err.split("to go on: ")[1])
        later = folder / "ckpt/step-00000008/state.json"
        self.assertTrue(not later.exists() or "lr = 0.02" in json.loads(later.read_text())["run"])
        steps = [row["step"] for row in rows(folder / "train.jsonl")]
        self.assertEqual(steps, list(range(1, len(steps) + 1)))
        old = rows(Path(self.done) / "train.jsonl")
        self.assertEqual(rows(folder / "train.jsonl")[:4], old[:4])
        self.assertNotEqual(rows(folder / "train.jsonl")[5], old[5])

    def test_the_second_trainer_names_the_first(self):
        process = self.start()
        try:
            self.refused(self.train(), self.run_folder, f"in use by process {process.pid} (hydralm train)")
        finally:
            process.send_signal(signal.SIGHUP)
            status, _, err = self.end(process)
        self.assertEqual(status, 143, err)  # as SIGTERM
        self.assertIn("checkpoint in", err)
        self.assertEqual(self.train({**LONG, "optim.steps": 1}, "--resume", "none")[0], 2)

    def test_files_that_change_under_a_run_end_it_with_their_name(self):
        for name, how in (("tokenizer.json", "other"), ("train-00001-of-00001.tok", "other"),
                          ("train-00001-of-00001.tok", "overwritten"), ("val-00001-of-00001.tok", "gone")):
            with self.subTest(f"{name} {how}"):
                data = f"{self.run_folder}-data"
                shutil.copytree(self.data, data)
                path = Path(data, name)
                process = self.start(data=data)
                os.utime(path)  # no change
                whole = path.read_bytes()
                if how == "gone":
                    path.unlink()
                elif how == "overwritten":
                    with open(path, "r+b") as file:  # the same file, as a program that does not rename writes it
                        file.seek(len(whole) - 1)
                        file.write(bytes([whole[-1] ^ 1]))
                else:
                    Path(f"{path}.new").write_bytes(whole[:-1] + b"\n\n")
                    os.rename(f"{path}.new", path)
                self.refused(self.end(process), name)
                self.assertFalse(Path(self.run_folder, "model").exists())
                # What was trained is saved, and goes on once the file is back.
                path.write_bytes(whole)
                step = int(Path(self.run_folder, "ckpt/latest").read_text()[5:])
                status, _, err = self.train({**LONG, "optim.steps": step + 1}, data=data)
                self.assertEqual(status, 0, err)
                self.assertEqual(Path(self.run_folder, "model/tokenizer.json").read_bytes(),
                                 Path(self.data, "tokenizer.json").read_bytes())
                shutil.rmtree(self.run_folder)
                shutil.rmtree(data)

    def test_other_data_of_the_same_counts_are_refused(self):
        folder, data = self.copy(), f"{self.run_folder}-data"
        text = Path(self.temporary.name, "text.jsonl").read_text().splitlines()
        moved = f"{self.run_folder}.jsonl"
        Path(moved).write_text("\n".join(reversed(text)) + "\n")
        must([HYDRALM, "data", "build", moved, "--tokenizer", f"{self.temporary.name}/tokenizer.json", "-o", data,
              "--val", "0.1"])
        counts = [json.loads(Path(at, "data.json").read_text())["train"] for at in (data, self.data)]
        self.assertEqual(*counts)
        before = content(folder)
        self.refused(self.train({**SETTINGS, "optim.steps": 9}, data=data), "made by another run: data")
        self.assertEqual(content(folder), before)

    def test_a_limit_on_file_sizes_is_a_full_disk(self):
        def limit():
            resource.setrlimit(resource.RLIMIT_FSIZE, (100000, 100000))

        command = train_command(TRAIN, self.data, self.run_folder, {**SETTINGS, "checkpoint.every": 2})
        status, _, err = run(command, preexec_fn=limit)
        self.assertEqual(status, 4, err)
        self.assertEqual(err.count("File too large"), 3, err)
        self.assertIn("all 6 steps are lost", err)
        self.assertFalse([str(path) for path in Path(self.run_folder).rglob("*.tmp-*")])
        # A stop that cannot be saved is no clean one.
        shutil.rmtree(self.run_folder)
        process = subprocess.Popen(train_command(TRAIN, self.data, self.run_folder, LONG), env=environment(),
                                   preexec_fn=limit, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        log = Path(self.run_folder, "train.jsonl")
        while process.poll() is None and not (log.exists() and log.stat().st_size > 0):
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        status, _, err = self.end(process)
        self.assertEqual(status, 4, err)
        self.assertRegex(err, r"hydralm: stopped at step \d+, and its checkpoint could not be written: all \d+ steps "
                              r"are lost")

    def test_a_log_of_words_that_cannot_be_written_warns_once(self):
        for make in (os.mkdir, os.mkfifo):
            Path(self.run_folder).mkdir()
            make(f"{self.run_folder}/log.txt")
            status, _, err = self.train()
            self.assertEqual(status, 0, err)
            self.assertEqual(err.count("log.txt"), 1, err)
            shutil.rmtree(self.run_folder)

    def test_a_pipe_in_place_of_a_log_is_refused(self):
        Path(self.run_folder).mkdir()
        os.mkfifo(f"{self.run_folder}/train.jsonl")
        self.refused(self.train(), "train.jsonl")

    def test_progress_that_nobody_reads_ends_no_run(self):
        command = train_command(TRAIN, self.data, self.run_folder, SETTINGS) + ["-v"]
        process = subprocess.Popen(command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stderr.close()
        process.stdout.read()
        process.stdout.close()
        self.assertEqual(process.wait(120), 0)
        self.assertTrue(Path(self.run_folder, "model/config.json").exists())


HYDRALM, TRAIN = sys.argv[1], sys.argv[2]
unittest.main(argv=sys.argv[:1])
