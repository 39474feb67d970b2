"""Ctrl-C: the first lets running tests finish and starts nothing more, the second kills; verdicts so far are kept."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

SUITE = """
import os, pathlib, time
HERE = pathlib.Path(__file__).parent

def run(name):
    (HERE / f"started-{name}").write_text(str(os.getpid()))
    while not (HERE / "release").exists():
        time.sleep(0.01)

def test_a(): run("a")
def test_b(): run("b")
def test_c(): run("c")
def test_d(): run("d")
"""
_PATIENCE_S = 60.0


def wait_for(path: Path) -> str:
    deadline = time.monotonic() + _PATIENCE_S
    while not (path.exists() and path.read_text()):
        assert time.monotonic() < deadline, f"{path.name} never came"
        time.sleep(0.01)
    return path.read_text()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """``pytest --fleet 2`` on four tests of which two are running and wait to be released."""
    (tmp_path / "test_it.py").write_text(SUITE)
    client = subprocess.Popen(
        [sys.executable, "-m", "pytest", "--fleet", "2", "-v", "-p", "no:cacheprovider"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    deadline = time.monotonic() + _PATIENCE_S
    while len(list(tmp_path.glob("started-*"))) < 2:
        assert time.monotonic() < deadline
        assert client.poll() is None, client.communicate()[0]
        time.sleep(0.01)
    yield client
    if client.poll() is None:
        client.kill()
    client.communicate()


def read_until(client: subprocess.Popen[str], words: str) -> str:
    assert client.stdout is not None
    seen = []
    for line in client.stdout:
        seen.append(line)
        if words in line:
            return "".join(seen)
    raise AssertionError(f"{words!r} never said in:\n{''.join(seen)}")


def test_the_first_lets_running_tests_finish(running: subprocess.Popen[str], tmp_path: Path) -> None:
    running.send_signal(signal.SIGINT)
    read_until(running, "running tests may finish")
    (tmp_path / "release").touch()
    text, _ = running.communicate(timeout=_PATIENCE_S)
    assert running.returncode == 2
    assert text.count("PASSED") == 2
    assert "2 passed" in text
    assert "Interrupted: stopped by Ctrl-C" in text
    assert "pytest_session.py" not in text
    assert len(list(tmp_path.glob("started-*"))) == 2


def test_the_second_kills(running: subprocess.Popen[str], tmp_path: Path) -> None:
    pids = [int(wait_for(path)) for path in tmp_path.glob("started-*")]
    running.send_signal(signal.SIGINT)
    read_until(running, "running tests may finish")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=_PATIENCE_S)
    assert running.returncode == 2
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_a_killed_client_leaves_nothing_running(running: subprocess.Popen[str], tmp_path: Path) -> None:
    pids = [int(wait_for(path)) for path in tmp_path.glob("started-*")]
    running.kill()
    running.communicate(timeout=_PATIENCE_S)
    deadline = time.monotonic() + _PATIENCE_S
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "runners outlive their client"
        time.sleep(0.01)
