# SPDX-License-Identifier: Apache-2.0
# The prompts of bench/speculation.py: kinds of text that repeat themselves more or less. All come from packages and
# fixed seeds, so that two runs on one machine have the same. Not here: what is measured (speculation.py).
import ast
import random
import sysconfig
from pathlib import Path

from common import run
from quality_model import PACKAGES, pieces, texts

COUNT, CHARACTERS = 20, 700
TOPICS = [
    "animals of the forest", "countries of Europe", "kinds of bread", "musical instruments", "rivers of the world",
    "vegetables", "programming languages", "tools of a carpenter", "famous painters", "planets and moons", "sports",
    "flowers of spring", "things to pack for a journey", "chemical elements", "kinds of cheese", "jobs in a hospital",
    "words that rhyme with light", "birds", "parts of a bicycle", "board games"]


def chat(question):
    """A question in the form that SmolLM2 was trained on."""
    return ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
            f"<|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n")


def modules():
    """Python's own library in files of some length, always the same ones."""
    folder = Path(sysconfig.get_path("stdlib"))
    return [text for text in (path.read_text() for path in sorted(folder.glob("*.py"))) if len(text) > 8000]


def spaced(values, count):
    """So many of them, from all places."""
    return [values[i * len(values) // count] for i in range(count)]


def functions(count):
    """Source and first parameter of functions of 10 to 20 lines."""
    found = []
    for text in modules():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef) and 10 <= node.end_lineno - node.lineno < 20 and node.col_offset == 0:
                names = [one.arg for one in node.args.args]
                if names:
                    found.append((ast.get_source_segment(text, node), names[0]))
    return spaced(found, count)


def prose(count):
    package = "anarchism"
    documents = [piece for text in texts(package, PACKAGES[package], {}) for piece in pieces(text)]
    return spaced(documents, count)


def noise(seed):
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9)))
                    for _ in range(CHARACTERS // 7))


def smollm2():
    """Class -> prompts."""
    texts_of_prose = prose(COUNT)
    half = COUNT // 2
    repeats = [chat(f"Repeat the following text word for word:\n\n{text[:CHARACTERS]}")
               for text in texts_of_prose[:half]]
    edits = [chat(f"Rename the parameter {name} to new_{name} in this function and write the whole function again:\n\n"
                  f"```python\n{source}\n```") for source, name in functions(half)]
    return {
        "code": [text[2000:2000 + CHARACTERS] for text in spaced(modules(), COUNT)],
        "prose": [text[:CHARACTERS] for text in texts_of_prose],
        "lists": [chat(f"Write a list of twenty {topic}.") for topic in TOPICS],
        "noise": [noise(seed) for seed in range(COUNT)],
        "summaries": [chat(f"Here is a text:\n\n{text[:CHARACTERS]}\n\nSummarise it by quoting its most important "
                           "sentences, word for word.") for text in texts_of_prose],
        "copies": repeats + edits}


def bible():
    """For models of the demo's kind."""
    documents = run("tools/kjv.sh").split("\f")
    return [text[:CHARACTERS] for text in spaced(documents, COUNT)]
