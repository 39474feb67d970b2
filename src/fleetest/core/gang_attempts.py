"""Attempts that several workers execute together: granted all at once, judged when the last member has ended."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fleetest.core.cluster import Cluster
from fleetest.core.commands import KillLeases, TaskOutcome
from fleetest.core.entities import Gang, LiveLease, Slot, Task, Worker
from fleetest.core.model import AttemptResult, GangPlace, Verdict
from fleetest.core.task_handling import TaskHandling

if TYPE_CHECKING:
    from fleetest.core.attempt_handling import AttemptHandling

WORST_FIRST = (
    Verdict.OOM,
    Verdict.CRASHED,
    Verdict.TIMEOUT,
    Verdict.ERROR,
    Verdict.FAILED,
    Verdict.QUARANTINED,
    Verdict.CANCELLED,
    Verdict.NOT_RUN,
    Verdict.XPASSED,
    Verdict.XFAILED,
    Verdict.SKIPPED,
    Verdict.PASSED,
)
"""The verdict of a gang is the first of these that any of its members has."""
_ENDED_FROM_OUTSIDE = frozenset({Verdict.CRASHED, Verdict.TIMEOUT, Verdict.OOM, Verdict.CANCELLED})


class GangAttempts:
    def __init__(self, cluster: Cluster, tasks: TaskHandling, attempts: AttemptHandling) -> None:
        self._cluster, self._tasks, self._attempts = cluster, tasks, attempts

    def grant(self, task: Task, slots: Sequence[Slot]) -> None:
        """One lease for each of these empty slots of distinct workers, in order of rank."""
        cluster = self._cluster
        workers = [slot.worker for slot in slots]
        gang_id, hosts = f"{cluster.epoch}-{cluster.next_order()}", _hosts(workers)
        names = tuple(worker.worker_id for worker in workers)
        members = [
            self._attempts.grant(slot, task, GangPlace(gang_id, rank, len(slots), hosts, names))
            for rank, slot in enumerate(slots)
        ]
        task.gang = Gang(tuple(members), cluster.now)

    # What becomes of the members -----------------------------------------------------------------------------------

    def finished(self, live: LiveLease, result: AttemptResult, duration_s: float) -> None:
        """A member reports. Its slot is free; the verdict waits for the others."""
        gang = live.task.gang
        assert gang is not None
        gang.results[live.lease_id] = result
        # As long as the gang had it, others have it before the next gang, if they want it.
        live.slot.worker.rests_until = 2 * self._cluster.now - gang.started_at
        live.slot.worker.gangs_s += self._cluster.now - gang.started_at
        self._attempts.end(live, duration_s)
        self._attempts.learn(live, result, duration_s)
        if not result.verdict.is_success:
            self._end_others(live.task, gang, f"{_name(gang, live)} ended: {result.verdict.value}")
        self._settle_if_over(live.task, gang)

    def missing(self, live: LiveLease, reason: str) -> None:
        """A member, no longer leased, will not report: it was lost, or never began."""
        gang = live.task.gang
        assert gang is not None
        if not any(result.verdict.may_be_retried for result in gang.results.values()):
            gang.lost_because = gang.lost_because or reason
        self._end_others(live.task, gang, f"{_name(gang, live)} is missing: {reason}")
        self._settle_if_over(live.task, gang)

    def _end_others(self, task: Task, gang: Gang, reason: str) -> None:
        """They wait for somebody who will not come. What runs may end by itself within the grace."""
        if gang.ending_because or task.lease is None:
            return
        gang.ending_because = reason
        is_running = any(live.is_started for live in task.live_leases)
        grace_s = self._cluster.limits.cancel_grace_s if is_running else 0.0
        self._cluster.deadlines.set(("gang", task.run.run_id, task.task_id), self._cluster.now + grace_s)

    def deadline(self, task: Task) -> None:
        """The grace is over: kill the rest; or they were killed and have not answered: do without them."""
        cluster, gang = self._cluster, task.gang
        if gang is None:
            return
        doomed = [live for live in task.live_leases if not live.kill_reason]
        for live in doomed:
            live.kill_reason = gang.ending_because
            worker = live.slot.worker
            if worker.is_linked:
                cluster.outbox.add(KillLeases(worker.worker_id, (live.lease_id,), gang.ending_because))
        if doomed:
            due = cluster.now + cluster.limits.kill_answer_s
            cluster.deadlines.set(("gang", task.run.run_id, task.task_id), due)
        else:
            for live in task.live_leases:
                self._attempts.void(live, "did not end when told to")

    # The verdict -----------------------------------------------------------------------------------------------------

    def _settle_if_over(self, task: Task, gang: Gang) -> None:
        if task.lease is not None:
            return
        cluster, task.gang = self._cluster, None
        cluster.deadlines.cancel(("gang", task.run.run_id, task.task_id))
        cluster.gangs.look_again()
        if gang.results or any(member.is_started for member in gang.members):
            task.attempts = max(task.attempts, gang.members[0].attempt)
        if gang.lost_because:
            self._lost(task, gang)
        else:
            self._judge(task, gang)

    def _judge(self, task: Task, gang: Gang) -> None:
        def badness(member: LiveLease) -> int:
            result = gang.results.get(member.lease_id)
            return WORST_FIRST.index(result.verdict) if result is not None else len(WORST_FIRST)

        worst = min(gang.members, key=badness)
        result = gang.results[worst.lease_id]
        verdict, reason = result.verdict, ""
        if task.run.cancellation is not None and worst.kill_reason and verdict in _ENDED_FROM_OUTSIDE:
            verdict, reason = Verdict.CANCELLED, worst.kill_reason
        self._attempts.conclude(worst, verdict, _combined(gang, result), reason, _members(gang))

    def _lost(self, task: Task, gang: Gang) -> None:
        """Without one of its members the attempt says nothing."""
        cluster, reason = self._cluster, gang.lost_because
        was_running = any(member.is_started for member in gang.members)
        if task.run.cancellation is not None:
            self._tasks.cancel(task, was_running=was_running)
            return
        if was_running:
            cluster.outbox.outcome(
                task.run.run_id,
                TaskOutcome(
                    task.task_id,
                    gang.members[0].attempt,
                    Verdict.CANCELLED,
                    is_final=False,
                    reason=reason,
                    members=_members(gang),
                ),
            )
        if self._attempts.quarantined(task, reason):
            return
        if task.infrastructure_failures >= cluster.limits.infrastructure_failures_max:
            self._tasks.finish_unexecuted(task, Verdict.NOT_RUN, f"could not be executed: {reason}")
        else:
            self._tasks.queue([task], reason)


def _name(gang: Gang, live: LiveLease) -> str:
    return f"rank {gang.members.index(live)} of its gang, on {live.slot.worker.worker_id},"


def _members(gang: Gang) -> tuple[TaskOutcome, ...]:
    outcomes = []
    for member in gang.members:
        result = gang.results.get(member.lease_id)
        outcomes.append(
            TaskOutcome(
                member.task.task_id,
                member.attempt,
                Verdict.CANCELLED if result is None else result.verdict,
                is_final=False,
                worker_id=member.slot.worker.worker_id,
                slot=member.slot.index,
                result=result,
                reason="no result came from it" if result is None else "",
            )
        )
    return tuple(outcomes)


def _combined(gang: Gang, decisive: AttemptResult) -> AttemptResult:
    """The deciding member's result, with what all of them used and one line about each."""
    results = gang.results.values()
    lines = [decisive.evidence] if decisive.evidence else []
    for rank, member in enumerate(_members(gang)):
        took = f" after {member.result.duration_s:.3g} s" if member.result is not None else ""
        why = f" ({member.reason})" if member.reason else ""
        lines.append(f"rank {rank} on {member.worker_id}: {member.verdict.value}{took}{why}")
    return replace(
        decisive,
        duration_s=max(result.duration_s for result in results),
        cpu_s=sum(result.cpu_s for result in results),
        peak_memory_bytes=max(result.peak_memory_bytes for result in results),
        evidence="\n".join(lines),
        artifacts=tuple(dict.fromkeys(path for result in results for path in result.artifacts)),
    )


def _hosts(workers: Sequence[Worker]) -> tuple[str, ...]:
    """A loopback address means something else on another machine: there the name of the machine must do."""
    addresses = [worker.address or "127.0.0.1" for worker in workers]
    if all(_is_loopback(address) for address in addresses):
        return tuple(addresses)
    return tuple(
        _host_name(worker, address) if _is_loopback(address) else address
        for worker, address in zip(workers, addresses, strict=True)
    )


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address in ("::1", "localhost")


def _host_name(worker: Worker, address: str) -> str:
    return next(iter(worker.capabilities.attributes.get("host", ())), address)
