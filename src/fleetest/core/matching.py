"""Does a worker have what a task needs? Conditions against attributes and resource totals.

A quantity on one side or both (``16GiB``, ``3.2GHz``): compared as amounts, a plain number beside a size being bytes;
quantities of different dimensions never match. A resource total: compared as a number. Else both start with digits:
compared as dotted versions, component by component (``12`` >= ``11.8``, ``7.10`` > ``7.5``). ``=`` on a version is a
prefix by components (``cuda=12`` holds for 12.4, not for 1.2 or 120); any other text is compared without case. One
value of a multi-valued attribute is enough, except for ``!=``, which holds if no value equals. ``*`` stands for any
value. What a worker does not have satisfies nothing but ``!=``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from fractions import Fraction
from typing import TypeVar

from fleetest.core.conditions import ANY_VALUE, format_condition
from fleetest.core.model import AnyOf, Capabilities, Condition, Constraint, Operator, Requirements
from fleetest.core.quantities import Dimension, Quantity, format_size, read_number, read_quantity

_VERSION = re.compile(r"v?(\d+(?:\.\d+)*)", re.IGNORECASE)
_Ordered = TypeVar("_Ordered", float, Fraction, tuple[int, ...])


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
        f"{describe_amount(name, amount)} (has {format_amount(name, capabilities.resources.get(name, 0.0))})"
        for name, amount in requirements.resources
        if capabilities.resources.get(name, 0.0) < amount
    ]
    for condition in requirements.constraints:
        if not holds(condition, capabilities):
            lacking.append(f"{format_condition(condition)} ({_what_it_has(condition, capabilities)})")
    return lacking


def distance(requirements: Requirements, capabilities: Capabilities) -> float:
    """How far such a worker is from what it lacks, to tell near misses apart: the sum of a number from 0 to 1 for each
    part that it lacks, 1 where amounts or versions say nothing."""
    # Not by sum(): compiled, it takes no floats where the total begins as an int.
    total = 0.0
    for name, amount in requirements.resources:
        owned = capabilities.resources.get(name, 0.0)
        if owned < amount:
            total += _gap(owned, amount)
    for condition in requirements.constraints:
        if not holds(condition, capabilities):
            alternatives = condition.alternatives if isinstance(condition, AnyOf) else (condition,)
            total += min([_constraint_gap(constraint, capabilities) for constraint in alternatives])
    return total


def _constraint_gap(constraint: Constraint, capabilities: Capabilities) -> float:
    values = list(capabilities.attributes.get(constraint.name, ()))
    if constraint.name in capabilities.resources:
        values.append(f"{capabilities.resources[constraint.name]:.15g}")
    want, want_quantity = _version(constraint.value), read_quantity(constraint.value)
    gaps = [1.0]
    for value in values:
        have_quantity = read_quantity(value)
        have_amount, want_amount = _amounts(value, have_quantity, constraint.value, want_quantity)
        if have_amount is not None and want_amount is not None:
            gaps.append(_gap(float(have_amount), float(want_amount)))
        elif have_quantity is None and want_quantity is None and want is not None and (have := _version(value)):
            gaps.append(_gap(_as_number(have), _as_number(want)))
    return min(gaps)


def _gap(have: float, want: float) -> float:
    return abs(want - have) / max(have, want, 1e-9)


def _as_number(version: tuple[int, ...]) -> float:
    """Nearly in the order of versions."""
    number = 0.0
    for place, part in enumerate(version[:4]):
        number += min(part, 10**6) / 1000.0**place
    return number


def describe_amount(name: str, amount: float) -> str:
    """``memory 8 GiB``, ``gpus 1``."""
    return f"{name} {format_amount(name, amount)}"


def describe(requirements: Requirements) -> str:
    """The requirements in one line, for people; ``nothing special`` if there are none."""
    parts: Iterable[str] = [
        *(describe_amount(name, amount) for name, amount in requirements.resources),
        *map(format_condition, requirements.constraints),
        *(f"lock {name}" for name in requirements.locks),
        *(["a worker of its own"] if requirements.alone else []),
        *([f"{requirements.workers} workers at once"] if requirements.workers > 1 else []),
    ]
    return ", ".join(parts) or "nothing special"


def format_amount(name: str, amount: float) -> str:
    """``8 GiB`` of memory, ``1`` of gpus."""
    return format_size(amount) if name.endswith("memory") else f"{amount:g}"


def _what_it_has(condition: Condition, capabilities: Capabilities) -> str:
    if isinstance(condition, Constraint):
        return _values_of(condition, capabilities)
    by_name = {constraint.name: constraint for constraint in condition.alternatives}
    owned = [name for name in by_name if name in capabilities.attributes or name in capabilities.resources]
    if len(by_name) > 1 and owned:
        return "; ".join(f"{name}: {_values_of(by_name[name], capabilities)}" for name in owned)
    return _values_of(condition.alternatives[0], capabilities)


def _values_of(constraint: Constraint, capabilities: Capabilities) -> str:
    name = constraint.name
    values = list(capabilities.attributes.get(name, ()))
    wanted = read_quantity(constraint.value)
    unlike = [value for value in values if _is_unlike(value, wanted, constraint)]
    if name in capabilities.resources:
        values.append(format_amount(name, capabilities.resources[name]))
        if wanted is not None and wanted.dimension is not Dimension.SIZE:
            unlike.append(values[-1])
    if not values:
        return "has none"
    text = f"has {', '.join(values)}"
    return text + (f", which cannot be compared with {constraint.value}" if unlike == values else "")


def _is_unlike(value: str, wanted: Quantity | None, constraint: Constraint) -> bool:
    have = read_quantity(value)
    if have is None and wanted is None:
        return False
    return _amounts(value, have, constraint.value, wanted)[0] is None


def _total_holds(operator: Operator, total: float, wanted: str) -> bool:
    if wanted == ANY_VALUE:
        return operator is Operator.EQ and total > 0
    if operator is Operator.IS:
        return f"{total:g}" == wanted
    quantity = read_quantity(wanted)
    if quantity is not None:
        return quantity.dimension is Dimension.SIZE and _compare(operator, total, float(quantity.amount))
    number = read_number(wanted)
    return number is not None and _compare(operator, total, float(number))


def _holds(operator: Operator, value: str, wanted: str) -> bool:
    if operator is Operator.IS:
        return value.casefold() == wanted.casefold()
    if wanted == ANY_VALUE:
        return operator is Operator.EQ
    have_quantity, want_quantity = read_quantity(value), read_quantity(wanted)
    if have_quantity is not None or want_quantity is not None:
        have_amount, want_amount = _amounts(value, have_quantity, wanted, want_quantity)
        if have_amount is None or want_amount is None:
            return operator is Operator.EQ and value.casefold() == wanted.casefold()
        return _compare(operator, have_amount, want_amount)
    if operator is Operator.EQ:
        return value.casefold() == wanted.casefold() or _is_version_prefix(wanted, value)
    have, want = _version(value), _version(wanted)
    if have is None or want is None:
        return False
    length = max(len(have), len(want))
    return _compare(operator, have + (0,) * (length - len(have)), want + (0,) * (length - len(want)))


def _amounts(
    value: str, have: Quantity | None, wanted: str, want: Quantity | None
) -> tuple[Fraction | None, Fraction | None]:
    """Both as amounts of the same dimension; None and None if they cannot be compared."""
    # Bytes may be written as a plain number; any other plain number beside a quantity lacks its unit.
    if have is None and want is not None and want.dimension is Dimension.SIZE:
        return read_number(value), want.amount
    if want is None and have is not None and have.dimension is Dimension.SIZE:
        return have.amount, read_number(wanted)
    if have is None or want is None or have.dimension is not want.dimension:
        return None, None
    return have.amount, want.amount


def _version(text: str) -> tuple[int, ...] | None:
    match = _VERSION.match(text.strip())
    # int() refuses thousands of digits; a peer's capability must not raise.
    return tuple(int(part[-300:]) for part in match[1].split(".")) if match else None


def _is_version_prefix(wanted: str, value: str) -> bool:
    if not _VERSION.fullmatch(wanted.strip()):
        return False
    have, want = _version(value), _version(wanted)
    return have is not None and want is not None and have[: len(want)] == want


def _compare(operator: Operator, have: _Ordered, want: _Ordered) -> bool:
    if operator is Operator.EQ:
        return have == want
    if operator is Operator.GE:
        return have >= want
    if operator is Operator.GT:
        return have > want
    if operator is Operator.LE:
        return have <= want
    return have < want
