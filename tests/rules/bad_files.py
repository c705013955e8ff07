# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
"""Every kind of bad file that specs/product.md lists is refused by a test that read the message: file, field and value
stood where they belong (ExpectBadFile of hydra/base/testing.h prints the names of such cases). The tests are run here
and asked for their names. Not here: the cases themselves (x_test.cc)."""
import glob
import os
import re
import subprocess
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
BUILD = os.path.dirname(os.path.abspath(sys.argv[1])) if len(sys.argv) > 1 else os.path.join(ROOT, "build", "release")
TORCH = len(sys.argv) > 2 and sys.argv[2]

# What the specification calls a format, and which cases of which test programs have its bad files.
TESTS = {
    "safetensors": [("io_test", "SafeTensors.Refuses*:Shards.Refuse*"), ("convert_test", "ModelFolder.ATiedModel*")],
    "GGUF": [("io_test", "GgufTest.Refuses*:GgufTest.Getters*"), ("model_test", "GgufModelTest.Refuses*")],
    "config.json": [("model_test", "Config.BadFiles*")],
    "tokenizer.json": [("text_test", "TokenizerFile.RefusesBadFiles*")],
    "tokenizer.model": [("text_test", "SentencePiece.RefusesBadFiles")],
    "token shards": [("data_test", "BadShard.EachKind*:Dataset.Foreign*")],
    "checkpoints": [("train_test", "Checkpoint.BadOnes*:Checkpoint.LatestThatDangles*:Trainer.CheckpointsOfOther*")],
    "pytorch_model.bin": [("convert_test", "TorchFileTest.RefusesBadFiles")],
    "plans": [("model_test", "AttentionPlan.BadFiles*:AttentionPlan.OtherModels*")],
    "States": [("runtime_test", "BadState.*")],
}
LATER = {"other-plan"}  # no plans yet


def listed():
    """{format: [names]} of the paragraph "Bad files"."""
    with open(os.path.join(ROOT, "specs", "product.md"), encoding="utf-8") as file:
        text = file.read()
    text = text[text.index("**Bad files**"):text.index("**Fuzzing**")]
    found = {}
    for match in re.finditer(r"(?:^- |\. )([A-Za-z_. ]+?): (.*?)(?=\n- |\. [A-Z][a-z ]+: |\Z)", text, re.S | re.M):
        words = re.split(r"[,;]\s*", match.group(2).replace("index:", "").strip())
        found[match.group(1)] = [re.sub(r"\s+", " ", word).strip(" .\n") for word in words]
    return found


def held(kind, program, cases):
    """Names of one format whose messages a test program found right."""
    done = subprocess.run([os.path.join(BUILD, program), "--gtest_filter=" + cases], capture_output=True, text=True,
                          cwd=ROOT, timeout=240)
    assert done.returncode == 0, f"{program} {cases}: status {done.returncode}\n{done.stdout[-3000:]}{done.stderr}"
    return set(re.findall(rf"^bad file {re.escape(kind)}: ([\w-]+): \S", done.stdout, re.M))


class BadFiles(unittest.TestCase):
    def test_each_name_is_of_a_case_whose_message_was_read(self):
        names = listed()
        for kind, programs in TESTS.items():
            with self.subTest(kind):
                self.assertGreaterEqual(len(names.get(kind, [])), 4, f"{kind}: the list was not found")
                if programs[0][0] == "train_test" and not TORCH:
                    continue  # not built without LibTorch
                seen = set().union(*(held(kind, program, cases) for program, cases in programs))
                self.assertEqual([name for name in names[kind] if name not in seen | LATER], [])

    def test_each_format_has_a_fuzz_target(self):
        targets = {os.path.basename(path)[:-3] for path in glob.glob(os.path.join(ROOT, "fuzz", "*.cc"))}
        wanted = {
            "safetensors", "gguf", "config", "tokenizer_file", "encode_decode", "token_shard", "state_file", "chat",
            "pickle", "plan", "torch_bin", "tokenizer_model"}
        self.assertEqual(wanted - targets, set())


if __name__ == "__main__":
    if len(sys.argv) < 2 and not os.path.exists(os.path.join(BUILD, "io_test")):
        print(f"skipped: no tests in {BUILD}; give the path of hydralm in a build that has them")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
