"""Frames of the live events, as types: one JSON text each.

The first frame is a ``Snapshot``; a further one comes whenever frames had to be left out for this client. ``seq``
counts the frames of the coordinator, so that all clients see the same numbers.
"""

from __future__ import annotations

from typing import Any

import msgspec

from fleetest.api import answers
from fleetest.api.answers import Time


class WorkerRow(msgspec.Struct, array_like=True):
    """``[worker_id, state, slots, slots_used, waiting, load_average, memory_available_bytes, alerts]``"""

    worker_id: str
    state: str
    slots: int
    slots_used: int
    waiting: int
    load_average: float | None
    memory_available_bytes: int | None
    alerts: int


class TaskChange(msgspec.Struct, array_like=True):
    """``[task_id, state, verdict, attempt, worker, slot, started_at_s, duration_s]``; times in seconds since the epoch.

    ``state`` is running, queued (another attempt follows; ``verdict`` is that of the last one) or finished.
    """

    task_id: str
    state: str
    verdict: str | None
    attempt: int
    worker: str
    slot: int | None
    started_at_s: float | None
    duration_s: float | None


class Frame(msgspec.Struct, kw_only=True, tag_field="type", tag=str.lower):
    seq: int
    at: Time


class Snapshot(Frame, kw_only=True):
    """Everything: forget what you knew."""

    fleet: answers.FleetNumbers
    runs: list[answers.RunSummary]
    """Live ones, and those that ended a moment ago."""
    workers: list[WorkerRow]
    alerts: list[answers.Alert]
    """Those that last."""


class Delta(Frame, kw_only=True):
    """What changed since the frame before; what is null or empty did not."""

    fleet: answers.FleetNumbers | None = None
    runs: list[answers.RunSummary] = []
    """The whole run, each time something of it changed."""
    workers: list[WorkerRow] = []
    workers_gone: list[str] = []
    alerts: list[answers.Alert] = []
    """Also those that were cleared."""


class Tasks(Frame, kw_only=True):
    """Of the run that was asked for. ``is_partial``: there were too many changes to tell; ask for the page again."""

    run_id: str
    rows: list[TaskChange]
    is_partial: bool = False


def encode(frame: Any) -> str:
    return msgspec.json.encode(frame).decode()
