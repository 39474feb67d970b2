"""A coordinator's core under load: the real state and policies without invariant checks, all workers answered at once."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from support.tables import Samples

from fleetest.core import commands, events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.model import (
    AttemptResult,
    Capabilities,
    LeaseId,
    Limits,
    RunId,
    TaskId,
    TaskSpec,
    Verdict,
    WorkerId,
)
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.task_scheduler import TaskScheduler


class CoreLoad:
    """``samples`` has the latency of every event that was applied while it was set."""

    def __init__(self, limits: Limits | None = None) -> None:
        self.limits = limits or Limits(heartbeat_interval_s=math.inf)
        self.state = ClusterState(TaskScheduler(), LoadBalancer(), HealthMonitor(), self.limits)
        self.now = 0.0
        self.samples: Samples | None = None
        self.leased: dict[LeaseId, tuple[WorkerId, TaskId]] = {}
        self.verdicts: dict[tuple[RunId, TaskId], Verdict] = {}
        self.moves = 0
        self.lost: set[WorkerId] = set()
        self.heartbeat_interval_s = self.limits.heartbeat_interval_s
        """As the coordinator asked last."""

    def apply(self, event: events.Event) -> Sequence[commands.Command]:
        if self.samples is None:
            emitted = self.state.apply(event, self.now)
        else:
            with self.samples.one():
                emitted = self.state.apply(event, self.now)
        for command in emitted:
            if isinstance(command, commands.GrantLeases):
                for lease in command.leases:
                    self.leased[lease.lease_id] = (command.worker_id, lease.task_id)
            elif isinstance(command, commands.PublishOutcomes):
                for outcome in command.outcomes:
                    if outcome.is_final:
                        key = (command.run_id, outcome.task_id)
                        assert key not in self.verdicts, f"{key} has two verdicts"
                        self.verdicts[key] = outcome.verdict
            elif isinstance(command, commands.DisconnectWorker):
                self.lost.add(command.worker_id)
            elif isinstance(command, commands.SetHeartbeat):
                self.heartbeat_interval_s = command.interval_s
            elif isinstance(command, commands.RevokeLeases):
                self.give_back(command)
        return emitted

    def give_back(self, command: commands.RevokeLeases) -> None:
        """Nothing that waits has started: the worker gives all of it back."""
        back = [lease_id for lease_id in command.lease_ids if self.leased.pop(lease_id, None) is not None]
        self.moves += len(back)
        if back:
            self.apply(events.LeasesReturned(command.worker_id, back))

    def join(self, count: int, capabilities: Sequence[Capabilities] = (Capabilities(),)) -> list[WorkerId]:
        names = [WorkerId(f"w{number}") for number in range(count)]
        for number, name in enumerate(names):
            self.apply(events.WorkerJoined(name, "s", 1, capabilities[number % len(capabilities)]))
        return names

    def submit(self, run: str, tasks: Sequence[TaskSpec], ready: Iterable[WorkerId] = ()) -> RunId:
        run_id = RunId(run)
        self.apply(events.RunSubmitted(run_id))
        self.apply(events.SuitePlanned(run_id, "", tasks))
        for worker_id in ready:
            self.apply(events.SuiteReady(worker_id, run_id, ""))
        return run_id

    def pass_time(self, seconds: float) -> list[commands.Command]:
        """Every deadline at its moment: a coordinator that oversleeps excuses the silence of that time."""
        end, emitted = self.now + seconds, []
        while (due := self.state.next_deadline()) is not None and due <= end:
            self.now = max(self.now, due)
            emitted += self.apply(events.DeadlineReached())
        self.now = end
        return emitted

    def finish_heads(self, duration_s: float) -> int:
        """The first lease of every slot passes after so long; how many did."""
        self.now += duration_s
        done = 0
        for worker in list(self.state.cluster.workers.values()):
            for slot in worker.slots:
                head = slot.head()
                if head is None or head.lease_id not in self.leased:
                    continue
                if not head.is_started:
                    self.apply(events.AttemptsStarted(worker.worker_id, (head.lease_id,)))
                del self.leased[head.lease_id]
                result = AttemptResult(head.lease_id, Verdict.PASSED, duration_s=duration_s)
                self.apply(events.AttemptsFinished(worker.worker_id, [result]))
                done += 1
        return done

    def work_off(self) -> None:
        """Every lease passes as soon as it is granted, whole grants at a time, until nothing is left."""
        while self.leased:
            by_worker: dict[WorkerId, list[AttemptResult]] = {}
            for lease_id, (worker_id, _) in self.leased.items():
                by_worker.setdefault(worker_id, []).append(AttemptResult(lease_id, Verdict.PASSED, duration_s=0.01))
            self.leased = {}
            self.now += 0.01
            for worker_id, results in by_worker.items():
                self.apply(events.AttemptsFinished(worker_id, results))
