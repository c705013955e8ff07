# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=60
"""Every kind of bad file that specs/product.md lists stands by its name in a test beside the reader of its format.
Not here: the cases themselves (x_test.cc)."""
import glob
import os
import re
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# What the specification calls a format, and the tests of its reader.
TESTS = {
    "safetensors": ["hydra/io/safetensors_test.cc", "hydra/convert/open_weights_test.cc"],
    "GGUF": ["hydra/io/gguf_test.cc", "hydra/model/gguf_model_test.cc"],
    "config.json": ["hydra/model/config_test.cc"],
    "tokenizer.json": ["hydra/text/tokenizer_test.cc"],
    "token shards": ["hydra/data/token_shard_test.cc"],
    "checkpoints": ["hydra/train/checkpoint_test.cc", "hydra/train/trainer_test.cc"],
    "States": ["hydra/runtime/state_file_test.cc"],
}
LATER = {"other-plan"}  # no plans yet


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def listed():
    """{format: [names]} of the paragraph "Bad files"."""
    text = read("specs", "product.md")
    text = text[text.index("**Bad files**"):text.index("**Fuzzing**")]
    found = {}
    for match in re.finditer(r"(?:^- |\. )([A-Za-z_. ]+?): (.*?)(?=\n- |\. [A-Z][a-z ]+: |\Z)", text, re.S | re.M):
        words = re.split(r"[,;]\s*", match.group(2).replace("index:", "").strip())
        found[match.group(1)] = [re.sub(r"\s+", " ", word).strip(" .\n") for word in words]
    return found


class BadFiles(unittest.TestCase):
    def test_each_name_is_in_a_test(self):
        names = listed()
        for kind, tests in TESTS.items():
            text = "".join(read(*test.split("/")) for test in tests)
            self.assertGreaterEqual(len(names.get(kind, [])), 4, f"{kind}: the list was not found")
            missing = [
                name for name in names[kind]
                if name not in LATER and not re.search(r"(?<![a-z0-9])" + re.escape(name) + r"(?![a-z0-9])", text)]
            self.assertEqual(missing, [], f"{kind}: no test has these names")

    def test_each_format_has_a_fuzz_target(self):
        targets = {os.path.basename(path)[:-3] for path in glob.glob(os.path.join(ROOT, "fuzz", "*.cc"))}
        wanted = {
            "safetensors", "gguf", "config", "tokenizer_file", "encode_decode", "token_shard", "state_file", "chat"}
        self.assertEqual(wanted - targets, set())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
