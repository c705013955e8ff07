# SPDX-License-Identifier: Apache-2.0
# A client of OpenAI's protocol that costs little beside what it measures: one socket, a time for each token. Not here:
# what is measured with it (serve.py).
import json
import math
import re
import socket
import threading
import time


def percentile(values, share):
    """The smallest value that so many of a hundred do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share / 100) - 1)]


def together(chats):
    """What each of several chats makes, begun at once."""
    made = [None] * len(chats)

    def one(i):
        made[i] = chats[i].run()

    threads = [threading.Thread(target=one, args=(i,)) for i in range(len(chats))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return made


class Chat:
    """A greedy answer of at most so many tokens, streamed. Messages are texts of user, assistant, user in turn."""

    def __init__(self, port, messages=(), tokens=1, completion=False):
        self.port = port
        messages = [messages] if isinstance(messages, str) else messages
        body = {"max_tokens": tokens, "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
                "ignore_eos": True, "cache_prompt": True}
        if completion:
            self.path, body["prompt"] = "/v1/completions", messages[0]
        else:
            roles = ("user", "assistant")
            self.path = "/v1/chat/completions"
            body["messages"] = [{"role": roles[i % 2], "content": text} for i, text in enumerate(messages)]
        self.body = json.dumps(body).encode()

    def request(self, method, path, body=b""):
        client = socket.create_connection(("127.0.0.1", self.port), timeout=600)
        client.sendall(f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\nConnection: close\r\n"
                       f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        return client

    def health(self):
        with self.request("GET", "/health") as client:
            return int(client.recv(64).split()[1])

    def tokens_of(self, text):
        """How many tokens the server's model takes for a text."""
        with self.request("POST", "/tokenize", json.dumps({"content": text}).encode()) as client:
            reply = b"".join(iter(lambda: client.recv(65536), b""))
        return len(json.loads(reply.split(b"\r\n\r\n", 1)[1])["tokens"])

    def run(self):
        """Seconds to the first token and between tokens, and what the reply says of tokens."""
        start = time.monotonic()
        times, parts = [], []
        with self.request("POST", self.path, self.body) as client:
            while part := client.recv(65536):
                now = time.monotonic()
                parts.append(part)
                # One event a token; the role's and the last ones carry none.
                said = part.count(b'"content":"') + part.count(b'"text":"') - part.count(b'"content":""')
                said -= part.count(b'"text":""')
                times += [now] * max(said, 0)
        reply = b"".join(parts).decode("utf-8", "replace")
        if " 200 " not in reply.split("\r\n", 1)[0] or len(times) < 1:
            raise RuntimeError(reply[:500])
        events = [json.loads(event) for event in re.findall(r"data: (\{.*\})", reply)]
        usage = next(event["usage"] for event in reversed(events) if event.get("usage"))
        text = "".join((c.get("text") or c.get("delta", {}).get("content") or "") for event in events
                       for c in event.get("choices", []))
        return {"first": times[0] - start, "times": times[1:], "gaps": [b - a for a, b in zip(times, times[1:])],
                "tokens": usage["completion_tokens"], "text": text, "prompt_tokens": usage["prompt_tokens"],
                "cached_tokens": (usage.get("prompt_tokens_details") or {}).get("cached_tokens", 0)}
