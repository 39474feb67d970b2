"""How far a run has come, as numbers: counts, rate, time left, what each slot does. No terminal, no threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from statistics import median

from fleetest.core.model import Instant, TaskId, TaskSpec, Verdict, base_id
from fleetest.wire.messages import (
    CoordinatorToClient,
    FleetChanged,
    Outcome,
    RunAccepted,
    SuitePlan,
    TasksFinished,
    TasksStarted,
)

RATE_WINDOW_S = 5.0
"""The shown rate is that of this last stretch of time."""
PRIOR_S = 2.0
"""Weight of the belief that every slot works at the expected speed, against the speed seen so far."""


@dataclass(frozen=True, slots=True)
class SlotState:
    """One runner and what it executes: ``task_id`` is None while it is idle."""

    worker: str
    runner: str
    task_id: TaskId | None
    running_s: float


@dataclass(frozen=True, slots=True)
class ProgressSnapshot:
    """The state of a run at one instant."""

    planned: int
    finished: int
    counts: Mapping[Verdict, int]
    retried: int
    elapsed_s: float
    tests_per_s: float
    left_s: float | None
    """Predicted time to the end; None while nothing is known to predict from."""
    slots: tuple[SlotState, ...]
    worker_count: int


@dataclass(slots=True)
class _Slot:
    worker: str
    task_id: TaskId | None = None
    started_at: Instant = 0.0


@dataclass(slots=True)
class _Work:
    """Expected seconds of a set of tasks, those without an expectation counted apart."""

    known_s: float = 0.0
    unknown: int = 0

    def add(self, expected_s: float | None, sign: int = 1) -> None:
        if expected_s is None:
            self.unknown += sign
        else:
            self.known_s += sign * expected_s

    def total_s(self, typical_s: float) -> float:
        return max(0.0, self.known_s) + self.unknown * typical_s


@dataclass(slots=True)
class RunProgress:
    """Fed with every message of the client link; ``started_at`` is when the user began to wait."""

    started_at: Instant
    counts: dict[Verdict, int] = field(default_factory=dict)
    _unfinished: dict[TaskId, float | None] = field(default_factory=dict)
    _finished: int = 0
    _retried: int = 0
    _left: _Work = field(default_factory=_Work)
    _done: _Work = field(default_factory=_Work)
    _known: list[float] = field(default_factory=list)
    _typical_s: float | None = None
    _observed_s: float = 0.0
    _observed: int = 0
    _first_work_at: Instant | None = None
    _recent: deque[tuple[Instant, int]] = field(default_factory=deque)
    _slots: dict[str, _Slot] = field(default_factory=dict)
    _slot_count: int = 0
    _workers: set[str] = field(default_factory=set)

    def plan(self, tasks: Iterable[TaskSpec]) -> None:
        """These tasks belong to the run. One that is already known only gets its expected duration."""
        for task in tasks:
            for known_id in {task.task_id, base_id(task.task_id, task.variant)} & self._unfinished.keys():
                self._left.add(self._unfinished.pop(known_id), -1)
            self._unfinished[task.task_id] = task.expected_s
            self._left.add(task.expected_s)
            if task.expected_s is not None:
                self._known.append(task.expected_s)
        self._typical_s = median(self._known) if self._known else None

    def note(self, message: CoordinatorToClient, now: Instant) -> None:
        """Take one message into account. Costs a few dictionary operations per task that it names."""
        if isinstance(message, TasksFinished):
            for outcome in message.outcomes:
                self._note_outcome(outcome, now)
            self._remember_rate(now)
        elif isinstance(message, TasksStarted):
            self._begin_work(now)
            for task_id, _attempt, worker, runner in message.tasks:
                self._slots[runner] = _Slot(worker, task_id, now)
                self._workers.add(worker)
        elif isinstance(message, SuitePlan):
            self.plan(message.tasks)
        elif isinstance(message, RunAccepted):
            self._slot_count = message.slots
            self._workers = set(message.workers)
        elif isinstance(message, FleetChanged):
            self._workers = {name for name, _slots in message.workers}
            self._slot_count = sum(slots for _name, slots in message.workers)
            self._slots = {runner: slot for runner, slot in self._slots.items() if slot.worker in self._workers}

    def _begin_work(self, now: Instant) -> None:
        if self._first_work_at is None:
            self._first_work_at = now
            self._remember_rate(now)

    def _note_outcome(self, outcome: Outcome, now: Instant) -> None:
        if outcome.runner:
            self._begin_work(now)
            slot = self._slots.get(outcome.runner)
            if slot is None:
                self._slots[outcome.runner] = _Slot(outcome.worker)
            elif slot.task_id == outcome.task_id:
                slot.task_id = None
        if outcome.result is not None:
            self._observed_s += outcome.result.duration_s
            self._observed += 1
        if not outcome.is_final:
            self._retried += 1
            return
        if outcome.task_id not in self._unfinished:
            return
        expected_s = self._unfinished.pop(outcome.task_id)
        self._left.add(expected_s, -1)
        if outcome.result is not None:
            self._done.add(expected_s)
        self._finished += 1
        self.counts[outcome.verdict] = self.counts.get(outcome.verdict, 0) + 1

    def snapshot(self, now: Instant) -> ProgressSnapshot:
        """Cost grows with the number of slots, never with the number of tasks."""
        slots = tuple(
            SlotState(slot.worker, runner, task_id, now - slot.started_at if task_id is not None else 0.0)
            for runner, slot in self._slots.items()
            for task_id in [self._task_of(slot)]
        )
        return ProgressSnapshot(
            planned=self._finished + len(self._unfinished),
            finished=self._finished,
            counts=dict(self.counts),
            retried=self._retried,
            elapsed_s=now - self.started_at,
            tests_per_s=self._rate(now),
            left_s=self._time_left(now),
            slots=slots,
            worker_count=len(self._workers),
        )

    def _remember_rate(self, now: Instant) -> None:
        self._recent.append((now, self._finished))
        self._forget_rates(now)

    def _forget_rates(self, now: Instant) -> None:
        while len(self._recent) > 1 and self._recent[1][0] <= now - RATE_WINDOW_S:
            self._recent.popleft()

    def _rate(self, now: Instant) -> float:
        self._forget_rates(now)
        if not self._recent or now <= self._recent[0][0]:
            return 0.0
        since, finished = self._recent[0]
        return (self._finished - finished) / (now - since)

    @property
    def is_anything_running(self) -> bool:
        return any(self._task_of(slot) is not None for slot in self._slots.values())

    def _task_of(self, slot: _Slot) -> TaskId | None:
        """What it executes, unless another attempt of that task has given the verdict meanwhile."""
        return slot.task_id if slot.task_id in self._unfinished else None

    def _time_left(self, now: Instant) -> float | None:
        """Expected seconds that remain, divided by expected seconds done per second of waiting so far."""
        typical_s = self._typical_s
        if typical_s is None:
            if not self._observed:
                return None
            typical_s = max(self._observed_s / self._observed, 1e-6)
        if self._first_work_at is None:
            elapsed_s = 0.0
        else:
            elapsed_s = now - self._first_work_at
        begun_s, longest_s = 0.0, 0.0
        for slot in self._slots.values():
            if slot.task_id is None or slot.task_id not in self._unfinished:
                continue
            known_s = self._unfinished[slot.task_id]
            expected_s = typical_s if known_s is None else known_s
            ran_s = min(now - slot.started_at, expected_s)
            begun_s += ran_s
            longest_s = max(longest_s, expected_s - ran_s)
        slots = max(1, self._slot_count, len(self._slots))
        speed = (self._done.total_s(typical_s) + begun_s + slots * PRIOR_S) / (elapsed_s + PRIOR_S)
        left_s = max(0.0, self._left.total_s(typical_s) - begun_s) / speed
        return max(left_s, longest_s)
