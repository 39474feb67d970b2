"""What is finished, ended and left behind when a run, a link, an epoch or the worker itself ends."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from support.conductor import Conductor, conducted, drive, is_gone, read_fifo, until_gone, write_fifo

from fleetest.core.model import RunId, Verdict
from fleetest.errors import LinkClosed
from fleetest.processes import execution
from fleetest.wire import messages as wire


def test_the_end_of_a_run_finishes_sessions_and_leaves_nothing(
    suite_at: Callable[..., wire.PytestSuite], tmp_path: Path
) -> None:
    finished = tmp_path / "finished"
    suite = suite_at(
        """
        import subprocess
        def test_leaks():
            child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
            open("pids", "w").write(f"{os.getppid()} {os.getpid()} {child.pid}")
        """
    )
    Path(suite.directory, "conftest.py").write_text(
        f"def pytest_sessionfinish(): open({str(finished)!r}, 'a').write('x')\n"
    )

    async def scenario() -> None:
        async with conducted(scratch=tmp_path / "scratch") as conductor:
            await conductor.run(suite)
            pids = [int(pid) for pid in Path(suite.directory, "pids").read_text().split()]
            conductor.send(wire.EndRun(run_id=conductor.run_id))
            for pid in pids:
                await until_gone(pid)
        assert finished.read_text() == "x"
        assert all(map(is_gone, pids))
        assert list((tmp_path / "scratch").iterdir()) == []

    drive(scenario)


WRITE_OWN = "def test_a(): open('pid', 'w').write(str(os.getpid()))"


def own(suite: wire.PytestSuite) -> int:
    """Of the runner that executed WRITE_OWN."""
    return int(Path(suite.directory, "pid").read_text())


async def end_run(conductor: Conductor) -> None:
    conductor.send(wire.EndRun(run_id=conductor.run_id))
    # Of a run that is over, so it is given back.
    conductor.grant([conductor.lease("late")])
    await conductor.expect(wire.LeasesReturned)


@pytest.fixture
def _a_long_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(execution, "_REST_S", 3600.0)


@pytest.mark.usefixtures("_a_long_rest")
def test_the_next_run_does_not_wait_for_the_rest_after_the_last_one(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(WRITE_OWN)

    async def scenario() -> None:
        async with conducted() as conductor:
            await conductor.run(suite)
            resting = own(suite)
            await end_run(conductor)
            conductor.run_id = RunId("e" * 32)
            conductor.results.clear()
            await conductor.run(suite)
            await until_gone(resting)
            assert own(suite) != resting

    drive(scenario)


@pytest.mark.usefixtures("_a_long_rest")
def test_close_does_not_wait_for_the_rest_after_a_run(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(WRITE_OWN)

    async def scenario() -> None:
        async with conducted() as conductor:
            await conductor.run(suite)
            await end_run(conductor)
        assert is_gone(own(suite))

    drive(scenario)


@pytest.mark.usefixtures("_a_long_rest")
def test_the_runners_of_a_client_end_with_their_run(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(WRITE_OWN)

    async def scenario() -> None:
        async with conducted(is_embedded=True) as conductor:
            await conductor.run(suite)
            conductor.send(wire.EndRun(run_id=conductor.run_id))
            await until_gone(own(suite))

    drive(scenario)


def test_close_lets_idle_sessions_finish(suite_at: Callable[..., wire.PytestSuite], tmp_path: Path) -> None:
    finished = tmp_path / "finished"
    suite = suite_at("def test_a(): pass")
    Path(suite.directory, "conftest.py").write_text(
        f"def pytest_sessionfinish(): open({str(finished)!r}, 'a').write('x')\n"
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            await conductor.run(suite)
        assert finished.read_text() == "x"

    drive(scenario)


def test_close_does_not_wait_for_a_collection(suite_at: Callable[..., wire.PytestSuite], fifo: Path) -> None:
    suite = suite_at(
        f"""
        open({str(fifo)!r}, "w").write(str(os.getpid()))
        while True:
            signal.pause()
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            conductor.prepare(suite)
            pid = int(await read_fifo(fifo))
        assert is_gone(pid)

    drive(scenario)


def test_close_kills_what_runs(suite_at: Callable[..., wire.PytestSuite], fifo: Path) -> None:
    suite = suite_at(
        f"""
        def test_hangs():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open({str(fifo)!r}, "w").write(f"{{os.getppid()}} {{os.getpid()}}")
            signal.pause()
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(plan.tasks[0].task_id)])
            pids = [int(pid) for pid in (await read_fifo(fifo)).split()]
        for pid in pids:
            await until_gone(pid)

    drive(scenario)


def test_draining_finishes_what_runs_and_gives_back_the_rest(
    suite_at: Callable[..., wire.PytestSuite], fifo: Path
) -> None:
    suite = suite_at(
        f"""
        def test_0(): open({str(fifo)!r}).read()
        def test_1(): pass
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(task.task_id) for task in plan.tasks])
            await conductor.expect(wire.AttemptsStarted)
            draining = asyncio.ensure_future(conductor.worker.drain())
            await conductor.expect(wire.Draining)
            assert (await conductor.expect(wire.LeasesReturned)).lease_ids == (2,)
            conductor.grant([conductor.lease(plan.tasks[1].task_id)])
            await conductor.until(lambda: len(conductor.all_of(wire.LeasesReturned)) == 2)
            await write_fifo(fifo)
            await conductor.expect(wire.Goodbye)
            await draining
            assert conductor.results[1].verdict is Verdict.PASSED
            assert conductor.worker.is_over

    drive(scenario)


def test_a_result_of_a_time_without_link_is_sent_over_the_next_one(
    suite_at: Callable[..., wire.PytestSuite], fifo: Path, tmp_path: Path
) -> None:
    second_fifo = tmp_path / "second"
    os.mkfifo(second_fifo)
    suite = suite_at(
        f"""
        def test_0(): open({str(fifo)!r}).read()
        def test_1(): open({str(second_fifo)!r}).read()
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(task.task_id) for task in plan.tasks])
            await conductor.expect(wire.AttemptsStarted)
            await conductor.link.close("network")
            with pytest.raises(LinkClosed):
                await conductor.serving
            # The first ends while there is no link; that the second has begun to read shows it.
            await write_fifo(fifo)
            await write_fifo(second_fifo)
            conductor.messages.clear()
            hello = await conductor.connect()
            assert set(hello.held_leases) == {1, 2}
            await conductor.until(lambda: len(conductor.results) == 2)
            # The coordinator cannot know what was lost with the link, and asks again.
            conductor.prepare(suite)
            assert (await conductor.expect(wire.SuiteCollected)).fingerprint == plan.fingerprint

    drive(scenario)


def test_another_epoch_ends_what_the_last_one_asked_for(suite_at: Callable[..., wire.PytestSuite], fifo: Path) -> None:
    suite = suite_at(
        f"""
        def test_hangs():
            open({str(fifo)!r}, "w").write(str(os.getpid()))
            signal.pause()
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(plan.tasks[0].task_id)])
            pid = int(await read_fifo(fifo))
            await conductor.link.close("restart")
            with pytest.raises(LinkClosed):
                await conductor.serving
            conductor.messages.clear()
            conductor.epoch = 2
            await conductor.connect()
            await until_gone(pid)
            assert not conductor.results

    drive(scenario)


_ABANDONED_WORKER = """
import asyncio, sys
from fleetest.core.model import *
from fleetest.transport.memory import memory_link_pair
from fleetest.wire import messages as wire
from fleetest.worker import Worker, WorkerSettings

async def main(directory, start_method, command):
    ours, theirs = memory_link_pair()
    worker = Worker(WorkerSettings(name="box", slots=2), capabilities=Capabilities())
    serving = asyncio.ensure_future(worker.serve(theirs))
    run = RunId("a" * 32)
    pytest_suite = wire.PytestSuite(name="p", args=("-s",), directory=directory, start_method=start_method)
    spec = wire.CommandSpec(name="c", argv=("sh", "-c", command), directory=directory)
    commands = wire.CommandSuite(name="c", commands=(spec,), tasks=(TaskSpec(TaskId("c"), "c"),))
    ours.send(wire.Welcome(version=wire.PROTOCOL_VERSION, epoch=1, heartbeat_interval_s=3600.0))
    ours.send(wire.PrepareRun(run_id=run, suites=(pytest_suite, commands), first_runner=0, runner_count=2))
    for slot, task, suite in ((0, "p::test_it.py::test_hangs", "p"), (1, "c", "c")):
        lease = Lease(LeaseId(slot + 1), run, TaskId(task), suite, 1)
        ours.send(wire.GrantLeases(slot=slot, leases=(lease,)))
    await serving

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_nothing_outlives_a_killed_worker(
    start_method: str, suite_at: Callable[..., wire.PytestSuite], fifo: Path, tmp_path: Path
) -> None:
    command_fifo = tmp_path / "command"
    os.mkfifo(command_fifo)
    suite = suite_at(
        f"""
        def test_hangs():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open({str(fifo)!r}, "w").write(f"{{os.getppid()}} {{os.getpid()}}")
            while True:
                signal.pause()
        """
    )
    command = f"trap '' TERM; echo $$ > {command_fifo}; while :; do sleep 1000; done"
    program = [sys.executable, "-c", _ABANDONED_WORKER, suite.directory, start_method, command]

    async def scenario() -> None:
        # It cannot remove its scratch files any more.
        worker = subprocess.Popen(program, env={**os.environ, "TMPDIR": str(tmp_path)})
        try:
            pids = [int(pid) for pid in (await read_fifo(fifo) + " " + await read_fifo(command_fifo)).split()]
            pids.remove(worker.pid) if worker.pid in pids else None
        finally:
            worker.kill()
            worker.wait()
        for pid in pids:
            await until_gone(pid)

    drive(scenario)
