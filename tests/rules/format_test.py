# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=120
# All C++ is laid out as .clang-format says: what `make format` would change is a failure. Skipped where clang-format is
# not installed. Not here: other rules of the sources (tree_test.py).
import os
import shutil
import subprocess
import sys
import tempfile
import unittest
from concurrent.futures import ThreadPoolExecutor

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, "tools"))
import tree  # noqa: E402

FORMAT = shutil.which("clang-format")
AT_ONCE = 20  # files of one process


def complaints(files, folder):
    done = subprocess.run([FORMAT, "--dry-run", "-Werror", "--style=file", *files], cwd=folder, capture_output=True,
                          text=True)
    lines = [line for line in done.stderr.splitlines() if ": error: " in line]
    return lines if lines or done.returncode == 0 else [done.stderr]


class Format(unittest.TestCase):
    def test_each_source_is_as_clang_format_lays_it_out(self):
        files = [path for path in tree.list_files(ROOT) if path.endswith((".cc", ".h", ".cu", ".cuh"))]
        self.assertGreater(len(files), 100)
        parts = [files[i:i + AT_ONCE] for i in range(0, len(files), AT_ONCE)]
        with ThreadPoolExecutor(2) as pool:
            found = [line for lines in pool.map(lambda part: complaints(part, ROOT), parts) for line in lines]
        self.assertEqual(found, [], "run make format\n" + "\n".join(found))

    def test_another_layout_is_seen(self):
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(os.path.join(ROOT, ".clang-format"), folder)
            for name, text, bad in (("a.cc", "int  F( ){return 1;}\n", True),
                                    ("b.cc", "int F() { return 1; }\n", False)):
                with open(os.path.join(folder, name), "w", encoding="ascii") as file:
                    file.write(text)
                self.assertEqual(bool(complaints([name], folder)), bad, text)


if __name__ == "__main__":
    if FORMAT is None:
        print("clang-format is not installed")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
