"""The way of a task: queued when its dependencies are met, queued again, finished with its one verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fleetest.core.cluster import Cluster
from fleetest.core.commands import TaskOutcome
from fleetest.core.entities import Readiness, Run, Suite, Task
from fleetest.core.lifecycle import TaskState, change_task, change_tasks
from fleetest.core.model import RunId, TaskId, Verdict, WorkerId

_SUCCESS = frozenset(verdict for verdict in Verdict if verdict.is_success)


BACKOFF_MAX_S = 300.0
"""No retry waits longer."""


def retry_key(task: Task) -> tuple[str, RunId, TaskId]:
    """Of the deadline at which the task's backoff is over."""
    return ("retry", task.run.run_id, task.task_id)


def why_dependants_end(prerequisite: Task) -> str:
    """The reason of those that are not run because this task ended without success."""
    how = {Verdict.NOT_RUN: "was not run", Verdict.CANCELLED: "was cancelled"}
    return f"dependency {prerequisite.task_id} {how.get(prerequisite.verdict or Verdict.FAILED, 'failed')}"


class TaskHandling:
    def __init__(self, cluster: Cluster, when_all_finished: Callable[[Run], None]) -> None:
        self._cluster = cluster
        self._when_all_finished = when_all_finished

    def queue(self, tasks: Sequence[Task], detail: object = "") -> None:
        """Queue these tasks of one run, or end them if their run was cancelled meanwhile."""
        cluster = self._cluster
        queued: dict[Run, list[Task]] = {}
        for task in sorted(tasks, key=lambda task: task.position):
            cancellation = task.run.cancellation
            if cancellation is not None:
                self.cancel(task)
                continue
            if task.lacking or task.avoid or task.task_class.lacking or task.task_class.avoid:
                cluster.placement.file(task)
            queued.setdefault(task.suite.run, []).append(task)
        for run, ready in queued.items():
            change_tasks(ready, TaskState.QUEUED, cluster.now, detail)
            cluster.enqueue(ready)
            if run.unserved and any(task.task_class.base in run.unserved for task in ready):
                cluster.to_review[run] = None

    def retry(self, task: Task, detail: str) -> None:
        """Queue a task that failed, at once or when its backoff is over."""
        # Doubled no further than where the bound is reached: a large power would be no number.
        doublings = min(task.retries_used - 1, 64)
        delay_s = min(task.spec.backoff_s * 2.0**doublings, BACKOFF_MAX_S)
        if not delay_s:
            self.queue([task], detail)
            return
        cluster = self._cluster
        change_task(task, TaskState.PENDING, cluster.now, f"{detail}, in {delay_s:g} s")
        cluster.deadlines.set(retry_key(task), cluster.now + delay_s)

    def retry_is_due(self, task: Task) -> None:
        """Its backoff is over."""
        if task.state is TaskState.PENDING:
            self.queue([task], f"retry {task.retries_used}")

    def cancel(self, task: Task, *, was_running: bool = False) -> None:
        """End a task of a cancelled run that has no lease (any more)."""
        cancellation = task.run.cancellation
        assert cancellation is not None
        quiet = cancellation.is_quiet and not was_running
        self.finish_unexecuted(task, Verdict.NOT_RUN if quiet else Verdict.CANCELLED, cancellation.reason)

    def finish_unexecuted(self, task: Task, verdict: Verdict, reason: str) -> None:
        """A verdict without (another) execution."""
        self.finish(task, _unexecuted(task, verdict, reason))

    def finish(self, task: Task, outcome: TaskOutcome) -> None:
        """Give the task its one verdict, and end what depended on it if it failed."""
        self._settle(task, outcome)
        run = task.run
        if run.dependants:
            self._settle_dependants(task)
        if not run.unfinished:
            self._when_all_finished(run)

    def _settle(self, task: Task, outcome: TaskOutcome) -> None:
        run, verdict = task.run, outcome.verdict
        if task.state is TaskState.QUEUED:
            self._cluster.dequeue((task,))
        elif task.state is TaskState.PENDING and task.retries_used:
            self._cluster.deadlines.cancel(retry_key(task))
        assert task.lease is None, f"{task} ends while {task.lease} lives"
        change_task(task, TaskState.FINISHED, self._cluster.now, outcome.reason or verdict._value_)
        task.verdict, task.reason = verdict, outcome.reason
        if task.lacking:
            task.suite.lacked.pop(task, None)
        run.counts[verdict] = run.counts.get(verdict, 0) + 1
        run.left.add(task.spec.expected_s, -1)
        if task.suite.count_left(task, -1) and task.task_class.base in run.unserved:
            self._cluster.to_review[run] = None
        self._cluster.outbox.outcome(run.run_id, outcome)

    def _settle_dependants(self, task: Task) -> None:
        ended = [task]
        while ended:
            prerequisite = ended.pop()
            for dependant in prerequisite.run.dependants.pop(prerequisite.task_id, ()):
                if dependant.state is not TaskState.PENDING:
                    continue
                if prerequisite.verdict in _SUCCESS:
                    dependant.waits_for -= {prerequisite.task_id}
                    if not dependant.waits_for:
                        self.queue([dependant], f"dependency {prerequisite.task_id} done")
                else:
                    reason = why_dependants_end(prerequisite)
                    self._settle(dependant, _unexecuted(dependant, Verdict.NOT_RUN, reason))
                    ended.append(dependant)

    def end_undecidable(self, run: Run) -> None:
        """Once every suite of the run is known: end tasks whose dependencies are unknown or go round in a circle."""
        pending = [task for task in run.tasks.values() if task.state is TaskState.PENDING]
        for task in pending:
            unknown = sorted(name for name in task.waits_for if name not in run.tasks)
            if unknown and task.state is TaskState.PENDING:
                self.finish_unexecuted(task, Verdict.NOT_RUN, f"dependency {unknown[0]} is unknown")
        for task in _in_circles([task for task in pending if task.state is TaskState.PENDING]):
            if task.state is TaskState.PENDING:
                self.finish_unexecuted(task, Verdict.NOT_RUN, "its dependencies go round in a circle")

    def set_lacking(self, tasks: Iterable[Task], worker_id: WorkerId, *, lacks: bool) -> None:
        """This worker did not collect these tasks (or is no longer there): file them where they belong now."""
        cluster = self._cluster
        moved = []
        memo: dict[frozenset[WorkerId], frozenset[WorkerId]] = {}
        # What a worker lacks is a set: in the order of the plan, so that the same events always have the same effect.
        for task in sorted(tasks, key=lambda task: task.position):
            if task.state is TaskState.FINISHED or (worker_id in task.lacking) == lacks:
                continue
            before = task.lacking
            after = memo.get(before)
            if after is None:
                after = memo[before] = before | {worker_id} if lacks else before - {worker_id}
            task.lacking = after
            if after:
                task.suite.lacked[task] = None
            else:
                task.suite.lacked.pop(task, None)
            if task.state is TaskState.QUEUED:
                moved.append(task)
            else:
                cluster.placement.file(task)
            cluster.to_review[task.suite.run] = None
        cluster.dequeue(moved)
        for task in moved:
            cluster.placement.file(task)
        if moved:
            cluster.enqueue(moved)

    def review(self, suite: Suite) -> None:
        """End what no live worker can execute: nobody has the suite, or nobody collected the id."""
        run = suite.run
        if run.is_finished or suite.is_refused or not suite.workers:
            return
        if suite.ready_total and not suite.lacked:
            # The usual case, without a look at every worker.
            return
        if any(readiness.state is Readiness.PREPARING for readiness in suite.workers.values()):
            return
        ready = [name for name, readiness in suite.workers.items() if readiness.state is Readiness.READY]
        if ready:
            if suite.is_planned:
                for task in [task for task in suite.lacked if task.lacking.issuperset(ready)]:
                    if task.state in (TaskState.QUEUED, TaskState.PENDING):
                        self.finish_unexecuted(task, Verdict.NOT_RUN, "not collectable")
            return
        reason = "; ".join(dict.fromkeys(readiness.reason for readiness in suite.workers.values()))
        if not suite.is_planned:
            self.refuse(suite, reason)
            return
        for task in suite.tasks:
            if task.state in (TaskState.QUEUED, TaskState.PENDING):
                self.finish_unexecuted(task, Verdict.NOT_RUN, reason)

    def refuse(self, suite: Suite, reason: str) -> None:
        """The suite ends without a plan."""
        suite.is_refused = True
        self.settled(suite.run)

    def settled(self, run: Run) -> None:
        """A suite of the run got its plan or was refused."""
        if not all(suite.is_settled for suite in run.suites.values()):
            return
        self.end_undecidable(run)
        if not run.unfinished:
            self._when_all_finished(run)


def _unexecuted(task: Task, verdict: Verdict, reason: str) -> TaskOutcome:
    return TaskOutcome(task.task_id, max(1, task.attempts), verdict, is_final=True, reason=reason)


def _in_circles(pending: Sequence[Task]) -> list[Task]:
    """The pending tasks that wait, directly or not, for themselves or for such a task."""
    waiting = {task.task_id: set(task.waits_for) for task in pending}
    dependants: dict[TaskId, list[TaskId]] = {}
    for name, prerequisites in waiting.items():
        for prerequisite in prerequisites:
            dependants.setdefault(prerequisite, []).append(name)
    # A prerequisite that is not pending is queued or under way, so it will end.
    free = [name for name in dependants if name not in waiting]
    free += [name for name, prerequisites in waiting.items() if not prerequisites]
    while free:
        done = free.pop()
        waiting.pop(done, None)
        for name in dependants.get(done, ()):
            if name in waiting:
                waiting[name].discard(done)
                if not waiting[name]:
                    free.append(name)
    return [task for task in pending if task.task_id in waiting]
