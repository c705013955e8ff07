# SPDX-License-Identifier: Apache-2.0
# What the tests of the verbs that run a model share: three tiny models, and looks at what a verb printed.
import os
import sys
import tempfile
import unittest
from pathlib import Path

from tiny_models import make_model, make_text, make_tokenizer, run

HYDRALM = os.path.abspath(sys.argv[1])
TRAIN = sys.argv[2] if len(sys.argv) > 2 else ""
PROMPT = make_text(5, 12)


class RuntimeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        cls.tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.models = {family: make_model(HYDRALM, f"{cls.folder}/{family}", family, cls.tokenizer)
                      for family in ("hydra", "llama", "mamba2")}

    @classmethod
    def tearDownClass(cls):
        cls.temporary.cleanup()

    def verb(self, name, family, *flags, **options):
        return run(HYDRALM, name, "-m", self.models[family], *flags, **options)

    def done(self, *args, **options):
        """stdout of a verb that must succeed."""
        got = self.verb(*args, **options)
        self.assertEqual(got.returncode, 0, got)
        return got.stdout

    def generate(self, family, *flags, **options):
        return self.done("generate", family, "-q", "--temp", "0", *flags, **options)

    def refuse(self, got, pattern):
        self.assertEqual(got.returncode, 2, got)
        self.assertEqual(got.stdout if isinstance(got.stdout, str) else "", "", got)
        self.assertEqual(got.stderr.count("\n"), 1, got.stderr)
        self.assertTrue(got.stderr.startswith("hydralm: "), got.stderr)
        self.assertRegex(got.stderr, pattern)

    def path(self, name):
        return f"{self.folder}/{self.id().split('.')[-1]}-{name}"

    def ids(self, text):
        return [int(i) for i in run(HYDRALM, "tokenizer", "encode", "-m", self.tokenizer, input=text).stdout.split()]
