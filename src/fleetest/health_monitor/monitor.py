"""Puts the parts together: signs of life, trust, and what results say of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fleetest.core.alerts import Cause
from fleetest.core.entities import LiveLease
from fleetest.core.memory import WorkerRecord
from fleetest.core.model import Instant, Limits, Trust, Verdict, WorkerId
from fleetest.core.policies import Finding, Health, HealthChange, Judgement
from fleetest.health_monitor.contradictions import Contradictions
from fleetest.health_monitor.drift import Drift
from fleetest.health_monitor.heartbeats import Heartbeats
from fleetest.health_monitor.trust import Trustworthiness

_RAN_TO_ITS_END = frozenset(
    {Verdict.PASSED, Verdict.FAILED, Verdict.ERROR, Verdict.SKIPPED, Verdict.XFAILED, Verdict.XPASSED}
)
_SAYS_NOTHING = frozenset({Verdict.SKIPPED, Verdict.CANCELLED, Verdict.QUARANTINED, Verdict.NOT_RUN})


class HealthMonitor:
    """The built-in health policy (see ``core.policies.HealthPolicy``). Time is always given."""

    def __init__(self) -> None:
        self._heartbeats = Heartbeats()
        self._trust = Trustworthiness(Limits(), self._fleet_size)
        self._contradictions = Contradictions()
        self._drift = Drift()
        self._findings: list[Finding] = []

    def bind(self, limits: Limits) -> None:
        self._trust = Trustworthiness(limits, self._fleet_size)

    def _fleet_size(self) -> int:
        return len(self._heartbeats)

    # Signs of life -------------------------------------------------------------------------------------------------

    def watch(self, worker_id: WorkerId, now: Instant, interval_s: float) -> None:
        self._heartbeats.watch(worker_id, now, interval_s)

    def set_interval(self, worker_id: WorkerId, interval_s: float) -> None:
        self._heartbeats.set_interval(worker_id, interval_s)

    def forget(self, worker_id: WorkerId) -> None:
        self._heartbeats.forget(worker_id)

    def health(self, worker_id: WorkerId) -> Health | None:
        """What was last said of the worker; None if it is not watched."""
        return self._heartbeats.health(worker_id)

    def beat(self, worker_id: WorkerId, now: Instant) -> HealthChange | None:
        return self._heartbeats.beat(worker_id, now)

    def seen(self, worker_id: WorkerId, now: Instant) -> HealthChange | None:
        return self._heartbeats.seen(worker_id, now)

    def excuse(self, unheard_s: float) -> None:
        self._heartbeats.excuse(unheard_s)

    # Trust ---------------------------------------------------------------------------------------------------------

    def trust(self, worker_id: WorkerId) -> tuple[Trust, str]:
        return self._trust.trust(worker_id)

    def link_lost(self, worker_id: WorkerId, now: Instant) -> None:
        self._trust.link_lost(worker_id, now)

    def infrastructure_failed(self, worker_id: WorkerId, reason: str, now: Instant) -> None:
        self._trust.failed(worker_id, reason, now)

    def release(self, worker_id: WorkerId, now: Instant) -> None:
        self._trust.release(worker_id, now)
        self.gone(worker_id)

    # Results -------------------------------------------------------------------------------------------------------

    def finished(self, lease: LiveLease, verdict: Verdict, duration_s: float, now: Instant, *, is_final: bool) -> None:
        worker_id, task = lease.slot.worker.worker_id, lease.task
        self._trust.executed(worker_id, now, is_proof=verdict in _RAN_TO_ITS_END)
        if verdict in _SAYS_NOTHING:
            return
        passed = verdict.is_success
        self._findings += self._contradictions.finished(worker_id, task, passed=passed, is_final=is_final)
        if passed and task.spec.expected_s is not None:
            self._findings += self._drift.finished(worker_id, task.run.run_id, lease.typical_s, duration_s)

    def gone(self, worker_id: WorkerId) -> None:
        self._findings += self._contradictions.forget(worker_id)
        self._findings += self._drift.forget(worker_id)

    # Beyond the life of one coordinator --------------------------------------------------------------------------

    def records(self) -> Sequence[WorkerRecord]:
        slowness = self._drift.usual_slowness()
        records = self._trust.records()
        if not slowness:
            return records
        known = {record.worker_id: record for record in records}
        known |= {
            name: replace(known.get(name, WorkerRecord(name)), usual_slowness=slowness[name]) for name in slowness
        }
        return list(known.values())

    def recall(self, records: Sequence[WorkerRecord], findings: Sequence[Finding], now: Instant) -> None:
        slowness = {record.worker_id: record.usual_slowness for record in records}
        for record in records:
            self._trust.recall(record, now)
        for finding in findings:
            worker_id = finding.worker_id
            if finding.cause == Cause.FLAPPING:
                self._trust.recall_flapping(worker_id, now)
            elif finding.cause == Cause.FAILS_WHAT_OTHERS_PASS:
                self._contradictions.recall(worker_id)
            elif finding.cause == Cause.SLOWER_THAN_BEFORE:
                self._findings += self._drift.recall(worker_id, slowness.get(worker_id))

    # Time ----------------------------------------------------------------------------------------------------------

    def advance(self, now: Instant) -> Sequence[Judgement]:
        judgements: list[Judgement] = [*self._heartbeats.advance(now), *self._trust.advance(now)]
        if self._findings:
            judgements += self._findings
            self._findings = []
        return judgements

    def next_deadline(self) -> Instant | None:
        due, other = self._heartbeats.next_deadline(), self._trust.next_deadline()
        if due is None or other is None:
            return other if due is None else due
        return min(due, other)
