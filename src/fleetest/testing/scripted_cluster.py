"""A cluster driven event by event, for tests that say exactly what happens; invariants are checked after each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from fleetest.core import commands, events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.entities import LiveLease
from fleetest.core.invariants import check
from fleetest.core.model import (
    NO_REQUIREMENTS,
    AttemptResult,
    Capabilities,
    Lease,
    LeaseId,
    Limits,
    Requirements,
    RunId,
    TaskId,
    TaskSpec,
    Verdict,
    WorkerId,
)
from fleetest.core.policies import BalancingPolicy
from fleetest.health_monitor import HealthMonitor
from fleetest.load_balancer import LoadBalancer
from fleetest.task_scheduler import TaskScheduler

C = TypeVar("C")
RUN = RunId("run")


def task(
    name: str,
    *,
    group: str = "",
    keep_together: bool = False,
    requirements: Requirements = NO_REQUIREMENTS,
    priority: int = 0,
    timeout_s: float | None = None,
    retries: int = 0,
    backoff_s: float = 0.0,
    depends_on: Sequence[str] = (),
    expected_s: float | None = None,
    hedge: bool = True,
) -> TaskSpec:
    """A task with plain strings for ids."""
    return TaskSpec(
        TaskId(name),
        group=group,
        keep_together=keep_together,
        requirements=requirements,
        priority=priority,
        timeout_s=timeout_s,
        retries=retries,
        backoff_s=backoff_s,
        depends_on=tuple(TaskId(name) for name in depends_on),
        expected_s=expected_s,
        hedge=hedge,
    )


class ScriptedCluster:
    """``now`` is set by the test; ``emitted`` has every command so far, ``leases`` the latest lease of each task."""

    def __init__(
        self, limits: Limits | None = None, epoch: int = 1, *, balancing: BalancingPolicy | None = None
    ) -> None:
        balancing = balancing or LoadBalancer()
        self.state = ClusterState(TaskScheduler(), balancing, HealthMonitor(), limits or Limits(), epoch)
        self.now = 0.0
        self.emitted: list[commands.Command] = []
        self.leases: dict[str, Lease] = {}
        self.queues: dict[tuple[str, int], list[str]] = {}
        """Names of the tasks ever granted to a slot, in order."""

    def apply(self, event: events.Event) -> list[commands.Command]:
        emitted = self.state.apply(event, self.now)
        check(self.state)
        self.emitted += emitted
        for command in emitted:
            if isinstance(command, commands.GrantLeases):
                for lease in command.leases:
                    self.leases[lease.task_id] = lease
                    self.queues.setdefault((command.worker_id, command.slot), []).append(lease.task_id)
        return emitted

    def wait(self, seconds: float) -> list[commands.Command]:
        """Let the time pass, with every deadline at its moment."""
        end, emitted = self.now + seconds, []
        while True:
            due = self.state.next_deadline()
            if due is None or due > end:
                break
            self.now = max(self.now, due)
            emitted += self.apply(events.DeadlineReached())
        self.now = end
        return emitted

    # What happens ------------------------------------------------------------------------------------------------

    def join(
        self,
        name: str,
        slots: int = 1,
        capabilities: Capabilities | None = None,
        *,
        session: str = "s",
        held: Iterable[LeaseId] = (),
    ) -> list[commands.Command]:
        return self.apply(
            events.WorkerJoined(WorkerId(name), session, slots, capabilities or Capabilities(), tuple(held))
        )

    def submit(
        self,
        *tasks: TaskSpec,
        run: str = RUN,
        ready: bool = True,
        owner: str = "",
        priority: int = 0,
        weight: float = 1.0,
        wait_for_workers_s: float | None = None,
    ) -> list[commands.Command]:
        """A planned run of one suite; every live worker is ready for it unless told otherwise."""
        emitted = self.apply(
            events.RunSubmitted(
                RunId(run), owner=owner, priority=priority, weight=weight, wait_for_workers_s=wait_for_workers_s
            )
        )
        emitted += self.plan(*tasks, run=run)
        if ready:
            for worker_id in list(self.state.cluster.workers):
                emitted += self.ready(worker_id, run=run)
        return emitted

    def plan(self, *tasks: TaskSpec, run: str = RUN) -> list[commands.Command]:
        return self.apply(events.SuitePlanned(RunId(run), "", tasks))

    def ready(self, worker: str, *, run: str = RUN, missing: Iterable[str] = ()) -> list[commands.Command]:
        lacked = frozenset(TaskId(name) for name in missing)
        return self.apply(events.SuiteReady(WorkerId(worker), RunId(run), "", lacked))

    def start(self, *names: str) -> list[commands.Command]:
        emitted = []
        for name in names:
            lease = self.leases[name]
            emitted += self.apply(events.AttemptsStarted(self.worker_of(name), (lease.lease_id,)))
        return emitted

    def finish(self, *names: str, verdict: Verdict = Verdict.PASSED, duration_s: float = 0.1) -> list[commands.Command]:
        """Results of the latest leases of these tasks."""
        emitted = []
        for name in names:
            emitted += self.report(self.leases[name], self.worker_of(name), verdict, duration_s)
        return emitted

    def report(
        self, lease: Lease | LiveLease, worker: str, verdict: Verdict = Verdict.PASSED, duration_s: float = 0.1
    ) -> list[commands.Command]:
        result = AttemptResult(lease.lease_id, verdict, duration_s=duration_s)
        return self.apply(events.AttemptsFinished(WorkerId(worker), [result]))

    def give_back(self, *names: str, not_collectable: bool = False) -> list[commands.Command]:
        emitted = []
        for name in names:
            lease_ids = [self.leases[name].lease_id]
            emitted += self.apply(events.LeasesReturned(self.worker_of(name), lease_ids, not_collectable))
        return emitted

    def cancel(
        self, reason: str = "stop", *, kill: bool = False, quiet: bool = False, run: str = RUN
    ) -> list[commands.Command]:
        return self.apply(events.RunCancelled(RunId(run), reason, kill=kill, quiet=quiet))

    def disconnect(self, name: str, *, goodbye: bool = False, dead: bool = False) -> list[commands.Command]:
        return self.apply(events.WorkerDisconnected(WorkerId(name), "gone", said_goodbye=goodbye, process_is_dead=dead))

    # What is the case --------------------------------------------------------------------------------------------

    def worker_of(self, name: str) -> WorkerId:
        """The worker that was granted the task last."""
        lease_id = self.leases[name].lease_id
        return next(
            command.worker_id
            for command in reversed(self.emitted)
            if isinstance(command, commands.GrantLeases) and any(lease.lease_id == lease_id for lease in command.leases)
        )

    def all(self, kind: type[C]) -> list[C]:
        """Every command of this kind so far."""
        return [command for command in self.emitted if isinstance(command, kind)]

    def verdicts(self, run: str = RUN) -> dict[str, Verdict]:
        """Final verdicts so far; two for one task are an error."""
        found: dict[str, Verdict] = {}
        for outcome in self.outcomes(run):
            if outcome.is_final:
                assert outcome.task_id not in found, f"{outcome.task_id} has two verdicts"
                found[outcome.task_id] = outcome.verdict
        return found

    def outcomes(self, run: str = RUN) -> list[commands.TaskOutcome]:
        return [
            outcome
            for command in self.all(commands.PublishOutcomes)
            if command.run_id == run
            for outcome in command.outcomes
        ]

    def why(self, name: str, run: str = RUN) -> str:
        return self.state.why(RunId(run), TaskId(name))
