"""A fleet that no further worker can join: what none of its workers can ever run ends at once, with the reason."""

from __future__ import annotations

from fleetest.core import events
from fleetest.core.cluster import Cluster
from fleetest.core.entities import Readiness, Run, Suite, Task, TaskClass
from fleetest.core.explain import explain
from fleetest.core.lifecycle import TaskState
from fleetest.core.model import Verdict
from fleetest.core.task_handling import TaskHandling

_MAY_END_HOPE = (
    events.SuitePlanned,
    events.SuiteReady,
    events.SuiteUnavailable,
    events.AttemptsFinished,
    events.LeasesReturned,
    events.InfrastructureFailed,
    events.WorkerDisconnected,
)


class ClosedFleet:
    """Does nothing where workers may join: there, a task waits for a worker that fits."""

    def __init__(self, cluster: Cluster, tasks: TaskHandling) -> None:
        self._cluster = cluster
        self._tasks = tasks

    def after(self, event: events.Event) -> None:
        if self._cluster.limits.workers_may_join or not isinstance(event, _MAY_END_HOPE):
            return
        for run in list(self._cluster.runs.values()):
            for task in self._hopeless_tasks(run):
                # Ending one may have ended others that depended on it.
                if task.state is TaskState.QUEUED:
                    reason = explain(self._cluster, run.run_id, task.task_id)
                    self._tasks.finish_unexecuted(task, Verdict.NOT_RUN, reason)

    def _hopeless_tasks(self, run: Run) -> list[Task]:
        placement = self._cluster.placement
        hopeless = {
            task_class
            for suite in run.suites.values()
            if self._is_answered(suite)
            for task_class in suite.classes
            if not placement.eligible_slots(task_class) or self._is_too_few(task_class)
        }
        if not hopeless:
            return []
        return [
            task for task in run.tasks.values() if task.state is TaskState.QUEUED and task.task_class.base in hopeless
        ]

    def _is_too_few(self, task_class: TaskClass) -> bool:
        size = task_class.requirements.workers
        return size > 1 and len(self._cluster.gangs.serving(task_class)) < size

    def _is_answered(self, suite: Suite) -> bool:
        """True if the suite is planned and every worker has said whether it can execute it."""
        answers = suite.workers
        return suite.is_planned and all(
            worker_id in answers and answers[worker_id].state is not Readiness.PREPARING
            for worker_id in self._cluster.workers
        )
