#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# The annotated trees: README.md has the folders, docs/TREE.md every file with the first words of its own comment.
# Not here: the test that both are up to date (tests/rules/tree_test.py).
#   tools/tree.py           prints the whole tree
#   tools/tree.py --write   writes docs/TREE.md, and the folders into README.md between the two tree markers
import os
import re
import subprocess
import sys

BEGIN, END = "<!-- tree: tools/tree.py --write -->", "<!-- end of tree -->"
PAGE = "docs/TREE.md"
PAGE_HEAD = """# Every file

Written by `tools/tree.py --write` from the first comment of each file; the words of folders are in that script.
[README.md](../README.md) shows the folders alone.

```
"""
WIDTH = 118   # columns of a line
COLUMN = 36   # where the words begin

# One line each: folders say what their files have in common.
FOLDERS = {
    ".ci": "continuous integration",
    "bench": "benchmarks and their results",
    "bench/peers": "the programs that benchmarks are run against",
    "bench/results": "what was measured, a folder for each kind of machine: a page and its numbers each",
    "cmake": "parts of the build",
    "cmake/torch_probe": "a scratch project: can torch's own CMake package be used?",
    "docs": "how things work and how files look",
    "examples": "run files to start from, and the C++ library in one page",
    "fuzz": "fuzz targets, one a format",
    "hydra": "the sources, one folder a layer; tests stand beside the code (x_test.cc)",
    "hydra/cli": "the commands: hydralm (torch-free) and hydralm-train (LibTorch)",
    "hydra/base": "errors, numbers, threads, UTF-8: what has nothing to do with models",
    "hydra/convert": "models from one format to another, quantised or random; torch-free",
    "hydra/data": "texts and token shards: what a model is trained on",
    "hydra/io": "file formats: safetensors, GGUF, JSON, .npy",
    "hydra/model": "what a model is: config, presets, tensor table, accounting",
    "hydra/tensor": "element and block types of tensors",
    "hydra/text": "tokenizers, chat templates, grammars of JSON schemas",
    "hydra/eval": "tasks and their scoring",
    "hydra/kernels": "CPU kernels, each with a scalar twin; torch-free",
    "hydra/moa": "influence profile in, plan out; torch-free",
    "hydra/nn": "the training form of each layer as a torch module; the model",
    "hydra/runtime": "inference; torch-free",
    "hydra/serve": "the engine that writes many texts at once, HTTP server and web page; torch-free",
    "hydra/serve/page": "the parts of the web page, put together by cmake/HydraPage.cmake",
    "hydra/train": "batches, optimiser, checkpoint, trainer",
    "packaging": "for those who run the server: a systemd unit, a container",
    "specs": "what is built: the model, its interfaces, the product",
    "tests": "tests that run the commands or read the sources, in Python",
    "tests/commands": "the commands from outside",
    "tests/golden": "numbers that other programs made, for comparison",
    "tests/parity": "the same numbers and files as other programs",
    "tests/rules": "the sources against the house rules",
    "tests/support": "what the tests share",
    "tools": "what make calls",
}

# Files that cannot carry a comment of their own, or begin with something else.
FILES = {
    ".clang-format": "how `make format` lays the code out",
    ".clang-tidy": "the checks of `make tidy`",
    ".gitignore": "what is built, fetched or trained",
    "CMakePresets.json": "dev (ASan + UBSan), release, tsan, fuzz, cuda",
    "HACKING.md": "how to add a layer, a preset, a verb, a test",
    "LICENSE": "Apache-2.0",
    "LOG.md": "what was tried and measured, newest first, failed ideas kept",
    "README.md": "what this is and the first commands",
    "SECURITY.md": "how to report a vulnerability, and what counts as one",
    "docs/DESIGN.md": "the parts, their joints and their promises",
    "docs/STYLE.md": "how the code is written; the glossary",
    "docs/TREE.md": "this page",
    "hydra/serve/page/page.css": "the looks of the page, light and dark, wide and narrow",
    "hydra/serve/page/page.html": "the elements of the page",
}


def list_files(root):
    """All files that are the project's own, sorted, relative to root."""
    try:
        out = subprocess.run(["git", "-C", root, "ls-files", "-co", "--exclude-standard", "-z"], check=True,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL).stdout.decode()
        found = [name for name in out.split("\0") if name and os.path.isfile(os.path.join(root, name))]
    except (OSError, subprocess.CalledProcessError):  # an unpacked archive
        skip = {".git", ".venv", "build", "data", "runs", "third_party", "__pycache__"}
        found = []
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if name not in skip]
            found += [os.path.relpath(os.path.join(folder, name), root) for name in names]
    return sorted(set(found))


def first_comment(text):
    """The first comment (or docstring) of a source after its shebang and SPDX lines, as one line of words."""
    words = []
    for line in text.splitlines():
        if line.startswith("#!") or "SPDX-License-Identifier" in line or line.startswith("# ctest:"):
            continue
        if not words and line.startswith('"""'):  # a docstring serves as well
            return " ".join(text.split('"""')[1].split("\n\n")[0].split())
        match = re.match(r"\s*(?://|#)(?!pragma|include|ifndef|define)\s?(.*)", line)
        if not match:
            break
        if not match.group(1).strip() and words:
            break
        words.append(match.group(1).strip())
    return " ".join(words).strip()


def shorten(comment, room):
    """The first sentence, or as many of its clauses as there is room for."""
    text = re.split(r"(?<=[a-z0-9)\"'])\.(?:\s|$)", comment)[0].strip()
    while len(text) > room:
        marks = [match.start() for match in re.finditer(r": |; |, | \(| and ", text[:min(len(text) - 1, room)])]
        cut = max((at for at in marks if text[:at].count("(") == text[:at].count(")")), default=0)
        if cut <= 20:
            cut = text.rfind(" ", 0, room)
        text = text[:cut].rstrip(" ,;:")
    return text


def annotate(root, path):
    if path in FILES:
        return FILES[path]
    try:
        with open(os.path.join(root, path), encoding="utf-8") as file:
            text = file.read(4000)
    except UnicodeDecodeError:
        return ""
    if path.endswith(".md"):
        return text.splitlines()[0].lstrip("# ") if text else ""
    return first_comment(text)


def folders_of(root):
    """{folder: names of its files}; a folder that has only folders is there too, "" is the root."""
    folders = {}
    for path in list_files(root):
        folders.setdefault(os.path.dirname(path), []).append(os.path.basename(path))
    for folder in list(folders):
        while "/" in folder:
            folder = os.path.dirname(folder)
            folders.setdefault(folder, [])
    return folders


def folder_line(folder):
    depth = folder.count("/")
    return (("  " * depth + os.path.basename(folder) + "/").ljust(COLUMN) + FOLDERS.get(folder, "")).rstrip()


def folder_lines(root):
    """The tree of README.md: folders, and folders in them."""
    return [folder_line(folder) for folder in sorted(folders_of(root)) if folder and folder.count("/") < 2]


def tree_lines(root):
    """The lines of the whole tree. x.h, x.cc and x_test.cc share one line."""
    lines = []
    folders = folders_of(root)
    for folder in sorted(folders):
        depth = 0 if not folder else folder.count("/") + 1
        if folder:
            lines.append(folder_line(folder))
        groups = {}
        for name in folders[folder]:
            match = re.match(r"^(.*?)(_test\.cc|\.h|\.cc)$", name)
            groups.setdefault(match.group(1) if match else name, []).append(name)
        for stem in sorted(groups):
            names = sorted(groups[stem], key=lambda name: (name.endswith("_test.cc"), not name.endswith(".h")))
            label = "  " * depth + " ".join([names[0]] + [name[len(stem):] for name in names[1:]])
            words = annotate(root, os.path.join(folder, names[0]) if folder else names[0])
            start = max(COLUMN, len(label) + 2)
            lines.append((label.ljust(start) + shorten(words, WIDTH - start)).rstrip())
    return [line.rstrip() for line in lines]


def readme_block(text):
    """The lines between the markers of README.md, or None."""
    match = re.search(re.escape(BEGIN) + r"\n```\n(.*?)```\n" + re.escape(END), text, re.S)
    return match.group(1).splitlines() if match else None


def page_text(root):
    """The text of docs/TREE.md."""
    return PAGE_HEAD + "\n".join(tree_lines(root)) + "\n```\n"


def main():
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if sys.argv[1:] != ["--write"]:
        print("\n".join(tree_lines(root)))
        return 0
    with open(os.path.join(root, PAGE), "a", encoding="ascii"):
        pass  # so that the page itself is in the tree when it is written for the first time
    page = page_text(root)
    with open(os.path.join(root, PAGE), "w", encoding="ascii") as file:
        file.write(page)
    path = os.path.join(root, "README.md")
    with open(path, encoding="ascii") as file:
        text = file.read()
    if readme_block(text) is None:
        print("README.md: has no tree markers", file=sys.stderr)
        return 2
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    with open(path, "w", encoding="ascii") as file:
        file.write(before + BEGIN + "\n```\n" + "\n".join(folder_lines(root)) + "\n```\n" + END + after)
    return 0


if __name__ == "__main__":
    sys.exit(main())
