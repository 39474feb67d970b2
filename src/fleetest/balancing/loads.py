"""Which workers have clearly more, and which clearly less to do than the others."""

from __future__ import annotations

from collections.abc import Mapping

from fleetest.core.entities import Worker

IMBALANCE = 1.25
"""More than the mean times this is overloaded, less than the mean divided by this is underutilised."""
IMBALANCE_MIN_S = 0.05
"""A smaller distance from the mean is nothing."""


def overloaded(loads_s: Mapping[Worker, float]) -> list[Worker]:
    """Workers far above the mean load, most loaded first. Loads are expected remaining seconds per slot."""
    mean_s = _mean(loads_s)
    bound_s = max(mean_s * IMBALANCE, mean_s + IMBALANCE_MIN_S)
    return sorted((worker for worker in loads_s if loads_s[worker] > bound_s), key=lambda worker: -loads_s[worker])


def underutilised(loads_s: Mapping[Worker, float]) -> list[Worker]:
    """Workers far below the mean load, least loaded first."""
    mean_s = _mean(loads_s)
    bound_s = min(mean_s / IMBALANCE, mean_s - IMBALANCE_MIN_S)
    return sorted((worker for worker in loads_s if loads_s[worker] < bound_s), key=lambda worker: loads_s[worker])


def _mean(loads_s: Mapping[Worker, float]) -> float:
    return sum(loads_s.values()) / max(1, len(loads_s))
