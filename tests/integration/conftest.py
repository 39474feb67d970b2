"""A fleet of processes on this machine, for the tests of this folder."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from fleetest.wire import messages as wire

TIMEOUT_S = 300.0
"""A wait that is longer has failed; no test is faster or slower by it. Machines that test are loaded."""
EAGER_PLUGIN = """
from fleetest.hooks import hookimpl
from fleetest.testing.eager_hedging import EagerHedging

@hookimpl
def fleetest_make_balancer(limits):
    return EagerHedging()
"""


@pytest.fixture(scope="module", autouse=True)
def _no_version_managers() -> Iterator[None]:
    """Each worker asks every Python on PATH for its version, and a shim of pyenv takes a while to say none."""
    folders = os.environ["PATH"].split(os.pathsep)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setenv("PATH", os.pathsep.join(each for each in folders if Path(each).name != "shims"))
        yield


class Fleet:
    """A coordinator, workers and clients, until it is closed."""

    def __init__(self, directory: Path, *, hedges_eagerly: bool = False, coordinator: Sequence[str] = ()) -> None:
        self.directory = directory
        self.suite = directory / "suite"
        self.suite.mkdir()
        self._started: list[subprocess.Popen[str]] = []
        self.scratch = directory / "scratch"
        self.scratch.mkdir()
        self._plugins = directory / "plugins"
        if hedges_eagerly:
            self._install("eager_hedging_plugin", EAGER_PLUGIN)
        self._options = coordinator
        try:
            self.start_coordinator()
        except BaseException:
            self.close()
            raise

    def start_coordinator(self, port: str = "0") -> None:
        """Again, if an earlier one has ended: then with its port and its data."""
        self.coordinator = self._start(
            "fleetest", "coordinator", "--port", port, "--reconnect-grace-s", "0.2", *self._options
        )
        said = line = _line(self.coordinator)
        while line and not line.startswith("listening on"):  # It may have something to say of itself before.
            line = _line(self.coordinator)
            said += line
        assert line, said
        self.url = line.split()[2]

    def _install(self, name: str, text: str) -> None:
        """A plugin of the coordinator, as an installed distribution would bring it."""
        info = self._plugins / f"{name}-1.dist-info"
        info.mkdir(parents=True)
        (self._plugins / f"{name}.py").write_text(text)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1\n")
        (info / "entry_points.txt").write_text(f"[fleetest]\n{name} = {name}\n")

    def _start(self, *args: str, python_path: Path | None = None) -> subprocess.Popen[str]:
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FLEETEST_")}
        environment |= {"FLEETEST_DATA": str(self.directory / "data"), "PYTHONUNBUFFERED": "1"}
        # A machine for tests may have little room left; what is done then has tests of its own, which say how much.
        environment["FLEETEST_MIN_FREE"] = "1MB"
        # Who is killed leaves its scratch behind: here pytest removes it.
        environment["TMPDIR"] = str(self.scratch)
        if args[1] == "coordinator":
            python_path = self._plugins
        if python_path is not None:
            environment["PYTHONPATH"] = str(python_path)
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

    def worker(self, name: str, *args: str, python_path: Path | None = None) -> subprocess.Popen[str]:
        """Started and connected, with one slot; only its tests can import what is in ``python_path``."""
        begin = ("fleetest", "worker", "--coordinator", self.url, "--name", name, "--slots", "1")
        process = self._start(*begin, *args, python_path=python_path)
        line = _line(process)
        assert "connected to" in line, line
        return process

    def client(self, *args: str, python_path: Path | None = None) -> subprocess.Popen[str]:
        """``pytest --fleet`` in the suite's directory."""
        begin = ("pytest", "-p", "no:cacheprovider", "--fleet", self.url, "--junitxml=out.xml")
        return self._start(*begin, *args, python_path=python_path)

    def run(self, *args: str, python_path: Path | None = None) -> tuple[int, str, list[str]]:
        """Exit status, output and the names of the tests in the report."""
        process = self.client(*args, python_path=python_path)
        output, _ = process.communicate(timeout=TIMEOUT_S)
        cases = ElementTree.parse(self.suite / "out.xml").getroot().iter("testcase")
        return process.returncode, output, sorted(case.get("name", "") for case in cases)

    def run_suite(self, file: str) -> tuple[int, str]:
        """Exit status and output of ``fleetest run`` with a suite file."""
        process = self._start("fleetest", "run", file, "--fleet", self.url)
        output, _ = process.communicate(timeout=TIMEOUT_S)
        return process.returncode, output

    def ask(self, *args: str) -> tuple[int, str]:
        """Exit status and output of a command that asks the coordinator."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("FLEETEST_")}
        environment |= {"FLEETEST_DATA": str(self.directory / "data"), "FLEETEST_COORDINATOR": self.url}
        answer = subprocess.run(
            [sys.executable, "-m", "fleetest", *args],
            check=False,
            capture_output=True,
            text=True,
            env=environment,
            timeout=TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
        return answer.returncode, answer.stdout + answer.stderr

    def history(self, sql: str) -> list[tuple[object, ...]]:
        """What the history says, after the end of the coordinator."""
        import duckdb

        self.coordinator.terminate()
        self.coordinator.communicate(timeout=TIMEOUT_S)
        with duckdb.connect(str(self.directory / "data" / "history.duckdb"), read_only=True) as database:
            return database.execute(sql).fetchall()

    def __enter__(self) -> Fleet:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

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
    with Fleet(tmp_path) as started:
        yield started


@pytest.fixture
def ask(fleet: Fleet) -> Callable[..., tuple[int, str]]:
    """Exit status and output of a command that asks the fleet's coordinator."""
    return fleet.ask


@pytest.fixture(scope="module")
def shared_fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """For the tests of one file that only look at it, once it is what they want to see."""
    with Fleet(tmp_path_factory.mktemp("shared")) as started:
        yield started


@pytest.fixture
def hedging_fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Its coordinator hedges whatever runs, as soon as a slot is idle."""
    with Fleet(tmp_path, hedges_eagerly=True) as started:
        yield started


@pytest.fixture
def make_fleet(tmp_path: Path) -> Iterator[Callable[..., Fleet]]:
    """Starts one fleet, with these options of its coordinator."""
    with ExitStack() as started:
        yield lambda *options: started.enter_context(Fleet(tmp_path, coordinator=options))


@pytest.fixture
def suite_at(tmp_path: Path) -> Callable[..., wire.PytestSuite]:
    def write(code: str, **fields: Any) -> wire.PytestSuite:
        directory = tmp_path / "suite"
        directory.mkdir(exist_ok=True)
        (directory / "test_it.py").write_text("import os, signal, sys, time\nimport pytest\n" + textwrap.dedent(code))
        fields = {"args": ("-p", "no:cacheprovider"), "directory": str(directory), **fields}
        return wire.PytestSuite(**fields)

    return write


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    return path
