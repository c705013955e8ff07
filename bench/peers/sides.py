# SPDX-License-Identifier: Apache-2.0
# The programs that bench/compare.py runs beside ours: how each is called and what it says. A rate is a float; where a
# program does not run a file it is the last line of what it said. Not here: rows, goals, the page (../compare.py).
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from common import run


class Ggml:
    """llama.cpp or ik_llama.cpp: llama-bench, a process each time."""

    TITLES = {
        "llama_cpp": ("llama.cpp", "llama-cpp-python 0.3.36"),
        "ik_llama_cpp": ("ik_llama.cpp", "ik-llama-cpp-python 0.1.5")}

    def __init__(self, key, args, calls):
        """calls: what a call is named -> its flags."""
        self.bin = Path(run("bench/peers/ggml.sh", key, args.isa).strip())
        self.name, package = self.TITLES[key]
        self.deep = key == "llama_cpp"  # whether its llama-bench knows -d
        self.calls, self.threads = calls, args.threads
        built = "this processor" if args.isa == "native" else "AVX2"
        self.about = f"{self.name} is the source that {package} vendors, built Release for {built}."

    def rate(self, file, test, call, keys="f16"):
        p, n, d = test
        what = ["-p", p, "-n", n]
        if d:
            what += ["-d", d] if self.deep else []
            what = what if self.deep else ["-p", 0, "-n", 0, "-gp", f"{d},{n}"]
        command = [self.bin / "llama-bench", "-m", file, "-t", self.threads, *what, "-r", 1, "-ctk", keys, "-ctv",
                   keys, *self.calls[call], "-o", "json"]
        made = subprocess.run([str(word) for word in command], capture_output=True, text=True)
        if made.returncode != 0:
            return (made.stderr.strip().splitlines() or ["no word"])[-1]
        return float(json.loads(made.stdout)[-1]["samples_ts"][0])

    def starts(self, same):
        """Calls that start it and generate; weights that are laid out anew at load make its tokens faster and its
        start slower."""
        command = [self.bin / "llama-completion", *same, "--no-warmup", "-no-cnv", "--no-display-prompt"]
        return {"repacked": command, "--no-repack": [*command, "--no-repack"]}

    def close(self):
        pass


class OpenVino:
    """OpenVINO GenAI: a process for a file and each way of attention, which stays, since it lays out a model for
    seconds."""

    def __init__(self, args, calls):
        self.python = run("bench/peers/openvino.sh").strip()
        self.name, self.calls, self.args = "OpenVINO GenAI", calls, args
        self.processes = {}
        self.about = ("OpenVINO GenAI is the package openvino-genai 2026.4, with either of its ways of attention and "
                      "nothing kept of a prompt for the next.")

    def rate(self, file, test, call):
        process = self.processes.get((file, call)) or self.start(file, call)
        try:
            process.stdin.write(" ".join(map(str, test)) + "\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            return (process.stderr.read().strip().splitlines() or ["no word"])[-1]
        return float(json.loads(line)["tok_per_s"])

    def start(self, file, call):
        environment = {**os.environ, "PYTHONPATH": self.python}
        if self.args.isa == "avx2":
            environment["ONEDNN_MAX_CPU_ISA"] = "AVX2"
        command = [sys.executable, "bench/peers/openvino_genai_bench.py", file, self.args.threads, call]
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                   stderr=subprocess.PIPE, text=True, env=environment)
        process.stdout.readline()  # it is ready, or has ended
        self.processes[file, call] = process
        return process

    def close(self):
        for process in self.processes.values():
            with contextlib.suppress(BrokenPipeError):  # one that has ended
                process.stdin.close()
            process.wait()
        self.processes = {}


def first_byte(command, prompt=""):
    """Seconds from the start of a process to the first byte of its standard output behind the prompt that it prints."""
    words, echo = [str(word) for word in command], prompt.encode()
    start = time.perf_counter()
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    shown = process.stdout.read(len(echo))
    byte = process.stdout.read(1)
    seconds = time.perf_counter() - start
    error = process.communicate()[1].decode(errors="replace")
    if process.returncode != 0:
        sys.exit(f"{' '.join(words)}: {error.strip()[-300:]}")
    if shown != echo or not byte:
        sys.exit(f"{' '.join(words)}: its output begins with {shown + byte!r}: must be {echo!r} and then an answer")
    return seconds
