"""``suite.toml``: commands and pytest targets as a submission. Every mistake in it is one line that names the place."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NoReturn

from fleetest.client.pytest_options import WAIT_FOR_WORKERS_S, read_wait
from fleetest.core.model import WEIGHT_MAX, WEIGHT_MIN, TaskId, TaskSpec
from fleetest.core.quantities import RequirementError
from fleetest.core.requirements import TaskOptions, parse_options
from fleetest.errors import UserError
from fleetest.wire.messages import CommandSpec, PytestSuite

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # type: ignore[import-not-found,unused-ignore]

_TOP_KEYS = ("name", "weight", "wait_for_workers", "defaults", "command", "pytest")
_POLICY_KEYS = ("timeout", "retries", "backoff", "hedge", "priority", "each")
_REQUIREMENT_KEYS = ("gpus", "cpus", "memory", "resources", "requires", "prefer", "lock", "alone", "group", "workers")
_EVERY_KIND_KEYS = ("cwd", "env", *_POLICY_KEYS)
_COMMAND_DEFAULT_KEYS = (*_EVERY_KIND_KEYS, *_REQUIREMENT_KEYS, "expected_exit_status", "artifacts")
_COMMAND_KEYS = ("name", "argv", "command", "depends_on", *_COMMAND_DEFAULT_KEYS)
_PYTEST_DEFAULT_KEYS = (*_EVERY_KIND_KEYS, "python", "start_method")
_PYTEST_KEYS = ("name", "args", *_PYTEST_DEFAULT_KEYS)
_DEFAULTS_KEYS = tuple(dict.fromkeys((*_COMMAND_DEFAULT_KEYS, *_PYTEST_DEFAULT_KEYS)))
_START_METHODS = ("auto", "fork", "spawn")
_SHELL_WORDS = frozenset({"&&", "||", "|", ";", "&", ">", ">>", "<", "2>", "2>&1", "&>"})


@dataclass(frozen=True, slots=True)
class SuiteFile:
    """A checked suite file. ``commands`` and ``tasks`` are parallel; ``targets`` are collected by workers."""

    path: Path
    name: str
    commands: tuple[CommandSpec, ...]
    tasks: tuple[TaskSpec, ...]
    targets: tuple[PytestSuite, ...]
    weight: float = 1.0
    """Its part of a shared fleet."""
    wait_for_workers_s: float | None = WAIT_FOR_WORKERS_S
    """How long work that no known worker can do waits for one; None: for ever."""


def load_suite(path: Path, *, check_directories: bool = True) -> SuiteFile:
    """Read and check the file. Raises UserError: one line with the file, the place, what is wrong, what is right.

    ``check_directories``: ``cwd`` must exist on this machine (it is enough that it exists on the workers of a fleet).
    """
    document = _read(path)
    top = _Table(path, "", document)
    top.refuse_unknown(_TOP_KEYS)
    if not document.get("command") and not document.get("pytest"):
        top.fail("has no [[command]] and no [[pytest]] table, so there is nothing to run")
    weight = document.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not WEIGHT_MIN <= weight <= WEIGHT_MAX:
        top.fail(f"weight is {weight!r}, must be a number from {WEIGHT_MIN:g} to {WEIGHT_MAX:g}")
    defaults = _Table(path, "[defaults]", top.table("defaults"))
    defaults.refuse_unknown(_DEFAULTS_KEYS)
    _check_defaults(defaults, check_directories)
    commands: list[CommandSpec] = []
    tasks: list[TaskSpec] = []
    names: dict[str, str] = {}
    for table in _tables(top, "command"):
        table = table.named(names)
        table.refuse_unknown(_COMMAND_KEYS)
        spec, task = _command(table.merged(defaults, _COMMAND_DEFAULT_KEYS), check_directories)
        commands.append(spec)
        tasks.append(task)
    targets: list[PytestSuite] = []
    for table in _tables(top, "pytest"):
        table = table.named(names)
        if "depends_on" in table.data:
            table.fail("depends_on: only a [[command]] can depend on something, a [[pytest]] target cannot")
        table.refuse_unknown(_PYTEST_KEYS)
        targets.append(_target(table.merged(defaults, _PYTEST_DEFAULT_KEYS), check_directories))
    _check_dependencies(top, tasks, {target.name for target in targets})
    return SuiteFile(
        path=path,
        name=top.text("name", path.stem),
        commands=tuple(commands),
        tasks=tuple(tasks),
        targets=tuple(targets),
        weight=float(weight),
        wait_for_workers_s=top.wait("wait_for_workers"),
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = tomllib.loads(path.read_bytes().decode())
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not UTF-8 (byte {error.start}), which TOML must be") from None
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: is not TOML: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply") from None
    return document


def _command(table: _Table, check_directory: bool) -> tuple[CommandSpec, TaskSpec]:
    options = table.options((*_POLICY_KEYS, *_REQUIREMENT_KEYS))
    name = table.data["name"]
    spec = CommandSpec(
        name=name,
        argv=table.argv(),
        directory=table.directory(check_directory),
        environment=table.environment(),
        timeout_s=options.timeout_s,
        expected_exit_status=table.whole_number("expected_exit_status", 0, 0, 255),
        artifacts=table.patterns("artifacts"),
    )
    task = TaskSpec(
        task_id=TaskId(name),
        group=options.group or "",
        keep_together=bool(options.group),
        requirements=options.requirements,
        priority=options.priority or 0,
        timeout_s=options.timeout_s,
        retries=options.retries or 0,
        backoff_s=options.backoff_s or 0.0,
        hedge=options.hedge is not False,
        each=options.each or "",
        depends_on=tuple(TaskId(other) for other in table.texts("depends_on")),
    )
    return spec, task


def _target(table: _Table, check_directory: bool) -> PytestSuite:
    options = table.options(_POLICY_KEYS)
    start_method = table.text("start_method", "auto")
    if start_method not in _START_METHODS:
        table.fail(f"start_method: {start_method!r} must be one of {', '.join(_START_METHODS)}")
    python = table.text("python", "") or None
    if python is not None and "/" in python:
        python = str(Path(table.path.absolute().parent, python))
    return PytestSuite(
        name=table.data["name"],
        args=table.texts("args"),
        directory=table.directory(check_directory),
        python=python,
        environment=table.environment(),
        start_method=start_method,
        timeout_s=options.timeout_s,
        retries=options.retries or 0,
        priority=options.priority or 0,
        backoff_s=options.backoff_s or 0.0,
        hedge=options.hedge is not False,
        each=options.each or "",
    )


def _check_defaults(defaults: _Table, check_directory: bool) -> None:
    """A mistake in the defaults is reported once, there, and not at whatever inherits it."""
    defaults.options((*_POLICY_KEYS, *_REQUIREMENT_KEYS))
    defaults.directory(check_directory)
    defaults.environment()
    defaults.whole_number("expected_exit_status", 0, 0, 255)
    defaults.patterns("artifacts")
    defaults.text("python", "")
    defaults.text("start_method", "")


def _tables(top: _Table, key: str) -> list[_Table]:
    value = top.data.get(key, [])
    if isinstance(value, dict):
        top.fail(f"[{key}] must be written [[{key}]], with two brackets: there may be several")
    if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
        top.fail(f"{key}: must be [[{key}]] tables, is {_kind(value)}")
    return [_Table(top.path, f"[[{key}]] number {number}", entry) for number, entry in enumerate(value, 1)]


def _check_dependencies(top: _Table, tasks: Sequence[TaskSpec], targets: set[str]) -> None:
    depends_on = {str(task.task_id): [str(name) for name in task.depends_on] for task in tasks}
    for name, needed in depends_on.items():
        for other in needed:
            if other in targets:
                top.fail(
                    f"[[command]] {name!r}: depends_on: {other!r} is a pytest target; "
                    "a command can only depend on commands"
                )
            if other not in depends_on:
                hint = _did_you_mean(other, depends_on)
                top.fail(f"[[command]] {name!r}: depends_on: there is no command {other!r}{hint}")
    cycle = find_cycle(depends_on)
    if cycle:
        top.fail(f"depends_on: these commands wait for each other: {' -> '.join(cycle)}")


def find_cycle(depends_on: Mapping[str, Iterable[str]]) -> list[str]:
    """A cycle as the names on it, the first one again at the end; empty if there is none."""
    finished: set[str] = set()
    for start in depends_on:
        # Names on the current path in order, each with the dependencies not looked at yet.
        path: dict[str, list[str]] = {} if start in finished else {start: list(depends_on[start])}
        while path:
            name = next(reversed(path))
            if not path[name]:
                finished.add(name)
                del path[name]
                continue
            other = path[name].pop()
            if other in path:
                names = list(path)
                return [*names[names.index(other) :], other]
            if other not in finished:
                path[other] = list(depends_on.get(other, ()))
    return []


class _Table:
    """One table of the file; its methods give checked values or fail with the place."""

    def __init__(self, path: Path, place: str, data: dict[str, Any]) -> None:
        self.path = path
        self.place = place
        self.data = data

    def fail(self, problem: str) -> NoReturn:
        place = f" {self.place}:" if self.place else ""
        raise UserError(f"{self.path}:{place} {problem}")

    def refuse_unknown(self, known: Sequence[str]) -> None:
        for key in self.data:
            if key not in known:
                hint = _did_you_mean(key, known) or f"; known are {', '.join(known)}"
                self.fail(f"unknown key {key!r}{hint}")

    def named(self, taken: dict[str, str]) -> _Table:
        """The same table with its checked, unique name in its place."""
        name = self.data.get("name")
        if name is None:
            self.fail("name is missing")
        if not isinstance(name, str) or not name.strip() or not name.isprintable() or "::" in name:
            self.fail(f"name: {name!r} must be a string of printable characters, not empty and without '::'")
        if name in taken:
            self.fail(f"name: {name!r} is the name of {taken[name]} already; names must differ")
        taken[name] = self.place
        return _Table(self.path, f"{self.place.partition(' ')[0]} {name!r}", self.data)

    def merged(self, defaults: _Table, keys: Sequence[str]) -> _Table:
        """With what the defaults say about ``keys``. ``env`` is merged by variable; requirements add up."""
        data = {key: defaults.data[key] for key in keys if key in defaults.data} | self.data
        if isinstance(self.data.get("env"), dict):
            data["env"] = {**defaults.data.get("env", {}), **self.data["env"]}
        for key in ("requires", "prefer"):
            texts = [table.data.get(key) for table in (defaults, self)]
            if key in keys and all(isinstance(text, str) and text.strip() for text in texts):
                data[key] = ", ".join(map(str, texts))
        return _Table(self.path, self.place, data)

    def table(self, key: str) -> dict[str, Any]:
        value = self.data.get(key, {})
        if not isinstance(value, dict):
            self.fail(f"{key}: must be a table, is {_kind(value)}")
        return value

    def text(self, key: str, default: str) -> str:
        value = self.data.get(key, default)
        if not isinstance(value, str):
            self.fail(f"{key}: must be a string, is {_kind(value)}")
        if "\0" in value:
            self.fail(f"{key}: must not contain a NUL character")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self.data.get(key, [])
        if not isinstance(value, list):
            self.fail(f'{key}: must be a list of strings such as ["a", "b"], is {_kind(value)}')
        for number, entry in enumerate(value, 1):
            if not isinstance(entry, str) or "\0" in entry:
                self.fail(f"{key}: entry {number} must be a string, is {_kind(entry)}")
        return tuple(value)

    def whole_number(self, key: str, default: int, least: int, most: int) -> int:
        value = self.data.get(key, default)
        if type(value) is not int or not least <= value <= most:
            self.fail(f"{key}: must be a whole number from {least} to {most}, is {_kind(value)}")
        return value

    def wait(self, key: str) -> float | None:
        try:
            return read_wait(key, self.data.get(key))
        except UserError as error:
            self.fail(str(error))

    def argv(self) -> tuple[str, ...]:
        if ("argv" in self.data) == ("command" in self.data):
            self.fail('needs exactly one of argv = ["program", "argument"] and command = "program argument"')
        if "argv" in self.data:
            argv = self.texts("argv")
        else:
            try:
                argv = tuple(shlex.split(self.text("command", "")))
            except ValueError as error:
                self.fail(f"command: {error}")
            for word in argv:
                if word in _SHELL_WORDS:
                    self.fail(f'command: {word!r} means nothing without a shell; use argv = ["sh", "-c", "..."]')
        if not argv or not argv[0]:
            self.fail("argv: the program to run is missing" if "argv" in self.data else "command: is empty")
        return argv

    def directory(self, must_exist: bool) -> str:
        directory = Path(self.path.absolute().parent, self.text("cwd", "."))
        if must_exist and not directory.is_dir():
            self.fail(f"cwd: there is no directory {directory}")
        return str(directory)

    def environment(self) -> dict[str, str]:
        variables = self.table("env")
        for name, value in variables.items():
            if not name or "=" in name or "\0" in name:
                self.fail(f"env: {name!r} cannot be the name of a variable")
            if not isinstance(value, str) or "\0" in value:
                self.fail(f"env.{name}: must be a string, is {_kind(value)}")
        return dict(variables)

    def patterns(self, key: str) -> tuple[str, ...]:
        patterns = self.texts(key)
        for pattern in patterns:
            if not pattern or Path(pattern).is_absolute() or ".." in Path(pattern).parts:
                self.fail(f"{key}: {pattern!r} must be a pattern inside cwd, such as 'out/*.log'")
        return patterns

    def options(self, keys: Sequence[str]) -> TaskOptions:
        given = {key: self.data[key] for key in keys if key in self.data}
        try:
            return parse_options(given)
        except RequirementError as error:
            self.fail(str(error))


def _kind(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _did_you_mean(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f", did you mean {close[0]!r}?" if close else ""
