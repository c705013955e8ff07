#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# The model whose quantised formats quality.py judges: fetches texts of Debian packages, cuts them into documents, holds
# a part out, and trains the Llama-type model of examples/llama-6m.toml on the rest, at the lowest priority. It takes
# hours and may be stopped: the same command goes on from the last checkpoint. Prints the model's folder. Everything
# lies in data/quality and runs/quality. Not here: what is judged (quality.py).
#   bench/quality_model.py [BUILD] [--threads 1]
import argparse
import gzip
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from common import built, run

DATA, RUN = Path("data/quality"), Path("runs/quality")
VOCABULARY, HELD_OUT = 4096, 0.03
PIECE = 4000  # characters of a document at least; it ends with the paragraph
# Debian package -> its files of plain text
PACKAGES = {
    "anarchism": "usr/share/doc/anarchism/markdown/*.md.gz",
    "dict-foldoc": "usr/share/dictd/foldoc.dict.dz",
    "fortunes": "usr/share/games/fortunes/*"}


def texts(package, pattern, versions):
    """The texts of a package, which is fetched and unpacked, but not installed. Its version joins `versions`."""
    with tempfile.TemporaryDirectory() as folder:
        # apt drops its rights where it can; the folder must let it.
        os.chmod(folder, 0o755)
        run("apt-get", "download", "-qq", package, cwd=folder)
        archive = next(Path(folder).glob("*.deb"))
        versions[package] = run("dpkg-deb", "-f", archive, "Version").strip()
        run("dpkg-deb", "-x", archive, folder)
        for path in sorted(Path(folder).glob(pattern)):
            if path.is_symlink() or path.suffix in (".dat", ".u8"):  # indices and second names of fortunes
                continue
            raw = path.read_bytes()
            raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
            yield raw.decode("utf-8", "replace").replace("\n%\n", "\n\n")


def pieces(text):
    """Documents of whole paragraphs."""
    piece = ""
    for paragraph in text.replace("\f", "\n").split("\n\n"):
        piece += paragraph + "\n\n"
        if len(piece) >= PIECE:
            yield piece
            piece = ""
    if piece.strip():
        yield piece


def prepare(hydralm):
    """DATA: text, tokenizer and shards; each step leaves its result only when it is whole."""
    text, tokenizer = DATA / "text.txt", DATA / "tokenizer.json"
    DATA.mkdir(parents=True, exist_ok=True)
    if not text.exists():
        documents, versions = run("tools/kjv.sh").split("\f"), {}
        for package, pattern in PACKAGES.items():
            documents += [piece for whole in texts(package, pattern, versions) for piece in pieces(whole)]
        (DATA / "packages.json").write_text(json.dumps(versions) + "\n")
        part = DATA / "text.part"
        part.write_text("\f".join(documents))
        part.rename(text)
    if not tokenizer.exists():
        run(hydralm, "tokenizer", "train", text, "--doc-sep", "\f", "--vocab", VOCABULARY, "--pattern", "gpt2", "-o",
            tokenizer)
    if not (DATA / "data.json").exists():
        run(hydralm, "data", "build", text, "--tokenizer", tokenizer, "--doc-sep", "\f", "--val", HELD_OUT, "-o", DATA)


def main():
    parser = argparse.ArgumentParser(description="train the model whose quantised formats bench/quality.py judges")
    parser.add_argument("build", nargs="?", default="build/release")
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    # A copy of the commands serves the whole run, whatever is built meanwhile. It lies within the build, since training
    # looks for its commit in the folders above.
    hydralm = built(args.build)
    prepare(hydralm)
    if not (RUN / "model/config.json").exists():
        with tempfile.TemporaryDirectory(dir=args.build) as folder:
            for name in ("hydralm", "hydralm-train"):
                shutil.copy2(hydralm.with_name(name), folder)
            status = subprocess.run(["nice", "-n", "19", f"{folder}/hydralm", "train", "-C", "examples/llama-6m.toml",
                                     "--data", DATA, "--run", RUN, "-t", str(args.threads)]).returncode
        if status:
            sys.exit(status)
    print(RUN / "model")


if __name__ == "__main__":
    main()
