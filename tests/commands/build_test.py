# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=120
# What the build promises: `make demo` and `make chat` compile no test; the table of verbs that CMake writes follows
# hydra/cli/verbs.h and takes no helper for a verb; hydralm-train answers MKL's question. Not here: whether it compiles.
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HYDRALM = sys.argv[1] if len(sys.argv) > 1 else "build/release/hydralm"
TRAIN = sys.argv[2] if len(sys.argv) > 2 else ""
BUILD = os.path.dirname(os.path.abspath(HYDRALM))


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=60, **options)


def write(folder, path, text):
    full = os.path.join(folder, path)
    os.makedirs(os.path.dirname(full), exist_ok=True)
    with open(full, "w", encoding="ascii") as file:
        file.write(text)


class FirstContact(unittest.TestCase):
    def steps(self, target):
        """What building a target runs, a command a line."""
        made = run("ninja", "-C", BUILD, "-t", "commands", target)
        self.assertEqual(made.returncode, 0, made.stderr)
        return made.stdout.splitlines()

    def test_the_commands_are_built_without_any_test(self):
        steps = self.steps("commands")
        self.assertTrue(any("-o hydralm " in step or step.endswith("-o hydralm") for step in steps), steps[-3:])
        self.assertEqual([step for step in steps if "_test" in step or "gtest" in step], [])
        self.assertGreater(len(self.steps("all")), len(steps))

    def test_demo_and_chat_build_no_more_than_that(self):
        for target, wanted in (("demo", "commands"), ("chat", "hydralm")):
            made = run("make", "-n", target, cwd=ROOT, env={**os.environ, "MAKEFLAGS": ""})
            self.assertEqual(made.returncode, 0, made.stderr)
            self.assertEqual(re.findall(r"^tools/build\.sh \S+ ?(.*)$", made.stdout, re.M), [wanted], made.stdout)


class VerbTables(unittest.TestCase):
    def tables(self, files, verbs="Beta AlphaTwo Both"):
        """hydralm_table.h and train_table.h of a tree that has these sources, or CMake's error."""
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(os.path.join(ROOT, "cmake"), os.path.join(folder, "cmake"))
            lines = [f'inline constexpr VerbLine k{verb}Verb{{"{verb}", "words"}};\n' for verb in verbs.split()]
            write(folder, "hydra/cli/verbs.h", "".join(lines))
            for name in files.split():
                write(folder, "hydra/cli/" + name, "")
            write(
                folder, "run.cmake",
                "include(cmake/HydraTargets.cmake)\nset(CMAKE_BINARY_DIR ${CMAKE_SOURCE_DIR}/out)\n"
                "hydra_verb_tables()\n")
            made = run("cmake", "-P", "run.cmake", cwd=folder)
            if made.returncode != 0:
                return made.stderr
            paths = [
                os.path.join(folder, "out/generated/hydra/cli", f"{name}_table.h") for name in ("hydralm", "train")]
            texts = []
            for path in paths:
                with open(path, encoding="ascii") as file:
                    texts.append(re.findall(r"return \{(.*)\};", file.read()))
            return texts

    def test_verbs_stand_in_the_order_of_their_list(self):
        helpers = "verb_beta_rows.cc verb_runtime.cc torch_flags.cc"
        files = f"verb_both.cc verb_beta.cc torch_alpha_two.cc torch_both.cc {helpers}"
        self.assertEqual(self.tables(files), [["AddBetaVerb, AddBothVerb", "kAlphaTwoVerb"],
                                              ["AddAlphaTwoVerb, AddBothVerb", ""]])

    def test_a_verb_without_a_file_is_an_error(self):
        self.assertIn("kBetaVerb", self.tables("verb_both.cc torch_alpha_two.cc"))

    def test_hydralm_lists_them_so(self):
        with open(os.path.join(ROOT, "hydra/cli/verbs.h"), encoding="ascii") as file:
            names = re.findall(r'VerbLine k\w+Verb\{"(\w+)"', file.read())
        listed = re.findall(r"^  ([a-z]+)  +\S", run(HYDRALM).stdout, re.M)
        self.assertGreater(len(names), 8)
        self.assertEqual(listed, names)


class Mkl(unittest.TestCase):
    def test_hydralm_train_answers_for_the_maker_of_the_processor(self):
        if not TRAIN:
            self.skipTest("built without LibTorch")
        symbols = run("nm", "-D", "--defined-only", TRAIN)
        self.assertEqual(symbols.returncode, 0, symbols.stderr)
        self.assertRegex(symbols.stdout, r"(?m) T mkl_serv_intel_cpu_true$")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
