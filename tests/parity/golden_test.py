# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=120
"""The oracles' own checks pass, and the golden files are what make_golden.py writes. Not here: nn (golden_test.cc)."""
import os
import struct
import json
import subprocess
import sys
import tempfile

try:
    import numpy as np
except ImportError:
    print("skipped: no numpy")
    sys.exit(77)

GOLDEN = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "golden")


def tensors(path):
    with open(path, "rb") as f:
        data = f.read()
    n = struct.unpack("<Q", data[:8])[0]
    head = json.loads(data[8:8 + n])
    return {k: np.frombuffer(data[8 + n:][slice(*v["data_offsets"])], {"F64": "<f8", "I64": "<i8"}[v["dtype"]])
            for k, v in head.items()}


OTHERS = ("hf" + os.sep, "smollm2.json", "weights.safetensors")  # of the other make_*_golden.py


def files(folder):
    return sorted(os.path.relpath(os.path.join(at, name), folder) for at, _, names in os.walk(folder) for name in names
                  if name.endswith((".json", ".safetensors")))


def main():
    for name in ("hydra_oracle.py", "blockffn_oracle.py", "moa_oracle.py"):
        oracle = subprocess.run([sys.executable, os.path.join(GOLDEN, name)], capture_output=True, text=True)
        print(oracle.stdout[-2000:], oracle.stderr[-2000:])
        assert oracle.returncode == 0, f"{name}: its checks fail"
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([sys.executable, os.path.join(GOLDEN, "make_golden.py"), folder], check=True)
        committed = [name for name in files(GOLDEN) if not name.startswith(OTHERS)]
        assert files(folder) == committed, "other files than committed"
        for name in files(folder):
            ours, theirs = os.path.join(folder, name), os.path.join(GOLDEN, name)
            with open(ours, "rb") as a, open(theirs, "rb") as b:
                if a.read() == b.read():
                    continue
            # Another processor's matrix products may round differently in the last bits, never more.
            assert name.endswith(".safetensors"), f"{name} differs"
            a, b = tensors(ours), tensors(theirs)
            assert list(a) == list(b), f"{name}: other tensors"
            worst = max(np.abs(a[k].astype(float) - b[k].astype(float)).max() for k in a)
            print(f"{name}: bytes differ, largest difference {worst:.2e}")
            assert worst < 1e-11, f"{name}: {worst}"
    size = sum(os.path.getsize(os.path.join(GOLDEN, name)) for name in files(GOLDEN))
    assert size < 2_000_000, f"golden files: {size} bytes"


main()
