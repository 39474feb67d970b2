"""The dashboard in a real browser, on a real coordinator with real workers and a real run."""

import json
import re
import urllib.parse
import urllib.request

import pytest

TIMEOUT_S = 60.0
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


def after_a_run(fleet):
    """With two workers, after a run in which something failed."""
    (fleet.suite / "test_it.py").write_text(SUITE)
    fleet.worker("box-a", "--resource", "licence=1", "--label", f"rack={HOSTILE.replace('=', ':')}")
    fleet.worker("box-b")
    status, output, _ = fleet.run()
    assert status == 1, output
    return fleet


def pages_of(screen):
    run_id = screen.run_id()
    failed = screen.ask(f"/runs/{run_id}/tasks?verdict=failed")["items"][0]["task_id"]
    quoted = urllib.parse.quote(failed, safe="")
    return ["/", "/runs", f"/runs/{run_id}", f"/runs/{run_id}/tasks/{quoted}", "/workers", "/workers/box-a", "/tests",
            "/tests?view=slow", "/tests?view=all", "/tests?view=matrix", f"/tests/{quoted}", "/queue", "/alerts", "/nowhere"]  # fmt: skip


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_loads_without_errors_and_can_be_used_by_everybody(looked_at, screen, theme):
    shown = screen(looked_at, theme)
    assert shown.page.evaluate("document.documentElement.dataset.theme") == theme
    for path in pages_of(shown):
        shown.show(path)
        shown.page.wait_for_selector("main h1, main .empty")
        assert not shown.page.query_selector("main [role=alert]:has-text('could not be loaded')"), path
        serious = shown.violations_by_axe()
        assert not serious, (path, serious)
    assert shown.all_troubles() == []


def test_numbers_agree_with_the_api_and_filters_stay_in_the_link(looked_at, screen):
    shown = screen(looked_at)
    run_id = shown.run_id()
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


def test_a_test_shows_its_failure_as_text_and_how_to_run_it_alone(looked_at, screen):
    shown = screen(looked_at)
    shown.show(f"/runs/{shown.run_id()}")
    shown.page.click("details summary >> nth=0")
    shown.wait("not mended")
    assert HOSTILE in shown.page.inner_text("main")
    assert "python -m pytest" in shown.page.inner_text(".command")
    shown.page.click("details .body a >> nth=0")
    shown.wait("Attempt 1")
    assert "<script>alert(2)</script>" in shown.page.inner_text("main")
    assert not shown.page.query_selector("main script, main img, main b")
    assert shown.all_troubles() == []


def test_no_run_is_called_right_before_it_is_known_whether_more_failures_come(looked_at, screen):
    """The list of failures, asked before the first one, is there sooner than the run itself."""
    shown = screen(looked_at)
    run_id = shown.run_id()
    nothing = {"items": [], "next_cursor": None, "total": 0}
    held = []

    def hold(route):
        held.append(route)

    url = f"**/api/v1/runs/{run_id}"
    shown.page.route(f"{url}/failures", lambda route: route.fulfill(json=nothing))
    shown.page.route(url, hold)
    with shown.page.expect_request(url), shown.page.expect_response(f"{url}/failures"):
        shown.page.evaluate("path => { location.hash = path; }", f"/runs/{run_id}")
    held[0].continue_()
    shown.wait("None so far.")
    assert "was right" not in shown.page.inner_text("main")


def test_a_group_of_failures_shows_every_attempt_of_the_test_that_is_chosen(fleet, screen):
    (fleet.suite / "test_it.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('number', range(2))\n"
        "@pytest.mark.fleet(retries=1)\n"
        "def test_bad(number):\n    print(f'evidence of {number}')\n    assert number > 5\n"
    )
    fleet.worker("box-a")
    fleet.run()
    shown = screen(fleet)
    shown.show(f"/runs/{shown.run_id()}")
    shown.page.click("details summary >> nth=0")
    shown.page.wait_for_selector(".evidence >> text=attempt 2")
    assert shown.page.inner_text(".evidence").count("evidence of 0") >= 2
    shown.page.click("details .plain button >> nth=1")
    shown.page.wait_for_selector(".evidence >> text=evidence of 1 >> nth=1")
    assert "evidence of 0" not in shown.page.inner_text(".evidence")
    assert shown.all_troubles() == []


def test_a_link_to_another_filter_of_the_same_page_is_followed(looked_at, screen):
    shown = screen(looked_at)
    shown.show("/tests")
    shown.show("/tests?view=matrix&by=os")
    shown.wait("Test by os")
    # What machines of this fleet are told apart by, and nothing else.
    shown.page.wait_for_selector("select[aria-label='Columns of the matrix'] option[value=rack]", state="attached")
    shown.page.go_back()
    shown.page.wait_for_selector("button[aria-pressed=true]:text-is('Flaky')")


def test_what_happened_to_a_worker_has_times_of_day(looked_at, screen):
    shown = screen(looked_at)
    shown.show("/workers/box-a")
    moment = shown.page.get_attribute(".story time >> nth=0", "datetime")
    assert moment[:2] == "20", moment
    assert shown.all_troubles() == []


def test_a_worker_is_drained_and_resumed_after_a_question(ran, screen):
    shown = screen(ran)
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
    shown = screen(fleet)
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
    shown = screen(ran)
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


def test_a_one_use_link_opens_a_session_once(looked_at, browser, screen):
    shown = screen(looked_at)
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


def test_a_small_screen_and_the_keyboard_are_enough(looked_at, screen):
    shown = screen(looked_at)
    shown.page.set_viewport_size({"width": 360, "height": 740})
    for path in ("/", "/workers", f"/runs/{shown.run_id()}"):
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
