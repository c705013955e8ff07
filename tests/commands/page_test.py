# SPDX-License-Identifier: Apache-2.0
# ctest: timeout=120
"""The pages of HTML that the verbs write, in a browser: xray -o and inspect --report, light and dark. Not here: the
numbers in them (insight_test.py, inspect_test.py)."""
import os
import re
import sys
import tempfile
import unittest
from pathlib import Path

from playwright.sync_api import sync_playwright

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))
from tiny_models import make_model, make_text, make_tokenizer, run  # noqa: E402

HYDRALM = os.path.abspath(sys.argv[1])
CHROMIUM = "/usr/bin/chromium"  # of the Debian package
PROMPT = make_text(5, 40) + " <b>&amp;\"</b>"


def channels(colour):
    """'rgb(22, 24, 28)' as numbers."""
    return [float(number) for number in re.findall(r"[\d.]+", colour)[:3]]


class Pages(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temporary = tempfile.TemporaryDirectory()
        cls.folder = cls.temporary.name
        tokenizer = make_tokenizer(HYDRALM, cls.folder)
        cls.model = make_model(HYDRALM, f"{cls.folder}/hydra", "hydra", tokenizer)
        cls.playwright = sync_playwright().start()
        cls.browser = cls.playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.playwright.stop()
        cls.temporary.cleanup()

    def open(self, path, scheme="light", width=1200):
        """The page, on which nothing may go wrong and nothing may be fetched."""
        page = self.browser.new_page(color_scheme=scheme, viewport={"width": width, "height": 900})
        self.addCleanup(page.close)
        faults, asked = [], []
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda said: faults.append(said.text) if said.type in ("error", "warning") else None)
        page.on("request", lambda request: asked.append(request.url))
        page.goto(f"file://{path}")
        self.addCleanup(lambda: self.assertEqual((faults, asked), ([], [f"file://{path}"])))
        return page

    def assert_readable(self, page, selector):
        """Text and what is behind it differ by much, in the colours of the scheme."""
        colours = page.eval_on_selector(
            selector, "e => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor]")
        text, back = map(channels, colours)
        self.assertGreater(abs(sum(text) - sum(back)), 300, colours)
        return sum(back) / 3

    def test_an_xray_answers_the_pointer(self):
        path = f"{self.folder}/x.html"
        made = run(HYDRALM, "xray", "-m", self.model, "-p", PROMPT, "-n", "6", "--temp", "0", "-q", "-o", path)
        self.assertEqual(made.returncode, 0, made)
        for scheme, is_scheme in (("light", lambda grey: grey > 200), ("dark", lambda grey: grey < 60)):
            page = self.open(path, scheme)
            self.assertTrue(is_scheme(self.assert_readable(page, "h1")))
            tokens = page.query_selector_all("#text button")
            text = "".join(token.text_content() for token in tokens).replace("\u21b5", "")
            self.assertTrue(text.startswith(PROMPT), text)
            self.assertEqual(len(page.query_selector_all("#text button.generated")), 6)
            canvas = page.query_selector("#map canvas")
            box = canvas.bounding_box()
            self.assertGreater(box["width"] * box["height"], 1000)
            drawn = page.evaluate("""() => {
                const c = document.querySelector('#map canvas');
                const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;
                const seen = new Set();
                for (let i = 0; i < d.length; i += 4) seen.add(d[i] + ',' + d[i + 1] + ',' + d[i + 2]);
                return seen.size; }""")
            self.assertGreater(drawn, 5)  # colours of the map
            page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            self.assertTrue(page.is_visible("#tip"))
            self.assertTrue(page.text_content("#tip").strip())
            before = page.text_content("#which")
            tokens[3].click()
            self.assertNotEqual(page.text_content("#which"), before)
            self.assertGreater(len(page.query_selector_all("#detail tr")), 2)
            for option in page.query_selector_all("#what option"):
                page.select_option("#what", option.get_attribute("value") or option.text_content())
            if pages := os.environ.get("PAGES"):  # to look at
                page.screenshot(path=f"{pages}/xray-{scheme}.png", full_page=True)

    def test_an_account_has_plots_and_fits_a_narrow_window(self):
        path = f"{self.folder}/a.html"
        made = run(HYDRALM, "inspect", "--preset", "hydra-1.6b", "--report", path, "--json")
        self.assertEqual(made.returncode, 0, made)
        for scheme, width in (("light", 1200), ("dark", 1200), ("light", 420)):
            page = self.open(path, scheme, width)
            self.assert_readable(page, "td")
            self.assertIn("1,625,378,106", page.text_content("body"))
            plots = page.query_selector_all("svg")
            self.assertEqual(len(plots), 4)
            for plot in plots:
                self.assertEqual(len(plot.query_selector_all("path[class^=line]")), 6)  # three lines, three keys
                outside = plot.evaluate("""svg => [...svg.querySelectorAll('text, path')].filter(e => {
                    const a = e.getBoundingClientRect(), b = svg.getBoundingClientRect();
                    return a.left < b.left - 1 || a.right > b.right + 1 || a.top < b.top - 1 || a.bottom > b.bottom + 1;
                }).map(e => e.outerHTML)""")
                self.assertEqual(outside, [])
            # Tables scroll within themselves, the page does not.
            self.assertLessEqual(page.evaluate("document.documentElement.scrollWidth"), width)
            if pages := os.environ.get("PAGES"):
                page.screenshot(path=f"{pages}/account-{scheme}-{width}.png", full_page=True)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
