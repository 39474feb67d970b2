"""What one slot has before it: leases that are granted, revoked and killed, and that nothing follows."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from support.conductor import conducted, drive, write_fifo

from fleetest.core.model import LeaseId, RunId
from fleetest.wire import messages as wire


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
