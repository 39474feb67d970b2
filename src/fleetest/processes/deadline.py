"""The deadline of the test that a slot runs: one lazy timer per slot, however many tests pass by."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

_RESUMED_MIN_S = 1.0


class RunningDeadline:
    """``on_over`` is called when the deadline set last has passed; ``is_over`` tells whether that still holds."""

    def __init__(self, loop: asyncio.AbstractEventLoop, on_over: Callable[[], None]) -> None:
        self._loop = loop
        self._on_over = on_over
        self._at: float | None = None
        self._remaining_s: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    @property
    def is_over(self) -> bool:
        return self._at is not None and self._loop.time() >= self._at

    def set(self, timeout_s: float | None) -> None:
        """Count from now; None sets none."""
        self._remaining_s = None
        self._at = None if timeout_s is None else self._loop.time() + timeout_s
        if self._at is not None:
            self._wait_for(self._at)

    def clear(self) -> None:
        self._at = None
        self._remaining_s = None

    def suspend(self) -> None:
        """Time does not count until ``resume``."""
        if self._at is not None:
            self._remaining_s = self._at - self._loop.time()
            self._at = None

    def resume(self) -> None:
        if self._remaining_s is not None:
            self.set(max(self._remaining_s, _RESUMED_MIN_S))

    def cancel(self) -> None:
        """No call follows."""
        self.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wait_for(self, at: float) -> None:
        if self._timer is not None:
            if self._timer.when() <= at:
                # It fires early and is set anew then: cheaper than a timer for each of many short tests.
                return
            self._timer.cancel()
        self._timer = self._loop.call_at(at, self._fire)

    def _fire(self) -> None:
        self._timer = None
        if self._at is None:
            return
        if self._loop.time() < self._at:
            self._wait_for(self._at)
        else:
            self._on_over()
