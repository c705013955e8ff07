# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=60
# The habits of docs/STYLE.md that can be read in the sources: shapes beside pointers and tensors, legends of letters,
# scalar twins, SIMD levels, mutable globals, texts of error codes; and that the checks its table names exist. Each is
# also shown a source that breaks it. Not here: rules of every file (tree_test.py).
import glob
import os
import re
import sys
import unittest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

# Mutable variables that belong to the whole process, and why nothing else will do.
GLOBALS = {
    "hydra/base/new_memory.cc": "tests fill memory that is taken deep inside a pass",
    "hydra/base/thread_pool.cc": "which pool this thread works for",
    "hydra/cli/signals.cc": "a signal handler reaches nothing else",
    "hydra/io/testing_memory.h": "tests replace operator new, which is told nothing",
    "hydra/io/mapped_files.cc": "a signal handler reaches nothing else",
    "hydra/io/staged_folder.cc": "numbers temporary folders",
    "hydra/kernels/target.cc": "the dispatch table of SIMD levels",
    "hydra/serve/http.cc": "which connection this thread serves: handlers of cpp-httplib are not told",
    "hydra/text/tokenizer.cc": "numbers tokenizers, so that a cache knows its own",
}
# Functions of the kernels' headers that are no kernels: sizes of memory, and weights in another layout.
NO_TWIN = {"SsdScratchFloats", "AttentionScratchFloats", "AttentionTrainScratchFloats", "MambaScratchFloats",
           "AttentionTileQueries", "MambaSums", "PackedBytes", "MatrixBytes", "Pack", "NarrowBytes", "PackNarrow",
           "DecodeMatrixRow", "InfluenceScratchFloats", "InfluenceScratchDoubles"}


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def sources(pattern):
    return {os.path.relpath(path, ROOT): read(path) for path in sorted(glob.glob(os.path.join(ROOT, pattern)))}


def structs(text, name):
    """The lines of each struct whose name matches."""
    for match in re.finditer(r"^struct (" + name + r") \{\n(.*?)^\};", text, re.M | re.S):
        yield from match.group(2).splitlines()


def without_shape(text):
    """Pointers of kernels' argument structs that do not show what they point at."""
    member = re.compile(r"\s*(?:const )?[\w:]+\* \w+(?: = \w+)?;(.*)")
    return [line.strip() for line in structs(text, r"\w+Args") if (found := member.fullmatch(line))
            and not re.search(r"\[|ScratchFloats\(", found.group(1))]


def tensors_without_shape(text):
    """Tensors of structs that do not show their shape; a comment above a line of several counts."""
    member, bare, above = re.compile(r"\s*torch::Tensor [\w, ]+;(.*)"), [], ""
    for line in structs(text, r"\w+"):
        found = member.fullmatch(line)
        if found and not re.search(r"\[|scalar", found.group(1) + above):
            bare.append(line.strip())
        above = line if line.strip().startswith("//") else ""
    return bare


def without_legend(text):
    """True for a header that shows shapes and does not say what their letters mean."""
    return bool(re.search(r"// .*\[[A-Z]\w*, ", text)) and "Dims" not in text


def kernels_of(header):
    """The functions that a header of kernels declares: its own, and the twins in its namespace ref."""
    declared = re.compile(r"^(?:\[\[nodiscard\]\] )?(?:inline )?[\w:]+ (\w+)\(", re.M)
    own, _, ref = header.partition("namespace ref {")
    return set(declared.findall(own)) - NO_TWIN, set(declared.findall(ref))


def without_twin(headers, listed):
    """Kernels without a twin in ref, and those whose two forms and name are not in the list."""
    missing = []
    for header in headers:
        own, twins = kernels_of(header)
        missing += own - twins
        missing += [name for name in own
                    if not re.search(rf'"{name}"', listed) or not re.search(rf"\bref::{name}\b", listed)]
    return sorted(set(missing))


def mutable_globals(text):
    """Variables at the left margin, and static or thread-local ones anywhere, that may change."""
    text = re.sub(r"//[^\n]*|/\*.*?\*/", "", text, flags=re.S)
    found = []
    for line in text.splitlines():
        if re.search(r"\b(const|constexpr|using|return|static_assert|template|friend|extern)\b", line):
            if not re.search(r"\bthread_local\b", line):
                continue
        held = re.match(r"\s+(?:static|thread_local)(?: thread_local)? [\w:<>*& ]+ \w+( = .*|\{.*)?;", line)
        outside = re.match(r"(?:static |inline |thread_local )*[A-Za-z_][\w:]*(?:<[^;=(]*>)?[*& ]+[\w:]+( = .*|\{.*)?;",
                           line)
        word = line.split(" ")[0]
        if held or outside and word not in ("struct", "class", "enum", "namespace", "union", "typedef", "goto", "case"):
            found.append(line.strip())
    return found


def codes_without_text(header, source):
    """Error codes without a text, and texts that two codes share."""
    codes = re.findall(r"^  (k\w+),", header[header.index("enum class ErrorCode"):].split("};")[0], re.M)
    texts = dict(re.findall(r'case ErrorCode::(k\w+): return "([^"]+)";', source))
    twice = [code for code in texts if list(texts.values()).count(texts[code]) > 1]
    return [code for code in codes if code not in texts] + twice


def missing_checks(style, cases, programs, targets):
    """Cells of the column "our check" that name what is not there, or nothing."""
    rows = [line for line in style.splitlines() if re.match(r"\| \d+ \|", line)]
    missing = [] if len(rows) == 25 else [f"{len(rows)} habits"]
    for row in rows:
        cell = row.strip(" |").split(" | ")[-1]
        names = re.findall(r"`([^`]+)`", cell)
        missing += [name for name in names if name not in cases | programs | targets]
        if not names and cell != "review":
            missing.append(cell)
    return missing


class Habits(unittest.TestCase):
    def assert_none(self, found):
        self.assertEqual({path: lines for path, lines in found.items() if lines}, {})

    def test_pointers_and_tensors_show_their_shapes(self):
        public = {path: text for path, text in sources("hydra/kernels/*.h").items() if not path.endswith("-inl.h")}
        self.assert_none({path: without_shape(text) for path, text in public.items()})
        self.assert_none({path: tensors_without_shape(text) for path, text in sources("hydra/nn/*.h").items()})
        self.assertEqual(without_shape("struct AArgs {\n  const float* x;  // [T]\n  float* y;\n};\n"), ["float* y;"])
        self.assertEqual(tensors_without_shape("struct A {\n  torch::Tensor a, b;\n  torch::Tensor c;  // [D]\n};\n"),
                         ["torch::Tensor a, b;"])

    def test_letters_of_shapes_have_a_legend(self):
        headers = {**sources("hydra/kernels/*.h"), **sources("hydra/nn/*.h")}
        self.assertEqual([path for path, text in headers.items() if without_legend(text)], [])
        self.assertTrue(without_legend("float* x;  // [T, D]\n"))

    def test_each_kernel_has_a_scalar_twin_and_is_in_the_list(self):
        headers = {path: text for path, text in sources("hydra/kernels/*.h").items()
                   if "namespace ref {" in text or re.match(r"hydra/kernels/train_\w+\.h", path)}
        self.assertGreaterEqual(len(headers), 5)
        listed = "".join(sources("hydra/kernels/kernel_list*.cc").values())
        self.assertEqual(without_twin(headers.values(), listed), [])
        made_up = "void A(int a);\nvoid B(int b);\nvoid C(int c);\nnamespace ref {\nvoid A(int a);\nvoid B(int b);\n}\n"
        self.assertEqual(without_twin([made_up], 'x = {"A", ref::A}'), ["B", "C"])
        self.assertEqual(without_twin([made_up], 'x = {"A", ref::A, "B", "C"}'), ["B", "C"])

    def test_one_place_chooses_between_kernels_and_torch_operators(self):
        files = {path: text for path, text in sources("hydra/nn/*.cc").items() if not path.endswith("_test.cc")}
        self.assertEqual([path for path, text in files.items() if "is_cpu()" in text], ["hydra/nn/form.cc"])

    def test_kernels_are_tested_on_every_simd_level(self):
        tests = sources("hydra/kernels/*_test.cc")
        self.assertGreater(len(tests), 3)
        self.assertEqual([path for path, text in tests.items() if "ForEachTarget(" not in text], [])

    def test_nothing_mutable_is_global(self):
        files = {path: text for path, text in {**sources("hydra/*/*.cc"), **sources("hydra/*/*.h")}.items()
                 if not path.endswith("_test.cc")}
        self.assert_none({path: mutable_globals(text) for path, text in files.items() if path not in GLOBALS})
        for path in GLOBALS:
            self.assertTrue(mutable_globals(files[path]), f"{path} has none: strike it here")
        for line in ("int count = 0;", "std::atomic<int> seen{0};", "  static std::string last;", "thread_local int n;",
                     "std::vector<int> all;", "static std::map<int, std::string> names = {};"):
            self.assertEqual(mutable_globals(line + "\n"), [line.strip()])
        for line in ("constexpr int kCount = 1;", "const std::string kName{};", "int Count(int n);", "  int n = 0;",
                     "  static const std::regex kPattern(x);", "struct A;", "using B = std::vector<int>;"):
            self.assertEqual(mutable_globals(line + "\n"), [])

    def test_only_tests_choose_what_new_memory_holds(self):
        users = {path for pattern in ("hydra/*/*.cc", "hydra/*/*.h", "bench/*.cc", "fuzz/*", "examples/*.cc")
                 for path, text in sources(pattern).items() if "SetNewMemoryByte" in text}
        self.assertEqual(users, {"hydra/base/new_memory.h", "hydra/base/new_memory.cc", "hydra/base/testing.h"})

    def test_each_error_code_has_a_text_of_its_own(self):
        self.assertEqual(codes_without_text(read("hydra/base/error.h"), read("hydra/base/error.cc")), [])
        self.assertEqual(codes_without_text("enum class ErrorCode {\n  kA,  // a\n  kB,  // b\n};\n",
                                            'case ErrorCode::kA: return "a";\n'), ["kB"])

    def test_the_checks_that_the_style_guide_names_exist(self):
        tests = "".join(sources("hydra/*/*_test.cc").values())
        cases = {f"{suite}.{case}" for suite, case in re.findall(r"^TEST(?:_F|_P)?\((\w+), (\w+)\)", tests, re.M)}
        programs = {os.path.basename(path) for path in sources("tests/*/*.py")}
        targets = {"make " + name for name in re.findall(r"^([a-z-]+):", read("Makefile"), re.M)}
        self.assertEqual(missing_checks(read("docs/STYLE.md"), cases, programs, targets), [])
        row = "| 1 | a habit | a project | `Suite.Case` |"
        self.assertEqual(missing_checks("\n".join([row] * 25), {"Suite.Case"}, set(), set()), [])
        self.assertEqual(missing_checks("\n".join([row] * 25), set(), set(), set()), ["Suite.Case"] * 25)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
