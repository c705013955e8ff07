# SPDX-License-Identifier: Apache-2.0
# Reads the sources and holds them to the house rules: dependency direction, first comments, silent libraries, ASCII,
# lengths, columns, the trees of README.md and docs/TREE.md. Each rule is also shown a small tree that breaks it, so
# that none passes by accident. Not here: the layout of C++ (format_test.py), the habits of docs/STYLE.md
# (habits_test.py).
import os
import re
import sys
import tempfile
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "tools"))
import tree  # noqa: E402

# The arrows of the design; a unit may include what can be reached along them, and itself.
ARROWS = {
    "hydralm": ["serve", "convert", "moa", "frame"],
    "hydralm-train": ["eval", "frame"],
    "frame": ["data"],  # what both commands share in hydra/cli
    "serve": ["runtime"],
    "convert": ["runtime"],
    "runtime": ["kernels", "text"],
    "moa": ["model"],
    "eval": ["train"],
    "train": ["nn", "data"],
    "nn": ["kernels", "model"],
    "kernels": ["tensor"],
    "data": ["text"],
    "text": ["model"],
    "model": ["io"],
    "io": ["tensor"],
    "tensor": ["base"],
    "base": [],
}
TORCH_UNITS = {"nn", "train", "eval", "hydralm-train"}
MAX_LINES = 800
MAX_COLUMNS = 120
README_LINES = 40  # of the tree
SOURCES = (".h", ".cc", ".cu", ".cuh")
COMMENTED = SOURCES + (".py", ".sh", ".cmake")
NARROW = (".py", ".sh", ".cmake", ".in", ".toml", ".txt", ".md")  # C++ is clang-format's (format_test.py)
TEXT = COMMENTED + (".md", ".txt", ".json", ".toml", ".yml", ".html", ".js", ".css", ".in")
# Files of other programs that comments name; those that CMake writes; names that stand for any file of a kind.
EXTERNAL = {"foreach_target.h", "verb_table.h", "verb_name.cc", "torch_name.cc", "x_test.cc"}
FILE_NAME = re.compile(r"(?<![\w<*.-])(?:\w+/)*([a-z][a-z0-9_]+(?:-inl)?\.(?:h|cc|py|sh))\b")
BUILD_FILES = ("Makefile", "CMakeLists.txt", "run")


def reach(unit):
    seen, todo = set(), [unit]
    while todo:
        name = todo.pop()
        if name not in seen:
            seen.add(name)
            todo += ARROWS[name]
    return seen


def unit_of(path):
    """hydra/nn/x.cc -> nn; hydra/cli is two commands and their frame; None outside hydra/."""
    parts = path.split("/")
    if parts[0] != "hydra" or len(parts) < 3:
        return None
    if parts[1] != "cli":
        return parts[1]
    name = parts[-1]
    if re.match(r"(torch_|train_main)", name):
        return "hydralm-train"
    if re.match(r"(verb_|main\.)", name):
        return "hydralm"
    return "frame"


def strip_code(text):
    """C++ without comments and the insides of strings; line numbers stay."""
    pattern = re.compile(
        r'//[^\n]*|/\*.*?\*/|R"([^()\\ ]{0,16})\(.*?\)\1"|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])+\'', re.S)
    return pattern.sub(lambda m: ('""' if m.group()[0] in "\"R'" else "") + "\n" * m.group().count("\n"), text)


class Source:
    def __init__(self, root, path):
        self.path = path
        self.unit = unit_of(path)
        with open(os.path.join(root, path), "rb") as file:
            self.bytes = file.read()
        self.text = self.bytes.decode("utf-8", "replace")
        self.lines = self.text.splitlines()
        self.is_cpp = path.endswith(SOURCES)
        self.is_header = path.endswith((".h", ".cuh"))
        self.is_test = bool(re.search(r"(^|/)tests/|_test\.(cc|cu)$", path))
        self.code = strip_code(self.text) if self.is_cpp else ""
        self.includes = re.findall(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]', self.text, re.M) if self.is_cpp else []


def load(root):
    return [Source(root, path) for path in tree.list_files(root)
            if path.endswith(TEXT) or os.path.basename(path) in BUILD_FILES]


def check_arrows(sources):
    for s in sources:
        if s.unit is None or not s.is_cpp:
            continue
        if s.unit not in ARROWS:
            yield f"{s.path}: folder {s.unit} is not a layer of the design"
            continue
        allowed = reach(s.unit)
        for _, name in s.includes:
            target = unit_of(name) if name.startswith("hydra/") else None
            if target is not None and target not in allowed:
                yield f"{s.path}: includes {name}: {s.unit} -> {target} is no arrow of the design"


def check_torch(sources):
    for s in sources:
        for _, name in s.includes:
            may_use_torch = s.unit in TORCH_UNITS or s.path.startswith("bench/")
            if re.match(r"(torch|ATen|c10|caffe2)/", name) and not may_use_torch:
                yield f"{s.path}: includes {name}: only nn, train, eval, hydralm-train and bench use torch"
            if name.startswith("fmt/") and (s.is_header or s.unit in TORCH_UNITS):
                yield f"{s.path}: includes {name}: torch bundles another fmt; use StrCat"


def check_includes(sources):
    paths = {s.path for s in sources}
    for s in sources:
        for mark, name in s.includes:
            if mark == '"' and not name.startswith(("hydra/", "bench/", "fuzz/")):
                yield f"{s.path}: includes \"{name}\": our headers are included from the root"
        own = re.sub(r"(_test)?\.cc$", ".h", s.path)
        if s.path.endswith(".cc") and not s.is_test and own in paths and s.includes and s.includes[0][1] != own:
            yield f"{s.path}: its own header comes first"


def check_first_comment(sources):
    for s in sources:
        if not (s.path.endswith(COMMENTED) or os.path.basename(s.path) in BUILD_FILES):
            continue
        lines = s.lines[1:] if s.lines and s.lines[0].startswith("#!") else s.lines
        if not lines or not re.fullmatch(r"(//|#) SPDX-License-Identifier: Apache-2\.0", lines[0]):
            yield f"{s.path}: the first line is not the SPDX line"
        elif len(tree.first_comment(s.text)) < 10:
            yield f"{s.path}: no first comment that says what the file is"


def check_silent(sources):
    loud = [
        (r"\bstd::(cout|cerr|clog)\b", "prints"),
        (r"(?<![\w.>:])(std::)?(printf|puts|putchar|perror|vprintf)\s*\(", "prints"),
        (r"\bfmt::print\b", "prints"),
        (r"(?<![\w.>])(stdout|stderr)\b", "uses the process's own streams"),
        (r"(?<![\w.>:~])(std::|::)?(exit|_exit|_Exit|quick_exit|abort|terminate)\s*\(", "ends the process"),
    ]
    for s in sources:
        if not s.is_cpp or s.is_test or s.unit in (None, "frame", "hydralm", "hydralm-train"):
            continue
        if os.path.basename(s.path) == "testing.h":  # no library: tests say there what they saw
            continue
        for number, line in enumerate(s.code.splitlines(), 1):
            for pattern, what in loud:
                if re.search(pattern, line):
                    yield f"{s.path}:{number}: {what}: libraries throw or call back"


def check_text(sources):
    for s in sources:
        if s.path.startswith("specs/"):  # formulas with Greek letters
            continue
        for number, line in enumerate(s.bytes.split(b"\n"), 1):
            if any(byte > 126 or (byte < 32 and byte != 9) for byte in line):
                yield f"{s.path}:{number}: not ASCII"
                break
        if s.is_header and re.search(r"\busing\s+namespace\b", s.code):
            yield f"{s.path}: `using namespace` in a header"
        # What Highway compiles once a SIMD level has a guard that flips, or none.
        if s.is_header and "#pragma once" not in s.lines and "HWY_TARGET" not in "\n".join(s.lines):
            yield f"{s.path}: no #pragma once"
        if s.path.endswith(COMMENTED) and len(s.lines) > MAX_LINES:
            yield f"{s.path}: {len(s.lines)} lines, at most {MAX_LINES}: look for a seam"


def check_columns(sources):
    """Tables of Markdown are as wide as they are; so are the specifications, which have formulas."""
    for s in sources:
        if s.path.startswith("specs/") or not s.path.endswith(NARROW) and os.path.basename(s.path) not in BUILD_FILES:
            continue
        for number, line in enumerate(s.lines, 1):
            if len(line) > MAX_COLUMNS and not (s.path.endswith(".md") and line.startswith("|")):
                yield f"{s.path}:{number}: {len(line)} columns, at most {MAX_COLUMNS}"


def check_paths(sources):
    # Folders of one machine; a program asks for a temporary folder instead of naming one.
    pattern = re.compile(r"(?<![\w./-])/(work|home|root|Users|tmp|opt|mnt)/\w")
    for s in sources:
        for number, line in enumerate(s.lines, 1):
            if pattern.search(line) and not s.path.endswith("tree_test.py"):
                yield f"{s.path}:{number}: names a folder of one machine"


def check_names(sources):
    """Files that comments of C++ name are there: a moved file leaves no wrong sign behind."""
    known = {os.path.basename(s.path) for s in sources}
    for s in sources:
        for number, line in enumerate(s.lines if s.is_cpp else [], 1):
            comment = re.split(r"(?<![:\"\w])//", line, maxsplit=1)[1:]
            for name in re.findall(FILE_NAME, "".join(comment)):
                if name not in known | EXTERNAL:
                    yield f"{s.path}:{number}: a comment names {name}, which is not there"


CHECKS = [check_arrows, check_torch, check_includes, check_first_comment, check_silent, check_text, check_columns,
          check_paths, check_names]


class OurTree(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.sources = load(ROOT)
        assert any(s.path == "hydra/base/error.h" for s in cls.sources), "no sources found"

    def test_readme_tree_is_the_tree(self):
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as file:
            found = tree.readme_block(file.read())
        self.assertIsNotNone(found, "README.md has no tree markers")
        self.assertEqual(found, tree.folder_lines(ROOT), "out of date: run tools/tree.py --write")
        self.assertLessEqual(len(found), README_LINES)

    def test_the_page_of_the_tree_is_the_tree(self):
        with open(os.path.join(ROOT, tree.PAGE), encoding="utf-8") as file:
            self.assertEqual(file.read(), tree.page_text(ROOT), "out of date: run tools/tree.py --write")

    def test_the_design_says_which_layers_are_built(self):
        with open(os.path.join(ROOT, "docs/DESIGN.md"), encoding="utf-8") as file:
            said = dict(re.findall(r"^    hydra/(\w+)/ +(\(not built\))?", file.read(), re.M))
        there = {s.path.split("/")[1] for s in self.sources if s.path.startswith("hydra/")}
        self.assertEqual({name for name, absent in said.items() if not absent}, there)
        self.assertLessEqual({"moa", "serve", "runtime"}, set(said))

    def test_every_folder_that_the_readme_shows_has_words(self):
        self.assertEqual([line for line in tree.folder_lines(ROOT) if line.endswith("/")], [])


def add_check(check):
    def test(self):
        problems = list(check(self.sources))
        self.assertEqual(problems, [], "\n" + "\n".join(problems))
    setattr(OurTree, "test_" + check.__name__[len("check_"):], test)


for each in CHECKS:
    add_check(each)

SPDX = "// SPDX-License-Identifier: Apache-2.0\n"
HEAD = SPDX + "// A file that is made up for the tests of this test.\n"
SHELL_HEAD = HEAD.replace("//", "#")

# check, path, text: each must be reported, once and by this check.
BROKEN = [
    (check_arrows, "hydra/model/a.cc", HEAD + '#include "hydra/nn/model.h"\n'),
    (check_arrows, "hydra/io/a.cc", HEAD + '#include "hydra/text/tokenizer.h"\n'),
    (check_arrows, "hydra/kernels/a.cc", HEAD + '#include "hydra/model/config.h"\n'),
    (check_arrows, "hydra/runtime/a.cc", HEAD + '#include "hydra/data/token_shard.h"\n'),
    (check_arrows, "hydra/moa/a.cc", HEAD + '#include "hydra/kernels/ops.h"\n'),
    (check_arrows, "hydra/kernels/a.cc", HEAD + '#include "hydra/runtime/forward.h"\n'),
    (check_arrows, "hydra/runtime/a_test.cc", HEAD + '#include "hydra/nn/model.h"\n'),
    (check_arrows, "hydra/base/a.cc", HEAD + '#include "hydra/cli/cli.h"\n'),
    (check_arrows, "hydra/cli/verb_a.cc", HEAD + '#include "hydra/train/trainer.h"\n'),
    (check_arrows, "hydra/cli/torch_a.cc", HEAD + '#include "hydra/serve/server.h"\n'),
    (check_arrows, "hydra/cli/cli.cc", HEAD + '#include "hydra/runtime/forward.h"\n'),
    (check_arrows, "hydra/misc/a.cc", HEAD),
    (check_torch, "hydra/base/a.cc", HEAD + "#include <torch/torch.h>\n"),
    (check_torch, "hydra/cli/verb_a.cc", HEAD + "#include <ATen/ATen.h>\n"),
    (check_torch, "hydra/nn/a.cc", HEAD + "#include <fmt/format.h>\n"),
    (check_includes, "hydra/base/a.cc", HEAD + '#include "b.h"\n'),
    (check_first_comment, "hydra/base/a.cc", "int a;\n"),
    (check_first_comment, "hydra/base/a.cc", SPDX + "#include <string>\n"),
    (check_first_comment, "tools/a.sh", "#!/bin/sh\necho\n"),
    (check_silent, "hydra/base/a.cc", HEAD + 'void F() { std::cout << "x"; }\n'),
    (check_silent, "hydra/base/a.cc", HEAD + 'void F() { printf("x"); }\n'),
    (check_silent, "hydra/nn/a.cc", HEAD + 'void F() { std::fprintf(stderr, "x"); }\n'),
    (check_silent, "hydra/train/a.cc", HEAD + "void F() { std::exit(1); }\n"),
    (check_silent, "hydra/train/a.cc", HEAD + "void F() { abort(); }\n"),
    (check_text, "hydra/base/a.cc", HEAD + "// caf\u00e9\n"),
    (check_text, "hydra/base/a.h", HEAD + "#pragma once\nusing namespace std;\n"),
    (check_text, "hydra/base/a.h", HEAD + "int a;\n"),
    (check_text, "hydra/base/a.cc", HEAD + "int a;\n" * MAX_LINES),
    (check_columns, "tools/a.sh", "#!/bin/sh\n" + SHELL_HEAD + "echo " + "x" * MAX_COLUMNS + "\n"),
    (check_columns, "tests/rules/a.py", SHELL_HEAD + "x = 1  # " + "a word " * 20 + "\n"),
    (check_columns, "cmake/A.cmake", SHELL_HEAD + "set(x " + "y" * MAX_COLUMNS + ")\n"),
    (check_columns, "cmake/CMakeLists.txt", SHELL_HEAD + "set(x " + "y" * MAX_COLUMNS + ")\n"),
    (check_columns, "docs/LOG.md", "# Log\n\n" + "a word " * 20 + "\n"),
    (check_paths, "docs/a.md", "see /home/someone/x\n"),
    (check_names, "hydra/base/a.cc", HEAD + "int a;  // as in gone.h\n"),
]

# Not a breach, although it looks like one.
FINE = [
    ("hydra/base/a.cc", HEAD + '// printf("x") and std::cout in a comment\nconst char* a = "std::cerr << exit(1)";\n'),
    ("hydra/train/a.cc", HEAD + '#include "hydra/model/config.h"\nvoid F(File& f) { f.printf(1); job.abort(); }\n'),
    ("hydra/cli/verb_a.cc", HEAD + '#include "hydra/cli/cli.h"\nvoid F() { std::puts("x"); }\n'),
    ("hydra/base/a_test.cc", HEAD + 'TEST(A, B) { printf("x"); }\n'),
    ("docs/a.md", "| a table | " + "of wide cells | " * 10 + "\n"),
    ("specs/a.md", "A specification has formulas " + "that are long " * 10 + "\n"),
]


class BrokenTrees(unittest.TestCase):
    @staticmethod
    def problems(path, text):
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, os.path.dirname(path)))
            with open(os.path.join(root, path), "w", encoding="utf-8") as file:
                file.write(text)
            source = [Source(root, path)]
            return {check: list(check(source)) for check in CHECKS}

    def test_each_breach_is_found(self):
        for check, path, text in BROKEN:
            with self.subTest(check=check.__name__, path=path, text=text[:200]):
                found = self.problems(path, text)
                self.assertEqual(len(found.pop(check)), 1)
                self.assertEqual([line for lines in found.values() for line in lines], [])

    def test_what_is_fine_is_left_alone(self):
        for path, text in FINE:
            with self.subTest(path=path, text=text):
                self.assertEqual([line for lines in self.problems(path, text).values() for line in lines], [])

    def test_own_header_first(self):
        with tempfile.TemporaryDirectory() as root:
            os.makedirs(os.path.join(root, "hydra/base"))
            for name, text in (("a.h", HEAD + "#pragma once\n"),
                               ("a.cc", HEAD + '#include <string>\n#include "hydra/base/a.h"\n')):
                with open(os.path.join(root, "hydra/base", name), "w", encoding="ascii") as file:
                    file.write(text)
            sources = [Source(root, "hydra/base/" + name) for name in ("a.h", "a.cc")]
            self.assertEqual(len(list(check_includes(sources))), 1)

    def test_a_folder_missing_from_the_readme_is_seen(self):
        lines = tree.folder_lines(ROOT)
        text = f"# x\n{tree.BEGIN}\n```\n" + "\n".join(lines[:-1]) + f"\n```\n{tree.END}\n"
        self.assertNotEqual(tree.readme_block(text), lines)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
