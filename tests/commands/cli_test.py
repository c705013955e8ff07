# SPDX-License-Identifier: Apache-2.0
# Both commands from outside: every verb that is listed has help, obeys the exit statuses and names near flags; verbs of
# hydralm-train are handed over. Not here: what the verbs do (their own tests).
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

HYDRALM = sys.argv[1] if len(sys.argv) > 1 else "build/release/hydralm"
TRAIN = sys.argv[2] if len(sys.argv) > 2 else ""
SCREEN = 50  # lines
HANDED = {"train", "profile", "evidence"}  # run by hydralm-train


def run(*args, command=None, env=None, **more):
    full = {key: value for key, value in os.environ.items() if not key.startswith("HYDRALM_ARG_")}
    full.update(env or {})
    return subprocess.run([command or HYDRALM, *args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                          env=full, stdin=subprocess.DEVNULL, timeout=120, **more)


def rows(text):
    """First words of the indented lines: verbs in a list of verbs."""
    return re.findall(r"^  ([a-z]+)  +\S", text, re.M)


def all_verbs():
    """Every verb, with sub-verbs as lists: [["inspect"], ["data", "build"], ...]."""
    found = []
    for verb in rows(run().stdout):
        text = run(verb, "--help").stdout
        found += [[verb, sub] for sub in rows(text)] or [[verb]]
    return found


class Commands(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.verbs = all_verbs()

    def assert_error(self, done, pattern):
        self.assertEqual(done.returncode, 2, done)
        self.assertRegex(done.stderr, pattern)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)

    def test_verbs_are_listed(self):
        self.assertGreaterEqual(len(self.verbs), 1)
        self.assertEqual(run().returncode, 0)

    def test_help_has_an_example_and_fits_a_screen(self):
        for verb in self.verbs + [[verb[0]] for verb in self.verbs if len(verb) > 1]:
            with self.subTest(verb=verb):
                done = run(*verb, "--help")
                if not TRAIN and verb[0] in HANDED:  # a build without LibTorch says how to get it
                    self.assert_error(done, verb[0] + " needs hydralm-train, which was not built")
                    continue
                self.assertEqual(done.returncode, 0, done)
                self.assertRegex(done.stdout, r"^Example: [^\n]*hydralm " + " ".join(verb))
                self.assertLessEqual(done.stdout.count("\n"), SCREEN)
                self.assertLessEqual(max(map(len, done.stdout.splitlines()[1:])), 120)
                self.assertEqual(done.stderr, "")

    def test_unknown_flags_are_refused(self):
        for verb in self.verbs:
            with self.subTest(verb=verb):
                done = run(*verb, "--no-such-flag")
                self.assertEqual(done.returncode, 2, done)
                self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
                self.assertTrue(done.stderr.startswith("hydralm: "), done.stderr)

    def test_near_names_are_suggested(self):
        self.assert_error(run("inspec"), r"unknown verb inspec \(did you mean inspect\?\)")
        self.assert_error(run("inspect", "--presett", "x"), r"--presett \(did you mean --preset\?\)")

    def test_a_flag_given_twice_is_refused(self):
        self.assert_error(run("inspect", "--preset", "hydra-nano", "-c", "8", "-c", "9"),
                          "--ctx.*: given more than once$")

    def test_versions_agree(self):
        done = run("--version")
        self.assertRegex(done.stdout, r"^hydralm \d+\.\d+\.\d+\n$")
        if TRAIN:
            self.assertEqual(run("--version", command=TRAIN).stdout, done.stdout)

    def test_variables(self):
        self.assert_error(run(env={"HYDRALM_ARG_NO_SUCH": "1"}), "HYDRALM_ARG_NO_SUCH: no verb has such a flag")
        done = run("inspect", "--preset", "hydra-nano", env={"HYDRALM_ARG_JSON": "1"})
        self.assertEqual(done.returncode, 0, done)
        json.loads(done.stdout)
        self.assert_error(run("inspect", "--preset", "hydra-nano", env={"HYDRALM_ARG_JSON": "maybe"}),
                          r"--json maybe: must be true or false \(HYDRALM_ARG_JSON sets it\)")

    def test_variables_of_the_other_command_are_known(self):
        if not TRAIN:
            self.skipTest("built without LibTorch")
        own = set(run("--list-flags").stdout.split())
        other = set(run("--list-flags", command=TRAIN).stdout.split())
        for flag in sorted(other - own)[:1]:
            env = {"HYDRALM_ARG_" + flag.upper().replace("-", "_"): "1"}
            self.assertEqual(run("--version", env=env).returncode, 0)
        for flag in sorted(own - other)[:1]:
            env = {"HYDRALM_ARG_" + flag.upper().replace("-", "_"): "1"}
            self.assertEqual(run("--version", command=TRAIN, env=env).returncode, 0)

    def test_without_hydralm_train_its_verbs_say_how_to_get_it(self):
        with tempfile.TemporaryDirectory() as folder:
            alone = shutil.copy(HYDRALM, folder)
            for verb in rows(run(command=alone).stdout):
                done = run(verb, "--help", command=alone)
                if done.returncode == 0:
                    continue
                self.assert_error(done, rf"^hydralm: {verb} needs hydralm-train, which was not built "
                                        r"\(no LibTorch was found\): make setup-torch && make$")

    def test_a_full_disk_is_one_line(self):
        if not os.path.exists("/dev/full"):
            self.skipTest("no /dev/full")
        with open("/dev/full", "w", encoding="ascii") as full:
            done = subprocess.run([HYDRALM, "inspect", "--preset", "hydra-nano"], stdout=full, stderr=subprocess.PIPE,
                                  text=True, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertEqual(done.stderr, "hydralm: stdout: No space left on device\n")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
