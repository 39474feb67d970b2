"""Attempts: granted, started, finished, returned, lost. A result counts only under its live lease."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fleetest.core import events
from fleetest.core.asking_back import part_suspect
from fleetest.core.cluster import LONGEST_S, Cluster, VoidedLease
from fleetest.core.commands import KillLeases, ReportStrayResults, TaskOutcome
from fleetest.core.entities import LiveLease, Slot, Task, Worker
from fleetest.core.gang_attempts import GangAttempts
from fleetest.core.lifecycle import TaskState, change_task
from fleetest.core.model import AttemptResult, GangPlace, Lease, LeaseId, Verdict, WorkerId
from fleetest.core.task_handling import TaskHandling

_SUCCESS = frozenset(verdict for verdict in Verdict if verdict.is_success)
_ENDED_FROM_OUTSIDE = frozenset(
    {Verdict.CRASHED, Verdict.TIMEOUT, Verdict.OOM, Verdict.CANCELLED, Verdict.QUARANTINED, Verdict.NOT_RUN}
)


_UNDER_WAY = frozenset({TaskState.LEASED, TaskState.RUNNING})
_NOT_EXECUTED = frozenset({Verdict.CANCELLED, Verdict.QUARANTINED, Verdict.NOT_RUN})


class AttemptHandling:
    def __init__(self, cluster: Cluster, tasks: TaskHandling) -> None:
        self._cluster, self._tasks = cluster, tasks
        self._gangs = GangAttempts(cluster, tasks, self)

    # The slot's queue --------------------------------------------------------------------------------------------

    def grant(self, slot: Slot, task: Task, place: GangPlace | None = None) -> LiveLease:
        """Lease the queued task to the slot; or one that is under way: to the next of its gang, or as a hedge."""
        cluster, spec, task_class = self._cluster, task.spec, task.task_class
        run, worker = task_class.run, slot.worker
        attempt = task.attempts + 1 if task.lease is None or place is not None else _last_attempt(task) + 1
        lease_id = cluster.next_lease_id()
        lease = Lease(lease_id, run.run_id, spec.task_id, spec.suite, attempt, spec.timeout_s, spec.variant, place)
        typical_s = cluster.predict_s(task)
        predicted_s = typical_s * cluster.balancing.slowness(worker, task_class)
        live = LiveLease(lease_id, attempt, task, slot, predicted_s, typical_s, place)
        if task.lease is None:
            # As text: a story outlives the lease, and must not keep it and all that hangs on it for the collector.
            change_task(task, TaskState.LEASED, cluster.now, str(live))
            task.lease = live
        else:
            task.story.add(cluster.now, "hedged" if place is None else "leased too", str(live))
            task.extra_leases += (live,)
        if not slot.leases:
            slot.head_since = slot.unanswered_since = cluster.now
            cluster.busy[slot] = None
        slot.leases[lease_id] = cluster.leases[lease_id] = run.leases[lease_id] = live
        slot.queued_s += predicted_s
        slot.is_told_idle = False
        worker.lease_count += 1
        if task_class.reserves:
            cluster.placement.reserve(live)
        cluster.scheduling.charge(run, predicted_s)
        cluster.outbox.grant(slot, lease)
        return live

    def grant_gang(self, task: Task, slots: Sequence[Slot]) -> None:
        """Lease the queued task to all of these slots, which are empty and of distinct workers."""
        self._gangs.grant(task, slots)

    def end(self, live: LiveLease, used_s: float) -> None:
        """The lease is over: free what it held. ``used_s`` is what it cost, for fair share."""
        cluster, slot, task = self._cluster, live.slot, live.task
        lease_id = live.lease_id
        is_head = next(iter(slot.leases)) == lease_id
        del cluster.leases[lease_id], slot.leases[lease_id], task.run.leases[lease_id]
        if is_head:
            slot.head_since = cluster.now
        if slot.closed_by is live:
            # Several may have been asked back, one after the other.
            slot.closed_by = next((each for each in slot.leases.values() if each.task.is_suspect), None)
        if slot.leases:
            slot.queued_s -= live.predicted_s
        else:
            slot.queued_s = 0.0
            del cluster.busy[slot]
        worker = slot.worker
        worker.lease_count -= 1
        if task.extra_leases:
            self._detach(live)
        else:
            task.lease = None
        cluster.asking[slot] = None
        if live.is_started and task.spec.timeout_s is not None:
            cluster.deadlines.cancel(("overrun", lease_id))
        cluster.scheduling.charge(task.run, used_s - live.predicted_s)
        if task.task_class.reserves:
            cluster.placement.release(live)
            cluster.ask(worker.slots)
            cluster.released_locks.update(task.requirements.locks)
        elif worker.lease_count == 0 or task.is_suspect:
            # Another suspect, or a task that wants the worker for itself may have waited for this.
            cluster.ask(worker.slots)

    def _detach(self, live: LiveLease) -> None:
        """One of several leases of a task is over: the others go on."""
        task = live.task
        task.lease, *others = [other for other in task.live_leases if other is not live]
        task.extra_leases = tuple(others)
        if task.state is TaskState.RUNNING and not any(other.is_started for other in task.live_leases):
            change_task(task, TaskState.LEASED, self._cluster.now, str(task.lease))

    # What workers say --------------------------------------------------------------------------------------------

    def started(self, event: events.AttemptsStarted) -> None:
        cluster = self._cluster
        for lease_id in event.lease_ids:
            live = self._live(lease_id, event.worker_id)
            if live is None or live.is_started:
                continue
            live.is_started = True
            task, slot = live.task, live.slot
            if task.state is TaskState.RUNNING:
                task.story.add(cluster.now, "running too", str(slot))
            else:
                change_task(task, TaskState.RUNNING, cluster.now, str(slot))
            if next(iter(slot.leases)) == lease_id:
                slot.head_since = cluster.now
            self._answered(slot, 0.0)
            if task.spec.timeout_s is not None:
                due = cluster.now + task.spec.timeout_s + cluster.limits.lease_overrun_s
                cluster.deadlines.set(("overrun", lease_id), due)
            cluster.outbox.started(task.run.run_id, (task.spec.task_id, live.attempt, event.worker_id, slot.index))

    def finished(self, event: events.AttemptsFinished) -> None:
        slots: dict[Slot, None] = {}
        stray: list[LeaseId] = []
        for result in event.results:
            live = self._live(result.lease_id, event.worker_id)
            if live is None:
                if not self._superseded(event.worker_id, result):
                    stray.append(result.lease_id)
                continue
            slots[live.slot] = None
            self._finish(live, result)
        for slot in slots:
            self._predict_again(slot)
        if stray:
            self._cluster.outbox.add(ReportStrayResults(event.worker_id, stray))

    def _finish(self, live: LiveLease, result: AttemptResult) -> None:
        task, verdict = live.task, result.verdict
        run, slot = task.run, live.slot
        duration_s = _duration_s(result)
        self._answered(slot, duration_s)
        if task.gang is not None:
            self._gangs.finished(live, result, duration_s)
            return
        if task.extra_leases:
            if verdict in _NOT_EXECUTED:
                self._drop(live, result, duration_s)
                return
            self._supersede(task, live)
        self.end(live, duration_s)
        task.attempts = max(task.attempts, live.attempt)
        self.learn(live, result, duration_s)
        reason = ""
        if run.cancellation is not None and live.kill_reason and verdict in _ENDED_FROM_OUTSIDE:
            verdict, reason = Verdict.CANCELLED, live.kill_reason
        self.conclude(live, verdict, result, reason)

    def learn(self, live: LiveLease, result: AttemptResult, duration_s: float) -> None:
        """An execution of the task ended: what it says of durations and of its worker."""
        task, verdict = live.task, result.verdict
        if verdict not in _ENDED_FROM_OUTSIDE:
            task.run.durations.add(duration_s)
            task.group.durations.add(duration_s)
            set_up_s = result.setup_s if 0.0 <= result.setup_s <= duration_s else 0.0
            task.group.set_ups.add(set_up_s)
            task.group.longest_set_up_s = max(task.group.longest_set_up_s, set_up_s)
        worker, is_success = live.slot.worker, verdict in _SUCCESS
        self._cluster.balancing.finished(worker, live.typical_s, duration_s, is_success, task.task_class)

    def conclude(
        self,
        live: LiveLease,
        verdict: Verdict,
        result: AttemptResult,
        reason: str,
        members: tuple[TaskOutcome, ...] = (),
    ) -> None:
        """An attempt of a task that is no longer leased has this verdict: the task's, unless it is tried again."""
        task, slot = live.task, live.slot
        retries = verdict.may_be_retried and task.retries_used < task.spec.retries and task.run.cancellation is None
        outcome = TaskOutcome(
            task.spec.task_id,
            live.attempt,
            verdict,
            not retries,
            slot.worker.worker_id,
            slot.index,
            result,
            reason,
            members=members,
        )
        cluster = self._cluster
        cluster.health.finished(live, verdict, _duration_s(result), cluster.now, is_final=not retries)
        if retries:
            cluster.outbox.outcome(task.run.run_id, outcome)
            task.retries_used += 1
            self.avoid(task, slot.worker.worker_id)
            self._tasks.retry(task, f"retry {task.retries_used} after {verdict.value}")
        else:
            self._tasks.finish(task, outcome)

    def _drop(self, live: LiveLease, result: AttemptResult, duration_s: float) -> None:
        """One of several attempts ended without an execution that says anything: the others decide."""
        self.end(live, duration_s)
        self.spend_attempt(live, "another attempt goes on", result)

    def _supersede(self, task: Task, winner: LiveLease | None, reason: str = "") -> None:
        """End the other attempts of the task: what they still say is evidence, never a verdict."""
        cluster = self._cluster
        if winner is not None:
            reason = f"attempt {winner.attempt} on {winner.slot.worker.worker_id} was first"
        for live in [live for live in task.live_leases if live is not winner]:
            slot = live.slot
            elapsed_s = cluster.now - slot.head_since if live.is_started and slot.head() is live else 0.0
            self.end(live, elapsed_s)
            if live.is_started:
                task.attempts = max(task.attempts, live.attempt)
            if not live.kill_reason and slot.worker.is_linked:
                cluster.outbox.add(KillLeases(slot.worker.worker_id, (live.lease_id,), reason))
            self.mark_void(live, reason if live.is_started else "")

    def mark_void(self, live: LiveLease, unsaid: str = "") -> None:
        run_id, worker_id = live.task.run.run_id, live.slot.worker.worker_id
        self._cluster.voided[live.lease_id] = VoidedLease(
            run_id, live.task.task_id, live.attempt, worker_id, live.slot.index, unsaid
        )

    def _superseded(self, worker_id: WorkerId, result: AttemptResult) -> bool:
        """Evidence of an attempt whose lease is over. False if it is none: said before, or by another worker."""
        voided = self._cluster.voided.get(result.lease_id)
        if voided is None or voided.worker_id != worker_id:
            return False
        del self._cluster.voided[result.lease_id]
        outcome = TaskOutcome(
            voided.task_id,
            voided.attempt,
            result.verdict,
            is_final=False,
            worker_id=worker_id,
            slot=voided.slot,
            result=result,
            reason=voided.unsaid or "its lease was over",
            is_superseded=True,
        )
        self._cluster.outbox.outcome(voided.run_id, outcome)
        return True

    def close_record(self, voided: VoidedLease) -> None:
        """The run ends before anything was heard of this attempt: say that it was made."""
        if voided.unsaid:
            outcome = TaskOutcome(
                voided.task_id,
                voided.attempt,
                Verdict.CANCELLED,
                is_final=False,
                worker_id=voided.worker_id,
                slot=voided.slot,
                reason=voided.unsaid,
                is_superseded=True,
            )
            self._cluster.outbox.outcome(voided.run_id, outcome)

    def returned(self, event: events.LeasesReturned) -> None:
        back: list[Task] = []
        lacked: list[Task] = []
        for lease_id in event.lease_ids:
            live = self._live(lease_id, event.worker_id)
            if live is None or live.is_started:
                continue
            self.end(live, 0.0)
            if live.task.gang is not None:
                self._gangs.missing(live, f"returned by {event.worker_id}")
            (lacked if event.not_collectable else back).append(live.task)
        # Where another attempt goes on, nothing is to be done again.
        again = [task for task in back + lacked if task.lease is None and task.state in _UNDER_WAY]
        self._tasks.queue(again, f"returned by {event.worker_id}")
        if lacked:
            self._tasks.set_lacking(lacked, event.worker_id, lacks=True)
            self._remember_missing(lacked, event.worker_id)

    def _remember_missing(self, tasks: Sequence[Task], worker_id: WorkerId) -> None:
        for suite in {task.suite: None for task in tasks}:
            readiness = suite.workers.get(worker_id)
            if readiness is not None:
                readiness.missing |= {task.task_id for task in tasks if task.suite is suite}
            self._tasks.review(suite)

    def infrastructure_failed(self, event: events.InfrastructureFailed) -> int:
        """Queue the tasks again. Returns how many live leases had not started: what the worker is blamed for.

        A test that ran when its runner's surroundings broke may have broken them: that is a loss.
        """
        again, count = [], 0
        for lease_id in event.lease_ids:
            live = self._live(lease_id, event.worker_id)
            if live is None:
                continue
            live.is_started = live.is_started or event.has_started
            task = live.task
            self.end(live, 0.0)
            if live.is_started:
                task.losses += 1
                if task.gang is None:
                    self.spend_attempt(live, event.reason)
            else:
                count += 1
                task.infrastructure_failures += 1
            self.avoid(task, event.worker_id)
            if task.gang is not None:
                self._gangs.missing(live, event.reason)
            elif task.lease is not None:
                self._judge_losses(task, event.reason)
            elif task.run.cancellation is not None:
                self._tasks.cancel(task, was_running=live.is_started)
            elif self.quarantined(task, event.reason):
                continue
            elif task.infrastructure_failures >= self._cluster.limits.infrastructure_failures_max:
                self._tasks.finish_unexecuted(task, Verdict.NOT_RUN, f"could not be executed: {event.reason}")
            else:
                again.append(task)
        self._tasks.queue(again, event.reason)
        return count

    # Losses ------------------------------------------------------------------------------------------------------

    def lose(self, leases: Iterable[LiveLease], reason: str, *, with_worker: bool = True) -> None:
        """These leases are gone, ``with_worker`` or on the way to it: what ran becomes another attempt.

        The rest costs nothing. But a test may kill its worker faster than anybody can say that it started, or that
        those before it have ended. What waited is therefore remembered, and counts once a loss is certainly the test's.
        """
        again = []
        leases = list(leases)
        heads = {slot.head() for slot in {live.slot: None for live in leases}} if with_worker else set()
        for live in leases:
            if not live.is_started and with_worker:
                if live in heads:
                    live.task.near_losses += 1
                else:
                    live.task.doubts += 1
            if self._void_one(live, reason):
                again.append(live.task)
        self._tasks.queue(again, reason)

    def gang_deadline(self, task: Task) -> None:
        """See ``GangAttempts.deadline``."""
        self._gangs.deadline(task)

    def void(self, live: LiveLease, reason: str) -> None:
        """Take one lease as lost although its worker lives."""
        if self._void_one(live, reason):
            self._tasks.queue([live.task], reason)

    def overrun(self, lease_id: LeaseId) -> None:
        """The worker should have ended this attempt long ago: the backstop of its timeout."""
        live = self._cluster.leases.get(lease_id)
        if live is None:
            return
        reason = "timeout not enforced by its worker"
        if live.slot.worker.is_linked:
            self._cluster.outbox.add(KillLeases(live.slot.worker.worker_id, (lease_id,), reason))
        self.void(live, reason)

    def _void_one(self, live: LiveLease, reason: str) -> bool:
        """End the lease without its worker's word. True if the task is to be queued again."""
        task, slot = live.task, live.slot
        self.end(live, 0.0)
        self.mark_void(live)
        self.avoid(task, slot.worker.worker_id)
        if live.is_started:
            task.losses += 1
        if task.gang is not None:
            self._gangs.missing(live, reason)
            return False
        if task.lease is not None:
            if live.is_started:
                self.spend_attempt(live, reason)
            self._judge_losses(task, reason)
            return False
        if task.run.cancellation is not None:
            if live.is_started:
                task.attempts = max(task.attempts, live.attempt)
            self._tasks.cancel(task, was_running=live.is_started)
            return False
        if live.is_started:
            self.spend_attempt(live, reason)
        return not self.quarantined(task, reason)

    def _judge_losses(self, task: Task, reason: str) -> None:
        """One attempt was lost and another goes on: nothing is queued, but the rules of losses and suspects hold.

        Also in a cancelled run, which waits for what has begun: those behind it may be of others.
        """
        if task.run.cancellation is None and self.quarantined(task, reason):
            return
        for live in task.live_leases:
            part_suspect(self._cluster, live.slot)

    def quarantined(self, task: Task, reason: str) -> bool:
        """End the task if it was lost so often that it must be the cause."""
        certain = task.losses + task.near_losses
        # Doubts alone convict nobody.
        count = certain + task.doubts if certain else 0
        if count < self._cluster.limits.attempts_lost_max:
            return False
        self._supersede(task, None, f"the task was lost {count} times")
        self._tasks.finish_unexecuted(task, Verdict.QUARANTINED, f"lost {count} times, last: {reason}")
        return True

    def spend_attempt(self, live: LiveLease, reason: str, result: AttemptResult | None = None) -> None:
        """Put an attempt on record that gave no verdict."""
        task, slot = live.task, live.slot
        task.attempts = max(task.attempts, live.attempt)
        outcome = TaskOutcome(
            task.task_id,
            live.attempt,
            Verdict.CANCELLED,
            is_final=False,
            worker_id=slot.worker.worker_id,
            slot=slot.index,
            result=result,
            reason=reason,
        )
        self._cluster.outbox.outcome(task.run.run_id, outcome)

    def avoid(self, task: Task, worker_id: WorkerId) -> None:
        """Prefer another worker for the next attempt; a group that is kept together stays where it is."""
        if not task.group.keep_together:
            task.avoid = (*(other for other in task.avoid if other != worker_id), worker_id)

    def _answered(self, slot: Slot, duration_s: float) -> None:
        """The worker has said something of the slot: how long after the grant that it was empty for?"""
        if slot.unanswered_since is not None:
            cluster, since = self._cluster, slot.unanswered_since
            slot.unanswered_since = None
            cluster.balancing.answered(slot.worker, max(0.0, cluster.now - since - duration_s))

    # Small things ------------------------------------------------------------------------------------------------

    def _live(self, lease_id: LeaseId, worker_id: WorkerId) -> LiveLease | None:
        live = self._cluster.leases.get(lease_id)
        if live is None or live.slot.worker.worker_id != worker_id:
            return None
        return live

    def _predict_again(self, slot: Slot) -> None:
        """Sum up the slot's queue anew when the run turned out much faster or slower than it seemed."""
        head = slot.head()
        if head is None or not head.task.run.durations.count:
            return
        mean_s = head.task.run.durations.mean_s
        if slot.predicted_at_s is not None and 0.5 * mean_s <= slot.predicted_at_s <= 2 * mean_s:
            return
        slot.predicted_at_s = mean_s
        charge, predict_s = self._cluster.scheduling.charge, self._cluster.predict_s
        slowness = self._cluster.balancing.slowness
        total_s = 0.0
        for live in slot.leases.values():
            live.typical_s = predict_s(live.task)
            predicted_s = live.typical_s * slowness(slot.worker, live.task.task_class)
            charge(live.task.run, predicted_s - live.predicted_s)
            live.predicted_s = predicted_s
            total_s += predicted_s
        slot.queued_s = total_s

    def kill_unknown(self, worker: Worker, lease_ids: Sequence[LeaseId]) -> None:
        """The worker executes what is no longer wanted from it."""
        if lease_ids:
            self._cluster.outbox.add(KillLeases(worker.worker_id, lease_ids, "its lease was over"))


def _last_attempt(task: Task) -> int:
    """The highest number that any attempt of it has had."""
    return max(task.attempts, *(live.attempt for live in task.live_leases))


def _duration_s(result: AttemptResult) -> float:
    """What the worker says, if it can be true."""
    return result.duration_s if 0.0 <= result.duration_s <= LONGEST_S else 0.0
