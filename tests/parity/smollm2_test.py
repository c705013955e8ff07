# SPDX-License-Identifier: Apache-2.0
# ctest: serial timeout=600
# SmolLM2-135M-Instruct (Q4_1 GGUF) against what llama.cpp says of it (tests/golden/smollm2.json): token ids, best
# tokens, perplexity. HYDRALM_FULL=1 takes all 50,176 tokens of the perplexity instead of 8,192. Not here: speed
# (bench/).
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = json.loads((ROOT / "tests/golden/smollm2.json").read_text())
MARGIN = 0.25       # logits: another best token is a near miss where both programs have the two this close
NEAR_MISSES = 5     # of 200 tokens, the most (3 were seen); 19 of them have a second one within the margin
PERPLEXITY = 0.005  # relative


def must(*command, **options):
    made = subprocess.run(command, capture_output=True, **options)
    assert made.returncode == 0, made.stderr
    return made.stdout


class SmolLM2Test(unittest.TestCase):
    def test_file_is_the_golden_one(self):
        self.assertEqual(hashlib.sha256(Path(MODEL).read_bytes()).hexdigest(), GOLDEN["model_sha256"])

    def test_token_ids_equal_those_of_llama_cpp(self):
        for row in GOLDEN["texts"]:
            ids = must(HYDRALM, "tokenizer", "encode", "-m", MODEL, input=row["text"].encode())
            self.assertEqual([int(i) for i in ids.split()], row["ids"], row["text"])

    def test_best_tokens_equal_those_of_llama_cpp(self):
        ids = GOLDEN["prompt"] + GOLDEN["greedy"]
        with tempfile.TemporaryDirectory() as folder:
            out = f"{folder}/logits.npy"
            must(HYDRALM, "logits", "-m", MODEL, "--ids", ",".join(map(str, ids)), "-o", out)
            rows = np.load(out)[len(GOLDEN["prompt"]) - 1:-1]
        self.assertEqual(len(rows), 200)
        near = []
        for step, (row, want, margin) in enumerate(zip(rows, GOLDEN["greedy"], GOLDEN["margins"])):
            got = int(row.argmax())
            if got == want:
                continue
            ours = float(row[got] - row[want])
            near.append(f"step {step}: {got} by {ours:.3f}, llama.cpp has {want} by {margin:.3f}")
            self.assertLessEqual(max(margin, ours), MARGIN, near[-1])
        print(f"{200 - len(near)} of 200 best tokens are llama.cpp's; near misses:", "; ".join(near) or "none")
        self.assertLessEqual(len(near), NEAR_MISSES, near)

    @unittest.skipIf(os.environ.get("HYDRALM_SANITIZE"), "minutes in a sanitised build, which looks for something else")
    def test_perplexity_is_that_of_llama_cpp(self):
        text = must("sh", str(ROOT / "tools/kjv.sh"))
        self.assertEqual(hashlib.sha256(text).hexdigest(), GOLDEN["text_sha256"])
        row = GOLDEN["perplexity"][1 if os.environ.get("HYDRALM_FULL") else 0]
        with tempfile.TemporaryDirectory() as folder:
            whole, part = Path(folder) / "whole.txt", Path(folder) / "part.txt"
            whole.write_bytes(text[:600_000])
            ids = must(HYDRALM, "tokenizer", "encode", "-m", MODEL, str(whole)).split()
            # A few more tokens than whole pieces of 512: what is left over is not scored.
            part.write_bytes(
                must(HYDRALM, "tokenizer", "decode", "-m", MODEL, input=b" ".join(ids[:row["tokens"] + 64])))
            made = json.loads(must(HYDRALM, "bench", "-m", MODEL, "--ppl", str(part), "-o", "json"))
        got = (made[0] if isinstance(made, list) else made)["perplexity"]["value"]
        print(f"perplexity {got:.4f}, llama.cpp {row['value']:.4f} on {row['tokens']} tokens")
        self.assertLess(abs(got / row["value"] - 1), PERPLEXITY)


if __name__ == "__main__":
    HYDRALM = sys.argv[1]
    fetched = subprocess.run(["sh", str(ROOT / "tools/smollm2.sh")], capture_output=True, text=True)
    if fetched.returncode != 0:
        print("skipped:", fetched.stderr.strip())
        sys.exit(77)
    MODEL = fetched.stdout.strip()
    unittest.main(argv=sys.argv[:1])
