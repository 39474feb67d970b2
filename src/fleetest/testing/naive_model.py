"""What any schedule must obey, said the obvious way: every queued task against every slot, no index, no memory.

The scheduler keeps heaps, classes and counts to be fast; this model looks at the plain facts only (who is there, who
has the suite, what is free) and compares everything with everything. Where both differ, the scheduler is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fleetest.core import commands
from fleetest.core.cluster import MISSING_WORKER_DEADLINE, Cluster
from fleetest.core.entities import LiveLease, Readiness, Slot, Task, Worker
from fleetest.core.explain import explain
from fleetest.core.lifecycle import TaskState, WorkerState
from fleetest.core.matching import matches

_ACCEPTING = (WorkerState.HEALTHY, WorkerState.PROBATION)


def check_schedule(cluster: Cluster, emitted: Iterable[commands.Command]) -> None:
    """After one event and with what it emitted. Raises AssertionError that names task and slot."""
    granted = [
        cluster.leases[lease.lease_id]
        for command in emitted
        if isinstance(command, commands.GrantLeases)
        for lease in command.leases
        # One that ended within the event (its run did) is nobody's any more.
        if lease.lease_id in cluster.leases
    ]
    queued = [task for run in cluster.runs.values() for task in run.tasks.values() if task.state is TaskState.QUEUED]
    for live in granted:
        _check_grant(cluster, live)
        if live.is_backfill:
            _check_backfill(cluster, live)
    _check_shared(cluster)
    if cluster.grants_nothing_because:
        assert not granted, f"{granted[0]} was granted while nothing is to be"
    else:
        _check_work_conserving(cluster, queued)
    _check_priorities(cluster, granted, queued)
    _check_nobody_is_forgotten(cluster, queued)


# Legality -----------------------------------------------------------------------------------------------------------


def may_ever_run(task: Task, worker: Worker) -> bool:
    """The worker has the suite and the test, and all that it needs if nothing else ran there."""
    readiness = task.suite.workers.get(worker.worker_id)
    return (
        worker.state in _ACCEPTING
        and readiness is not None
        and readiness.state is Readiness.READY
        and task.task_id not in readiness.missing
        and matches(task.requirements, worker.capabilities)
    )


def _check_grant(cluster: Cluster, live: LiveLease) -> None:
    task, worker = live.task, live.slot.worker
    assert may_ever_run(task, worker), f"{task} was granted to {worker}, which cannot run it"
    assert task.run.cancellation is None, f"{task} was granted although its run is cancelled"
    assert task.retries_used <= task.spec.retries, f"{task} was granted for retry {task.retries_used}"
    for name in task.spec.depends_on:
        prerequisite = task.run.tasks.get(name)
        assert prerequisite is not None, f"{task} was granted before {name}, which nobody knows"
        assert prerequisite.verdict is not None, f"{task} was granted before {name} has its verdict"
        assert prerequisite.verdict.is_success, f"{task} was granted although {name} failed"


def _check_backfill(cluster: Cluster, live: LiveLease) -> None:
    """It is expected to end before some test that its slot's gang waits for anyway."""
    gathering = live.slot.worker.gathering
    assert gathering is not None, f"{live.task} fills a slot that is kept for nobody"
    assert live.task.spec.expected_s is not None, f"{live.task} fills a slot for nobody knows how long"
    slots = [slot for member in gathering.slots for slot in member.worker.slots]
    ends = [
        other.slot.head_since + other.slot.queued_s
        for slot in slots
        for other in slot.leases.values()
        if not other.is_backfill
    ]
    ends_at = cluster.now + live.predicted_s
    assert any(ends_at <= end for end in ends), f"{live.task} fills a slot and makes {gathering.task} wait"


def _check_shared(cluster: Cluster) -> None:
    """Nothing is held twice: locks by two tasks, resources beyond what there is, a worker that one has for itself."""
    holders: dict[str, Task] = {}
    on: dict[Worker, list[LiveLease]] = {}
    for live in cluster.leases.values():
        on.setdefault(live.slot.worker, []).append(live)
        for name in live.task.requirements.locks:
            assert holders.setdefault(name, live.task) is live.task, f"{live.task} and {holders[name]} hold lock {name}"
    for worker, leases in on.items():
        used: dict[str, float] = {}
        for live in leases:
            assert not live.task.requirements.alone or len(leases) == 1, f"{live.task} is not alone on {worker}"
            for name, amount in live.task.requirements.resources:
                used[name] = used.get(name, 0.0) + amount
        for name, amount in used.items():
            assert amount <= worker.capabilities.resources.get(name, 0.0) + 1e-6, f"{worker}: too much {name} is in use"


# Work conservation ----------------------------------------------------------------------------------------------------


def _check_work_conserving(cluster: Cluster, queued: list[Task]) -> None:
    """No slot is empty while a task that could start there at once is queued."""
    for worker in cluster.workers.values():
        slots = [slot for slot in worker.slots if _is_free(slot)]
        if not slots or _is_kept_free(cluster, worker, queued):
            continue
        for task in queued:
            assert not _could_start(cluster, task, worker), (
                f"{task} is queued while {slots[0]} has nothing to do; it says: {explain_task(cluster, task)}"
            )


def explain_task(cluster: Cluster, task: Task) -> str:
    return explain(cluster, task.run.run_id, task.task_id)


def _is_free(slot: Slot) -> bool:
    worker = slot.worker
    return (
        worker.state in _ACCEPTING
        and worker.alone is None
        and not slot.leases
        and slot.closed_by is None
        and not slot.is_held
        and not (worker.state is WorkerState.PROBATION and worker.lease_count)
    )


def _is_kept_free(cluster: Cluster, worker: Worker, queued: list[Task]) -> bool:
    """It runs dry for a task that wants it for itself, or one that may kill it is looked after first."""
    return any((task.requirements.alone or task.is_suspect) and may_ever_run(task, worker) for task in queued)


def _could_start(cluster: Cluster, task: Task, worker: Worker) -> bool:
    """Nothing at all stands against it. Tasks that belong to a slot, avoid a worker or need several are not judged."""
    requirements = task.requirements
    if task.group.keep_together or task.is_suspect or task.avoid or requirements.workers > 1 or requirements.alone:
        return False
    return may_ever_run(task, worker) and _is_all_free(cluster, task, worker)


def _is_all_free(cluster: Cluster, task: Task, worker: Worker) -> bool:
    # A gang that gathers comes first, for its locks and on its workers.
    if cluster.placement.claimed_locks.intersection(task.requirements.locks):
        return False
    if worker.gathering is not None and task.requirements.reserves:
        return False
    leases = list(cluster.leases.values())
    if any(set(live.task.requirements.locks) & set(task.requirements.locks) for live in leases):
        return False
    for name, amount in task.requirements.resources:
        used = sum(
            dict(live.task.requirements.resources).get(name, 0.0) for live in leases if live.slot.worker is worker
        )
        if used + amount > worker.capabilities.resources.get(name, 0.0) + 1e-9:
            return False
    return True


# Priorities ---------------------------------------------------------------------------------------------------------


def _check_priorities(cluster: Cluster, granted: list[LiveLease], queued: list[Task]) -> None:
    """Nothing is granted while something more urgent is queued that could have had that very slot.

    Ageing lets old work overtake, so nothing is said once something may be old.
    """
    if cluster.now >= cluster.limits.ageing_s:
        return
    for live in granted:
        if live.task.requirements.workers > 1 or len(live.task.live_leases) > 1 or live.is_backfill:
            continue
        for task in _overtaken(live, queued):
            assert not _could_start(cluster, task, live.slot.worker), (
                f"{live.task} of priority {live.task.priority} was granted to {live.slot}"
                f" before {task} of priority {task.priority}"
            )


def _overtaken(live: LiveLease, queued: list[Task]) -> Iterator[Task]:
    """Plain tasks: for one that reserves something the slot, or what it reserves, may not have been free then."""
    for task in queued:
        if task.priority > live.task.priority and not task.requirements.reserves:
            yield task


# What nobody can run --------------------------------------------------------------------------------------------------


def _check_nobody_is_forgotten(cluster: Cluster, queued: list[Task]) -> None:
    """What nobody who is known can run is waited for until a deadline, if its run does not wait for ever."""
    if not cluster.limits.workers_may_join:
        return
    for task_class, task in {task.task_class.base: task for task in queued}.items():
        run = task.run
        if run.wait_for_workers_s is None or len(_able(cluster, task)) >= task_class.requirements.workers:
            continue
        wanted = (task.suite.name, task.requirements)
        is_waited_for = any(
            key in run.missing and cluster.deadlines.due((MISSING_WORKER_DEADLINE, run.run_id, key)) is not None
            for key in (wanted, None)
        )
        assert is_waited_for, f"{task} is queued and nobody can run it; it says: {explain_task(cluster, task)}"


def _able(cluster: Cluster, task: Task) -> list[object]:
    """Who is known or announced, has what the task needs, and has not said that it cannot execute it."""
    announced: list[object] = [have for have in cluster.limits.announced if matches(task.requirements, have)]
    states = task.suite.workers
    return announced + [
        worker
        for worker_id, worker in cluster.workers.items()
        if matches(task.requirements, worker.capabilities)
        and (
            worker_id not in states
            or (states[worker_id].state is not Readiness.UNAVAILABLE and task.task_id not in states[worker_id].missing)
        )
    ]
