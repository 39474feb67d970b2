"""What an operator does with the dashboard all day: with the keyboard, on a phone, while everything changes."""

import re
import urllib.parse

import pytest

SUITE = """
import pathlib
import pytest

@pytest.mark.parametrize("number", range(12))
def test_ok(number):
    pass

@pytest.mark.parametrize("number", range(2))
def test_alike(number):
    assert number > 5, "too small"

@pytest.mark.fleet(retries=1)
def test_flaky():
    seen = pathlib.Path(__file__).with_name("seen")
    seen.write_text(seen.read_text() + "x" if seen.exists() else "x")
    assert len(seen.read_text()) % 2 == 0, "only every other time"
"""
FLAKY = "test_it.py::test_flaky"
FOCUSED = "document.activeElement?.getAttribute('aria-label') ?? document.activeElement?.textContent"


def after_a_run(fleet):
    """With two workers, after a run; one more worker was there and is lost."""
    (fleet.suite / "test_it.py").write_text(SUITE)
    fleet.worker("box-a", "--label", "rack=r1")
    fleet.worker("box-b", "--label", "rack=r2")
    gone = fleet.worker("box-gone")
    status, output, _ = fleet.run()
    assert status == 1, output
    gone.kill()
    gone.wait()
    return fleet


def wait_until_lost(shown):
    shown.show("/alerts")
    shown.page.wait_for_selector("tr:has-text('box-gone') >> text=lost")


def pages_of(shown):
    run, flaky = shown.run_id(), urllib.parse.quote(FLAKY, safe="")
    return ["/", "/runs", "/runs?state=finished", f"/runs/{run}", f"/runs/{run}/tasks/{flaky}", "/workers",
            "/workers/box-a", "/workers/box-gone", "/tests", "/tests?view=slow", "/tests?view=all",
            "/tests?view=matrix&by=rack", f"/tests/{flaky}?by=rack", "/queue", "/alerts"]  # fmt: skip


@pytest.mark.parametrize(
    ("theme", "width", "height"),
    [("light", 390, 844), ("dark", 390, 844), ("light", 640, 450)],
    ids=["phone", "phone at night", "200 % of zoom"],
)
def test_every_page_fits_a_small_screen_and_can_be_used_by_everybody(looked_at, screen, theme, width, height):
    shown = screen(looked_at, theme, width=width, height=height)
    wait_until_lost(shown)
    for path in pages_of(shown):
        shown.show(path)
        shown.page.wait_for_selector("main h1")
        shown.page.wait_for_selector("main .panel")
        assert shown.page.evaluate("document.documentElement.scrollWidth") <= width, path
        for entry in shown.page.query_selector_all(".nav a"):
            box = entry.bounding_box()
            assert 0 <= box["x"] <= width - box["width"], (path, entry.inner_text())
        assert not shown.violations_by_axe(), path
        untold = "[...document.querySelectorAll('main time')].filter(each => !each.title.includes('Z)')).length"
        assert shown.page.evaluate(untold) == 0, path
    assert shown.all_troubles() == []


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_an_empty_fleet_says_what_to_do(fleet, screen, theme):
    shown = screen(fleet, theme)
    for path, hint in {
        "/": "fleetest worker --coordinator",
        "/runs": "pytest --fleet",
        "/runs?state=cancelled&text=none": "pytest --fleet",
        "/workers": "fleetest worker --coordinator",
        "/workers?state=draining": "fleetest worker --coordinator",
        "/tests": "listed here when",
        "/tests?view=slow": "after the first one",
        "/tests?view=all": "after the first one",
        "/tests?view=matrix": "after the first one",
        "/queue": "by the reason",
        "/alerts": "Nothing to do",
    }.items():
        shown.show(path)
        shown.page.wait_for_selector(f"main .empty >> text=/{re.escape(hint)}/ >> visible=true")
        assert not shown.violations_by_axe(), path
    assert shown.all_troubles() == []


def test_what_is_nowhere_says_so_and_what_to_do(fleet, screen):
    shown = screen(fleet)
    shown.show("/workers/nobody")
    shown.wait("nobody is not here")
    shown.wait("--name nobody")
    shown.show("/tests/test_it.py%3A%3Atest_new")
    shown.wait("Not executed yet")


def test_a_worker_that_its_probe_holds_back_is_not_to_be_released(fleet, screen):
    fleet.worker("box-a", "--probe", "echo no licence server; false")
    shown = screen(fleet)
    shown.show("/workers/box-a")
    shown.wait("its probe failed: no licence server")
    shown.wait("It gets nothing until its probe passes.")
    buttons = shown.page.locator(".actions button")
    assert buttons.all_inner_texts() == ["Quarantine"]
    buttons.click()
    shown.page.click("dialog button[value=yes]")
    shown.page.wait_for_selector(".actions button:text-is('Release')")
    assert shown.all_troubles() == []


def test_a_worker_has_a_history_of_states_that_outlives_it(ran, screen):
    shown = screen(ran)
    shown.do("/workers/box-b/drain")
    shown.do("/workers/box-b/resume")
    shown.do("/workers/box-b/quarantine", {"reason": "its disk is full"})
    shown.show("/workers/box-b")
    shown.page.wait_for_selector(".states .state.quarantined")
    told = shown.ask("/workers/box-b/states")["spans"]
    assert [span["state"] for span in told] == ["healthy", "draining", "healthy", "quarantined"]
    drawn = "[...document.querySelectorAll('.states .state')].map(each => each.textContent)"
    assert shown.page.evaluate(drawn) == [span["state"] for span in told]
    assert "drained by the operator" in shown.page.get_attribute(".states .state.draining", "title")
    lines = [each.inner_text() for each in shown.page.query_selector_all(".story li")]
    assert len(lines) == len(told)
    assert "its disk is full" in lines[0]
    assert "joined" in lines[-1]
    shown.page.select_option("select[aria-label='How far back']", "hour")
    shown.page.reload()
    shown.page.wait_for_selector(".states .state.draining")
    assert shown.page.input_value("select[aria-label='How far back']") == "hour"

    wait_until_lost(shown)
    shown.show("/workers")
    shown.page.wait_for_selector("section:has(h2:text-is('Lost')) tr:has-text('its process died')")
    shown.page.click("tr:has-text('box-gone') a")
    shown.wait("box-gone is not here")
    shown.page.wait_for_selector(".states .state.lost")
    assert shown.page.evaluate(drawn)[0] == "healthy"
    ran.worker("box-gone")
    shown.page.wait_for_selector(".page-head .badge:has-text('healthy')")
    shown.page.wait_for_selector("main >> text=is not here", state="hidden")
    assert shown.page.evaluate(drawn)[-1] == "healthy"
    assert shown.all_troubles() == []


def test_the_keyboard_is_enough_to_drain_a_worker(ran, screen):
    shown = screen(ran)
    shown.show("/workers")
    shown.page.wait_for_selector("tr:has-text('box-a') >> text=Drain")
    press = shown.page.keyboard.press
    for _ in range(60):
        press("Tab")
        if shown.page.evaluate(FOCUSED) == "Drain box-a":
            break
    assert shown.page.evaluate(FOCUSED) == "Drain box-a"
    press("Enter")
    shown.page.wait_for_selector("dialog[open]")
    press("Escape")
    shown.page.wait_for_selector("dialog", state="detached")
    assert shown.ask("/workers/box-a")["state"] == "healthy"
    assert shown.page.evaluate(FOCUSED) == "Drain box-a"
    press("Enter")
    shown.page.wait_for_selector("dialog[open]")
    for _ in range(6):
        if shown.page.evaluate("document.activeElement.value") == "yes":
            break
        press("Tab")
    press("Enter")
    shown.page.wait_for_selector("tr:has-text('box-a') >> text=draining")
    assert shown.ask("/workers/box-a")["state"] == "draining"
    assert shown.all_troubles() == []


def test_what_is_focused_stays_while_the_numbers_change(make_fleet, screen):
    """Everything around it is drawn anew several times: told by the row's own times, which heartbeats change."""
    shown = screen(after_a_run(make_fleet("--heartbeat-interval-s", "2")))
    shown.show("/workers")
    shown.page.focus("[aria-label='Drain box-a']")
    seen = "[...document.querySelectorAll('tr')].find(each => each.textContent.includes('box-a')).querySelector('time').dateTime"
    for _ in range(2):
        before = shown.page.evaluate(seen)
        shown.page.wait_for_function(f"before => {seen} !== before", arg=before)
        assert shown.page.evaluate(FOCUSED) == "Drain box-a"
    shown.show("/alerts")
    shown.page.wait_for_selector("tr:has-text('box-gone') button")
    shown.page.focus("tr:has-text('box-gone') button")
    shown.do("/workers/box-b/quarantine")
    shown.page.wait_for_selector("tr:has-text('box-b')")
    assert "box-gone" in shown.page.evaluate(FOCUSED)


def test_a_group_of_the_queue_stays_as_it_is_while_its_numbers_change(fleet, screen):
    fleet.worker("box-a")
    shown = screen(fleet)

    def submit(title, *commands):
        listed = [{"name": f"{title}-{number}", "argv": list(argv)} for number, argv in enumerate(commands)]
        shown.do("/runs", {"title": title, "suites": [{"kind": "commands", "commands": listed}]})

    submit("long", ["sleep", "600"])
    shown.page.wait_for_selector(".tile:has-text('Running') .value:text-is('1')")
    submit("short", *[["true"]] * 40)
    shown.show("/queue")
    summary = shown.page.wait_for_selector("summary:has-text('others wait')")
    before = summary.inner_text()
    summary.press("Enter")
    shown.page.wait_for_selector("details:has(summary:has-text('others wait')):not([open])")
    submit("more", *[["true"]] * 40)
    shown.page.wait_for_function("before => document.querySelector('summary').innerText !== before", arg=before)
    assert shown.page.evaluate("document.activeElement.localName") == "summary"
    assert not shown.page.query_selector("details[open]")
    for run in shown.ask("/runs?state=live")["items"]:
        shown.do(f"/runs/{run['run_id']}/cancel", {"kill": True})
    shown.page.wait_for_selector("main >> text=Nothing waits")
    shown.show("/runs?state=live")
    shown.page.wait_for_selector("main .empty >> visible=true")
    assert shown.all_troubles() == []


def test_an_alert_is_open_then_acknowledged_then_cleared(ran, screen):
    shown = screen(ran)
    wait_until_lost(shown)
    row = "tr:has-text('box-gone')"
    shown.page.wait_for_selector(f"{row} .badge:has-text('open')")
    shown.page.wait_for_selector(".nav .tag:text-is('1')")
    shown.page.click(f"{row} button")
    shown.page.wait_for_selector(f"{row} >> text=/by admin/")
    shown.page.wait_for_selector(f"{row} .badge:has-text('acknowledged')")
    shown.page.select_option("select[aria-label='State of alerts']", "acknowledged")
    shown.page.reload()
    shown.page.wait_for_selector(f"{row} .badge:has-text('acknowledged')")
    ran.worker("box-gone")
    shown.page.wait_for_selector("main .empty >> visible=true")
    shown.page.select_option("select[aria-label='State of alerts']", "cleared")
    shown.page.wait_for_selector(f"{row} .badge:has-text('cleared')")
    assert shown.all_troubles() == []


def test_a_run_shows_its_slowest_tests_and_each_failure_how_it_is_repeated(looked_at, screen):
    shown = screen(looked_at)
    run = shown.run_id()
    shown.show(f"/runs/{run}")
    slowest = shown.ask(f"/runs/{run}/tasks?sort=-duration&limit=5")["items"]
    shown.page.wait_for_selector(".bar-row.wide >> nth=4")
    drawn = [each.inner_text() for each in shown.page.query_selector_all(".bar-row.wide a")]
    assert drawn == [task["task_id"] for task in slowest]
    shown.page.click("summary:has-text('alike')")
    for number in (0, 1):
        shown.page.click(f"details .plain button:has-text('test_alike[{number}]')")
        shown.page.wait_for_selector(f".evidence .command:has-text('test_alike[{number}]')")
    shown.page.click("text=All, slowest first")
    shown.page.wait_for_selector("th[aria-sort=descending]:has-text('Duration')")
    assert shown.all_troubles() == []


def test_failures_that_could_not_be_loaded_are_loaded_later(ran, screen):
    shown = screen(ran)
    wrong = []

    def fail_once(route):
        if wrong:
            route.continue_()
        else:
            wrong.append(route.request.url)
            route.fulfill(status=503, json={"code": "history_busy", "detail": "the history is busy"})

    shown.page.route("**/failures", fail_once)
    shown.show(f"/runs/{shown.run_id()}")
    shown.wait("the history is busy")
    # Whatever happens to any run makes the page look again.
    ran.run("-k", "test_ok")
    shown.wait("2 tests alike")


def test_the_timeline_is_zoomed_with_keys(looked_at, screen):
    shown = screen(looked_at)
    shown.show(f"/runs/{shown.run_id()}")
    shown.page.focus(".timeline canvas")
    shown.page.wait_for_selector(".timeline canvas[aria-label*='16 tests']")
    shown.page.keyboard.press("+")
    shown.page.wait_for_selector(".timeline canvas[aria-label*='shown from']")
    shown.page.keyboard.press("0")
    shown.page.wait_for_selector(".timeline canvas:not([aria-label*='shown from'])")


def test_the_matrix_begins_with_the_tests_that_failed_most(looked_at, screen):
    shown = screen(looked_at)
    shown.show("/tests?view=matrix&by=rack")
    shown.page.wait_for_selector("tbody td.name >> nth=14")
    rows = [each.inner_text() for each in shown.page.query_selector_all("tbody td.name")]
    assert len(rows) == 15
    assert rows[:3] == ["test_it.py::test_alike[0]", "test_it.py::test_alike[1]", FLAKY]


def test_a_flaky_test_shows_its_evidence_over_time_and_by_hardware(looked_at, screen):
    shown = screen(looked_at)
    shown.show("/tests")
    shown.page.wait_for_selector("tr:has-text('test_flaky') >> text=1 of 1 runs")
    shown.page.click("tr:has-text('test_flaky') a")
    shown.page.wait_for_selector(".tile:has-text('Both verdicts in one run') .value:text-is('1')")
    assert len(shown.page.query_selector_all(".strip > span")) == 2
    assert "box-" in shown.page.get_attribute(".strip > span.bad", "title")
    shown.page.hover(".chart .u-over")
    shown.page.wait_for_selector(".chart-tip:has-text('test_flaky'), .chart-tip:has-text('on box-')")
    shown.page.select_option("select[aria-label='Which machines']", "rack")
    shown.page.reload()
    cells = shown.ask(f"/history/matrix?by=rack&text={urllib.parse.quote(FLAKY)}")["cells"]
    for cell in cells:
        shown.page.wait_for_selector(f"section:has(h2:text-is('By hardware')) td:text-is('{cell['column']}')")
    assert shown.all_troubles() == []
