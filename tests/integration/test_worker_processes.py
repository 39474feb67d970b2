"""The worker with real templates, runners and commands; the coordinator is played by the test over an in-memory link."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shlex
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from support.conductor import conducted, drive, is_gone, read_fifo, until_gone, write_fifo

from fleetest.core.model import AttemptResult, LeaseId, RunId, TaskId, TaskSpec, Verdict
from fleetest.core.requirements import parse_options
from fleetest.errors import LinkClosed
from fleetest.processes.launch import start_frame, start_template_early
from fleetest.wire import messages as wire

# Verdicts -----------------------------------------------------------------------------------------------------------


def test_every_kind_of_death_has_its_own_verdict(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(
        """
        import ctypes
        def test_first(): pass
        def test_exit():
            print("last words")
            os._exit(3)
        def test_segfault(): ctypes.string_at(0)
        def test_group(): os.killpg(0, signal.SIGKILL)
        def test_fails(): assert 1 == 2
        def test_big():
            for _ in range(500):
                print("x" * 100_000)
        def test_last(): pass
        """
    )

    async def scenario() -> None:
        async with conducted(output_limit_bytes=100_000) as conductor:
            results = await conductor.run(suite)
        verdicts = {name: result.verdict.value for name, result in results.items()}
        assert verdicts == {
            "test_first": "passed",
            "test_exit": "crashed",
            "test_segfault": "crashed",
            "test_group": "crashed",
            "test_fails": "failed",
            "test_big": "passed",
            "test_last": "passed",
        }
        assert "exit status 3" in results["test_exit"].evidence
        assert results["test_exit"].output == "last words\n"
        assert "SIGSEGV" in results["test_segfault"].evidence
        assert "in test_segfault" in results["test_segfault"].evidence
        assert "SIGKILL" in results["test_group"].evidence
        assert b"assert 1 == 2" in (results["test_fails"].reports or b"")
        assert results["test_first"].reports is None
        assert results["test_first"].peak_memory_bytes > 1_000_000

    drive(scenario)


def test_an_overdue_test_is_ended_with_its_stacks_and_output(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(
        """
        def test_hangs():
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            print("before the wait")
            while True:
                signal.pause()
        def test_next(): pass
        """
    )

    async def scenario() -> None:
        async with conducted(term_grace_s=0.2) as conductor:
            results = await conductor.run(suite, timeout_s=1.0)
        hung = results["test_hangs"]
        assert hung.verdict is Verdict.TIMEOUT
        assert "its timeout of 1 s" in hung.evidence
        assert "in test_hangs" in hung.evidence
        assert "before the wait" in hung.output
        assert hung.duration_s >= 1.0
        assert results["test_next"].verdict is Verdict.PASSED

    drive(scenario)


def test_a_runner_killed_from_outside_costs_only_its_running_test(
    suite_at: Callable[..., wire.PytestSuite], fifo: Path
) -> None:
    suite = suite_at(
        f"""
        def test_first(): pass
        def test_victim():
            open({str(fifo)!r}, "w").write(str(os.getpid()))
            signal.pause()
        def test_last(): pass
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            running = asyncio.ensure_future(conductor.run(suite))
            os.kill(int(await read_fifo(fifo)), signal.SIGKILL)
            results = await running
        assert [result.verdict.value for result in results.values()] == ["passed", "crashed", "passed"]
        assert "SIGKILL" in results["test_victim"].evidence

    drive(scenario)


def test_pytest_exit_is_told_and_its_test_cancelled(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at("def test_exits(): pytest.exit('enough', returncode=7)")

    async def scenario() -> None:
        async with conducted() as conductor:
            results = await conductor.run(suite)
            told = await conductor.expect(wire.ExitRequested)
        assert (told.kind, told.exit_status) == ("exit", 7)
        assert "enough" in told.reason
        assert results["test_exits"].verdict is Verdict.CANCELLED
        assert "enough" in results["test_exits"].evidence

    drive(scenario)


def test_junk_on_the_results_socket_is_blamed_on_the_test_that_wrote_it(
    suite_at: Callable[..., wire.PytestSuite],
) -> None:
    suite = suite_at(
        """
        import socket, stat
        def test_junk():
            for name in os.listdir("/proc/self/fd"):
                try:
                    if stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                        socket.socket(fileno=os.dup(int(name))).send(bytes([0, 0, 0, 3]) + b"[1]")
                except OSError:
                    continue
            while True:
                signal.pause()
        def test_closes_everything():
            os.closerange(3, 1000)
        def test_b(): pass
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            results = await conductor.run(suite)
        assert [result.verdict.value for result in results.values()] == ["crashed", "crashed", "passed"]
        assert "not a result" in results["test_junk"].evidence

    drive(scenario)


# Queues -------------------------------------------------------------------------------------------------------------


def test_what_waits_behind_a_running_test_is_revoked(suite_at: Callable[..., wire.PytestSuite], fifo: Path) -> None:
    suite = suite_at(
        f"""
        def test_0(): open({str(fifo)!r}).read()
        @pytest.mark.parametrize("n", range(1, 6))
        def test_n(n): pass
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            leases = [conductor.lease(task.task_id) for task in plan.tasks]
            conductor.grant(leases, more_follow=True)
            started = await conductor.expect(wire.AttemptsStarted)
            assert started.leases[0][0] == 1
            conductor.send(wire.RevokeLeases(lease_ids=(LeaseId(1), LeaseId(2), LeaseId(4), LeaseId(99))))
            returned = await conductor.expect(wire.LeasesReturned)
            assert returned == wire.LeasesReturned(lease_ids=(LeaseId(2), LeaseId(4)))
            conductor.send(wire.SlotIdle(slot=0))
            await write_fifo(fifo)
            await conductor.until(lambda: len(conductor.results) == 4)
            assert sorted(conductor.results) == [1, 3, 5, 6]

    drive(scenario)


def test_a_fixture_lives_until_the_slot_is_told_that_nothing_follows(
    suite_at: Callable[..., wire.PytestSuite], tmp_path: Path
) -> None:
    log = tmp_path / "log"
    suite = suite_at(
        f"""
        @pytest.fixture(scope="module")
        def resource():
            open({str(log)!r}, "a").write("up ")
            yield
            open({str(log)!r}, "a").write("down ")
        def test_a(resource): pass
        def test_b(resource): pass
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            first, second = (conductor.lease(task.task_id) for task in plan.tasks)
            conductor.grant([first], more_follow=True)
            await conductor.expect(wire.AttemptsStarted)
            conductor.grant([second])
            await conductor.until(lambda: len(conductor.results) == 2)
        assert log.read_text() == "up down "

    drive(scenario)


def test_nothing_follows_again_and_again(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at("@pytest.mark.parametrize('n', range(3))\ndef test_n(n): pass")

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            for number, task in enumerate(plan.tasks, start=1):
                conductor.grant([conductor.lease(task.task_id)])
                await conductor.until(lambda number=number: number in conductor.results)

    drive(scenario)


def test_a_killed_attempt_is_cancelled_and_the_next_one_runs(
    suite_at: Callable[..., wire.PytestSuite],
) -> None:
    suite = suite_at(
        """
        def test_0(): signal.pause()
        def test_1(): pass
        def test_2(): pass
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(task.task_id) for task in plan.tasks])
            await conductor.expect(wire.AttemptsStarted)
            conductor.send(wire.KillLeases(lease_ids=(LeaseId(1), LeaseId(2)), reason="stop it"))
            await conductor.until(lambda: len(conductor.results) == 3)
            verdicts = {number: result.verdict.value for number, result in conductor.results.items()}
            assert verdicts == {1: "cancelled", 2: "cancelled", 3: "passed"}
            assert conductor.results[1].evidence.startswith("stop it")

    drive(scenario)


def test_two_runs_share_a_slot(suite_at: Callable[..., wire.PytestSuite], tmp_path: Path) -> None:
    log = tmp_path / "log"
    suite = suite_at(
        f"""
        @pytest.fixture(scope="module")
        def resource():
            yield
            open({str(log)!r}, "a").write("down ")
        def test_a(resource, testrun_uid): open({str(log)!r}, "a").write(testrun_uid[0] + " ")
        """
    )
    runs = [RunId("a" * 32), RunId("b" * 32)]

    async def scenario() -> None:
        async with conducted() as conductor:
            for run_id in runs:
                await conductor.plan(suite, run_id)
            # The first runner is told that nothing follows because the next lease is another run's.
            leases = [conductor.lease("test_it.py::test_a", run_id=run_id) for run_id in runs]
            conductor.grant(leases)
            await conductor.until(lambda: len(conductor.results) == 2)
        assert log.read_text() == "a down b down "

    drive(scenario)


@pytest.mark.parametrize("seed", range(3))
def test_every_lease_is_answered_exactly_once(seed: int, suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(
        """
        @pytest.fixture(scope="module")
        def resource():
            yield
        @pytest.mark.parametrize("n", range(120))
        def test_n(n, resource):
            if n % 10 == 3: os._exit(1)
            if n % 20 == 7: os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(n % 7 / 1000)
        """
    )
    choice = random.Random(seed)

    async def scenario() -> None:
        async with conducted(slots=2) as conductor:
            plan = await conductor.plan(suite)
            todo = [task.task_id for task in plan.tasks]
            open_leases: dict[int, str] = {}
            answers: Counter[int] = Counter()

            def take_answers() -> None:
                for message in conductor.messages:
                    if isinstance(message, wire.AttemptsFinished):
                        ids, again = [result.lease_id for result in message.results], False
                    elif isinstance(message, wire.LeasesReturned | wire.InfrastructureFailed):
                        ids, again = list(message.lease_ids), True
                    else:
                        continue
                    for lease_id in ids:
                        answers[lease_id] += 1
                        task_id = open_leases.pop(lease_id)
                        if again:
                            todo.append(task_id)
                conductor.messages.clear()

            def disturb() -> None:
                ids = tuple(LeaseId(n) for n in choice.sample(sorted(open_leases), min(3, len(open_leases))))
                if choice.random() < 0.3:
                    conductor.send(wire.RevokeLeases(lease_ids=ids))
                elif choice.random() < 0.1:
                    conductor.send(wire.KillLeases(lease_ids=ids[:1], reason="chaos"))

            while todo or open_leases:
                for slot in range(2):
                    leases = [conductor.lease(todo.pop()) for _ in range(min(len(todo), choice.randrange(6)))]
                    open_leases.update({lease.lease_id: lease.task_id for lease in leases})
                    # A promise with fewer leases could leave every runner waiting for a successor, and us for them.
                    more_follow = len(leases) > 1 and bool(todo) and choice.random() < 0.8
                    conductor.grant(leases, slot, more_follow=more_follow)
                disturb()
                if open_leases:
                    await conductor.until(lambda: conductor.messages)
                    take_answers()
            assert set(answers.values()) == {1}
            # Each test once: what was revoked had not begun.
            assert len(conductor.results) == len(plan.tasks)

    drive(scenario)


def test_the_same_test_twice_in_a_row(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at("def test_a(): pass")

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(plan.tasks[0].task_id) for _ in range(3)])
            await conductor.until(lambda: len(conductor.results) == 3)

    drive(scenario)


def test_an_unknown_test_is_given_back_as_not_collectable(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at("def test_a(): pass")

    async def scenario() -> None:
        async with conducted() as conductor:
            await conductor.plan(suite)
            conductor.grant([conductor.lease("test_it.py::test_b"), conductor.lease("test_it.py::test_a")])
            returned = await conductor.expect(wire.LeasesReturned)
            assert returned == wire.LeasesReturned(lease_ids=(LeaseId(1),), not_collectable=True)
            await conductor.until(lambda: 2 in conductor.results)

    drive(scenario)


# Templates ----------------------------------------------------------------------------------------------------------


def test_spawned_runners_collect_for_themselves(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(
        """
        import threading
        threading.Thread(target=threading.Event().wait, daemon=True).start()
        def test_a(worker_id): assert worker_id == "gw0"
        def test_dies(): os._exit(1)
        def test_b(): pass
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            results = await conductor.run(suite)
            notice = await conductor.expect(wire.RunNotice)
        assert [result.verdict.value for result in results.values()] == ["passed", "crashed", "passed"]
        assert "afresh" in notice.text
        assert "thread" in notice.text

    drive(scenario)


def test_a_killed_template_is_replaced_and_no_test_is_blamed(
    suite_at: Callable[..., wire.PytestSuite], tmp_path: Path
) -> None:
    marker = tmp_path / "was-here"
    suite = suite_at(
        f"""
        def test_kills_its_parent():
            if not os.path.exists({str(marker)!r}):
                open({str(marker)!r}, "w").close()
                os.kill(os.getppid(), signal.SIGKILL)
                signal.pause()
        def test_b(): pass
        """
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(task.task_id) for task in plan.tasks])
            failed = await conductor.expect(wire.InfrastructureFailed)
            assert failed.lease_ids == (1,)
            conductor.grant([conductor.lease(plan.tasks[0].task_id)])
            await conductor.until(lambda: len(conductor.results) == 2)
            assert {n: r.verdict.value for n, r in conductor.results.items()} == {2: "passed", 3: "passed"}

    drive(scenario)


def test_runners_that_never_come_up_are_no_fault_of_a_test(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at("os.register_at_fork(after_in_child=lambda: os._exit(5))\ndef test_a(): pass", start_method="fork")

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(plan.tasks[0].task_id)])
            failed = await conductor.expect(wire.InfrastructureFailed)
        assert failed.lease_ids == (1,)
        assert "before its first test; the last one ended with exit status 5" in failed.reason

    drive(scenario)


def test_a_machine_that_cannot_fork_gives_its_leases_back(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(
        """
        def fork():
            raise BlockingIOError(11, "Resource temporarily unavailable")
        sys.modules["_fleetest_runner.template"]._fork = fork
        def test_a(): pass
        """,
        start_method="fork",
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
            conductor.grant([conductor.lease(plan.tasks[0].task_id)])
            failed = await conductor.expect(wire.InfrastructureFailed)
        assert failed.lease_ids == (1,)
        assert failed.reason.startswith("worker box: cannot fork: ")
        assert "temporarily unavailable" in failed.reason
        assert "\n" not in failed.reason

    drive(scenario)


@pytest.mark.parametrize("is_told", [True, False])
def test_a_template_that_was_started_early_is_taken_over(
    is_told: bool, suite_at: Callable[..., wire.PytestSuite], tmp_path: Path
) -> None:
    suite = suite_at("def test_a(): open('parent', 'w').write(str(os.getppid()))")
    run_id = RunId("c" * 32)
    scratch = tmp_path / "early"
    scratch.mkdir()
    start = start_frame(
        args=suite.args, directory=suite.directory, run_uid=run_id, runner_count=1, scratch=str(scratch)
    )
    early = start_template_early(start=start if is_told else None)

    async def scenario() -> None:
        async with conducted(adopt=early) as conductor:
            conductor.run_id = run_id
            await conductor.run(suite)
            assert Path(suite.directory, "parent").read_text() == str(early.process.pid)
        assert is_gone(early.process.pid)
        assert scratch.exists() is not is_told

    drive(scenario)


def test_a_template_that_does_not_fit_is_not_used_and_not_left(
    suite_at: Callable[..., wire.PytestSuite], tmp_path: Path
) -> None:
    suite = suite_at("def test_a(): open('parent', 'w').write(str(os.getppid()))")
    start = start_frame(
        args=("-k", "other"), directory=suite.directory, run_uid="d" * 32, runner_count=1, scratch=str(tmp_path / "s")
    )
    early = start_template_early(start=start)

    async def scenario() -> None:
        async with conducted(adopt=early) as conductor:
            await conductor.run(suite)
            assert Path(suite.directory, "parent").read_text() != str(early.process.pid)
        assert is_gone(early.process.pid)

    drive(scenario)


def test_errors_in_marks_are_collection_errors_that_pytest_can_show(
    suite_at: Callable[..., wire.PytestSuite],
) -> None:
    suite = suite_at("@pytest.mark.fleet(gpu=1)\ndef test_a(): pass\ndef test_b(): pass")

    async def scenario() -> None:
        async with conducted() as conductor:
            conductor.prepare(suite)
            failed = await conductor.expect(wire.SuiteFailed)
            (reports,) = conductor.all_of(wire.CollectionReports)
        assert failed.kind == "collection_errors"
        assert failed.text.startswith("test_it.py:3: fleet mark: unknown key 'gpu'; did you mean 'gpus'?")
        (report,) = reports.reports
        restored = pytest.CollectReport._from_json(json.loads(report))
        assert restored.failed
        assert restored.longreprtext.strip() == failed.text

    drive(scenario)


def test_marks_and_defaults_become_the_plan(suite_at: Callable[..., wire.PytestSuite]) -> None:
    suite = suite_at(
        """
        @pytest.mark.fleet(gpus=1, requires="cuda>=12", timeout=5)
        class TestGpu:
            @pytest.mark.fleet(gpus=2, requires="os=linux", retries=0, group="g")
            def test_a(self): pass
        @pytest.mark.xdist_group("together")
        def test_b(): pass
        def test_c(): pass
        """,
        name="gpu",
        timeout_s=60.0,
        retries=2,
        priority=3,
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            plan = await conductor.plan(suite)
        first, second, third = plan.tasks
        wanted = parse_options({"gpus": 2, "requires": "os=linux, cuda>=12"})
        assert first == TaskSpec(
            TaskId("gpu::test_it.py::TestGpu::test_a"), "gpu", "g", True, wanted.requirements, 3, 5.0, 0
        )
        assert (second.group, second.keep_together, second.timeout_s, second.retries) == ("together", True, 60.0, 2)
        assert (third.group, third.keep_together) == ("test_it.py", False)
        assert [item.node_id for item in plan.items] == [
            "test_it.py::TestGpu::test_a",
            "test_it.py::test_b",
            "test_it.py::test_c",
        ]
        assert {"test_a", "TestGpu", "test_it.py"} <= set(plan.items[0].keywords)

    drive(scenario)


@pytest.mark.parametrize("case", ["no directory", "no interpreter", "no pytest"])
def test_what_this_machine_lacks_is_said_in_one_line(
    case: str, suite_at: Callable[..., wire.PytestSuite], tmp_path: Path
) -> None:
    bare = tmp_path / "bare-python"
    bare.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -S "$@"\n')
    bare.chmod(0o755)
    fields, wanted = {
        "no directory": ({"directory": str(tmp_path / "nowhere")}, "box does not see"),
        "no interpreter": ({"python": "/nowhere/python"}, "no interpreter /nowhere/python"),
        "no pytest": ({"python": str(bare)}, "pip install pytest"),
    }[case]
    suite = suite_at("def test_a(): pass", **fields)

    async def scenario() -> None:
        async with conducted() as conductor:
            conductor.prepare(suite)
            failed = await conductor.expect(wire.SuiteFailed)
        assert failed.kind == "unavailable"
        assert wanted in failed.text
        assert "\n" not in failed.text

    drive(scenario)


def test_a_conftest_that_kills_the_process_is_told_with_its_last_words(
    suite_at: Callable[..., wire.PytestSuite],
) -> None:
    suite = suite_at("sys.__stderr__.write('no licence\\n'); sys.__stderr__.flush(); os._exit(9)", args=("-s",))

    async def scenario() -> None:
        async with conducted() as conductor:
            conductor.prepare(suite)
            failed = await conductor.expect(wire.SuiteFailed)
        assert failed.kind == "internal_error"
        assert "exit status 9" in failed.text
        assert "no licence" in failed.text

    drive(scenario)


def test_output_past_capture_is_forwarded_and_secrets_are_not(
    suite_at: Callable[..., wire.PytestSuite], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLEETEST_TOKEN_FILE", "/secret")
    suite = suite_at(
        "def test_a(): print('token', os.environ.get('FLEETEST_TOKEN_FILE'), os.environ['MINE'])",
        args=("-s",),
        environment={"MINE": "yes"},
    )

    async def scenario() -> None:
        async with conducted() as conductor:
            await conductor.run(suite)
            await conductor.until(lambda: "token None yes" in "".join(m.text for m in conductor.all_of(wire.RunOutput)))

    drive(scenario)


# The end ------------------------------------------------------------------------------------------------------------


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
from support.conductor import PATIENCE_S, Conductor, conducted, drive, is_gone, read_fifo, until_gone, write_fifo

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


# Commands -----------------------------------------------------------------------------------------------------------


def command_suite(tmp_path: Path, **commands: dict[str, Any]) -> wire.CommandSuite:
    specs = tuple(
        wire.CommandSpec(**{"name": name, "directory": str(tmp_path), **fields}) for name, fields in commands.items()
    )
    tasks = tuple(TaskSpec(TaskId(spec.name), timeout_s=spec.timeout_s) for spec in specs)
    return wire.CommandSuite(commands=specs, tasks=tasks, artifact_directory=str(tmp_path / "artifacts"))


async def run_commands(suite: wire.CommandSuite) -> dict[str, AttemptResult]:
    async with conducted(output_limit_bytes=10_000, term_grace_s=0.2) as conductor:
        conductor.prepare(suite)
        collected = await conductor.expect(wire.SuiteCollected)
        assert collected.count == len(suite.commands)
        leases = [conductor.lease(task.task_id, timeout_s=task.timeout_s) for task in suite.tasks]
        conductor.grant(leases)
        await conductor.until(lambda: len(conductor.results) == len(leases))
        return {lease.task_id: conductor.results[lease.lease_id] for lease in leases}


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def test_commands_and_their_verdicts(tmp_path: Path) -> None:
    suite = command_suite(
        tmp_path,
        ok={"argv": ("sh", "-c", "echo out; echo err >&2; echo $MINE"), "environment": {"MINE": "mine"}},
        fails={"argv": ("sh", "-c", "exit 3")},
        expected={"argv": ("sh", "-c", "exit 3"), "expected_exit_status": 3},
        signalled={"argv": ("sh", "-c", "kill -SEGV $$")},
        missing={"argv": ("no-such-program",)},
        lost={"argv": ("true",), "directory": str(tmp_path / "nowhere")},
        hangs={"argv": ("sh", "-c", "trap '' TERM; echo waiting; sleep 1000 & wait; wait"), "timeout_s": 0.5},
        loud={"argv": python("print('a' * 1_000_000 + 'z')")},
    )
    results: dict[str, AttemptResult] = {}

    async def scenario() -> None:
        results.update(await run_commands(suite))

    drive(scenario)
    assert {name: result.verdict.value for name, result in results.items()} == {
        "ok": "passed",
        "fails": "failed",
        "expected": "passed",
        "signalled": "crashed",
        "missing": "error",
        "lost": "error",
        "hangs": "timeout",
        "loud": "passed",
    }
    assert results["ok"].output == "out\nerr\nmine\n"
    assert results["ok"].peak_memory_bytes > 0
    assert results["fails"].evidence == "the command ended with exit status 3, expected 0"
    assert "SIGSEGV" in results["signalled"].evidence
    assert "cannot run 'no-such-program'" in results["missing"].evidence
    assert "cannot enter its directory" in results["lost"].evidence
    assert results["hangs"].output == "waiting\n"
    assert "bytes cut" in results["loud"].output
    assert results["loud"].output.endswith("z\n")
    assert len(results["loud"].output) < 11_000


def test_a_daemon_that_holds_the_pipe_does_not_hold_the_command(tmp_path: Path) -> None:
    suite = command_suite(tmp_path, daemon={"argv": ("sh", "-c", "sleep 1000 & echo $!")})
    results: dict[str, AttemptResult] = {}

    async def scenario() -> None:
        results.update(await run_commands(suite))
        await until_gone(int(results["daemon"].output))

    drive(scenario)
    assert results["daemon"].verdict is Verdict.PASSED


def test_artifacts_are_kept_and_stay_inside_the_directory(tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()
    (tmp_path / "outside.txt").write_text("secret")
    suite = command_suite(
        tmp_path,
        makes={
            "argv": ("sh", "-c", "mkdir -p logs; echo 1 > logs/a.log; echo 2 > b.txt; ln -s ../outside.txt c.txt"),
            "directory": str(work),
            "artifacts": ("logs/*.log", "*.txt", "../*.txt"),
        },
    )
    results: dict[str, AttemptResult] = {}

    async def scenario() -> None:
        results.update(await run_commands(suite))

    drive(scenario)
    target = tmp_path / "artifacts" / "makes" / "attempt-1"
    assert [Path(path) for path in results["makes"].artifacts] == [target / "logs/a.log", target / "b.txt"]
    assert (target / "b.txt").read_text() == "2\n"
