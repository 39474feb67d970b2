"""Work that no known worker can do: said once, waited for as long as the run wants, then ended with the reason.

Known are the workers that are there or may still come back, and those that the operator announced. What is being waited
for is known by distinct requirements, never by task; it is looked at when the fleet changes and when a plan arrives.
"""

from __future__ import annotations

from fleetest.core import events
from fleetest.core.cluster import MISSING_WORKER_DEADLINE, Cluster
from fleetest.core.commands import PublishNotice
from fleetest.core.entities import MissingWorker, RequirementKind, Run, Task
from fleetest.core.explain import missing_worker, no_worker
from fleetest.core.lifecycle import TaskState
from fleetest.core.matching import matches
from fleetest.core.model import NO_REQUIREMENTS, Requirements, RunId, Verdict
from fleetest.core.task_handling import TaskHandling

_WAITING = (TaskState.PENDING, TaskState.QUEUED)
_MAY_QUEUE_AGAIN = (events.AttemptsFinished, events.LeasesReturned, events.InfrastructureFailed, events.DeadlineReached)


class MissingWorkers:
    """Does nothing where no worker may join: there, such work ends at once (see ``closed_fleet``)."""

    def __init__(self, cluster: Cluster, tasks: TaskHandling) -> None:
        self._cluster = cluster
        self._tasks = tasks
        self._seen_changes = 0
        self._given_up: dict[RunId, None] = {}
        """Runs that have waited long enough for some worker: what is queued again for it ends too."""

    def after(self, event: events.Event) -> None:
        cluster = self._cluster
        if not cluster.limits.workers_may_join:
            return
        if cluster.fleet_changes != self._seen_changes:
            self._seen_changes = cluster.fleet_changes
            for run in list(cluster.runs.values()):
                self._review(run)
        elif isinstance(event, events.RunSubmitted | events.SuitePlanned) and event.run_id in cluster.runs:
            self._review(cluster.runs[event.run_id])
        elif self._given_up and isinstance(event, _MAY_QUEUE_AGAIN):
            for run_id in list(self._given_up):
                self._end_all_given_up(run_id)

    def due(self, run_id: RunId, requirements: Requirements) -> None:
        """The run has waited as long as it wanted."""
        run = self._cluster.runs.get(run_id)
        if run is not None and requirements in run.missing:
            self._give_up(run, requirements)

    def _review(self, run: Run) -> None:
        if run.cancellation is not None:
            return
        kinds = dict(run.kinds)
        if not all(suite.is_settled for suite in run.suites.values()):
            kinds.setdefault(NO_REQUIREMENTS, self._cluster.placement.requirement_kind(NO_REQUIREMENTS))
        nobody = not self._cluster.known_kinds and not self._cluster.limits.announced
        if nobody:
            # One word about the whole run; the rest is said when there is somebody who lacks something.
            kinds = {NO_REQUIREMENTS: self._cluster.placement.requirement_kind(NO_REQUIREMENTS)}
        for requirements in [*run.missing, *(other for other in kinds if other not in run.missing)]:
            if run.is_finished:
                return
            kind = kinds.get(requirements) or self._cluster.placement.requirement_kind(requirements)
            if self._is_known(kind):
                self._found(run, requirements)
            elif requirements not in run.missing:
                self._miss(run, requirements)
        self._end_all_given_up(run.run_id)

    def _is_known(self, kind: RequirementKind) -> bool:
        placement, requirements = self._cluster.placement, kind.requirements
        count = sum(matches(requirements, announced) for announced in self._cluster.limits.announced)
        for capability_kind, workers in self._cluster.known_kinds.items():
            if count >= requirements.workers:
                return True
            count += workers if placement.fits(kind, capability_kind) else 0
        return count >= requirements.workers

    def _waiting(self, run: Run, requirements: Requirements) -> list[Task]:
        """Its tasks with these requirements; all of them while nobody is there at all."""
        is_any = requirements == NO_REQUIREMENTS
        return [
            task
            for task in run.tasks.values()
            if task.state in _WAITING and (is_any or task.requirements == requirements)
        ]

    def _miss(self, run: Run, requirements: Requirements) -> None:
        cluster = self._cluster
        tasks = self._waiting(run, requirements)
        collects = requirements == NO_REQUIREMENTS and not all(suite.is_settled for suite in run.suites.values())
        if not tasks and not collects:
            return
        wait_s = run.wait_for_workers_s
        run.missing[requirements] = MissingWorker()
        if wait_s == 0:
            self._give_up(run, requirements)
            return
        if wait_s is not None:
            cluster.deadlines.set((MISSING_WORKER_DEADLINE, run.run_id, requirements), cluster.now + wait_s)
        who = "the run waits" if collects else "1 test waits" if len(tasks) == 1 else f"{len(tasks)} tests wait"
        end = "" if wait_s is None else f"; without one, not run after {wait_s:g} s"
        text = f"{who} for {missing_worker(cluster, requirements)}{end}"
        cluster.outbox.add(PublishNotice(run.run_id, text))

    def _found(self, run: Run, requirements: Requirements) -> None:
        missing = run.missing.pop(requirements, None)
        if missing is None:
            return
        self._cluster.deadlines.cancel((MISSING_WORKER_DEADLINE, run.run_id, requirements))
        if not missing.is_given_up:
            what = missing_worker(self._cluster, requirements, with_reason=False)
            self._cluster.outbox.add(PublishNotice(run.run_id, f"the wait for {what} is over"))

    def _give_up(self, run: Run, requirements: Requirements) -> None:
        missing = run.missing[requirements]
        missing.is_given_up = True
        missing.reason = no_worker(self._cluster, requirements)
        if run.wait_for_workers_s:
            missing.reason += f", after {run.wait_for_workers_s:g} s of waiting"
        self._given_up[run.run_id] = None
        self._end_all_given_up(run.run_id)

    def _end_all_given_up(self, run_id: RunId) -> None:
        run = self._cluster.runs.get(run_id)
        given_up = [] if run is None else [item for item in run.missing.items() if item[1].is_given_up]
        if run is None or not given_up:
            self._given_up.pop(run_id, None)
            return
        for requirements, missing in given_up:
            for task in self._waiting(run, requirements):
                # Ending one may have ended others that depended on it.
                if task.state in _WAITING:
                    self._tasks.finish_unexecuted(task, Verdict.NOT_RUN, missing.reason)
            if requirements == NO_REQUIREMENTS:
                for suite in run.suites.values():
                    if not suite.is_settled:
                        self._tasks.refuse(suite, missing.reason)
