"""The dashboard in a real browser, on a real coordinator with real workers and a real run."""

import json
import os
import re
import shutil
import urllib.request
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api")

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
HOSTILE = "<img src=x onerror=alert(1)>"
SUITE = f"""
import pathlib
import pytest

HERE = pathlib.Path(__file__).parent

@pytest.mark.parametrize("number", range(30))
def test_ok(number):
    pass

@pytest.mark.parametrize("name", [{HOSTILE!r}, '"}};alert(1)//', "javascript:alert(1)", "{{{{7*7}}}}"])
def test_hostile(name):
    print("<script>alert(2)</script>", name)
    assert (HERE / "mended").exists(), "<b>not mended</b>"

@pytest.mark.skip(reason="not today")
def test_skipped():
    pass

@pytest.mark.fleet(resources={{"licence": 1}})
def test_licence():
    pass
"""
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
    path = chromium_path()
    with playwright.sync_playwright() as driver:
        started = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield started
        started.close()


class Screen:
    """One browser window that is logged in; it keeps everything that should not have happened."""

    def __init__(self, browser, fleet, theme="light"):
        self.url = fleet.url.replace("ws://", "http://")
        self.token = (fleet.directory / "data" / "token").read_text().strip()
        self.troubles = []
        self._context = browser.new_context(color_scheme=theme, viewport={"width": 1280, "height": 900})
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

    def wait(self, text):
        self.page.wait_for_selector(f"main >> text={text}")

    def all_troubles(self):
        return self.troubles + self.page.evaluate("window.violations")

    def close(self):
        self._context.close()


@pytest.fixture
def screen(browser, fleet):
    made = []

    def make(theme="light"):
        made.append(Screen(browser, fleet, theme))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def ran(fleet):
    """A fleet with two workers after a run in which something failed; the id of the run."""
    (fleet.suite / "test_it.py").write_text(SUITE)
    fleet.worker("box-a", "--resource", "licence=1", "--label", f"rack={HOSTILE.replace('=', ':')}")
    fleet.worker("box-b")
    status, output, _ = fleet.run()
    assert status == 1, output
    return fleet


def run_id_of(screen):
    return screen.ask("/runs")["items"][0]["run_id"]


def pages_of(screen):
    run_id = run_id_of(screen)
    failed = screen.ask(f"/runs/{run_id}/tasks?verdict=failed")["items"][0]["task_id"]
    quoted = urllib.request.quote(failed, safe="")
    return ["/", "/runs", f"/runs/{run_id}", f"/runs/{run_id}/tasks/{quoted}", "/workers", "/workers/box-a", "/tests",
            "/tests?view=slow", "/tests?view=all", "/tests?view=matrix", f"/tests/{quoted}", "/queue", "/alerts", "/nowhere"]  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_loads_without_errors_and_can_be_used_by_everybody(ran, screen, theme):
    shown = screen(theme)
    assert shown.page.evaluate("document.documentElement.dataset.theme") == theme
    for path in pages_of(shown):
        shown.show(path)
        shown.page.wait_for_selector("main h1, main .empty")
        assert not shown.page.query_selector("main [role=alert]:has-text('could not be loaded')"), path
        shown.page.evaluate(AXE.read_text())
        found = shown.page.evaluate(
            "axe.run(document, {resultTypes: ['violations']}).then(found => found.violations.map("
            "each => ({id: each.id, impact: each.impact, nodes: each.nodes.map(node => node.html.slice(0, 200))})))"
        )
        serious = [each for each in found if each["impact"] in ("serious", "critical")]
        assert not serious, (path, serious)
    assert shown.all_troubles() == []


def test_numbers_agree_with_the_api_and_filters_stay_in_the_link(ran, screen):
    shown = screen()
    run_id = run_id_of(shown)
    told = shown.ask(f"/runs/{run_id}")
    shown.show(f"/runs/{run_id}")
    shown.wait(f"{told['states']['finished']} / {told['tasks']}")
    failed = told["counts"]["failed"]
    assert failed == 4
    shown.page.select_option("select[aria-label=Status]", "failed")
    shown.wait(f"{failed} tests")
    assert len(shown.page.query_selector_all("section:has(h2:text-is('Tests')) tbody tr")) == failed
    shown.page.reload()
    shown.wait(f"{failed} tests")
    assert shown.page.input_value("select[aria-label=Status]") == "failed"
    shown.page.fill("input[aria-label='Filter tests by name']", "alert(1)")
    shown.wait("3 tests")
    shown.show("/")
    status = shown.ask("/status")
    shown.page.wait_for_selector(f".tile:has-text('Workers') .value:text-is('{status['workers_total']}')")


def test_a_test_shows_its_failure_as_text_and_how_to_run_it_alone(ran, screen):
    shown = screen()
    shown.show(f"/runs/{run_id_of(shown)}")
    shown.page.click("details summary >> nth=0")
    shown.wait("not mended")
    assert HOSTILE in shown.page.inner_text("main")
    assert "python -m pytest" in shown.page.inner_text(".command")
    shown.page.click("details .body a >> nth=0")
    shown.wait("Attempt 1")
    assert "<script>alert(2)</script>" in shown.page.inner_text("main")
    assert not shown.page.query_selector("main script, main img, main b")
    assert shown.all_troubles() == []


def test_a_group_of_failures_shows_every_attempt_of_the_test_that_is_chosen(fleet, screen):
    (fleet.suite / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('number', range(2))\n"
        "@pytest.mark.fleet(retries=1)\n"
        "def test_bad(number):\n    print(f'evidence of {number}')\n    assert number > 5\n"
    )
    fleet.worker("box-a")
    fleet.run()
    shown = screen()
    shown.show(f"/runs/{run_id_of(shown)}")
    shown.page.click("details summary >> nth=0")
    shown.page.wait_for_selector(".evidence >> text=attempt 2")
    assert shown.page.inner_text(".evidence").count("evidence of 0") >= 2
    shown.page.click("details .plain button >> nth=1")
    shown.page.wait_for_selector(".evidence >> text=evidence of 1 >> nth=1")
    assert "evidence of 0" not in shown.page.inner_text(".evidence")
    assert shown.all_troubles() == []


def test_a_link_to_another_filter_of_the_same_page_is_followed(ran, screen):
    shown = screen()
    shown.show("/tests")
    shown.show("/tests?view=matrix&by=os")
    shown.wait("Test by os")
    # What machines of this fleet are told apart by, and nothing else.
    shown.page.wait_for_selector("select[aria-label='Columns of the matrix'] option[value=rack]", state="attached")
    shown.page.go_back()
    shown.page.wait_for_selector("button[aria-pressed=true]:text-is('Flaky')")


def test_what_happened_to_a_worker_has_times_of_day(ran, screen):
    shown = screen()
    shown.show("/workers/box-a")
    moment = shown.page.get_attribute(".story time >> nth=0", "datetime")
    assert moment[:2] == "20", moment
    assert shown.all_troubles() == []


def test_a_worker_is_drained_and_resumed_after_a_question(ran, screen):
    shown = screen()
    shown.show("/workers/box-b")
    shown.page.click("text=Drain")
    shown.page.click("dialog >> text=Leave it")
    assert shown.ask("/workers/box-b")["state"] == "healthy"
    shown.page.click("text=Drain")
    shown.page.click("dialog button[value=yes]")
    shown.wait("draining")
    assert shown.ask("/workers/box-b")["state"] == "draining"
    shown.page.click(".actions >> text=Resume")
    shown.page.click("dialog button[value=yes]")
    shown.wait("healthy")
    shown.page.click(".actions >> text=Quarantine")
    shown.page.fill("dialog input", "bad memory")
    shown.page.click("dialog button[value=yes]")
    shown.wait("quarantined")
    assert "bad memory" in shown.ask("/workers/box-b")["reason"]
    shown.page.click(".actions >> text=Release")
    shown.page.click("dialog button[value=yes]")
    shown.page.wait_for_selector(".page-head .badge:has-text('healthy'), .page-head .badge:has-text('probation')")
    assert shown.all_troubles() == []


def test_a_run_is_watched_cancelled_and_its_failures_run_again(fleet, screen):
    (fleet.suite / "test_it.py").write_text(SUITE)
    fleet.worker("box-a")
    client = fleet.client()
    shown = screen()
    shown.page.wait_for_selector(".progress[aria-label*='of 36']")
    shown.page.click("main a:has-text('pytest') >> nth=0")
    shown.wait("35 / 36")
    shown.show("/queue")
    shown.wait("no worker has licence")
    shown.page.go_back()
    shown.page.click("text=Cancel run")
    shown.page.fill("dialog input", "enough")
    shown.page.click("dialog button[value=yes]")
    shown.wait("Cancelled: enough")
    client.communicate(timeout=TIMEOUT_S)
    (fleet.suite / "mended").touch()
    fleet.worker("box-b", "--resource", "licence=1")
    shown.page.click("text=/Run 5 again/")
    shown.page.click("dialog button[value=yes]")
    shown.page.wait_for_selector(".page-head .badge:has-text('passed')")
    shown.wait("5 passed")
    assert shown.all_troubles() == []


def test_a_lost_connection_is_shown_and_heals_itself(ran, screen):
    shown = screen()
    port = ran.url.rsplit(":", 1)[1]
    ran.coordinator.terminate()
    ran.coordinator.communicate(timeout=TIMEOUT_S)
    shown.page.wait_for_selector(".banner:visible")
    ran.start_coordinator(port)
    # The session ended with the coordinator that opened it: the page asks for the token again, at the same place.
    shown.page.fill("#token", shown.token)
    shown.page.click("text=Log in >> nth=-1")
    shown.page.wait_for_selector(".link-state:text-is('Live')")
    shown.page.wait_for_selector(".worker-cell:has-text('box-a')")


def test_a_one_use_link_opens_a_session_once(ran, browser, screen):
    shown = screen()
    request = urllib.request.Request(
        f"{shown.url}/api/v1/login-codes",
        method="POST",
        data=b"{}",
        headers={"Authorization": f"Bearer {shown.token}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:
        code = json.load(answer)["code"]
    for is_first in (True, False):
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"{shown.url}/login#code={code}")
        if is_first:
            page.wait_for_selector(".link-state:text-is('Live')")
            assert "code" not in page.url
            cookie = context.cookies()[0]
            assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        else:
            page.wait_for_selector("text=/used already/")
        context.close()


def test_a_small_screen_and_the_keyboard_are_enough(ran, screen):
    shown = screen()
    shown.page.set_viewport_size({"width": 360, "height": 740})
    for path in ("/", "/workers", f"/runs/{run_id_of(shown)}"):
        shown.show(path)
        width = shown.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 360, (path, width)
    shown.page.keyboard.press("Home")
    shown.show("/")
    shown.page.evaluate("document.activeElement.blur()")
    shown.page.keyboard.press("Tab")
    assert re.search("Skip to the page", shown.page.evaluate("document.activeElement.textContent"))
    shown.page.keyboard.press("Enter")
    assert shown.page.evaluate("document.activeElement.id") == "main"
