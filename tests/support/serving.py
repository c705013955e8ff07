# SPDX-License-Identifier: Apache-2.0
# What the tests of `hydralm serve` share: a server of a model, started and stopped, and requests to it by Python's own
# HTTP client. Not a test itself.
import http.client
import json
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from urllib.parse import urlsplit


class Serving:
    """`hydralm serve` on a free port, ready when this object is there."""

    def __init__(self, hydralm, model, *flags, env=None, port=0, seconds=120):
        full = {key: value for key, value in os.environ.items() if not key.startswith("HYDRALM_ARG_")}
        full.update(env or {})
        self.errors = tempfile.TemporaryFile(mode="w+", encoding="utf-8", errors="replace")
        self.process = subprocess.Popen([hydralm, "serve", "-m", model, "--port", str(port), *flags], env=full,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        self.url = self.process.stdout.readline().strip() if ready else ""
        if not self.url:
            self.process.kill()
            self.process.wait()
            raise RuntimeError("the server did not come: " + self.said())
        self.host, self.port = urlsplit(self.url).hostname, urlsplit(self.url).port

    def said(self):
        """What it has written to stderr so far."""
        self.errors.flush()
        self.errors.seek(0)
        return self.errors.read()

    def stop(self, how=signal.SIGTERM, seconds=60):
        """Its exit status."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.stop()
        self.process.stdout.close()
        self.errors.close()

    def ask(self, method, path, body=None, headers=None, timeout=120):
        """Status, headers and bytes of a reply. A body that is no text is sent as JSON."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=timeout)
        try:
            sent = {"Content-Type": "application/json"} if body is not None else {}
            sent.update(headers or {})
            data = body if body is None or isinstance(body, (str, bytes)) else json.dumps(body)
            connection.request(method, path, data, sent)
            reply = connection.getresponse()
            return reply.status, dict(reply.getheaders()), reply.read()
        finally:
            connection.close()

    def json(self, method, path, body=None, headers=None, status=200):
        """The JSON of a reply that must have this status."""
        got, _, data = self.ask(method, path, body, headers)
        if got != status:
            raise AssertionError(f"{method} {path}: status {got}, wanted {status}: {data[:500]}")
        return json.loads(data)

    def complete(self, prompt, **fields):
        return self.json("POST", "/v1/completions", {"prompt": prompt, "temperature": 0, **fields})

    def chat(self, *messages, **fields):
        """Messages are texts of user, assistant, user, ... in turn, or whole objects."""
        roles = ["user", "assistant"]
        listed = [m if isinstance(m, dict) else {"role": roles[i % 2], "content": m} for i, m in enumerate(messages)]
        return self.json("POST", "/v1/chat/completions", {"messages": listed, "temperature": 0, **fields})

    def stream(self, path, body):
        """Events of a stream as they come: JSON objects, then "[DONE]". Closing it leaves the server alone."""
        connection = http.client.HTTPConnection(self.host, self.port, timeout=120)
        try:
            connection.request("POST", path, json.dumps({**body, "stream": True}), {"Content-Type": "application/json"})
            reply = connection.getresponse()
            if reply.status != 200:
                raise AssertionError(f"status {reply.status}: {reply.read()[:500]}")
            for line in reply:
                line = line.decode().rstrip("\n")
                if line.startswith("data: "):
                    yield line[6:] if line == "data: [DONE]" else json.loads(line[6:])
        finally:
            connection.close()

    def busy(self):
        return sum(slot["state"] != "idle" for slot in self.json("GET", "/slots"))

    def metric(self, name):
        """A number of /metrics, without labels."""
        for line in self.ask("GET", "/metrics")[2].decode().splitlines():
            if line.startswith(f"hydralm_{name} "):
                return float(line.split()[1])
        raise AssertionError(f"/metrics has no {name}")

    def wait_until(self, what, seconds=30):
        """what() becomes true in time."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if what():
                return True
            time.sleep(0.02)
        return False


def in_threads(count, work):
    """Results of work(0) .. work(count - 1), all at once; an exception of any is raised."""
    results, faults = [None] * count, []

    def run(i):
        try:
            results[i] = work(i)
        except BaseException as fault:  # pylint: disable=broad-except
            faults.append(fault)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if faults:
        raise faults[0]
    return results
