"""Work that no known worker can do: said once, waited for as long as the run wants, then ended with the reason.

Known are the workers that are there or may still come back, and those that the operator announced. Each is taken to
be able to execute a suite until it has said that it is not. What is waited for is known by suite and distinct
requirements, never by task; it is looked at when the fleet, or what a worker can execute, changes, and when tasks are
queued for which there was nobody.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

from fleetest.core.cluster import MISSING_WORKER_DEADLINE, Cluster
from fleetest.core.commands import PublishNotice
from fleetest.core.entities import Readiness, Run, Task, TaskClass
from fleetest.core.explain import missing_worker, no_worker, wanted_worker
from fleetest.core.lifecycle import TaskState
from fleetest.core.matching import matches
from fleetest.core.model import NO_REQUIREMENTS, Requirements, RunId, Verdict, WorkerId
from fleetest.core.task_handling import TaskHandling

_WAITING = (TaskState.PENDING, TaskState.QUEUED)
Wanted: TypeAlias = "tuple[str, Requirements] | None"
"""Suite and requirements; None: any worker at all, for the whole run."""


class MissingWorkers:
    """Does nothing where no worker may join: there, such work ends at once (see ``closed_fleet``)."""

    def __init__(self, cluster: Cluster, tasks: TaskHandling) -> None:
        self._cluster = cluster
        self._tasks = tasks
        self._seen_changes = 0

    def after_event(self) -> None:
        cluster = self._cluster
        changed, cluster.to_review = cluster.to_review, {}
        if not cluster.limits.workers_may_join:
            return
        runs = changed
        if cluster.fleet_changes != self._seen_changes:
            self._seen_changes = cluster.fleet_changes
            runs = dict.fromkeys(cluster.runs.values())
        for run in runs:
            if not run.is_finished and run.cancellation is None:
                self._review(run, has_changed=run in changed)

    def due(self, run_id: RunId, wanted: Wanted) -> None:
        """The run has waited as long as it wanted."""
        run = self._cluster.runs.get(run_id)
        if run is None or run.cancellation is not None:
            return
        # The same event may have brought a worker.
        self._review(run, has_changed=True)
        if wanted in run.missing:
            del run.missing[wanted]
            tasks = self._all_waiting(run) if wanted is None else self._unserved(run).get(wanted, ())
            if tasks or wanted is None:
                self._end(run, wanted, tasks)

    def _review(self, run: Run, *, has_changed: bool) -> None:
        """``has_changed``: not only the fleet has, but what of the run is queued, or who can execute that."""
        cluster = self._cluster
        if not cluster.known_kinds and not cluster.limits.announced:
            # One word about the whole run; the rest is said when there is somebody who lacks something.
            if None not in run.missing:
                self._miss(run, None, self._all_waiting(run))
            return
        unserved = {
            task_class: None
            for suite in run.suites.values()
            for task_class in suite.classes
            if not self._is_served(task_class)
        }
        if not has_changed and None not in run.missing and unserved.keys() == run.unserved.keys():
            # A worker came or went that makes no difference to it: its tasks need not be looked through.
            return
        run.unserved = unserved
        tasks = self._unserved(run)
        for wanted in [wanted for wanted in run.missing if wanted not in tasks]:
            self._found(run, wanted)
        for wanted in [wanted for wanted in tasks if wanted not in run.missing]:
            self._miss(run, wanted, tasks[wanted])

    def _is_served(self, task_class: TaskClass) -> bool:
        """True if as many workers as its tasks need are known that can run them."""
        placement, suite, kind = self._cluster.placement, task_class.suite, task_class.kind
        needed = kind.requirements.workers
        count = sum(matches(kind.requirements, announced) for announced in self._cluster.limits.announced)
        # As many may lack the tasks as have said so: hardly ever must it be known which of them fit and are there.
        enough = needed + len(task_class.lacking)
        for capability_kind, workers in self._cluster.known_kinds.items():
            if placement.fits(kind, capability_kind):
                count += workers - suite.unable.get(capability_kind, 0)
                if count >= enough:
                    return True
        return count >= needed and count - len(self._lacking(task_class)) >= needed

    def _lacking(self, task_class: TaskClass) -> list[WorkerId]:
        """Workers that fit and can execute the suite, but did not collect these tasks."""
        cluster, known = self._cluster, task_class.suite.workers
        return [
            worker_id
            for worker_id in task_class.lacking
            if worker_id in known
            and known[worker_id].state is not Readiness.UNAVAILABLE
            and cluster.placement.fits(task_class.kind, cluster.workers[worker_id].capability_kind)
        ]

    def _all_waiting(self, run: Run) -> Sequence[Task]:
        return [task for task in run.tasks.values() if task.state in _WAITING]

    def _unserved(self, run: Run) -> dict[Wanted, list[Task]]:
        """Waiting tasks that no known worker can run, by what they want."""
        found: dict[Wanted, list[Task]] = {}
        for task in self._all_waiting(run) if run.unserved else ():
            if task.task_class.base in run.unserved:
                found.setdefault((task.suite.name, task.requirements), []).append(task)
        return found

    def _miss(self, run: Run, wanted: Wanted, tasks: Sequence[Task]) -> None:
        cluster, wait_s = self._cluster, run.wait_for_workers_s
        collects = wanted is None and not all(suite.is_settled for suite in run.suites.values())
        if not tasks and not collects:
            return
        if wait_s == 0:
            self._end(run, wanted, tasks)
            return
        run.missing[wanted] = None
        if wait_s is not None:
            cluster.deadlines.set((MISSING_WORKER_DEADLINE, run.run_id, wanted), cluster.now + wait_s)
        who = "the run waits" if collects else "1 test waits" if len(tasks) == 1 else f"{len(tasks)} tests wait"
        end = "" if wait_s is None else f"; without one, not run after {wait_s:g} s"
        text = f"{who} for {missing_worker(cluster, tasks)}{end}"
        cluster.outbox.add(PublishNotice(run.run_id, text))

    def _found(self, run: Run, wanted: Wanted) -> None:
        """There is a worker again; or nothing is left that waits for one, of which nothing need be said."""
        del run.missing[wanted]
        self._cluster.deadlines.cancel((MISSING_WORKER_DEADLINE, run.run_id, wanted))
        requirements = NO_REQUIREMENTS
        if wanted is not None:
            suite, requirements = wanted
            classes = [each for each in run.suites[suite].classes if each.requirements == requirements]
            if not classes or not run.unserved.keys().isdisjoint(classes):
                return
        text = f"the wait for {wanted_worker(requirements)} is over"
        self._cluster.outbox.add(PublishNotice(run.run_id, text))

    def _end(self, run: Run, wanted: Wanted, tasks: Sequence[Task]) -> None:
        reason = no_worker(self._cluster, tasks)
        if run.wait_for_workers_s:
            reason += f", after {run.wait_for_workers_s:g} s of waiting"
        for task in tasks:
            # Ending one may have ended others that depended on it.
            if task.state in _WAITING:
                self._tasks.finish_unexecuted(task, Verdict.NOT_RUN, reason)
        if wanted is None:
            for suite in run.suites.values():
                if not suite.is_settled:
                    self._tasks.refuse(suite, reason)
