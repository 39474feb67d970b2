"""The fleet and the needs of tests as a user describes them for a simulation, in TOML or as ``5x8``.

```toml
[[worker]]
name = "lab"            # lab-1, lab-2, ... if there are several
count = 4
slots = 8
speed = 1.0             # 2: tests take half of their time
resources = { gpus = 1, memory = "64GiB" }
attributes = { os = "linux", cuda = ["12.4"] }

[[test]]
match = "tests/gpu/*"   # shell pattern on test ids; the first table that matches decides
gpus = 1                # the keys of @pytest.mark.fleet
requires = "cuda>=12"
```
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from fnmatch import fnmatchcase
from typing import Any

from fleetest.core.model import Capabilities, TaskSpec
from fleetest.core.quantities import RequirementError, parse_size
from fleetest.core.requirements import TaskOptions, parse_options
from fleetest.errors import UserError
from fleetest.simulation.what_if import Crash, Machine

SLOTS_MAX = 100_000
_WORKER_KEYS = ("name", "count", "slots", "speed", "resources", "attributes")
_SHORT = re.compile(r"(\d+)x(\d+)(?:@(\d+(?:\.\d+)?))?")
_CRASH = re.compile(r"(.+)@(\d+(?:\.\d+)?)s?")


@dataclass(frozen=True, slots=True)
class FleetDescription:
    machines: tuple[Machine, ...]
    needs: tuple[tuple[str, TaskOptions], ...] = ()
    """Pattern of test ids and what such tests need."""

    def apply(self, tests: Sequence[TaskSpec]) -> list[TaskSpec]:
        """The tests with what they need. A group that is kept together is not known here."""
        return [self._with_needs(test) for test in tests] if self.needs else list(tests)

    def _with_needs(self, test: TaskSpec) -> TaskSpec:
        for pattern, options in self.needs:
            if fnmatchcase(test.task_id, pattern):
                return replace(
                    test,
                    requirements=options.requirements,
                    priority=options.priority or 0,
                    group=options.group or test.group,
                    keep_together=options.group is not None,
                )
        return test


def parse_fleet(document: Mapping[str, Any], source: str) -> FleetDescription:
    """A TOML document. Raises UserError: one line with the source, the place, and what would be right."""
    for key in document:
        if key not in ("worker", "test"):
            raise UserError(f"{source}: {key}: unknown; a fleet has [[worker]] and [[test]] tables")
    machines: list[Machine] = []
    for number, table in enumerate(_tables(document, "worker", source), 1):
        machines += _machines(table, f"{source}: worker {number}")
    if not machines:
        raise UserError(f"{source}: has no [[worker]] table, so there is nothing to run tests on")
    needs = []
    for number, table in enumerate(_tables(document, "test", source), 1):
        place = f"{source}: test {number}"
        pattern = table.get("match")
        if not isinstance(pattern, str) or not pattern:
            raise UserError(f'{place}: match: must be a pattern of test ids such as "tests/gpu/*"')
        try:
            needs.append((pattern, parse_options({key: value for key, value in table.items() if key != "match"})))
        except RequirementError as error:
            raise UserError(f"{place}: {error}") from None
    return FleetDescription(_checked(machines, source), tuple(needs))


def parse_workers(texts: Sequence[str]) -> FleetDescription:
    """``5x8`` is five workers of eight slots, ``1x8@0.5`` one at half the speed. Raises UserError."""
    machines: list[Machine] = []
    for text in texts:
        match = _SHORT.fullmatch(text)
        if match is None or not int(match[1]) or not int(match[2]) or (match[3] and not float(match[3])):
            raise UserError(f'--workers {text!r}: write workers x slots such as "5x8", or "5x8@0.5" for half the speed')
        count, slots, speed = int(match[1]), int(match[2]), float(match[3] or 1)
        if count * slots > SLOTS_MAX:
            raise UserError(f"--workers {text!r}: at most {SLOTS_MAX} slots can be simulated")
        first = len(machines) + 1
        machines += [Machine(f"worker-{number}", slots, speed) for number in range(first, first + count)]
    return FleetDescription(_checked(machines, "--workers"))


def parse_crash(text: str, machines: Sequence[Machine]) -> Crash:
    """``worker-2@30`` dies 30 seconds after the start. Raises UserError."""
    match = _CRASH.fullmatch(text)
    if match is None:
        raise UserError(f'--crash {text!r}: write worker@seconds such as "{machines[0].name}@30"')
    names = [machine.name for machine in machines]
    if match[1] not in names:
        close = get_close_matches(match[1], names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; there are {names[0]!r} to {names[-1]!r}"
        raise UserError(f"--crash {text!r}: no worker is called {match[1]!r}{hint}")
    return Crash(match[1], float(match[2]))


def _tables(document: Mapping[str, Any], key: str, source: str) -> list[Mapping[str, Any]]:
    tables = document.get(key, [])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise UserError(f"{source}: {key}: write [[{key}]] tables")
    return tables


def _machines(table: Mapping[str, Any], place: str) -> list[Machine]:
    for key in table:
        if key not in _WORKER_KEYS:
            close = get_close_matches(key, _WORKER_KEYS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else "known are " + ", ".join(_WORKER_KEYS)
            raise UserError(f"{place}: unknown key {key!r}; {hint}")
    name = table.get("name", "worker")
    if not isinstance(name, str) or not name or len(name) > 200:
        raise UserError(f"{place}: name: must be a text")
    count, slots = _whole(table, "count", place, 1), _whole(table, "slots", place, None)
    if count * slots > SLOTS_MAX:
        raise UserError(f"{place}: at most {SLOTS_MAX} slots can be simulated")
    speed = table.get("speed", 1.0)
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0 < speed < math.inf:
        raise UserError(f"{place}: speed: must be a number above 0, such as 0.5 for a machine half as fast")
    capabilities = Capabilities(_attributes(table, place), _resources(table, place))
    names = [name] if count == 1 else [f"{name}-{number}" for number in range(1, count + 1)]
    return [Machine(each, slots, float(speed), capabilities) for each in names]


def _whole(table: Mapping[str, Any], key: str, place: str, default: int | None) -> int:
    value = table.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise UserError(f"{place}: {key}: must be a whole number of at least 1")
    return value


def _attributes(table: Mapping[str, Any], place: str) -> dict[str, tuple[str, ...]]:
    given = table.get("attributes", {})
    if not isinstance(given, dict):
        raise UserError(f'{place}: attributes: must be a table such as {{ os = "linux" }}')
    found = {}
    for name, value in given.items():
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(text, str | int | float) for text in values):
            raise UserError(f"{place}: attributes: {name}: must be a text or a list of texts")
        found[name.lower()] = tuple(str(text) for text in values)
    return found


def _resources(table: Mapping[str, Any], place: str) -> dict[str, float]:
    given = table.get("resources", {})
    if not isinstance(given, dict):
        raise UserError(f"{place}: resources: must be a table such as {{ gpus = 1 }}")
    found = {}
    for name, value in given.items():
        try:
            found[name.lower()] = float(parse_size(value))
        except RequirementError as error:
            raise UserError(f"{place}: resources: {name}: {error}") from None
        if isinstance(value, float):
            found[name.lower()] = value
    return found


def _checked(machines: Sequence[Machine], source: str) -> tuple[Machine, ...]:
    names: set[str] = set()
    for machine in machines:
        if machine.name in names:
            raise UserError(f"{source}: two workers are called {machine.name!r}; give each a name of its own")
        names.add(machine.name)
    return tuple(machines)
