"""The operator's commands against a real coordinator, worker and run."""

import json
import os
import re
import signal
from xml.etree import ElementTree

from support.terminal import on_terminal

from fleetest.errors import ExitStatus

TIMEOUT_S = 90.0
SUITE = """
import pathlib
import pytest

HERE = pathlib.Path(__file__).parent

def test_ok():
    pass

def test_sometimes():
    print("printed by the test")
    assert (HERE / "mended").exists(), "not mended yet"

@pytest.mark.fleet(resources={"licence": 1})
def test_licence():
    pass
"""


def asked_until(ask, *args: str, holds) -> str:
    """Asks until the answer is as it must become; fails by the test's own time limit."""
    for _ in range(200):
        _, text = ask(*args)
        if holds(text):
            return text
    raise AssertionError(text)


def test_an_operator_finds_out_what_waits_and_mends_it(fleet, ask):
    (fleet.suite / "test_it.py").write_text(SUITE)
    fleet.worker("box-a")
    client = fleet.client()
    reason = asked_until(ask, "why", "licence", holds=lambda text: "no worker has licence" in text)
    assert reason.startswith("test_it.py::test_licence: ")
    assert "1  no worker has licence" in ask("top")[1]
    assert ask("workers", "box")[1].splitlines()[0].split() == ["worker", "box-a"]

    assert ask("drain", "box-a") == (0, "worker box-a gets no new work\n")
    assert json.loads(ask("workers", "--json")[1])["workers"][0]["state"] == "draining"
    ask("resume", "box-a")
    assert json.loads(ask("workers", "--json")[1])["workers"][0]["state"] == "healthy"

    fleet.worker("box-b", "--resource", "licence=1")
    client.communicate(timeout=TIMEOUT_S)
    status, text = ask("show")
    assert status == ExitStatus.TESTS_FAILED
    assert "2 passed, 1 failed" in text
    assert [line.split()[1] for line in text.splitlines() if line.startswith("owner")] == ["submit"]
    assert "alone: cd" in text
    assert "printed by the test" in ask("logs", "sometimes")[1]

    (fleet.suite / "mended").touch()
    status, text = ask("rerun", "--failed")
    assert status == 0, text
    again = text.split()[3].rstrip(":")
    asked_until(ask, "runs", holds=lambda text: any(line.startswith(f"{again}  passed") for line in text.splitlines()))
    told = json.loads(ask("show", again, "--json")[1])
    assert (told["tasks"], told["counts"]["passed"]) == (1, 1)


def test_a_run_is_cancelled_from_elsewhere(fleet, ask):
    """All that ran passed; the run is no success all the same, for nobody who asks."""
    (fleet.suite / "test_it.py").write_text(SUITE)
    (fleet.suite / "mended").touch()
    fleet.worker("box-a")
    client = fleet.client()
    asked_until(ask, "why", "licence", holds=lambda text: "no worker has" in text)
    status, text = ask("cancel", "latest", "--reason", "wrong branch")
    assert status == 0, text
    output, _ = client.communicate(timeout=TIMEOUT_S)
    assert client.returncode == ExitStatus.TESTS_FAILED, output
    assert "1 test cancelled: wrong branch" in output
    status, text = ask("show")
    assert status == ExitStatus.TESTS_FAILED
    assert "wrong branch" in text
    assert ask("cancel", "latest")[0] == ExitStatus.USAGE_ERROR


def test_a_run_is_cancelled_before_any_worker_collected_it(fleet, ask):
    (fleet.suite / "test_it.py").write_text(SUITE)
    client = fleet.client()
    asked_until(ask, "runs", holds=lambda text: "collecting" in text)
    ask("cancel", "latest", "--reason", "wrong branch")
    output, _ = client.communicate(timeout=TIMEOUT_S)
    assert client.returncode == ExitStatus.TESTS_FAILED, output
    assert "cancelled before its tests were known" in output


def test_a_run_is_exported_the_same_from_coordinator_and_history(fleet, ask, tmp_path):
    (fleet.suite / "test_it.py").write_text(SUITE)
    fleet.worker("box-a", "--resource", "licence=1")
    fleet.run()
    page = tmp_path / "run.html"
    assert ask("export", "--format", "html", "-o", str(page)) == (0, "")
    assert "not mended yet" in page.read_text()
    junit = ElementTree.fromstring(ask("export", "--format", "junit")[1])
    assert (junit.get("tests"), junit.get("failures")) == ("3", "1")
    live = json.loads(ask("export", "--format", "json")[1])
    history = str(fleet.directory / "data" / "history.duckdb")
    fleet.coordinator.terminate()
    fleet.coordinator.communicate(timeout=TIMEOUT_S)
    past = json.loads(ask("export", "--history", history, "--format", "json")[1])
    for told in (live, past):
        assert told["counts"] == {"passed": 2, "failed": 1}
    by_id = {told["task_id"]: told for told in past["tasks"]}
    for told in live["tasks"]:
        same = by_id[told["task_id"]]
        assert (told["verdict"], told["worker"], len(told["attempts"])) == (
            same["verdict"],
            same["worker"],
            len(same["attempts"]),
        )


def test_the_doctor_says_what_to_do(fleet, ask):
    status, text = ask("doctor")
    assert status == 0, text
    assert "none has joined" in text
    fleet.worker("box-a")
    assert "1 with 1 slots" in ask("doctor")[1]
    findings = {finding["name"]: finding for finding in json.loads(ask("doctor", "--json")[1])}
    assert findings["clocks"]["state"] == "ok"
    assert findings["disk"]["detail"].endswith(f" for {fleet.directory / 'data'}")
    fleet.coordinator.terminate()
    fleet.coordinator.communicate(timeout=TIMEOUT_S)
    status, text = ask("doctor", "--coordinator", fleet.url)
    assert status == ExitStatus.TESTS_FAILED
    assert "cannot reach the coordinator" in text


def test_mistakes_are_one_line_with_a_documented_status(fleet, ask):
    assert ask("show") == (
        ExitStatus.USAGE_ERROR,
        "fleetest: there is no run yet: start one with pytest --fleet, or fleetest run\n",
    )
    status, text = ask("drain", "nobody")
    assert (status, text) == (
        ExitStatus.USAGE_ERROR,
        "fleetest: no worker begins with 'nobody': see fleetest workers\n",
    )
    wrong = fleet.directory / "wrong"
    wrong.write_text("x" * 43)
    wrong.chmod(0o600)
    status, text = ask("status", "--token-file", str(wrong))
    assert status == ExitStatus.REFUSED
    assert len(text.splitlines()) == 1


def test_top_is_left_by_q_also_while_the_coordinator_hangs_and_by_no_arrow(fleet):
    """The screen may be old then, but nobody is kept in front of it until the connection is given up."""
    fleet.worker("box-a")
    options = ("--coordinator", fleet.url, "--data", str(fleet.directory / "data"), "--interval-s", "0.2")

    def is_drawn_anew(drawn: int):
        return lambda text: text.count("box-a") > drawn

    with on_terminal(fleet.directory, "top", *options) as top:
        top.read_until(is_drawn_anew(0))
        top.press(b"\x1b[A")
        top.read_until(is_drawn_anew(top.text.count("box-a") + 1))
        os.kill(fleet.coordinator.pid, signal.SIGSTOP)
        try:
            top.press(b"q")
            assert top.finish() == 0
        finally:
            os.kill(fleet.coordinator.pid, signal.SIGCONT)
        assert "Traceback" not in top.text
        assert re.search(r"cannot reach|did not answer|timed out", top.text) is None, "nobody waited for that"
