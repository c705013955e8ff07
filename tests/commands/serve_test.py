# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=600
# `hydralm serve` from outside: OpenAI's Python client, curl and a Prometheus parser work unmodified; many clients at
# once get what each would get alone; states survive the process; signals end it cleanly. Not here: the page
# (serve_page_test.py), limits and damaged requests (hydra/serve/server_test.cc), hours of it (serve_soak.py).
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import unittest
from pathlib import Path

import openai
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from serving import Serving, in_threads  # noqa: E402
from tiny_models import make_model, make_text, make_tokenizer, run, without_ends  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
FAMILIES = ("hydra", "llama", "mamba2")
QUESTION = make_text(3, 8)


class ServeTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        tokenizer = make_tokenizer(HYDRALM, cls.folder)
        wide = {"llama": {"max_position_embeddings": 4096}}
        cls.models = {family: without_ends(make_model(HYDRALM, f"{cls.folder}/{family}", family, tokenizer,
                                                      **wide.get(family, {}))) for family in FAMILIES}
        cls.served = {family: Serving(HYDRALM, cls.models[family], "--parallel", "3", "--snapshot-every", "64",
                                      "--alias", "gpt-x") for family in FAMILIES}

    @classmethod
    def tearDownClass(cls):
        for served in cls.served.values():
            served.__exit__()
        cls.temporary.cleanup()

    def client(self, family="hydra", **options):
        return openai.OpenAI(base_url=self.served[family].url + "v1", api_key="none", max_retries=0, **options)

    def generate(self, family, prompt, tokens, *flags):
        """What the verb writes behind a prompt."""
        done = run(HYDRALM, "generate", "-m", self.models[family], "-p", prompt, "-n", str(tokens), "--temp", "0", "-q",
                   "--json", *flags)
        self.assertEqual(done.returncode, 0, done)
        return json.loads(done.stdout)["text"]

    # ---- Clients ----

    def test_openais_client_chats(self):
        for family in FAMILIES:
            with self.subTest(family=family):
                client = self.client(family)
                self.assertIn(family, [model.id for model in client.models.list()])
                messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": QUESTION}]
                whole = client.chat.completions.create(model=family, messages=messages, max_tokens=20, temperature=0)
                self.assertEqual(whole.object, "chat.completion")
                self.assertEqual(whole.choices[0].message.role, "assistant")
                self.assertIn(whole.choices[0].finish_reason, ("stop", "length"))
                self.assertEqual(whole.usage.total_tokens, whole.usage.prompt_tokens + whole.usage.completion_tokens)
                parts, finish, usage = [], None, None
                for chunk in client.chat.completions.create(model=family, messages=messages, max_tokens=20,
                                                            temperature=0, stream=True,
                                                            stream_options={"include_usage": True}):
                    if chunk.choices:
                        parts.append(chunk.choices[0].delta.content or "")
                        finish = chunk.choices[0].finish_reason or finish
                    usage = chunk.usage or usage
                self.assertEqual("".join(parts), whole.choices[0].message.content)
                self.assertEqual(finish, whole.choices[0].finish_reason)
                self.assertEqual(usage.completion_tokens, whole.usage.completion_tokens)
                self.assertGreater(usage.prompt_tokens_details.cached_tokens, 0)  # the same question again

    def test_openais_client_sees_logprobs_choices_and_stops(self):
        client = self.client("llama")
        got = client.chat.completions.create(model="llama", messages=[{"role": "user", "content": QUESTION}], n=3,
                                             max_tokens=12, temperature=1, seed=4, logprobs=True, top_logprobs=3)
        self.assertEqual([choice.index for choice in got.choices], [0, 1, 2])
        texts = {choice.message.content for choice in got.choices}
        self.assertGreater(len(texts), 1)
        for choice in got.choices:
            for token in choice.logprobs.content:
                self.assertEqual(len(token.top_logprobs), 3)
                self.assertLessEqual(token.logprob, token.top_logprobs[0].logprob + 1e-9)
        again = client.chat.completions.create(model="llama", messages=[{"role": "user", "content": QUESTION}], n=3,
                                               max_tokens=12, temperature=1, seed=4)
        self.assertEqual({choice.message.content for choice in again.choices}, texts)
        plain = client.completions.create(model="llama", prompt=QUESTION, max_tokens=30, temperature=0)
        text = plain.choices[0].text
        stop = next(letter for letter in text[5:] if letter.isalpha())
        stopped = client.completions.create(model="llama", prompt=QUESTION, max_tokens=30, temperature=0, stop=[stop])
        self.assertEqual(stopped.choices[0].text, text[:text.index(stop)])
        self.assertEqual(stopped.choices[0].finish_reason, "stop")

    def test_openais_client_sees_errors_by_their_kind(self):
        client = self.client()
        message = [{"role": "user", "content": "a"}]
        with self.assertRaises(openai.NotFoundError):
            client.chat.completions.create(model="other", messages=message)
        client.chat.completions.create(model="gpt-x", messages=message, max_tokens=1)
        with self.assertRaises(openai.BadRequestError) as caught:
            client.chat.completions.create(model="hydra", messages=message, temperature=1000)
        self.assertEqual(caught.exception.param, "temperature")
        with self.assertRaises(openai.NotFoundError):
            client.embeddings.create(model="hydra", input="a")
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client("llama").completions.create(model="llama", prompt="a b c", max_tokens=4096)
        self.assertEqual(caught.exception.code, "context_length_exceeded")

    def test_openais_client_gets_json_of_its_schema(self):
        schema = {"type": "object", "additionalProperties": False, "required": ["name", "age"],
                  "properties": {"name": {"type": "string", "maxLength": 8},
                                 "age": {"type": "integer", "minimum": 0, "maximum": 150},
                                 "pets": {"type": "array", "items": {"enum": ["cat", "dog"]}, "maxItems": 3}}}
        form = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
        for family in FAMILIES:
            for seed in range(5):
                with self.subTest(family=family, seed=seed):
                    got = self.client(family).chat.completions.create(
                        model=family, messages=[{"role": "user", "content": QUESTION}], max_tokens=400, temperature=1,
                        seed=seed, response_format=form)
                    self.assertEqual(got.choices[0].finish_reason, "stop")
                    value = json.loads(got.choices[0].message.content)
                    self.assertLessEqual({"name", "age"}, set(value))
                    self.assertLessEqual(set(value), {"name", "age", "pets"})
                    self.assertLessEqual(len(value["name"]), 8)
                    self.assertTrue(isinstance(value["age"], int) and 0 <= value["age"] <= 150, value)
                    self.assertLessEqual(set(value.get("pets", [])), {"cat", "dog"})
        with self.assertRaises(openai.BadRequestError) as caught:
            self.client().chat.completions.create(
                model="hydra", messages=[{"role": "user", "content": "a"}],
                response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}})
        self.assertIn("not", str(caught.exception))

    def test_openais_client_calls_tools(self):
        parameters = {"type": "object", "required": ["city", "days"], "additionalProperties": False,
                      "properties": {"city": {"enum": ["Rome", "Oslo"]},
                                     "days": {"type": "integer", "minimum": 1, "maximum": 9}}}
        tools = [{"type": "function", "function": {"name": name, "description": "a forecast", "parameters": parameters}}
                 for name in ("weather", "tides")]
        for family in FAMILIES:
            with self.subTest(family=family):
                messages = [{"role": "user", "content": "Rome?"}]
                ask = {"model": family, "tools": tools, "max_tokens": 400, "temperature": 1, "seed": 3,
                       "parallel_tool_calls": False}
                create = self.client(family).chat.completions.create
                got = create(messages=messages, tool_choice="required", **ask).choices[0]
                self.assertEqual(got.finish_reason, "tool_calls")
                self.assertIsNone(got.message.content)
                call, = got.message.tool_calls
                self.assertIn(call.function.name, ("weather", "tides"))
                arguments = json.loads(call.function.arguments)
                self.assertIn(arguments["city"], ("Rome", "Oslo"))
                self.assertIn(arguments["days"], range(1, 10))
                named = {"type": "function", "function": {"name": "tides"}}
                forced = create(messages=messages, tool_choice=named, **ask).choices[0].message.tool_calls[0]
                self.assertEqual(forced.function.name, "tides")
                chunks = [chunk.choices[0] for chunk in create(messages=messages, tool_choice="required", stream=True,
                                                               **ask)]
                streamed = [each for chunk in chunks for each in chunk.delta.tool_calls or []]
                self.assertEqual([each.function.arguments for each in streamed], [call.function.arguments])
                self.assertEqual(chunks[-1].finish_reason, "tool_calls")
                # The result goes back, and the model may say what it likes.
                messages += [got.message.model_dump(exclude_none=True),
                             {"role": "tool", "tool_call_id": call.id, "content": "rain"}]
                said = create(messages=messages, **ask).choices[0]
                self.assertIn(said.finish_reason, ("stop", "length", "tool_calls"))
                self.assertTrue(said.message.content or said.message.tool_calls)

    def test_curl(self):
        if not shutil.which("curl"):
            self.skipTest("no curl")
        done = run("curl", "-sS", "-N", self.served["hydra"].url + "v1/chat/completions", "-H",
                   "Content-Type: application/json", "-d",
                   json.dumps({"messages": [{"role": "user", "content": "hi"}], "stream": True, "max_tokens": 3}))
        self.assertEqual(done.returncode, 0, done)
        self.assertTrue(done.stdout.startswith('data: {"id":"chatcmpl-'), done.stdout)
        self.assertTrue(done.stdout.endswith("data: [DONE]\n\n"), done.stdout)
        # Before so much curl asks whether it may send it (Expect: 100-continue).
        done = run("curl", "-sS", self.served["hydra"].url + "v1/completions", "-H", "Content-Type: application/json",
                   "-d", "@-", input=json.dumps({"prompt": "a", "max_tokens": 1, "user": "x" * 3000000}))
        self.assertEqual(json.loads(done.stdout).get("object"), "text_completion", done.stdout[:500])

    def test_prometheus_reads_the_metrics(self):
        served = self.served["hydra"]
        served.complete("a", max_tokens=4)
        status, headers, text = served.ask("GET", "/metrics")
        self.assertEqual(status, 200)
        self.assertTrue(headers["Content-Type"].startswith("text/plain"), headers)
        families = {family.name: family for family in text_string_to_metric_families(text.decode())}
        for name in ("requests", "generated_tokens", "prompt_tokens", "cached_tokens", "prefix_hits", "prefix_misses",
                     "ttft_seconds", "itl_seconds", "queue_seconds", "experts_per_chunk", "resident_bytes"):
            self.assertIn("hydralm_" + name, families)
        asked = [s for s in families["hydralm_requests"].samples if s.labels.get("endpoint") == "/v1/completions"]
        self.assertGreater(sum(sample.value for sample in asked), 0)
        causes = {sample.labels["cause"] for sample in families["hydralm_prefix_misses"].samples}
        self.assertIn("new", causes)

    def test_the_examples_of_the_docs(self):
        page = (Path(__file__).parents[2] / "docs/serve.md").read_text(encoding="utf-8")
        blocks = re.findall(r"^```(sh|python)( state)?\n(.*?)^```$", page, re.M | re.S)
        self.assertGreaterEqual(len(blocks), 5)
        with tempfile.TemporaryDirectory() as states, \
                Serving(HYDRALM, self.models["hydra"], "--state-dir", states) as served:
            for kind, _, block in blocks:
                block = block.replace("http://127.0.0.1:8080/", served.url)
                if kind == "sh" and not shutil.which("curl"):
                    continue
                with self.subTest(block=block):
                    words = ["sh", "-e"] if kind == "sh" else [sys.executable, "-"]
                    done = run(*words, input=block.replace("curl ", "curl -sS --fail-with-body "))
                    self.assertEqual(done.returncode, 0, done)
                    self.assertTrue(done.stdout.strip(), done)

    # ---- Texts ----

    def test_texts_are_those_of_generate(self):
        for family in FAMILIES:
            for prompt in (QUESTION, make_text(9, 60)):
                with self.subTest(family=family, prompt=prompt[:20]):
                    got = self.served[family].complete(prompt, max_tokens=40)
                    self.assertEqual(got["choices"][0]["text"], self.generate(family, prompt, 40))

    def test_many_clients_at_once_get_what_each_would_get_alone(self):
        prompts = [make_text(20 + i, 5 + 17 * i) for i in range(8)]
        for family in FAMILIES:
            with self.subTest(family=family):
                alone = [self.generate(family, prompt, 30) for prompt in prompts]
                served = self.served[family]
                for _ in range(2):  # the second time their beginnings are known
                    got = in_threads(len(prompts), lambda i: served.complete(prompts[i], max_tokens=30))
                    self.assertEqual([reply["choices"][0]["text"] for reply in got], alone)
                self.assertTrue(served.wait_until(lambda: served.busy() == 0))

    def test_streams_come_in_order(self):
        events = list(self.served["hydra"].stream("/v1/chat/completions", {
            "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, "temperature": 0, "n": 2,
            "stream_options": {"include_usage": True}}))
        self.assertEqual(events[-1], "[DONE]")
        self.assertEqual(events[-2]["choices"], [])
        self.assertEqual(events[-2]["usage"]["prompt_tokens_details"].keys(), {"cached_tokens"})
        for index in (0, 1):
            mine = [e["choices"][0] for e in events[:-2] if e["choices"][0]["index"] == index]
            self.assertEqual(mine[0]["delta"], {"role": "assistant", "content": ""})
            self.assertEqual(mine[-1]["delta"], {})
            self.assertIn(mine[-1]["finish_reason"], ("stop", "length"))
            for middle in mine[1:-1]:
                self.assertEqual(list(middle["delta"]), ["content"])
                self.assertIsNone(middle["finish_reason"])
        for event in events[:-2]:
            self.assertIsNone(event["usage"])

    def test_the_second_turn_reads_what_is_new(self):
        for family in FAMILIES:
            with self.subTest(family=family):
                served = self.served[family]
                first = make_text(40, 150)
                said = served.chat(first, max_tokens=30)
                answer = said["choices"][0]["message"]["content"]
                second = served.chat(first, answer, "and then?", max_tokens=10)
                usage = second["usage"]
                new = usage["prompt_tokens"] - said["usage"]["prompt_tokens"] - said["usage"]["completion_tokens"]
                read = usage["prompt_tokens"] - usage["prompt_tokens_details"]["cached_tokens"]
                self.assertLessEqual(read, new + 64 + 2)

    def test_controls_are_those_of_one_request(self):
        served = self.served["hydra"]
        prompt = make_text(11, 30)
        cases = (({"ban_experts": [0, 2]}, "ban_experts=0,2"), ({"path_scale": [1, 0, 1]}, "path_scale=1,0,1"))
        for control, flag in cases:
            want = self.generate("hydra", prompt, 30, "--control", flag)
            got = in_threads(3, lambda i: served.complete(
                prompt, max_tokens=30, hydralm={"controls": control} if i == 1 else {}))
            self.assertEqual(got[1]["choices"][0]["text"], want)
            self.assertEqual(got[0]["choices"][0]["text"], self.generate("hydra", prompt, 30))

    def test_logprobs_and_echo_score_a_prompt(self):
        served = self.served["llama"]
        ids = served.json("POST", "/tokenize", {"content": QUESTION})["tokens"]
        got = served.complete(ids, max_tokens=0, echo=True, logprobs=2)["choices"][0]
        self.assertEqual(got["text"], QUESTION)
        logprobs = got["logprobs"]
        self.assertEqual(len(logprobs["token_logprobs"]), len(ids))
        self.assertIsNone(logprobs["token_logprobs"][0])
        self.assertEqual("".join(logprobs["tokens"]), QUESTION)
        for value, best in zip(logprobs["token_logprobs"][1:], logprobs["top_logprobs"][1:]):
            self.assertLessEqual(value, max(best.values()))
        self.assertEqual(served.json("POST", "/detokenize", {"tokens": ids})["content"], QUESTION)

    def test_traces_and_props_tell_what_the_model_has(self):
        served = self.served["hydra"]
        props = served.json("GET", "/props")
        self.assertEqual(props["layers"], [["ssm", "moe"], ["ssm", "sga", "workspace"], ["ssm", "moe", "pkm"]])
        got = served.chat("hi", max_tokens=20, hydralm={"trace": True})["choices"][0]["hydralm"]
        self.assertEqual(len(got["trace"]), len(got["tokens"]) - 1)
        for token, trace in zip(got["tokens"], got["trace"]):
            self.assertEqual(token["position"], trace["position"])
            self.assertEqual(len(trace["layers"]), 3)
            self.assertIn("experts", trace["layers"][0])
        dense = self.served["llama"].json("GET", "/props")
        self.assertEqual(dense["controls"], [])
        self.assertEqual(dense["spans"], [["all"], ["all"]])

    # ---- Keeping ----

    def test_states_survive_the_process_and_belong_to_their_key(self):
        for family in FAMILIES:
            with self.subTest(family=family), tempfile.TemporaryDirectory() as states:
                flags = ("--state-dir", states, "--api-key", "anna", "--api-key", "bert")
                anna, bert = ({"Authorization": "Bearer " + name} for name in ("anna", "bert"))
                prompt = make_text(50, 80)
                with Serving(HYDRALM, self.models[family], *flags) as served:
                    made = served.json("POST", "/v1/states", {"name": "tale", "prompt": prompt}, anna)
                    self.assertGreater(made["tokens"], 20)
                with Serving(HYDRALM, self.models[family], *flags) as served:
                    listed = served.json("GET", "/v1/states", headers=anna)["data"]
                    self.assertEqual([(s["name"], s["tokens"]) for s in listed], [("tale", made["tokens"])])
                    self.assertEqual(served.json("GET", "/v1/states", headers=bert)["data"], [])
                    ids = served.json("POST", "/tokenize", {"content": prompt, "add_special": True}, anna)["tokens"]
                    body = {"prompt": ids + ids[:5], "max_tokens": 20, "temperature": 0, "hydralm": {"state": "tale"}}
                    got = served.json("POST", "/v1/completions", body, anna)
                    self.assertEqual(got["usage"]["prompt_tokens_details"]["cached_tokens"], made["tokens"])
                    without = served.json("POST", "/v1/completions", {**body, "hydralm": {}}, bert)
                    self.assertEqual(without["usage"]["prompt_tokens_details"]["cached_tokens"], 0)
                    self.assertEqual(got["choices"][0]["text"], without["choices"][0]["text"])
                    served.json("POST", "/v1/completions", body, bert, status=404)
                    error = served.json("POST", "/v1/completions", {**body, "prompt": ids[1:]}, anna, status=400)
                    self.assertEqual(error["error"]["code"], "state_mismatch")
                    served.json("DELETE", "/v1/states/tale", headers=bert, status=404)
                    served.json("DELETE", "/v1/states/tale", headers=anna)
                    self.assertEqual(served.json("GET", "/v1/states", headers=anna)["data"], [])

    def test_guesses_change_no_text(self):
        prompt = " ".join(["again and again"] * 12)
        for family in FAMILIES:
            with self.subTest(family=family), Serving(HYDRALM, self.models[family], "--spec", "ngram") as served:
                want = self.generate(family, prompt, 60)
                got = in_threads(3, lambda i: served.complete(prompt, max_tokens=60))
                self.assertEqual({reply["choices"][0]["text"] for reply in got}, {want})

    def test_logs_hold_prompts_only_where_asked(self):
        for flag, holds in (("--log-json", False), ("--log-prompts", True)):
            with Serving(HYDRALM, self.models["hydra"], flag, "-q") as served:
                served.complete("open sesame", max_tokens=3)
                for _ in served.stream("/v1/completions", {"prompt": "open sesame", "max_tokens": 3}):
                    pass
                self.assertTrue(served.wait_until(lambda: served.said().count("/v1/completions") >= 2), served.said())
                lines = [json.loads(line) for line in served.said().splitlines() if line.startswith("{")]
                self.assertTrue(all(line["completion_tokens"] <= 3 and line["status"] == 200 for line in lines), lines)
                self.assertEqual("sesame" in served.said(), holds)

    # ---- Ends ----

    def test_signals_let_requests_end(self):
        for how, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            with self.subTest(how=how), Serving(HYDRALM, self.models["hydra"]) as served:
                events = served.stream("/v1/completions", {"prompt": "a", "max_tokens": 400, "temperature": 0})
                first = next(events)
                self.assertIn("choices", first)
                ended = []
                waiting = threading.Thread(target=lambda: ended.append(served.stop(how)))
                waiting.start()
                self.assertEqual(list(events)[-1], "[DONE]")
                waiting.join()
                self.assertEqual(ended, [status])
                with self.assertRaises(OSError):
                    served.ask("GET", "/health")

    def test_a_second_signal_ends_at_once(self):
        with Serving(HYDRALM, self.models["mamba2"]) as served:
            events = served.stream("/v1/completions", {"prompt": "a", "max_tokens": 1000000, "temperature": 0})
            next(events)
            served.process.send_signal(signal.SIGINT)
            time.sleep(0.5)
            self.assertIsNone(served.process.poll())  # it waits for the request
            began = time.monotonic()
            self.assertEqual(served.stop(signal.SIGINT), 130)
            self.assertLess(time.monotonic() - began, 5)
            events.close()

    def test_a_client_that_leaves_frees_its_slot(self):
        served = self.served["mamba2"]
        events = served.stream("/v1/completions", {"prompt": "a", "max_tokens": 1000000, "temperature": 0})
        next(events)
        self.assertEqual(served.busy(), 1)
        cancelled = served.metric("requests_cancelled_total")
        events.close()
        self.assertTrue(served.wait_until(lambda: served.busy() == 0, 5))
        self.assertGreater(served.metric("requests_cancelled_total"), cancelled)

    def test_a_full_queue_is_said_so(self):
        with Serving(HYDRALM, self.models["mamba2"], "--parallel", "1", "--queue", "1") as served:
            streams = [served.stream("/v1/completions", {"prompt": "a", "max_tokens": 1000000, "temperature": 0})]
            next(streams[0])
            waiting = socket.create_connection((served.host, served.port))
            body = json.dumps({"prompt": "a", "max_tokens": 5, "stream": True})
            waiting.sendall((f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
                             f"Content-Length: {len(body)}\r\n\r\n{body}").encode())
            self.assertTrue(served.wait_until(lambda: served.metric("requests_queued") == 1))
            status, headers, data = served.ask("POST", "/v1/completions", {"prompt": "a", "max_tokens": 5})
            self.assertEqual(status, 429)
            self.assertIn("Retry-After", headers)
            self.assertEqual(json.loads(data)["error"]["type"], "rate_limit_error")
            streams[0].close()
            waiting.settimeout(60)
            got = b""
            while b"[DONE]" not in got:  # its turn has come
                part = waiting.recv(65536)
                self.assertTrue(part, got)
                got += part
            waiting.close()

    # ---- What is refused before a model is loaded, and why ----

    def test_flags_that_cannot_be(self):
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        model = self.models["hydra"]
        cases = [(("--host", "0.0.0.0"), r"--host 0\.0\.0\.0: .*--api-key"),
                 (("--port", "80808"), r"--port 80808: must be 0\.\.65535"),
                 (("--port", str(taken.getsockname()[1])), r"--port \d+: Address already in use"),
                 (("--cache-ram", "1kB"), r"--cache-ram 1kB: .*needs \d+ bytes"),
                 (("--cache-ram", "much"), r"--cache-ram much: must be a number of bytes"),
                 (("--api-key", ""), r"--api-key: must not be empty"),
                 (("--api-key-file", "/nowhere/keys"), r"/nowhere/keys: cannot open"),
                 (("--chat-template", "none"), r"--chat-template"),
                 (("--spec", "self", "-m", self.models["llama"]), r"--spec|more than once"),
                 (("--parallel", "0"), r"--parallel 0: must be 1\.\.64")]
        for flags, pattern in cases:
            with self.subTest(flags=flags):
                words = [HYDRALM, "serve", *([] if "-m" in flags else ["-m", model]),
                         *([] if "--port" in flags else ["--port", "0"]), *flags]
                done = subprocess.run(words, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL,
                                      check=False)
                self.assertEqual(done.returncode, 2, done)
                self.assertRegex(done.stderr, pattern)
                self.assertEqual(done.stdout, "")
        taken.close()

    def test_keys_come_from_the_environment_and_files(self):
        keys = Path(self.folder) / "keys"
        keys.write_text("# for tests\nfrom-file\n")
        with Serving(HYDRALM, self.models["hydra"], "--api-key-file", str(keys),
                     env={"HYDRALM_ARG_API_KEY": "from-environment"}) as served:
            served.json("GET", "/v1/models", status=401)
            for key in ("from-file", "from-environment"):
                served.json("GET", "/v1/models", headers={"Authorization": f"Bearer {key}"})


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
