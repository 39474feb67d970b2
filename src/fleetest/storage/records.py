"""Rows of the history as the coordinator hands them over, and the seam it hands them to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from fleetest.core.model import AttemptResult, Capabilities, Verdict


@dataclass(frozen=True, slots=True)
class RunStarted:
    run_id: str
    started_at: float
    """Wall time, seconds since the epoch."""
    title: str
    owner: str
    directory: str


@dataclass(frozen=True, slots=True)
class TasksPlanned:
    """``tasks``: (task id, suite, group, position in the plan)."""

    run_id: str
    tasks: Sequence[tuple[str, str, str, int]]


@dataclass(frozen=True, slots=True)
class AttemptRecorded:
    """One attempt, or a final verdict without one (``result`` None)."""

    run_id: str
    task_id: str
    attempt: int
    verdict: Verdict
    is_final: bool
    worker: str
    runner: str
    slot: int | None
    reason: str
    result: AttemptResult | None


@dataclass(frozen=True, slots=True)
class RunEnded:
    run_id: str
    ended_at: float
    counts: Mapping[str, int] = field(default_factory=dict)
    outcome: str = "finished"
    """finished | cancelled | abandoned (the client or the coordinator went away)."""


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    worker: str
    host: str
    slots: int
    capabilities: Capabilities
    seen_at: float


Record = RunStarted | TasksPlanned | AttemptRecorded | RunEnded | WorkerSeen


class HistorySink(Protocol):
    """Where the coordinator puts records and asks for expected durations. Every call returns at once."""

    def record(self, *records: Record) -> None:
        """Queue records for the writing thread. Trouble with the file is told by ``close``, never raised here."""

    def expected_durations(self, suite: str, wait_s: float) -> Mapping[str, float]:
        """Seconds on a typical machine by task id, from past runs: what is loaded after at most ``wait_s``."""

    def slowness(self) -> Mapping[str, float]:
        """By worker, as of when the durations were loaded: seconds for what takes a typical machine one second."""

    def close(self) -> list[str]:
        """Write what is queued and release the file. Returns one line per trouble (file locked, newer, corrupt)."""
