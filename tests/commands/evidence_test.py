# SPDX-License-Identifier: Apache-2.0
# ctest: torch slow timeout=900
# `hydralm evidence` from outside, with tiny models and runs: every experiment comes to a report; what was killed goes
# on to the same results; finished cells are kept; bad input is refused.
import csv
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import unittest
from pathlib import Path

HYDRALM = sys.argv[1] if len(sys.argv) > 1 else "build/release/hydralm"
TRAIN = sys.argv[2] if len(sys.argv) > 2 else "build/release/hydralm-train"
VERDICTS = {"holds", "does not hold", "undecided", "not learned", "not run", "void"}


def command(out, *words):
    return [HYDRALM, "evidence", *words, "--smoke", "-o", str(out), "--work", f"{out}/work"]


def run(out, *words, timeout=300):
    return subprocess.run(command(out, *words), capture_output=True, text=True, timeout=timeout)


def cells(out):
    """The finished cells by name."""
    return {path.stem: json.loads(path.read_text()) for path in Path(out, "smoke/cells").glob("*.json")}


def without_clocks(result):
    return {key: value for key, value in result.items() if key != "train_seconds"}


class EvidenceTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.out = f"{cls.temporary.name}/all"
        cls.done = run(cls.out, "all", "--seeds", "2", "--json")

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def test_every_experiment_comes_to_a_report(self):
        self.assertEqual(self.done.returncode, 0, self.done.stderr)
        summary = json.loads(self.done.stdout)
        self.assertEqual((summary["done"], summary["failed"]), (summary["cells"], 0))
        self.assertGreater(summary["cells"], 60)
        self.assertEqual(len(cells(self.out)), summary["cells"])
        for claim in summary["claims"]:
            self.assertIn(claim["verdict"], VERDICTS - {"not run"}, claim)
        folder = Path(self.out, "smoke")
        page = (folder / "README.md").read_text()
        for title in ("12.1", "12.2", "12.3", "12.4", "12.5", "12.6"):
            self.assertIn(f"## {title} ", page)
        self.assertIn("a test of the machinery", page.lower())
        self.assertEqual(json.loads((folder / "verdicts.json").read_text()), summary["claims"])
        html = (folder / "report.html").read_text()
        for name in ("throughput", "chaining", "recall", "facts", "experts", "routing"):
            with open(folder / f"{name}.csv", encoding="utf-8") as table:
                self.assertGreater(len(list(csv.reader(table))), 3)
        for name in ("throughput-prefill", "throughput-decode", "chaining", "recall", "facts", "experts", "routing"):
            self.assertTrue((folder / f"plots/{name}.png").read_bytes().startswith(b"\x89PNG"), name)
            self.assertIn("<svg", (folder / f"plots/{name}.svg").read_text())
            self.assertIn(f"plots/{name}.svg", page)
        self.assertEqual(html.count("<img "), 7)

    def test_equal_seeds_see_equal_tokens(self):
        tokens = {}
        for cell in cells(self.out).values():
            if cell["settings"].get("kind") == "seed":
                key = cell["cell"].split("-")[0], cell["settings"]["seed"]
                tokens.setdefault(key, set()).add(cell["result"]["tokens"])
        self.assertEqual({len(of_key) for of_key in tokens.values()}, {1})
        self.assertEqual(len(tokens), 5 * 2)

    def test_finished_cells_are_kept_and_others_made_anew(self):
        before = {name: cell["about"] for name, cell in cells(self.out).items()}
        path = Path(self.out, "smoke/cells/chaining-hydra-seed-1.json")
        cell = json.loads(path.read_text())
        times = {p: p.stat().st_mtime_ns for p in path.parent.glob("*.json")}
        cell["settings"]["steps"] = 7
        path.write_text(json.dumps(cell))
        done = run(self.out, "chaining", "--seeds", "2")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("| 12.2 Following links | 20 | 19 |", done.stdout)
        self.assertEqual(json.loads(path.read_text())["settings"]["steps"], 8)
        changed = [p for p, at in times.items() if p.stat().st_mtime_ns != at]
        self.assertEqual(changed, [path])
        self.assertEqual(set(before), set(cells(self.out)))

    def test_a_plan_is_printed_and_nothing_run(self):
        with tempfile.TemporaryDirectory() as out:
            done = run(out, "recall", "--dry-run")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertRegex(done.stdout, r"\| 12\.3 Recall beyond the window \| 20 \| 0 \| \d+\.\d\d \|")
            self.assertRegex(done.stdout, r"about \d+\.\d\d hours left; the longest cell takes about \d+ minutes")
            self.assertEqual(os.listdir(out), [])
            full = subprocess.run([HYDRALM, "evidence", "all", "--dry-run", "--json", "-o", out], capture_output=True,
                                  text=True, timeout=120)
            plan = json.loads(full.stdout)
            self.assertGreater(plan["cells"], 100)
            self.assertGreater(plan["hours"], 1)

    def test_page_alone_says_what_is_not_run(self):
        with tempfile.TemporaryDirectory() as out:
            done = run(out, "facts", "--page")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertIn("not run", done.stdout)
            self.assertIn("0 of 15 cells are there", Path(out, "smoke/README.md").read_text())

    def test_what_was_killed_goes_on_to_the_same_results(self):
        with tempfile.TemporaryDirectory() as out:
            words = ("chaining", "--seeds", "2", "--only", "hydra")
            deadline = time.monotonic() + 240
            killed = 0
            while True:
                # Longer each time, so that a slow machine comes to an end, too.
                process = subprocess.Popen(command(out, *words), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                try:
                    process.wait(timeout=2 + 1.5 * killed)
                    break
                except subprocess.TimeoutExpired:
                    process.send_signal(signal.SIGKILL)
                    process.wait()
                    killed += 1
                self.assertLess(time.monotonic(), deadline)
            self.assertEqual(process.returncode, 0)
            self.assertGreaterEqual(killed, 1)
            got, want = cells(out), cells(self.out)
            self.assertEqual(len(got), 8)
            for name, cell in got.items():
                self.assertEqual(without_clocks(cell["result"]), without_clocks(want[name]["result"]), name)

    def test_a_stop_leaves_checkpoints_and_says_so(self):
        with tempfile.TemporaryDirectory() as out:
            process = subprocess.Popen(command(out, "facts", "--seeds", "1"), stdout=subprocess.DEVNULL,
                                       stderr=subprocess.PIPE, text=True)
            time.sleep(2)
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=60)
            self.assertEqual(process.returncode, 143, err)
            self.assertIn("stopping: cells keep their checkpoints", err)

    def test_minutes_take_as_many_cells_as_fit(self):
        with tempfile.TemporaryDirectory() as out:
            done = run(out, "throughput", "--minutes", "0.000001")
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(cells(out), {})

    def test_bad_input_is_refused_in_one_line(self):
        for words, pattern in ((("chainin",), r"unknown experiment chainin \(did you mean chaining\?\)"),
                               (("--cell", "nothing"), "--cell nothing: no such cell"),
                               (("--minutes", "-1"), "--minutes: must not be negative"),
                               (("--device", "tpu"), "--device tpu"),
                               (("--seeds", "0"), r"--seeds 0: must be 1\.\.64")):
            with tempfile.TemporaryDirectory() as out:
                done = run(out, *words)
                self.assertEqual(done.returncode, 2, done)
                self.assertRegex(done.stderr, pattern)
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_two_at_once_are_refused(self):
        with tempfile.TemporaryDirectory() as out:
            first = subprocess.Popen(command(out, "facts", "--seeds", "1"), stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 60
            while not Path(out, "work/smoke/.lock").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            second = run(out, "facts", "--seeds", "1")
            self.assertEqual(second.returncode, 2)
            self.assertRegex(second.stderr, r"in use by process \d+ \(hydralm evidence\)")
            first.send_signal(signal.SIGTERM)
            first.wait(timeout=60)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
