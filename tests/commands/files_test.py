# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=120
"""Files as people give them, from outside: FIFOs and devices as inputs and outputs, links, what killed commands left,
limits on sizes, texts from pipes. Not here: each rule by itself (hydra/io/*_test.cc, hydra/data/*_test.cc)."""
import json
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import unittest
from pathlib import Path

sys.path.insert(0, os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "support"))
from tiny_models import make_model, make_tokenizer, must, run  # noqa: E402

HYDRALM = sys.argv[1]
LINES = '{"text": "one small text"}\n{"text": "another small text"}\n'


class Files(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.keep = tempfile.TemporaryDirectory()
        cls.shared = Path(cls.keep.name)
        cls.tokenizer = make_tokenizer(HYDRALM, cls.shared)
        cls.model = make_model(HYDRALM, cls.shared / "model", "llama", cls.tokenizer)

    @classmethod
    def tearDownClass(cls):
        cls.keep.cleanup()

    def setUp(self):
        temp = tempfile.TemporaryDirectory()
        self.addCleanup(temp.cleanup)
        self.dir = Path(temp.name)

    def hydralm(self, *args, **options):
        return run(HYDRALM, *map(str, args), **options)

    def refuses(self, pattern, *args, **options):
        done = self.hydralm(*args, **options)
        self.assertEqual(done.returncode, 2, done)
        self.assertRegex(done.stderr, pattern)
        said = [line for line in done.stderr.splitlines() if line.startswith("hydralm: ")]
        self.assertEqual(len(said), 1, done.stderr)
        return done

    def build(self, *args, out="data", **options):
        return self.hydralm("data", "build", *args, "--tokenizer", self.tokenizer, "--val", 0, "-o", self.dir / out,
                            "--json", **options)

    def documents(self, *args, **options):
        done = self.build(*args, **options)
        self.assertEqual(done.returncode, 0, done)
        return json.loads(done.stdout)["train"]["documents"]

    # ---- inputs ----

    def test_fifos_are_no_inputs(self):
        fifo = self.dir / "fifo"
        os.mkfifo(fifo)
        for args in (["inspect", "-m", fifo], ["generate", "-m", self.model, "--state-load", fifo, "-n", 1],
                     ["convert", fifo, "-o", self.dir / "x.gguf"],
                     ["logits", "-m", self.model, "-f", fifo, "-o", self.dir / "x"],
                     ["tokenizer", "encode", "-m", self.model, fifo], ["tokenizer", "info", "-m", fifo],
                     ["data", "build", fifo, "--tokenizer", self.tokenizer, "-o", self.dir / "d"],
                     ["bench", "-m", self.model, "--ppl", fifo]):
            with self.subTest(args=args):
                self.refuses("fifo: a FIFO: must be a regular file|fifo: must be a model folder", *args)

    def test_endless_devices_are_no_inputs(self):
        for device in ("/dev/zero", "/dev/urandom"):
            for args in (["generate", "-m", self.model, "-f", device, "-n", 1],
                         ["tokenizer", "encode", "-m", self.model, device],
                         ["tokenizer", "train", device, "-o", self.dir / "t.json"],
                         ["data", "build", device, "--tokenizer", self.tokenizer, "-o", self.dir / "d"]):
                with self.subTest(args=args):
                    self.refuses(f"{device}: a character device: must be a regular file", *args)

    def test_folders_are_no_texts(self):
        self.refuses("Is a directory", "tokenizer", "encode", "-m", self.model, self.dir)
        self.refuses("Is a directory", "data", "build", self.dir, "--tokenizer", self.tokenizer, "-o", self.dir / "d")

    def test_pipes_are_texts(self):
        want = self.hydralm("tokenizer", "encode", "-m", self.model, input="some text").stdout
        for name in ("-", "/dev/stdin", "/dev/fd/0"):
            done = self.hydralm("tokenizer", "encode", "-m", self.model, name, input="some text")
            self.assertEqual(done.stdout, want)
        done = run("bash", "-c", f'"{HYDRALM}" tokenizer encode -m "{self.model}" <(printf "some text")')
        self.assertEqual((done.returncode, done.stdout), (0, want), done)
        (self.dir / "two").write_text("first line\nsome text")
        done = run("bash", "-c", f'(read line; "{HYDRALM}" tokenizer encode -m "{self.model}" -) < "{self.dir}/two"')
        self.assertEqual((done.returncode, done.stdout), (0, want), done)

    def test_a_corpus_says_what_it_is(self):
        for name in ("a.jsonl", "a.ndjson", "a.jsonlines", "a.JSONL", "a.NdJson"):
            (self.dir / name).write_text(LINES)
            self.assertEqual(self.documents(self.dir / name), 2, name)
        self.assertEqual(self.documents("-", input=LINES), 2)
        self.assertEqual(self.documents("/dev/stdin", input=LINES), 2)
        self.assertEqual(self.documents("-", input="a text\n" + LINES), 1)
        self.assertEqual(self.documents("-", "--format", "text", input=LINES), 1)
        done = run("bash", "-c", f'"{HYDRALM}" data build <(gzip -c "{self.dir}/a.jsonl") --val 0 --json '
                                 f'--tokenizer "{self.tokenizer}" -o "{self.dir}/data"')
        self.assertEqual(json.loads(done.stdout)["train"]["documents"], 2, done)
        self.refuses("--format csv: must be auto, text or jsonl", "data", "build", "-", "--tokenizer", self.tokenizer,
                     "-o", self.dir / "d", "--format", "csv")

    def test_what_was_mended_or_never_occurs_is_said(self):
        (self.dir / "a.jsonl").write_text('{"text": "half \\ud83d"}\n')
        done = self.build(self.dir / "a.jsonl")
        self.assertEqual((done.returncode, json.loads(done.stdout)["mended"]), (0, 1), done)
        self.assertIn("1 documents had invalid UTF-8 or half a surrogate pair", done.stderr)
        (self.dir / "crlf.txt").write_bytes(b"one\r\n\r\ntwo")
        text = self.dir / "crlf.txt"
        for verb in (["data", "build", text, "--tokenizer", self.tokenizer, "--val", 0, "-o", self.dir / "d"],
                     ["tokenizer", "train", text, "--vocab", 258, "-o", self.dir / "t.json"]):
            done = self.hydralm(*verb, "--doc-sep", "\n\n")
            self.assertEqual(done.returncode, 0, done)
            self.assertIn(r"--doc-sep $'\r\n\r\n' does", done.stderr)

    def test_json_errors_are_our_own(self):
        (self.dir / "config.json").write_text('{"model_type": "llama", "hidden_size": 1e999}')
        self.refuses(r"hidden_size.*the number 1e999 is too large$", "inspect", "-m", self.dir / "config.json")
        (self.dir / "tokenizer.json").write_text('{"model": 1e999}')
        self.refuses("the number 1e999 is too large$", "tokenizer", "info", "-m", self.dir)
        (self.dir / "tokenizer.json").write_text('{"model": tru}')
        done = self.refuses("not valid JSON", "tokenizer", "info", "-m", self.dir)
        self.assertNotRegex(done.stderr, r"json\.exception|parse.error")

    def test_lines_of_decode_are_read_back_by_encode(self):
        texts = ["two\nlines", "back\\slash", "\\n is no line end", "a\r\n\\", "\\\\", "plain"]
        ids = [self.hydralm("tokenizer", "encode", "-m", self.model, input=text).stdout for text in texts]
        lines = self.hydralm("tokenizer", "decode", "-m", self.model, "--lines", input="".join(ids))
        self.assertEqual(lines.stdout.count("\n"), len(texts))
        back = self.hydralm("tokenizer", "encode", "-m", self.model, "--lines", "--unescape", input=lines.stdout)
        self.assertEqual(back.stdout, "".join(ids), lines)
        self.refuses(r"stdin:2: byte 1: a backslash before x", "tokenizer", "encode", "-m", self.model, "--lines",
                     "--unescape", input="a\n\\x\n")
        self.refuses("--unescape: is for --lines", "tokenizer", "encode", "-m", self.model, "--unescape", input="a")

    # ---- outputs ----

    def writers(self, out):
        yield ["logits", "-m", self.model, "-p", "abc", "-o", out]
        yield ["convert", self.model, "-o", str(out) + ".gguf"]
        yield ["quantize", self.model, "-o", str(out) + ".gguf"]
        yield ["generate", "-m", self.model, "-p", "abc", "-n", 1, "-q", "--state-save", out]
        yield ["tokenizer", "train", self.text(), "--vocab", 300, "-o", out]

    def text(self):
        path = self.dir / "text.txt"
        path.write_text("some small text of words, some more of words " * 20)
        return path

    def test_devices_and_fifos_are_not_replaced(self):
        for name in ("out", "out.gguf"):
            os.mkfifo(self.dir / name)
        for args in self.writers(self.dir / "out"):
            with self.subTest(args=args):
                self.refuses("a FIFO that no process reads from|goes back to its start|is no regular file", *args)
        for name in ("out", "out.gguf"):
            self.assertTrue(stat.S_ISFIFO(os.stat(self.dir / name).st_mode))
        self.assertEqual(self.hydralm("logits", "-m", self.model, "-p", "abc", "-o", "/dev/null").returncode, 0)
        self.refuses("No space left", "tokenizer", "train", self.text(), "--vocab", 300, "-o", "/dev/full")
        for device in ("/dev/null", "/dev/full"):
            self.assertTrue(stat.S_ISCHR(os.stat(device).st_mode))

    def test_a_fifo_that_is_read_gets_the_file(self):
        fifo = self.dir / "fifo"
        os.mkfifo(fifo)
        got = []
        reader = threading.Thread(target=lambda: got.append(fifo.read_text()))
        reader.start()
        must(HYDRALM, "tokenizer", "train", str(self.text()), "--vocab", "300", "-o", str(fifo))
        reader.join()
        must(HYDRALM, "tokenizer", "train", str(self.text()), "--vocab", "300", "-o", str(self.dir / "t.json"))
        self.assertEqual(got[0], (self.dir / "t.json").read_text())
        done = self.hydralm("tokenizer", "train", self.text(), "--vocab", 300, "-q", "-o", "/dev/stdout")
        self.assertEqual(done.stdout, got[0])
        self.assertTrue(stat.S_ISFIFO(os.stat(fifo).st_mode))

    def test_links_are_followed(self):
        for args in self.writers(self.dir / "out"):
            with self.subTest(args=args):
                name = str(args[-1])
                link, target = Path(name), self.dir / "target"
                link.symlink_to("target")
                self.assertEqual(self.hydralm(*args).returncode, 0)
                self.assertTrue(link.is_symlink())
                self.assertGreater(target.stat().st_size, 0)
                link.unlink()
                target.unlink()
        self.assertEqual(list(self.dir.glob("*.tmp-*")), [])

    def test_temporaries_of_killed_commands_go_with_the_next(self):
        sleeper = subprocess.Popen(["sleep", "60"])
        self.addCleanup(sleeper.wait)
        self.addCleanup(sleeper.kill)
        for args in self.writers(self.dir / "out"):
            name = str(args[-1])
            for pid in (999999, sleeper.pid):
                Path(f"{name}.tmp-{pid}-0").write_bytes(b"0" * 1000)
            with self.subTest(args=args):
                self.assertEqual(self.hydralm(*args).returncode, 0)
                self.assertFalse(Path(f"{name}.tmp-999999-0").exists())
                self.assertTrue(Path(f"{name}.tmp-{sleeper.pid}-0").exists())

    def test_a_limit_on_sizes_is_as_a_full_disk(self):
        # The signal is ignored here as the commands do it, so that the call fails.
        limit = 'trap "" XFSZ; ulimit -f 1; exec "$0" "$@"'
        for args in self.writers(self.dir / "out"):
            text = self.text()
            with self.subTest(args=args):
                done = run("bash", "-c", limit, HYDRALM, *map(str, args))
                self.assertEqual(done.returncode, 2, done)
                self.assertRegex(done.stderr, r"File too large \(ulimit -f, or the file system, limits the size")
                self.assertEqual(list(self.dir.iterdir()), [text])

    # ---- data builds ----

    def corpus(self, name, documents):
        path = self.dir / name
        path.write_text("".join(f"document {i} of {name}, words and more words\f" for i in range(documents)))
        return path

    def build_from_pipe(self, *args):
        return subprocess.Popen([HYDRALM, "data", "build", "-", "--tokenizer", self.tokenizer, "--val", "0", "-q",
                                 "-o", str(self.dir / "data"), *args], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def test_a_second_build_is_refused_while_one_is_at_work(self):
        first = self.build_from_pipe()
        first.stdin.write(b"x" * (1 << 17))  # more than a pipe holds: it has begun to read, so it holds the lock
        first.stdin.flush()
        self.refuses(rf"data: in use by process {first.pid} \(hydralm data build\)", "data", "build",
                     self.corpus("b.txt", 9), "--tokenizer", self.tokenizer, "-o", self.dir / "data")
        first.stdin.close()
        self.assertEqual(first.wait(), 0)
        self.assertEqual(self.hydralm("data", "check", self.dir / "data").returncode, 0)

    def test_a_killed_build_leaves_the_earlier_one(self):
        self.assertEqual(self.documents(self.corpus("a.txt", 50), "--doc-sep", "\f"), 50)
        second = self.build_from_pipe("--doc-sep", "\f", "--shard-tokens", "5000")
        second.stdin.write(b"other words\f" * 20000)  # several times what a pipe holds: shards are finished
        second.stdin.flush()
        second.send_signal(signal.SIGKILL)
        second.wait()
        second.stdin.close()
        self.assertTrue(list((self.dir / "data").glob("*.part*")))
        check = self.hydralm("data", "check", self.dir / "data")
        self.assertEqual((check.returncode, "50 documents" in check.stdout), (0, True), check)
        self.assertEqual(self.documents(self.corpus("c.txt", 7), "--doc-sep", "\f"), 7)
        self.assertEqual(sorted(path.name for path in (self.dir / "data").iterdir()),
                         ["data.json", "tokenizer.json", "train-00001-of-00001.2.tok"])

    def test_a_failed_build_leaves_nothing(self):
        blank = self.dir / "blank.txt"
        blank.write_text("  \n")
        self.refuses("no document with text", "data", "build", blank, "--tokenizer", self.tokenizer, "-o",
                     self.dir / "new")
        self.assertEqual([path.name for path in self.dir.iterdir()], ["blank.txt"])
        (self.dir / "mine").mkdir()
        self.refuses("no document with text", "data", "build", blank, "--tokenizer", self.tokenizer, "-o",
                     self.dir / "mine")
        self.assertEqual(list((self.dir / "mine").iterdir()), [])

    def test_info_looks_at_the_shards(self):
        self.assertEqual(self.documents(self.corpus("a.txt", 50), "--doc-sep", "\f"), 50)
        self.assertEqual(self.hydralm("data", "info", self.dir / "data").returncode, 0)
        shard, = (self.dir / "data").glob("*.tok")
        shard.write_bytes(b"")
        self.refuses(rf"{shard}: magic is missing: the file is empty", "data", "info", self.dir / "data")

    def test_wrong_folders_are_named_alike(self):
        (self.dir / "file").write_text("x")
        for verb in ("info", "check"):
            for folder, what in (("none", "no such folder"), ("file", "is no folder"), ("", "has no data.json")):
                self.refuses(rf"^hydralm: {self.dir / folder}: {what}: give a folder that hydralm data build made$",
                             "data", verb, self.dir / folder)

    def test_the_tokenizers_warnings_are_printed(self):
        path = self.dir / "tokenizer.json"
        path.write_text(json.dumps({**json.loads(Path(self.tokenizer).read_text()), "padding": {"length": 8}}))
        said = self.hydralm("tokenizer", "info", "-m", path).stderr
        self.assertRegex(said, "^hydralm: warning: .*padding is set: it is not applied")
        done = self.hydralm("data", "build", self.corpus("a.txt", 50), "--tokenizer", path, "--doc-sep", "\f",
                            "-o", self.dir / "data")
        self.assertEqual((done.returncode, done.stderr[:len(said)]), (0, said), done)

    def test_no_space_leaves_the_earlier_one(self):
        self.assertEqual(self.documents(self.corpus("a.txt", 50), "--doc-sep", "\f"), 50)
        before = sorted(path.name for path in (self.dir / "data").iterdir())
        done = run("bash", "-c", 'trap "" XFSZ; ulimit -f 8; exec "$0" "$@"', HYDRALM, "data", "build",
                   str(self.corpus("b.txt", 5000)), "--tokenizer", self.tokenizer, "--doc-sep", "\f",
                   "-o", str(self.dir / "data"))
        self.assertEqual(done.returncode, 2, done)
        self.assertEqual(sorted(path.name for path in (self.dir / "data").iterdir()), before)
        self.assertEqual(self.hydralm("data", "check", self.dir / "data").returncode, 0)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
