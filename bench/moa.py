#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# What attention plans do to answers (specs/moa.md 9): which prompts the dense model answers, profiles from several
# seeds, plans and controls, their answers at several lengths from the rings of the runtime, perplexity, the order of
# predicted losses. A step is made of cells, each a file that is kept (--cells), plans beside them: the same command
# goes on after a break, here or on another machine, and prints first how long it will take. Writes
# bench/results/MACHINE/moa.{md,json} (moa_page.py). Not here: speed and memory (moa_speed.py).
#   bench/moa.py [BUILD] [--steps gate,profile,plans,test,page] [--only TEXT] [--model FILE] [--text DIR] ...
import hashlib
import json
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

from cells import RESULTS, keep, kept
from common import arguments, built, commit, machine, run
from moa_page import KINDS, TEXT_KINDS, write_page
from quality_model import texts as package_texts

STEPS = ("gate", "profile", "plans", "test", "page")
PACKAGES = {"anarchism": "usr/share/doc/anarchism/markdown/*.md.gz", "dict-foldoc": "usr/share/dictd/foldoc.dict.dz"}
PIECE = 120_000     # characters of a document at least
PLANNING = 100e9    # FLOP/s of a profile, for the hours that are printed first


def numbers(text, kind=int):
    return [kind(word) for word in str(text).split(",") if word]


def flags():
    parser = arguments("what attention plans do to answers", threads=2)
    parser.add_argument("--steps", default=",".join(STEPS))
    parser.add_argument("--model", default="", help="a folder or .gguf; default SmolLM2-135M-Instruct")
    parser.add_argument("--text", default="", help="folder of texts; default of Debian packages")
    parser.add_argument("--runs", default="runs/moa", help="texts, items, profiles: what can be made again")
    parser.add_argument("--cells", default=str(RESULTS / "moa"), help="finished cells, and plans")
    parser.add_argument("--lengths", default="1024,2048,4096", help="profiled lengths")
    parser.add_argument("--long", default="6144,8192", help="lengths that are only tested")
    parser.add_argument("--unseen", type=int, default=6144, help="length at which plans are chosen")
    parser.add_argument("--densities", default="0.5,0.25,0.125")
    parser.add_argument("--kinds", default="summary,copy,lookup", help="of calibration and validation")
    parser.add_argument("--items", type=int, default=16, help="items of a length, of calibration and validation")
    parser.add_argument("--texts", type=int, default=10, help="test texts of a kind and length")
    parser.add_argument("--depths", type=int, default=10, help="questions over the depth of each")
    parser.add_argument("--seeds", type=int, default=3, help="calibrations")
    parser.add_argument("--shuffles", type=int, default=3)
    parser.add_argument("--random", type=int, default=30, help="plans by chance, of the first-order check")
    parser.add_argument("--ppl-tokens", type=int, default=131072)
    parser.add_argument("--keep", default="auto", help="of data items, for calibration and validation")
    parser.add_argument("--no-build", action="store_true", help="take the build as it is")
    parser.add_argument("--dry-run", action="store_true", help="print the cells and hours, do nothing")
    return parser


def verse_books(lines):
    """King James's books by name, from lines "Gen1:1 text"."""
    books = {}
    for line in lines:
        if found := re.match(r"(.+?)(\d+):(\d+) +(.*)", line):
            books.setdefault(found[1], []).append(found[4])
    return {name: "\n".join(verses) + "\n" for name, verses in books.items()}


def prepare_texts(folder):
    """A file for each document: books, and pieces of other packages."""
    if (folder / ".whole").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in verse_books(run("bible", "-f", "Gen1:1-Rev22:21").splitlines()).items():
        (folder / f"kjv-{name}.txt").write_text(text)
    versions = {}
    for package, pattern in PACKAGES.items():
        piece, number = "", 0
        for text in [*package_texts(package, pattern, versions), None]:
            piece += text or ""
            if piece and (text is None or len(piece) >= PIECE):
                (folder / f"{package}-{number:03}.txt").write_text(piece)
                piece, number = "", number + 1
    (folder / ".whole").write_text(json.dumps(versions) + "\n")


class Cell:
    """A measurement that is kept: make() gives a dict; seconds is about what it will take."""

    def __init__(self, name, settings, seconds, make):
        self.name, self.settings, self.seconds, self.make = name, settings, seconds, make


class Study:
    def __init__(self, args):
        self.args = args
        self.hydralm = Path(args.build) / "hydralm" if args.no_build else built(args.build)
        self.runs = Path(args.runs)
        self.cells = Path(args.cells).resolve()
        self.chosen_plans = Path(args.cells) / "plans"
        self.chosen_plans.mkdir(parents=True, exist_ok=True)
        self.lengths, self.long = numbers(args.lengths), numbers(args.long)
        self.densities = numbers(args.densities, float)
        self.text = Path(args.text) if args.text else self.runs / "texts"
        if not args.text:
            prepare_texts(self.text)
        self.model = args.model or run("tools/smollm2.sh").strip()
        self.name = Path(self.model.rstrip("/")).stem
        self.rates = {}

    # ---- running ----

    def verb(self, *words):
        """JSON that a verb prints. What it shows on a terminal stays visible; one that is stopped ends the script."""
        command = ["nice", "-n", "19", self.hydralm, *words, "-t", self.args.threads, "--json"]
        done = subprocess.run([str(word) for word in command], stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(f"{shlex.join(str(word) for word in command)}: status {done.returncode}")
        return json.loads(done.stdout)

    def plan(self, *words):
        """The planner has no threads."""
        return json.loads(run(self.hydralm, "plan", *words, "--json"))

    def rate(self, length):
        """Prompt tokens a second, measured once, for the hours alone."""
        if length not in self.rates:
            made = json.loads(run(self.hydralm, "bench", "-m", self.model, "-p", length, "-n", 0, "-r", 1, "-t",
                                  self.args.threads, "-o", "json", "-q"))
            self.rates[length] = made[0]["tok_per_s"]["mean"]
        return self.rates[length]

    def reading(self, length, prompts):
        return prompts * length / self.rate(length)

    def prompts(self, kind, texts, depths):
        """Whole texts that questions cost to read: pass keys at several depths share what comes before them."""
        return texts * (1 + depths / 2 if kind == "passkey" and depths > 1 else 1)

    def kept(self, cell):
        return kept(self.cells, cell.name, {"settings": cell.settings})

    def measure(self, cell):
        start = time.monotonic()
        made = {"name": cell.name, "settings": cell.settings, "commit": commit(), **cell.make()}
        return keep(self.cells, cell.name, {**made, "seconds": time.monotonic() - start})

    # ---- files ----

    def folder(self):
        """The model as a folder that LibTorch reads."""
        if Path(self.model).is_dir():
            return self.model
        path = self.runs / "model-f32"
        if not (path / "config.json").exists():
            run(self.hydralm, "convert", self.model, "-o", path, "--dtype", "f32", "-q")
        return path

    def items(self, name, *words):
        path = self.runs / "items" / f"{name}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self.verb("data", "items", "-m", self.model, "--text", self.text, "-o", path, *words)
        return path

    def form(self):
        """The form of prompts that the gate found best."""
        path = self.cells / "form.json"
        return json.loads(path.read_text())["form"] if path.exists() else "auto"

    def chosen(self, seed, density):
        return self.chosen_plans / f"moa-{seed}-r{density:g}.json"

    def file(self, name):
        return self.chosen_plans / f"{name}.json"

    def bounds(self, density):
        """A bound below what the shortest length can have begins at the next one."""
        lengths = [*self.lengths, 2 * self.lengths[-1]]
        return ",".join(f"{n}:{density}" for n in lengths if density * n > 128 or len(lengths) < 3)

    # ---- gate: what the dense model can do, on calibration documents ----

    def gate(self):
        for form in ("chat", "raw"):
            for kind, pairs in (("copy", 8), ("lookup", 8), ("lookup", 32), ("passkey", 8)):
                for length in [*self.lengths, *self.long]:
                    name = f"gate-{form}-{kind}{pairs if kind == 'lookup' else ''}-{length}"
                    texts, depths = max(1, self.args.texts // 3), max(1, self.args.depths // 2)
                    words = ["--kinds", kind, "--pairs", pairs, "--lengths", length, "--items", texts, "--depths",
                             depths, "--form", form, "--keep", "all", "--split", "calib", "--seed", 11]
                    prompts = self.prompts(kind, texts, depths)
                    yield Cell(name, {"words": words, "model": self.name}, self.reading(length, prompts),
                               lambda name=name, words=words: self.answered(name, words))

    def answered(self, name, words):
        path = self.items(name, *words)
        items = [json.loads(line) for line in path.read_text().splitlines()[1:]]
        return {"items": len(items), "right": sum(item["dense_right"] for item in items) / len(items),
                "nll": sum(item["dense_nll"] for item in items) / len(items)}

    def choose_form(self, made):
        """The form with more right answers up to the longest profiled length; kept, since items are made by it."""
        shares = {}
        for cell in made:
            found = re.match(r"gate-(chat|raw)-(\w+)-(\d+)", cell["name"])
            if found and int(found[3]) <= self.lengths[-1]:
                shares.setdefault(found[1], []).append(cell["right"])
        if shares and not (self.cells / "form.json").exists():
            means = {form: sum(of) / len(of) for form, of in shares.items()}
            best = max(means, key=means.get)
            (self.cells / "form.json").write_text(json.dumps({"form": best, "right": means}) + "\n")

    # ---- profile ----

    def profiles(self):
        for seed in range(1, self.args.seeds + 1):
            yield self.profile_cell(f"profile-{seed}", seed, self.args.kinds)
        if "summary" in self.args.kinds:
            yield self.profile_cell("profile-summary", 1, "summary")

    def profile_cell(self, name, seed, kinds):
        words = ["--kinds", kinds, "--lengths", self.args.lengths, "--items", self.args.items, "--split", "calib",
                 "--seed", seed, "--form", self.form(), "--keep", self.args.keep]
        teraflop = sum(self.args.items * (0.65e9 + 0.19e6 * n) * n for n in self.lengths)
        seconds = teraflop / PLANNING + 3 * sum(self.reading(n, self.args.items) for n in self.lengths)
        return Cell(name, {"words": words, "model": self.name}, seconds,
                    lambda: self.profile(name, words))

    def profile(self, name, words):
        path = self.items(f"calib-{name}", *words)
        out = self.runs / "profiles" / name
        resume = ["--resume"] if (out / "profile.safetensors").exists() else []
        return self.verb("profile", "-m", self.folder(), "--data", path, "--items", self.args.items, "-o", out, *resume)

    # ---- plans ----

    def plans(self):
        for seed in range(1, self.args.seeds + 1):
            for density in self.densities if seed == 1 else [d for d in self.densities if d == 0.25]:
                yield Cell(f"plans-{seed}-r{density:g}", {"items": self.args.items, "model": self.name},
                           60 + self.reading(self.args.unseen, 10 * self.args.items),
                           lambda seed=seed, density=density: self.choose(seed, density))
        yield Cell("controls", {"shuffles": self.args.shuffles, "model": self.name}, 120, self.controls)
        for length in self.lengths:
            yield Cell(f"first-order-{length}", {"random": self.args.random, "model": self.name},
                       self.reading(length, (self.args.random + 1) * self.args.items),
                       lambda length=length: self.first_order(length))

    def valid(self, length):
        return self.items(f"valid-{length}", "--kinds", self.args.kinds, "--lengths", length, "--items",
                          self.args.items, "--split", "valid", "--seed", 21, "--form", self.form(), "--keep",
                          self.args.keep)

    def made_profile(self, name):
        """Its folder; made again where only its cell is left."""
        folder = self.runs / "profiles" / name
        if not (folder / "profile.safetensors").exists():
            next(cell for cell in self.profiles() if cell.name == name).make()
        return folder

    def choose(self, seed, density):
        folder = self.runs / "plans" / f"set-{seed}-r{density:g}"
        made = self.plan("--profile", self.made_profile(f"profile-{seed}"), "--density", self.bounds(density),
                         "--name", f"{self.name}-moa-{seed}-r{density:g}", "-o", f"{folder}/")
        judged = self.verb("eval", "answers", "-m", self.model, "--data", self.valid(self.args.unseen), "--plans",
                           folder, "--choose", self.chosen(seed, density), "-o",
                           self.runs / "plans" / f"rows-{seed}-r{density:g}.jsonl")
        shown = json.loads(run(self.hydralm, "plan", "--show", self.chosen(seed, density), "--json"))
        return {"set": made, "answers": judged, "heads": shown["heads"], "rules": shown["rules"]}

    def controls(self):
        """Baselines and controls of each density that is there; all others at 0.25."""
        made = {}
        profile = self.made_profile("profile-1")
        for density in self.densities:
            out = self.file(f"uniform-r{density:g}")
            made[out.stem] = self.plan("--uniform", density, "-m", self.model, "--profile", profile, "-o", out)
        if 0.25 not in self.densities:
            return made
        ways = {"layer": ["--unit", "layer"], "head": ["--unit", "head"], "binary": ["--binary"],
                "estimator-f": ["--estimator", "f"], "estimator-jsgn": ["--estimator", "jsgn"]}
        for name, words in ways.items():
            made[name] = self.plan("--profile", profile, "--density", self.bounds(0.25), "--name", name, "-o",
                                   self.file(name), *words)
        if "summary" in self.args.kinds:
            made["summary-only"] = self.plan("--profile", self.made_profile("profile-summary"), "--density",
                                             self.bounds(0.25), "--name", "summary-only", "-o",
                                             self.file("summary-only"))
        for seed in range(1, self.args.shuffles + 1):
            name = f"shuffled-{seed}"
            made[name] = self.plan("--shuffle", self.chosen(1, 0.25), "--seed", seed, "--name", name, "-o",
                                   self.file(name))
        return made

    def first_order(self, length):
        folder = self.runs / "plans/random"
        if not list(folder.glob("*.json")):
            self.plan("--random", self.args.random, "--seed", 5, "--profile", self.made_profile("profile-1"), "-m",
                      self.model, "-o", f"{folder}/")
        return self.verb("eval", "answers", "-m", self.model, "--data", self.valid(length), "--plans", folder,
                         "--first-order", "-o", self.runs / "plans" / f"rows-random-{length}.jsonl")

    # ---- test ----

    def methods(self, densities, controls):
        """Plan files by method, dense first; `controls`: all others at density 0.25, too."""
        files = ["dense"]
        for density in densities:
            files += [self.file(f"uniform-r{density:g}"), self.chosen(1, density)]
        if controls and 0.25 in densities:
            files += [self.file(name) for name in ("layer", "head", "binary", "estimator-f", "estimator-jsgn")]
            files += [self.file("summary-only")] if "summary" in self.args.kinds else []
            files += [self.file(f"shuffled-{seed}") for seed in range(1, self.args.shuffles + 1)]
            files += [self.chosen(seed, 0.25) for seed in range(2, self.args.seeds + 1)]
        return files

    def tests(self):
        """At the profiled lengths all methods answer all questions; pass keys at longer ones, and what documents say
        next, are left to the plan and the uniform one (those longer ones at the two higher densities)."""
        for kind in (*KINDS, *TEXT_KINDS):
            for length in [*self.lengths, *(self.long if kind == "passkey" else [])]:
                words = ["--kinds", kind, "--lengths", length, "--items", self.args.texts, "--depths",
                         self.args.depths, "--split", "test", "--seed", 31, "--form", self.form(), "--keep", "all",
                         *(["--without"] if kind == "copy" else [])]
                prompts = self.prompts(kind, self.args.texts, self.args.depths) * (2 if kind == "copy" else 1)
                files = self.methods(self.densities[:2] if length in self.long else self.densities,
                                     length not in self.long and kind not in TEXT_KINDS)
                yield Cell(f"test-{kind}-{length}", {"words": words, "files": [str(f) for f in files]},
                           self.reading(length, prompts * (len(files) + 1)),
                           lambda kind=kind, length=length, words=words, files=files: self.retrieval(
                               f"{kind}-{length}", words, files))
        files = self.methods(self.densities, False)
        yield Cell("perplexity", {"tokens": self.args.ppl_tokens, "files": [str(f) for f in files]},
                   len(files) * self.args.ppl_tokens / self.rate(self.lengths[-1]), lambda: self.perplexity(files))

    def retrieval(self, name, words, files):
        path = self.items(f"test-{name}", *words)
        return self.verb("eval", "retrieval", "-m", self.model, "--data", path, "--plan", ",".join(map(str, files)),
                         "--head-spans", "own", "-o", self.runs / "plans" / f"rows-test-{name}.jsonl")

    def perplexity(self, files):
        """Of held-out prose: documents of the split test, as the hash of their names says."""
        held = self.runs / "held-out.txt"
        if not held.exists():
            parts = []
            for path in sorted(p for p in self.text.rglob("*") if p.is_file() and not p.name.startswith(".")):
                digest = hashlib.sha256(path.relative_to(self.text).as_posix().encode()).digest()
                if int.from_bytes(digest[:8], "big") / 2**64 >= 0.8:
                    parts.append(path.read_text(encoding="utf-8", errors="replace"))
            held.write_text("\n".join(parts))
        return self.verb("eval", "ppl", "-m", self.model, "-f", held, "-c", self.lengths[-1], "--max-tokens",
                         self.args.ppl_tokens, "--plan", ",".join(map(str, files)), "--tail", 0.25)

    def cells_of(self, step):
        makers = {"gate": self.gate, "profile": self.profiles, "plans": self.plans, "test": self.tests}
        return [cell for cell in makers[step]() if self.args.only in cell.name] if step in makers else []


def main():
    args = flags().parse_args()
    if unknown := set(args.steps.split(",")) - set(STEPS):
        sys.exit(f"--steps {', '.join(sorted(unknown))}: must be of {', '.join(STEPS)}")
    study = Study(args)
    for step in args.steps.split(","):  # later steps know what earlier ones chose
        cells = study.cells_of(step)
        left = [cell for cell in cells if study.kept(cell) is None]
        if cells:
            hours = sum(cell.seconds for cell in left) / 3600
            print(f"{step}: {len(left)} of {len(cells)} cells are to be made, about {hours:.1f} hours", flush=True)
        if args.dry_run:
            continue
        for number, cell in enumerate(left, 1):
            print(f"{step} {number}/{len(left)}: {cell.name}", flush=True)
            study.measure(cell)
        if step == "gate":
            study.choose_form([made for cell in cells if (made := study.kept(cell))])
    if "page" in args.steps.split(",") and not args.dry_run:
        made = {path.stem: json.loads(path.read_text()) for path in sorted(study.cells.glob("*.json"))}
        made.pop("form", None)
        about = {"machine": machine(), "commit": commit(),
                 "command": " ".join(["bench/moa.py", *map(shlex.quote, sys.argv[1:])])}
        write_page(args.out, study.name, study.densities, made, about)


if __name__ == "__main__":
    os.chdir(Path(__file__).resolve().parents[1])
    main()
