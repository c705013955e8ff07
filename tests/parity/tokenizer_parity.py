# SPDX-License-Identifier: Apache-2.0
# ctest: slow timeout=1200
# `hydralm tokenizer` against the `tokenizers` library on the same files: encode and decode token for token over at
# least 5 MB of English, code and mixed Unicode; training merge for merge. Deterministic; corpora are found or made
# here.
# Usage: tokenizer_parity.py PATH_OF_HYDRALM
import gzip
import json
import os
import random
import subprocess
import sys
import sysconfig
import tempfile
import unicodedata
from pathlib import Path

# Before the import: one thread, as in the benchmarks.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("RAYON_NUM_THREADS", "1")

try:
    import tokenizers
    from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors,
                            trainers)
except ImportError:
    print("skipped: the Python library `tokenizers` is not installed")
    sys.exit(77)

HYDRALM = sys.argv[1] if len(sys.argv) > 1 else "build/hydralm"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
SPECIAL = "<|endoftext|>"
PART = 500_000  # characters of a document


# ---- Corpora ----

def read_text(path):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        return file.read().decode("utf-8", "replace")


def gather(paths, limit):
    """Texts of the files, joined, up to `limit` characters."""
    out, size = [], 0
    for path in paths:
        try:
            text = read_text(path)
        except (OSError, EOFError):
            continue
        out.append(text)
        size += len(text)
        if size >= limit:
            break
    return "".join(out)[:limit]


def english(limit):
    bible = Path("/usr/bin/bible")
    if bible.exists():
        done = subprocess.run([bible, "-f", "gen1:1-rev22:21"], capture_output=True, check=True)
        text = done.stdout.decode("utf-8", "replace")
        if len(text) > limit // 2:
            return text[:limit]
    places = [Path("/usr/share/doc"), Path("/usr/share/common-licenses"),
              Path(sysconfig.get_paths()["stdlib"]) / "pydoc_data"]
    paths = [p for place in places if place.exists() for p in sorted(place.rglob("*"))
             if p.is_file() and not p.is_symlink() and p.suffix in ("", ".txt", ".md", ".rst", ".gz", ".py", ".html")]
    return gather(paths, limit)


def code(limit):
    own = [p for kind in ("*.cc", "*.h", "*.py") for p in sorted(Path(".").glob(f"hydra/*/{kind}"))]
    own = gather(own, limit // 3)
    library = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("*.py")) + sorted(
        Path(sysconfig.get_paths()["stdlib"]).glob("*/*.py"))
    return own + gather(library, limit - len(own))


def assigned():
    """Characters of Unicode 14, or of 3.2 where Python knows a later version and cannot tell them apart."""
    database = unicodedata if unicodedata.unidata_version == "14.0.0" else unicodedata.ucd_3_2_0
    return [chr(c) for c in range(0x110000) if database.category(chr(c)) not in ("Cn", "Cs") and c != 0x180E]


def mixed_unicode(limit, rng):
    """Runs of each kind of writing, and noise over all assigned characters."""
    every = assigned()
    known = set(every)
    marks = [c for c in every if unicodedata.category(c)[0] == "M"]
    spaces = [c for c in every if c.isspace()] + ["\r", "\n", "\t", "\x85", "\u2028", "\r\n", "\u200b", "\ufeff"]
    digits = [c for c in every if unicodedata.category(c)[0] == "N"]
    emoji = [c for c in map(chr, range(0x1F300, 0x1FAFF)) if c in known] or list("\u263a\u2615")
    joined = ["\U0001F468\u200D\U0001F469\u200D\U0001F467", "\U0001F3F3\uFE0F\u200D\U0001F308", "\U0001F1EB\U0001F1F7",
              "\U0001F44D\U0001F3FD", "\u2764\uFE0F"]

    def letters(low, high):
        chars = [c for c in map(chr, range(low, high)) if c in known]
        return lambda n: "".join(rng.choice(chars) for _ in range(n))

    scripts = [letters(*span) for span in (
        (0x41, 0x5B), (0x61, 0x7B), (0xC0, 0x250), (0x370, 0x400), (0x400, 0x500), (0x5D0, 0x5EB), (0x620, 0x64B),
        (0x900, 0x97F), (0xE00, 0xE5B), (0x1100, 0x1200), (0x3041, 0x30FF), (0x4E00, 0x9FA0), (0xAC00, 0xD7A4),
        (0x10400, 0x10450), (0x20000, 0x20100))]
    pieces = [
        lambda: rng.choice(scripts)(rng.randint(1, 9)),
        lambda: "".join(c + rng.choice(marks) * rng.randint(0, 2) for c in rng.choice(scripts)(rng.randint(1, 4))),
        lambda: rng.choice(joined + emoji),
        lambda: "".join(rng.choice(digits) for _ in range(rng.randint(1, 5))),
        lambda: str(rng.randint(0, 10 ** rng.randint(1, 9))),
        lambda: rng.choice(["'s", "'S", "'\u017f", "'re", "'LL", "'Ve", "'x", "n't", "'", "''d", "\u2019s"]),
        lambda: "".join(rng.choice(spaces) for _ in range(rng.randint(1, 4))),
        lambda: " " * rng.randint(1, 9),
        lambda: "\n" * rng.randint(1, 3),
        lambda: "".join(rng.choice("!\"#$%&()*+,-./:;<=>?@[]^_`{|}~") for _ in range(rng.randint(1, 4))),
        lambda: "".join(rng.choice(every) for _ in range(rng.randint(1, 6))),
    ]
    out, size = [], 0
    while size < limit:
        out.append(rng.choice(pieces)())
        if rng.random() < 0.4:
            out.append(" ")
        size += len(out[-1])
    return "".join(out)[:limit]


# ---- The two sides ----

def hydralm(*args):
    done = subprocess.run([HYDRALM, "tokenizer", *map(str, args)], capture_output=True)
    assert done.returncode == 0, f"{args}: exit {done.returncode}: {done.stderr.decode()}"
    return done.stdout


def first_difference(a, b):
    for i, (x, y) in enumerate(zip(a, b)):
        if x != y:
            return i
    return min(len(a), len(b))


class Checker:
    def __init__(self, folder):
        self.folder = Path(folder)
        self.bytes = 0

    def ours(self, model, text, *flags):
        path = self.folder / "text.txt"
        path.write_bytes(text.encode("utf-8"))
        return json.loads(hydralm("encode", "-m", model, "--json", *flags, path))["ids"]

    def our_text(self, model, ids, *flags):
        path = self.folder / "ids.txt"
        path.write_text(" ".join(map(str, ids)))
        return hydralm("decode", "-m", model, *flags, path).decode("utf-8")

    def check(self, name, model, theirs, text, rng):
        self.bytes += len(text.encode("utf-8"))
        want = theirs.encode(text, add_special_tokens=False).ids
        got = self.ours(model, text)
        if want != got:
            i = first_difference(want, got)
            at = len(theirs.decode(want[:i], skip_special_tokens=False))
            raise AssertionError(f"{name}: token {i}: tokenizers {want[i:i + 5]} ours {got[i:i + 5]} near "
                                 f"{text[max(0, at - 20):at + 20]!r}")
        for skip in (False, True):
            flags = ["--skip-special"] if skip else []
            text = theirs.decode(want, skip_special_tokens=skip)
            assert self.our_text(model, want, *flags) == text, f"{name}: decode"
        # Ids in an order that no text gives: broken characters are mended alike.
        mixed = [rng.randrange(theirs.get_vocab_size()) for _ in range(3000)]
        text = theirs.decode(mixed, skip_special_tokens=False)
        assert self.our_text(model, mixed) == text, f"{name}: decode of random ids"


def their_bpe(pattern):
    tokenizer = Tokenizer(models.BPE())
    if pattern == "gpt2":
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(LLAMA3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def their_training(tokenizer, texts, vocab):
    trainer = trainers.BpeTrainer(vocab_size=vocab, special_tokens=[SPECIAL], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def merges_of(text):
    merges = json.loads(text)["model"]["merges"]
    return [tuple(m.split(" ")) if isinstance(m, str) else tuple(m) for m in merges]


# ---- Tests ----

def trained_alike(folder, documents, pattern, vocab):
    """Our training gives the merges of theirs; returns our file."""
    paths = []
    for i, text in enumerate(documents):
        paths.append(folder / f"train-{i}.txt")
        paths[-1].write_bytes(text.encode("utf-8"))
    out = folder / f"{pattern}-{vocab}.json"
    hydralm("train", *paths, "--vocab", vocab, "--pattern", pattern, "-o", out, "-q")
    theirs = their_training(their_bpe(pattern), documents, vocab)
    want, got = merges_of(theirs.to_str()), merges_of(out.read_text())
    i = first_difference(want, got)
    assert want == got, f"{pattern}: merge {i} of {len(want)}: tokenizers {want[i:i + 3]} ours {got[i:i + 3]}"
    assert Tokenizer.from_file(str(out)).get_vocab() == theirs.get_vocab(), f"{pattern}: vocabulary"
    print(f"ok  training {pattern}: {len(got)} merges alike")
    return out


def byte_fallback_file(folder, texts):
    """A Llama-style file: U+2581 for spaces, bytes for unknown characters."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    # Words for the training only: without them a whole document would be one word.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex("\u2581?[^\u2581]+|\u2581"), "isolated")
    trainer = trainers.BpeTrainer(vocab_size=3000, special_tokens=special, limit_alphabet=200, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    made = json.loads(tokenizer.to_str())
    made["pre_tokenizer"] = None
    made["added_tokens"] = [t for t in made["added_tokens"] if t["content"] in ("<unk>", "<s>", "</s>")]
    made["decoder"] = {"type": "Sequence", "decoders": [
        {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "}, {"type": "ByteFallback"},
        {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0}]}
    made["post_processor"] = json.loads(Tokenizer.from_str(json.dumps(with_bos(made))).to_str())["post_processor"]
    path = folder / "llama.json"
    path.write_text(json.dumps(made))
    return path


def with_bos(made):
    tokenizer = Tokenizer.from_str(json.dumps(made))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    return json.loads(tokenizer.to_str())


def variants(base):
    """Other settings of a trained file, each as (name, JSON text)."""
    def change(name, **fields):
        made = json.loads(base)
        for key, value in fields.items():
            (made["model"] if key == "ignore_merges" else made)[key] = value
        return name, json.dumps(made)

    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    regex_level = dict(level, use_regex=True)

    def split(pattern, behavior, invert=False, kind="Regex"):
        return {"type": "Split", "pattern": {kind: pattern}, "behavior": behavior, "invert": invert}

    def sequence(*steps):
        return {"type": "Sequence", "pretokenizers": list(steps)}

    yield change("prefix space", pre_tokenizer=dict(regex_level, add_prefix_space=True))
    yield change("no regex", pre_tokenizer=level)
    yield change("digits", pre_tokenizer=sequence({"type": "Digits", "individual_digits": True}, regex_level))
    yield change("digit runs", pre_tokenizer=sequence({"type": "Digits", "individual_digits": False}, regex_level))
    yield change("ignore_merges", ignore_merges=True)
    yield change("nfc", normalizer={"type": "NFC"})
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            step = split(r"\s+|\p{N}", behavior, invert)
            yield change(f"split {behavior} {invert}", pre_tokenizer=sequence(step, level))
        yield change(f"split string {behavior}", pre_tokenizer=sequence(split("e", behavior, kind="String"), level))
    yield change("qwen2", pre_tokenizer=sequence(split(LLAMA3.replace("{1,3}", ""), "Isolated"), level))
    yield change("words", pre_tokenizer=sequence(split(r"\w+|[^\w\s]+|\s+", "Isolated"), level))
    yield change("cases", pre_tokenizer=sequence(
        split(r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
              r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
              r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
              r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
              r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+", "Isolated"), level))
    yield change("scripts", pre_tokenizer=sequence(
        split(r"[\u4e00-\u9fff\u3040-\u309f]+|\p{Cyrillic}+", "Isolated"), split(r"\p{N}{1,3}", "Isolated"),
        regex_level))
    added = json.loads(base)["added_tokens"]
    size = len(json.loads(base)["model"]["vocab"])
    flags = [dict(), dict(lstrip=True), dict(rstrip=True), dict(single_word=True), dict(normalized=True),
             dict(special=True)]
    for i, more in enumerate(flags):
        plain = dict(id=size + i, content=f"the{i}", single_word=False, lstrip=False, rstrip=False, normalized=False,
                     special=False)
        added.append(dict(plain, **more))
    added.append(dict(added[-1], id=size + len(flags), content="qqq", single_word=True, special=False))
    yield change("added tokens", added_tokens=added)


def metaspace_file(llama, scheme):
    made = json.loads(llama)
    made["normalizer"] = None
    made["pre_tokenizer"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme,
                             "split": scheme != "never"}
    made["decoder"] = {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": scheme, "split": True}
    return json.dumps(made)


def main():
    rng = random.Random(20240611)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checker = Checker(folder)
        # A sanitised build is several times slower and looks for something else: a tenth of the text there.
        share = 10 if os.environ.get("HYDRALM_SANITIZE") else 1
        corpora = {"english": english(2_000_000 // share), "code": code(2_000_000 // share),
                   "unicode": mixed_unicode(700_000 // share, rng)}
        parts = {kind: [text[i:i + PART] for i in range(0, len(text), PART)] for kind, text in corpora.items()}
        samples = [parts["english"][0][:300_000], parts["code"][-1][-300_000:], parts["unicode"][0][:60_000]]
        small = "".join(s[:30_000] for s in samples) + f"x{SPECIAL} y {SPECIAL}{SPECIAL}\n"
        small += " the0 the1 the2  the3 athe3 the4\tthe5 qqq aqqq qqq. \u0301qqq"

        for pattern in ("gpt2", "llama3"):
            before = checker.bytes
            model = trained_alike(folder, samples, pattern, 4000)
            theirs = Tokenizer.from_file(str(model))
            for kind, documents in parts.items():
                for i, text in enumerate(documents):
                    checker.check(f"{pattern} {kind} {i}", model, theirs, text, rng)
            checker.check(f"{pattern} specials", model, theirs, small, rng)
            compared = checker.bytes - before
            assert compared >= 5_000_000 // share, f"only {compared} bytes were found to compare"
            print(f"ok  {pattern}: {compared / 1e6:.1f} MB encoded and decoded alike")

        path = folder / "theirs.json"
        theirs = their_training(their_bpe("llama3"), samples, 3000)
        theirs.add_special_tokens(["<|im_start|>", "<|im_end|>"])
        theirs.add_tokens([AddedToken("   ", normalized=False)])
        theirs.save(str(path))
        checker.check("their file", path, theirs, small + "<|im_start|>user\n   hi<|im_end|>", rng)
        for kind, text in variants((folder / "gpt2-4000.json").read_text()):
            path.write_text(text)
            checker.check(kind, path, Tokenizer.from_file(str(path)), small, rng)
        print("ok  a file of theirs, and its variants")

        llama = byte_fallback_file(folder, [s.replace(" ", "\u2581") for s in samples])
        theirs = Tokenizer.from_file(str(llama))
        for text in (small, samples[2], " leading", "</s> <s>a</s>b ", "\u2581", "\u00e9\u0301\u6f22\U0001F600"):
            checker.check("byte fallback", llama, theirs, text, rng)
            assert checker.ours(llama, text, "--add-special") == theirs.encode(text).ids, "post-processor"
        for scheme in ("always", "first", "never"):
            path.write_text(metaspace_file(llama.read_text(), scheme))
            checker.check(f"metaspace {scheme}", path, Tokenizer.from_file(str(path)), small + " <s> a<s>b", rng)
        print("ok  Llama-style byte fallback and Metaspace")
        print(f"{checker.bytes / 1e6:.1f} MB compared with tokenizers {tokenizers.__version__}")


if __name__ == "__main__":
    main()
