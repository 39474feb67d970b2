"""What the state itself does not keep of live runs: how each attempt ended, when, and in which order."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import NamedTuple

from fleetest.api.fleet import Fleet, RunFacts
from fleetest.core import commands, events
from fleetest.core.entities import Run, Task
from fleetest.core.model import RunId, TaskId, Verdict


class AttemptRow(NamedTuple):
    """One ended attempt, or a verdict without one (``worker`` empty). Times are wall time, seconds."""

    task_id: TaskId
    attempt: int
    verdict: Verdict
    is_final: bool
    worker: str
    slot: int | None
    started_at: float | None
    duration_s: float | None
    reason: str


@dataclass(slots=True, eq=False)
class IndexedRun:
    """One run; ``attempts`` in the order in which they ended."""

    run_id: RunId
    facts: RunFacts
    attempts: list[AttemptRow] = field(default_factory=list)
    final: dict[TaskId, AttemptRow] = field(default_factory=dict)
    by_verdict: dict[Verdict, list[TaskId]] = field(default_factory=dict)
    started: dict[TaskId, float] = field(default_factory=dict)
    """Wall time at which we heard that the present attempt had started."""
    ended_at: float | None = None
    shown: tuple[int, int, float] = (0, 0, -inf)
    """Attempts that the timeline tells at the moment; changes until then; when (monotonic)."""


class LiveIndex:
    """Follows the coordinator's events. A run is kept as long as the state remembers it.

    ``wall`` is the time of day in seconds since the epoch.
    """

    def __init__(self, fleet: Fleet, wall: Callable[[], float] = time.time) -> None:
        self._fleet = fleet
        self._wall = wall
        self.runs: dict[RunId, IndexedRun] = {}
        self.changes = 0
        """Events so far, except that a worker is still there."""
        self.finished_total = 0
        self.verdicts_total: dict[Verdict, int] = dict.fromkeys(Verdict, 0)
        fleet.observe(self._observe)

    def get(self, run_id: RunId) -> tuple[Run, IndexedRun] | None:
        """The run if the state still has it."""
        cluster = self._fleet.state.cluster
        run = cluster.runs.get(run_id) or cluster.finished_runs.get(run_id)
        indexed = self.runs.get(run_id)
        return (run, indexed) if run is not None and indexed is not None else None

    def to_wall(self, instant: float) -> float:
        """An instant of the state as wall time."""
        return self._wall() - (self._fleet.now() - instant)

    def _observe(self, event: events.Event, commanded: Sequence[commands.Command]) -> None:
        if type(event) is not events.WorkerHeartbeat:
            self.changes += 1
        if type(event) is events.RunSubmitted:
            facts = self._fleet.run_facts.get(event.run_id)
            if facts is not None and event.run_id not in self.runs:
                self.runs[event.run_id] = IndexedRun(event.run_id, facts)
        for command in commanded:
            kind = type(command)
            if kind is commands.PublishOutcomes:
                self._ended(command)  # type: ignore[arg-type]
            elif kind is commands.PublishStarted:
                self._started(command)  # type: ignore[arg-type]
            elif kind is commands.RunFinished:
                self._finished(command.run_id)  # type: ignore[union-attr]

    def _started(self, command: commands.PublishStarted) -> None:
        indexed = self.runs.get(command.run_id)
        if indexed is not None:
            now = self._wall()
            for task_id, *_ in command.tasks:
                indexed.started[task_id] = now

    def _ended(self, command: commands.PublishOutcomes) -> None:
        indexed = self.runs.get(command.run_id)
        for outcome in command.outcomes:
            if outcome.is_final:
                self.finished_total += 1
                self.verdicts_total[outcome.verdict] += 1
            if indexed is None or outcome.is_superseded:
                continue
            result = outcome.result
            row = AttemptRow(
                outcome.task_id,
                outcome.attempt,
                outcome.verdict,
                outcome.is_final,
                str(outcome.worker_id or ""),
                outcome.slot,
                result.started_at or None if result is not None else None,
                result.duration_s if result is not None else None,
                outcome.reason,
            )
            indexed.started.pop(outcome.task_id, None)
            indexed.attempts.append(row)
            if outcome.is_final:
                indexed.final[outcome.task_id] = row
                indexed.by_verdict.setdefault(outcome.verdict, []).append(outcome.task_id)

    def _finished(self, run_id: RunId) -> None:
        indexed = self.runs.get(run_id)
        if indexed is not None:
            indexed.ended_at = self._wall()
        cluster = self._fleet.state.cluster
        for known in [known for known in self.runs if known not in cluster.runs and known not in cluster.finished_runs]:
            del self.runs[known]


def tasks_of(run: Run) -> list[Task]:
    """In the order of the plan; a copy only where a run has several suites."""
    if len(run.suites) == 1:
        return next(iter(run.suites.values())).tasks
    return list(run.tasks.values())
