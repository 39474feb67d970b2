"""Fair share: who has used up least of the fleet is next; between owners first, then between the runs of one owner."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from fleetest.core.entities import Run

BONUS_S = 5.0
"""How far ahead of the poorest a run may be before a slot leaves the group of it that it is in."""


class FairShare:
    """Seconds of work used up, predicted while under way and measured afterwards, divided by the weight of their run.

    An owner's account is the sum over its runs, so that more runs do not make a larger part.
    """

    def __init__(self) -> None:
        self._by_owner: dict[str, float] = {}
        self._by_run: dict[Run, float] = {}

    def __iter__(self) -> Iterator[Run]:
        return iter(self._by_run)

    def add(self, run: Run) -> None:
        # A newcomer starts level with the poorest, not at zero: else it would be owed all that was ever used.
        poorest_s = min((self._by_owner[other.owner] for other in self._by_run), default=0.0)
        self._by_owner[run.owner] = max(self._by_owner.get(run.owner, 0.0), poorest_s)
        self._by_run[run] = min((used for other, used in self._by_run.items() if other.owner == run.owner), default=0.0)

    def drop(self, run: Run) -> None:
        self._by_run.pop(run, None)
        if not any(other.owner == run.owner for other in self._by_run):
            self._by_owner.pop(run.owner, None)

    def charge(self, run: Run, seconds: float) -> None:
        """Count work in (negative: out again)."""
        if run in self._by_run:
            weighted_s = seconds / run.weight
            self._by_run[run] += weighted_s
            self._by_owner[run.owner] += weighted_s

    def may_stay(self, run: Run, bonus_s: float) -> bool:
        """True if no run, whether it has anything queued or not, is poorer than this one by more than ``bonus_s``."""
        if len(self._by_run) == 1:
            return True
        used_s, owner_used_s = self._by_run[run], self._by_owner[run.owner]
        return owner_used_s - min(self._by_owner.values()) <= bonus_s and all(
            used_s - other_s <= bonus_s for other, other_s in self._by_run.items() if other.owner == run.owner
        )

    def turns(self, runs: Iterable[Run], current: Run | None) -> dict[Run, tuple[float, float]]:
        """By run what decides between them, smaller first; ``current`` is taken as level unless far ahead."""
        runs = list(runs)
        poorest_s = min(self._by_owner[run.owner] for run in runs)
        poorest_run_s: dict[str, float] = {}
        for run in runs:
            used_s = self._by_run[run]
            poorest_run_s[run.owner] = min(used_s, poorest_run_s.get(run.owner, used_s))
        turns = {}
        for run in runs:
            # Runs compete within their owner only.
            ahead_s = self._by_owner[run.owner] - poorest_s
            run_ahead_s = self._by_run[run] - poorest_run_s[run.owner]
            if run is current and ahead_s <= BONUS_S:
                ahead_s = 0.0
            if run is current and run_ahead_s <= BONUS_S:
                run_ahead_s = 0.0
            turns[run] = (ahead_s, run_ahead_s)
        return turns
