"""The language of ``requires`` and ``prefer``: ``cuda>=12 | rocm>=6, os=linux|darwin, gpu.memory>=16GiB``.

Comma means and, ``|`` means or and binds closer. An alternative without a comparison repeats name and comparison of the
one before it. ``*`` as the value stands for any value: ``cuda=*`` holds where there is a CUDA at all.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from fleetest.core.model import AnyOf, Condition, Constraint, Operator
from fleetest.core.quantities import RequirementError, read_quantity, unit_trouble

NAME = re.compile(r"[a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)*")
ANY_VALUE = "*"
_CONSTRAINT = re.compile(r"\s*(?P<name>[^<>=!~\s]*)\s*(?P<operator>[<>=!~]+)?\s*(?P<value>.*?)\s*", re.DOTALL)
_OPERATORS = {operator.value: operator for operator in Operator} | {"==": Operator.EQ}
_ORDERED = re.compile(r"v?\d+(?:\.\d+)*.*")
_UNORDERED = frozenset({Operator.EQ, Operator.NE, Operator.IS})


def parse_conditions(text: object, key: str = "requires") -> tuple[Condition, ...]:
    """Conditions of ``"cuda>=12 | rocm>=6, os=linux"``, each once. Raises RequirementError with the position."""
    if not isinstance(text, str):
        raise RequirementError(f'{key}= is text such as "cuda>=12, os=linux", not {text!r}')
    if not text.strip():
        return ()
    conditions: list[Condition] = []
    position = 0
    for part in text.split(","):
        alternatives: list[Constraint] = []
        for piece in part.split("|"):
            start = position + len(piece) - len(piece.lstrip())
            try:
                alternatives.append(_parse_alternative(piece, alternatives, "|" in part))
            except RequirementError as error:
                raise RequirementError(f"{key}={text!r}: at character {start + 1}: {error}") from None
            position += len(piece) + 1
        distinct = tuple(dict.fromkeys(alternatives))
        conditions.append(distinct[0] if len(distinct) == 1 else AnyOf(distinct))
    distinct_conditions = tuple(dict.fromkeys(conditions))
    contradiction = find_contradiction(distinct_conditions)
    if contradiction:
        raise RequirementError(f"{key}={text!r}: {contradiction}")
    return distinct_conditions


def find_contradiction(conditions: Iterable[Condition]) -> str:
    """Why no machine whatever can satisfy all of these; empty if one might.

    An attribute may have several values, so ``os=linux, os=darwin`` asks for both and is none; what one constraint
    demands and another one forbids is.
    """
    singles = [condition for condition in conditions if isinstance(condition, Constraint)]
    forbidden = {(one.name, one.value.casefold()) for one in singles if one.operator is Operator.NE}
    for one in singles:
        if one.operator in (Operator.EQ, Operator.IS) and (one.name, one.value.casefold()) in forbidden:
            return f"no machine has {format_condition(one)} and {one.name}!={one.value}; remove one of them"
        if one.operator is not Operator.NE and (one.name, ANY_VALUE) in forbidden:
            return f"no machine has {format_condition(one)} and no {one.name} at all; remove one of them"
    return ""


def format_condition(condition: Condition) -> str:
    """As it would be written: ``cuda>=12``, ``cuda>=12 | rocm>=6``."""
    if isinstance(condition, AnyOf):
        return " | ".join(map(format_condition, condition.alternatives))
    return f"{condition.name}{condition.operator.value}{condition.value}"


def format_conditions(conditions: Iterable[Condition]) -> str:
    """Text that ``parse_conditions`` reads back."""
    return ", ".join(map(format_condition, conditions))


def _parse_alternative(text: str, before: list[Constraint], is_one_of_several: bool) -> Constraint:
    if not text.strip():
        if is_one_of_several:
            raise RequirementError('nothing beside the "|"; write an alternative there or remove it')
        raise RequirementError("nothing between the commas; remove one comma")
    match = _CONSTRAINT.fullmatch(text)
    if match is None:  # pragma: no cover - every part of the expression may be empty
        raise RequirementError(f'{text.strip()!r} is not a constraint; write "name>=value"')
    name, sign, value = match["name"].lower(), match["operator"], " ".join(match["value"].split())
    if sign is None and before:
        return _alternative_to(before[-1], " ".join(text.split()))
    if sign is None:
        hint = f' (did you mean "{name}={value}"?)' if value else ""
        raise RequirementError(f'{text.strip()!r} has no comparison{hint}; write for example "cuda>=12" or "os=linux"')
    if sign not in _OPERATORS:
        raise RequirementError(f"{sign!r} is not a comparison; use one of =, !=, >=, >, <=, <")
    if not NAME.fullmatch(name):
        raise RequirementError(f'{match["name"]!r} is not a name; names look like "cuda" or "gpu.memory"')
    if not value:
        raise RequirementError(f'{text.strip()!r} has no value; write for example "{name}{sign}12"')
    constraint = _checked(name, _OPERATORS[sign], value)
    _refuse_always_true(constraint, before)
    return constraint


def _alternative_to(model: Constraint, value: str) -> Constraint:
    """``darwin`` after ``os=linux |``."""
    constraint = _checked(model.name, model.operator, value)
    _refuse_always_true(constraint, [model])
    return constraint


def _checked(name: str, operator: Operator, value: str) -> Constraint:
    if operator in _UNORDERED:
        trouble = "" if operator is Operator.IS else unit_trouble(value)
    elif value == ANY_VALUE:
        trouble = f'"*" stands for any value and has no order; write "{name}=*" or "{name}!=*"'
    elif not _ORDERED.fullmatch(value):
        trouble = (
            f"{value!r} cannot be ordered with {operator.value!r}; compare with a version ("
            f'"12.4"), a number or a quantity ("16GiB", "3.2GHz"), or write "{name}={value}"'
        )
    else:
        trouble = unit_trouble(value)
    if trouble:
        raise RequirementError(trouble)
    return Constraint(name, operator, value)


def _refuse_always_true(constraint: Constraint, before: list[Constraint]) -> None:
    """A machine always differs from one of two values."""
    for other in before:
        both_differ = constraint.operator is other.operator is Operator.NE
        if both_differ and other.name == constraint.name and not _same_value(other.value, constraint.value):
            name, first, second = constraint.name, other.value, constraint.value
            raise RequirementError(
                f"a machine with one {name} always satisfies {format_condition(other)} or"
                f' {format_condition(constraint)}; to forbid both, write "{name}!={first}, {name}!={second}"'
            )


def _same_value(first: str, second: str) -> bool:
    if first.casefold() == second.casefold():
        return True
    return read_quantity(first) is not None and read_quantity(first) == read_quantity(second)
