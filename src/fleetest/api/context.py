"""What all handlers share."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from fleetest.api.fleet import Fleet
from fleetest.api.live_index import LiveIndex
from fleetest.api.past import Past
from fleetest.core.entities import Run, Task
from fleetest.core.lifecycle import WorkerState
from fleetest.core.model import Instant, RunId
from fleetest.storage.submissions import SubmissionStore
from fleetest.transport.audit import AuditSink
from fleetest.transport.browser_sessions import BrowserSessions
from fleetest.transport.gate import Gate
from fleetest.transport.identity import Credentials
from fleetest.transport.problems import Problem

RESTS_AGE_MAX_S = 0.2
"""Of what is known about running tests, when times left are told."""


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
    _rests_at: Instant = field(default=-math.inf, init=False)
    _rests_s: dict[RunId, float] = field(default_factory=dict, init=False)

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
        """Predicted time until the run (None: all of them) ends with every slot that takes work, and at least until the
        last test that runs has ended: no test is divided between slots. None if nobody can say: nothing of a run has
        ended yet, or some of it waits for a worker that nobody is.
        """
        cluster = self.fleet.state.cluster
        slots = sum(len(worker.slots) for worker in cluster.workers.values() if worker.state is WorkerState.HEALTHY)
        runs = [run] if run is not None else list(cluster.runs.values())
        if not slots or not runs or any(run.unfinished and (run.unserved or not run.durations.count) for run in runs):
            return None
        shared_s = sum(run.unfinished * run.durations.mean_s for run in runs if run.unfinished) / slots
        rests_s = self._rests()
        return max([shared_s, *(rests_s.get(run.run_id, 0.0) for run in runs)])

    def _rests(self) -> dict[RunId, float]:
        """How long the last running test of each run is expected to run on (hedged: the attempt that ends first).

        From one pass over all slots, however many runs are asked about at once.
        """
        now = self.fleet.now()
        if now - self._rests_at < RESTS_AGE_MAX_S:
            return self._rests_s
        of_tasks: dict[Task, float] = {}
        for worker in self.fleet.state.cluster.workers.values():
            for slot in worker.slots:
                head = slot.head()
                if head is not None and head.is_started:
                    # One that is late is expected to run on for as long as it is late.
                    rest_s = abs(head.predicted_s - (now - slot.head_since))
                    of_tasks[head.task] = min(rest_s, of_tasks.get(head.task, rest_s))
        self._rests_at, self._rests_s = now, {}
        for task, rest_s in of_tasks.items():
            self._rests_s[task.run.run_id] = max(rest_s, self._rests_s.get(task.run.run_id, 0.0))
        return self._rests_s
