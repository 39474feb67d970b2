"""How fast workers are, learned from expected against measured durations.

The model: log(measured / expected) = centre of the kind of task + offset of the worker + offset of the worker for this
kind + noise. Every part starts at 0 with a stated variance and is corrected by a Kalman filter with independent
parts, so that an estimate moves as far from 0 as the number and the noise of its observations warrant.

Speeds are relative: the median offset of all workers is 0. If everything takes twice as long as expected, the
predictions are wrong and not the workers.

What past runs say of a worker is where its estimate starts, with less variance than one that starts at 0: it counts
until measurements say otherwise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import exp, log, sqrt
from statistics import median
from typing import TypeAlias

from fleetest.core.model import WorkerId

Kind: TypeAlias = object
"""Of tasks: equal for those that are expected to suit a worker equally."""

SHORTEST_S = 0.001
"""A test that is expected to take less, or took less, says nothing about the speed of a machine."""
WORKER_VARIANCE = 0.25
"""Of the logarithm: before anything is measured, two workers in three are within a factor of 1.65."""
WORKER_KIND_VARIANCE = 0.06
RECALLED_VARIANCE = 0.04
"""Of what past runs say: the machine may have changed, and tests are not all alike."""
_CENTRE_VARIANCE = 1.0
_NOISE_AT_FIRST = 0.25
_NOISE_MIN = 0.0025
_DRIFT = 0.0002
"""Variance that an estimate gains with each observation: a machine may become slower at any time."""
_NOISE_WEIGHT = 0.05
_SURPRISE_MIN = log(2.0)
_SURPRISE_DEVIATIONS = 2.0
"""A measurement further off than so many deviations, and than a factor of 2, counts as if it were that far off."""
_LEVEL_EVERY = 64
_KINDS_MAX = 1000


@dataclass(slots=True)
class _Estimate:
    variance: float
    value: float = 0.0


@dataclass(slots=True)
class _OfKind:
    centre: _Estimate = field(default_factory=lambda: _Estimate(_CENTRE_VARIANCE))
    noise: float = _NOISE_AT_FIRST
    """Variance of a single measurement."""


@dataclass(slots=True)
class _OfWorker:
    overall: _Estimate = field(default_factory=lambda: _Estimate(WORKER_VARIANCE))
    by_kind: dict[Kind, _Estimate] = field(default_factory=dict)


class WorkerSpeeds:
    """Cost: one logarithm per observation, one exponential per question, a pass over the workers now and then."""

    def __init__(self) -> None:
        self._workers: dict[WorkerId, _OfWorker] = {}
        self._kinds: dict[Kind, _OfKind] = {}
        self._fastest: dict[Kind, tuple[int, float]] = {}
        """With the number of observations at which it was true."""
        self._observations = 0
        self._recalled: dict[WorkerId, float] = {}
        """Logarithms; those of here are by ``_recalled_above`` smaller."""
        self._recalled_above = 0.0

    def recall(self, slowness: Mapping[WorkerId, float]) -> None:
        """What past runs say of workers. Those that were measured since keep what was measured."""
        self._recalled = {worker_id: log(slow) for worker_id, slow in slowness.items()}
        measured = self._workers.keys() & self._recalled.keys()
        offsets = [self._recalled[worker_id] - self._workers[worker_id].overall.value for worker_id in measured]
        self._recalled_above = median(offsets) if offsets else 0.0

    def observe(self, worker_id: WorkerId, kind: Kind, expected_s: float, measured_s: float) -> None:
        """A task of this kind was expected to take so long on a typical worker, and took so long on this one."""
        if expected_s < SHORTEST_S or measured_s < SHORTEST_S:
            return
        worker = self._workers.get(worker_id)
        if worker is None:
            worker = self._workers[worker_id] = self._unmeasured(worker_id)
        of_kind = self._kinds.get(kind)
        if of_kind is None:
            of_kind = self._add_kind(kind)
        own = worker.by_kind.get(kind)
        if own is None:
            own = worker.by_kind[kind] = _Estimate(WORKER_KIND_VARIANCE)
        centre, overall = of_kind.centre, worker.overall
        surprise = log(measured_s / expected_s) - centre.value - overall.value - own.value
        bound = max(_SURPRISE_MIN, _SURPRISE_DEVIATIONS * sqrt(of_kind.noise))
        surprise = min(bound, max(-bound, surprise))
        total = centre.variance + overall.variance + own.variance + of_kind.noise
        for part in (centre, overall, own):
            gain = part.variance / total
            part.value += gain * surprise
            part.variance += _DRIFT - gain * part.variance
        # What the estimates did not know yet is no noise.
        noise = surprise * surprise * of_kind.noise / total
        of_kind.noise = max(_NOISE_MIN, of_kind.noise + _NOISE_WEIGHT * (noise - of_kind.noise))
        self._observations += 1
        if self._observations % max(_LEVEL_EVERY, 4 * len(self._workers)) == 0 or self._observations <= _LEVEL_EVERY:
            self._level(kind, of_kind)

    def slowness(self, worker_id: WorkerId, kind: Kind = None) -> float:
        """Seconds for what takes a typical worker one second, for this kind of task or overall."""
        worker = self._workers.get(worker_id)
        if worker is None:
            recalled = self._recalled.get(worker_id)
            return 1.0 if recalled is None else exp(recalled - self._recalled_above)
        own = worker.by_kind.get(kind)
        return exp(worker.overall.value if own is None else worker.overall.value + own.value)

    def slowest(self, worker_id: WorkerId, kind: Kind = None) -> float:
        """The slowness that it hardly exceeds: one standard deviation above what is estimated."""
        worker = self._workers.get(worker_id)
        if worker is None:
            worker = self._unmeasured(worker_id)
        overall, own = worker.overall, worker.by_kind.get(kind)
        return exp(overall.value + sqrt(overall.variance) + (0.0 if own is None else own.value))

    def fastest(self, kind: Kind = None) -> float:
        """The smallest slowness of any measured worker, for this kind of task or overall."""
        known = self._fastest.get(kind)
        if known is None or known[0] != self._observations:
            slowness = min((self.slowness(worker_id, kind) for worker_id in self._workers), default=1.0)
            known = self._fastest[kind] = (self._observations, slowness)
        return known[1]

    def error(self, kind: Kind) -> tuple[float, float]:
        """(mean, standard deviation) of log(measured / expected) on a typical worker; zero mean if nothing is known."""
        of_kind = self._kinds.get(kind)
        return (0.0, sqrt(_NOISE_AT_FIRST)) if of_kind is None else (of_kind.centre.value, sqrt(of_kind.noise))

    def forget(self, worker_id: WorkerId) -> None:
        self._workers.pop(worker_id, None)
        self._fastest.clear()

    def _unmeasured(self, worker_id: WorkerId) -> _OfWorker:
        recalled = self._recalled.get(worker_id)
        if recalled is None:
            return _OfWorker()
        return _OfWorker(_Estimate(RECALLED_VARIANCE, recalled - self._recalled_above))

    def _add_kind(self, kind: Kind) -> _OfKind:
        if len(self._kinds) >= _KINDS_MAX:
            oldest = next(iter(self._kinds))
            del self._kinds[oldest]
            self._fastest.pop(oldest, None)
            for worker in self._workers.values():
                worker.by_kind.pop(oldest, None)
        self._kinds[kind] = _OfKind()
        return self._kinds[kind]

    def _level(self, kind: Kind, of_kind: _OfKind) -> None:
        """What all workers have in common goes to the centres, so that the median worker is typical.

        That is done for the workers overall and for one kind of task, the one that was observed last.
        """
        owns = [own for worker in self._workers.values() if (own := worker.by_kind.get(kind)) is not None]
        common = median(own.value for own in owns)
        of_kind.centre.value += common
        for own in owns:
            own.value -= common
        common = median(worker.overall.value for worker in self._workers.values())
        for each in self._kinds.values():
            each.centre.value += common
        for worker in self._workers.values():
            worker.overall.value -= common
        self._recalled_above += common
