"""A fleet of processes under fire: whatever is killed, every test has one verdict and the fleet serves on."""

from __future__ import annotations

import os
import signal

import pytest

from fleetest.errors import ExitStatus

GOOD = """
import pytest

@pytest.mark.parametrize("n", range(10))
def test_good(n):
    pass
"""


def test_a_test_that_kills_three_workers_is_quarantined_and_the_run_goes_on(fleet):
    (fleet.suite / "test_it.py").write_text(
        GOOD
        + """
def test_bad():
    import os, signal, threading
    with open(f"/proc/{os.getppid()}/stat") as file:
        worker = int(file.read().rpartition(")")[2].split()[1])
    os.kill(worker, signal.SIGKILL)
    threading.Event().wait()
"""
    )
    workers = [fleet.worker(f"w{number}") for number in range(5)]
    status, output, names = fleet.run()
    assert status == ExitStatus.TESTS_FAILED
    assert "QUARANTINED test_it.py::test_bad" in output
    assert "1 failed, 10 passed" in output or "10 passed, 1 error" in output
    assert names == ["test_bad", *(f"test_good[{n}]" for n in range(10))]
    assert sum(worker.poll() is not None for worker in workers) == 3


def test_a_test_that_kills_its_template_is_quarantined_and_its_worker_serves_on(fleet):
    (fleet.suite / "test_it.py").write_text(
        GOOD
        + """
def test_bad():
    import os, signal, threading
    os.kill(os.getppid(), signal.SIGKILL)
    threading.Event().wait()
"""
    )
    fleet.worker("w")
    status, output, names = fleet.run()
    assert status == ExitStatus.TESTS_FAILED
    assert "QUARANTINED test_it.py::test_bad" in output
    assert names == ["test_bad", *(f"test_good[{n}]" for n in range(10))]
    status, output, _ = fleet.run("-k", "good")
    assert status == ExitStatus.OK, output


def test_a_killed_client_leaves_the_workers_free_for_the_next_run(fleet):
    (fleet.suite / "test_it.py").write_text(
        GOOD
        + """
def test_waits():
    import os, threading
    if os.path.exists("is-here"):
        with open("is-here", "w") as pipe:
            pipe.write(str(os.getpid()))
        threading.Event().wait()
"""
    )
    fleet.worker("w")
    os.mkfifo(fleet.suite / "is-here")
    client = fleet.client()
    runner = int((fleet.suite / "is-here").read_text())
    client.send_signal(signal.SIGKILL)
    client.wait()
    (fleet.suite / "is-here").unlink()
    status, output, names = fleet.run()
    assert status == ExitStatus.OK, output
    assert len(names) == 11
    with pytest.raises(ProcessLookupError):
        os.kill(runner, 0)
