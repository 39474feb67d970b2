"""Slots, their queues, deadlines, pacing and the outbox: with seats and clocks of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from fleetest.core.model import AttemptResult, Lease, LeaseId, RunId, TaskId, Verdict
from fleetest.processes import outbox as outbox_module
from fleetest.processes.deadline import RunningDeadline
from fleetest.processes.outbox import Outbox
from fleetest.processes.read_pacer import PAUSE_S, ResultRate
from fleetest.processes.reporting import HeldLease
from fleetest.processes.slot import Slot
from fleetest.wire import messages as wire


def held(number: int, run: str = "r", suite: str = "") -> HeldLease:
    return HeldLease(Lease(LeaseId(number), RunId(run), TaskId(f"t{number}"), suite, 1))


def numbers(leases: Sequence[HeldLease]) -> list[int]:
    return [each.lease.lease_id for each in leases]


class RecordingReporter:
    def __init__(self) -> None:
        self.results: list[AttemptResult] = []
        self.given_back: list[int] = []

    def finished(self, result: AttemptResult) -> None:
        self.results.append(result)

    def returned(self, lease_ids: Sequence[LeaseId], *, not_collectable: bool = False) -> None:
        self.given_back += lease_ids

    def infrastructure_failed(self, lease_ids: Sequence[LeaseId], reason: str, *, has_started: bool = False) -> None:
        raise AssertionError(reason)

    def tell(self, message: wire.WorkerMessage) -> None:
        raise AssertionError(message)

    def wake(self) -> None:
        pass


class ScriptedSeat:
    """Holds up to ``room`` leases until the test says that they are done."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.leases: list[HeldLease] = []
        self.told: list[str] = []

    @property
    def is_empty(self) -> bool:
        return not self.leases

    @property
    def current(self) -> HeldLease | None:
        return self.leases[0] if self.leases else None

    def held(self) -> list[LeaseId]:
        return [each.lease.lease_id for each in self.leases]

    def capacity(self) -> int:
        return self.room - len(self.leases)

    def give(self, leases: Sequence[HeldLease]) -> None:
        self.leases += leases

    def advance(self) -> None:
        self.told.append("advance")

    def nothing_follows(self) -> None:
        self.told.append("nothing follows")

    def take_back(self, lease_ids: set[LeaseId] | None) -> list[HeldLease]:
        taken = [each for each in self.leases[1:] if lease_ids is None or each.lease.lease_id in lease_ids]
        self.leases = [each for each in self.leases if each not in taken]
        return taken

    def kill(self, lease_ids: set[LeaseId], reason: str) -> None:
        self.told.append(f"kill {sorted(lease_ids)} {reason}")

    async def finish(self) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError


@pytest.fixture
def reporter() -> RecordingReporter:
    return RecordingReporter()


@pytest.fixture
def seats() -> dict[tuple[str, str], ScriptedSeat]:
    return {("r", ""): ScriptedSeat(2), ("r", "other"): ScriptedSeat(2)}


@pytest.fixture
def slot(reporter: RecordingReporter, seats: dict[Any, ScriptedSeat]) -> Slot:
    return Slot(0, make_seat=lambda _slot, key: seats.get(key), reporter=reporter)


def test_a_seat_gets_what_it_has_room_for(slot: Slot, seats: dict[Any, ScriptedSeat]) -> None:
    seat = seats["r", ""]
    slot.grant(map(held, range(1, 6)))
    assert seat.held() == [1, 2]
    seat.leases.clear()
    slot.pump()
    assert seat.held() == [3, 4]
    assert slot.held() == [3, 4, 5]
    assert slot.running is seat.leases[0]


def test_another_suite_waits_until_the_first_is_done_and_told(slot: Slot, seats: dict[Any, ScriptedSeat]) -> None:
    first, other = seats["r", ""], seats["r", "other"]
    slot.grant([held(1), held(2, suite="other"), held(3)])
    assert (first.held(), other.held(), first.told) == ([1], [], ["nothing follows"])
    first.leases.clear()
    slot.pump()
    assert (first.held(), other.held()) == ([], [2])
    other.leases.clear()
    slot.pump()
    assert first.held() == [3]


def test_nothing_follows_only_once_the_queue_is_empty_and_it_was_said(
    slot: Slot, seats: dict[Any, ScriptedSeat]
) -> None:
    seat = seats["r", ""]
    slot.grant(map(held, range(1, 4)))
    slot.nothing_follows()
    assert seat.told == []
    seat.leases.clear()
    slot.pump()
    assert seat.told == ["nothing follows"]
    seat.leases.clear()
    slot.grant([held(4)])
    assert seat.told == ["nothing follows"]


def test_revoking_takes_from_queue_and_seat_but_not_what_runs(slot: Slot, seats: dict[Any, ScriptedSeat]) -> None:
    slot.grant(map(held, range(1, 6)))
    assert sorted(slot.revoke({LeaseId(1), LeaseId(2), LeaseId(4)})) == [2, 4]
    assert seats["r", ""].held() == [1, 3]
    assert sorted(slot.revoke(None)) == [3, 5]
    assert slot.held() == [1]


def test_killing_cancels_what_waits_and_asks_the_seat_for_the_rest(
    slot: Slot, seats: dict[Any, ScriptedSeat], reporter: RecordingReporter
) -> None:
    slot.grant(map(held, range(1, 5)))
    slot.kill({LeaseId(1), LeaseId(4)}, "enough")
    assert [(result.lease_id, result.verdict, result.evidence) for result in reporter.results] == [
        (4, Verdict.CANCELLED, "enough")
    ]
    assert seats["r", ""].told == ["kill [1, 4] enough"]


def test_leases_of_an_unknown_run_are_given_back(slot: Slot, reporter: RecordingReporter) -> None:
    slot.grant([held(1, run="unknown"), held(2)])
    assert reporter.given_back == [1]
    assert slot.held() == [2]


def test_the_end_of_a_run_frees_the_slot(
    slot: Slot, seats: dict[Any, ScriptedSeat], reporter: RecordingReporter
) -> None:
    slot.grant(map(held, range(1, 4)))
    assert slot.end_run(RunId("r")) == [seats["r", ""]]
    assert reporter.given_back == [3]
    assert slot.is_empty


# Deadlines ----------------------------------------------------------------------------------------------------------


class ManualTimer:
    def __init__(self, at: float, call: Callable[[], None]) -> None:
        self.at, self.call, self.is_cancelled = at, call, False

    def when(self) -> float:
        return self.at

    def cancel(self) -> None:
        self.is_cancelled = True


class ManualLoop:
    """A clock and its timers, turned by hand."""

    def __init__(self) -> None:
        self.now = 100.0
        self.timers: list[ManualTimer] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, call: Callable[[], None]) -> ManualTimer:
        self.timers.append(ManualTimer(at, call))
        return self.timers[-1]

    def advance(self, seconds: float) -> None:
        until = self.now + seconds
        while due := [timer for timer in self.timers if timer.at <= until and not timer.is_cancelled]:
            timer = min(due, key=ManualTimer.when)
            self.timers.remove(timer)
            self.now = max(self.now, timer.at)
            timer.call()
        self.now = until


@pytest.fixture
def clock() -> ManualLoop:
    return ManualLoop()


@pytest.fixture
def fired(clock: ManualLoop) -> list[float]:
    return []


@pytest.fixture
def deadline(clock: ManualLoop, fired: list[float]) -> RunningDeadline:
    return RunningDeadline(clock, lambda: fired.append(clock.now))  # type: ignore[arg-type]


def test_a_deadline_passes_once(clock: ManualLoop, deadline: RunningDeadline, fired: list[float]) -> None:
    deadline.set(2.0)
    clock.advance(1.9)
    assert not deadline.is_over
    clock.advance(1.0)
    assert fired == [102.0]
    assert deadline.is_over


def test_many_short_tests_share_one_timer(clock: ManualLoop, deadline: RunningDeadline, fired: list[float]) -> None:
    for _ in range(100):
        deadline.set(2.0)
        clock.advance(0.01)
        assert len(clock.timers) == 1
        deadline.clear()
    clock.advance(5.0)
    assert fired == []
    assert clock.timers == []


def test_a_shorter_deadline_after_a_longer_one_is_kept(
    clock: ManualLoop, deadline: RunningDeadline, fired: list[float]
) -> None:
    deadline.set(50.0)
    deadline.set(1.0)
    clock.advance(2.0)
    assert fired == [101.0]


def test_waiting_time_does_not_count(clock: ManualLoop, deadline: RunningDeadline, fired: list[float]) -> None:
    deadline.set(5.0)
    clock.advance(2.0)
    deadline.suspend()
    clock.advance(60.0)
    assert fired == []
    deadline.resume()
    clock.advance(10.0)
    assert fired == [165.0]


def test_no_timeout_no_deadline(clock: ManualLoop, deadline: RunningDeadline) -> None:
    deadline.set(1.0)
    deadline.set(None)
    clock.advance(10.0)
    assert not deadline.is_over


# Pacing -------------------------------------------------------------------------------------------------------------


def test_fast_results_are_read_late_slow_ones_at_once() -> None:
    rate, now = ResultRate(0.0), 0.0
    for _ in range(30):
        now += 0.001
        fast = rate.may_pause(2, queued=200, now=now)
    assert fast
    # What is queued would not outlast the pause.
    assert not rate.may_pause(2, queued=int(2000 * PAUSE_S), now=now + 0.001)
    assert not rate.may_pause(1, queued=200, now=now + 0.5)
    assert not rate.may_pause(0, queued=200, now=now + 0.6)


# Outbox -------------------------------------------------------------------------------------------------------------


def result(number: int, output: str = "") -> AttemptResult:
    return AttemptResult(LeaseId(number), Verdict.PASSED, output=output)


def in_loop(scenario: Callable[[], Any]) -> None:
    async def run() -> None:
        await scenario()

    asyncio.run(run())


def test_everything_of_one_turn_of_the_loop_leaves_in_one_message() -> None:
    async def scenario() -> None:
        running = held(9)
        running.started_at = 5.0
        outbox, sent = Outbox(lambda: [running], keeps_sent=False), []
        outbox.attach(sent.append)
        assert sent == [wire.AttemptsStarted(leases=((LeaseId(9), 5.0),))]
        outbox.finished(result(1))
        outbox.wake()
        outbox.finished(result(2))
        outbox.wake()
        outbox.returned([LeaseId(3)])
        await asyncio.sleep(0)
        assert sent[1:] == [
            wire.LeasesReturned(lease_ids=(LeaseId(3),)),
            wire.AttemptsFinished(results=[result(1), result(2)]),
        ]

    in_loop(scenario)


def test_what_was_sent_last_goes_again_over_a_new_link() -> None:
    async def scenario() -> None:
        outbox, sent = Outbox(list, keeps_sent=True), []
        outbox.attach(sent.append)
        outbox.finished(result(1))
        outbox.flush()
        outbox.detach()
        outbox.finished(result(2))
        outbox.tell(wire.Draining())
        outbox.flush()
        assert outbox.unconfirmed() == [1, 2]
        sent.clear()
        outbox.attach(sent.append)
        assert sent == [wire.Draining(), wire.AttemptsFinished(results=[result(1), result(2)])]
        outbox.forget_all()
        assert outbox.unconfirmed() == []

    in_loop(scenario)


def test_what_is_kept_is_bounded_in_time_and_number(monkeypatch: pytest.MonkeyPatch) -> None:
    async def scenario() -> None:
        now = 0.0
        monkeypatch.setattr(outbox_module.time, "monotonic", lambda: now)
        monkeypatch.setattr(outbox_module, "_KEPT_RESULTS_MAX", 3)
        outbox = Outbox(list, keeps_sent=True)
        outbox.attach(lambda message: None)
        for number in range(1, 7):
            outbox.finished(result(number))
            outbox.flush()
        assert 6 in outbox.unconfirmed()
        assert 1 not in outbox.unconfirmed()
        now = 1000.0
        outbox.finished(result(7))
        outbox.flush()
        assert outbox.unconfirmed() == [7]

    in_loop(scenario)


def test_large_results_are_cut_into_messages_that_fit() -> None:
    async def scenario() -> None:
        outbox, sent = Outbox(list, keeps_sent=False), []
        outbox.attach(sent.append)
        for number in range(12):
            outbox.finished(result(number, output="x" * 1_000_000))
        outbox.flush()
        assert [len(message.results) for message in sent] == [5, 5, 2]

    in_loop(scenario)
