"""A real browser, logged in at a real coordinator."""

import json
import os
import shutil
import urllib.request
from pathlib import Path

import pytest

TIMEOUT_S = 60.0
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
AXE = Path(__file__).with_name("vendor") / "axe.min.js"
WATCH = """
window.violations = [];
document.addEventListener("securitypolicyviolation", (event) => window.violations.push(event.violatedDirective + " " + event.blockedURI));
"""


def chromium_path():
    named = os.environ.get("FLEETEST_CHROMIUM")
    found = named or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None and os.environ.get("FLEETEST_REQUIRE_BROWSER") == "1":
        pytest.fail("FLEETEST_REQUIRE_BROWSER=1, and there is no Chromium on this machine")
    if found is None:
        pytest.skip("there is no Chromium on this machine (Debian: apt-get install chromium)")
    return found


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = chromium_path()
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


class Screen:
    """One browser window that is logged in; it keeps everything that should not have happened."""

    def __init__(self, browser, fleet, theme="light", width=1280, height=900):
        self.url = fleet.url.replace("ws://", "http://")
        self.token = (fleet.directory / "data" / "token").read_text().strip()
        self.troubles = []
        self._context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": height})
        self.page = self._context.new_page()
        self.page.set_default_timeout(TIMEOUT_S * 1000)
        self.page.add_init_script(WATCH)
        self.page.goto(self.url)
        self.page.fill("#token", self.token)
        self.page.click("text=Log in >> nth=-1")
        self.page.wait_for_selector(".page")
        self.page.wait_for_selector(".link-state:text-is('Live')")
        # The login page is answered with 401, which a browser counts as an error: watched from here on.
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.troubles.append(f"error: {error}"))
        self.page.on("dialog", self._dialog)

    def _hear(self, message):
        if message.type in ("error", "warning"):
            self.troubles.append(f"console: {message.text}")

    def _dialog(self, dialog):
        self.troubles.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    def show(self, path):
        self.page.evaluate("path => { location.hash = path; }", path)
        self.page.wait_for_load_state("networkidle")

    def ask(self, path):
        request = urllib.request.Request(f"{self.url}/api/v1{path}", headers={"Authorization": f"Bearer {self.token}"})
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)

    def do(self, path, body=None):
        """What somebody else does to the fleet meanwhile."""
        request = urllib.request.Request(
            f"{self.url}/api/v1{path}",
            data=json.dumps(body or {}).encode(),
            headers={"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
            return json.load(answer)

    def violations_by_axe(self):
        """Serious accessibility violations of what is shown."""
        self.page.evaluate(AXE.read_text())
        found = self.page.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map("
            "each => ({id: each.id, impact: each.impact, nodes: each.nodes.map(node => node.html.slice(0, 200))})))"
        )
        return [each for each in found if each["impact"] in ("serious", "critical")]

    def wait(self, text):
        self.page.wait_for_selector(f"main >> text={text}")

    def run_id(self):
        """Of the newest run."""
        return self.ask("/runs")["items"][0]["run_id"]

    def all_troubles(self):
        return self.troubles + self.page.evaluate("window.violations")

    def close(self):
        self._context.close()


@pytest.fixture
def screen(browser):
    """Opens a window on this fleet."""
    made = []

    def make(fleet, theme="light", **size):
        made.append(Screen(browser, fleet, theme, **size))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def ran(request, fleet):
    """After the run of this file's tests; the test may change something."""
    return request.module.after_a_run(fleet)


@pytest.fixture(scope="module")
def looked_at(request, shared_fleet):
    """Like ``ran``, and one for all tests of the file that change nothing."""
    return request.module.after_a_run(shared_fleet)
