"""A suite as a run of the past recorded it, made into what a simulation plays."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from fleetest.core.model import TaskId, TaskSpec


@dataclass(frozen=True, slots=True)
class RecordedTest:
    """``spec.expected_s`` is the median of its last passed attempts, as on a typical machine; ``duration_s`` is what it
    took on its worker in this run, None: this run has none of it.
    """

    spec: TaskSpec
    duration_s: float | None
    worker: str
    """That it ran on; empty: none."""


def as_played(
    recorded: Iterable[RecordedTest], speeds: Mapping[str, float], *, by_median: bool
) -> tuple[list[TaskSpec], dict[TaskId, float], int]:
    """The tests in their order, seconds of each on a machine of speed 1, and how many are left out: of those nobody
    knows how long they take.

    ``speeds`` by worker: what ran on a slow one would have taken less elsewhere. Unknown workers have speed 1.
    """
    tests: list[TaskSpec] = []
    durations_s: dict[TaskId, float] = {}
    left_out = 0
    for test in recorded:
        task_id, median_s = test.spec.task_id, test.spec.expected_s
        own_s = test.duration_s
        if own_s is not None:
            own_s = max(0.0, own_s) * speeds.get(test.worker, 1.0)
        duration_s = median_s if own_s is None or (by_median and median_s is not None) else own_s
        if task_id in durations_s:
            continue
        if duration_s is None:
            left_out += 1
            continue
        durations_s[task_id] = duration_s
        group = test.spec.group or task_id.partition("::")[0]
        tests.append(replace(test.spec, group=group, expected_s=median_s if median_s is not None else duration_s))
    return tests, durations_s, left_out
