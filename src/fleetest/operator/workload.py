"""What a simulation takes from a coordinator: its workers as machines, and a run as a suite."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from fleetest.core.model import (
    NO_REQUIREMENTS,
    AnyOf,
    Capabilities,
    Condition,
    Constraint,
    Operator,
    Requirements,
    TaskId,
    TaskSpec,
)
from fleetest.operator.api_client import ApiClient
from fleetest.simulation.recorded_suite import RecordedTest
from fleetest.simulation.what_if import Machine

_OUT = ("draining", "quarantined")


@dataclass(frozen=True, slots=True)
class LiveFleet:
    """``left_out`` are the workers that take no work, with their states; ``speeds`` are of all."""

    machines: tuple[Machine, ...]
    left_out: Mapping[str, str]
    speeds: Mapping[str, float]


def live_fleet(client: ApiClient) -> LiveFleet:
    """Every worker that is there, as fast as it was measured. Raises UserError."""
    workers = list(client.pages("workers"))
    machines = [
        Machine(
            worker["worker_id"],
            worker["slots"],
            worker["speed"],
            Capabilities({name: tuple(values) for name, values in worker["attributes"].items()}, worker["resources"]),
        )
        for worker in workers
        if worker["state"] not in _OUT
    ]
    left_out = {worker["worker_id"]: worker["state"] for worker in workers if worker["state"] in _OUT}
    return LiveFleet(tuple(machines), left_out, {worker["worker_id"]: worker["speed"] for worker in workers})


def recorded_tests(client: ApiClient, run_id: str) -> tuple[list[RecordedTest], bool]:
    """The tests of a run in the order of its plan, and whether the coordinator still knows what they need."""
    rows = list(client.pages("runs", run_id, "workload"))
    return [_test(row) for row in rows], all(row["needs"] is not None for row in rows)


def _test(row: Mapping[str, Any]) -> RecordedTest:
    spec = TaskSpec(
        TaskId(row["task_id"]),
        group=row["group"],
        keep_together=row["keep_together"],
        requirements=_requirements(row["needs"]) if row["needs"] is not None else NO_REQUIREMENTS,
        priority=row["priority"],
        expected_s=row["expected_s"],
    )
    return RecordedTest(spec, row["duration_s"], row["worker"] or "")


def _requirements(needs: Mapping[str, Any]) -> Requirements:
    return Requirements(
        resources=tuple(sorted(needs["resources"].items())),
        constraints=tuple(_conditions(needs["requires"])),
        locks=tuple(needs["locks"]),
        alone=needs["alone"],
        prefers=tuple(_conditions(needs["prefers"])),
        workers=needs["workers"],
    )


def _conditions(told: list[list[Mapping[str, str]]]) -> Iterator[Condition]:
    for alternatives in told:
        constraints = tuple(
            Constraint(each["name"], Operator(each["operator"]), each["value"]) for each in alternatives
        )
        yield constraints[0] if len(constraints) == 1 else AnyOf(constraints)
