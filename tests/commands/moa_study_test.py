# SPDX-License-Identifier: Apache-2.0
# ctest: torch slow timeout=900
# The study of attention plans (bench/moa.py) with settings so small that it takes a minute: each step leaves its cells,
# a second call makes nothing again, the page has every table. Not here: what a study finds.
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import make_model, make_text, make_tokenizer  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
ROOT = Path(__file__).parents[2]


@unittest.skipUnless((ROOT / ".git").exists(), "pages name a commit")
class Study(unittest.TestCase):
    def test_from_the_gate_to_the_page(self):
        with tempfile.TemporaryDirectory() as folder:
            model = make_model(HYDRALM, f"{folder}/llama", "llama", make_tokenizer(HYDRALM, folder),
                               max_position_embeddings=4096)
            texts = Path(f"{folder}/texts")
            texts.mkdir()
            for i in range(12):
                words = make_text(100 + i, 3000).split()
                (texts / f"book{i}.txt").write_text("".join(w + (". " if n % 9 == 8 else " ")
                                                            for n, w in enumerate(words)))
            command = [sys.executable, str(ROOT / "bench/moa.py"), os.path.dirname(HYDRALM), "--no-build", "--model",
                       model, "--text", str(texts), "--runs", f"{folder}/runs", "--cells", f"{folder}/cells", "--out",
                       f"{folder}/results", "--lengths", "1536,2048", "--long", "3072", "--unseen", "3072",
                       "--densities", "0.5,0.25", "--kinds", "copy,lookup",
                       "--items", "2", "--texts", "1", "--depths", "2", "--seeds", "1",
                       "--shuffles", "1", "--random", "3", "--ppl-tokens", "8192", "--keep", "all", "--threads", "1"]
            done = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            for step in ("gate", "profile", "plans", "test"):
                self.assertRegex(done.stdout, rf"(?m)^{step}: \d+ of \d+ cells are to be made, about \d")
            page = next(Path(f"{folder}/results").glob("*/moa.md"))
            text = page.read_text()
            for head in ("## What the dense model answers", "## Profiles", "## Plans", "## Answers: copy",
                         "## Answers: lookup", "## Answers: passkey", "## Answers: cloze", "## Answers: continuation",
                         "## What documents say next: the largest drop", "## Perplexity"):
                self.assertIn(head, text)
            self.assertGreater(len(json.loads(page.with_suffix(".json").read_text())["cells"]), 10)
            again = subprocess.run(command, capture_output=True, text=True)
            self.assertEqual(again.returncode, 0, again.stderr)
            for step in ("gate", "profile", "plans", "test"):
                self.assertRegex(again.stdout, rf"(?m)^{step}: 0 of ")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
