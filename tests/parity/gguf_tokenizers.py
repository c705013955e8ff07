# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
"""Tokenizers of GGUF files that Python's `gguf` writes: `hydralm convert` makes a folder of them whose ids Python's
`tokenizers` gives too, wherever special tokens lie, by every name of a pre-tokenizer, and for SentencePiece's scores.

Called with the path of hydralm. Not here: tensors (gguf_test.py), tokenizer.json files of others
(tokenizer_parity.py)."""
import json
import random
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

try:
    import gguf
    import numpy as np
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
except ImportError as missing:
    print(f"skipped: {missing}")
    sys.exit(77)

HYDRALM = sys.argv[1]
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
TEXT = (
    "The the then 12 123 1234567 don't DON'T they'll x=y+$5 \u00e9t\u00e9 e\u0301 \u6f22\u5b57 \u3042\n\n\tif (a) {\r\n"
    "  return camelCase; } ... ` ~ ^| \u00a0 end\n ")
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
CASES = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+END"
         r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*END"
         r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
CJK = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+"
DEEPSEEK_V3 = (r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
               r"| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
# Patterns by name, one after the other, as llama.cpp lists them.
PATTERNS = {
    "gpt-2": [GPT2], "mpt": [GPT2], "llama-bpe": [LLAMA3], "llama3": [LLAMA3], "dbrx": [LLAMA3],
    "smollm": [r"\p{N}", GPT2], "starcoder": [r"\p{N}", GPT2], "codeshell": [r"\p{N}", GPT2],
    "qwen2": [QWEN2], "deepseek-r1-qwen": [QWEN2], "stablelm2": [QWEN2],
    "gpt-4o": [CASES.replace("END", "(?i:'s|'t|'re|'ve|'m|'ll|'d)?")],
    "tekken": [CASES.replace("END", "").replace("{1,3}", "")],
    "deepseek-coder": [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+", r"\p{N}"],
    "deepseek-v3": [r"\p{N}{1,3}", CJK, DEEPSEEK_V3],
    "falcon": [r"[\p{P}\$\+<=>\^~\|`]+", GPT2, "[0-9][0-9][0-9]"],
    "default": [r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
    "bloom": [" ?[^(\\s|.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c)]+"],
}
NFC = ("qwen2", "deepseek-r1-qwen")
IGNORE_MERGES = ("llama-bpe", "llama3", "tekken")


def byte_alphabet():
    printable = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(256 - len(printable))]


def trained_merges(n=400):
    """Words and merges of a tokenizer without any pre-tokenizer, so that every pattern splits them otherwise."""
    from tokenizers import trainers
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    pieces = [TEXT[i:i + 9] for i in range(len(TEXT))]
    tokenizer.train_from_iterator(pieces, trainers.BpeTrainer(
        vocab_size=256 + n, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    model = json.loads(tokenizer.to_str())["model"]
    merges = [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    return list(dict.fromkeys(a + b for a, b in merges)), [f"{a} {b}" for a, b in merges]


def write_gguf(path, tokens, types, **keys):
    """A llama of one layer; `keys` are tokenizer keys: merges, scores, pre, add_bos_token, ..."""
    rng = np.random.default_rng(1)
    writer = gguf.GGUFWriter(str(path), "llama")
    for add, value in ((writer.add_block_count, 1), (writer.add_context_length, 64), (writer.add_embedding_length, 16),
                       (writer.add_feed_forward_length, 16), (writer.add_head_count, 2), (writer.add_head_count_kv, 2),
                       (writer.add_layer_norm_rms_eps, 1e-5), (writer.add_rope_freq_base, 10000.0),
                       (writer.add_vocab_size, len(tokens))):
        add(value)
    writer.add_tokenizer_model(keys.pop("model", "gpt2"))
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    merges, scores, pre = keys.pop("merges", None), keys.pop("scores", None), keys.pop("pre", None)
    if merges is not None:
        writer.add_token_merges(merges)
    if scores is not None:
        writer.add_token_scores(scores)
    if pre is not None:
        writer.add_tokenizer_pre(pre)
    for key, value in keys.items():
        if isinstance(value, bool):
            writer.add_bool(f"tokenizer.ggml.{key}", value)
        else:
            writer.add_uint32(f"tokenizer.ggml.{key}", value)

    def tensor(name, *shape):
        writer.add_tensor(name + ".weight", (rng.standard_normal(shape) * 0.1).astype(np.float32))

    tensor("token_embd", len(tokens), 16)
    tensor("output_norm", 16)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"):
        tensor(f"blk.0.{name}", 16, 16)
    for name in ("attn_norm", "ffn_norm"):
        tensor(f"blk.0.{name}", 16)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def hydralm(*args, **options):
    done = subprocess.run([HYDRALM, *map(str, args)], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{args}: status {done.returncode}: {done.stderr}"
    return done.stdout


def spm_pieces(rng):
    """(text, score, type): words made of others, best score first, then the characters, bytes, tokens of users."""
    known = ["\u2581"] + list("abcdefgh\u00e9<s>/") + ["\u6f22"]
    characters = len(known)
    while len(known) < characters + 250:
        word = rng.choice(known) + rng.choice(known)
        if len(word) < 10 and word not in known and word != "</s>":
            known.append(word)
    pieces = [("<unk>", 0.0, UNKNOWN), ("<s>", 0.0, CONTROL), ("</s>", 0.0, CONTROL)]
    pieces += [(f"<0x{b:02X}>", 0.0, BYTE) for b in range(256)]
    pieces += [(w, -float(i), NORMAL) for i, w in enumerate(known[characters:])]
    pieces += [(w, -1000.0 - i, NORMAL) for i, w in enumerate(known[:characters])]
    return pieces + [("@tool@", -1000.0, USER), ("[PAD]", -1000.0, UNUSED)]


def spm_ids(pieces, text):
    """SentencePiece's loop as it is written down: the pair of the highest score, the leftmost of equal ones."""
    ids = {text: (i, score) for i, (text, score, kind) in enumerate(pieces) if kind in (NORMAL, UNUSED)}
    symbols = list(("\u2581" + text).replace(" ", "\u2581")) if text else []
    while True:
        pairs = [(-ids[a + b][1], i) for i, (a, b) in enumerate(zip(symbols, symbols[1:])) if a + b in ids]
        if not pairs:
            break
        at = min(pairs)[1]
        symbols[at:at + 2] = [symbols[at] + symbols[at + 1]]
    out = []
    for symbol in symbols:
        out += [ids[symbol][0]] if symbol in ids else [3 + b for b in symbol.encode()]
    return out


class GgufTokenizers(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.TemporaryDirectory()
        cls.folder = Path(cls.temp.name)
        cls.words, cls.merges = trained_merges()

    @classmethod
    def tearDownClass(cls):
        cls.temp.cleanup()

    def encode(self, model, text, *flags):
        return json.loads(hydralm("tokenizer", "encode", "-m", model, "--json", *flags, input=text))["ids"]

    def folder_of(self, path, *flags):
        out = path.with_suffix("")
        hydralm("convert", path, "-o", out, *flags)
        return out

    def test_special_tokens_keep_their_ids_wherever_they_lie(self):
        special = ["<|end|>", "<|im_start|>", "<|im_end|>"]
        body = byte_alphabet() + self.words
        layouts = {
            "first": [(t, CONTROL) for t in special] + [(t, NORMAL) for t in body],
            "last": [(t, NORMAL) for t in body] + [(t, CONTROL) for t in special] +
                    [(f"[PAD{i}]", UNUSED) for i in range(7)],
            "between": [(t, NORMAL) for t in body[:99]] + [("@user@", USER), (special[0], CONTROL)] +
                       [(t, NORMAL) for t in body[99:]] + [(special[1], CONTROL), ("  ", USER), (special[2], UNKNOWN)],
        }
        text = "<|im_start|>the  @user@ cat<|im_end|>" + TEXT + "<|end|>[PAD3]"
        for name, layout in layouts.items():
            with self.subTest(name):
                path = self.folder / f"{name}.gguf"
                write_gguf(path, [t for t, _ in layout], [k for _, k in layout], merges=self.merges, pre="llama-bpe",
                           bos_token_id=0, add_bos_token=True)
                out = self.folder_of(path)
                theirs = Tokenizer.from_file(str(out / "tokenizer.json"))
                for flags, special_too in ((["--add-special"], True), ([], False)):
                    ids = theirs.encode(text, add_special_tokens=special_too).ids
                    self.assertEqual(self.encode(path, text, *flags), ids)
                    self.assertEqual(self.encode(out, text, *flags), ids)
                self.assertEqual(theirs.get_vocab(), {t: i for i, (t, _) in enumerate(layout)})

    def test_names_of_pre_tokenizers_are_the_patterns_that_they_stand_for(self):
        tokens = byte_alphabet() + self.words
        vocab = {t: i for i, t in enumerate(tokens)}
        for name, patterns in PATTERNS.items():
            with self.subTest(name):
                path = self.folder / f"pre-{name}.gguf"
                write_gguf(path, tokens, [NORMAL] * len(tokens), merges=self.merges, pre=name)
                theirs = Tokenizer(models.BPE(vocab=vocab, merges=[tuple(m.split(" ")) for m in self.merges],
                                              ignore_merges=name in IGNORE_MERGES))
                if name in NFC:
                    theirs.normalizer = normalizers.NFC()
                steps = [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]
                theirs.pre_tokenizer = pre_tokenizers.Sequence(
                    steps + [pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
                self.assertEqual(self.encode(path, TEXT), theirs.encode(TEXT).ids)
                # Written as a tokenizer.json, Python reads the same.
                out = self.folder_of(path)
                self.assertEqual(Tokenizer.from_file(str(out / "tokenizer.json")).encode(TEXT).ids,
                                 theirs.encode(TEXT).ids)

    def test_a_missing_or_unknown_name_can_be_given(self):
        tokens = byte_alphabet() + self.words
        ids = {}
        for pre in (None, "kimi-k2", "qwen2"):
            path = self.folder / f"named-{pre}.gguf"
            write_gguf(path, tokens, [NORMAL] * len(tokens), merges=self.merges, pre=pre)
            ids[pre] = self.encode(path, TEXT, "--pre", "qwen2")
        self.assertEqual(ids[None], ids["qwen2"])
        self.assertEqual(ids["kimi-k2"], ids["qwen2"])
        path = self.folder / "named-kimi-k2.gguf"
        for command in (["tokenizer", "encode", "-m", path], ["convert", path, "-o", self.folder / "refused"]):
            done = subprocess.run([HYDRALM, *map(str, command)], capture_output=True, text=True, input="x")
            self.assertEqual(done.returncode, 2)
            self.assertIn("tokenizer.ggml.pre", done.stderr)
            self.assertIn("--pre NAME", done.stderr)
            self.assertEqual(done.stderr.count("\n"), 1)
        self.assertFalse((self.folder / "refused").exists())
        self.assertEqual(self.encode(self.folder_of(path, "--pre", "qwen2"), TEXT), ids["qwen2"])
        hydralm("convert", path, "-o", self.folder / "mended.gguf", "--pre", "qwen2")
        self.assertEqual(self.encode(self.folder / "mended.gguf", TEXT), ids["qwen2"])
        done = subprocess.run([HYDRALM, "tokenizer", "encode", "-m", self.folder / "named-None.gguf"],
                              capture_output=True, text=True, input="x")
        self.assertEqual(done.returncode, 0)
        self.assertIn("warning", done.stderr)
        self.assertIn("tokenizer.ggml.pre is missing", done.stderr)

    def test_sentencepiece_scores(self):
        for seed in (1, 2, 3):
            rng = random.Random(seed)
            pieces = spm_pieces(rng)
            path = self.folder / f"spm-{seed}.gguf"
            write_gguf(path, [t for t, _, _ in pieces], [k for _, _, k in pieces], model="llama", pre="default",
                       scores=[s for _, s, _ in pieces], bos_token_id=1, eos_token_id=2, unknown_token_id=0)
            out = self.folder_of(path)
            theirs = Tokenizer.from_file(str(out / "tokenizer.json"))
            again = self.folder / f"again-{seed}.gguf"
            hydralm("convert", out, "-o", again)
            fields = gguf.GGUFReader(str(again)).fields
            self.assertEqual(fields["tokenizer.ggml.model"].contents(), "llama")
            self.assertEqual(len(fields["tokenizer.ggml.scores"].contents()), len(pieces))
            self.assertNotIn("tokenizer.huggingface.json", fields)
            alphabet = list("abcdefgh\u00e9</>s  ") + ["\u6f22", "\U0001F600", "\n"]
            lines = [
                "".join(rng.choice(alphabet) for _ in range(rng.randint(0, 40))).replace("\n", "") for _ in range(200)]
            lines = [line for line in lines if "<s>" not in line and "</s>" not in line]
            text = "\n".join(lines) + "\n"
            for model in (path, out, again):
                got = json.loads(hydralm("tokenizer", "encode", "-m", model, "--json", "--lines", input=text))["lines"]
                self.assertEqual(got, [spm_ids(pieces, line) for line in lines])
            mixed = "ab</s> c@tool@ d\n\u6f22\U0001F600<s>"
            for model in (path, out, again):
                ids = self.encode(model, mixed, "--add-special")
                self.assertEqual(ids, theirs.encode(mixed).ids)
            self.assertEqual(ids[0], 1)
            for line in lines:
                self.assertEqual(theirs.encode(line, add_special_tokens=False).ids, spm_ids(pieces, line))
                self.assertEqual(theirs.decode(spm_ids(pieces, line)), line)
            hydralm("generate", "-m", path, "-p", "ab", "-n", "2", "--temp", "0", "-q")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
