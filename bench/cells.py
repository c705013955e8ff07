# SPDX-License-Identifier: Apache-2.0
# Cells of an experiment: runs of `hydralm train` that may be stopped at any time and go on by the same command, what
# came of each as JSON in bench/results/cells, and tables of them. Not here: what is trained and what is measured
# (curriculum.py, teach.py, blockffn_train.py).
import csv
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import commit, machine

# Finished cells are committed: an experiment of many hours is made in pieces, on whatever machine is free.
RESULTS = Path("bench/results/cells")


def kept(experiment, name, key):
    """The result of a cell that was finished before, here or elsewhere, or None; `key` are values that it must have.
    `experiment` is a folder below RESULTS, or the whole path of one."""
    path = RESULTS / experiment / f"{name}.json"
    if not path.exists():
        return None
    made = json.loads(path.read_text())
    return made if all(made.get(field) == value for field, value in key.items()) else None


def keep(experiment, name, made):
    path = RESULTS / experiment / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(made, indent=1) + "\n")
    part.rename(path)
    return made


def trained(hydralm, experiment, name, key, command, measure):
    """The result of a cell: `key`, which says what it is ("settings" are those of training), and what measure(folder)
    gives of its run. A run that was stopped goes on from its last checkpoint."""
    if made := kept(experiment, name, key):
        return made
    folder = Path("runs") / experiment / name
    words = [word for setting in key["settings"] for word in ("--set", setting)]
    command = ["nice", "-n", "19", hydralm, "train", *command, "--run", folder, *words]
    if status := subprocess.run([str(word) for word in command]).returncode:
        sys.exit(status)
    return keep(experiment, name, {"name": name, **key, "machine": machine(), "commit": commit(), **measure(folder)})


def with_copy(hydralm, work):
    """work(path of hydralm) with a copy of the commands, which serves a whole experiment, whatever is built meanwhile;
    it lies within the build, since training looks for its commit in the folders above."""
    with tempfile.TemporaryDirectory(dir=hydralm.parent) as folder:
        for name in ("hydralm", "hydralm-train"):
            shutil.copy2(hydralm.with_name(name), folder)
        return work(Path(folder) / "hydralm")


def together(jobs, count):
    """Runs functions, `count` at a time, in their order."""
    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(lambda job: job(), jobs))


def rows(path):
    """Rows of a run's CSV as numbers."""
    with open(path, encoding="utf-8") as table:
        return [{key: float(value) for key, value in row.items() if value not in ("", "nan")}
                for row in csv.DictReader(table)]


def made_on(cells):
    """Where and from which sources finished cells come, in words."""
    return "; ".join(f"{', '.join(sorted({cell[key] for cell in cells}))}" for key in ("machine", "commit"))


def table(head, lines):
    return [f"| {' | '.join(head)} |", "|" + "---|" * len(head), *(f"| {' | '.join(line)} |" for line in lines), ""]


def mean_spread(values, digits=4):
    """mean (min .. max)"""
    return f"{statistics.mean(values):.{digits}f} ({min(values):.{digits}f} .. {max(values):.{digits}f})"
