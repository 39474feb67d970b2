"""What users write about a task: ``@pytest.mark.fleet(...)`` and the same keys in suite.toml, as values of the model.

Sizes are written and read here and nowhere else: B, KB, MB, GB, TB are powers of 1000, KiB, MiB, GiB, TiB of 1024.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleetest.core.model import NO_REQUIREMENTS, Constraint, Operator, Requirements, TaskId

_SIZE_UNITS = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?b|b)\s*", re.IGNORECASE)
_NUMBER = re.compile(r"\s*\d+(?:\.\d+)?\s*")
_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h)?\s*")
_DURATION_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, None: 1.0}
_NAME = re.compile(r"[a-z][a-z0-9_-]*(?:\.[a-z0-9_-]+)*")
_CONSTRAINT = re.compile(r"\s*(?P<name>[^<>=!~\s]*)\s*(?P<operator>[<>=!~]+)?\s*(?P<value>.*?)\s*", re.DOTALL)
_OPERATORS = {operator.value: operator for operator in Operator} | {"==": Operator.EQ}
_ORDERED = re.compile(r"v?\d+(?:\.\d+)*.*")

KEYS = (
    "cpus",
    "gpus",
    "memory",
    "resources",
    "requires",
    "priority",
    "timeout",
    "retries",
    "lock",
    "group",
    "alone",
)


class RequirementError(ValueError):
    """The user's requirement cannot be understood; one line that says what, where and what would be right."""


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Everything a mark or a suite.toml entry says of one task; None where it says nothing."""

    requirements: Requirements = NO_REQUIREMENTS
    priority: int | None = None
    timeout_s: float | None = None
    retries: int | None = None
    group: str | None = None
    depends_on: tuple[TaskId, ...] = ()


def parse_size(text: str | float) -> int:
    """Bytes of ``"8GiB"``, ``"500 MB"`` or a plain number of bytes. Raises RequirementError."""
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise RequirementError(f'a size is a number of bytes or text such as "8GiB", not {text!r}')
    if not isinstance(text, str):
        if not math.isfinite(text) or text < 0:
            raise RequirementError(f"a size cannot be {text!r}")
        return int(text)
    if _NUMBER.fullmatch(text):
        return int(float(text))
    match = _SIZE.fullmatch(text)
    if match is None:
        raise RequirementError(f'{text!r} is not a size; write for example "8GiB" (2^30) or "8GB" (10^9)')
    return int(float(match[1]) * _SIZE_UNITS[match[2].lower()])


def format_size(size_bytes: float) -> str:
    """Bytes for people: ``8 GiB``, ``1.5 MiB``, ``900 B``. ``parse_size`` reads it back, rounded to two decimals."""
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if abs(size_bytes) >= _SIZE_UNITS[unit.lower()]:
            return f"{size_bytes / _SIZE_UNITS[unit.lower()]:.2f}".rstrip("0").rstrip(".") + f" {unit}"
    return f"{size_bytes:.0f} B"


def parse_duration(value: object) -> float:
    """Seconds of ``90``, ``"90s"``, ``"5m"``, ``"1.5h"`` or ``"200ms"``. Raises RequirementError."""
    seconds: float | None = None
    if isinstance(value, int | float) and not isinstance(value, bool):
        seconds = float(value)
    elif isinstance(value, str) and (match := _DURATION.fullmatch(value)):
        seconds = float(match[1]) * _DURATION_UNITS[match[2]]
    if seconds is None or not math.isfinite(seconds) or seconds <= 0:
        raise RequirementError(f'{value!r} is not a duration; write seconds above 0 or text such as "90s" or "5m"')
    return seconds


def parse_requires(text: object) -> tuple[Constraint, ...]:
    """Constraints of ``"cuda>=12, os=linux, gpu.memory>=16GiB"``. Raises RequirementError with the position."""
    if not isinstance(text, str):
        raise RequirementError(f'requires= is text such as "cuda>=12, os=linux", not {text!r}')
    if not text.strip():
        return ()
    constraints = []
    position = 0
    for part in text.split(","):
        start = position + len(part) - len(part.lstrip())
        try:
            constraints.append(_parse_constraint(part))
        except RequirementError as error:
            raise RequirementError(f"requires={text!r}: at character {start + 1}: {error}") from None
        position += len(part) + 1
    return tuple(dict.fromkeys(constraints))


def _parse_constraint(text: str) -> Constraint:
    if not text.strip():
        raise RequirementError("nothing between the commas; remove one comma")
    match = _CONSTRAINT.fullmatch(text)
    if match is None:  # pragma: no cover - every part of the expression may be empty
        raise RequirementError(f'{text.strip()!r} is not a constraint; write "name>=value"')
    name, sign, value = match["name"].lower(), match["operator"], match["value"]
    if sign is None:
        hint = f' (did you mean "{name}={value}"?)' if value else ""
        raise RequirementError(f'{text.strip()!r} has no comparison{hint}; write for example "cuda>=12" or "os=linux"')
    if sign not in _OPERATORS:
        raise RequirementError(f"{sign!r} is not a comparison; use one of =, !=, >=, >, <=, <")
    if not _NAME.fullmatch(name):
        raise RequirementError(f'{match["name"]!r} is not a name; names look like "cuda" or "gpu.memory"')
    if not value:
        raise RequirementError(f'{text.strip()!r} has no value; write for example "{name}{sign}12"')
    operator = _OPERATORS[sign]
    if operator not in (Operator.EQ, Operator.NE) and not (_ORDERED.fullmatch(value)):
        raise RequirementError(
            f'{value!r} cannot be ordered with {sign!r}; compare with a version ("12.4"), a number or a size ("16GiB"),'
            f' or write "{name}={value}"'
        )
    return Constraint(name, operator, value)


def parse_options(options: Mapping[str, object], *, with_dependencies: bool = False) -> TaskOptions:
    """Options of one task from keyword arguments or a table of suite.toml.

    ``with_dependencies`` allows ``depends_on`` (suite.toml only). Raises RequirementError.
    """
    known = (*KEYS, "depends_on") if with_dependencies else KEYS
    for key in options:
        if key not in known:
            raise RequirementError(_unknown_key(str(key), known))
    group = options.get("group")
    if group is not None and (not isinstance(group, str) or not group):
        raise RequirementError(f'group= is a name such as "database", not {group!r}')
    timeout = options.get("timeout")
    return TaskOptions(
        requirements=Requirements(
            resources=_parse_resources(options),
            constraints=parse_requires(options.get("requires") or ""),
            locks=_parse_names("lock", options.get("lock")),
            alone=_parse_alone(options.get("alone", False)),
        ),
        priority=_parse_integer("priority", options.get("priority"), minimum=None),
        timeout_s=None if timeout is None else _under("timeout", timeout),
        retries=_parse_integer("retries", options.get("retries"), minimum=0),
        group=group,
        depends_on=tuple(TaskId(name) for name in _parse_names("depends_on", options.get("depends_on"), keep=True)),
    )


def parse_marks(marks: Sequence[tuple[Sequence[object], Mapping[str, object]]]) -> TaskOptions:
    """Options of the ``fleet`` marks of one test as (args, kwargs), closest first.

    The closest mark that has a key decides it; ``requires`` of all of them must hold together. Raises RequirementError.
    """
    options: dict[str, object] = {}
    requires: list[str] = []
    for args, kwargs in marks:
        if args:
            raise RequirementError(f"fleet({args[0]!r}) has no name; write keyword arguments such as fleet(gpus=1)")
        for key, value in kwargs.items():
            options.setdefault(key, value)
        if kwargs.get("requires"):
            parse_requires(kwargs["requires"])
            requires.append(str(kwargs["requires"]))
    if requires:
        options["requires"] = ", ".join(requires)
    return parse_options(options)


def merge_requirements(first: Requirements, second: Requirements) -> Requirements:
    """What one runner needs that executes both: all constraints and locks, the larger amount of each resource."""
    if first == second:
        return first
    resources = dict(first.resources)
    for name, amount in second.resources:
        resources[name] = max(amount, resources.get(name, 0.0))
    return Requirements(
        resources=tuple(sorted(resources.items())),
        constraints=tuple(dict.fromkeys(first.constraints + second.constraints)),
        locks=tuple(sorted({*first.locks, *second.locks})),
        alone=first.alone or second.alone,
        prefers=tuple(dict.fromkeys(first.prefers + second.prefers)),
        workers=max(first.workers, second.workers),
    )


def _unknown_key(key: str, known: Sequence[str]) -> str:
    if key == "depends_on":
        return "depends_on= is for suite.toml; a pytest test cannot depend on another one"
    close = difflib.get_close_matches(key.lower(), known, n=1)
    aliases = {"mem": "memory", "locks": "lock", "requirements": "requires", "gpu": "gpus", "cpu": "cpus"}
    guess = aliases.get(key.lower()) or (close[0] if close else None)
    hint = f"did you mean {guess!r}?" if guess else "known are " + ", ".join(known)
    return f"unknown key {key!r}; {hint}"


def _under(key: str, value: object) -> float:
    try:
        return parse_duration(value)
    except RequirementError as error:
        raise RequirementError(f"{key}=: {error}") from None


def _parse_resources(options: Mapping[str, object]) -> tuple[tuple[str, float], ...]:
    resources: dict[str, float] = {}
    named = options.get("resources")
    if named is not None:
        if not isinstance(named, Mapping):
            raise RequirementError(f'resources= is a table such as {{"licence": 1}}, not {named!r}')
        for name, amount in named.items():
            if not isinstance(name, str) or not _NAME.fullmatch(name.lower()):
                raise RequirementError(f'resources=: {name!r} is not a name; names look like "licence"')
            resources[name.lower()] = _parse_amount(f"resources[{name!r}]", amount)
    for name in ("cpus", "gpus"):
        if options.get(name) is not None:
            resources[name] = _parse_amount(name, options[name])
    if options.get("memory") is not None:
        try:
            resources["memory"] = float(parse_size(options["memory"]))  # type: ignore[arg-type]
        except RequirementError as error:
            raise RequirementError(f"memory=: {error}") from None
    return tuple(sorted((name, amount) for name, amount in resources.items() if amount > 0))


def _parse_amount(key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise RequirementError(f"{key}= is a number of at least 0, not {value!r}")
    return float(value)


def _parse_integer(key: str, value: object, *, minimum: int | None) -> int | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or (minimum is not None and value < minimum):
        bound = "" if minimum is None else f" of at least {minimum}"
        raise RequirementError(f"{key}= is a whole number{bound}, not {value!r}")
    return value


def _parse_names(key: str, value: object, *, keep: bool = False) -> tuple[str, ...]:
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) and name for name in names):
        raise RequirementError(f'{key}= is a name or a list of names such as ["db"], not {value!r}')
    return tuple(dict.fromkeys(names)) if keep else tuple(sorted(set(names)))


def _parse_alone(value: object) -> bool:
    if not isinstance(value, bool):
        raise RequirementError(f"alone= is True or False, not {value!r}")
    return value
