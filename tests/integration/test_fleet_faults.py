"""A fleet of processes under fire: whatever is killed, every test has one verdict and the fleet serves on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleetest.errors import ExitStatus

TIMEOUT_S = 90.0
GOOD = """
import pytest

@pytest.mark.parametrize("n", range(10))
def test_good(n):
    pass
"""


class Fleet:
    """A coordinator, workers and clients; all of it is gone when the test ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.suite = directory / "suite"
        self.suite.mkdir()
        self._started: list[subprocess.Popen[str]] = []
        coordinator = self._start("fleetest", "coordinator", "--port", "0", "--reconnect-grace-s", "0.2")
        line = _line(coordinator)
        assert line.startswith("listening on"), line
        self.url = line.split()[2]

    def _start(self, *args: str) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FLEETEST_")}
        environment |= {"FLEETEST_DATA": str(self.directory / "data"), "PYTHONUNBUFFERED": "1"}
        process = subprocess.Popen(
            [sys.executable, "-m", *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=self.suite,
            env=environment,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def worker(self, name: str) -> subprocess.Popen[str]:
        """Started and connected, with one slot."""
        process = self._start("fleetest", "worker", "--coordinator", self.url, "--name", name, "--slots", "1")
        line = _line(process)
        assert "connected to" in line, line
        return process

    def client(self, *args: str) -> subprocess.Popen[str]:
        return self._start("pytest", "-p", "no:cacheprovider", "--fleet", self.url, "--junitxml=out.xml", *args)

    def run(self, *args: str) -> tuple[int, str, list[str]]:
        """Exit status, output and the names of the tests in the report."""
        process = self.client(*args)
        output, _ = process.communicate(timeout=TIMEOUT_S)
        cases = ElementTree.parse(self.suite / "out.xml").getroot().iter("testcase")
        return process.returncode, output, sorted(case.get("name", "") for case in cases)

    def close(self) -> None:
        for process in self._started:
            if process.poll() is None:
                process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline()


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    started = Fleet(tmp_path)
    yield started
    started.close()


def test_a_test_that_kills_three_workers_is_quarantined_and_the_run_goes_on(fleet: Fleet) -> None:
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
    # A worker that dies before it could say what it had begun blames nobody yet: that may be one more.
    assert sum(worker.poll() is not None for worker in workers) in (3, 4)


def test_a_test_that_kills_its_template_is_quarantined_and_its_worker_serves_on(fleet: Fleet) -> None:
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


def test_a_killed_client_leaves_the_workers_free_for_the_next_run(fleet: Fleet) -> None:
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
