# SPDX-License-Identifier: Apache-2.0
# ctest: serial timeout=600
# Chat templates against Python's jinja2, set up as `transformers` sets it up: the golden cases of the unit tests,
# made-up templates, and those that models are published with (tools/templates.sh), each with several conversations.
# Texts are equal to the byte, or both fail. Not here: marks and bounds (hydra/text/jinja_test.cc).
import json
import os
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests/support"))
from jinja_reference import render  # noqa: E402
from tiny_models import make_tokenizer, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
NOW = 1699956800
LEAST = 50  # published templates

ASKED = {"role": "user", "content": "What is in <b>a.txt</b>?\n  Say \"it\" & 'that' \u00e9\u4e2d\U0001f600"}
CALL = {"id": "call00001", "type": "function",
        "function": {"name": "read", "arguments": {"path": "a.txt", "lines": [1, 2.5, None, True]}}}
TOOL = {"type": "function",
        "function": {"name": "read", "description": "Reads a file.\nAll of it.",
                     "parameters": {"type": "object", "required": ["path"],
                                    "properties": {"path": {"type": "string", "description": "which"},
                                                   "lines": {"type": "array", "items": {"type": "number"}},
                                                   "mode": {"type": "string", "enum": ["a", "b"], "default": "a"}}}}}
SYSTEM = {"role": "system", "content": " Be brief.  "}
SAID = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nIt is text."}
CONVERSATIONS = [
    {"messages": [ASKED]},
    {"messages": [SYSTEM, ASKED]},
    {"messages": [SYSTEM, ASKED, SAID, {"role": "user", "content": "Thanks <|im_end|></s>[INST] "}]},
    {"messages": [ASKED, SAID], "add_generation_prompt": False},
    {"messages": [ASKED, SAID, ASKED], "enable_thinking": False, "reasoning_effort": "low"},
    {"messages": [SYSTEM, ASKED], "tools": [TOOL]},
    {"messages": [ASKED, {"role": "assistant", "content": "", "tool_calls": [CALL]},
                  {"role": "tool", "name": "read", "tool_call_id": "call00001", "content": "{\"a\": 1}"}],
     "tools": [TOOL]},
    {"messages": [ASKED, SYSTEM]},
    {"messages": []},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def variables_of(conversation):
    return {"tools": None, "documents": None, "add_generation_prompt": True, **TOKENS, **conversation}


class Templates(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temporary.name)
        cls.tokenizer = make_tokenizer(HYDRALM, cls.folder)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def ours(self, text, conversation):
        """The text of `hydralm tokenizer chat`, or None, and why."""
        template = self.folder / "t.jinja"
        template.write_text(text, encoding="utf-8", newline="")
        given = {key: value for key, value in variables_of(conversation).items() if key != "add_generation_prompt"}
        closed = () if conversation.get("add_generation_prompt", True) else ("--closed",)
        got = run(HYDRALM, "tokenizer", "chat", "-m", self.tokenizer, "--chat-template", str(template), "--now",
                  str(NOW), *closed, text=False, input=json.dumps(given).encode())
        self.assertIn(got.returncode, (0, 2), got)
        if got.returncode == 2:
            self.assertEqual(got.stderr.count(b"\n"), 1, got)
            return None, got.stderr.decode()
        return got.stdout.decode(), ""

    def compare(self, name, text, conversation):
        want = render(text, variables_of(conversation), NOW)
        got, why = self.ours(text, conversation)
        if got != want:
            return f"{name}: {json.dumps(conversation)[:100]}\n  jinja2: {want!r:.600}\n  ours:   {got!r:.600} {why}"
        return None

    def report(self, differ, compared):
        self.assertEqual(differ, [], "\n".join([f"{len(differ)} of {compared} differ", *differ[:40]]))

    def test_golden_cases_are_those_of_jinja2(self):
        golden = json.loads((ROOT / "tests/parity/jinja_cases.json").read_text())
        for text, want in golden["cases"]:
            self.assertEqual(render(text, golden["variables"], golden["now"]), want, text)

    def test_published_templates(self):
        made = subprocess.run(["sh", str(ROOT / "tools/templates.sh")], capture_output=True, text=True)
        self.assertEqual(made.returncode, 0, made.stderr)
        paths = sorted(Path(made.stdout.strip()).glob("*.jinja"))
        self.assertGreaterEqual(len(paths), LEAST)
        differ, rendered, compared = [], 0, 0
        for path in paths:
            text = path.read_text(encoding="utf-8")
            for conversation in CONVERSATIONS:
                compared += 1
                rendered += render(text, variables_of(conversation), NOW) is not None
                differ += filter(None, [self.compare(path.name, text, conversation)])
        print(f"{len(paths)} templates, {compared} conversations, {rendered} rendered")
        self.assertGreater(rendered, compared / 2)
        self.report(differ, compared)

    def test_made_up_templates(self):
        rng = random.Random(17)
        texts = [Maker(rng).template() for _ in range(int(os.environ.get("HYDRALM_FULL", "0")) * 2000 or 250)]
        differ = [line for text in texts for line in [self.compare(text, text, CONVERSATIONS[2])] if line]
        self.report(differ, len(texts))


class Maker:
    """Random templates over what a conversation has."""

    def __init__(self, rng):
        self.rng = rng

    def pick(self, *choices):
        return self.rng.choice(choices)

    def text(self, depth=0):
        return self.pick("'a b'", "\"it's\"", "bos_token", "messages[0].content", "messages[-1]['role']", "'\\n x \\t'",
                         "messages[1].content[3:9]", "'X' * 2", *((
                             f"({self.text(1)} ~ {self.value(1)})", f"({self.text(1)} + {self.text(1)})",
                             f"{self.text(1)}|{self.pick('upper', 'lower', 'trim', 'title', 'capitalize', 'string')}",
                             f"{self.text(1)}.{self.pick('strip()', 'upper()', 'lstrip()', 'title()', 'rstrip()')}",
                             f"{self.text(1)}|replace('a', {self.text(1)})", f"{self.items(1)}|join({self.text(1)})",
                             f"({self.text(1)} if {self.test(1)} else {self.text(1)})", f"{self.value(1)}|tojson",
                             f"'%s,%s' % ({self.value(1)}, {self.value(1)})") if depth == 0 else ()))

    def number(self, depth=0):
        return self.pick("0", "3", "-2", "2.5", "1e20", "messages|length", *((
            f"({self.number(1)} {self.pick('+', '-', '*', '//', '%', '/')} {self.number(1)})", f"{self.text(1)}|length",
            f"{self.number(1)}|{self.pick('abs', 'round', 'int', 'float', 'round(1)')}", f"{self.items(1)}|length",
            f"{self.text(1)}.{self.pick('find', 'count')}('e')") if depth == 0 else ()))

    def items(self, depth=0):
        return self.pick("[1, 'b', none]", "messages", "[3, 1, 2]", "(range(4)|list)", "'xyz'", "tools", "(1, 2)", *((
            f"{self.items(1)}[{self.pick('1:', ':-1', '::2', '::-1')}]", f"{self.items(1)}|list",
            f"messages|map(attribute='{self.pick('role', 'content', 'no')}')|list", f"{self.items(1)}|reverse|list",
            f"messages|selectattr('role', '{self.pick('eq', 'in', 'ne')}', 'user')|list", f"[3, 1]|sort",
            f"{self.text(1)}.split({self.pick('', ' '.join(chr(39) * 2), repr('e'))})",
            f"{self.items(1)}|select('{self.pick('string', 'number', 'none')}')|list") if depth == 0 else ()))

    def value(self, depth=0):
        other = self.pick("none", "true", "missing", "messages[0]", "{'a': 1, 'b': [2]}")
        return self.pick(self.text, self.number, self.items, self.test, lambda _: other)(depth or 1)

    def test(self, depth=0):
        return self.pick("true", "tools", "messages[0].role == 'system'", "missing is defined", *((
            f"{self.value(1)} {self.pick('==', '!=', 'is')} {self.pick('none', 'true')}",
            f"{self.number(1)} {self.pick('<', '>=', '==')} {self.number(1)}", f"{self.text(1)} in {self.text(1)}",
            f"not {self.test(1)}", f"({self.test(1)} {self.pick('and', 'or')} {self.test(1)})",
            f"{self.value(1)} is {self.pick('string', 'mapping', 'iterable', 'number', 'sequence', 'none', 'odd')}")
            if depth == 0 else ()))

    def tag(self, inside):
        return self.pick("{% ", "{%- ") + inside + self.pick(" %}", " -%}") + self.pick("", "\n", "  \n", " ")

    def statement(self, depth=0):
        kind = self.pick("print", "print", "set", "text", *(("if", "for", "block", "macro") if depth < 2 else ()))
        body = lambda: "".join(self.statement(depth + 1) for _ in range(self.rng.randint(1, 3)))  # noqa: E731
        if kind == "print":
            return self.pick("{{ ", "{{- ") + self.value() + self.pick(" }}", " -}}")
        if kind == "set":
            return self.tag(f"set v = {self.value()}") + "{{ v }}"
        if kind == "text":
            return self.pick("  text\n", "\n", "x", "   ", "{# note #}\n", "\n  {#- note -#} \n")
        if kind == "if":
            return self.tag(f"if {self.test()}") + body() + self.tag("else") + body() + self.tag("endif")
        if kind == "for":
            loop = "{{ loop.index }}{{ loop.last }}"
            return self.tag(f"for v in {self.items()}") + loop + body() + self.tag("endfor")
        if kind == "macro":
            return self.tag(f"macro m(a, b={self.value()})") + "{{ a }}{{ b }}" + self.tag("endmacro") + "{{ m(v) }}"
        return self.tag("set w") + body() + self.tag("endset") + "{{ w }}"

    def template(self):
        return "{% set v = 1 %}" + "".join(self.statement() for _ in range(self.rng.randint(2, 6)))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
