# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=600
# --plan on the verbs that run a model, and the tasks of `hydralm eval` that are the runtime's: what they print, count,
# keep and refuse. Not here: how plans are found (hydralm plan), numbers of rings (hydra/runtime/plan_test.cc).
import hashlib
import json
import math
import os
import random
import sys
import tempfile
import unittest
from pathlib import Path

import numpy

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import VOCAB, make_model, make_text, make_tokenizer, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
PROMPT = make_text(5, 40)
LONG = make_text(6, 150)
ROW = 2 * 8 * 2  # bytes of a key and a value of 8 numbers in f16
# Two layers of two KV heads: 128 rows, 192, half and all of the text.
ALPHAS, BETAS = [[0, 192], [0, 0]], [[0, 0], [0.5, 1]]


def span(alpha, beta, n):
    """specs/moa.md 1 for blocks and sinks of 64."""
    blocks = math.ceil(max(math.floor(alpha + beta * n), 128) / 64)
    return 64 * min(blocks, max(2, math.ceil(n / 64)))


def rows(n):
    return sum(span(a, b, n) for al, be in zip(ALPHAS, BETAS) for a, b in zip(al, be))


class Plans(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name)
        cls.tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.model = make_model(HYDRALM, cls.folder / "llama", "llama", cls.tokenizer, max_position_embeddings=1024)
        cls.other = make_model(HYDRALM, cls.folder / "other", "llama", cls.tokenizer, num_hidden_layers=3)
        cls.hydra = make_model(HYDRALM, cls.folder / "hydra", "hydra", cls.tokenizer, sliding_window=128)
        cls.plan = cls.write("plan.json", ALPHAS, BETAS)
        cls.dense = cls.write("all.json", [[0, 0], [0, 0]], [[1, 1], [1, 1]])
        cls.narrow = cls.write("narrow.json", [[0, 0], [0, 0]], [[0, 0], [0, 0]])

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    @classmethod
    def write(cls, name, alphas, betas):
        path = cls.folder / name
        path.write_text(json.dumps({"alphas": alphas, "betas": betas}))
        return str(path)

    def verb(self, name, *flags, model=None, **options):
        return run(HYDRALM, *name.split(), "-m", model or self.model, *map(str, flags), **options)

    def done(self, *args, **options):
        got = self.verb(*args, **options)
        self.assertEqual(got.returncode, 0, got)
        return got.stdout

    def generate(self, *flags, **options):
        return self.done("generate", "-q", "--temp", "0", *flags, **options)

    def refuse(self, got, *parts):
        self.assertEqual(got.returncode, 2, got)
        self.assertEqual(got.stderr.count("\n"), 1, got.stderr)
        for part in parts:
            self.assertIn(part, got.stderr)

    def path(self, name):
        return str(self.folder / f"{self.id().split('.')[-1]}-{name}")

    # ---- generate, chat, state, xray ----

    def test_the_dense_plan_writes_what_the_model_writes(self):
        text = self.generate("-p", LONG, "-n", 40)
        self.assertEqual(self.generate("-p", LONG, "-n", 40, "--plan", self.dense), text)
        self.assertNotEqual(self.generate("-p", LONG, "-n", 40, "--plan", self.narrow), text)
        for flags in (["-t", "2"], ["--spec", "ngram"]):
            self.assertEqual(self.generate("-p", LONG, "-n", 40, "--plan", self.plan, *flags),
                             self.generate("-p", LONG, "-n", 40, "--plan", self.plan))

    def test_what_a_plan_keeps_is_said(self):
        made = json.loads(self.done("generate", "-p", LONG, "-n", 40, "--plan", self.plan, "--temp", "0", "--json"))
        n = 64 * math.ceil((made["prompt_tokens"] + 40) / 64)
        self.assertEqual(made["plan"]["length"], n)
        self.assertEqual(made["plan"]["kv_bytes"], ROW * rows(n))
        self.assertAlmostEqual(made["plan"]["density"], rows(n) / (4 * n))
        got = self.verb("generate", "-p", LONG, "-n", 2, "--plan", self.plan)
        self.assertRegex(got.stderr, r"(?m)^plan +plan at N \d+: 0\.\d+ of the keys and values, 0\.\d of 0\.\d MiB$")
        self.assertNotIn("\nplan ", self.verb("generate", "-p", LONG, "-n", 2).stderr)

    def test_states_go_on_under_their_plan_and_length(self):
        kept, whole = self.path("a.state"), self.path("b.state")
        text = self.generate("-p", PROMPT, "-n", 60, "--plan", self.plan, "--state-save", whole)
        first = self.generate("-p", PROMPT, "-n", 25, "--plan", self.plan, "--state-save", kept)
        second = self.generate("--state-load", kept, "-n", 35, "--plan", self.plan, "--state-save", whole)
        self.assertEqual(first[:-1] + second, text)
        shown = json.loads(self.done("state show", kept, "--plan", self.plan, "--json"))
        self.assertEqual(shown["kv_plan_length"], 1024)
        self.assertRegex(shown["kv_plan"], r"^plan [0-9a-f]{16}$")
        self.refuse(self.verb("generate", "--state-load", kept, "-n", 2), "kv_plan", 'this run has ""')
        self.refuse(self.verb("generate", "--state-load", kept, "-n", 2, "--plan", self.narrow), "kv_plan")
        self.refuse(self.verb("generate", "--state-load", kept, "-n", 2, "--plan", self.plan, "-c", 512),
                    "kv_plan_length = 1024: --ctx-size is 512")

    def test_chat_and_xray_follow_it(self):
        lines = "hello\nand more\n/stats\n"
        flags = ["--chat-template", "plain", "--temp", "0", "-n", "20", "-q"]
        plain = self.done("chat", *flags, input=lines)
        self.assertEqual(self.done("chat", *flags, "--plan", self.dense, input=lines), plain)
        seen = json.loads(self.done("xray", "-p", LONG, "-n", 3, "--temp", "0", "--json", "--plan", self.narrow))
        full = json.loads(self.done("xray", "-p", LONG, "-n", 3, "--temp", "0", "--json"))
        self.assertEqual(len(seen["tokens"]), len(full["tokens"]))
        late = -4  # a token of the prompt's end: it reads 128 rows a head, not all
        self.assertLess(seen["tokens"][late]["bytes"], full["tokens"][late]["bytes"])

    def test_hydras_windows(self):
        plan = self.write("hydra.json", [[], [64, 0], []], [[], [0, 0], []])
        text = self.generate("-p", LONG, "-n", 20, "--plan", plan, model=self.hydra)
        self.assertTrue(text.startswith(LONG))
        whole = self.write("hydra_all.json", [[], [0, 0], []], [[], [1, 1], []])
        self.assertEqual(self.generate("-p", LONG, "-n", 20, "--plan", whole, model=self.hydra),
                         self.generate("-p", LONG, "-n", 20, model=self.hydra))

    # ---- bench, inspect ----

    def test_bench_counts(self):
        flags = ["-p", 300, "-n", 4, "-d", "0,600", "-b", "1,2", "-r", 1, "--no-limits", "-o", "json", "-q"]
        made = json.loads(self.done("bench", *flags, "--plan", self.plan))
        plain = json.loads(self.done("bench", *flags))
        for row, other in zip(made, plain):
            n = min(900, 64 * math.ceil((row["d"] + max(row["p"], row["n"])) / 64))  # 900: room for the longest test
            self.assertEqual(row["plan"]["length"], n)
            self.assertEqual(row["kv_bytes"], row["b"] * ROW * rows(n))
            self.assertNotIn("plan", other)
            spans = [span(a, b, n) for al, be in zip(ALPHAS, BETAS) for a, b in zip(al, be)]
            if row["n"]:
                read = sum(min(s, row["d"] + 1 + t) for s in spans for t in range(4)) / 4
                self.assertAlmostEqual(row["bytes_per_tok"]["kv"], ROW * (read + 4), places=6)
            else:
                self.assertLessEqual(row["key_tiles"], other["key_tiles"])
                if (row["d"], row["b"]) == (0, 1):  # of two prompts one is cut inside a tile
                    tiles = 0
                    for s in spans:
                        m = (s - 64) // 64
                        tiles += sum((q > 0) + min(q + (q == 0), m + 1) for q in range(math.ceil(row["p"] / 64)))
                    self.assertEqual(row["key_tiles"], tiles)
        table = self.done("bench", "-p", 0, "-n", 4, "-r", 1, "-q", "--plan", self.plan).splitlines()
        self.assertIn("| plan | density | KV MiB |", table[0])
        self.assertEqual({line.count("|") for line in table[:3]}, {table[0].count("|")})
        csv = self.done("bench", "-p", 16, "-n", 4, "-r", 1, "-q", "--plan", self.plan, "-o", "csv").splitlines()
        self.assertEqual({len(line.split(",")) for line in csv}, {len(csv[0].split(","))})
        self.refuse(self.verb("bench", "--spec", "ngram", "--plan", self.plan), "--plan: not with --spec")

    def test_inspect_counts(self):
        made = json.loads(self.done("inspect", "-c", 1024, "--batch", 3, "--plan", self.plan, "--json"))
        self.assertEqual(made["bytes"]["kv"], 3 * ROW * rows(1024))
        self.assertEqual(made["plan"]["kv_bytes"], ROW * rows(1024))
        plain = json.loads(self.done("inspect", "-c", 1024, "--json"))
        self.assertLess(made["flops"]["attention"], plain["flops"]["attention"])
        self.assertRegex(self.done("inspect", "-c", 1024, "--plan", self.plan), r"(?m)^plan +plan at N 1024: ")

    def test_plans_of_other_models_are_refused(self):
        self.refuse(self.verb("generate", "-p", PROMPT, "--plan", self.plan, model=self.other), "plan.json",
                    "n_layers = 3")
        self.refuse(self.verb("generate", "-p", PROMPT, "--plan", self.folder / "none.json"), "none.json")
        self.refuse(self.verb("generate", "-p", PROMPT, "--head-spans", "own"), "--head-spans own: needs --plan")
        self.refuse(self.verb("generate", "-p", PROMPT, "--head-spans", "own", "--plan", self.plan), "must be head")
        self.refuse(self.verb("bench", "-n", 1, "--plan", self.plan, model=self.other), "plan.json")
        self.refuse(self.verb("inspect", "--plan", self.plan, model=self.other), "plan.json")

    # ---- eval ----

    def items(self, name, length=256, haystacks=3, questions=2, seed=1):
        """An item file of random tokens: groups that share a beginning, answers that a model may or may not give."""
        rng = random.Random(seed)
        draw = lambda n: [rng.randrange(3, VOCAB) for _ in range(n)]  # noqa: E731
        digest = hashlib.sha256(Path(self.tokenizer).read_bytes()).hexdigest()
        lines = [{"format": "hydralm-items/1", "tokenizer_sha256": digest, "model_sha256": "", "split": "test",
                  "seed": seed, "lengths": [length], "settings": {}}]
        for haystack in range(haystacks):
            for kind in ("lookup", "copy"):
                shared = draw(length - 60)
                for question in range(questions):
                    prompt, answer = shared + draw(20 + question), draw(5)
                    lines.append({"id": f"{kind}-{haystack}-{question}", "kind": kind, "length": length,
                                  "ids": prompt + answer, "answer": [len(prompt), len(prompt) + 5], "gold": answer,
                                  "group": f"{kind}-{haystack}", "prefix": len(shared), "depth": question / questions,
                                  "dense_nll": 0, "dense_right": False, "docs": []})
        path = self.path(name)
        Path(path).write_text("".join(json.dumps(line) + "\n" for line in lines))
        return path

    def test_retrieval(self):
        data, kept = self.items("items.jsonl"), self.path("rows.jsonl")
        flags = ["retrieval", "--data", data, "--plan", f"dense,{self.narrow}", "--draws", 200]
        made = json.loads(self.done("eval", *flags, "--json", "-o", kept))
        self.assertEqual([plan["name"] for plan in made["plans"]], ["dense", "narrow"])
        self.assertEqual((made["items"][0]["n"], made["items"][0]["seed"], made["items"][0]["split"]), (12, 1, "test"))
        for plan, density in zip(made["plans"], (1, 128 / 256)):
            self.assertEqual([(cell["kind"], cell["n"], cell["haystacks"]) for cell in plan["cells"]],
                             [("copy", 6, 3), ("lookup", 6, 3)])
            for cell in plan["cells"]:
                self.assertEqual((cell["length"], cell["density"]), (256, density))
                for key in ("accuracy", "nll", "lead"):
                    low, mean, high = (cell[key][k] for k in ("low", "mean", "high"))
                    self.assertLessEqual(low, mean + 1e-12)
                    self.assertLessEqual(mean, high + 1e-12)
                self.assertEqual(cell["choice_chance"], 0.5)
                self.assertEqual(sum(depth["n"] for depth in cell["by_depth"]), 6)
        self.assertEqual(made["plans"][0]["cells"][1]["accuracy_chance"], 1e-5)
        self.assertTrue(all(cell["lead"]["mean"] == 0 for cell in made["plans"][0]["cells"]))
        self.assertNotEqual(*[plan["cells"][0]["nll"]["mean"] for plan in made["plans"]])
        # The rows are there: a second run takes them, and one that was cut off goes on.
        lines = Path(kept).read_text().splitlines()
        self.assertEqual(len(lines), 24)
        again = json.loads(self.done("eval", *flags, "--json", "-o", kept))
        self.assertEqual(again["plans"], made["plans"])
        Path(kept).write_text("\n".join(lines[:7]) + "\n")
        self.assertEqual(json.loads(self.done("eval", *flags, "--json", "-o", kept))["plans"], made["plans"])
        self.assertEqual(sorted(Path(kept).read_text().splitlines()), sorted(lines))
        table = self.done("eval", *flags).splitlines()
        self.assertEqual(len([line for line in table if line.startswith("|")]), 2 + 4)
        Path(kept).write_text("{}\n")
        self.refuse(self.verb("eval", *flags, "-o", kept), "rows.jsonl:1: nll is missing")

    def test_answers(self):
        data = self.items("items.jsonl")
        folder = Path(self.path("plans"))
        folder.mkdir()
        for name, alphas in (("one", [[0, 0], [0, 0]]), ("two", [[128, 192], [0, 0]])):
            (folder / f"{name}.json").write_text(json.dumps({"alphas": alphas, "betas": [[0, 0], [0, 0]]}))
        chosen = self.path("chosen.json")
        made = json.loads(self.done("eval", "answers", "--data", data, "--plans", folder, "--choose", chosen, "--json"))
        self.assertEqual([plan["name"] for plan in made["plans"]], ["dense", "one", "two"])
        dense, one, two = made["plans"]
        self.assertEqual(dense["above_first"], 0)
        for plan in (one, two):
            self.assertAlmostEqual(plan["above_first"], plan["loss"] - dense["loss"], places=9)
            self.assertAlmostEqual(plan["loss"], sum(plan["by_kind"].values()) / 2, places=9)
            self.assertEqual(set(plan["by_length"]), {"256"})
        self.assertEqual(made["chosen"], min((one, two), key=lambda plan: plan["loss"])["name"])
        written = json.loads(Path(chosen).read_text())
        self.assertEqual(written["validation"]["length"], 256)
        self.assertAlmostEqual(written["validation"]["dense"], dense["loss"], places=9)
        self.done("generate", "-p", PROMPT, "-n", 2, "-q", "--plan", chosen)

    def test_perplexity_of_the_tail(self):
        text = self.path("text.txt")
        Path(text).write_text(make_text(9, 2500))
        flags = ["ppl", "-f", text, "-c", 512, "--json", "--draws", 100]
        made = json.loads(self.done("eval", *flags, "--plan", f"dense,{self.dense},{self.narrow}", "--tail", "0.25"))
        dense, same, narrow = made["plans"]
        self.assertEqual(dense["tokens"], dense["chunks"] * 127)
        self.assertAlmostEqual(same["perplexity"], dense["perplexity"], delta=1e-3 * dense["perplexity"])
        self.assertAlmostEqual(narrow["ratio"]["mean"], math.exp(narrow["loss"] - dense["loss"]), places=6)
        self.assertNotEqual(narrow["perplexity"], dense["perplexity"])
        half = json.loads(self.done("eval", *flags, "--tail", "0.5"))["plans"][0]
        bench = json.loads(self.done("bench", "--ppl", text, "-c", 512, "--add-special", "off", "-o", "json", "-q"))[0]
        self.assertAlmostEqual(half["perplexity"], bench["perplexity"]["value"], places=6)

    def test_choices_are_scored_behind_their_contexts(self):
        words = make_text(11, 400).split()
        questions = [{"context": " ".join(words[i:i + 6]) + " " * (i % 2), "choices": words[i + 6:i + 9],
                      "answer": i % 3} for i in range(0, 24, 3)]
        questions.append({"context": "", "choices": ["a b", "c"], "answer": 1})
        questions[1]["delimiter"] = "\n"
        path = self.path("questions.jsonl")
        Path(path).write_text("".join(json.dumps(question) + "\n" for question in questions))
        made = json.loads(self.done("eval", "choice", path, "--json"))["plans"][0]
        self.assertEqual(len(made["questions"]), len(questions))
        encode = lambda text: [int(i) for i in run(HYDRALM, "tokenizer", "encode", "-m", self.tokenizer,  # noqa: E731
                                                   input=text).stdout.split()]
        right = {"acc": 0, "acc_norm": 0}
        for question, got in zip(questions, made["questions"]):
            context = question["context"].rstrip()
            behind = question["context"][len(context):] + question.get("delimiter", " ")
            want = []
            for choice, found in zip(question["choices"], got["logprobs"]):
                ids = encode(context + behind + choice)
                begin = len(encode(context)) if context else 0
                if not context:
                    ids, begin = encode("<|endoftext|>") + ids, 1  # bos
                out = self.path("logits.npy")
                self.done("logits", "--ids", ",".join(map(str, ids)), "-o", out)
                logits = numpy.load(out).astype(float)
                logits -= logits.max(axis=1, keepdims=True)
                logprobs = logits - numpy.log(numpy.exp(logits).sum(axis=1, keepdims=True))
                want.append(sum(logprobs[i - 1, ids[i]] for i in range(begin, len(ids))))
                self.assertAlmostEqual(found, want[-1], delta=1e-3)
            lengths = [len(choice) for choice in question["choices"]]
            self.assertEqual(got["right"], max(range(len(want)), key=lambda i: want[i]) == question["answer"])
            by_length = max(range(len(want)), key=lambda i: want[i] / lengths[i])
            self.assertEqual(got["right_by_characters"], by_length == question["answer"])
            right["acc"] += got["right"]
            right["acc_norm"] += got["right_by_characters"]
        for name, n in right.items():
            self.assertAlmostEqual(made[name], n / len(questions))
        self.assertAlmostEqual(made["chance"], (8 / 3 + 1 / 2) / 9)
        rows_ = self.done("eval", "choice", "-f", path, "--plan", f"dense,{self.narrow}").splitlines()
        self.assertEqual(len(rows_), 2 + 2)

    def test_bad_questions_are_refused_with_their_line(self):
        good = {"context": "a", "choices": ["b", "c"], "answer": 0}
        for change, words in (({"answer": 2}, ["answer = 2", "must be 0 to 1"]), ({"choices": ["b"]}, ["two or more"]),
                              ({"choices": ["b", ""]}, ["choices[1] is empty"]), ({"context": 3}, ["context"]),
                              ({"answer": "b"}, ["answer"])):
            path = self.path("bad.jsonl")
            Path(path).write_text(f"{json.dumps(good)}\n{json.dumps({**good, **change})}\n")
            self.refuse(self.verb("eval", "choice", path), "bad.jsonl:2", *words)
        Path(path).write_text("\n")
        self.refuse(self.verb("eval", "choice", path), "has no questions")
        self.refuse(self.verb("eval", "choice"), "give FILE.jsonl")
        Path(path).write_text(json.dumps({**good, "context": "a " * 2000}) + "\n")
        self.refuse(self.verb("eval", "choice", path), "--ctx-size 1024", "bad.jsonl:1", "needs")

    def test_what_eval_refuses(self):
        data = self.items("items.jsonl")
        refuse = lambda parts, *flags: self.refuse(self.verb("eval", *flags), *parts)  # noqa: E731
        refuse(["give --data"], "retrieval")
        refuse(["unknown task retrievel", "did you mean retrieval"], "retrievel", "--data", data)
        refuse(["--tail", "has no meaning"], "answers", "--data", data, "--tail", "0.5")
        refuse(["--choose", "has no meaning"], "retrieval", "--data", data, "--choose", "x.json")
        refuse(["--choose", "no plan"], "answers", "--data", data, "--choose", self.path("x.json"))
        refuse(["--tail 2", "at most 1"], "ppl", "-f", self.tokenizer, "--tail", "2")
        refuse(["--data", "has no meaning"], "ppl", "--data", data, "--plan", self.plan)
        refuse(["give -f"], "ppl", "--plan", self.plan)
        refuse(["a name is missing"], "retrieval", "--data", data, "--plan", f"dense,,{self.plan}")
        refuse(["--draws", "retrieval and answers"], "controls", "--data", data, "--draws", "10")
        refuse(["--ctx-size 128", "needs"], "retrieval", "--data", data, "-c", "128")
        refuse(["has the items of"], "retrieval", "--data", data, "--data", data)
        lines = Path(data).read_text().splitlines()
        other = json.loads(lines[0])
        other["tokenizer_sha256"] = "0" * 64
        bad = self.path("bad.jsonl")
        Path(bad).write_text("\n".join([json.dumps(other)] + lines[1:]) + "\n")
        refuse(["bad.jsonl", "tokenizer_sha256"], "retrieval", "--data", bad)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
