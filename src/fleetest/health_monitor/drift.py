"""Finds the machine that has become slower than it was.

Every test whose duration was known before is measured against what was expected of it, as the logarithm of the
ratio. Of ``WINDOW`` such values the median is taken (one test that hangs says nothing) and, so that code that has
become slower blames nobody, what the other workers show in the same runs is taken off: in a run the code is the same
for all, between two runs it may have changed. What remains is this worker's slowness against the fleet. It is compared
with the worker's own past: being slow always is no drift.

``WINDOWS_IN_A_ROW`` windows that are ``SLOWER_MIN`` times slower, and more than ``DEVIATIONS`` standard errors of the
median away, raise the finding; as many below ``RECOVERED`` clear it.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from statistics import median

from fleetest.core.alerts import Cause
from fleetest.core.model import RunId, WorkerId
from fleetest.core.policies import Finding

SHORTEST_S = 0.02
"""Shorter tests measure the clock and the operating system."""
WINDOW = 30
WINDOWS_IN_A_ROW = 2
BASELINE_WINDOWS = 2
SLOWER_MIN = 1.5
RECOVERED = 1.25
DEVIATIONS = 4.0
COMPARED_MIN = 10
"""Results of others in the same run; with fewer there is nobody to compare with."""
RECENT_MAX = 200
"""Latest results of a run that are kept for comparison, of all workers."""
RUNS_MAX = 50
WORKERS_MAX = 10_000
_LEARNING = 0.1


@dataclass(slots=True, eq=False)
class _Pace:
    ratios: list[tuple[RunId, float]] = field(default_factory=list)
    baseline: float = 0.0
    windows: int = 0
    in_a_row: int = 0
    """Windows in a row that speak for a change, in whichever direction it would be."""
    is_found: bool = False


class Drift:
    def __init__(self) -> None:
        self._paces: dict[WorkerId, _Pace] = {}
        self._recent: dict[RunId, deque[tuple[WorkerId, float]]] = {}

    def finished(self, worker_id: WorkerId, run_id: RunId, expected_s: float, duration_s: float) -> list[Finding]:
        """A test that succeeded took ``duration_s`` where ``expected_s`` were known from before."""
        if expected_s < SHORTEST_S or duration_s <= 0.0:
            return []
        pace = self._paces.get(worker_id)
        if pace is None:
            if len(self._paces) >= WORKERS_MAX:
                self.forget(next(name for name, old in self._paces.items() if not old.is_found))
            pace = self._paces[worker_id] = _Pace()
        ratio = math.log(duration_s / expected_s)
        self._recent_of(run_id).append((worker_id, ratio))
        pace.ratios.append((run_id, ratio))
        if len(pace.ratios) < WINDOW:
            return []
        ratios, pace.ratios = pace.ratios, []
        return self._look(worker_id, pace, self._against_fleet(worker_id, ratios))

    def forget(self, worker_id: WorkerId) -> list[Finding]:
        """Its past is no longer a measure."""
        pace = self._paces.pop(worker_id, None)
        return [Finding(worker_id, Cause.SLOWER_THAN_BEFORE)] if pace is not None and pace.is_found else []

    def usual_slowness(self) -> dict[WorkerId, float]:
        """Of the workers that are slower than before: what they were like before."""
        return {worker_id: pace.baseline for worker_id, pace in self._paces.items() if pace.is_found}

    def recall(self, worker_id: WorkerId, usual_slowness: float | None) -> list[Finding]:
        """It was found to be slower than before; if nobody knows how it was before, that is over."""
        if usual_slowness is None:
            return [Finding(worker_id, Cause.SLOWER_THAN_BEFORE)]
        self._paces[worker_id] = _Pace(baseline=usual_slowness, windows=BASELINE_WINDOWS, is_found=True)
        return []

    def _look(self, worker_id: WorkerId, pace: _Pace, ratios: list[float]) -> list[Finding]:
        """``ratios`` are against the fleet."""
        if len(ratios) < COMPARED_MIN:
            return []
        slowness = median(ratios)
        spread = 1.4826 * median(abs(ratio - slowness) for ratio in ratios)
        error = 1.2533 * spread / math.sqrt(len(ratios))
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

    def _against_fleet(self, worker_id: WorkerId, ratios: list[tuple[RunId, float]]) -> list[float]:
        """What is left of these results when what others show in the same run is taken off; none without others."""
        others: dict[RunId, float | None] = {}
        for run_id in {run_id for run_id, _ in ratios}:
            shown = [ratio for name, ratio in self._recent.get(run_id, ()) if name != worker_id]
            others[run_id] = median(shown) if len(shown) >= COMPARED_MIN else None
        found = ((ratio, others[run_id]) for run_id, ratio in ratios)
        return [ratio - fleet for ratio, fleet in found if fleet is not None]

    def _recent_of(self, run_id: RunId) -> deque[tuple[WorkerId, float]]:
        recent = self._recent.get(run_id)
        if recent is None:
            if len(self._recent) >= RUNS_MAX:
                del self._recent[next(iter(self._recent))]
            recent = self._recent[run_id] = deque(maxlen=RECENT_MAX)
        return recent
