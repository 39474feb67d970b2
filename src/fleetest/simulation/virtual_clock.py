"""Time that only moves when told to: everything that will happen, in one heap."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Any


class VirtualClock:
    """Calls in order of their time; those of the same time in order of being asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self._calls: list[tuple[float, int, Callable[..., None], tuple[Any, ...]]] = []
        self._count = 0

    def call_at(self, when: float, call: Callable[..., None], *args: Any) -> None:
        # Arguments instead of closures: a simulated fleet makes some ten calls per test.
        self._count += 1
        heapq.heappush(self._calls, (when if when > self.now else self.now, self._count, call, args))

    def call_later(self, delay_s: float, call: Callable[..., None], *args: Any) -> None:
        self.call_at(self.now + delay_s, call, *args)

    def step(self) -> bool:
        """Make the next call, moving the time to it. False if there is none."""
        if not self._calls:
            return False
        self.now, _, call, args = heapq.heappop(self._calls)
        call(*args)
        return True
