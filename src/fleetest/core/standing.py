"""How a worker stands: the state that follows from its silence, its record, its probe and the operator's word.

What is known of a worker are facts that come and go independently of each other. The state is derived from all of them
in one place, so that a worker that is drained, quarantined and silent at once is what matters most, and becomes what
the rest says as soon as one of them is over.
"""

from __future__ import annotations

from fleetest.core import events
from fleetest.core.alerts import COORDINATOR, Cause
from fleetest.core.asking_back import ask_back
from fleetest.core.cluster import Cluster
from fleetest.core.commands import ClearAlert, PublishNotice, RaiseAlert
from fleetest.core.entities import Worker
from fleetest.core.lifecycle import WorkerState, change_worker
from fleetest.core.model import Trust, WorkerId
from fleetest.core.policies import Finding, TrustChange


def standing(worker: Worker) -> WorkerState:
    """The state of a worker that has a link. The first that applies: draining, quarantined, suspect, probation."""
    if worker.is_draining or worker.is_drain_requested:
        return WorkerState.DRAINING
    if worker.quarantined_because:
        return WorkerState.QUARANTINED
    if worker.is_silent:
        return WorkerState.SUSPECT
    if worker.trust is Trust.PROBATION:
        return WorkerState.PROBATION
    return WorkerState.HEALTHY


class Standing:
    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def settle(self, worker: Worker, reason: str) -> None:
        """Bring the state of a worker into line with what is known of it; ``reason`` is why it may have changed."""
        if worker.is_linked:
            self._become(worker, standing(worker), reason)

    def came_back(self, worker: Worker) -> None:
        """The worker has a link again."""
        worker.is_silent = False
        self._become(worker, standing(worker), "came back")

    def _become(self, worker: Worker, state: WorkerState, reason: str) -> None:
        if state is not worker.state:
            self.change(worker, state, reason)
        if state in (WorkerState.DRAINING, WorkerState.QUARANTINED):
            self._give_back(worker)

    def change(self, worker: Worker, state: WorkerState, reason: str) -> None:
        cluster = self._cluster
        change_worker(worker, state, cluster.now, reason)
        cluster.placement.recount(worker)
        if state in (WorkerState.DRAINING, WorkerState.QUARANTINED):
            cluster.scheduling.forget_slots(worker.slots)
        cluster.ask(worker.slots)

    def _give_back(self, worker: Worker) -> None:
        """Ask back what has not started on a worker that is to start nothing more."""
        leases = [
            live
            for slot in worker.slots
            for live in slot.leases.values()
            if not live.is_started and not live.is_revoked
        ]
        if leases:
            ask_back(self._cluster, worker, leases)

    # What the operator says ----------------------------------------------------------------------------------------

    def drain_requested(self, event: events.WorkerDrainRequested) -> None:
        worker = self._cluster.workers.get(event.worker_id)
        if worker is not None:
            worker.is_drain_requested = True
            self.settle(worker, "drained by the operator")

    def resumed(self, event: events.WorkerResumed) -> None:
        worker = self._cluster.workers.get(event.worker_id)
        if worker is not None:
            worker.is_drain_requested = False
            self.settle(worker, "resumed by the operator")
        # Of a session that may come back: it was lost, or the coordinator is a new one.
        absent = self._cluster.absent_drains
        for session in [session for session, worker_id in absent.items() if worker_id == event.worker_id]:
            self._cluster.take_drain(session)

    def quarantined(self, event: events.WorkerQuarantined) -> None:
        """It outlives the worker's session: the machine is not trusted until it is released."""
        self._cluster.held_back[event.worker_id] = event.reason or "no reason given"
        worker = self._cluster.workers.get(event.worker_id)
        if worker is not None:
            self.set_held_back(worker)
            self.settle(worker, worker.quarantined_because)

    def set_held_back(self, worker: Worker) -> None:
        """Take what the operator said of a worker of this name into its record."""
        worker.held_back_because = self._cluster.held_back.get(worker.worker_id, "")
        if worker.held_back_because:
            self.alert(worker.worker_id, Cause.QUARANTINED, worker.quarantined_because)

    def released(self, event: events.WorkerReleased) -> None:
        """Whoever quarantined it: it is trusted again from now on."""
        self._cluster.held_back.pop(event.worker_id, None)
        self.clear(event.worker_id, Cause.QUARANTINED)
        self._cluster.health.release(event.worker_id, self._cluster.now)
        worker = self._cluster.workers.get(event.worker_id)
        if worker is not None:
            worker.held_back_because = ""
            self.settle(worker, "released by the operator")

    # What its record and its probe say --------------------------------------------------------------------------------

    def joined(self, worker: Worker, *, has_probe: bool) -> None:
        """A new session: what is known of its name holds for it too."""
        worker.trust, worker.trust_reason = self._cluster.health.trust(worker.worker_id)
        if has_probe:
            worker.probe_failure = "its probe has not passed yet"
        else:
            self.clear(worker.worker_id, Cause.PROBE_FAILED)
        if self._cluster.take_drain(worker.session):
            worker.is_drain_requested = True
        self.set_held_back(worker)
        if worker.trust is Trust.NONE:
            self.alert(worker.worker_id, Cause.QUARANTINED, worker.quarantined_because)
        elif worker.trust is Trust.FULL and not worker.held_back_because:
            self.clear(worker.worker_id, Cause.QUARANTINED)
        self.settle(worker, worker.quarantined_because or worker.trust_reason)

    def judged(self, change: TrustChange) -> None:
        worker = self._cluster.workers.get(change.worker_id)
        if worker is None:
            return
        worker.trust, worker.trust_reason = change.trust, change.reason
        if change.trust is Trust.NONE:
            self.alert(worker.worker_id, Cause.QUARANTINED, worker.quarantined_because)
        elif change.trust is Trust.FULL and not worker.held_back_because:
            self.clear(worker.worker_id, Cause.QUARANTINED)
        self.settle(worker, change.reason)

    def found(self, finding: Finding) -> None:
        if finding.message:
            self.alert(finding.worker_id, finding.cause, finding.message)
        else:
            self.clear(finding.worker_id, finding.cause)

    def probed(self, event: events.WorkerProbed) -> None:
        worker = self._cluster.workers.get(event.worker_id)
        if worker is None:
            return
        if event.is_ok:
            worker.probe_failure = ""
            self.clear(worker.worker_id, Cause.PROBE_FAILED)
            self.settle(worker, "its probe passed")
        else:
            worker.probe_failure = "its probe failed" + (f": {event.detail}" if event.detail else "")
            self.alert(worker.worker_id, Cause.PROBE_FAILED, event.detail or "it printed nothing")
            self.settle(worker, worker.probe_failure)

    # Alerts ------------------------------------------------------------------------------------------------------

    def alert(self, worker_id: WorkerId, cause: str, message: str) -> None:
        alert = self._cluster.alerts.add(worker_id, cause, message, self._cluster.now)
        if alert is not None:
            self._cluster.outbox.add(RaiseAlert(worker_id, alert.cause, message, alert.alert_id))

    def clear(self, worker_id: WorkerId, cause: str) -> None:
        alert = self._cluster.alerts.clear(worker_id, cause, self._cluster.now)
        if alert is not None:
            self._cluster.outbox.add(ClearAlert(worker_id, alert.cause, alert.alert_id))

    def coordinator_checked(self, event: events.CoordinatorChecked) -> None:
        if event.trouble:
            self.alert(COORDINATOR, event.cause, event.trouble)
        else:
            self.clear(COORDINATOR, event.cause)
        if event.cause == Cause.DISK_NEARLY_FULL:
            self._grant_nothing(event.trouble)

    def _grant_nothing(self, because: str) -> None:
        """What runs, or has its lease, goes on. Empty: leases are granted again."""
        cluster = self._cluster
        was_paused, cluster.grants_nothing_because = bool(cluster.grants_nothing_because), because
        if was_paused is bool(because):
            return
        for worker in cluster.workers.values():
            cluster.ask(worker.slots)
        cluster.gangs.look_again()
        text = f"no further test is started for now: {because}" if because else "tests are started again"
        for run in cluster.runs.values():
            cluster.outbox.add(PublishNotice(run.run_id, text))

    def acknowledged(self, event: events.AlertAcknowledged) -> None:
        self._cluster.alerts.acknowledge(event.alert_id, event.by, self._cluster.now)
