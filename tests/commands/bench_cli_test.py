# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=600
# `hydralm bench` from outside: its rows and formats, what it counts, what it refuses. Not here: speed (bench/).
import json
import signal
import subprocess
import sys
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from runtime_case import HYDRALM, RuntimeTest  # noqa: E402
from tiny_models import make_text, run  # noqa: E402


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
            flops = {"gflop_per_s", "peak_gflop_per_s", "key_tiles"} if r["p"] else set()
            self.assertEqual(
                set(r), {
                    "model", "params", "file_bytes", "threads", "target", "kernels", "p", "n", "d", "b", "provisional",
                    "tok_per_s", "samples", "bytes_per_tok", "kv_bytes", "gb_per_s", "read_gb_per_s"} | flops)
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
            self.done("bench", "llama", "-p", "0", "-n", "2", "-d", "0,100", "-r", "1", "--no-limits", "-o", "json",
                      "-q"))
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

    def test_limits_are_left_unmeasured(self):
        flags = ("-p", "8", "-n", "2", "-r", "1", "--no-limits", "-q")
        for row in json.loads(self.done("bench", "llama", *flags, "-o", "json")):
            self.assertGreater(row["gb_per_s"], 0)
            self.assertFalse({"read_gb_per_s", "peak_gflop_per_s"} & set(row), row)
        prompt, steps = self.done("bench", "llama", *flags).splitlines()[2:]
        self.assertRegex(prompt, r"\| [\d.]+ \|  \| [\d.]+ \|  \| F32 rows x f32 \|$")
        self.assertRegex(steps, r"\| [\d.]+ \|  \|  \|  \| F32 rows x f32 \|$")
        head, *rows = (line.split(",") for line in self.done("bench", "llama", *flags, "-o", "csv").splitlines())
        for name in ("read_gb_per_s", "peak_gflop_per_s"):
            self.assertEqual([row[head.index(name)] for row in rows], ["", ""])

    def test_presets_with_random_weights(self):
        for kind, word in (("f32", "F32"), ("q8_0", "Q8_0")):
            got = run(HYDRALM, "bench", "--preset", "hydra-nano", "--type", kind, "-p", "8", "-n", "2", "-r", "1",
                      "--no-limits", "-o", "json")
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
            self.done("bench", "llama", "-p", "4", "-n", "2", "-r", "3", "-t", "1", "--no-limits", "-o", "json", "-q",
                      "--compare-cmd", command))
        for r in rows:
            self.assertEqual(r["compare"]["tok_per_s"], {"mean": 250.5, "median": 250.5, "min": 250.5, "max": 250.5})
            self.assertAlmostEqual(r["compare"]["ratio"], r["tok_per_s"]["median"] / 250.5)
        self.assertEqual(Path(log).read_text().split(), ["4-0-1"] * 4 + ["0-2-1"] * 4)  # a warm-up, then one each time
        Path(log).unlink()
        self.done("bench", "llama", "-p", "4", "-n", "2", "-r", "3", "-t", "1", "--no-limits", "-o", "json", "-q",
                  "--interleave", "--compare-cmd", command)
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
        self.assertRegex(
            json.loads(got.stdout.splitlines()[0])["pattern"], "^[14] streams?(, [0-9]+ bytes ahead( and [0-9]+)?)?$")

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

    def test_guesses_beside_plain_decoding(self):
        text = Path(self.path("repeats"))
        text.write_text(make_text(4, 12) * 20)
        for drafter in ("ngram", self.models["llama"]):
            with self.subTest(drafter=drafter):
                row, = json.loads(self.done(
                    "bench", "llama", "--spec", drafter, "--spec-text", str(text), "-p", "48", "-n", "40", "-r", "2",
                    "-o", "json", "-q"))
                self.assertEqual((row["p"], row["n"], row["text"]), (48, 40, str(text)))
                self.assertEqual((len(row["tok_per_s"]), len(row["plain_tok_per_s"])), (2, 2))
                made = row["speculation"]
                self.assertEqual(made["tokens"], 40)
                self.assertLessEqual(made["passes"], 40)
                self.assertGreater(made["bytes_per_token"], 0)
                self.assertTrue(all(right <= tried for right, tried in zip(made["right"], made["tried"])))
                if drafter == "ngram":  # the model's text repeats itself
                    self.assertGreater(sum(made["right"]), 0)
        # The last drafter is the model itself: all its guesses are right. It may be left alone, as slow as the model.
        self.assertEqual(made["right"], made["tried"])
        table = self.done("bench", "hydra", "--spec", "self", "-p", "16", "-n", "8", "-r", "1", "-q")
        self.assertIn("| tg8 after 16 |", table)

    def test_what_does_not_go_with_guesses(self):
        for flag in ("-d", "-b", "--provisional"):
            self.refuse(self.verb("bench", "llama", "--spec", "ngram", flag, "4"), f"{flag}: not with --spec")
        for flag in ("--interleave", "--profile", "--no-limits", "--stream"):
            self.refuse(self.verb("bench", "llama", "--spec", "ngram", flag), f"{flag}: not with --spec")
        self.refuse(self.verb("bench", "llama", "--spec-text", "x"), "--spec-text is for --spec")
        short = Path(self.path("few"))
        short.write_text("a b c")
        self.refuse(self.verb("bench", "llama", "--spec", "ngram", "--spec-text", str(short), "-q"),
                    rf"--spec-text {short}: it has \d+ tokens: -p wants 512")
        self.refuse(self.verb("bench", "llama", "--spec", "", "-q"), "--spec: must be off, ngram, self or a model")
        self.refuse(self.verb("bench", "llama", "--spec", "self", "-p", "8", "-q"), "--spec self: this model has no")

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


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
