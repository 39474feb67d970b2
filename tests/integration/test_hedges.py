"""A second attempt of a test on another worker, with real processes."""

from __future__ import annotations

import signal

from fleetest.errors import ExitStatus

HANGS_ON_ITS_FIRST_WORKER = """
import os, signal, subprocess, sys, threading
import pytest

def stat(pid):
    with open(f"/proc/{pid}/stat") as file:
        return file.read().rpartition(")")[2].split()

def is_known_to_run():
    asked = [sys.executable, "-m", "fleetest", "why", "test_it"]
    where = {"FLEETEST_COORDINATOR": "URL", "FLEETEST_DATA": "DATA"}
    return "running on" in subprocess.run(asked, env={**os.environ, **where}, capture_output=True, text=True).stdout

def test_it():
    agent = stat(os.getppid())[1]
    try:
        # Whoever finds the link finds the whole name.
        os.symlink(agent, "first")
    except FileExistsError:
        while stat(os.readlink("first"))[0] != "T":
            os.sched_yield()
        return
    # An attempt that was never said to have begun leaves nothing in the history.
    while not is_known_to_run():
        pass
    os.kill(int(agent), signal.SIGSTOP)
    threading.Event().wait()

@pytest.mark.parametrize("n", range(3))
def test_other(n):
    pass
"""


def test_a_test_on_a_stopped_worker_gets_its_verdict_from_another_one(hedging_fleet):
    fleet = hedging_fleet
    (fleet.suite / "test_it.py").write_text(
        HANGS_ON_ITS_FIRST_WORKER.replace("URL", fleet.url).replace("DATA", str(fleet.directory / "data"))
    )
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
        "select attempt, verdict, is_final, worker, reason from attempts where task_id like '%test_it' order by is_final"
    )
    (second, lost, is_lost_final, loser, reason), (first, won, is_won_final, winner, _) = attempts
    assert (is_lost_final, is_won_final) == (False, True)
    # On a busy machine the hedge may begin before the first attempt: then it is the hedge's worker that stops.
    assert {first, second} == {1, 2}
    assert (lost, won) == ("cancelled", "passed")
    assert {loser, winner} == {"a", "b"}
    assert reason == f"superseded: attempt {first} on {winner} was first"
