"""A second attempt of a test on another worker, with real processes."""

from __future__ import annotations

import signal

from fleetest.errors import ExitStatus

HANGS_ON_ITS_FIRST_WORKER = """
import os, signal, threading
import pytest

def agent():
    with open(f"/proc/{os.getppid()}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])

def test_it():
    try:
        os.close(os.open("first", os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return
    os.kill(agent(), signal.SIGSTOP)
    threading.Event().wait()

@pytest.mark.parametrize("n", range(3))
def test_other(n):
    pass
"""


def test_a_test_on_a_stopped_worker_gets_its_verdict_from_another_one(hedging_fleet):
    fleet = hedging_fleet
    (fleet.suite / "test_it.py").write_text(HANGS_ON_ITS_FIRST_WORKER)
    workers = {name: fleet.worker(name) for name in ("a", "b")}
    status, output, names = fleet.run()
    assert status == ExitStatus.OK, output
    assert names == ["test_it", *(f"test_other[{n}]" for n in range(3))]
    for process in workers.values():
        process.send_signal(signal.SIGCONT)
    # It kills what it ran for the run that is over, and takes part in the next one.
    status, output, _ = fleet.run("-k", "other")
    assert status == ExitStatus.OK, output
    attempts = fleet.history(
        "select attempt, verdict, is_final, worker, reason from attempts where task_id like '%test_it' order by 1"
    )
    (_, lost, _, loser, reason), (_, won, _, winner, _) = attempts
    assert [(row[0], row[2]) for row in attempts] == [(1, False), (2, True)]
    assert (lost, won) == ("cancelled", "passed")
    assert {loser, winner} == {"a", "b"}
    assert reason == f"superseded: attempt 2 on {winner} was first"
