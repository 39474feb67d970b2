"""Finds the machine that has become slower than it was.

Every test whose duration was known before is measured against what was expected of it, as the logarithm of the
ratio. Of ``WINDOW`` such values the median is taken (one test that hangs says nothing) and, so that code that has
become slower blames nobody, the median of what the other workers show at the same time is taken off. What remains is
this worker's slowness against the fleet. It is compared with the worker's own past: being slow always is no drift.

``WINDOWS_IN_A_ROW`` windows that are ``SLOWER_MIN`` times slower, and more than ``DEVIATIONS`` standard errors of the
median away, raise the finding; as many below ``RECOVERED`` clear it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from statistics import median

from fleetest.core.alerts import Cause
from fleetest.core.model import Instant, WorkerId
from fleetest.core.policies import Finding

SHORTEST_S = 0.02
"""Shorter tests measure the clock and the operating system."""
WINDOW = 30
WINDOWS_IN_A_ROW = 2
BASELINE_WINDOWS = 2
SLOWER_MIN = 1.5
RECOVERED = 1.25
DEVIATIONS = 4.0
FRESH_S = 900.0
"""What other workers showed longer ago is no comparison."""
COMPARED_MAX = 25
WORKERS_MAX = 10_000
_LEARNING = 0.1


@dataclass(slots=True, eq=False)
class _Pace:
    ratios: list[float] = field(default_factory=list)
    latest: float = 0.0
    latest_at: Instant = -math.inf
    baseline: float = 0.0
    windows: int = 0
    in_a_row: int = 0
    """Windows in a row that speak for a change, in whichever direction it would be."""
    is_found: bool = False


class Drift:
    def __init__(self) -> None:
        self._paces: dict[WorkerId, _Pace] = {}
        """The worker with the latest window last."""

    def finished(self, worker_id: WorkerId, expected_s: float, duration_s: float, now: Instant) -> list[Finding]:
        """A test that succeeded took ``duration_s`` where ``expected_s`` were known from before."""
        if expected_s < SHORTEST_S or duration_s <= 0.0:
            return []
        pace = self._paces.get(worker_id)
        if pace is None:
            if len(self._paces) >= WORKERS_MAX:
                self.forget(next(name for name, old in self._paces.items() if not old.is_found))
            pace = self._paces[worker_id] = _Pace()
        pace.ratios.append(math.log(duration_s / expected_s))
        if len(pace.ratios) < WINDOW:
            return []
        ratios, pace.ratios = pace.ratios, []
        return self._look(worker_id, pace, ratios, now)

    def forget(self, worker_id: WorkerId) -> list[Finding]:
        """Its past is no longer a measure."""
        pace = self._paces.pop(worker_id, None)
        return [Finding(worker_id, Cause.SLOWER_THAN_BEFORE)] if pace is not None and pace.is_found else []

    def _look(self, worker_id: WorkerId, pace: _Pace, ratios: list[float], now: Instant) -> list[Finding]:
        middle = median(ratios)
        spread = 1.4826 * median(abs(ratio - middle) for ratio in ratios)
        error = 1.2533 * spread / math.sqrt(len(ratios))
        fleet = self._fleet(worker_id, now)
        pace.latest, pace.latest_at = middle, now
        self._paces[worker_id] = self._paces.pop(worker_id)
        if fleet is None:
            return []
        slowness = middle - fleet
        pace.windows += 1
        if pace.windows <= BASELINE_WINDOWS:
            pace.baseline += (slowness - pace.baseline) / pace.windows
            return []
        change = slowness - pace.baseline
        if pace.is_found:
            return self._look_for_end(worker_id, pace, change)
        if change < max(math.log(SLOWER_MIN), DEVIATIONS * error):
            pace.in_a_row = 0
            pace.baseline += _LEARNING * change
            return []
        pace.in_a_row += 1
        if pace.in_a_row < WINDOWS_IN_A_ROW:
            return []
        pace.is_found, pace.in_a_row = True, 0
        text = f"tests take {math.exp(change):.1f} times as long here as they used to, compared with the other workers"
        return [Finding(worker_id, Cause.SLOWER_THAN_BEFORE, text)]

    def _look_for_end(self, worker_id: WorkerId, pace: _Pace, change: float) -> list[Finding]:
        pace.in_a_row = pace.in_a_row + 1 if change < math.log(RECOVERED) else 0
        if pace.in_a_row < WINDOWS_IN_A_ROW:
            return []
        pace.is_found, pace.in_a_row = False, 0
        return [Finding(worker_id, Cause.SLOWER_THAN_BEFORE)]

    def _fleet(self, worker_id: WorkerId, now: Instant) -> float | None:
        """The median of what the other workers showed last, of the latest few; None if there is nobody to compare."""
        latest: list[float] = []
        for name, pace in reversed(self._paces.items()):
            if pace.latest_at < now - FRESH_S and pace.latest_at > -math.inf:
                break
            if name != worker_id and pace.latest_at > -math.inf:
                latest.append(pace.latest)
                if len(latest) == COMPARED_MAX:
                    break
        return median(latest) if latest else None
