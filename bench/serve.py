#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
# The server under load: total tokens/s, time to the first token and gaps between tokens of 1 to 8 clients, beside
# llama-server of llama.cpp on the same file with as many slots; what streaming costs beside `hydralm generate`; what
# the second turn of a chat reads and how soon it answers; gaps of chats while a long prompt is read. In each round all
# sides take turns. Writes bench/results/MACHINE/serve.{md,json}. Needs `make demo` to have run.
#   bench/serve.py [BUILD] [--rounds 5] [--tries 3] [--threads 2] [--tokens 128] [--only TEXT] [--out bench/results]
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

from common import Meter, Page, arguments, built, median, need, prose, quotients, run, spread, steady_words, verdict
from serve_client import Chat, percentile, together
from speculation import DEMO, mamba

SLOTS = 8
MODELS = ("SmolLM2 Q8_0", "mamba2-nano", "hydra-nano of make demo")
CLIENTS = (1, 2, 4, 8)
HISTORY = dict(zip(MODELS, ((1024, 7000), (1024, 8192, 32000), (1024, 8192, 32000))))
OURS, THEIRS = "hydralm", "llama.cpp"
STREAM_GOAL, GAP_GOAL = 0.97, 3.0
SNAPSHOT = 1024  # tokens, as --snapshot-every has it
FIRST = "Once there was a "
# row -> model, what, its number. Of a model in this order with one server: what it had in memory at most counts from
# its start, and long prompts, which it keeps for later, come last.
ROWS = {"SmolLM2 Q8_0: streaming": ("SmolLM2 Q8_0", "streaming", 0)}
for model_name in MODELS:
    ROWS |= {f"{model_name}: {n} client{'s' if n > 1 else ''}": (model_name, "clients", n) for n in CLIENTS}
    ROWS |= {f"{model_name}: second turn at {n}": (model_name, "turn", n) for n in HISTORY[model_name]}
    if model_name == MODELS[0]:
        ROWS |= {f"{model_name}: chats beside a long prompt": (model_name, "fairness", 7000)}


class Server:
    """One side: a process that serves, and how it is asked."""

    def __init__(self, name, command, port, ready):
        self.name, self.port = name, port
        self.process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 120
        while not ready(port):
            if self.process.poll() is not None or time.monotonic() > end:
                sys.exit(f"{name}: the server did not come: {' '.join(map(str, command))}")
            time.sleep(0.2)

    def resident(self):
        """Bytes that it had at most."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))

    def close(self):
        self.process.terminate()
        self.process.wait(60)


def is_healthy(port):
    try:
        return Chat(port).health() == 200
    except OSError:
        return False


def words(items, seed):
    """A text of so many items that no earlier one begins with."""
    return f"Note {seed}. " + " ".join(f"item {(seed * 7919 + i * 31) % 1000} is kept" for i in range(items))


class Sides:
    def __init__(self, args):
        self.args, self.hydralm = args, built(args.build)
        self.meter = Meter(self.hydralm, args, arithmetic=True)
        self.llama = Path(run("bench/peers/ggml.sh", "llama_cpp").strip())
        q8 = Path(run("bench/peers/models.sh").strip()) / "SmolLM2-135M-Instruct.Q8_0.gguf"
        need(DEMO, "make demo")
        self.files = {"SmolLM2 Q8_0": q8, "mamba2-nano": mamba(self.hydralm), "hydra-nano of make demo": DEMO}
        self.servers, self.of, self.seed, self.port = [], None, 0, 18080

    def start(self, model):
        """The servers of a model, fresh; those of another one end."""
        self.close()
        context = 8192 if model == "SmolLM2 Q8_0" else 65536
        chat = [] if model == "SmolLM2 Q8_0" else ["--chat-template", "plain"]
        self.port += 2
        self.servers = [Server(OURS, [self.hydralm, "serve", "-m", self.files[model], "-t", self.args.threads, "--port",
                                      self.port, "--parallel", SLOTS, "--cache-ram", "4GiB", "-q", *chat],
                               self.port, is_healthy)]
        if model != "hydra-nano of make demo":  # which llama.cpp does not know
            file = self.files[model]
            if not str(file).endswith(".gguf"):
                file = Path(".cache/peers") / f"{model}.gguf"
                run(self.hydralm, "convert", self.files[model], "-o", file)
            self.servers.append(Server(THEIRS, [
                self.llama / "llama-server", "-m", file, "-t", self.args.threads, "-tb", self.args.threads, "-np",
                SLOTS, "-c", SLOTS * context, "--port", self.port + 1, "--no-webui"], self.port + 1, is_healthy))
        self.of = model
        sample = 1000
        self.tokens_of_item = Chat(self.port).tokens_of(words(sample, 0)) / sample

    def close(self):
        for server in self.servers:
            server.close()
        self.servers, self.of = [], None

    def next_words(self, count):
        """About so many tokens."""
        self.seed += 1
        return words(round(count / self.tokens_of_item), self.seed)

    # ---- what is measured of one side ----

    def clients(self, server, n):
        tokens = self.args.tokens
        start = time.monotonic()
        made = together([Chat(server.port, self.next_words(100), tokens) for _ in range(n)])
        seconds = time.monotonic() - start
        firsts, gaps = [m["first"] for m in made], [gap for m in made for gap in m["gaps"]]
        return {"rate": sum(m["tokens"] for m in made) / seconds, "first_p50": median(firsts), "first_p99": max(firsts),
                "gap_p50": percentile(gaps, 50), "gap_p99": percentile(gaps, 99), "resident": server.resident()}

    def turn(self, server, history):
        told, question = self.next_words(history), "And what came then?"
        first = Chat(server.port, told, 16).run()
        second = Chat(server.port, [told, first["text"], question], 16).run()
        return {"first": second["first"], "prompt": second["prompt_tokens"], "cached": second["cached_tokens"],
                "new": second["prompt_tokens"] - first["prompt_tokens"] - first["tokens"]}

    def fairness(self, server, length):
        def chats(besides):
            running = [Chat(server.port, self.next_words(50), 4 * self.args.tokens) for _ in range(3)]
            reader = threading.Timer(1.0, lambda: Chat(server.port, self.next_words(length), 1).run())
            if besides:
                reader.start()
            made = together(running)
            if besides:
                reader.join()
            # The first second is that of their own prompts.
            return [gap for m in made for gap, at in zip(m["gaps"], m["times"]) if at - min(m["times"]) > 0.5]
        alone, beside = chats(False), chats(True)
        return {"gap_p50_alone": percentile(alone, 50), "gap_p99": percentile(beside, 99)}

    def streaming(self, server):
        prompt = FIRST + self.next_words(20)
        streamed = Chat(server.port, prompt, 256, completion=True).run()
        made = json.loads(run(self.hydralm, "generate", "-m", self.files["SmolLM2 Q8_0"], "-t", self.args.threads, "-p",
                              prompt, "-n", 256, "--temp", 0, "--json", "-q"))
        return {"streamed": (streamed["tokens"] - 1) / sum(streamed["gaps"]),
                "generated": (made["tokens"] - 1) / made["decode_seconds"]}

    def measure(self, key):
        model, what, n = ROWS[key]
        if self.of != model:
            self.start(model)
        servers = self.servers if what in ("clients", "turn") else self.servers[:1]

        def once():
            if what == "streaming":
                return {OURS: self.streaming(servers[0])}
            return {server.name: getattr(self, what)(server, n) for server in servers}

        once()  # a warm-up
        rounds, meters = [], []
        for _ in range(self.args.rounds):
            made, meter = self.meter.steady(once, [server.process.pid for server in self.servers])
            rounds.append(made)
            meters.append(meter)
        sides = {name: {field: [r[name][field] for r in rounds] for field in rounds[0][name]} for name in rounds[0]}
        return {"sides": sides, "meters": meters, "void": any(m["void"] for m in meters)}


# ---- the page ----


def milli(values):
    return spread([1e3 * v for v in values])


def client_lines(rows):
    yield "| clients | side | tokens/s | first token p50, ms | p99 | gap p50, ms | p99 | resident, MiB | ahead |"
    yield "|---|---|---|---|---|---|---|---|---|"
    for key, row in rows.items():
        for name, side in row["sides"].items():
            ahead = ""
            if name == OURS and THEIRS in row["sides"]:
                theirs = row["sides"][THEIRS]
                ratios = [quotients(side["rate"], theirs["rate"])]
                ratios += [quotients(theirs[f], side[f]) for f in ("first_p50", "first_p99", "gap_p50", "gap_p99",
                                                                  "resident")]
                ahead = " ".join(f"{median(r):.2f}" for r in ratios) + (" (void)" if row["void"] else "")
            times = " | ".join(milli(side[f]) for f in ("first_p50", "first_p99", "gap_p50", "gap_p99"))
            yield (f"| {key} | {name} | {spread(side['rate'])} | {times} | {max(side['resident']) / 2 ** 20:.0f} "
                   f"| {ahead} |")


def turn_lines(rows):
    yield "| second turn | side | first token, ms | tokens of the prompt | read of it | bound | |"
    yield "|---|---|---|---|---|---|---|"
    for key, row in rows.items():
        for name, side in row["sides"].items():
            read = [p - c for p, c in zip(side["prompt"], side["cached"])]
            bound = max(side["new"]) + SNAPSHOT
            goal = ("" if name != OURS else "void" if row["void"] else "met" if max(read) <= bound else "missed")
            yield (f"| {key} | {name} | {milli(side['first'])} | {max(side['prompt'])} | {max(read)} "
                   f"| {bound if name == OURS else ''} | {goal} |")


def text(page):
    rows = page.rows
    of = lambda what: {key: row for key, row in rows.items() if ROWS[key][1] == what}  # noqa: E731
    lines = ["# The server", "", page.head(
        f"Both servers have {SLOTS} slots and keep f16 keys and values; clients are threads of one Python process that "
        "stream greedy chats. Figures are medians of the rounds, with the least and the most. " + steady_words(
            arithmetic=True)), ""]
    for key, row in of("streaming").items():
        side = row["sides"][OURS]
        ratio = quotients(side["streamed"], side["generated"])
        lines += [prose(f"**{key}**: {spread(side['streamed'])} tokens/s over HTTP, {spread(side['generated'])} by "
                        f"`generate`: {spread(ratio, 3)}; {verdict(ratio, STREAM_GOAL, row['void'])}"), ""]
    for key, row in of("fairness").items():
        side = row["sides"][OURS]
        ratio = quotients(side["gap_p99"], side["gap_p50_alone"])
        lines += [prose(f"**{key}** of 7,000 tokens, three chats: p99 of their gaps {milli(side['gap_p99'])} ms, p50 "
                        f"without it {milli(side['gap_p50_alone'])} ms: {spread(ratio, 2)}; "
                        f"{verdict(ratio, GAP_GOAL, row['void'], most=True)}"), ""]
    lines += ["\"Ahead\" has our advantage in each column, in their order: above 1 where we are better.", ""]
    lines += [*client_lines(of("clients")), ""]
    for model in MODELS:
        rates = [(n, median(rows[key]["sides"][OURS]["rate"])) for key, (m, what, n) in ROWS.items()
                 if m == model and what == "clients" and key in rows]
        if len(rates) > 1:
            falls = [f"{a[0]} to {b[0]}" for a, b in zip(rates, rates[1:]) if b[1] < 0.97 * a[1]]
            lines += [f"{model}: total tokens/s {'falls from ' + ', '.join(falls) if falls else 'never falls'} "
                      "(3% slack).", ""]
    lines += ["A second turn reads at most what is new and one interval of snapshots.", "", *turn_lines(of("turn"))]
    return lines


def main():
    parser = arguments("the server under load", rounds=5, threads=2)
    parser.add_argument("--tokens", type=int, default=128, help="of an answer")
    args = parser.parse_args()
    sides = Sides(args)
    try:
        Page("serve", args, list(ROWS), text).measure(sides.measure)
    finally:
        sides.close()


if __name__ == "__main__":
    main()
