"""Does a worker have what a task needs? Constraints against attributes and resource totals.

Both sides sizes or one a number with a unit: compared as bytes. A resource total: compared as a number. Else both
start with digits: compared as dotted versions, component by component (``12`` >= ``11.8``, ``7.10`` > ``7.5``).
``=`` on a version is a prefix by components (``cuda=12`` holds for 12.4, not for 1.2 or 120); any other text is
compared without case. One value of a multi-valued attribute is enough, except for ``!=``, which holds if no value
equals. What a worker does not have satisfies nothing but ``!=``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fleetest.core.model import AnyOf, Capabilities, Condition, Constraint, Operator, Requirements
from fleetest.core.requirements import RequirementError, format_size, parse_size

_VERSION = re.compile(r"v?(\d+(?:\.\d+)*)", re.IGNORECASE)
_UNIT = re.compile(r"\s*\d+(?:\.\d+)?\s*(?:[kmgt]i?b|b)\s*", re.IGNORECASE)
_NUMBER = re.compile(r"\s*\d+(?:\.\d+)?\s*")


def constraint_holds(constraint: Constraint, capabilities: Capabilities) -> bool:
    """True if the worker with these capabilities satisfies the constraint."""
    operator = constraint.operator
    values = capabilities.attributes.get(constraint.name, ())
    total = capabilities.resources.get(constraint.name)
    if operator is Operator.NE:
        return not any(_holds(Operator.EQ, value, constraint.value) for value in values) and (
            total is None or not _total_holds(Operator.EQ, total, constraint.value)
        )
    if total is not None and _total_holds(operator, total, constraint.value):
        return True
    return any(_holds(operator, value, constraint.value) for value in values)


def holds(condition: Condition, capabilities: Capabilities) -> bool:
    """``constraint_holds`` for one constraint, or for any of several alternatives."""
    if isinstance(condition, AnyOf):
        return any(constraint_holds(constraint, capabilities) for constraint in condition.alternatives)
    return constraint_holds(condition, capabilities)


def matches(requirements: Requirements, capabilities: Capabilities) -> bool:
    """True if a worker with these capabilities, with nothing else on it, could run such a task."""
    return all(capabilities.resources.get(name, 0.0) >= amount for name, amount in requirements.resources) and all(
        holds(condition, capabilities) for condition in requirements.constraints
    )


def preference(requirements: Requirements, capabilities: Capabilities) -> float:
    """The share of the preferences that such a worker satisfies, from 0 to 1; 1 if there are none."""
    wishes = requirements.prefers
    return sum(holds(wish, capabilities) for wish in wishes) / len(wishes) if wishes else 1.0


def unmet(requirements: Requirements, capabilities: Capabilities) -> list[str]:
    """What is lacking, for people: ``cuda>=12 (has 11.8)``; empty if the requirements match."""
    lacking = [
        f"{describe_amount(name, amount)} (has {_amount(name, capabilities.resources.get(name, 0.0))})"
        for name, amount in requirements.resources
        if capabilities.resources.get(name, 0.0) < amount
    ]
    for condition in requirements.constraints:
        if not holds(condition, capabilities):
            lacking.append(f"{describe_condition(condition)} ({_what_it_has(condition, capabilities)})")
    return lacking


def describe_constraint(constraint: Constraint) -> str:
    return f"{constraint.name}{constraint.operator.value}{constraint.value}"


def describe_condition(condition: Condition) -> str:
    """As it would be written: ``cuda>=12``, ``cuda>=12 | rocm>=6``."""
    if isinstance(condition, AnyOf):
        return " | ".join(map(describe_constraint, condition.alternatives))
    return describe_constraint(condition)


def describe_amount(name: str, amount: float) -> str:
    """``memory 8 GiB``, ``gpus 1``."""
    return f"{name} {_amount(name, amount)}"


def describe(requirements: Requirements) -> str:
    """The requirements in one line, for people; ``nothing special`` if there are none."""
    parts: Iterable[str] = [
        *(describe_amount(name, amount) for name, amount in requirements.resources),
        *map(describe_condition, requirements.constraints),
        *(f"lock {name}" for name in requirements.locks),
        *(["a worker of its own"] if requirements.alone else []),
        *([f"{requirements.workers} workers at once"] if requirements.workers > 1 else []),
    ]
    return ", ".join(parts) or "nothing special"


def _amount(name: str, amount: float) -> str:
    return format_size(amount) if name.endswith("memory") else f"{amount:g}"


def _what_it_has(condition: Condition, capabilities: Capabilities) -> str:
    if isinstance(condition, AnyOf):
        names = dict.fromkeys(constraint.name for constraint in condition.alternatives)
        owned = [name for name in names if name in capabilities.attributes or name in capabilities.resources]
        if len(names) > 1 and owned:
            return "; ".join(f"{name}: {_values_of(name, capabilities)}" for name in owned)
        return _values_of(next(iter(names)), capabilities)
    return _values_of(condition.name, capabilities)


def _values_of(name: str, capabilities: Capabilities) -> str:
    values = list(capabilities.attributes.get(name, ()))
    if name in capabilities.resources:
        values.append(_amount(name, capabilities.resources[name]))
    return f"has {', '.join(values)}" if values else "has none"


def _total_holds(operator: Operator, total: float, wanted: str) -> bool:
    try:
        return _compare(operator, total, float(parse_size(wanted) if _UNIT.fullmatch(wanted) else wanted))
    except (RequirementError, ValueError):
        return False


def _holds(operator: Operator, value: str, wanted: str) -> bool:
    if _is_size(value) and _is_size(wanted) and (_UNIT.fullmatch(value) or _UNIT.fullmatch(wanted)):
        return _compare(operator, float(parse_size(value)), float(parse_size(wanted)))
    if operator is Operator.EQ:
        return value.casefold() == wanted.casefold() or _is_version_prefix(wanted, value)
    have, want = _version(value), _version(wanted)
    if have is None or want is None:
        return False
    length = max(len(have), len(want))
    return _compare(operator, have + (0,) * (length - len(have)), want + (0,) * (length - len(want)))


def _is_size(text: str) -> bool:
    return bool(_UNIT.fullmatch(text) or _NUMBER.fullmatch(text))


def _version(text: str) -> tuple[int, ...] | None:
    match = _VERSION.match(text.strip())
    # int() refuses thousands of digits; a peer's capability must not raise.
    return tuple(int(part[-300:]) for part in match[1].split(".")) if match else None


def _is_version_prefix(wanted: str, value: str) -> bool:
    if not _VERSION.fullmatch(wanted.strip()):
        return False
    have, want = _version(value), _version(wanted)
    return have is not None and want is not None and have[: len(want)] == want


def _compare(operator: Operator, have: float | tuple[int, ...], want: float | tuple[int, ...]) -> bool:
    if operator is Operator.EQ:
        return have == want
    if operator is Operator.GE:
        return have >= want  # type: ignore[operator]
    if operator is Operator.GT:
        return have > want  # type: ignore[operator]
    if operator is Operator.LE:
        return have <= want  # type: ignore[operator]
    return have < want  # type: ignore[operator]
