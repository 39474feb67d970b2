"""Workers: they join, get ready, fall silent, come back, leave or are lost."""

from __future__ import annotations

from collections.abc import Sequence

from fleetest.core import events
from fleetest.core.alerts import Cause
from fleetest.core.asking_back import part_suspect
from fleetest.core.attempt_handling import AttemptHandling
from fleetest.core.cluster import Cluster
from fleetest.core.commands import DisconnectWorker, SetHeartbeat
from fleetest.core.dispatch import Dispatch
from fleetest.core.entities import LiveLease, Readiness, Slot, Suite, SuiteReadiness, Worker
from fleetest.core.lifecycle import TaskState, WorkerState, change_worker
from fleetest.core.model import RunId, WorkerId
from fleetest.core.policies import Health, HealthChange, TrustChange
from fleetest.core.run_handling import RunHandling
from fleetest.core.standing import Standing
from fleetest.core.task_handling import TaskHandling

REPLACED = "replaced by a new session"


class WorkerHandling:
    def __init__(
        self,
        cluster: Cluster,
        tasks: TaskHandling,
        attempts: AttemptHandling,
        runs: RunHandling,
        dispatch: Dispatch,
        standing: Standing,
    ) -> None:
        self._cluster, self._tasks, self._attempts = cluster, tasks, attempts
        self._runs, self._dispatch = runs, dispatch
        self._standing = standing

    # Coming ------------------------------------------------------------------------------------------------------

    def joined(self, event: events.WorkerJoined) -> None:
        cluster = self._cluster
        known = cluster.workers.get(event.worker_id)
        if known is not None and known.session == event.session:
            self._came_back(known, event)
            return
        if known is not None:
            if known.is_linked:
                self._count_loss(known)
                cluster.outbox.add(DisconnectWorker(known.worker_id, REPLACED))
            self._remove(known, WorkerState.LOST, REPLACED)
        worker = self._make_worker(event)
        cluster.add_worker(worker)
        cluster.placement.recount(worker)
        self._watch(worker)
        self._forget_loss(worker.worker_id)
        self._standing.clear(worker.worker_id, Cause.SUSPECT)
        self._standing.joined(worker, has_probe=event.has_probe)
        self._attempts.kill_unknown(worker, event.held_leases)
        self._prepare_all(worker)

    def _make_worker(self, event: events.WorkerJoined) -> Worker:
        cluster = self._cluster
        worker = Worker(
            event.worker_id,
            event.session,
            cluster.next_order(),
            event.capabilities,
            cluster.placement.capability_kind(event.capabilities),
            free=dict(event.capabilities.resources),
            last_seen=cluster.now,
            address=event.address,
        )
        worker.story.add(cluster.now, "joined", f"session {event.session}")
        worker.slots = [Slot(worker, index) for index in range(event.slots)]
        return worker

    def _came_back(self, worker: Worker, event: events.WorkerJoined) -> None:
        """The same session: what it still executes goes on, the rest is queued again."""
        cluster = self._cluster
        cluster.deadlines.cancel(("reconnect", worker.worker_id))
        worker.last_seen, worker.address = cluster.now, event.address
        self._standing.clear(worker.worker_id, Cause.SUSPECT)
        self._watch(worker)
        held = set(event.held_leases)
        own = [live for slot in worker.slots for live in slot.leases.values()]
        mine = {live.lease_id for live in own}
        gone = [live for live in own if live.lease_id not in held]
        self._attempts.lose(gone, "its worker came back without it", with_worker=False)
        self._attempts.kill_unknown(worker, [lease_id for lease_id in event.held_leases if lease_id not in mine])
        for slot in worker.slots:
            slot.is_told_idle = False
            for live in slot.leases.values():
                live.is_revoked = False
        self._standing.came_back(worker)
        for slot in worker.slots:
            part_suspect(cluster, slot)
        cluster.ask(worker.slots)
        self._prepare_all(worker)
        for run in [run for run in cluster.runs.values() if run.cancellation is not None]:
            self._runs.resume_cancellation(run)

    def _prepare_all(self, worker: Worker) -> None:
        self._cluster.ask(worker.slots)
        for run in self._cluster.runs.values():
            self._runs.prepare(run, worker)

    # Getting ready -----------------------------------------------------------------------------------------------

    def ready(self, event: events.SuiteReady) -> None:
        found = self._readiness(event.worker_id, event.run_id, event.suite)
        if found is None:
            return
        worker, suite, readiness = found
        tasks = suite.run.tasks
        before = readiness.missing
        readiness.missing = frozenset(event.missing)
        if suite.answered(worker, readiness, Readiness.READY):
            self._cluster.to_review[suite.run] = None
        back = [tasks[task_id] for task_id in before - readiness.missing if task_id in tasks]
        lacked = [tasks[task_id] for task_id in readiness.missing if task_id in tasks]
        self._tasks.set_lacking(back, worker.worker_id, lacks=False)
        self._tasks.set_lacking(lacked, worker.worker_id, lacks=True)
        worker.ready_suites.add(suite)
        self._cluster.placement.recount(worker)
        self._cluster.ask(worker.slots)
        self._tasks.review(suite)

    def unavailable(self, event: events.SuiteUnavailable) -> None:
        found = self._readiness(event.worker_id, event.run_id, event.suite)
        if found is None:
            return
        worker, suite, readiness = found
        readiness.reason = event.reason
        if suite.answered(worker, readiness, Readiness.UNAVAILABLE):
            self._cluster.to_review[suite.run] = None
        worker.ready_suites.discard(suite)
        self._cluster.scheduling.forget_slots(worker.slots)
        self._cluster.placement.recount(worker)
        # For whom they were kept empty is forgotten too: else nobody would hear when that is over.
        self._cluster.ask(worker.slots)
        self._tasks.review(suite)

    def _readiness(self, worker_id: WorkerId, run_id: RunId, name: str) -> tuple[Worker, Suite, SuiteReadiness] | None:
        worker, run = self._cluster.workers.get(worker_id), self._cluster.runs.get(run_id)
        if worker is None or run is None:
            return None
        suite = run.suites.get(name)
        readiness = suite.workers.get(worker_id) if suite is not None else None
        if suite is None or readiness is None:
            return None
        return worker, suite, readiness

    # Health ------------------------------------------------------------------------------------------------------

    def seen(self, worker_id: WorkerId, *, is_beat: bool) -> None:
        """Any message is a sign of life."""
        cluster = self._cluster
        worker = cluster.workers.get(worker_id)
        if worker is None or not worker.is_linked:
            return
        worker.last_seen = cluster.now
        judge = cluster.health.beat if is_beat else cluster.health.seen
        change = judge(worker_id, cluster.now)
        if change is not None:
            self._heard(change)
        interval_s = cluster.heartbeat_interval_s()
        if is_beat and abs(interval_s - worker.heartbeat_interval_s) > 0.2 * worker.heartbeat_interval_s:
            worker.heartbeat_interval_s = interval_s
            cluster.health.set_interval(worker_id, interval_s)
            cluster.outbox.add(SetHeartbeat(worker_id, interval_s))

    def _watch(self, worker: Worker) -> None:
        cluster = self._cluster
        worker.heartbeat_interval_s = cluster.heartbeat_interval_s()
        cluster.health.watch(worker.worker_id, cluster.now, worker.heartbeat_interval_s)

    def advance_health(self) -> None:
        while judgements := self._cluster.health.advance(self._cluster.now):
            for judgement in judgements:
                if isinstance(judgement, HealthChange):
                    self._heard(judgement)
                elif isinstance(judgement, TrustChange):
                    self._standing.judged(judgement)
                else:
                    self._standing.found(judgement)

    def _count_loss(self, worker: Worker) -> None:
        """Its link is lost: that speaks against it, unless it ran a test that workers were lost with before."""
        if not worker.has_suspect:
            self._cluster.health.link_lost(worker.worker_id, self._cluster.now)

    def _heard(self, change: HealthChange) -> None:
        cluster = self._cluster
        worker = cluster.workers.get(change.worker_id)
        if worker is None or not worker.is_linked:
            return
        if change.health is Health.LOST:
            cluster.outbox.add(DisconnectWorker(worker.worker_id, change.reason))
            self._count_loss(worker)
            self._remove(worker, WorkerState.LOST, change.reason)
            return
        worker.is_silent = change.health is Health.SUSPECT
        if worker.is_silent:
            self._standing.alert(worker.worker_id, Cause.SUSPECT, change.reason)
        else:
            self._standing.clear(worker.worker_id, Cause.SUSPECT)
        self._standing.settle(worker, change.reason)

    def infrastructure_failed(self, event: events.InfrastructureFailed) -> None:
        cluster = self._cluster
        count = self._attempts.infrastructure_failed(event)
        worker = cluster.workers.get(event.worker_id)
        if worker is None or not count:
            return
        cluster.balancing.failed(worker)
        cluster.health.infrastructure_failed(worker.worker_id, event.reason, cluster.now)

    # Going -------------------------------------------------------------------------------------------------------

    def draining(self, event: events.WorkerDraining) -> None:
        worker = self._cluster.workers.get(event.worker_id)
        if worker is None or worker.is_draining or not worker.is_linked:
            return
        worker.is_draining = True
        self._standing.settle(worker, "asked to")

    def disconnected(self, event: events.WorkerDisconnected) -> None:
        cluster = self._cluster
        worker = cluster.workers.get(event.worker_id)
        if worker is None:
            return
        if event.said_goodbye:
            self._remove(worker, WorkerState.LEFT, event.reason or "left")
            return
        if worker.is_linked:
            self._count_loss(worker)
        if event.process_is_dead:
            self._remove(worker, WorkerState.LOST, event.reason or "its process died")
        elif worker.is_linked:
            self._standing.change(worker, WorkerState.DISCONNECTED, event.reason)
            cluster.health.forget(worker.worker_id)
            due = cluster.now + cluster.limits.reconnect_grace_s
            cluster.deadlines.set(("reconnect", worker.worker_id), due)

    def gave_up_waiting(self, worker_id: WorkerId) -> None:
        """The grace after a disconnection is over."""
        worker = self._cluster.workers.get(worker_id)
        if worker is not None and worker.state is WorkerState.DISCONNECTED:
            self._remove(worker, WorkerState.LOST, "did not come back")

    def _remove(self, worker: Worker, state: WorkerState, reason: str) -> None:
        cluster, worker_id = self._cluster, worker.worker_id
        change_worker(worker, state, cluster.now, reason)
        cluster.placement.recount(worker)
        cluster.scheduling.forget_slots(worker.slots)
        cluster.remove_worker(worker)
        self._dispatch.forget(worker.slots)
        cluster.deadlines.cancel(("reconnect", worker_id))
        cluster.health.forget(worker_id)
        cluster.balancing.forget(worker_id)
        suites = [suite for run in cluster.runs.values() for suite in run.suites.values()]
        for suite in suites:
            readiness = suite.workers.pop(worker_id, None)
            if readiness is not None and readiness.state is Readiness.UNAVAILABLE:
                suite.count_unable(worker.capability_kind, -1)
            if readiness is not None and state is WorkerState.LOST:
                suite.former[worker_id, worker.session] = readiness
            if readiness is not None and readiness.missing:
                tasks = suite.run.tasks
                lacked = [tasks[task_id] for task_id in readiness.missing if task_id in tasks]
                self._tasks.set_lacking(lacked, worker_id, lacks=False)
        leases = [live for slot in worker.slots for live in slot.leases.values()]
        why = f"worker {worker_id} {'left' if state is WorkerState.LEFT else 'lost'}: {reason}"
        self._attempts.lose(leases, why)
        for suite in suites:
            self._tasks.review(suite)
        for cause in (Cause.SUSPECT, Cause.PROBE_FAILED):
            self._standing.clear(worker_id, cause)
        if worker_id not in cluster.held_back:
            self._standing.clear(worker_id, Cause.QUARANTINED)
        if state is WorkerState.LEFT:
            cluster.health.gone(worker_id)
        elif reason != REPLACED:
            if worker.is_drain_requested:
                cluster.keep_drain(worker.session, worker_id)
            self._standing.alert(worker_id, Cause.LOST, f"{reason}{_what_became_of(leases)}")
            cluster.deadlines.set(("lost alert", worker_id), cluster.now + cluster.limits.lost_alert_s)
        worker.dissolve()

    def _forget_loss(self, worker_id: WorkerId) -> None:
        self._cluster.deadlines.cancel(("lost alert", worker_id))
        self._standing.clear(worker_id, Cause.LOST)

    def stays_lost(self, worker_id: WorkerId) -> None:
        """It was lost so long ago that nobody waits for it any more."""
        cluster = self._cluster
        if worker_id in cluster.workers:
            return
        self._forget_loss(worker_id)
        cluster.health.gone(worker_id)
        # Those of an earlier coordinator, whose worker has not come back to this one.
        for cause in (Cause.SUSPECT, Cause.PROBE_FAILED):
            self._standing.clear(worker_id, cause)
        if worker_id not in cluster.held_back:
            self._standing.clear(worker_id, Cause.QUARANTINED)


def _what_became_of(leases: Sequence[LiveLease]) -> str:
    """What the loss of a worker meant for what it had; call it when the leases are over."""
    running = [live for live in leases if live.is_started]
    ended = sum(live.task.state is TaskState.FINISHED for live in leases)
    parts = []
    if running:
        parts.append(f"{len(running)} running")
    if len(leases) > len(running):
        parts.append(f"{len(leases) - len(running)} not begun")
    if not parts:
        return ""
    fate = f"{len(leases) - ended} queued again" + (f", {ended} ended" if ended else "")
    return f" ({' and '.join(parts)}: {fate})"
