"""Why a task is where it is, in one honest sentence."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from fleetest.core.conditions import format_condition
from fleetest.core.entities import LiveLease, Readiness, Run, Task, Worker
from fleetest.core.lifecycle import TaskState, WorkerState
from fleetest.core.matching import describe, describe_amount, distance, holds, matches, unmet
from fleetest.core.model import Requirements, RunId, TaskId, WorkerId
from fleetest.core.task_handling import retry_key

if TYPE_CHECKING:
    from fleetest.core.cluster import Cluster

_NAMED_MAX = 3
"""Of many workers with something to say."""
_REASON_MAX = 200
"""Characters of what one of them says."""


def explain(cluster: Cluster, run_id: RunId, task_id: TaskId) -> str:
    run = cluster.runs.get(run_id) or cluster.finished_runs.get(run_id)
    if run is None:
        return "unknown run"
    task = run.tasks.get(task_id)
    if task is None:
        collecting = [name for name, suite in run.suites.items() if not suite.is_settled]
        return "its suite is still being collected" if collecting else "unknown task"
    if task.state is TaskState.FINISHED:
        assert task.verdict is not None
        return f"finished: {task.verdict.value.replace('_', ' ')}" + (f" ({task.reason})" if task.reason else "")
    if task.state is TaskState.PENDING:
        due = cluster.deadlines.due(retry_key(task))
        if due is not None:
            return f"waiting {max(0.0, due - cluster.now):.1f} s before retry {task.retries_used}"
        return _why_pending(task)
    if task.lease is not None:
        return _where_it_is(task, task.lease)
    return _why_queued(cluster, task)


def _why_pending(task: Task) -> str:
    name = sorted(task.waits_for)[0]
    prerequisite = task.run.tasks.get(name)
    others = len(task.waits_for) - 1
    more = f" and {others} other{'s' if others != 1 else ''}" if others else ""
    if prerequisite is None:
        return f"waiting for dependency {name} (not collected yet){more}"
    lease = prerequisite.lease
    where = _where_it_is(prerequisite, lease) if lease is not None else prerequisite.state.value
    return f"waiting for dependency {name} ({where}){more}"


def _where_it_is(task: Task, lease: LiveLease) -> str:
    attempt = f"attempt {lease.attempt}"
    if task.state is TaskState.RUNNING:
        text = f"running on {lease.slot}, {attempt}"
    else:
        before = list(lease.slot.leases).index(lease.lease_id) if lease.lease_id in lease.slot.leases else 0
        behind = f" behind {before} test{'s' if before != 1 else ''}" if before else ""
        text = f"next on {lease.slot}{behind}, {attempt}"
    return text + _state_note(lease.slot.worker) + _others_note(task)


def _state_note(worker: Worker) -> str:
    return "" if worker.accepts else f" (the worker is {worker.state.value})"


def _state_of(worker: Worker) -> str:
    because = worker.quarantined_because if worker.state is WorkerState.QUARANTINED else ""
    return worker.state.value + (f" ({because})" if because else "")


def _others_note(task: Task) -> str:
    """Where else it is executed at the same time."""
    others = [f"{live.slot}" for live in task.extra_leases]
    if not others:
        return ""
    if task.gang is not None:
        return f", together with {', '.join(others)}"
    return f"; hedged by attempt {task.extra_leases[0].attempt} on {others[0]}"


def _why_queued(cluster: Cluster, task: Task) -> str:
    workers = list(cluster.workers.values())
    if not workers:
        return "waiting for a worker: none has joined"
    kind = task.task_class.kind
    fitting = [worker for worker in workers if cluster.placement.fits(kind, worker.capability_kind)]
    if not fitting:
        return _why_nobody(cluster, task)
    states = task.suite.workers
    ready = [worker for worker in fitting if worker.worker_id not in task.lacking and task.suite in worker.ready_suites]
    if len(ready) < task.requirements.workers:
        preparing = [
            worker.worker_id
            for worker in fitting
            if worker.worker_id in states and states[worker.worker_id].state is Readiness.PREPARING
        ]
        if preparing:
            return f"worker {preparing[0]} is still collecting its suite"
        if _who_cannot(cluster, [task]):
            return no_worker(cluster, [task])
    if not ready:
        return f"worker {fitting[0].worker_id} has not prepared its suite{_state_note(fitting[0])}"
    accepting = [worker for worker in ready if worker.accepts]
    if not accepting:
        return "no worker that fits takes new work: " + ", ".join(
            f"{worker.worker_id} is {_state_of(worker)}" for worker in ready[:3]
        )
    if cluster.grants_nothing_because:
        return f"no further test is started for now: {cluster.grants_nothing_because}"
    if task.requirements.workers > 1:
        return cluster.gangs.why(task)
    return _why_not_free(cluster, task, accepting)


def _behind(cluster: Cluster, task: Task, accepting: list[Worker]) -> str:
    """How much else waits for the same workers, and whether some of it goes first whenever a slot is free."""
    kinds = {worker.capability_kind for worker in accepting}
    scheduling, fits = cluster.scheduling, cluster.placement.fits
    rivals = [other for other in scheduling.waiting_classes() if any(fits(other.kind, kind) for kind in kinds)]
    others = sum(scheduling.waiting(task_class) for task_class in rivals) - 1
    if others <= 0:
        return ""
    text = f"; {others} other{' waits' if others == 1 else 's wait'} for them"
    highest = max(map(scheduling.top_priority, rivals))
    if highest > task.priority:
        text += f", higher priority first: up to {highest}, its own is {task.priority}"
    return text


def _why_nobody(cluster: Cluster, task: Task) -> str:
    announced = [capabilities for capabilities in cluster.limits.announced if matches(task.requirements, capabilities)]
    text = f"no worker has {_lacking_everywhere(task.requirements, list(cluster.workers.values()))}"
    if announced:
        return text + " yet; one that has is announced"
    return text + _closest(task.requirements, list(cluster.workers.values()))


def _why_not_free(cluster: Cluster, task: Task, accepting: list[Worker]) -> str:
    shortages = [next(cluster.placement.shortages(worker, task), None) for worker in accepting]
    if task.requirements.reserves and all(shortages):
        short = [text for text in shortages if text]
        locks = [text for text in short if text.startswith("lock ")]
        return f"waiting for {(locks or short)[0]}"
    if task.requirements.alone:
        return f"waiting for worker {accepting[0].worker_id} to have nothing else running"
    why = cluster.scheduling.why(task) or f"waiting for a free slot: {_why_no_slot(task.run, accepting)}"
    return why + _behind(cluster, task, accepting)


def _why_no_slot(run: Run, accepting: list[Worker]) -> str:
    for worker in accepting:
        for slot in worker.slots if worker.alone is None else ():
            if slot.leases:
                continue
            if slot.is_held and worker.gathering is not None:
                return f"{slot} is kept for {worker.gathering.task.seen_from(run)}, which needs several workers"
            if slot.dry_for is not None and slot.dry_for.requirements.alone:
                return f"{slot} is kept empty for a test that wants {worker.worker_id} alone"
    return "all workers that could run it are busy"


def wanted_worker(requirements: Requirements) -> str:
    """What is waited for: ``a worker with cuda>=12``, ``2 workers at once``."""
    size = requirements.workers
    return ("a worker" if size == 1 else f"{size} workers at once") + _with(_without_number(requirements))


def missing_worker(cluster: Cluster, tasks: Sequence[Task]) -> str:
    """The worker that nobody is for these tasks of one suite and requirements (or none), with the reason.

    For "waits for ...": ``a worker with cuda>=12: nobody has it (closest: ...)``.
    """
    if not cluster.workers:
        return "a worker: none has joined"
    requirements = tasks[0].requirements
    unable = _who_cannot(cluster, tasks)
    what = wanted_worker(requirements)
    if unable:
        what += f" that can execute {_its_suite(tasks[0])}"
    if requirements.workers > 1:
        return f"{what}: {_how_many(cluster, requirements, unable)}"
    if unable:
        return f"{what} ({_few(unable)})"
    workers = list(cluster.workers.values())
    lacking = _with(_lacking_everywhere(requirements, workers))
    return f"a worker{lacking}: nobody has it{_closest(requirements, workers)}"


def no_worker(cluster: Cluster, tasks: Sequence[Task]) -> str:
    """Why what nobody can run ends: ``no worker with cuda>=12 (closest: ...)``."""
    if not cluster.workers:
        return "no worker has joined"
    requirements = tasks[0].requirements
    if requirements.workers > 1:
        return f"needs {missing_worker(cluster, tasks)}"
    unable = _who_cannot(cluster, tasks)
    if unable:
        what = _with(_without_number(requirements))
        return f"no worker{what} can execute {_its_suite(tasks[0])} ({_few(unable)})"
    workers = list(cluster.workers.values())
    return f"no worker{_with(_lacking_everywhere(requirements, workers))}{_closest(requirements, workers)}"


def _its_suite(task: Task) -> str:
    return f"suite {task.suite.name!r}" if task.suite.name else "the suite"


def _who_cannot(cluster: Cluster, tasks: Sequence[Task]) -> list[str]:
    """Workers that have what the tasks need but cannot execute them, each with the reason in its own words."""
    task, kind = tasks[0], tasks[0].task_class.kind
    lacking = frozenset().union(*(other.lacking for other in tasks))
    found = []
    for worker_id, readiness in task.suite.workers.items():
        if cluster.placement.fits(kind, cluster.workers[worker_id].capability_kind):
            if readiness.state is Readiness.UNAVAILABLE:
                found.append(_own_words(worker_id, readiness.reason))
            elif worker_id in lacking:
                found.append(f"worker {worker_id} did not collect {'it' if len(tasks) == 1 else 'them'}")
    return found


def _own_words(worker_id: WorkerId, reason: str) -> str:
    # Of a traceback of pytest the error itself.
    errors = [line[2:] for line in reason.splitlines() if line.startswith("E  ")]
    text = " ".join((errors[-1] if errors else reason).split())
    text = text if len(text) <= _REASON_MAX else f"{text[:_REASON_MAX]}..."
    return text if text.startswith(f"worker {worker_id} ") else f"worker {worker_id}: {text}"


def _few(texts: Sequence[str]) -> str:
    more = len(texts) - _NAMED_MAX
    return "; ".join([*texts[:_NAMED_MAX], *([f"and {more} more"] if more > 0 else [])])


def _how_many(cluster: Cluster, requirements: Requirements, unable: Sequence[str]) -> str:
    kind = cluster.placement.requirement_kind(requirements)
    workers = list(cluster.workers.values())
    count = sum(cluster.placement.fits(kind, worker.capability_kind) for worker in workers) - len(unable)
    why = f" ({_few(unable)})" if unable else "" if count else _closest(requirements, workers)
    return f"there {'is' if count == 1 else 'are'} {count}{why}"


def _with(what: str) -> str:
    return "" if what == "nothing special" else f" with {what}"


def _without_number(requirements: Requirements) -> str:
    return describe(replace(requirements, workers=1, locks=(), alone=False))


def _lacking_everywhere(requirements: Requirements, workers: list[Worker]) -> str:
    """The first thing that no worker has; all of it if each has some."""
    for condition in requirements.constraints:
        if not any(holds(condition, worker.capabilities) for worker in workers):
            return format_condition(condition)
    for name, amount in requirements.resources:
        if all(worker.capabilities.resources.get(name, 0.0) < amount for worker in workers):
            return describe_amount(name, amount)
    return "all of " + _without_number(requirements)


def _closest(requirements: Requirements, workers: list[Worker]) -> str:
    """The nearest miss, from a bounded look at a large fleet: one worker of each kind."""
    kinds = {worker.capability_kind: worker for worker in reversed(workers)}
    misses = [(lacking, worker) for worker in kinds.values() if (lacking := unmet(requirements, worker.capabilities))]
    if not misses:
        return ""

    def nearness(miss: tuple[list[str], Worker]) -> tuple[int, bool, float]:
        lacking, worker = miss
        has_none = any("has none" in text for text in lacking)
        return len(lacking), has_none, distance(requirements, worker.capabilities)

    lacking, closest = min(misses, key=nearness)
    return f" (closest: worker {closest.worker_id} lacks {'; '.join(lacking)})"
