"""A task that is to run once on every distinct value of a capability, as one task for each of them.

The variants of ``t`` with ``each="python"`` are called ``t @ python=3.11.7``, ``t @ python=3.12.1``, demand that very
value, and share runners only with variants for the same value.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace

from fleetest.core.conditions import ANY_VALUE
from fleetest.core.matching import matches
from fleetest.core.model import VARIANT_SIGN, Capabilities, Constraint, Operator, Requirements, TaskId, TaskSpec

_IN_USE = {"python": "python.default"}
"""A worker may know of many interpreters; a test is for the one that really runs it there."""
_NUMBERS = re.compile(r"(\d+)")


def expand_each(tasks: Iterable[TaskSpec], workers: Collection[Capabilities]) -> list[TaskSpec]:
    """The same tasks in order, each one with ``each`` replaced by its variants.

    ``workers`` are the capabilities in the fleet. Values are those of workers that have all the rest of what the task
    needs. If none of these has any, the task stays one, and demands a worker with a value.
    """
    tasks = list(tasks)
    if not any(task.each for task in tasks):
        return tasks
    taken = {task.task_id for task in tasks}
    values: dict[tuple[str, Requirements], list[str]] = {}
    expanded: list[TaskSpec] = []
    variants_of: dict[TaskId, list[TaskSpec]] = {}
    for task in tasks:
        if not task.each:
            expanded.append(task)
            continue
        key = (task.each, task.requirements)
        if key not in values:
            values[key] = distinct_values(task.each, task.requirements, workers)
        variants = [_variant(task, value, taken) for value in values[key]] or [_waiting(task)]
        variants_of[task.task_id] = variants
        expanded += variants
    return [_with_dependencies(task, variants_of) for task in expanded]


def distinct_values(name: str, requirements: Requirements, workers: Iterable[Capabilities]) -> list[str]:
    """What the workers that fit have of ``name``, each value once, in natural order (``3.9`` before ``3.10``)."""
    found: dict[str, str] = {}
    name = _IN_USE.get(name, name)
    for capabilities in workers:
        if not matches(requirements, capabilities):
            continue
        values = capabilities.attributes.get(name, ())
        if not values and capabilities.resources.get(name, 0.0) > 0:
            values = (f"{capabilities.resources[name]:g}",)
        for value in values:
            found.setdefault(value.casefold(), value)
    return sorted(found.values(), key=_natural)


def _natural(value: str) -> list[tuple[int, int, str]]:
    parts = _NUMBERS.split(value.casefold())
    # A peer chooses these values: numbers of absurd length are compared as text.
    return [(0, int(part), "") if part.isdecimal() and len(part) < 300 else (1, 0, part) for part in parts if part]


def _variant(task: TaskSpec, value: str, taken: set[TaskId]) -> TaskSpec:
    variant = f"{task.each}={value}"
    task_id = first = TaskId(f"{task.task_id}{VARIANT_SIGN}{variant}")
    number = 1
    while task_id in taken:
        number += 1
        task_id = TaskId(f"{first}#{number}")
    taken.add(task_id)
    return replace(
        task,
        task_id=task_id,
        group=f"{task.group}{VARIANT_SIGN}{variant}" if task.group else "",
        requirements=_with(task.requirements, Constraint(_IN_USE.get(task.each, task.each), Operator.IS, value)),
        each="",
        variant=variant,
    )


def _waiting(task: TaskSpec) -> TaskSpec:
    any_value = Constraint(_IN_USE.get(task.each, task.each), Operator.EQ, ANY_VALUE)
    return replace(task, requirements=_with(task.requirements, any_value), each="")


def _with(requirements: Requirements, constraint: Constraint) -> Requirements:
    return replace(requirements, constraints=(*requirements.constraints, constraint))


def _with_dependencies(task: TaskSpec, variants_of: dict[TaskId, list[TaskSpec]]) -> TaskSpec:
    """A variant depends on the variants for its own value, where there are such; anything else on all variants."""
    if not variants_of or variants_of.keys().isdisjoint(task.depends_on):
        return task
    names: list[TaskId] = []
    for name in task.depends_on:
        variants: Sequence[TaskSpec] = variants_of.get(name, ())
        own = [variant for variant in variants if task.variant and variant.variant == task.variant]
        names += [variant.task_id for variant in own or variants] or [name]
    return replace(task, depends_on=tuple(names))
