# SPDX-License-Identifier: Apache-2.0
# The C++ sample of specs/interfaces.md: it is examples/library.cc to the letter, and that program, built against the
# libraries, writes what `hydralm generate` writes for every family of models. Not here: the verb itself.
import os
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "tests", "support"))
from tiny_models import FAMILIES, make_model, make_tokenizer, must, run  # noqa: E402

HYDRALM = sys.argv[1] if len(sys.argv) > 1 else "build/release/hydralm"
PROGRAM = os.path.join(os.path.dirname(os.path.abspath(HYDRALM)), "example_library")


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


class Library(unittest.TestCase):
    def test_the_specification_shows_the_program(self):
        section = read("specs", "interfaces.md").split("\n## 7. ")[1]
        shown = [line[4:] for line in section.splitlines() if line.startswith("    ")]
        program = [line for line in read("examples", "library.cc").splitlines() if line]
        while program[0].startswith("//"):
            program.pop(0)
        self.assertEqual([line for line in shown if line], program)

    def test_it_writes_what_generate_writes(self):
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = make_tokenizer(HYDRALM, folder)
            for family in FAMILIES:
                with self.subTest(family=family):
                    model, prompt = make_model(HYDRALM, f"{folder}/{family}", family, tokenizer), "abc def"
                    whole = must(HYDRALM, "generate", "-m", model, "-p", prompt, "-n", "64", "--temp", "0", "-q")
                    done = run(PROGRAM, model, prompt)
                    self.assertEqual((done.returncode, prompt + done.stdout + "\n"), (0, whole), done.stderr)

    def test_errors_are_one_line(self):
        done = run(PROGRAM, "/nothing-here")
        self.assertEqual(done.returncode, 2)
        self.assertRegex(done.stderr, r"^example_library: /nothing-here[^\n]*\n$")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
