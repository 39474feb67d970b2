"""Runs: submitted, planned, cancelled, finished."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fleetest.core import events
from fleetest.core.attempt_handling import AttemptHandling
from fleetest.core.cluster import FINISHED_RUNS_KEPT, LONGEST_S, MISSING_WORKER_DEADLINE, Cluster
from fleetest.core.commands import EndRun, KillLeases, PrepareRun, RevokeLeases, RunFinished
from fleetest.core.entities import (
    Cancellation,
    LiveLease,
    Readiness,
    Run,
    Suite,
    SuiteReadiness,
    Task,
    TaskClass,
    TaskGroup,
    Worker,
)
from fleetest.core.lifecycle import TaskState
from fleetest.core.model import WEIGHT_MAX, WEIGHT_MIN, LeaseId, Requirements, RunId, TaskSpec, Verdict, WorkerId
from fleetest.core.requirements import merge_requirements
from fleetest.core.task_handling import TaskHandling, why_dependants_end


class RunHandling:
    def __init__(self, cluster: Cluster, tasks: TaskHandling, attempts: AttemptHandling) -> None:
        self._cluster, self._tasks, self._attempts = cluster, tasks, attempts

    def submitted(self, event: events.RunSubmitted) -> None:
        cluster = self._cluster
        if event.run_id in cluster.runs or event.run_id in cluster.finished_runs:
            return
        run = Run(event.run_id, cluster.next_order(), event.owner, event.priority, _sane_weight(event.weight))
        run.wait_for_workers_s = event.wait_for_workers_s
        for name in event.suites:
            run.suites[name] = Suite(run, name)
        cluster.runs[run.run_id] = run
        cluster.to_review[run] = None
        cluster.scheduling.add_run(run)
        for worker in cluster.workers.values():
            self.prepare(run, worker)
        self.finish_if_done(run)

    def prepare(self, run: Run, worker: Worker) -> None:
        """Tell the worker of the run, again if its session came back."""
        key = (worker.worker_id, worker.session)
        if not worker.is_linked or (run.cancellation is not None and key not in run.first_runner):
            return
        if key not in run.first_runner:
            run.first_runner[key] = run.runners_named
            run.runners_named += len(worker.slots)
        for suite in run.suites.values():
            if worker.worker_id not in suite.workers:
                self._expect(suite, worker, suite.former.pop(key, SuiteReadiness()))
        run.prepared[worker.worker_id] = None
        self._cluster.outbox.add(
            PrepareRun(worker.worker_id, run.run_id, run.first_runner[key], self._cluster.slot_count)
        )

    def _expect(self, suite: Suite, worker: Worker, readiness: SuiteReadiness) -> None:
        suite.workers[worker.worker_id] = readiness
        if readiness.state is Readiness.UNAVAILABLE:
            suite.count_unable(worker.capability_kind, 1)
        if readiness.state is Readiness.READY:
            tasks = suite.run.tasks
            lacked = [tasks[task_id] for task_id in readiness.missing if task_id in tasks]
            self._tasks.set_lacking(lacked, worker.worker_id, lacks=True)
            worker.ready_suites.add(suite)
            self._cluster.placement.recount(worker)

    # Plans -----------------------------------------------------------------------------------------------------

    def planned(self, event: events.SuitePlanned) -> None:
        suite = self._open_suite(event.run_id, event.suite)
        if suite is None:
            return
        tasks = self._make_tasks(suite, event.tasks)
        suite.is_planned = True
        suite.tasks = tasks
        self._cluster.to_review[suite.run] = None
        self._file_missing(suite)
        self._admit(suite.run, tasks)
        self._tasks.settled(suite.run)
        self._tasks.review(suite)

    def refused(self, event: events.SuiteRefused) -> None:
        suite = self._open_suite(event.run_id, event.suite)
        if suite is not None:
            self._tasks.refuse(suite, event.reason)

    def _open_suite(self, run_id: RunId, name: str) -> Suite | None:
        run = self._cluster.runs.get(run_id)
        suite = run.suites.get(name) if run is not None else None
        return suite if suite is not None and not suite.is_settled else None

    def _make_tasks(self, suite: Suite, specs: Sequence[TaskSpec]) -> list[Task]:
        run, cluster = suite.run, self._cluster
        together = _kept_together(specs)
        groups: dict[tuple[str, bool], TaskGroup] = {}
        classes: dict[Requirements, TaskClass] = {}
        tasks = []
        position = len(run.tasks)
        for spec in specs:
            if spec.task_id in run.tasks:
                continue
            spec = _with_sane_times(spec)
            is_kept = spec.group in together and spec.requirements.workers == 1
            requirements, priority = spec.requirements, spec.priority
            if is_kept:
                requirements, priority = together[spec.group]
            group = groups.get((spec.group, is_kept))
            if group is None:
                group = groups[spec.group, is_kept] = TaskGroup(spec.group, is_kept)
            task_class = classes.get(requirements)
            if task_class is None:
                task_class = classes[requirements] = cluster.placement.task_class(suite, requirements)
            task = Task(spec, suite, position, requirements, priority + run.priority, group, task_class)
            run.tasks[spec.task_id] = task
            run.left.add(spec.expected_s, 1)
            suite.count_left(task, 1)
            tasks.append(task)
            position += 1
        priorities = {task.priority for task in tasks} - run.priorities
        run.priorities |= priorities
        cluster.count_priorities(priorities, 1)
        return tasks

    def _file_missing(self, suite: Suite) -> None:
        tasks = suite.run.tasks
        for worker_id, readiness in suite.workers.items():
            lacked = [tasks[task_id] for task_id in readiness.missing if task_id in tasks]
            self._tasks.set_lacking(lacked, worker_id, lacks=True)

    def _admit(self, run: Run, tasks: Sequence[Task]) -> None:
        """Queue what depends on nothing; the rest waits for its dependencies, or ends with one that failed."""
        ready = []
        for task in tasks:
            if task.position >= self._cluster.limits.tasks_per_run:
                limit = self._cluster.limits.tasks_per_run
                self._tasks.finish_unexecuted(task, Verdict.NOT_RUN, f"a run has at most {limit} tasks")
            elif task.spec.depends_on:
                self._wait(run, task)
            else:
                ready.append(task)
        self._tasks.queue([task for task in ready if task.state is TaskState.PENDING])
        for task in tasks:
            if task.state is TaskState.PENDING and not task.waits_for:
                self._tasks.queue([task])

    def _wait(self, run: Run, task: Task) -> None:
        for name in task.spec.depends_on:
            prerequisite = run.tasks.get(name)
            if prerequisite is not None and prerequisite.state is TaskState.FINISHED:
                assert prerequisite.verdict is not None
                if not prerequisite.verdict.is_success:
                    self._tasks.finish_unexecuted(task, Verdict.NOT_RUN, why_dependants_end(prerequisite))
                    return
                continue
            if name not in task.waits_for:
                task.waits_for |= {name}
                run.dependants.setdefault(name, []).append(task)

    # Cancellation ------------------------------------------------------------------------------------------------

    def cancelled(self, event: events.RunCancelled) -> None:
        cluster = self._cluster
        run = cluster.runs.get(event.run_id)
        if run is None:
            return
        if run.cancellation is None:
            run.cancellation = Cancellation(event.reason, event.quiet)
            for suite in run.suites.values():
                if not suite.is_settled:
                    suite.is_refused = True
            waiting = [task for task in run.tasks.values() if task.state in (TaskState.PENDING, TaskState.QUEUED)]
            # All at once: ending one must not end its dependants under another name, nor start anything.
            run.dependants.clear()
            for task in waiting:
                self._tasks.cancel(task)
            self._revoke_unstarted(run)
            # Fail-fast waits for what runs, as long as it takes: killed tests would leave their fixtures standing.
            if run.leases and not event.quiet:
                cluster.deadlines.set(("cancel", run.run_id), cluster.now + cluster.limits.cancel_grace_s)
        elif run.cancellation.is_quiet and not event.quiet and run.leases:
            # It only waited for what runs; now the user wants out.
            run.cancellation.is_quiet = False
            cluster.deadlines.set(("cancel", run.run_id), cluster.now + cluster.limits.cancel_grace_s)
        if event.kill:
            self.kill_all(run, event.reason)
        self.finish_if_done(run)

    def _revoke_unstarted(self, run: Run) -> None:
        by_worker: dict[WorkerId, list[LeaseId]] = {}
        for lease in run.leases.values():
            if not lease.is_started and not lease.is_revoked and lease.slot.worker.is_linked:
                lease.is_revoked = True
                by_worker.setdefault(lease.slot.worker.worker_id, []).append(lease.lease_id)
        for worker_id, lease_ids in by_worker.items():
            self._cluster.outbox.add(RevokeLeases(worker_id, lease_ids))

    def kill_all(self, run: Run, reason: str) -> None:
        """End everything of the run that is under way; what does not answer soon is taken as ended."""
        cluster = self._cluster
        cluster.deadlines.cancel(("cancel", run.run_id))
        by_worker: dict[WorkerId, list[LeaseId]] = {}
        for lease in run.leases.values():
            if not lease.kill_reason:
                lease.kill_reason = reason
                if lease.slot.worker.is_linked:
                    by_worker.setdefault(lease.slot.worker.worker_id, []).append(lease.lease_id)
        for worker_id, lease_ids in by_worker.items():
            cluster.outbox.add(KillLeases(worker_id, lease_ids, reason))
        if run.leases and ("killed", run.run_id) not in cluster.deadlines:
            cluster.deadlines.set(("killed", run.run_id), cluster.now + cluster.limits.kill_answer_s)

    def resume_cancellation(self, run: Run) -> None:
        """A worker came back that could not be told."""
        cluster = self._cluster
        self._revoke_unstarted(run)
        for lease in run.leases.values():
            if lease.kill_reason and lease.slot.worker.is_linked:
                cluster.outbox.add(KillLeases(lease.slot.worker.worker_id, (lease.lease_id,), lease.kill_reason))

    def give_up_killed(self, run: Run) -> None:
        """The workers have not answered in time."""
        for lease in list(run.leases.values()):
            self._attempts.void(lease, "did not end when told to")
        self.finish_if_done(run)

    # The end ---------------------------------------------------------------------------------------------------

    def finish_if_done(self, run: Run) -> None:
        """Every planned task has its verdict: say so, and forget the run."""
        cluster = self._cluster
        if run.is_finished or run.unfinished or not all(suite.is_settled for suite in run.suites.values()):
            return
        leases: list[LiveLease] = list(run.leases.values())
        assert not leases, f"{run} ends while leases live"
        run.is_finished = True
        cluster.scheduling.drop_run(run)
        cluster.count_priorities(run.priorities, -1)
        del cluster.runs[run.run_id]
        cluster.finished_runs[run.run_id] = run
        while len(cluster.finished_runs) > FINISHED_RUNS_KEPT:
            cluster.finished_runs.pop(next(iter(cluster.finished_runs))).dissolve()
        for lease_id in [key for key, voided in cluster.voided.items() if voided.run_id == run.run_id]:
            self._attempts.close_record(cluster.voided.pop(lease_id))
        for kind in ("cancel", "killed"):
            cluster.deadlines.cancel((kind, run.run_id))
        for missing in run.missing:
            cluster.deadlines.cancel((MISSING_WORKER_DEADLINE, run.run_id, missing))
        cluster.outbox.add_last(RunFinished(run.run_id, dict(run.counts)))
        suites = set(run.suites.values())
        for worker_id in run.prepared:
            worker = cluster.workers.get(worker_id)
            if worker is not None and (worker_id, worker.session) in run.first_runner:
                worker.ready_suites -= suites
                cluster.placement.recount(worker)
                if worker.is_linked:
                    cluster.outbox.add_last(EndRun(worker_id, run.run_id))


def _sane_weight(weight: float) -> float:
    return weight if WEIGHT_MIN <= weight <= WEIGHT_MAX else 1.0


def _with_sane_times(spec: TaskSpec) -> TaskSpec:
    """Times that are no times (negative, infinite, not a number) would spoil every sum and deadline: left out."""
    expected_s, timeout_s = spec.expected_s, spec.timeout_s
    if expected_s is not None and not 0.0 <= expected_s <= LONGEST_S:
        spec = replace(spec, expected_s=None)
    if timeout_s is not None and not 0.0 < timeout_s <= LONGEST_S:
        spec = replace(spec, timeout_s=None)
    if spec.backoff_s and not 0.0 <= spec.backoff_s <= LONGEST_S:
        spec = replace(spec, backoff_s=0.0)
    return spec


def _kept_together(specs: Sequence[TaskSpec]) -> dict[str, tuple[Requirements, int]]:
    """What a whole group needs, and its priority, for groups that must stay on one slot; gangs have several."""
    together: dict[str, tuple[Requirements, int]] = {}
    for spec in specs:
        if spec.keep_together and spec.requirements.workers == 1:
            requirements, priority = together.get(spec.group, (spec.requirements, spec.priority))
            together[spec.group] = (
                merge_requirements(requirements, spec.requirements),
                max(priority, spec.priority),
            )
    return together
