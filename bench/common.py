# SPDX-License-Identifier: Apache-2.0
# What the benchmark scripts share: running commands, their peak memory, the machine in words, the memory's read rate
# around what is measured, and the page with its raw numbers. Not here: what is measured.
import argparse
import json
import os
import platform
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

median = statistics.median
VOID = 0.05  # share by which the read rate may move, and share of the processors' time that others may have


# ---- commands ----


def run(*args, **options):
    """The output of a command; a failed one ends the script with its words."""
    made = subprocess.run([str(a) for a in args], capture_output=True, text=True, **options)
    if made.returncode != 0:
        sys.exit(f"{' '.join(map(str, args))[:300]}: {made.stderr.strip()}")
    return made.stdout


def peak(*args, pause=0.002):
    """Bytes that a command had resident at most, looked at every `pause` seconds. wait4's maximum would begin at the
    size of this interpreter."""
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([str(a) for a in args], stdout=subprocess.DEVNULL, stderr=errors)
        most, looks = 0, 0
        while process.poll() is None:
            with open(f"/proc/{process.pid}/status") as status:
                most = max([most, *(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))])
            looks += 1
            time.sleep(0 if looks < 1000 and pause < 0.01 else pause)
        if process.returncode != 0:
            errors.seek(0)
            sys.exit(f"{' '.join(map(str, args))}: {errors.read().decode().strip()}")
    return most


def arguments(description, rounds=None, threads=None):
    """The flags that every script has; --rounds, --tries and --threads where it measures speed."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("build", nargs="?", default="build/release")
    if rounds:
        parser.add_argument("--rounds", type=int, default=rounds, help="times that each row is measured")
        parser.add_argument("--tries", type=int, default=3,
                            help="times that a round is measured at most while the machine is not quiet")
    if threads:
        parser.add_argument("--threads", type=int, default=threads)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--out", default="bench/results")
    return parser


def need(model, made_by):
    """Ends the script where a model that it measures is not there."""
    if not (Path(model) / "config.json").exists():
        sys.exit(f"{model} is not there or not finished: {made_by} makes it")


def built(build, *targets):
    """Builds what is measured, so that it is of the commit that the page names; the path of hydralm."""
    run("cmake", "--build", build, "--target", "commands", *targets)
    return Path(build) / "hydralm"


# ---- the machine and the sources ----


def processor():
    """Of the first CPU: its name, family and model ("" where they are not told), and its SIMD level in words."""
    fields = dict(map(str.strip, line.split(":", 1)) for line in Path("/proc/cpuinfo").read_text().split("\n\n")[0]
                  .splitlines() if ":" in line)
    levels = (("avx512_vnni", "AVX-512 with VNNI"), ("avx512f", "AVX-512"), ("avx_vnni", "AVX2 with VNNI"),
              ("avx2", "AVX2"))
    flags = fields.get("flags", "").split()
    simd = next((name for flag, name in levels if flag in flags), "no AVX2")
    return fields.get("model name", platform.processor()), fields.get("cpu family", ""), fields.get("model", ""), simd


def machine():
    name, family, model, simd = processor()
    return f"{name}{f' (family {family}, model {model})' if family else ''}, {os.cpu_count()} CPUs, {simd}"


def machine_folder():
    """The name of a kind of machine as a folder's: "amd-epyc-25-1-avx2"."""
    name, family, model, simd = processor()
    return re.sub(r"[^a-z0-9]+", "-", f"{name} {family} {model} {simd.replace('-512', '512').replace('with', '')}"
                  .lower()).strip("-")


def commit():
    """The short hash, and "dirty" where sources differ from it or git does not know them: CMake compiles every file of
    its folders. Results of another benchmark are no sources."""
    results = ":!bench/results"
    changed = run("git", "status", "--porcelain", "--untracked-files=no", "--", ".", results)
    new = run("git", "ls-files", "--others", "--exclude-standard", "--", "hydra", "bench", "cmake", results)
    return run("git", "rev-parse", "--short", "HEAD").strip() + (" (dirty)" if (changed + new).strip() else "")


def compiler(build):
    """Name and version of what compiled the build folder."""
    cache = (Path(build) / "CMakeCache.txt").read_text()
    path = next(line for line in cache.splitlines() if line.startswith("CMAKE_CXX_COMPILER:")).split("=", 1)[1]
    return run(path, "--version").splitlines()[0]


def processor_seconds(measured=()):
    """Used by others so far: by all processes of the machine, less this one, those that it has waited for and those of
    these numbers, which run on."""
    tick = os.sysconf("SC_CLK_TCK")
    ticks = [int(field) for field in open("/proc/stat").readline().split()[1:]]
    busy = sum(ticks[i] for i in (0, 1, 2, 5, 6, 7)) / tick  # all but idle and waiting; stolen too
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    for process in measured:  # fields 14 and 15 of the line; the name, in brackets, may hold spaces
        fields = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()
        busy -= (int(fields[11]) + int(fields[12])) / tick
    return busy - sum(usage.ru_utime + usage.ru_stime for usage in own)


class Meter:
    """Tells a quiet machine from one that others use too: by the memory's read rate before and after, which also moves
    with neighbours outside of this machine, and by the processors' time that others took meanwhile, which a steady load
    shows in too. Work that is bound by arithmetic is held to the processors' time alone; the read rate is noted."""

    def __init__(self, hydralm, args, arithmetic=False):
        self.command = [hydralm, "bench", "--stream", "-t", getattr(args, "threads", 1), "-o", "json", "-q"]
        self.tries, self.arithmetic = args.tries, arithmetic

    def rate(self):
        """GB/s with all threads."""
        return json.loads(run(*self.command))[-1]["read_gb_per_s"]

    def steady(self, measure, measured=()):
        """What measure() gives, and whether it is void: the machine was not quiet in any of the tries. `measured` are
        numbers of processes that run on and belong to what is measured."""
        tick = 0.05  # seconds that the two clocks may differ by
        for tried in range(1, self.tries + 1):
            before, start, used = self.rate(), time.monotonic(), processor_seconds(measured)
            made = measure()
            others = processor_seconds(measured) - used
            share = max(0.0, others - tick) / (time.monotonic() - start) / os.cpu_count()
            after = self.rate()
            moved = abs(after - before) > VOID * max(before, after) and not self.arithmetic
            void = moved or share > VOID
            if not void:
                break
        return made, {"read_gb_per_s": [before, after], "others_share": share, "tries": tried, "void": void}


# ---- the page ----


class Page:
    """NAME.md and NAME.json in the folder of this kind of machine, written anew after each row. Rows that an earlier
    run of the same commit, machine and settings measured are kept, void ones excepted, so that the same command goes on
    after a break. Nothing is kept from sources that differ from their commit. A row is kept or measured again as a
    whole: its sides are compared round by round, so all of them must be of one run."""

    def __init__(self, name, args, keys, text):
        """keys: names of the rows in the order of the page; text: the page in Markdown of this object."""
        self.name, self.keys, self.text, self.only = name, keys, text, args.only
        self.out = Path(args.out) / machine_folder()
        settings = {key: value for key, value in vars(args).items() if key not in ("build", "only", "out", "tries")}
        flags = [f"--{key.replace('_', '-')} {value}" for key, value in settings.items()]
        self.about = {
            "machine": machine(), "compiler": compiler(args.build), "commit": commit(),
            "command": " ".join([f"bench/{Path(sys.argv[0]).name}", args.build, *flags])}
        self.rows = self._kept()
        if not any(self.only in key for key in keys):
            sys.exit(f"--only {self.only}: no row has this in its name: {', '.join(keys)}")

    def _kept(self):
        path = self.out / f"{self.name}.json"
        if not path.exists() or "dirty" in self.about["commit"]:
            return {}
        earlier = json.loads(path.read_text())
        same = isinstance(earlier, dict) and all(earlier.get(key) == value for key, value in self.about.items())
        return {key: row for key, row in earlier["rows"].items() if not row.get("void")} if same else {}

    def measure(self, measure):
        """Each row that is wanted and not there yet, by measure(key): a dict, with "void" where it is."""
        for key in self.keys:
            if self.only in key and key not in self.rows:
                self.rows[key] = measure(key)
                self.write()
        print(self.out / f"{self.name}.md")

    def write(self):
        if (now := commit()) != self.about["commit"]:
            sys.exit(f"bench/{self.name}.py: the sources were commit {self.about['commit']} at the start and are {now} "
                     "now: the last row is not written; start the command again")
        self.rows = {key: self.rows[key] for key in self.keys if key in self.rows}
        self.out.mkdir(parents=True, exist_ok=True)
        made = {**self.about, "load_5_min": os.getloadavg()[1], "rows": self.rows}
        (self.out / f"{self.name}.json").write_text(json.dumps(made, indent=1) + "\n")
        (self.out / f"{self.name}.md").write_text("\n".join(self.text(self)) + "\n")

    def head(self, text):
        """The paragraph that says on what, from which sources and how the page was made."""
        about = self.about
        return prose(f"{about['machine']}; {about['compiler']}; commit {about['commit']}. Made by "
                     f"`{about['command']}`; load average {os.getloadavg()[1]:.1f} at the end. {text}")


def steady_words(what="round", arithmetic=False):
    """How a page says what Meter.steady does with each `what`."""
    moved = "" if arithmetic else f"around which it moved by more than {VOID:.0%}, or "
    return (f"The memory's read rate (`hydralm bench --stream`) is read before and after each {what}. A {what} {moved}"
            f"in which other processes, or other machines of the same processor, took more than {VOID:.0%} of the "
            "processors' time, is measured again. A row with one that stayed so is void, whatever its figures.")


def prose(text):
    """A paragraph of a results page, in lines of at most 120 columns."""
    return textwrap.fill(text, 120, break_long_words=False, break_on_hyphens=False)


def spread(values, digits=1):
    """median (min .. max)"""
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} .. {max(values):.{digits}f})" if values else ""


def quotients(above, below):
    """Round by round, so that a slow moment of the machine meets both sides."""
    return [a / b for a, b in zip(above, below, strict=True)]


def verdict(values, goal, void, most=False):
    """A goal for the median, and whether it is met; nothing where there is no goal."""
    if goal is None:
        return "void" if void else ""
    met = median(values) <= goal if most else median(values) >= goal
    return f"{'<=' if most else '>='} {goal}: " + ("void" if void else "met" if met else "missed")
