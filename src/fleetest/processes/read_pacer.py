"""Read late when results come fast: many results for one wake-up, of all slots together."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

PAUSE_S = 0.015
_FAST_RESULTS_PER_S = 200.0
_RATE_MAX_PER_S = 10_000.0
_HISTORY_WEIGHT = 0.7
_QUEUED_PAUSES = 1.5


class ReadPacer:
    """One timer for all sockets of a worker that are read late."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._paused: dict[Callable[[], None], None] = {}
        self._is_ticking = False

    def pause(self, read_now: Callable[[], None]) -> None:
        """Call ``read_now`` at the next tick, once."""
        self._paused[read_now] = None
        if not self._is_ticking:
            self._is_ticking = True
            self._loop.call_later(PAUSE_S, self._tick)

    def forget(self, read_now: Callable[[], None]) -> None:
        self._paused.pop(read_now, None)

    def _tick(self) -> None:
        self._is_ticking = False
        paused, self._paused = self._paused, {}
        for read_now in paused:
            read_now()


class ResultRate:
    """Results per second of one runner, as seen by reads at irregular times."""

    def __init__(self, now: float) -> None:
        self._read_at = now
        self._per_s = 0.0

    def may_pause(self, results: int, queued: int, now: float) -> bool:
        """True if this read (``results`` since the last one) may be followed by a pause.

        That is, results come fast and the ``queued`` tests outlast the pause.
        """
        elapsed_s = max(now - self._read_at, 1e-6)
        self._read_at = now
        latest = min(results / elapsed_s, _RATE_MAX_PER_S)
        self._per_s = _HISTORY_WEIGHT * self._per_s + (1 - _HISTORY_WEIGHT) * latest
        if min(latest, self._per_s) < _FAST_RESULTS_PER_S:
            return False
        return queued > _QUEUED_PAUSES * PAUSE_S * self._per_s
