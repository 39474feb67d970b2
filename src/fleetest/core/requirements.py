"""What users write about a task: ``@pytest.mark.fleet(...)`` and the same keys of suite.toml, as model values."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fleetest.core.conditions import NAME, parse_conditions
from fleetest.core.model import NO_REQUIREMENTS, Requirements, TaskId
from fleetest.core.quantities import RequirementError, parse_duration, parse_size

WORKERS_PER_TASK_MAX = 1000

KEYS = (
    "cpus",
    "gpus",
    "memory",
    "resources",
    "requires",
    "prefer",
    "priority",
    "timeout",
    "retries",
    "backoff",
    "hedge",
    "lock",
    "group",
    "alone",
    "workers",
    "each",
)


@dataclass(frozen=True, slots=True)
class TaskOptions:
    """Everything a mark or a suite.toml entry says of one task; None where it says nothing."""

    requirements: Requirements = NO_REQUIREMENTS
    priority: int | None = None
    timeout_s: float | None = None
    retries: int | None = None
    backoff_s: float | None = None
    hedge: bool | None = None
    group: str | None = None
    each: str | None = None
    depends_on: tuple[TaskId, ...] = ()


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
    return TaskOptions(
        requirements=Requirements(
            resources=_parse_resources(options),
            constraints=parse_conditions(options.get("requires") or ""),
            locks=_parse_names("lock", options.get("lock")),
            alone=_parse_flag("alone", options.get("alone")) or False,
            prefers=parse_conditions(options.get("prefer") or "", "prefer"),
            workers=_parse_workers(options.get("workers")),
        ),
        priority=_parse_integer("priority", options.get("priority"), minimum=None),
        timeout_s=_parse_duration("timeout", options.get("timeout")),
        retries=_parse_integer("retries", options.get("retries"), minimum=0),
        backoff_s=_parse_duration("backoff", options.get("backoff"), zero=True),
        hedge=_parse_flag("hedge", options.get("hedge")),
        group=group,
        each=parse_each(options.get("each")),
        depends_on=tuple(TaskId(name) for name in _parse_names("depends_on", options.get("depends_on"), keep=True)),
    )


def parse_marks(marks: Sequence[tuple[Sequence[object], Mapping[str, object]]]) -> TaskOptions:
    """Options of the ``fleet`` marks of one test as (args, kwargs), closest first.

    The closest mark that has a key decides it; ``requires`` of all of them must hold together, and every ``prefer``
    counts. Raises RequirementError.
    """
    options: dict[str, object] = {}
    texts: dict[str, list[str]] = {"requires": [], "prefer": []}
    for args, kwargs in marks:
        if args:
            raise RequirementError(f"fleet({args[0]!r}) has no name; write keyword arguments such as fleet(gpus=1)")
        for key, value in kwargs.items():
            options.setdefault(key, value)
            if key in texts and value:
                parse_conditions(value, key)
                texts[key].append(str(value))
    options |= {key: ", ".join(parts) for key, parts in texts.items() if parts}
    return parse_options(options)


def parse_each(value: object) -> str | None:
    """The name of a capability, in lower case; None for None. Raises RequirementError."""
    if value is None:
        return None
    if not isinstance(value, str) or not NAME.fullmatch(value.lower()):
        raise RequirementError(f'each= is the name of a capability such as "python" or "gpu.model", not {value!r}')
    return value.lower()


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


def _parse_duration(key: str, value: object, *, zero: bool = False) -> float | None:
    if value is None:
        return None
    try:
        return parse_duration(value, zero=zero)
    except RequirementError as error:
        raise RequirementError(f"{key}=: {error}") from None


def _parse_resources(options: Mapping[str, object]) -> tuple[tuple[str, float], ...]:
    resources: dict[str, float] = {}
    named = options.get("resources")
    if named is not None:
        if not isinstance(named, Mapping):
            raise RequirementError(f'resources= is a table such as {{"licence": 1}}, not {named!r}')
        for name, amount in named.items():
            if not isinstance(name, str) or not NAME.fullmatch(name.lower()):
                raise RequirementError(f'resources=: {name!r} is not a name; names look like "licence"')
            resources[name.lower()] = _parse_amount(f"resources[{name!r}]", amount)
    for name in ("cpus", "gpus"):
        if options.get(name) is not None:
            resources[name] = _parse_amount(name, options[name])
    if options.get("memory") is not None:
        try:
            resources["memory"] = float(parse_size(options["memory"]))
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


def _parse_flag(key: str, value: object) -> bool | None:
    if value is not None and not isinstance(value, bool):
        raise RequirementError(f"{key}= is True or False, not {value!r}")
    return value


def _parse_workers(value: object) -> int:
    workers = _parse_integer("workers", value, minimum=1)
    if workers is not None and workers > WORKERS_PER_TASK_MAX:
        raise RequirementError(f"workers= is at most {WORKERS_PER_TASK_MAX}, not {workers}")
    return 1 if workers is None else workers
