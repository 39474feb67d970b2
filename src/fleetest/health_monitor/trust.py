"""How far a worker is trusted with work: a circuit breaker per worker, and what link losses say of it.

- ``infrastructure_failures_max`` infrastructure failures in a row open the circuit: no work for ``quarantine_s``, twice
  as long each further time, up to ``quarantine_max_s``. Being trusted for ``quarantine_max_s`` wipes that out.
- Then it is half open (probation): one task at a time. ``probation_successes`` tests that really ran close it; an
  infrastructure failure or a lost link opens it again.
- ``flapping_losses`` lost links within ``flapping_window_s`` make a worker flap: it is on probation when it comes back,
  and flaps until fewer than half as many losses are within the window.
- When several workers, at least half of the fleet, lose their links within ``TOGETHER_S``, it is the network or the
  coordinator, and those losses count for nobody.

What is known belongs to the worker's name: a crash and a new session do not make it forgotten.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from fleetest.core.alerts import Cause
from fleetest.core.deadlines import Deadlines
from fleetest.core.memory import WorkerRecord
from fleetest.core.model import Instant, Limits, Trust, WorkerId
from fleetest.core.policies import Finding, Judgement, TrustChange

TOGETHER_S = 5.0
TOGETHER_MIN = 3
RECORDS_MAX = 10_000
"""So many names are remembered; beyond this the oldest go, first those without a blemish."""
FORGOTTEN_AFTER_S = 7 * 86_400.0
"""What an earlier coordinator held against a name counts no more if nothing was added or taken back for so long."""


@dataclass(slots=True, eq=False)
class _Record:
    worker_id: WorkerId
    trust: Trust = Trust.FULL
    reason: str = ""
    failures: int = 0
    """Infrastructure failures in a row."""
    openings: int = 0
    """How often the circuit opened without a long time of trust in between."""
    proofs: int = 0
    trusted_since: Instant = -math.inf
    losses: deque[Instant] = field(default_factory=deque)
    is_flapping: bool = False
    changed_at: Instant = -math.inf

    @property
    def is_plain(self) -> bool:
        return self.trust is Trust.FULL and not (self.failures or self.openings or self.losses)


class Trustworthiness:
    """``fleet_size`` tells how many workers there are now."""

    def __init__(self, limits: Limits, fleet_size: Callable[[], int]) -> None:
        self._limits, self._fleet_size = limits, fleet_size
        self._records: dict[WorkerId, _Record] = {}
        self._deadlines = Deadlines()
        self._recent: deque[tuple[Instant, WorkerId]] = deque()
        """Losses of the last ``TOGETHER_S``, of all workers."""
        self._judgements: list[Judgement] = []

    def trust(self, worker_id: WorkerId) -> tuple[Trust, str]:
        """How far this name is trusted now, and why no further."""
        record = self._records.get(worker_id)
        return (record.trust, record.reason) if record is not None else (Trust.FULL, "")

    # What happens --------------------------------------------------------------------------------------------------

    def failed(self, worker_id: WorkerId, reason: str, now: Instant) -> None:
        """An infrastructure failure."""
        record = self._record(worker_id)
        record.failures += 1
        record.changed_at = now
        if record.trust is Trust.PROBATION:
            self._open(record, f"failed again on probation: {reason}", now)
        elif record.trust is Trust.FULL and record.failures >= self._limits.infrastructure_failures_max:
            self._open(record, f"{record.failures} infrastructure failures in a row: {reason}", now)

    def executed(self, worker_id: WorkerId, now: Instant, *, is_proof: bool) -> None:
        """A result came. ``is_proof``: of a test that ran to its end, whatever it found."""
        record = self._records.get(worker_id)
        if record is None:
            return
        record.failures = 0
        if record.trust is Trust.PROBATION and is_proof:
            record.proofs += 1
            if record.proofs >= self._limits.probation_successes:
                self._close(record, f"{record.proofs} tests ran well on probation", now)

    def link_lost(self, worker_id: WorkerId, now: Instant) -> None:
        """Its link broke without goodbye, or it fell silent."""
        limits, record = self._limits, self._record(worker_id)
        self._recent.append((now, worker_id))
        while self._recent[0][0] < now - TOGETHER_S:
            self._recent.popleft()
        together = {name for _, name in self._recent}
        if len(together) >= max(TOGETHER_MIN, self._fleet_size() / 2):
            for lost_at, name in self._recent:
                self._forgive(name, lost_at, now)
            return
        record.losses.append(now)
        record.changed_at = now
        self._drop_old_losses(record, now)
        if record.trust is Trust.PROBATION:
            self._open(record, "its link was lost again on probation", now)
        if len(record.losses) < limits.flapping_losses:
            return
        count = len(record.losses)
        text = f"{count} lost links within {limits.flapping_window_s:g} s"
        if not record.is_flapping:
            record.is_flapping = True
            self._judgements.append(Finding(worker_id, Cause.FLAPPING, text))
        if record.trust is Trust.FULL:
            self._try_out(record, text)
        self._look_at_calm(record)

    def release(self, worker_id: WorkerId, now: Instant) -> None:
        """Somebody who knows says that it is well: everything that spoke against it is forgotten."""
        record = self._records.get(worker_id)
        if record is None:
            return
        record.openings = 0
        record.losses.clear()
        self._calm(record)
        if record.trust is not Trust.FULL:
            self._close(record, "released by the operator", now)
        record.failures = 0

    # Beyond the life of one coordinator --------------------------------------------------------------------------

    def records(self) -> list[WorkerRecord]:
        """Of every name that has a blemish."""
        return [
            WorkerRecord(
                record.worker_id,
                record.trust,
                record.reason,
                record.failures,
                record.openings,
                record.proofs,
                record.trusted_since if math.isfinite(record.trusted_since) else None,
                self._deadlines.due(("open", record.worker_id)),
                tuple(record.losses),
                record.changed_at,
            )
            for record in self._records.values()
            if not record.is_plain
        ]

    def recall(self, known: WorkerRecord, now: Instant) -> None:
        """A quarantine that has ended meanwhile becomes a probation at the next ``advance``.

        What seems to be still to come is taken to have been now: the clock by which it was kept may have been set back.
        """
        changed_at = now if known.changed_at is None else min(known.changed_at, now)
        if known.trust is not Trust.NONE and changed_at + FORGOTTEN_AFTER_S <= now:
            return
        record = self._record(known.worker_id)
        record.trust, record.reason = known.trust, known.reason
        record.failures, record.openings, record.proofs = known.failures, known.openings, known.proofs
        record.trusted_since = -math.inf if known.trusted_since is None else min(known.trusted_since, now)
        record.losses.extend(min(lost_at, now) for lost_at in known.losses)
        record.changed_at = changed_at
        if record.trust is Trust.NONE:
            until = now if known.quarantined_until is None else known.quarantined_until
            self._deadlines.set(("open", record.worker_id), min(until, now + self._limits.quarantine_max_s))

    def recall_flapping(self, worker_id: WorkerId, now: Instant) -> None:
        """It was found to flap; call it after ``recall``."""
        record = self._record(worker_id)
        record.is_flapping = True
        self._drop_old_losses(record, now)
        self._look_at_calm(record)

    # Time ----------------------------------------------------------------------------------------------------------

    def next_deadline(self) -> Instant | None:
        return self._deadlines.next()

    def advance(self, now: Instant) -> list[Judgement]:
        """What changed since the last call."""
        while (key := self._deadlines.pop_due(now)) is not None:
            assert isinstance(key, tuple)
            kind, worker_id = key
            record = self._records.get(worker_id)
            if record is None:
                continue
            if kind == "open":
                self._try_out(record, "its quarantine is over")
            else:
                self._drop_old_losses(record, now)
                self._look_at_calm(record)
        judgements, self._judgements = self._judgements, []
        return judgements

    # ---------------------------------------------------------------------------------------------------------------

    def _open(self, record: _Record, reason: str, now: Instant) -> None:
        limits = self._limits
        if now - record.trusted_since >= limits.quarantine_max_s and record.trust is Trust.FULL:
            record.openings = 0
        # The exponent is bounded: nobody waits for a number of astronomical size.
        quarantine_s = min(limits.quarantine_s * 2.0 ** min(record.openings, 60), limits.quarantine_max_s)
        record.openings += 1
        self._deadlines.set(("open", record.worker_id), now + quarantine_s)
        self._become(record, Trust.NONE, f"{reason} (tried again in {quarantine_s:g} s)")

    def _try_out(self, record: _Record, reason: str) -> None:
        record.proofs = record.failures = 0
        self._become(record, Trust.PROBATION, reason)

    def _close(self, record: _Record, reason: str, now: Instant) -> None:
        self._deadlines.cancel(("open", record.worker_id))
        record.trusted_since, record.changed_at, record.failures = now, now, 0
        self._become(record, Trust.FULL, reason)

    def _become(self, record: _Record, trust: Trust, reason: str) -> None:
        record.trust, record.reason = trust, reason
        self._judgements.append(TrustChange(record.worker_id, trust, reason))

    def _drop_old_losses(self, record: _Record, now: Instant) -> None:
        losses = record.losses
        # Computed like the deadline of ``_look_at_calm``: what that was set for is old when it is reached.
        while losses and losses[0] + self._limits.flapping_window_s <= now:
            losses.popleft()

    def _look_at_calm(self, record: _Record) -> None:
        """Set when the worker flaps no more, if nothing else happens."""
        half = math.ceil(self._limits.flapping_losses / 2)
        losses = record.losses
        if len(losses) < half:
            self._calm(record)
        else:
            self._deadlines.set(("calm", record.worker_id), losses[-half] + self._limits.flapping_window_s)

    def _calm(self, record: _Record) -> None:
        self._deadlines.cancel(("calm", record.worker_id))
        if record.is_flapping:
            record.is_flapping = False
            self._judgements.append(Finding(record.worker_id, Cause.FLAPPING))

    def _forgive(self, worker_id: WorkerId, lost_at: Instant, now: Instant) -> None:
        """That loss was not this worker's doing."""
        record = self._records.get(worker_id)
        if record is None or lost_at not in record.losses:
            return
        record.losses.remove(lost_at)
        if record.is_flapping:
            self._drop_old_losses(record, now)
            self._look_at_calm(record)

    def _record(self, worker_id: WorkerId) -> _Record:
        record = self._records.get(worker_id)
        if record is None:
            if len(self._records) >= RECORDS_MAX:
                self._forget_one()
            record = self._records[worker_id] = _Record(worker_id)
        return record

    def _forget_one(self) -> None:
        """The oldest, if possible one that nothing speaks against; never one that waits to be tried again."""
        trusted = [record for record in self._records.values() if record.trust is Trust.FULL]
        gone = next((record for record in trusted if record.is_plain), trusted[0] if trusted else None)
        if gone is not None:
            self._deadlines.cancel(("calm", gone.worker_id))
            self._calm(gone)
            del self._records[gone.worker_id]
