"""The interpreter that waits on an idle worker: used where it is what a fresh one would be, and nowhere else."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from support.conductor import PATIENCE_S, conducted, drive, is_gone

from fleetest.core.model import RunId
from fleetest.processes import execution
from fleetest.processes.launch import PrestartedTemplate, start_template_early
from fleetest.wire import messages as wire

SuiteAt = Callable[..., wire.PytestSuite]
WRITE_PARENT = "def test_a(): open('parent', 'w').write(str(os.getppid()))"
TELL_WHEN_IMPORTED = """
import os, sys

def tell(event, args):
    if event == "import" and args[0] == "_fleetest_runner.session_plugin":
        try:
            descriptor = os.open({fifo!r}, os.O_WRONLY | os.O_NONBLOCK)
        except OSError:
            return
        os.write(descriptor, b"imported")
        os.close(descriptor)

sys.addaudithook(tell)
"""


class Spares:
    """Those that the worker has started, in order."""

    def __init__(self) -> None:
        self.started: list[PrestartedTemplate] = []
        self._changed = asyncio.Event()

    def start(self, *args: Any, **keywords: Any) -> PrestartedTemplate:
        spare = start_template_early(*args, **keywords)
        self.started.append(spare)
        self._changed.set()
        return spare

    async def the(self, number: int) -> int:
        """Process id of this one, waited for."""
        while len(self.started) <= number:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), PATIENCE_S)
        return self.started[number].process.pid


@pytest.fixture
def spares(monkeypatch: pytest.MonkeyPatch) -> Spares:
    found = Spares()
    monkeypatch.setattr(execution, "start_template_early", found.start)
    return found


def parent_of(suite: wire.PytestSuite) -> int:
    """Of the runner that executed WRITE_PARENT: its template."""
    return int(Path(suite.directory, "parent").read_text())


def test_each_run_gets_a_spare_of_its_own(suite_at: SuiteAt, spares: Spares) -> None:
    suite = suite_at(WRITE_PARENT)

    async def scenario() -> None:
        async with conducted(keeps_spare=True) as conductor:
            first = await spares.the(0)
            await conductor.run(suite)
            assert parent_of(suite) == first
            assert len(spares.started) == 1, "none is started while there is a run"
            conductor.send(wire.EndRun(run_id=conductor.run_id))
            second = await spares.the(1)
            assert is_gone(first)
            conductor.run_id = RunId("e" * 32)
            conductor.results.clear()
            await conductor.run(suite)
            assert parent_of(suite) == second
        assert is_gone(second)

    drive(scenario)


def test_without_the_setting_there_is_none(suite_at: SuiteAt, spares: Spares) -> None:
    suite = suite_at(WRITE_PARENT)

    async def scenario() -> None:
        async with conducted() as conductor:
            await conductor.run(suite)

    drive(scenario)
    assert spares.started == []


def test_one_that_was_not_used_is_not_left(spares: Spares) -> None:
    async def scenario() -> None:
        async with conducted(keeps_spare=True):
            pid = await spares.the(0)
        assert is_gone(pid)

    drive(scenario)


def test_it_ends_with_its_worker() -> None:
    spare = start_template_early(is_spare=True)
    # What the kernel does when a worker is killed.
    spare.control.close()
    assert spare.process.wait(PATIENCE_S) != 0
    spare.close()


def test_it_shows_what_a_fresh_interpreter_shows(suite_at: SuiteAt, spares: Spares) -> None:
    code = """
        import gc, json, logging, threading, warnings
        def test_a():
            record = logging.LogRecord("n", 10, "p", 1, "m", (), None)
            modules = sorted(name for name in sys.modules if name != "_fleetest_runner.spare")
            seen = dict(
                modules=modules, path=sys.path, argv=sys.argv, flags=list(sys.flags), directory=os.getcwd(),
                environment={name: value for name, value in os.environ.items() if name != "PYTEST_XDIST_TESTRUNUID"},
                filters=[str(each) for each in warnings.filters], threads=threading.active_count(),
                hooks=[getattr(each, "__name__", type(each).__name__) for each in sys.meta_path],
                descriptors=sorted(os.listdir("/proc/self/fd")), has_session=os.getsid(0) == os.getpid(),
                is_young=0 <= record.relativeCreated < 30_000, gc=[gc.isenabled(), gc.get_threshold()],
                root=logging.getLogger().level, signals=[str(signal.getsignal(n)) for n in range(1, 20)],
            )
            json.dump(seen, open("seen.json", "w"))
    """
    # Disabling one of pytest's own plugins shows in the modules: a spare has imported them all.
    suite = suite_at(code, args=())

    def observe(keeps_spare: bool) -> Mapping[str, Any]:
        async def scenario() -> None:
            async with conducted(keeps_spare=keeps_spare) as conductor:
                await conductor.run(suite)

        drive(scenario)
        seen: Mapping[str, Any] = json.loads(Path(suite.directory, "seen.json").read_text())
        return seen

    fresh = observe(False)
    assert spares.started == []
    assert observe(True) == fresh
    assert len(spares.started) == 1


def test_its_log_records_count_from_the_start_of_the_run(suite_at: SuiteAt, tmp_path: Path) -> None:
    """The worker may have been idle for days: here the spare imported logging an hour ago."""
    (tmp_path / "sitecustomize.py").write_text(
        "import logging\nlogging._startTime -= 3600 * (10**9 if isinstance(logging._startTime, int) else 1)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    program = (
        "import logging; from fleetest.runner import spare; before = logging._startTime; spare._restart_logging_clock();"
        " print(logging.makeLogRecord({}).relativeCreated < 60_000, type(before) is type(logging._startTime))"
    )
    done = subprocess.run([spare_python(), "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


def spare_python() -> str:
    return PrestartedTemplate.interpreter_of(None)


@pytest.mark.parametrize("fields", [{"environment": {"MINE": "1"}}, {"path_entries": None}])
def test_it_is_for_suites_with_the_environment_of_the_worker(
    fields: dict[str, Any], suite_at: SuiteAt, spares: Spares
) -> None:
    import sys

    if "path_entries" in fields:
        fields = {"path_entries": tuple(sys.path)}
    suite = suite_at(WRITE_PARENT, **fields)

    async def scenario() -> None:
        async with conducted(keeps_spare=True) as conductor:
            pid = await spares.the(0)
            await conductor.run(suite)
            assert parent_of(suite) != pid
        assert is_gone(pid)

    drive(scenario)


def run_after(
    change: Callable[[int, Path], Awaitable[None]],
    suite: wire.PytestSuite,
    spares: Spares,
    fifo: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run the suite after this change to an imported spare (its id, a directory on its path); it must not be used."""
    modules = fifo.parent / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(TELL_WHEN_IMPORTED.format(fifo=str(fifo)))
    monkeypatch.setenv("PYTHONPATH", str(modules))

    async def scenario() -> None:
        descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        arrived = asyncio.Event()
        asyncio.get_running_loop().add_reader(descriptor, arrived.set)
        async with conducted(keeps_spare=True) as conductor:
            pid = await spares.the(0)
            await asyncio.wait_for(arrived.wait(), PATIENCE_S)
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
            await change(pid, modules)
            results = await conductor.run(suite)
            assert {result.verdict.value for result in results.values()} == {"passed"}
            assert parent_of(suite) != pid
            assert is_gone(pid)

    drive(scenario)


def test_what_was_installed_since_is_seen(
    suite_at: SuiteAt, spares: Spares, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def install(pid: int, modules: Path) -> None:
        (modules / "iniconfig").mkdir()

    run_after(install, suite_at(WRITE_PARENT), spares, fifo, monkeypatch)


def test_what_was_changed_since_is_seen(
    suite_at: SuiteAt, spares: Spares, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suite = suite_at("import sitecustomize\n" + WRITE_PARENT + "\ndef test_b(): assert sitecustomize.version == 2")

    async def change(pid: int, modules: Path) -> None:
        with (modules / "sitecustomize.py").open("a") as file:
            file.write("version = 2\n")

    run_after(change, suite, spares, fifo, monkeypatch)


def test_one_that_was_killed_is_no_loss(
    suite_at: SuiteAt, spares: Spares, fifo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def kill(pid: int, modules: Path) -> None:
        os.kill(pid, signal.SIGKILL)

    run_after(kill, suite_at(WRITE_PARENT), spares, fifo, monkeypatch)


def test_an_interpreter_without_pytest_is_said_once(
    suite_at: SuiteAt, spares: Spares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "pytest.py").write_text("raise ImportError('no pytest here')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "modules"))

    async def scenario() -> None:
        async with conducted(keeps_spare=True) as conductor:
            await spares.the(0)
            conductor.prepare(suite_at("def test_a(): pass"))
            failed = await conductor.expect(wire.SuiteFailed)
            assert "cannot import pytest (ImportError: no pytest here)" in failed.text
            assert len(conductor.all_of(wire.SuiteFailed)) == 1

    drive(scenario)


def test_a_setting_keeps_none() -> None:
    from fleetest.config import WorkerSettings, load

    assert load(WorkerSettings, {"no_spare": True}, environment={}).no_spare
    assert load(WorkerSettings, {}, environment={"FLEETEST_NO_SPARE": "true"}).no_spare
    assert not load(WorkerSettings, {"no_spare": False}, environment={}).no_spare
