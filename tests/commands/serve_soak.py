# SPDX-License-Identifier: Apache-2.0
# ctest: serial timeout=400
"""Many clients of `hydralm serve`, well-behaved, leaving, hostile and slow, all at once; then nothing is lost, no slot
is stuck and memory is what it was. REQUESTS=10000 (with SECONDS=7200) is the whole of it; by default a minute."""
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from serving import Serving  # noqa: E402
from tiny_models import make_model, make_text, make_tokenizer  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
REQUESTS = int(os.environ.get("REQUESTS", 1000))
SECONDS = float(os.environ.get("SECONDS", 300))  # after which what is left is given up, which fails
CLIENTS, SLOW = 16, 200 if REQUESTS >= 10000 else 60
INTEGERS = ("max_tokens", "max_completion_tokens", "n", "top_k", "seed", "top_logprobs", "repeat_last_n")
CONTROL = {"prompt": "the control of all", "max_tokens": 12, "temperature": 0}


def hostile(rng):
    """A body that must be refused with a 4xx, and where it goes."""
    chat = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}
    kind = rng.randrange(8)
    if kind == 0:
        return "/v1/chat/completions", json.dumps(chat)[:rng.randrange(1, 40)]  # cut
    if kind == 1:
        return "/v1/chat/completions", "{\"a\":" * 1000 + "1" + "}" * 1000
    if kind == 2:
        field = rng.choice(INTEGERS)
        bad = rng.choice((-2 ** 63 - 1, 2 ** 63, 1e300, 0.5, "x", [], {}))
        return "/v1/chat/completions", json.dumps({**chat, "logprobs": True, field: bad})
    if kind == 3:
        return "/v1/chat/completions", json.dumps(chat).replace("3", "1e400")
    if kind == 4:
        return "/v1/completions", json.dumps({"prompt": [rng.choice((-1, 10 ** 9, 2 ** 63))], "max_tokens": 1})
    if kind == 5:
        return "/v1/completions", json.dumps({"prompt": "a", "model": "none"})
    if kind == 6:
        return "/v1/completions", bytes(rng.randrange(256) for _ in range(200))
    return "/v1/completions", b"{\"prompt\": \"" + b"x" * ((8 << 20) + rng.randrange(1, 1000)) + b"\"}"  # too large


# Asks for /health four times a second until its input ends; then statuses and seconds. In a process of its own: in this
# one hundreds of threads wait for each other.
WATCH = """
import http.client, json, select, sys, time
got = []
while not select.select([sys.stdin], [], [], 0.25)[0]:
    began = time.monotonic()
    connection = http.client.HTTPConnection(sys.argv[1], int(sys.argv[2]), timeout=30)
    connection.request("GET", "/health")
    got.append((connection.getresponse().status, time.monotonic() - began))
    connection.close()
print(json.dumps(got))
"""


class Soak(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        tokenizer = make_tokenizer(HYDRALM, self.folder.name)
        model = make_model(HYDRALM, f"{self.folder.name}/hydra", "hydra", tokenizer)
        # AddressSanitizer keeps freed memory, 256 MiB by default, which looks like growth until it has so much.
        sanitizer = {"ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "") + ":quarantine_size_mb=4"}
        self.served = Serving(HYDRALM, model, "--parallel", "4", "--queue", "32", "--cache-ram", "16MiB",
                              "--max-connections", "300", "--snapshot-every", "64", env=sanitizer)
        self.lock, self.left, self.done = threading.Lock(), REQUESTS, 0
        self.statuses, self.faults = {}, []

    def tearDown(self):
        self.served.__exit__()
        self.folder.cleanup()

    def count(self, status):
        with self.lock:
            self.statuses[status] = self.statuses.get(status, 0) + 1
            self.done += 1

    def leaves(self, rng):
        """Asks and goes away, while the prompt is read or the answer is written."""
        body = json.dumps({"prompt": make_text(rng.random(), rng.choice((5, 800))), "max_tokens": 200, "stream": True})
        with socket.create_connection((self.served.host, self.served.port), timeout=60) as client:
            client.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                            f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
            if rng.random() < 0.5:
                client.recv(rng.randrange(1, 3000))
            time.sleep(rng.random() * 0.05)
        self.count("left")

    def asks(self, rng):
        body = {"max_tokens": rng.randrange(1, 40), "temperature": rng.choice((0, 1)), "n": rng.choice((1, 1, 1, 2))}
        if rng.random() < 0.5:
            body["messages"] = [{"role": "user", "content": make_text(rng.randrange(50), rng.randrange(1, 200))}]
            path = "/v1/chat/completions"
        else:
            body["prompt"] = make_text(rng.randrange(50), rng.randrange(1, 200))
            path = "/v1/completions"
        if rng.random() < 0.5:
            try:
                events = list(self.served.stream(path, body))
            except AssertionError as refused:  # the queue is full
                self.count(429 if "status 429" in str(refused) else str(refused))
                return
            if events[-1] != "[DONE]":
                self.faults.append(("a stream that was cut", events[-1]))
            self.count(200)
            return
        status, _, data = self.served.ask("POST", path, body)
        if status == 200 and len(json.loads(data)["choices"]) != body["n"]:
            self.faults.append(("texts are missing", data[:300]))
        self.count(status)

    def client(self, number):
        rng = random.Random(number)
        while True:
            with self.lock:
                if self.left <= 0 or time.monotonic() > self.until:
                    return
                self.left -= 1
            try:
                dice = rng.random()
                if dice < 0.1:
                    self.leaves(rng)
                elif dice < 0.25:
                    path, body = hostile(rng)
                    status = self.served.ask("POST", path, body)[0]
                    if not 400 <= status < 500:
                        self.faults.append((status, path, body[:200]))
                    self.count(status)
                else:
                    self.asks(rng)
            except Exception as fault:  # pylint: disable=broad-except
                self.faults.append((type(fault).__name__, str(fault)))

    def slow(self, number):
        """Sends, or reads, a byte at a time for as long as the others work."""
        try:
            with socket.create_connection((self.served.host, self.served.port), timeout=60) as client:
                head = b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                if number % 2 == 0:
                    for byte in head * 100:
                        client.sendall(bytes([byte]))
                        if self.over.wait(1):
                            return
                body = b'{"prompt": "a", "max_tokens": 3, "stream": true}'
                client.sendall(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
                while client.recv(1) and not self.over.wait(1):
                    pass
        except OSError:  # the server has had enough of it
            pass

    def resident(self):
        return self.served.metric("resident_bytes")

    def test_nothing_is_lost(self):
        want = self.served.json("POST", "/v1/completions", CONTROL)["choices"][0]["text"]
        self.over, self.until = threading.Event(), time.monotonic() + SECONDS
        resident = []
        besides = [threading.Thread(target=self.slow, args=(i,)) for i in range(SLOW)]
        watch = subprocess.Popen([sys.executable, "-c", WATCH, self.served.host, str(self.served.port)],
                                 stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        clients = [threading.Thread(target=self.client, args=(i,)) for i in range(CLIENTS)]
        for thread in besides + clients:
            thread.start()
        # After a third the server knows every kind of request; from there on its memory must not grow.
        while any(thread.is_alive() for thread in clients):
            time.sleep(0.2)
            if self.done >= REQUESTS / 3:
                resident.append(self.resident())
        self.over.set()
        health = json.loads(watch.communicate()[0])
        for thread in besides:
            thread.join()
        self.assertEqual({status for status, _ in health}, {200})
        self.assertEqual(self.faults, [])
        self.assertEqual(self.done, REQUESTS, self.statuses)
        self.assertTrue(self.served.wait_until(lambda: self.served.busy() == 0), "a slot is stuck")
        again = self.served.json("POST", "/v1/completions", CONTROL)["choices"][0]["text"]
        self.assertEqual(again, want)
        self.assertEqual([s for s in self.statuses if isinstance(s, int) and s >= 500 and s not in (503, 507)], [])
        self.assertEqual([s for s in self.statuses if not isinstance(s, int) and s != "left"], [])
        waits = sorted(seconds for _, seconds in health)
        slowest = waits[int(0.99 * len(waits))]
        print(f"{REQUESTS} requests: {self.statuses}; health {1e3 * waits[len(waits) // 2]:.0f} ms, p99 "
              f"{1e3 * slowest:.0f} ms, at most {1e3 * waits[-1]:.0f} ms")
        quarter = max(1, len(resident) // 4)
        first, last = max(resident[:quarter]), max(resident[-quarter:])
        print(f"resident {first / 2 ** 20:.1f} MiB, then {last / 2 ** 20:.1f} MiB: {100 * (last / first - 1):+.2f}%")
        # A short run has the allocator's steps in it; the whole of it has not.
        self.assertLess(last / first - 1, 0.01 if REQUESTS >= 10000 else 0.05)
        if REQUESTS >= 10000:  # the clients of a short run share the processor with the tests beside it
            self.assertLess(slowest, 0.1)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
