"""What must be true after every event. ``check`` is run by tests, over every record; it is not cheap."""

from __future__ import annotations

import math
from collections.abc import Sequence

from fleetest.core.cluster import Cluster
from fleetest.core.cluster_state import ClusterState
from fleetest.core.entities import LiveLease, Readiness, Run, Slot, Task, TaskClass, Worker
from fleetest.core.hedging import may_be_hedged
from fleetest.core.lifecycle import Story, TaskState
from fleetest.core.standing import standing
from fleetest.core.task_handling import retry_key
from fleetest.errors import InvariantViolation


def check(state: ClusterState) -> None:
    """Raise InvariantViolation, with the story of the task, if the state contradicts itself."""
    cluster = state.cluster
    for run in cluster.runs.values():
        _check_run(cluster, run)
    for run in cluster.finished_runs.values():
        _demand(not run.leases and not run.unfinished, f"{run} ended with work under way")
        _demand(sum(run.counts.values()) == len(run.tasks), f"{run} ended without one verdict per task")
    for worker in cluster.workers.values():
        _check_worker(cluster, worker)
    _check_leases(cluster)
    _check_gatherings(cluster)
    _check_counts(cluster)


def _demand(condition: bool, message: str, story: Story | None = None) -> None:
    if not condition:
        raise InvariantViolation(message, story.lines() if story is not None else ())


def _check_run(cluster: Cluster, run: Run) -> None:
    finished = unknown = 0
    queued: dict[TaskClass, int] = {}
    unfinished: dict[TaskClass, int] = {}
    for task in run.tasks.values():
        state = task.state
        if state is TaskState.FINISHED:
            finished += 1
            if task.verdict is None or task.lease is not None or task.extra_leases or task.gang is not None:
                _demand(False, f"{task} is finished, lease {task.lease}, verdict {task.verdict}", task.story)
            continue
        unknown += task.spec.expected_s is None
        _check_open_task(cluster, task)
        base = task.task_class.base
        unfinished[base] = unfinished.get(base, 0) + 1
        if state is TaskState.QUEUED:
            queued[task.task_class] = queued.get(task.task_class, 0) + 1
    _demand(len(run.tasks) - finished == run.unfinished, f"{run}: {run.unfinished} unfinished is wrong")
    _demand(unknown == run.left.unknown, f"{run}: {run.left.unknown} unfinished of unknown duration is wrong")
    _demand(sum(run.counts.values()) == finished, f"{run}: its counts are wrong")
    listed = {task_class for suite in run.suites.values() for task_class in suite.classes}
    _demand(listed == unfinished.keys(), f"{run}: the classes of its unfinished tasks are wrong")
    for task_class in run.classes.values():
        left = task_class.left.count
        _demand(left == unfinished.get(task_class, 0), f"{run}: {left} unfinished of a class is wrong")
        queue = cluster.gangs if task_class.requirements.workers > 1 else cluster.scheduling
        waiting = queue.waiting(task_class)
        _demand(waiting == queued.get(task_class, 0), f"{run}: the scheduler has {waiting} of a class")
    settled = all(suite.is_settled for suite in run.suites.values())
    _demand(not (settled and run.unfinished == 0), f"{run} should have ended")


def _check_open_task(cluster: Cluster, task: Task) -> None:
    wrong = _wrong_with(cluster, task)
    if wrong:
        raise InvariantViolation(f"{task} {wrong}", task.story.lines())
    if task.lease is not None:
        _check_leases_of(cluster, task)


def _wrong_with(cluster: Cluster, task: Task) -> str:
    """Nothing is formatted for what is right: this is asked of every open task after every event."""
    state, lease = task.state, task.lease
    under_way = state in (TaskState.LEASED, TaskState.RUNNING)
    if task.verdict is not None:
        return "has a verdict and goes on"
    if (lease is not None) != under_way:
        return f"is {state.value}, lease {lease}"
    if lease is None and task.extra_leases:
        return "has extra leases only"
    if state is TaskState.PENDING and not task.waits_for and cluster.deadlines.due(retry_key(task)) is None:
        return "waits for nothing"
    if state is TaskState.QUEUED and task.run.cancellation is not None:
        return "is queued in a cancelled run"
    if task.gang is not None and not under_way:
        return "has a gang and no lease"
    if task.task_class.lacking != task.lacking:
        return "is filed under what others lack"
    return ""


def _check_leases_of(cluster: Cluster, task: Task) -> None:
    story, leases = task.story, task.live_leases
    for live in leases:
        _demand(cluster.leases.get(live.lease_id) is live, f"{task}: its lease is not live", story)
    is_started = any(live.is_started for live in leases)
    _demand(is_started == (task.state is TaskState.RUNNING), f"{task}: started", story)
    workers = {live.slot.worker.worker_id for live in leases}
    _demand(len(workers) == len(leases), f"{task} has two leases on one worker", story)
    if task.requirements.workers > 1:
        _check_gang(task, leases)
    elif len(leases) > 1:
        _demand(len(leases) == 2, f"{task} is hedged more than once", story)
        _demand(len({live.attempt for live in leases}) == 2, f"{task}: its hedge is no attempt of its own", story)
        _demand(may_be_hedged(task), f"{task} must not be hedged", story)


def _check_gang(task: Task, leases: Sequence[LiveLease]) -> None:
    """All or nothing: every member was granted at once, and those that are not live have ended or are missing."""
    story, gang = task.story, task.gang
    _demand(gang is not None, f"{task} is under way without its gang", story)
    assert gang is not None
    size = task.requirements.workers
    _demand(len({live.slot.worker.worker_id for live in gang.members}) == size, f"{task}: its gang is not whole", story)
    _demand(set(leases) <= set(gang.members), f"{task} has a lease outside of its gang", story)
    places = [live.place for live in gang.members]
    for rank, place in enumerate(places):
        _demand(place is not None and (place.rank, place.size) == (rank, size), f"{task}: places in its gang", story)
    _demand(len({place.gang_id for place in places if place}) == 1, f"{task}: two gangs at once", story)
    ended = [live for live in gang.members if live not in leases]
    _demand(
        all(live.lease_id in gang.results for live in ended) or bool(gang.ending_because),
        f"{task}: a member is missing and nobody ends the others",
        story,
    )


def _check_gatherings(cluster: Cluster) -> None:
    held: set[Slot] = set()
    gathered: set[Worker] = set()
    for gathering in cluster.gangs.gatherings:
        task = gathering.task
        workers = {slot.worker for slot in gathering.slots}
        _demand(task.state is TaskState.QUEUED, f"{task} gathers and does not wait", task.story)
        _demand(len(workers) == task.requirements.workers, f"{task} gathers an incomplete gang", task.story)
        _demand(workers.isdisjoint(gathered), f"{task} gathers a worker of another gang", task.story)
        gathered |= workers
        for slot in gathering.slots:
            held.update(slot.worker.slots if task.requirements.alone else (slot,))
    for worker in cluster.workers.values():
        _demand((worker.gathering is not None) == (worker in gathered), f"{worker}: gathering is wrong", worker.story)
        for slot in worker.slots:
            _demand(slot.is_held == (slot in held), f"{slot}: held is wrong", worker.story)


def _check_worker(cluster: Cluster, worker: Worker) -> None:
    story = worker.story
    _demand(not worker.state.is_gone, f"{worker} is gone and listed", story)
    if worker.is_linked:
        _demand(worker.state is standing(worker), f"{worker} is {worker.state}, not {standing(worker)}", story)
    count = 0
    reserved: dict[str, float] = {}
    for slot in worker.slots:
        has_suspect = False
        count += len(slot.leases)
        total_s = sum(live.predicted_s for live in slot.leases.values())
        _demand(math.isclose(slot.queued_s, total_s, abs_tol=1e-6), f"{slot}: predicted work is wrong", story)
        _demand((slot in cluster.busy) == bool(slot.leases), f"{slot}: busy is wrong", story)
        for live in slot.leases.values():
            _demand(cluster.leases.get(live.lease_id) is live, f"{slot} holds a dead lease", story)
            _demand(live.slot is slot, f"{slot} holds a lease of {live.slot}", story)
            is_head = live is slot.head()
            has_suspect = has_suspect or live.task.is_suspect
            if has_suspect and not is_head and worker.is_linked:
                is_leaving = live.is_started or live.is_revoked or bool(live.kill_reason)
                _demand(is_leaving, f"{live.task} shares {slot} with a suspect", story)
            requirements = live.task.requirements
            if requirements.reserves:
                _demand(len(slot.leases) == 1, f"{slot}: something waits behind {live.task}", story)
            if requirements.alone:
                _demand(worker.alone is live and worker.lease_count == 1, f"{live.task} is not alone", story)
            for name, amount in requirements.resources:
                reserved[name] = reserved.get(name, 0.0) + amount
            for name in requirements.locks:
                # The first live member of a gang holds it for all of them.
                holder = cluster.placement.locks.get(name)
                _demand(holder is live.task.lease, f"{live.task} runs without lock {name}", story)
    _demand(count == worker.lease_count, f"{worker}: {worker.lease_count} leases is wrong", story)
    for name, total in worker.capabilities.resources.items():
        expected = total - reserved.get(name, 0.0)
        tolerance = 1e-6 * max(1.0, abs(total))
        _demand(abs(worker.free[name] - expected) <= tolerance, f"{worker}: {name} free is wrong", story)
        _demand(expected >= -tolerance, f"{worker}: {name} is given out twice", story)


def _check_leases(cluster: Cluster) -> None:
    for lease_id, live in cluster.leases.items():
        story = live.task.story
        worker = live.slot.worker
        _demand(cluster.workers.get(worker.worker_id) is worker, f"{live} is of a worker that is gone", story)
        _demand(live.slot.leases.get(lease_id) is live, f"{live} is not in its slot", story)
        _demand(live.task.run.leases.get(lease_id) is live, f"{live} is not in its run", story)
        _demand(sum(own is live for own in live.task.live_leases) == 1, f"{live} is not its task's", story)
        _demand(lease_id not in cluster.voided, f"{live} lives and is void", story)
    for name, live in cluster.placement.locks.items():
        _demand(cluster.leases.get(live.lease_id) is live, f"lock {name} is held by a dead lease")


def _check_counts(cluster: Cluster) -> None:
    accepting = sum(len(worker.slots) for worker in cluster.workers.values() if worker.accepts)
    _demand(cluster.placement.accepting_slots == accepting, "accepting slots are counted wrongly")
    slots = sum(len(worker.slots) for worker in cluster.workers.values())
    _demand(cluster.slot_count == slots, "slots are counted wrongly")
    for run in cluster.runs.values():
        for suite in run.suites.values():
            counted: dict[int, int] = {}
            for worker in cluster.workers.values():
                if worker.accepts and suite in worker.ready_suites:
                    kind = worker.capability_kind
                    counted[kind] = counted.get(kind, 0) + len(worker.slots)
            given = {kind: slots for kind, slots in suite.ready_slots.items() if slots}
            _demand(given == {kind: slots for kind, slots in counted.items() if slots}, f"{run}: ready slots")
            unable: dict[int, int] = {}
            for worker_id, readiness in suite.workers.items():
                if readiness.state is Readiness.UNAVAILABLE:
                    kind = cluster.workers[worker_id].capability_kind
                    unable[kind] = unable.get(kind, 0) + 1
            _demand({kind: count for kind, count in suite.unable.items() if count} == unable, f"{run}: who is unable")
