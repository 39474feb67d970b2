"""One plan put together from what several workers could import, and what is then told of their collections."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fleetest.core.suite_planning import fingerprint_of, is_within
from fleetest.wire.messages import CollectionReports, SuitePlan
from fleetest.wire.portable_values import read_fields

Nodes = frozenset[str]
"""What a part is taken from: see ``core.suite_planning.PlanPart``."""


def join_plans(parts: Sequence[tuple[SuitePlan, Nodes]]) -> SuitePlan:
    """The first plan, and after it what each further one has within its nodes and those before it have not."""
    (first, _), *further = parts
    if not further:
        return first
    tasks, items, deselected = list(first.tasks), list(first.items), list(first.deselected)
    seen = {task.task_id for task in tasks}
    for plan, nodes in further:
        for task, item in zip(plan.tasks, plan.items, strict=True):
            if task.task_id not in seen and is_within(item.node_id, nodes):
                seen.add(task.task_id)
                tasks.append(task)
                items.append(item)
        deselected += [node_id for node_id in plan.deselected if is_within(node_id, nodes)]
    return msgspec.structs.replace(
        first,
        fingerprint=fingerprint_of(task.task_id for task in tasks),
        tasks=tasks,
        items=items,
        deselected=tuple(deselected),
    )


def join_reports(parts: Sequence[tuple[Sequence[CollectionReports], Nodes]]) -> list[CollectionReports]:
    """Each error and skip of a node as the one whose part it is saw it; the warnings are those of the first."""
    (first, _), *further = parts
    if not further:
        return list(first)
    told = []
    for number, (messages, nodes) in enumerate(parts):
        elsewhere = frozenset().union(*(others for _, others in parts[number + 1 :]))
        for message in messages:
            node_ids = [(report, str(read_fields(report).get("nodeid"))) for report in message.reports]
            reports = tuple(
                report
                for report, node_id in node_ids
                if is_within(node_id, nodes) and not is_within(node_id, elsewhere)
            )
            warnings = message.warnings if number == 0 else ()
            if reports or warnings:
                told.append(msgspec.structs.replace(message, reports=reports, warnings=warnings))
    return told
