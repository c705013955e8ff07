# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=600
# From a model to a plan, from outside: data items, profile, plan. What they write, show, go on with and refuse. Not
# here: running plans (span_plans_test.py), numbers of the statistics and the planner (hydra/eval and hydra/moa tests).
import hashlib
import json
import os
import re
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import make_model, make_text, make_tokenizer, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
TRAIN = sys.argv[2] if len(sys.argv) > 2 else ""
LENGTHS = "1024,2048"


class PlanTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.models = {
            "llama": make_model(HYDRALM, f"{cls.folder}/llama", "llama", cls.tokenizer, max_position_embeddings=4096),
            "hydra": make_model(HYDRALM, f"{cls.folder}/hydra", "hydra", cls.tokenizer, sliding_window=2048),
            "mamba2": make_model(HYDRALM, f"{cls.folder}/mamba2", "mamba2", cls.tokenizer)}
        texts = Path(f"{cls.folder}/texts")
        texts.mkdir()
        for i in range(12):
            sentences = make_text(100 + i, 3000).split()
            (texts / f"book{i}.txt").write_text("".join(
                word + (". " if n % 9 == 8 else " ") for n, word in enumerate(sentences)))
        cls.texts = str(texts)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def path(self, name):
        return f"{self.folder}/{self.id().split('.')[-1]}-{name}"

    def verb(self, *words, **options):
        return run(HYDRALM, *[self.models.get(word, str(word)) for word in words], **options)

    def done(self, *words, **options):
        got = self.verb(*words, **options)
        self.assertEqual(got.returncode, 0, got)
        return got.stdout

    def refuse(self, got, *words):
        self.assertEqual(got.returncode, 2, got)
        self.assertEqual(got.stderr.count("\n"), 1, got.stderr)
        for word in words:
            self.assertIn(word, got.stderr)

    def ask(self, out, *flags, model="llama", lengths=LENGTHS, items=4):
        """A file of items; a model of random weights answers nothing right, so that all are kept."""
        return self.verb("data", "items", "-m", model, "--text", self.texts, "--lengths", lengths, "--items", items,
                         "--keep", "all", "--form", "raw", "-o", out, *flags)

    def items(self, *args, **options):
        got = self.ask(*args, **options)
        self.assertEqual(got.returncode, 0, got)
        return got.stdout


class Items(PlanTest):
    def test_a_file_of_items(self):
        out = self.path("items.jsonl")
        shown = json.loads(self.items(out, "--kinds", "copy,lookup", "--json"))
        lines = [json.loads(line) for line in Path(out).read_text().splitlines()]
        head, items = lines[0], lines[1:]
        self.assertEqual(head["format"], "hydralm-items/1")
        self.assertEqual((head["split"], head["lengths"]), ("calib", [1024, 2048]))
        self.assertEqual(head["tokenizer_sha256"], hashlib.sha256(Path(self.tokenizer).read_bytes()).hexdigest())
        self.assertEqual(shown["items"], len(items))
        self.assertEqual(len(items), 8)
        for item in items:
            begin, end = item["answer"]
            self.assertEqual(begin, item["length"] - 128)
            self.assertEqual(len(item["ids"]), end)
            self.assertEqual(item["ids"][begin:end], item["gold"])
            self.assertLessEqual(item["prefix"], begin)
            self.assertGreater(item["dense_nll"], 0)
        # Kinds change sides between the halves of even and odd numbers.
        self.assertEqual([item["kind"] for item in items[:4]], ["copy", "lookup", "lookup", "copy"])
        self.assertFalse(os.path.exists(out + ".part"))

    def test_questions_over_the_depth_share_their_text(self):
        out = self.path("items.jsonl")
        self.items(out, "--kinds", "lookup", "--depths", 3, "--split", "test", "-q", lengths=1024)
        items = [json.loads(line) for line in Path(out).read_text().splitlines()[1:]]
        self.assertEqual(len(items), 12)
        for group in {item["group"] for item in items}:
            of = [item for item in items if item["group"] == group]
            self.assertEqual(len(of), 3)
            self.assertEqual(len({tuple(item["ids"][:item["prefix"]]) for item in of}), 1)
            self.assertEqual(sorted(item["depth"] for item in of), [item["depth"] for item in of])
        keys = self.path("keys.jsonl")
        self.items(keys, "--kinds", "passkey", "--depths", 3, "--split", "valid", "-q", lengths=1024, items=1)
        of = [json.loads(line) for line in Path(keys).read_text().splitlines()[1:]]
        self.assertEqual(len(of), 3)
        self.assertEqual(len({(item["group"], tuple(item["gold"])) for item in of}), 1)  # one key, one haystack
        self.assertEqual(len({item["id"] for item in of}), 3)
        self.assertEqual(len({tuple(item["ids"][:item["prefix"]]) for item in of}), 1)
        self.assertGreater(of[0]["prefix"], 100)
        bare = self.path("bare.jsonl")
        self.items(bare, "--kinds", "copy", "--without", "-q", lengths=1024, items=1)
        kinds = [json.loads(line)["kind"] for line in Path(bare).read_text().splitlines()[1:]]
        self.assertEqual(kinds, ["copy", "copy-without"])

    def test_a_document_asks_by_itself(self):
        for kind, answers in (("continuation", 4), ("cloze", 10)):
            out = self.path(f"{kind}.jsonl")
            self.items(out, "--kinds", kind, "--depths", 3, "--split", "test", "-q", lengths=1024, items=2)
            items = [json.loads(line) for line in Path(out).read_text().splitlines()[1:]]
            self.assertGreaterEqual(len(items), 2)
            for item in items:
                self.assertEqual(len(item["others"]), answers - 1)
                self.assertNotIn(item["gold"], item["others"])
            rows = self.path(f"{kind}-rows.jsonl")
            got = json.loads(self.done("eval", "retrieval", "-m", "llama", "--data", out, "-o", rows, "--json"))
            cell = got["plans"][0]["cells"][0]
            self.assertEqual((cell["n"], cell["accuracy_chance"]), (len(items), 1 / answers))
            rows = [json.loads(line) for line in Path(rows).read_text().splitlines()]
            self.assertEqual({row["choices"] for row in rows}, {answers})
            # The answer that is chosen is the right one, whether or not the model would write it.
            right = sum(row["chosen"] for row in rows) / len(rows)
            self.assertAlmostEqual(cell["accuracy"]["mean"], right)
            self.assertEqual([row["chosen"] for row in rows], [item["dense_right"] for item in items])

    def test_it_goes_on_where_it_was_stopped(self):
        whole, other = self.path("whole.jsonl"), self.path("other.jsonl")
        flags = ("--kinds", "copy,lookup", "-q")
        self.items(whole, *flags)
        want = Path(whole).read_bytes()
        head = want.split(b"\n")[0] + b"\n"
        # What a killed run leaves: the head, texts that were tried, and a line that is cut.
        texts = [json.loads(line) for line in want.decode().splitlines()[1:]]
        part = head + b"".join(json.dumps({"slot": i, "items": [texts[i]]}).encode() + b"\n" for i in range(3))
        Path(other + ".part").write_bytes(part + b'{"slot": 3, "it')
        self.items(other, *flags)
        self.assertEqual(Path(other).read_bytes(), want)
        Path(other + ".part").write_bytes(head.replace(b'"seed":1', b'"seed":2'))
        self.refuse(self.ask(other, *flags), "other.jsonl.part", "other settings")

    def test_bad_input(self):
        flags = ("data", "items", "-m", "llama", "--text", self.texts, "-o", self.path("x"))
        self.refuse(self.verb(*flags, "--kinds", "copy,passkey"), "--kinds copy,passkey", "--split valid or test")
        self.refuse(self.verb(*flags, "--kinds", "copies"), "--kinds copies", "copy")
        self.refuse(self.verb(*flags, "--kinds", "copy,copy"), "copy is there twice")
        self.refuse(self.verb(*flags, "--split", "train"), "--split train", "calib, valid or test")
        self.refuse(self.verb(*flags, "--lengths", "100"), "--lengths 100", "256 or more")
        self.refuse(self.verb(*flags, "--lengths", "8192", "-c", "512"), "--ctx-size is 512")
        self.refuse(self.verb(*flags, "--plan", "x.json"), "--plan", "all that it sees")
        self.refuse(self.verb("data", "items", "-m", "llama", "--form", "raw", "--text", self.path("none"), "-o", "x"),
                    "no such folder")
        self.refuse(self.verb(*flags, "--form", "chat", "--chat-template", "jinja", "--lengths", "1024"), "jinja")


class Plans(PlanTest):
    def test_the_uniform_plan_needs_no_profile(self):
        out = self.path("u.json")
        self.done("plan", "--uniform", "0.25", "-m", "llama", "-o", out)
        plan = json.loads(Path(out).read_text())
        self.assertEqual(plan["format"], "hydralm-plan/1")
        self.assertEqual(plan["name"], "llama-uniform-r25")
        self.assertEqual(plan["alphas"], [[0, 0], [0, 0]])
        self.assertEqual(plan["betas"], [[0.25, 0.25], [0.25, 0.25]])
        self.assertEqual(plan["density"]["4096"], 0.25)
        # The same model as GGUF has the same hash.
        gguf = self.path("llama.gguf")
        self.done("convert", "llama", "-o", gguf, "-q")
        again = self.path("g.json")
        self.done("plan", "--uniform", "0.25", "-m", gguf, "-o", again)
        self.assertEqual(json.loads(Path(again).read_text())["model"]["config_sha256"], plan["model"]["config_sha256"])
        self.done("generate", "-m", gguf, "-p", "a", "-n", "3", "-q", "--plan", out)

    def test_show(self):
        out, plot = self.path("u.json"), self.path("map")
        self.done("plan", "--uniform", "0.5", "-m", "llama", "-o", out, "-q")
        shown = json.loads(self.done("plan", "--show", out, "--ctx", "1024,2048", "--plot", plot, "--json"))
        self.assertEqual([row["length"] for row in shown["lengths"]], [1024, 2048])
        for row in shown["lengths"]:
            self.assertEqual(row["density"], 0.5)
            self.assertEqual(row["spans"], [[row["length"] // 2] * 2] * 2)
            self.assertEqual(row["kv_bytes_f16"] * 2, row["dense_kv_bytes_f16"])
        self.assertEqual(shown["rules"], [{"alpha": 0, "beta": 0.5, "heads": 4}])
        self.assertEqual(shown["heads"], {"grow": 4, "local": 0, "whole": 0})
        table = self.done("plan", "--show", out)
        self.assertIn("| 0 + 0.5 N | 4 |", table)
        self.assertRegex(table, r"(?m)^ +0  55 ")
        self.assertEqual(Path(plot + ".tsv").read_text().splitlines()[0], "layer\thead\t1024\t2048")
        if os.path.exists(plot + ".svg"):  # gnuplot is installed
            self.assertIn("<svg", Path(plot + ".svg").read_text())
            self.assertEqual(Path(plot + ".png").read_bytes()[1:4], b"PNG")

    def test_random_and_shuffled_plans(self):
        folder = self.path("random") + "/"
        self.done("plan", "--random", "5", "--seed", "3", "-m", "llama", "-o", folder, "-q")
        files = sorted(Path(folder).glob("*.json"))
        self.assertEqual(len(files), 5)
        plans = [json.loads(path.read_text()) for path in files]
        self.assertEqual(len({json.dumps([plan["alphas"], plan["betas"]]) for plan in plans}), 5)
        one, other = self.path("a.json"), self.path("b.json")
        self.done("plan", "--shuffle", files[2], "--seed", "1", "-o", one, "-q")
        self.done("plan", "--shuffle", files[2], "--seed", "1", "-o", other, "-q")
        self.assertEqual(Path(one).read_bytes(), Path(other).read_bytes())
        rules = [sorted(zip(sum(p["alphas"], []), sum(p["betas"], [])))
                 for p in (json.loads(Path(one).read_text()), plans[2])]
        self.assertEqual(rules[0], rules[1])

    def test_import(self):
        bare, out = self.path("bare.json"), self.path("plan.json")
        Path(bare).write_text(json.dumps({"alphas": [[0, 64, 128, 0, 0, 0]] * 2,
                                          "betas": [[1, 0, 0, 0.25, 0.5, 0]] * 2}))
        shown = json.loads(self.done("plan", "--import", bare, "-m", "llama", "-o", out, "--json"))
        self.assertEqual(shown["unit"], "head")
        for row in shown["density"]:
            self.assertLess(row["of_heads"], row["of_rings"])
        self.assertEqual(json.loads(Path(out).read_text())["model"]["n_heads"], 6)
        self.assertIn("density of the heads", self.done("plan", "--import", bare, "-m", "llama", "-o", out))
        self.refuse(self.verb("plan", "--import", bare, "-o", out), "--import", "-m")
        self.refuse(self.verb("plan", "--import", bare, "-m", "mamba2", "-o", out), bare)

    def test_bad_input(self):
        out = self.path("x.json")
        self.refuse(self.verb("plan", "--uniform", "0.5", "-m", "llama"), "-o FILE")
        self.refuse(self.verb("plan", "-o", out), "--profile DIR")
        self.refuse(self.verb("plan", "--uniform", "0.5", "-o", out), "--profile DIR or -m MODEL")
        self.refuse(self.verb("plan", "--uniform", "1.5", "-m", "llama", "-o", out), "--uniform 1.5")
        self.refuse(self.verb("plan", "--uniform", "0.5", "--random", "3", "-m", "llama", "-o", out), "exclude")
        self.refuse(self.verb("plan", "--random", "3", "-m", "llama", "-o", out), "--random", "folder")
        self.refuse(self.verb("plan", "--profile", self.path("none"), "-o", out), "none")
        self.refuse(self.verb("plan", "--profile", self.models["llama"] + "/model.safetensors", "-o", out), "profile")
        self.refuse(self.verb("plan", "--ctx", "512", "--uniform", "0.5", "-m", "llama", "-o", out), "--ctx", "--show")
        self.refuse(self.verb("plan", "--show", self.path("none")), "none")
        good = self.path("good.json")
        self.done("plan", "--uniform", "0.5", "-m", "llama", "-o", good, "-q")
        self.refuse(self.verb("plan", "--show", good, "--density", "0.5"), "--density", "makes plans")
        damaged = Path(good).read_text().replace('"block_size": 64', '"block_size": 0')
        Path(good).write_text(damaged)
        self.refuse(self.verb("plan", "--show", good), "good.json", "block_size = 0")
        self.refuse(self.verb("plan", "--uniform", "0.5", "-m", "mamba2", "-o", out, "--lengths", "0"), "--lengths")


@unittest.skipUnless(TRAIN, "needs hydralm-train")
class Profiles(PlanTest):
    def profile(self, model, items, folder, *flags):
        return self.verb("profile", "-m", model, "--data", items, "-o", folder, "--items", "4", "-t", "1", *flags)

    def test_from_items_to_plans(self):
        for model in ("llama", "hydra"):
            items, folder = self.path(f"{model}.jsonl"), self.path(model)
            self.items(items, "--kinds", "copy,lookup", "-q", model=model)
            got = self.profile(model, items, folder, "--json")
            self.assertEqual(got.returncode, 0, got)
            rows = json.loads(got.stdout)["lengths"]
            self.assertEqual([(row["length"], row["items"]) for row in rows], [(1024, 4), (2048, 4)])
            self.assertTrue(all(row["loss"] > 0 and row["halves"]["jabs"] is not None for row in rows))
            self.assertTrue(os.path.exists(f"{folder}/influence.tsv"))
            again = self.profile(model, items, folder)
            self.refuse(again, "profile.safetensors", "--resume")
            # Half of it, then the rest: the same bytes.
            half = self.path(f"{model}-half")
            first = run(HYDRALM, "profile", "-m", self.models[model], "--data", items, "-o", half, "--items", "2", "-t",
                        "1", "-q")
            self.assertEqual(first.returncode, 0, first)
            rest = self.profile(model, items, half, "--resume", "-q")
            self.assertEqual(rest.returncode, 0, rest)
            self.assertEqual(Path(f"{half}/profile.safetensors").read_bytes(),
                             Path(f"{folder}/profile.safetensors").read_bytes())
            self.assertIn("| 2048 | 4 |", rest.stdout)
            self.plans(model, folder)

    def plans(self, model, folder):
        for solver in ("auto", "greedy"):
            out = self.path(f"{model}-{solver}.json")
            density = "0.5" if model == "llama" else "0.75"
            made = self.verb("plan", "--profile", folder, "--density", density, "--solver", solver, "-o", out)
            self.assertEqual(made.returncode, 0, made)
            self.assertRegex(made.stdout, r"density 0\.\d+ at 4096, loss [+-]\d+\.\d+ at 2048 \(uniform [+-]\d")
            plan = json.loads(Path(out).read_text())
            self.assertEqual(set(plan["bounds"]), {"1024", "2048", "4096"})
            for length, value in plan["density"].items():
                self.assertLessEqual(value, plan["bounds"][length] + 1e-12)
            self.assertEqual(plan["profile"]["lengths"], [1024, 2048])
            self.assertIn("sha256", plan["profile"])
            self.assertIn(plan["solver"]["name"], ("cbc", "greedy"))
            self.done("generate", "-m", model, "-p", "a", "-n", "3", "-q", "--plan", out)
        pareto = self.path(f"{model}-set") + "/"
        shown = json.loads(self.done("plan", "--profile", folder, "--density", "0.75", "--json", "-o", pareto))
        files = sorted(Path(pareto).glob("plan-*.json"))
        self.assertEqual([plan["file"] for plan in shown["plans"]], [str(path) for path in files])
        self.assertGreaterEqual(len(files), 1)
        self.assertTrue(os.path.exists(pareto + "plans.tsv"))
        self.refuse(self.verb("plan", "--profile", folder, "--density", "0.01", "-o", "x.json"), "density 0.01",
                    "least possible is")
        self.refuse(self.verb("plan", "--profile", folder, "--unit", "row", "-o", "x.json"), "--unit row")
        self.refuse(self.verb("plan", "--profile", folder, "--estimator", "abs", "-o", "x.json"), "--estimator abs")
        self.refuse(self.verb("plan", "--profile", folder, "--density", "1024:0.5,x", "-o", "x.json"), "LENGTH:SHARE")
        for flags in (("--unit", "layer"), ("--unit", "head"), ("--binary",), ("--max-rules", "1"), ("--raw",),
                      ("--estimator", "f"), ("--lengths", "1024,3000")):
            out = self.path(f"{model}-mode.json")
            density = ("--density", "0.75") if flags != ("--raw",) else ("--density", "1024:0.8,4096:0.75")
            self.done("plan", "--profile", folder, *density, *flags, "-o", out, "-q")
            plan = json.loads(Path(out).read_text())
            if flags == ("--unit", "layer") or flags == ("--max-rules", "1"):
                for alphas, betas in zip(plan["alphas"], plan["betas"]):
                    self.assertLessEqual(len(set(zip(alphas, betas))), 1)
            if flags == ("--binary",):
                rules = set(zip(sum(plan["alphas"], []), sum(plan["betas"], [])))
                self.assertLessEqual(rules, {(0, 1), (128, 0)})
        other = "hydra" if model == "llama" else "llama"
        self.refuse(self.verb("generate", "-m", other, "-p", "a", "--plan", files[0]), "made for another model")

    def test_bad_input(self):
        items, folder = self.path("items.jsonl"), self.path("profile")
        self.items(items, "--kinds", "copy", "-q", lengths=1024)
        self.refuse(self.profile("llama", self.path("none"), folder), "none")
        self.refuse(self.profile("llama", self.texts + "/book0.txt", folder), "book0.txt:1")
        self.refuse(self.profile("mamba2", items, folder), "no attention")
        keys = self.path("keys.jsonl")
        self.items(keys, "--kinds", "passkey", "-q", lengths=1024, items=1)
        self.refuse(self.profile("llama", keys, folder), "keys.jsonl", "for evaluation")
        self.refuse(self.profile("llama", items, folder, "--lengths", "2048"), "--lengths 2048", "no items")
        other = f"{self.folder}/otherwords"
        os.makedirs(other, exist_ok=True)
        for name in ("config.json", "model.safetensors"):
            Path(f"{other}/{name}").write_bytes(Path(f"{self.models['llama']}/{name}").read_bytes())
        tokens = Path(self.tokenizer).read_text()
        Path(f"{other}/tokenizer.json").write_text(re.sub(r"\s*$", "\n\n", tokens))  # other bytes: another hash
        self.refuse(self.profile(other, items, folder), "tokenizer_sha256")
        done = self.profile("llama", items, folder, "-q")
        self.assertEqual(done.returncode, 0, done)
        more = self.path("more.jsonl")
        self.items(more, "--kinds", "copy", "-q", "--seed", "9", lengths=1024)
        self.refuse(self.profile("llama", more, folder, "--resume"), "items_sha256", "another -o")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
