"""Why a task is where it is, in one honest sentence."""

from __future__ import annotations

from fleetest.core.cluster import Cluster
from fleetest.core.conditions import format_condition
from fleetest.core.entities import Readiness, Task, Worker
from fleetest.core.lifecycle import TaskState, WorkerState
from fleetest.core.matching import describe, describe_amount, holds, unmet
from fleetest.core.model import RunId, TaskId
from fleetest.core.task_handling import retry_key


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
        return f"finished: {task.verdict.value}" + (f" ({task.reason})" if task.reason else "")
    if task.state is TaskState.PENDING:
        due = cluster.deadlines.due(retry_key(task))
        if due is not None:
            return f"waiting {max(0.0, due - cluster.now):.1f} s before retry {task.retries_used}"
        return f"waiting for dependency {sorted(task.waits_for)[0]}"
    if task.lease is not None:
        verb = "running" if task.state is TaskState.RUNNING else "next"
        text = f"{verb} on {task.lease.slot}, attempt {task.lease.lease.attempt}"
        return text + _state_note(task.lease.slot.worker)
    return _why_queued(cluster, task)


def _state_note(worker: Worker) -> str:
    return "" if worker.accepts else f" (the worker is {worker.state.value})"


def _state_of(worker: Worker) -> str:
    because = worker.quarantined_because if worker.state is WorkerState.QUARANTINED else ""
    return worker.state.value + (f" ({because})" if because else "")


def _why_queued(cluster: Cluster, task: Task) -> str:
    workers = list(cluster.workers.values())
    if not workers:
        return "waiting for a worker: none has joined"
    kind = task.task_class.kind
    fitting = [worker for worker in workers if cluster.placement.fits(kind, worker.capability_kind)]
    if not fitting:
        return _nobody_has(task, workers)
    collected = [worker for worker in fitting if worker.worker_id not in task.lacking]
    if not collected:
        return f"every worker that has {describe(task.requirements)} lacks this test in its collection"
    states = task.suite.workers
    ready = [worker for worker in collected if worker in _ready(task, collected)]
    if not ready:
        preparing = [
            worker.worker_id
            for worker in collected
            if worker.worker_id in states and states[worker.worker_id].state is Readiness.PREPARING
        ]
        if preparing:
            return f"worker {preparing[0]} is still collecting its suite"
        reason = next((state.reason for state in states.values() if state.reason), "not prepared")
        return f"no worker that fits can execute its suite: {reason}"
    accepting = [worker for worker in ready if worker.accepts]
    if not accepting:
        return "no worker that fits takes new work: " + ", ".join(
            f"{worker.worker_id} is {_state_of(worker)}" for worker in ready[:3]
        )
    if task.requirements.workers > 1:
        return cluster.gangs.why(task)
    return _why_not_free(cluster, task, accepting)


def _ready(task: Task, workers: list[Worker]) -> list[Worker]:
    return [worker for worker in workers if task.suite in worker.ready_suites]


def _why_not_free(cluster: Cluster, task: Task, accepting: list[Worker]) -> str:
    shortages = [next(cluster.placement.shortages(worker, task.requirements), None) for worker in accepting]
    if task.requirements.reserves and all(shortages):
        short = [text for text in shortages if text]
        locks = [text for text in short if text.startswith("lock ")]
        return f"waiting for {(locks or short)[0]}"
    if task.requirements.alone:
        return f"waiting for worker {accepting[0].worker_id} to have nothing else running"
    return cluster.scheduling.why(task)


def _nobody_has(task: Task, workers: list[Worker]) -> str:
    """Name what nobody has; and the worker that is closest."""
    requirements = task.requirements
    for condition in requirements.constraints:
        if not any(holds(condition, worker.capabilities) for worker in workers):
            return f"no live worker has {format_condition(condition)}{_closest(task, workers)}"
    for name, amount in requirements.resources:
        if all(worker.capabilities.resources.get(name, 0.0) < amount for worker in workers):
            return f"no live worker has {describe_amount(name, amount)}{_closest(task, workers)}"
    return f"no live worker has all of {describe(requirements)}{_closest(task, workers)}"


def _closest(task: Task, workers: list[Worker]) -> str:
    def distance(worker: Worker) -> tuple[int, bool]:
        lacking = unmet(task.requirements, worker.capabilities)
        return len(lacking), any("has none" in text for text in lacking)

    closest = min(workers, key=distance)
    return f" (closest: worker {closest.worker_id} lacks {'; '.join(unmet(task.requirements, closest.capabilities))})"
