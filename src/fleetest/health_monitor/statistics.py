"""Is one machine worse than the others? Tallies of trials and hits; chance alone hardly ever says yes."""

from __future__ import annotations

import math
from dataclasses import dataclass

FALSE_ALARM = 1e-6
"""How often a comparison may say yes by chance, at most. It is made at every hit, on every worker, for years."""
HITS_MIN = 5
TIMES_WORSE_MIN = 3.0
OTHER_TRIALS_MIN = 20.0
MEMORY_TRIALS = 2000.0
"""Beyond so many, what was long ago counts half."""


@dataclass(slots=True)
class Tally:
    """Kept as floats: what is old is weighed down."""

    trials: float = 0.0
    hits: float = 0.0

    def add(self, trials: float, hits: float) -> None:
        # Differences of sums that were weighed down drift below nothing.
        self.trials = max(0.0, self.trials + trials)
        self.hits = max(0.0, self.hits + hits)


def tail_bound(hits: float, mean: float) -> float:
    """An upper bound of the chance of at least ``hits`` events where ``mean`` are expected.

    Chernoff's bound for a Poisson (and so for a binomial) variable: ``exp(-(k ln(k/m) - k + m))``.
    """
    if hits <= mean:
        return 1.0
    if mean <= 0.0:
        return 0.0
    return math.exp(-(hits * math.log(hits / mean) - hits + mean))


def is_worse(own: Tally, others: Tally) -> bool:
    """True if ``own`` has so many hits that chance is no explanation.

    At least ``HITS_MIN``, ``TIMES_WORSE_MIN`` times the share of the others, and a chance below ``FALSE_ALARM`` if the
    others' share (with one hit more than they had, so that "never" is not believed too soon) were this worker's too.
    """
    if own.hits < HITS_MIN or others.trials < OTHER_TRIALS_MIN:
        return False
    share = (others.hits + 1.0) / (others.trials + 2.0)
    mean = own.trials * share
    return own.hits >= TIMES_WORSE_MIN * mean and tail_bound(own.hits, mean) < FALSE_ALARM


class Comparison:
    """The tallies of every worker, and their sum."""

    def __init__(self) -> None:
        self._own: dict[str, Tally] = {}
        self._all = Tally()

    def add(self, name: str, trials: float, hits: float) -> Tally:
        own = self._own.get(name)
        if own is None:
            own = self._own[name] = Tally()
        own.trials += trials
        self._all.trials += trials
        if hits:
            own.hits += hits
            self._all.hits += hits
        if own.trials > MEMORY_TRIALS:
            self._all.add(-own.trials / 2, -own.hits / 2)
            own.add(-own.trials / 2, -own.hits / 2)
        return own

    def own(self, name: str) -> Tally:
        return self._own.get(name) or Tally()

    def others(self, name: str) -> Tally:
        own = self.own(name)
        return Tally(max(0.0, self._all.trials - own.trials), max(0.0, self._all.hits - own.hits))

    def is_worse(self, name: str) -> bool:
        return is_worse(self.own(name), self.others(name))

    def reset(self, name: str) -> None:
        own = self._own.pop(name, None)
        if own is not None:
            self._all.add(-own.trials, -own.hits)
