# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=600
# `hydralm chat` from outside: turns and templates, its commands, signals, what is kept. Not here: how typed lines come
# to the model (chat_test.py).
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from runtime_case import HYDRALM, RuntimeTest  # noqa: E402
from tiny_models import run  # noqa: E402


class Chat(RuntimeTest):
    def chat(self, lines, *flags, family="llama", **options):
        return self.verb("chat", family, "--chat-template", "chatml", "--temp", "0", "-n", "6", *flags,
                         input="".join(line + "\n" for line in lines), **options)

    def test_piped(self):
        got = self.chat(["hello", "", "and now?"])
        self.assertEqual(got.returncode, 0, got)
        self.assertIn("template chatml", got.stderr)
        self.assertEqual(got.stdout, self.chat(["hello", "and now?"], "-q").stdout)
        self.assertGreaterEqual(got.stdout.count("\n"), 2)
        self.assertEqual(self.chat(["hello"], "-q").stderr.count("model  "), 0)

    def test_a_turn_reads_its_own_tokens_only(self):
        got = self.chat(["hello there", "/stats", "go on", "/stats"], "-q")
        read = [int(n) for n in re.findall(r"read (\d+) tokens", got.stderr)]
        context = [int(n) for n in re.findall(r"context (\d+) of", got.stderr)]
        self.assertEqual(len(read), 2, got)
        self.assertLess(read[1], context[0] + 1)
        wrote = [int(n) for n in re.findall(r"wrote (\d+)", got.stderr)]
        turn = len(self.ids("<|im_end|>\n<|im_start|>user\ngo on<|im_end|>\n<|im_start|>assistant\n"))
        self.assertIn(read[1], (turn, turn + 1))  # and the last token of the answer where that was cut off
        self.assertLessEqual(abs(context[1] - context[0] - turn - wrote[1]), 1)

    def test_the_conversation_is_the_template(self):
        """What the state holds equals the template's text, answer included."""
        state = self.path("state")
        got = self.chat(["hello", f"/save {state}"], "--system", "be brief", "-q")
        self.assertEqual(got.returncode, 0, got)
        answer = got.stdout.rstrip("\n")
        text = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n"
        prompt = self.ids(text)
        held = self.held(state)
        self.assertEqual(held[:len(prompt)], prompt)
        kept = " ".join(map(str, held[len(prompt):]))
        said = run(HYDRALM, "tokenizer", "decode", "-m", self.tokenizer, input=kept).stdout
        self.assertTrue(said.startswith(answer), (said, answer))

    def held(self, state):
        """All tokens of a saved conversation."""
        data = Path(state).read_bytes()
        n = int.from_bytes(data[:8], "little")
        head = json.loads(data[8:8 + n])
        return [
            id for name in ("ids", "pending")
            for id in np.frombuffer(data[8 + n:][slice(*head[name]["data_offsets"])], "<i4").tolist()]

    def test_turns_follow_one_another_as_the_template_says(self):
        """With a model that says its end at once, the state holds the template's text exactly."""
        state = self.path("state")
        for form, end, text in (
            ("chatml", 2,
             "<|im_start|>user\nhello<|im_end|>\n<|im_start|>assistant\n<|im_end|>\n<|im_start|>user\ngo on<|im_end|>\n"
             "<|im_start|>assistant\n<|im_end|>"),
            ("llama2", 0, "[INST] hello [/INST]<|endoftext|>[INST] go on [/INST]<|endoftext|>")):
            got = self.verb("chat", "llama", "--chat-template", form, "--temp", "0", "-q", "--logit-bias", f"{end}=1e9",
                            input=f"hello\ngo on\n/save {state}\n")
            self.assertEqual((got.returncode, got.stdout), (0, "\n\n"), got)
            self.assertEqual(self.held(state), self.ids(text), form)

    def test_the_plain_form_ends_answers_where_a_user_would_speak(self):
        got = self.verb("chat", "mamba2", "--chat-template", "plain", "--temp", "0", "-q", "-n", "4",
                        input=f"hello\ngo on\n/save {self.path('state')}\n")
        self.assertEqual(got.returncode, 0, got)
        held = self.held(self.path("state"))
        self.assertEqual(held[:len(self.ids("User: hello\n"))], self.ids("User: hello\n"))
        text = run(HYDRALM, "tokenizer", "decode", "-m", self.tokenizer, input=" ".join(map(str, held))).stdout
        self.assertRegex(text, r"(?s)^User: hello\nAssistant:.*\nUser: go on\nAssistant:")

    def test_save_load_reset(self):
        state = self.path("state")
        whole = self.chat(["hello", "go on"], "-q").stdout
        first = self.chat(["hello", f"/save {state}"], "-q").stdout
        second = self.chat([f"/load {state}", "go on"], "-q").stdout
        self.assertEqual(first + second, whole)
        again = self.chat(["hello", "/reset", "hello"], "-q").stdout
        self.assertEqual(again, 2 * self.chat(["hello"], "-q").stdout)

    def test_guesses_change_no_answer(self):
        lines = ["a b a b a b a b", "again: a b a b a b", "/stats"]
        for family, drafter in (("llama", "ngram"), ("llama", self.models["llama"]), ("hydra", "self")):
            with self.subTest(family=family, drafter=drafter):
                plain, guessed = (self.chat(lines, *flags, family=family)
                                  for flags in ((), ("--spec", drafter, "--spec-n", "3")))
                self.assertEqual((guessed.returncode, guessed.stdout), (0, plain.stdout), guessed)
                self.assertNotIn("speculation", plain.stderr)
                self.assertRegex(guessed.stderr, r"(?m)^\(speculation .*: [0-9]+ tokens in [0-9]+ passes, .*\)$")
        self.refuse(self.chat(lines, "-q", "--spec", "self"), "--spec self: this model has no path")

    def test_commands(self):
        got = self.chat(["/quit", "hello"], "-q")
        self.assertEqual((got.returncode, got.stdout), (0, ""))
        self.refuse(self.chat(["/qui"], "-q"), r"/qui: unknown command \(did you mean /quit\?\)")
        self.refuse(self.chat(["/save"], "-q"), "needs a file")
        self.refuse(self.chat(["/load /nothing"], "-q"), "/nothing")

    def test_special_tokens_of_strangers_are_text(self):
        """What a user types never ends a turn."""
        got = self.chat(["<|im_end|>", "/stats"], "-q")
        self.assertGreater(int(re.search(r"read (\d+) tokens", got.stderr).group(1)),
                           len(self.ids("<|im_start|>user\n<|im_end|><|im_end|>\n<|im_start|>assistant\n")))

    def test_unknown_templates(self):
        self.refuse(self.verb("chat", "llama", "--chat-template", "jinja", "-q"), "jinja")

    def test_ctrl_c_stops_the_answer_and_not_the_program(self):
        command = [
            HYDRALM, "chat", "-m", self.models["hydra"], "--chat-template", "chatml", "--temp", "0", "-n", "-1", "-q",
            "--logit-bias", "0=-1e9", "--logit-bias", "2=-1e9"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE) as process:
            process.stdin.write(b"hello\n")
            process.stdin.flush()
            process.stdout.read(60)
            process.send_signal(signal.SIGINT)
            time.sleep(0.3)
            process.stdin.write(b"/stats\n/quit\n")
            process.stdin.flush()
            _, err = process.communicate(timeout=60)
        self.assertEqual(process.returncode, 0, err)
        self.assertIn(b"last turn: read", err)

    def test_at_a_terminal_a_second_ctrl_c_leaves(self):
        command = [
            HYDRALM, "chat", "-m", self.models["hydra"], "--chat-template", "chatml", "--temp", "0", "-n", "3", "-q"]
        for typed, status in ((["/quit\n"], 0), (["\x04"], 0), (["\x03", "\x03"], 130),
                              (["\x03", "/typo\n", "hello\n", "\x03", "\x03"], 130)):
            shown = b""
            pid, terminal = pty.fork()
            if pid == 0:
                os.execv(command[0], command)
            for keys in typed:
                shown += self.until_prompt(terminal)
                os.write(terminal, keys.encode())
            try:
                while chunk := self.read(terminal, shown):
                    shown += chunk
            except OSError:  # the other side is closed
                pass
            self.assertEqual(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), status, (typed, shown))
            os.close(terminal)
            if len(typed) > 2:  # a mistake does not end it
                self.assertIn(b"/typo: unknown command", shown)

    def until_prompt(self, terminal):
        shown = b""
        while b"> " not in shown:
            shown += self.read(terminal, shown)
        return shown

    def read(self, terminal, shown):
        ready, _, _ = select.select([terminal], [], [], 60)
        self.assertTrue(ready, shown)
        return os.read(terminal, 4096)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
