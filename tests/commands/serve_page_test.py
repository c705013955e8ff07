# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=300
# The chat page of `hydralm serve` in a browser: it streams, stops, edits, keeps conversations, survives a restart of
# the server, shows what each token did, asks nobody else and runs nothing that a model says. PAGES=folder keeps
# screenshots to look at. Not here: the protocol (serve_test.py).
import json
import os
import re
import sys
import tempfile
import unittest
from pathlib import Path

from playwright.sync_api import expect, sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from serving import Serving  # noqa: E402
from tiny_models import make_model, make_text, make_tokenizer, without_ends  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
CHROMIUM = "/usr/bin/chromium"  # of the Debian package
expect.set_options(timeout=20000)

# What models write, and what must never become anything but text.
MARKDOWN = """# Title <img src=x onerror=alert(1)>

Some **bold**, *leaning* and `code <b>` words, a [link](https://example.org/a) and [none](javascript:alert(1)).

- one
- two
  1. inner

> quoted

| a | b |
|---|---|
| 1 | 2 |

```js
if (a < b) { c(); }
```
<script>alert(2)</script>"""


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.models = {"hydra": without_ends(make_model(HYDRALM, f"{cls.folder}/hydra", "hydra", tokenizer)),
                      "llama": without_ends(make_model(HYDRALM, f"{cls.folder}/llama", "llama", tokenizer,
                                                       max_position_embeddings=4096))}
        cls.served = Serving(HYDRALM, cls.models["hydra"])
        cls.playwright = sync_playwright().start()
        cls.browser = cls.playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.playwright.stop()
        cls.served.__exit__()
        cls.temporary.cleanup()

    def open(self, url=None, scheme="light", width=1200, allow=()):
        """The page, on which nothing may go wrong and which asks its own server only. `allow`: parts of complaints that
        the test provokes."""
        url = url or self.served.url
        context = self.browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 900},
                                           accept_downloads=True)
        page = context.new_page()
        self.addCleanup(context.close)
        faults = []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda request: faults.append(request.url) if not request.url.startswith(
            (url, "data:", "blob:")) else None)
        page.goto(url)
        expect(page.locator("#about")).to_contain_text("parameters")
        page.set_default_timeout(30000)
        self.addCleanup(lambda: self.assertEqual(
            [fault for fault in faults if not any(part in fault for part in allow)], []))
        return page

    def keep(self, page, name):
        if pages := os.environ.get("PAGES"):
            page.screenshot(path=f"{pages}/serve-{name}.png")

    def say(self, page, text):
        page.fill("#text", text)
        page.press("#text", "Enter")

    def set(self, page, **sampling):
        if page.is_hidden("#settings"):
            page.click("#show-settings")
        for name, value in sampling.items():
            page.fill(f"#s-{name}", str(value))
            page.press(f"#s-{name}", "Tab")

    def answered(self, page, count=1):
        """The answers, once so many are whole."""
        expect(page.locator("article.assistant")).to_have_count(count)
        expect(page.locator("#stop")).to_be_hidden()
        return page.locator("article.assistant")

    def test_a_chat_streams_and_is_kept(self):
        for scheme in ("light", "dark"):
            page = self.open(scheme=scheme)
            self.set(page, temperature=0, max_tokens=40)
            self.say(page, "hello there")
            first = self.answered(page).first
            self.assertRegex(first.locator(".foot span").inner_text(), r"first token [\d.]+ s.*40 tokens")
            self.say(page, "and then?")
            self.answered(page, 2)
            expect(page.locator("#status")).to_contain_text("context")
            self.keep(page, f"chat-{scheme}")
            shown = page.locator("#messages").inner_text()
            page.reload()
            expect(page.locator("article.assistant")).to_have_count(2)
            self.assertEqual(page.locator("article.user").first.locator(".body").inner_text(), "hello there")
            self.assertEqual(page.locator("#messages").inner_text(), shown)
            colours = page.evaluate("[getComputedStyle(document.body).color, "
                                    "getComputedStyle(document.body).backgroundColor]")
            text, back = (sum(float(n) for n in re.findall(r"[\d.]+", colour)[:3]) for colour in colours)
            self.assertGreater(abs(text - back), 300)
            self.assertEqual(back > 400, scheme == "light")

    def test_stopping_frees_the_slot_and_what_came_stays(self):
        page = self.open()
        self.set(page, temperature=0)
        self.set(page, max_tokens=100000)
        self.say(page, "write without end")
        expect(page.locator("article.assistant .body")).not_to_be_empty()
        page.keyboard.press("Escape")
        answer = self.answered(page).first
        expect(answer.locator(".foot span")).to_contain_text("stopped")
        self.assertTrue(self.served.wait_until(lambda: self.served.busy() == 0, 5))
        self.assertTrue(answer.locator(".body").inner_text().strip())

    def test_messages_are_edited_and_sent_again(self):
        page = self.open()
        self.set(page, temperature=0, max_tokens=10)
        self.say(page, "first")
        self.answered(page)
        self.say(page, "second")
        self.answered(page, 2)
        page.locator("article.user").first.get_by_text("Edit").click()
        page.fill("article.user textarea", "changed")
        page.press("article.user textarea", "Enter")
        self.answered(page, 1)
        self.assertEqual(page.locator("article.user").count(), 1)
        self.assertEqual(page.locator("article.user .body").inner_text(), "changed")
        before = page.locator("article.assistant .body").inner_text()
        page.get_by_text("Write again").click()
        self.assertEqual(self.answered(page).first.locator(".body").inner_text(), before)  # greedy
        page.press("#text", "ArrowUp")
        expect(page.locator("article.user textarea")).to_be_focused()
        page.keyboard.press("Escape")
        expect(page.locator("article.user textarea")).to_have_count(0)

    def test_several_conversations_and_their_export(self):
        page = self.open()
        self.set(page, temperature=0, max_tokens=5)
        page.fill("#system", "be brief")
        self.say(page, "alpha question")
        self.answered(page)
        with page.expect_download() as caught:
            page.click("#export-json")
        kept = json.loads(Path(caught.value.path()).read_text(encoding="utf-8"))
        self.assertEqual([m["role"] for m in kept["messages"]], ["system", "user", "assistant"])
        with page.expect_download() as caught:
            page.click("#export-markdown")
        self.assertIn("## User\n\nalpha question", Path(caught.value.path()).read_text(encoding="utf-8"))
        page.keyboard.press("Control+Shift+O")
        self.say(page, "beta question")
        self.answered(page)
        self.assertEqual(page.locator("#conversations button").all_inner_texts(), ["beta question", "alpha question"])
        page.get_by_role("button", name="alpha question").click()
        self.assertEqual(page.locator("article.user .body").inner_text(), "alpha question")
        self.assertEqual(page.input_value("#system"), "be brief")
        page.click("#delete")
        self.assertEqual(page.locator("#conversations button").all_inner_texts(), ["beta question"])

    def test_the_xray_shows_what_each_token_did(self):
        page = self.open()
        self.set(page, temperature=0, max_tokens=30)
        page.check("#trace")
        self.say(page, make_text(5, 20))
        self.answered(page)
        page.get_by_text("X-ray", exact=True).click()
        tokens = page.locator(".xray .tokens button")
        expect(tokens).to_have_count(30)
        tokens.nth(9).click()
        detail = page.locator(".xray .detail")
        expect(detail).to_contain_text("entropy")
        for word in ("experts", "slots read", "rows read", "gate ssm", "keys kept"):
            expect(detail).to_contain_text(word)
        self.assertEqual(detail.locator("tr").count(), 4)  # a head and three layers
        drawn = page.evaluate("""() => {
            const c = document.querySelector('.xray canvas');
            const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data, seen = new Set();
            for (let i = 0; i < d.length; i += 4) seen.add(d[i] + ',' + d[i + 1] + ',' + d[i + 2]);
            return seen.size; }""")
        self.assertGreater(drawn, 5)
        names = page.locator(".xray select option").all_inner_texts()
        for name in names:
            page.select_option(".xray select", name)
        self.assertIn("read gate of the workspace", names)
        tokens.nth(9).focus()
        page.keyboard.press("ArrowRight")
        expect(tokens.nth(10)).to_have_class(re.compile("chosen"))
        box = page.locator(".xray canvas").bounding_box()
        page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 5)
        expect(page.locator("#tip")).to_be_visible()
        self.keep(page, "xray")

    def test_a_dense_model_shows_no_more_than_it_has(self):
        with Serving(HYDRALM, self.models["llama"]) as served:
            page = self.open(served.url)
            self.set(page, temperature=0, max_tokens=10)
            expect(page.locator("#controls input")).to_have_count(0)
            page.check("#trace")
            self.say(page, "hi")
            self.answered(page)
            page.get_by_text("X-ray", exact=True).click()
            detail = page.locator(".xray .detail")
            expect(detail).to_contain_text("size sga")
            for word in ("experts", "slots", "rows", "landmarks"):
                expect(detail).not_to_contain_text(word)

    def test_controls_of_the_panel_reach_the_model(self):
        page = self.open()
        self.set(page, temperature=0, max_tokens=30)
        self.say(page, "bdfi on fil")
        plain = self.answered(page).first.locator(".body").inner_text()
        with page.expect_request("**/v1/chat/completions") as caught:
            page.get_by_label("ban experts").fill("0, 2")
            page.get_by_label("ban experts").press("Tab")
            page.get_by_text("Write again").click()
        self.assertEqual(caught.value.post_data_json["hydralm"]["controls"], {"ban_experts": [0, 2]})
        self.assertNotEqual(self.answered(page).first.locator(".body").inner_text(), plain)

    def test_it_survives_a_restart_of_the_server(self):
        served = Serving(HYDRALM, self.models["hydra"])
        page = self.open(served.url, allow=("ERR_CONNECTION_REFUSED", "ERR_INCOMPLETE", "ERR_EMPTY_RESPONSE",
                                            "Failed to load resource"))
        self.set(page, temperature=0, max_tokens=10)
        self.say(page, "before")
        self.answered(page)
        served.stop()
        self.say(page, "meanwhile")
        expect(page.locator("article.error")).to_contain_text("cannot be reached")
        expect(page.locator("#health")).to_contain_text("cannot be reached")
        with Serving(HYDRALM, self.models["hydra"], port=served.port):
            expect(page.locator("#health")).to_be_empty()
            page.get_by_text("Write again").click()
            self.answered(page, 2)
            expect(page.locator("article.error")).to_have_count(0)
        served.__exit__()

    def test_a_key_is_asked_for_and_kept(self):
        with Serving(HYDRALM, self.models["hydra"], "--api-key", "secret") as served:
            context = self.browser.new_context()
            self.addCleanup(context.close)
            page = context.new_page()
            page.goto(served.url)
            expect(page.locator("#health")).to_contain_text("API key")
            page.fill("#key", "secret")
            page.press("#key", "Tab")
            expect(page.locator("#about")).to_contain_text("parameters")
            self.set(page, max_tokens=20)
            self.say(page, "hi")
            self.answered(page)
            page.reload()
            expect(page.locator("#about")).to_contain_text("parameters")

    def test_what_a_model_says_is_only_ever_text(self):
        page = self.open()
        page.evaluate("text => { const box = document.createElement('div'); box.className = 'body'; box.id = 'try'; "
                      "document.querySelector('#messages').append(box); renderMarkdown(text, box); }", MARKDOWN)
        box = page.locator("#try")
        for selector, text in (("h3", "Title <img src=x onerror=alert(1)>"), ("strong", "bold"), ("em", "leaning"),
                               ("p code", "code <b>"), ("blockquote p", "quoted"), ("ol li", "inner"),
                               ("pre code", "if (a < b) { c(); }"), ("td >> nth=1", "2")):
            self.assertEqual(box.locator(selector).first.inner_text(), text, selector)
        self.assertEqual(box.locator("ul > li").count(), 2)
        links = box.locator("a")
        self.assertEqual(links.count(), 1)
        self.assertEqual(links.first.get_attribute("href"), "https://example.org/a")
        self.assertEqual(box.locator("img, script, iframe").count(), 0)
        self.assertIn("<script>alert(2)</script>", box.inner_text())
        self.keep(page, "markdown")

    def test_a_phone_shows_all_of_it(self):
        page = self.open(width=390)
        expect(page.locator("#list")).to_be_hidden()
        page.click("#show-list")
        expect(page.locator("#list")).to_be_visible()
        page.keyboard.press("Escape")
        self.set(page, temperature=0, max_tokens=20)
        self.keep(page, "phone-settings")
        page.click("#show-settings")
        self.say(page, "hello from a phone")
        self.answered(page)
        self.keep(page, "phone")
        self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), 390)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
