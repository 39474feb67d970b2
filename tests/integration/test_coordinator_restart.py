"""What an operator said, and what was found, holds after the coordinator was killed: real processes, a real disk."""

import json
import os
import signal
from datetime import datetime

import pytest

from fleetest.errors import ExitStatus

TIMEOUT_S = 90.0


def restart(fleet, *workers):
    """As after a power cut: nothing is said before the end. Returns when these workers are back."""
    fleet.coordinator.kill()
    fleet.coordinator.wait()
    fleet.start_coordinator(fleet.url.rpartition(":")[2])
    for worker in workers:
        while "connected to" not in worker.stdout.readline():
            pass


def states(ask):
    return {worker["worker_id"]: worker["state"] for worker in json.loads(ask("workers", "--json")[1])["workers"]}


def test_a_quarantine_and_a_drain_outlive_a_killed_coordinator(fleet, ask):
    (fleet.suite / "test_it.py").write_text("def test_it(): pass\n")
    bad, drained, good = (fleet.worker(name) for name in ("bad", "drained", "good"))
    assert ask("quarantine", "bad", "--reason", "memory errors")[0] == 0
    assert ask("drain", "drained")[0] == 0
    restart(fleet, bad, drained, good)
    assert states(ask) == {"bad": "quarantined", "drained": "draining", "good": "healthy"}
    assert "memory errors" in ask("alerts")[1]
    assert fleet.run()[0] == ExitStatus.OK

    # A machine that was rebooted is the same machine: its name is what is quarantined. A drain ends with the session.
    for worker in (bad, drained):
        worker.terminate()
        worker.wait()
    fleet.worker("bad")
    fleet.worker("drained")
    assert states(ask) == {"bad": "quarantined", "drained": "healthy", "good": "healthy"}
    assert ask("release", "bad") == (0, "worker bad is released\n")
    restart(fleet, good)
    assert "No open alerts" in ask("alerts")[1]


def test_a_drain_is_taken_back_while_its_worker_is_away(fleet, ask):
    """The worker lives and looks for its coordinator; the new one knows it by what the old one wrote down."""
    away = fleet.worker("away")
    assert ask("drain", "away")[0] == 0
    os.kill(away.pid, signal.SIGSTOP)
    try:
        restart(fleet)
        assert states(ask) == {}
        assert ask("resume", "awa")[0] == ExitStatus.USAGE_ERROR, "who is away is known by its full name"
        assert ask("resume", "away") == (0, "worker away gets work again\n")
        assert ask("resume", "away")[0] == ExitStatus.USAGE_ERROR, "nothing is left to take back"
    finally:
        os.kill(away.pid, signal.SIGCONT)
    while "connected to" not in away.stdout.readline():
        pass
    assert states(ask) == {"away": "healthy"}


def test_what_a_killed_coordinator_was_writing_is_removed_and_nothing_else(fleet):
    data = fleet.directory / "data"
    drafts = [data / f".{name}-0123456789abcdef" for name in ("fleet.json", "epoch", "tokens-used.json", "probe")]
    drafts.append(data / "submissions" / ".submission-0123456789abcdef")
    theirs = [data / ".fleet.json-backup", data / ".notes-0123456789abcdef", data / ".fleet.json"]
    (data / "submissions").mkdir(exist_ok=True)
    for path in drafts + theirs:
        path.write_text("half of it")
    (data / ".fleet.json-0123").mkdir()
    restart(fleet)
    assert [path for path in drafts if path.exists()] == []
    assert all(path.exists() for path in theirs)
    assert (data / ".fleet.json-0123").is_dir()


def test_a_worker_that_never_comes_back_is_released_by_its_name(fleet, ask):
    bad = fleet.worker("bad")
    assert ask("quarantine", "bad")[0] == 0
    bad.kill()
    bad.wait()
    restart(fleet)
    assert "bad" in ask("alerts")[1]
    assert ask("release", "bad") == (0, "worker bad is released\n")
    assert ask("release", "bad")[0] == ExitStatus.USAGE_ERROR
    fleet.worker("bad")
    assert states(ask) == {"bad": "healthy"}


def test_workers_that_share_a_name_keep_their_numbers(fleet, ask):
    first, second = fleet.worker("box"), fleet.worker("box")
    assert ask("quarantine", "box-2")[0] == 0
    restart(fleet, first, second)
    assert states(ask) == {"box": "healthy", "box-2": "quarantined"}
    first.terminate()
    first.wait()
    restart(fleet, second)
    assert states(ask) == {"box-2": "quarantined"}


def test_an_acknowledged_alert_stays_acknowledged(fleet, ask):
    fleet.worker("probed", "--probe", "false")
    while not (alerts := json.loads(ask("alerts", "--json")[1])):
        pass
    (alert,) = alerts
    assert ask("alerts", "--acknowledge", alert["alert_id"])[0] == 0
    restart(fleet)
    (kept,) = json.loads(ask("alerts", "--json")[1])
    assert (kept["alert_id"], kept["state"]) == (alert["alert_id"], "acknowledged")
    before, after = (datetime.fromisoformat(each["raised_at"]).timestamp() for each in (alert, kept))
    assert after == pytest.approx(before, abs=1.0)


def test_a_damaged_file_is_refused_in_one_line(fleet):
    fleet.coordinator.kill()
    fleet.coordinator.wait()
    (fleet.directory / "data" / "fleet.json").write_bytes(b"{")
    with pytest.raises(AssertionError, match=r"fleetest: .*fleet\.json is damaged .*: mend it, or remove it"):
        fleet.start_coordinator()
    assert fleet._started[-1].wait(TIMEOUT_S) == ExitStatus.USAGE_ERROR
