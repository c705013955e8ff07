# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
# What a user types into `hydralm chat` comes to the model whole: line ends, messages of several lines, slashes, editing
# at a terminal; and what /load and --system say is obeyed. Not here: turns and templates (chat_cli_test.py).
import json
import os
import pty
import select
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import make_model, make_tokenizer, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])


class ChatTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.model = make_model(HYDRALM, f"{cls.folder}/model", "mamba2", cls.tokenizer)

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def flags(self, *more):
        # the end token is said at once, so that a conversation holds nothing but what was typed
        return ["chat", "-m", self.model, "--chat-template", "chatml", "--temp", "0", "-n", "6", "-q", *more]

    def chat(self, text, *more):
        return run(HYDRALM, *self.flags(*more), text=False, input=text.encode())

    def held(self, state):
        """The text of all tokens of a saved conversation."""
        data = Path(state).read_bytes()
        n = int.from_bytes(data[:8], "little")
        head = json.loads(data[8:8 + n])
        ids = [
            i for name in ("ids", "pending")
            for i in np.frombuffer(data[8 + n:][slice(*head[name]["data_offsets"])], "<i4").tolist()]
        shown = run(HYDRALM, "tokenizer", "decode", "-m", self.tokenizer, input=" ".join(map(str, ids))).stdout
        return shown

    def messages(self, typed, status=0):
        """What the model was told, for what was piped."""
        state = f"{self.folder}/held.state"
        got = self.chat(typed + f"\n/save {state}\n", "--logit-bias", "2=1e9")
        self.assertEqual(got.returncode, status, got)
        parts = self.held(state).split("<|im_start|>user\n")[1:]
        return [part.split("<|im_end|>")[0] for part in parts]


class Typed(ChatTest):
    def test_both_line_ends(self):
        for typed in ("one\ntwo\n/stats", "one\r\ntwo\r\n/stats\r", "one\r\n\r\n \r\ntwo"):
            self.assertEqual(self.messages(typed), ["one", "two"], typed)

    def test_messages_of_several_lines(self):
        for typed, want in (
                ('"""\na\n\n  b\n"""\nc', ["a\n\n  b", "c"]),
                ('"""\r\na\r\n/quit\r\n"""\r\nc', ["a\n/quit", "c"]),
                ('"""\ndef f():\n  """Says so."""\n  return 1\n"""', ['def f():\n  """Says so."""\n  return 1']),
                ('"""a\nb\nc"""\nd', ["a\nb\nc", "d"]),
                ('"""a"""\nb', ["a", "b"]),
                ('"""\n  \n"""\nb', ["  ", "b"])):
            self.assertEqual(self.messages(typed), want, typed)
        got = self.chat('"""\nthe end\nof the input', "-v")  # ends a message too
        self.assertEqual(got.returncode, 0, got)
        self.assertEqual(got.stderr.count(b"last turn"), 1, got)

    def test_messages_that_begin_with_a_slash(self):
        self.assertEqual(self.messages("//etc/hosts\n///a\na //b"), ["/etc/hosts", "//a", "a //b"])

    def test_an_unknown_command_does_not_end_a_piped_chat(self):
        self.assertEqual(self.messages("one\n/etc/hosts is what?\n/save\n/reset now\ntwo", status=2), ["one", "two"])
        self.assertEqual(self.messages("one\n/stats\t\n/stats \t \ntwo"), ["one", "two"])  # blanks behind one are none
        got = self.chat("/qui\nhello\n", "-v")
        self.assertEqual(got.returncode, 2, got)
        self.assertIn(b"/qui: unknown command (did you mean /quit?)", got.stderr)
        self.assertIn(b"//TEXT", got.stderr)  # how it would be said
        self.assertIn(b"last turn", got.stderr)
        self.assertEqual(self.chat("/load /no/such/file\nhello\n").stdout, b"")  # another conversation would follow

    def test_an_empty_system_message_takes_the_place_of_the_templates_own(self):
        folder = Path(self.folder) / "system"
        folder.mkdir()
        for file in Path(self.model).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        # a template that has a system line of its own, which an empty message takes the place of
        text = (
            "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
            "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, "
            "trained by Hugging Face<|im_end|>\n' }}"
            "{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
            "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
        (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": text}))
        state = f"{self.folder}/system.state"
        turn = "<|im_end|>\n<|im_start|>user\nhi"
        for flags, begins in (((), "<|im_start|>system\nYou are"), (("--system", ""), f"<|im_start|>system\n{turn}"),
                              (("--system", "x"), f"<|im_start|>system\nx{turn}")):
            got = run(HYDRALM, "chat", "-m", str(folder), "--temp", "0", "-n", "1", "-q", *flags,
                      input=f"hi\n/save {state}\n")
            self.assertEqual(got.returncode, 0, got)
            self.assertTrue(self.held(state).startswith(begins), (flags, self.held(state)))

    def test_load_forgets_the_penalties_of_the_talk_before(self):
        penalties = ("--repeat-penalty", "1.5", "--repeat-last-n", "1000", "--frequency-penalty", "1", "-n", "30")
        state = f"{self.folder}/penalties.state"
        want = self.chat(f"hello\n/save {state}\ngo on\n", *penalties).stdout
        head = self.chat("hello\n", *penalties).stdout
        got = self.chat(f"/load {state}\ngo on\n", *penalties).stdout
        self.assertEqual(head + got, want)
        before = self.chat("another matter\n", *penalties).stdout
        got = self.chat(f"another matter\n/load {state}\ngo on\n", *penalties).stdout
        self.assertEqual(head + got[len(before):], want)


class Terminal(ChatTest):
    """libedit needs a terminal that can move its cursor."""

    def talk(self, typed, term="xterm", *more):
        """What is shown while keys are typed, each list entry at a prompt."""
        pid, terminal = pty.fork()
        if pid == 0:
            os.environ["TERM"] = term
            os.execv(HYDRALM, [HYDRALM, *self.flags(*more)])
        shown = b""
        for keys in typed:
            shown += self.until(terminal, b"> ")
            os.write(terminal, keys)
        try:
            while True:
                self.assertTrue(select.select([terminal], [], [], 60)[0], shown)
                chunk = os.read(terminal, 4096)
                if not chunk:
                    break
                shown += chunk
        except OSError:  # the other side is closed
            pass
        os.close(terminal)
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown

    def until(self, terminal, end):
        shown = b""
        while end not in shown:
            ready, _, _ = select.select([terminal], [], [], 60)
            self.assertTrue(ready, shown)
            shown += os.read(terminal, 4096)
        return shown

    def said(self, typed, term="xterm"):
        state = f"{self.folder}/typed.state"
        status, shown = self.talk([*typed, f"/save {state}\n".encode(), b"/quit\n"], term, "--logit-bias", "2=1e9")
        self.assertEqual(status, 0, shown)
        return [part.split("<|im_end|>")[0] for part in self.held(state).split("<|im_start|>user\n")[1:]]

    def test_lines_are_edited(self):
        left, home, delete = b"\x1b[D", b"\x01", b"\x7f"
        self.assertEqual(self.said([b"hllo" + 3 * left + b"e\n"]), ["hello"])
        self.assertEqual(self.said([b"world" + home + b"my \n"]), ["my world"])
        self.assertEqual(self.said(["caf\u00e9\u00e8".encode() + delete + b"\n"]),
                         ["caf\u00e9"])  # a character, not a byte

    def test_the_history_comes_back(self):
        up = b"\x1b[A"
        self.assertEqual(self.said([b"first\n", b"second\n", up + up + b" again\n"]),
                         ["first", "second", "first again"])

    def test_ctrl_c_drops_the_line_and_ctrl_d_leaves(self):
        status, shown = self.talk([b"half a line\x03", b"\x04"])
        self.assertEqual(status, 0, shown)
        self.assertIn(b"Ctrl-C again", shown)
        self.assertEqual(self.talk([b"\x03", b"\x03"])[0], 130)

    def test_ctrl_d_leaves_behind_one_that_came_too_early(self):
        # what a terminal makes of a Ctrl-D that is typed while an answer runs is a NUL
        self.assertEqual(self.said([b"\0one\n"]), ["one"])
        self.assertEqual(self.talk([b"\0\x04"])[0], 0)

    def test_several_lines(self):
        self.assertEqual(self.said([b'"""\na\nb\n"""\n']), ["a\nb"])

    def test_a_plain_terminal_is_read_line_by_line(self):
        for term in ("dumb", ""):
            self.assertEqual(self.said([b"hello\n"], term), ["hello"])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
