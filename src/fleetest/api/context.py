"""What all handlers share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fleetest.api.fleet import Fleet
from fleetest.api.live_index import LiveIndex
from fleetest.api.past import Past
from fleetest.core.entities import Run
from fleetest.core.lifecycle import WorkerState
from fleetest.storage.submissions import SubmissionStore
from fleetest.transport.audit import AuditSink
from fleetest.transport.browser_sessions import BrowserSessions
from fleetest.transport.gate import Gate
from fleetest.transport.identity import Credentials
from fleetest.transport.problems import Problem


class Keeper(Protocol):
    """Keeps on disk what is known of the workers; ``fleetest.fleet_memory.FleetMemory``."""

    async def keep(self) -> str:
        """Returns when all that was decided until now is on the disk, or why it is not, in one line."""


@dataclass(slots=True)
class Context:
    """``submissions`` None: runs of the past cannot be run again."""

    fleet: Fleet
    index: LiveIndex
    past: Past
    credentials: Credentials
    sessions: BrowserSessions
    submissions: SubmissionStore | None = None
    audit: AuditSink | None = None
    keeper: Keeper | None = None
    """None: what operators say ends with this process."""
    wall: Callable[[], float] = time.time
    started_at: float = field(default_factory=time.time)
    is_draining: bool = False
    gate: Gate | None = None
    """Known once the server exists."""

    async def keep(self) -> None:
        """What an operator has just said is acknowledged only when it is on the disk. Raises Problem 503."""
        trouble = await self.keeper.keep() if self.keeper is not None else ""
        if trouble:
            raise Problem(
                503,
                "not_kept",
                f"done, but a restart of the coordinator would undo it: {trouble}",
                {"Retry-After": "30"},
            )

    def remaining_s(self, run: Run | None = None) -> float | None:
        """Predicted time until the run (None: all of them) ends with every slot that takes work.

        None if nobody can say.
        """
        cluster = self.fleet.state.cluster
        slots = sum(len(worker.slots) for worker in cluster.workers.values() if worker.state is WorkerState.HEALTHY)
        runs = [run] if run is not None else list(cluster.runs.values())
        if not slots or not runs or any(not run.durations.count and run.unfinished for run in runs):
            return None
        return sum(run.unfinished * run.durations.mean_s for run in runs if run.unfinished) / slots
