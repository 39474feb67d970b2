"""What the types of messages cannot say: checks of what peers send, before any of it becomes an event."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

from fleetest.core.model import WEIGHT_MAX, WEIGHT_MIN, AttemptResult, TaskId, TaskSpec
from fleetest.core.requirements import WORKERS_PER_TASK_MAX
from fleetest.errors import RemoteProtocolError
from fleetest.wire.messages import CommandSuite, SubmitRun, SuitePlan

SUITES_PER_RUN_MAX = 1000
_RUN_ID = re.compile(r"[0-9a-f]{32}")


def check_submission(run: SubmitRun, tasks_max: int) -> None:
    """Raises RemoteProtocolError for a run that cannot be meant."""
    if not _RUN_ID.fullmatch(run.run_id):
        raise RemoteProtocolError("a run's id must be 32 lower-case hex digits")
    if not WEIGHT_MIN <= run.weight <= WEIGHT_MAX:
        raise RemoteProtocolError(f"a weight of {run.weight}: {WEIGHT_MIN:g} to {WEIGHT_MAX:g} are possible")
    if not 1 <= len(run.suites) <= SUITES_PER_RUN_MAX:
        raise RemoteProtocolError(f"a run of {len(run.suites)} suites: 1 to {SUITES_PER_RUN_MAX} are possible")
    if run.wait_for_workers_s is not None and not 0.0 <= run.wait_for_workers_s < 1e9:
        raise RemoteProtocolError(f"a run that waits {run.wait_for_workers_s} s for workers")
    names = [suite.name for suite in run.suites]
    if len(set(names)) != len(names):
        raise RemoteProtocolError("two suites of one run have the same name")
    seen: set[TaskId] = set()
    for suite in run.suites:
        if isinstance(suite, CommandSuite):
            if len(suite.tasks) != len(suite.commands):
                raise RemoteProtocolError(
                    f"suite {suite.name!r}: {len(suite.tasks)} tasks for {len(suite.commands)} commands"
                )
            check_tasks(suite.name, suite.tasks, seen, tasks_max)
            seen.update(task.task_id for task in suite.tasks)


def check_plan(plan: SuitePlan, other_ids: Collection[TaskId], tasks_max: int) -> None:
    """Raises RemoteProtocolError for a collection that contradicts itself or the run (``other_ids``)."""
    if len(plan.items) != len(plan.tasks):
        raise RemoteProtocolError(f"suite {plan.suite!r}: {len(plan.items)} items for {len(plan.tasks)} tasks")
    check_tasks(plan.suite, plan.tasks, other_ids, tasks_max)


def check_tasks(suite: str, tasks: Sequence[TaskSpec], other_ids: Collection[TaskId], tasks_max: int) -> None:
    """``other_ids`` are the ids already taken in this run."""
    if len(tasks) + len(other_ids) > tasks_max:
        raise RemoteProtocolError(f"suite {suite!r}: the run would have over {tasks_max} tasks")
    ids = {task.task_id for task in tasks}
    if len(ids) != len(tasks) or not ids.isdisjoint(other_ids):
        raise RemoteProtocolError(f"suite {suite!r}: an id occurs twice in the run")
    if any(task.suite != suite for task in tasks):
        raise RemoteProtocolError(f"suite {suite!r}: a task names another suite")
    if any(not 1 <= task.requirements.workers <= WORKERS_PER_TASK_MAX for task in tasks):
        raise RemoteProtocolError(f"suite {suite!r}: a task needs 1 to {WORKERS_PER_TASK_MAX} workers")


def check_results(results: Sequence[AttemptResult]) -> None:
    """Raises RemoteProtocolError for durations that are none (negative, infinite, not a number)."""
    for result in results:
        if not 0.0 <= result.duration_s < 1e9:
            raise RemoteProtocolError(f"lease {result.lease_id}: a duration of {result.duration_s} s")
