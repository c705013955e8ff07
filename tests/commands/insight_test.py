# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
# The verbs that look into a model, from outside: xray, state, eval controls with --budget, train --teach with --memory.
# Not here: what traces, states and packs hold (hydra/runtime tests).
import csv
import json
import os
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import make_model, make_text, make_tokenizer, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
TRAIN = sys.argv[2] if len(sys.argv) > 2 else ""
PROMPT = make_text(5, 40)


class InsightTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.models = {family: make_model(HYDRALM, f"{cls.folder}/{family}", family, cls.tokenizer)
                      for family in ("hydra", "llama")}

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def verb(self, *words, **options):
        return run(HYDRALM, *[self.models.get(word, word) for word in words], **options)

    def done(self, *words, **options):
        got = self.verb(*words, **options)
        self.assertEqual(got.returncode, 0, got)
        return got.stdout

    def refuse(self, got, *words):
        self.assertEqual(got.returncode, 2, got)
        self.assertEqual(got.stderr.count("\n"), 1, got.stderr)
        for word in words:
            self.assertIn(word, got.stderr)

    def path(self, name):
        return f"{self.folder}/{self.id().split('.')[-1]}-{name}"


class Xray(InsightTest):
    def test_a_table_lines_and_a_page(self):
        page, lines = self.path("x.html"), self.path("x.jsonl")
        for model in ("hydra", "llama"):
            table = self.done("xray", "-m", model, "-p", PROMPT, "-n", "5", "--temp", "0", "-o", page, "--jsonl", lines)
            tokens = [json.loads(line) for line in Path(lines).read_text().splitlines()]
            self.assertEqual(len(table.splitlines()), 1 + len(tokens))
            self.assertEqual([token["position"] for token in tokens], list(range(len(tokens))))
            self.assertEqual(sum(token["generated"] for token in tokens), 5)
            self.assertTrue(all(token["entropy"] >= 0 and token["bytes"] > 0 for token in tokens))
            self.assertIn(PROMPT.strip()[:20], "".join(token["text"] for token in tokens))
            text = Path(page).read_text()
            self.assertNotRegex(text, r"""(src|href)\s*=\s*["']?(https?:)?//""")
            self.assertEqual(text.count("</script>"), 2)
            data = json.loads(text.split('id="data">')[1].split("</script>")[0])
            self.assertEqual(len(data["tokens"]), len(tokens))
        whole = json.loads(self.done("xray", "-m", "hydra", "-p", PROMPT, "-n", "0", "--json"))
        self.assertEqual(whole["layers"], [["ssm", "moe"], ["ssm", "sga", "workspace"], ["ssm", "moe", "pkm"]])

    def test_what_a_text_holds_cannot_end_the_script(self):
        page = self.path("x.html")
        self.done("xray", "-m", "hydra", "-p", "</script><b>bold</b>", "-n", "0", "-q", "-o", page)
        self.assertEqual(Path(page).read_text().count("</script>"), 2)

    def test_bad_input(self):
        self.refuse(self.verb("xray", "-m", "hydra"), "-p TEXT")
        self.refuse(self.verb("xray", "-m", "hydra", "-p", ""), "no tokens")
        got = self.verb("xray", "-m", "hydra", "-p", "a", "-o", self.path("none/x.html"))
        self.assertNotEqual(got.returncode, 0)
        self.assertIn("no such folder", got.stderr)


class State(InsightTest):
    def setUp(self):
        self.file = self.path("talk.state")
        self.done("generate", "-m", "hydra", "-p", PROMPT, "-n", "8", "--temp", "0", "-q", "--state-save", self.file)

    def show(self, file):
        return json.loads(self.done("state", "show", file, "-m", "hydra", "--json"))

    def test_it_shows_what_is_there(self):
        held = self.show(self.file)
        self.assertGreater(held["tokens"], 20)
        layers = held["layers"]
        slots = [slot for layer in layers for slot in layer.get("slots", [])]
        self.assertTrue(slots)
        self.assertTrue(any(slot["moved"] > 0 for slot in slots))
        landmarks = [mark for layer in layers for mark in layer.get("landmarks", [])]
        self.assertTrue(landmarks)
        self.assertTrue(all(0 <= mark["position"] < held["tokens"] and mark["text"] for mark in landmarks))
        self.assertTrue(any(layer["ssm_norm"] > 0 for layer in layers))
        self.assertIn("slots", self.done("state", "show", self.file, "-m", "hydra"))

    def test_parts_are_set_back_or_to_zero(self):
        new = self.path("new.state")
        self.done("state", "edit", self.file, "-m", "hydra", "--reset", "workspace", "--reset", "landmarks", "-q", "-o",
                  new)
        held = self.show(new)
        slots = [slot for layer in held["layers"] for slot in layer.get("slots", [])]
        self.assertTrue(all(slot["moved"] == 0 for slot in slots))
        self.assertFalse([mark for layer in held["layers"] for mark in layer.get("landmarks", [])])
        self.assertEqual(held["tokens"], self.show(self.file)["tokens"])
        self.done("state", "edit", self.file, "-m", "hydra", "--zero", "ssm", "--zero", "workspace", "-q", "-o", new)
        held = self.show(new)
        self.assertTrue(all(layer["ssm_norm"] == 0 for layer in held["layers"] if "ssm_norm" in layer))
        self.assertTrue(all(slot["norm"] == 0 for layer in held["layers"] for slot in layer.get("slots", [])))
        self.done("generate", "-m", "hydra", "--state-load", new, "-n", "4", "-q")

    def test_bad_input(self):
        self.refuse(self.verb("state", "edit", self.file, "-m", "hydra", "--reset", "worksapce", "-o", "x"),
                    "--reset worksapce", "did you mean workspace")
        self.refuse(self.verb("state", "edit", self.file, "-m", "hydra", "-o", "x"), "nothing to do")
        self.refuse(self.verb("state", "show", self.file, "-m", "llama"), "another model")
        self.refuse(self.verb("state", "show", self.tokenizer, "-m", "hydra"), "tokenizer.json")


@unittest.skipUnless(TRAIN, "needs hydralm-train")
class Trained(InsightTest):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.data = f"{cls.folder}/data"
        text = Path(f"{cls.folder}/text.txt")
        text.write_text("\f".join(make_text(seed, 200) for seed in range(40)))
        made = run(HYDRALM, "data", "build", text, "--tokenizer", cls.tokenizer, "--doc-sep", "\f", "--val", "0.2",
                   "-o", cls.data)
        assert made.returncode == 0, made

    def test_a_budget_picks_the_best_that_fits(self):
        model = self.models["hydra"]
        self.refuse(self.verb("generate", "-m", model, "-p", "a", "--budget", "1M"), "--budget 1M", "eval controls")
        table = json.loads(self.done("eval", "controls", "-m", model, "--data", self.data, "--max-tokens", "512",
                                     "--json"))
        try:
            rows = table["rows"]
            self.assertGreater(len(rows), 4)
            self.assertEqual(max(row["active"] for row in rows), rows[0]["active"])
            budget = sorted(row["active"] for row in rows)[len(rows) // 2]
            best = min((row for row in rows if row["active"] <= budget), key=lambda row: (row["loss"], row["active"]))
            state = self.path("state")
            got = self.verb("generate", "-m", model, "-p", PROMPT, "-n", "2", "--budget", str(budget), "--state-save",
                            state)
            self.assertEqual(got.returncode, 0, got)
            self.assertIn(f"{best['active']:,} active parameters", got.stderr)
            head = Path(state).read_bytes()
            held = json.loads(head[8:8 + int.from_bytes(head[:8], "little")])["__metadata__"]["controls"]
            self.assertEqual(json.loads(held), best["controls"])
            self.refuse(self.verb("generate", "-m", model, "-p", "a", "--budget", "10"), "--budget 10", "the least")
            self.refuse(self.verb("generate", "-m", model, "-p", "a", "--budget", "many"), "--budget")
        finally:
            os.unlink(f"{model}/controls.json")

    def test_facts_become_a_pack_that_the_runtime_reads(self):
        facts, pack = self.path("facts.jsonl"), self.path("facts.safetensors")
        words = make_text(9, 60).split()
        Path(facts).write_text("".join(json.dumps({
            "prompt": " ".join(words[4 * i:4 * i + 3]), "answer": " " + words[-1 - i],
            "paraphrases": [words[4 * i + 3] + " " + words[4 * i]]}) + "\n" for i in range(3)))
        made = json.loads(self.done("train", "--teach", facts, "--init", self.models["hydra"], "--data", self.data,
                                    "-o", pack, "--teach-steps", "60", "--json", "-q"))
        self.assertEqual((made["facts"], made["trained"], made["held_out"]), (3, 3, 3))
        self.assertGreater(made["rows"], 0)
        plain = self.path("plain.npy"), self.path("taught.npy")
        ids = ("--ids", "3,4,5,6,7,8,9,10")
        self.done("logits", "-m", "hydra", *ids, "-o", plain[0])
        self.done("logits", "-m", "hydra", *ids, "-o", plain[1], "--memory", pack)
        self.assertNotEqual(Path(plain[0]).read_bytes(), Path(plain[1]).read_bytes())
        self.done("logits", "-m", "hydra", *ids, "-o", plain[1], "--memory", f"{pack}:0")
        self.assertEqual(Path(plain[0]).read_bytes(), Path(plain[1]).read_bytes())
        self.refuse(self.verb("generate", "-m", "hydra", "-p", "a", "--memory", pack, "--memory", pack),
                    "--memory-merge add")
        self.done("generate", "-m", "hydra", "-p", "a", "-n", "2", "-q", "--memory", pack, "--memory", f"{pack}:0.5",
                  "--memory-merge", "add")
        self.refuse(self.verb("generate", "-m", "llama", "-p", "a", "--memory", pack), "--memory",
                    "no product-key memory")
        other = make_model(HYDRALM, self.path("other"), "hydra", self.tokenizer, seed=99)
        self.refuse(self.verb("generate", "-m", other, "-p", "a", "--memory", pack), "--memory", "another model")
        quantised = self.path("q8.gguf")
        self.done("quantize", self.models["hydra"], "-o", quantised, "--type", "q8_0")
        self.done("generate", "-m", quantised, "-p", "a", "-n", "2", "-q", "--memory", pack)

    def test_bad_facts(self):
        facts = self.path("facts.jsonl")
        Path(facts).write_text('{"prompt": "a", "answr": "b"}\n')
        flags = ("--init", self.models["hydra"], "--data", self.data)
        self.refuse(self.verb("train", "--teach", facts, *flags, "-o", "x"), "facts.jsonl:1", "answr")
        self.refuse(self.verb("train", "--teach", facts, *flags), "-o")
        self.refuse(self.verb("train", "--teach", facts, "--data", self.data, "-o", "x"), "--init")
        self.refuse(self.verb("train", "--teach", self.path("none"), *flags, "-o", "x"), "none")

    def test_routing_is_learned_from_labels(self):
        lines, data, tokens = self.path("lines.jsonl"), self.path("data"), []
        for seed in range(80):
            words = make_text(2 + seed % 2, 2000).split()[20 * (seed // 2):][:90]
            tokens.append(json.dumps({"text": " ".join(words), "kind": ("first", "second")[seed % 2]}))
        Path(lines).write_text("\n".join(tokens))
        self.done("data", "build", lines, "--tokenizer", self.tokenizer, "--domain-field", "kind", "--val", "0.2",
                  "-q", "-o", data)
        self.assertIn("first, second", self.done("data", "info", data))
        run_file, folder = self.path("run.toml"), self.path("run")
        Path(run_file).write_text("[moe]\ndomains = { first = [0, 1], second = [2, 3] }\ndomain_coef = 2\n")
        flags = ("--init", self.models["hydra"], "--data", data, "--steps", "300", "--set", "optim.seq_len=128",
                 "--set", "optim.batch_rows=4", "--set", "optim.lr=1e-2", "--set", "optim.warmup_steps=10", "-q")
        self.done("train", "-C", run_file, *flags, "--run", folder)
        with open(f"{folder}/train.csv", encoding="utf-8") as table:
            rows = list(csv.DictReader(table))
        self.assertGreater(float(rows[-1]["moe/in_set"]), 0.75)  # the first chunk of a text can hardly know
        self.assertLess(float(rows[-1]["moe/domain_loss"]), float(rows[0]["moe/domain_loss"]))
        model = f"{folder}/model"
        measured = json.loads(self.done("eval", "domains", "-m", model, "--data", data, "--json"))["domains"]
        self.assertEqual([row["domain"] for row in measured], ["first", "second"])
        for row in measured:
            self.assertGreater(row["in_set"], 0.65)
            self.assertEqual(row["chance"], 0.5)
            own = row["forced"][row["domain"]]
            self.assertLess(own + 0.2, max(row["forced"].values()))
            self.assertAlmostEqual(own, row["bits_per_byte"], delta=0.05)
        self.assertEqual(len(self.done("eval", "domains", "-m", model, "--data", data).splitlines()), 4)
        same = self.path("a.npy"), self.path("b.npy")
        ids = ("--ids", "3,4,5,6,7,8,9,10")
        self.done("logits", "-m", model, *ids, "-o", same[0], "--control", "domain=second")
        self.done("logits", "-m", model, *ids, "-o", same[1], "--control", "ban_experts=0,1")
        self.assertEqual(Path(same[0]).read_bytes(), Path(same[1]).read_bytes())
        self.refuse(self.verb("logits", "-m", model, *ids, "-o", "x", "--control", "domain=third"), "domain=third",
                    "first,second")
        self.refuse(self.verb("logits", "-m", "hydra", *ids, "-o", "x", "--control", "domain=first"), "no domains")
        self.refuse(self.verb("eval", "domains", "-m", "hydra", "--data", data), "no domains")
        self.refuse(self.verb("eval", "domains", "-m", model, "--data", self.data), "--domain-field")
        bad = ("train", *flags, "--run", self.path("bad"))
        self.refuse(self.verb(*bad, "--set", "moe.domains={third=[0,1]}"), "third", "--domain-field")
        self.refuse(self.verb(*bad, "--set", "moe.domians={}"), "moe.domians", "did you mean domains")
        self.refuse(self.verb(*bad, "--set", "moe.domains={first=[0,9]}"), "first", "0 to 3")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
