"""Nothing starves: what was passed over for too long gets one turn, and what it needs is kept for it meanwhile.

Ageing is counted in service: time alone makes nothing old while nobody else gets anything either. A turn is one
portion; then the level waits anew. So priorities and fair share stay what they are, and every wait is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from fleetest.core.entities import Worker
from fleetest.core.group_queue import ClassLine, Level
from fleetest.core.model import Instant
from fleetest.core.placement import Placement
from fleetest.core.policies import Wakes

PORTIONS_MIN = 8
"""So many portions must have gone to others since, besides the time."""
_LOOKS = 16
"""How often per ageing time it is looked who has become old."""


class Ageing:
    """Which levels are old, and what is kept for them."""

    def __init__(self, placement: Placement, ageing_s: float, wakes: Wakes) -> None:
        self._placement, self._ageing_s, self.wakes = placement, ageing_s, wakes
        self._aged: list[Level] = []
        self._look_at: Instant = -math.inf
        self._portions = 0
        self._claims: dict[Worker, Level] = {}
        self._locks: dict[str, Level] = {}

    @property
    def has_any(self) -> bool:
        return bool(self._aged)

    @property
    def has_claims(self) -> bool:
        return bool(self._claims)

    def levels(self) -> Sequence[Level]:
        """The old ones with queued work, the oldest first."""
        return [level for level in self._aged if level.count]

    def begin(self, level: Level, now: Instant) -> None:
        """Something waits there from now on."""
        level.served_at, level.portions = now, self._portions
        self._look_at = min(self._look_at, now + self._ageing_s)

    def served(self, level: Level, now: Instant) -> None:
        """A slot has taken a portion of it."""
        self._portions += 1
        level.served_at, level.portions = now, self._portions
        if self._aged and level in self._aged:
            self._aged.remove(level)
        if level.claim is not None:
            self.unclaim(level)

    def look(self, lines: Iterable[ClassLine], now: Instant) -> None:
        """See who has become old, if it is time to."""
        if now < self._look_at:
            return
        self._look_at = now + self._ageing_s / _LOOKS
        old = [
            level
            for line in lines
            if line.count
            for level in line.levels
            if level.count
            and now - level.served_at >= self._ageing_s
            and self._portions - level.portions >= PORTIONS_MIN
            and self._placement.eligible_slots(line.task_class)
        ]
        self._aged = sorted(old, key=lambda level: level.served_at)

    # What is kept ----------------------------------------------------------------------------------------------

    def claim(self, level: Level, worker: Worker) -> None:
        """From now on nothing else takes what the level's next task reserves on this worker, nor its locks."""
        locks = level.line.task_class.requirements.locks
        if level.claim is not None or worker in self._claims or any(name in self._locks for name in locks):
            return
        level.claim = worker
        self._claims[worker] = level
        self._locks.update(dict.fromkeys(locks, level))

    def is_kept_from(self, line: ClassLine, worker: Worker) -> bool:
        """True if something that the line's tasks reserve is kept for others."""
        requirements = line.task_class.requirements
        if any(self._locks[name].line is not line for name in requirements.locks if name in self._locks):
            return True
        level = self._claims.get(worker)
        if level is None or level.line is line:
            return False
        kept = level.line.task_class.requirements
        if requirements.alone or kept.alone:
            return True
        names = {name for name, _ in kept.resources}
        return any(name in names for name, _ in requirements.resources)

    def unclaim(self, level: Level) -> None:
        """What was kept for it is anybody's."""
        worker, level.claim = level.claim, None
        if worker is None:
            return
        del self._claims[worker]
        self.wakes.workers[worker] = None
        for name in level.line.task_class.requirements.locks:
            del self._locks[name]
            self.wakes.locks[name] = None

    def drop(self, line: ClassLine) -> None:
        """The line is gone."""
        for level in line.levels:
            self.unclaim(level)
        self._aged = [level for level in self._aged if level.line is not line]

    def forget(self, worker: Worker) -> None:
        """The worker takes nothing more."""
        level = self._claims.get(worker)
        if level is not None:
            self.unclaim(level)
