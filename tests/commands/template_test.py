# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=120
# `hydralm tokenizer chat`: the prompt of a model's own template, of a file and of a form by name, as text, ids and
# JSON; and mistakes. Not here: what templates may say (tests/parity/jinja_test.py), conversations (chat_test.py).
import json
import os
import shutil
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import make_model, make_tokenizer, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
TALK = [{"role": "user", "content": "hi <|im_end|>"}]
CHATML = "<|im_start|>user\nhi <|im_end|><|im_end|>\n<|im_start|>assistant\n"


class Template(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name)
        cls.tokenizer = make_tokenizer(HYDRALM, cls.folder)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def chat(self, given, *flags, model=None):
        text = given if isinstance(given, str) else json.dumps(given)
        return run(HYDRALM, "tokenizer", "chat", "-m", str(model or self.tokenizer), *flags, input=text)

    def shown(self, given, *flags, **options):
        got = self.chat(given, *flags, **options)
        self.assertEqual(got.returncode, 0, got)
        return got.stdout

    def refuse(self, got, *parts):
        self.assertEqual((got.returncode, got.stdout), (2, ""), got)
        self.assertEqual(got.stderr.count("\n"), 1, got)
        for part in parts:
            self.assertIn(part, got.stderr)

    def test_text_ids_and_json(self):
        self.assertEqual(self.shown(TALK, "--chat-template", "chatml"), CHATML)
        closed = self.shown(TALK, "--chat-template", "chatml", "--closed")
        self.assertEqual(closed + "<|im_start|>assistant\n", CHATML)
        ids = [int(i) for i in self.shown(TALK, "--chat-template", "chatml", "--ids").split()]
        self.assertEqual((ids.count(1), ids.count(2)), (2, 1))  # the markers, and not what the user spells
        back = run(HYDRALM, "tokenizer", "decode", "-m", self.tokenizer, input=" ".join(map(str, ids))).stdout
        self.assertEqual(back, CHATML)
        made = json.loads(self.shown(TALK, "--chat-template", "chatml", "--json"))
        self.assertEqual((made["text"], made["ids"], made["template"]), (CHATML, ids, "chatml"))
        (begin, end, source), = made["from_messages"]
        self.assertEqual((CHATML[begin:end], source), (TALK[0]["content"], 0))
        self.assertEqual(made["end_ids"], [2, 0])

    def test_the_models_own_template_with_tools_and_variables(self):
        folder = self.folder / "own"
        folder.mkdir()
        shutil.copy(self.tokenizer, folder)
        text = ("{{ bos_token }}{% for t in tools or [] %}{{ t.function.name }};{% endfor %}"
                "{% for m in messages %}{{ m.role }}={{ m.content }}|{% endfor %}{{ mood }}{{ strftime_now('%Y') }}")
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": text, "bos_token": "<|endoftext|>"}))
        got = self.shown({"messages": TALK, "tools": [{"function": {"name": "f"}}], "mood": "x"}, "--now", "1000000000",
                         model=folder)
        self.assertEqual(got, "<|endoftext|>f;user=hi <|im_end|>|x2001")
        (folder / "chat_template.jinja").write_text("{{ messages[0].content|upper }}")
        self.assertEqual(self.shown(TALK, model=folder), "HI <|IM_END|>")
        self.assertEqual(self.shown(TALK, "--chat-template", "plain", model=folder),
                         "<|endoftext|>User: hi <|im_end|>\nAssistant:")

    def test_without_a_template_the_vocabulary_decides(self):
        got = self.chat(TALK)
        self.assertEqual((got.returncode, got.stdout), (0, CHATML), got)
        self.assertIn("no chat template: chatml is used", got.stderr)

    def test_mistakes_are_named(self):
        bad = self.folder / "bad.jinja"
        bad.write_text("one\n{% if x %}")
        self.refuse(self.chat(TALK, "--chat-template", str(bad)), str(bad), "line 2", "endif")
        bad.write_text("{% for m in messages %}\n{{ m.content.frob() }}{% endfor %}")
        self.refuse(self.chat(TALK, "--chat-template", str(bad)), str(bad), "line 2, column", "frob")
        bad.write_text("{{ raise_exception('roles must alternate') }}")
        self.refuse(self.chat(TALK, "--chat-template", str(bad)), "raise_exception: roles must alternate")
        bad.write_text("{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}")
        self.refuse(self.chat(TALK, "--chat-template", str(bad)), "than it may")
        self.refuse(self.chat(TALK, "--chat-template", "nothing"), "--chat-template nothing", "chatml|llama2")
        self.refuse(self.chat("5", "--chat-template", "chatml"), "stdin", "messages")
        self.refuse(self.chat([{"role": "user", "content": 5}], "--chat-template", "chatml"), "messages[0].content = 5")
        self.refuse(self.chat([{"content": "a"}], "--chat-template", "chatml"), "messages[0].role")

    def test_a_model_of_the_runtime_talks_by_its_own_template(self):
        model = make_model(HYDRALM, self.folder / "model", "llama", self.tokenizer)
        text = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|im_end|>{% endfor %}" \
               "{% if add_generation_prompt %}[assistant]{% endif %}"
        (Path(model) / "chat_template.jinja").write_text(text)
        got = run(HYDRALM, "chat", "-m", model, "--temp", "0", "-n", "4", input="hello\n/stats\nagain\n/stats\n")
        self.assertEqual(got.returncode, 0, got)
        self.assertIn("template the model's own", got.stderr)
        self.assertEqual(got.stderr.count("last turn"), 2)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
