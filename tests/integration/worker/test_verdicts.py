"""How tests end in real runners; the coordinator is played by the test over an in-memory link."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from support.conductor import conducted, drive, read_fifo

from fleetest.core.model import Verdict
from fleetest.wire import messages as wire


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
