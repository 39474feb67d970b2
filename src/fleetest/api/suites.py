"""Suites as people submit them over HTTP, and what the fleet makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, TypeAlias

import msgspec

from fleetest.core.model import TaskId, TaskSpec
from fleetest.core.quantities import RequirementError
from fleetest.core.requirements import parse_options
from fleetest.transport.problems import Problem
from fleetest.wire import messages as wire

Name = Annotated[str, msgspec.Meta(min_length=1, max_length=1000)]
Directory = Annotated[
    str, msgspec.Meta(min_length=1, max_length=4096, description="Absolute, on every worker.", pattern="^/")
]
Seconds = Annotated[float, msgspec.Meta(gt=0, le=1e8)]
Priority = Annotated[int, msgspec.Meta(ge=-1000, le=1000)]
Retries = Annotated[int, msgspec.Meta(ge=0, le=100)]


class PytestSuite(msgspec.Struct, forbid_unknown_fields=True, tag="pytest", tag_field="kind", kw_only=True):
    """pytest with these arguments in this directory."""

    directory: Directory
    name: Annotated[str, msgspec.Meta(max_length=1000)] = ""
    args: Annotated[list[str], msgspec.Meta(max_length=10_000)] = []
    python: Annotated[str, msgspec.Meta(max_length=4096, description="Interpreter; default: the worker's.")] | None = (
        None
    )
    environment: dict[str, str] = {}
    timeout_s: Seconds | None = None
    retries: Retries = 0
    priority: Priority = 0


class Command(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """One command line that is a test."""

    name: Name
    argv: Annotated[list[str], msgspec.Meta(min_length=1, max_length=10_000)]
    directory: Directory = "/"
    environment: dict[str, str] = {}
    timeout_s: Seconds | None = None
    expected_exit_status: Annotated[int, msgspec.Meta(ge=0, le=255)] = 0
    retries: Retries = 0
    priority: Priority = 0
    depends_on: list[str] = []
    """Names of commands of this suite that must pass first."""
    needs: dict[str, Any] = {}
    """What a ``[[command]]`` of a suite file says: gpus, memory, resources, requires, lock, alone, group, ..."""


class CommandSuite(msgspec.Struct, forbid_unknown_fields=True, tag="commands", tag_field="kind", kw_only=True):
    """Command lines; a command's exit status is its verdict."""

    commands: Annotated[list[Command], msgspec.Meta(min_length=1, max_length=100_000)]
    name: Annotated[str, msgspec.Meta(max_length=1000)] = ""


Suite: TypeAlias = PytestSuite | CommandSuite
_NO_OPTIONS = parse_options({})
_NOT_NEEDS = ("timeout", "retries", "priority", "depends_on")


def as_suites(suites: Sequence[Suite]) -> tuple[wire.Suite, ...]:
    """Raises Problem 422 that names the suite and the command."""
    return tuple(_pytest(suite) if isinstance(suite, PytestSuite) else _commands(suite) for suite in suites)


def _pytest(suite: PytestSuite) -> wire.PytestSuite:
    for text in (*suite.args, suite.directory, suite.python or ""):
        _refuse_nul(text, f"suite {suite.name!r}")
    _check_environment(suite.environment, f"suite {suite.name!r}")
    return wire.PytestSuite(
        name=suite.name,
        args=tuple(suite.args),
        directory=suite.directory,
        python=suite.python,
        environment=suite.environment,
        timeout_s=suite.timeout_s,
        retries=suite.retries,
        priority=suite.priority,
    )


def _commands(suite: CommandSuite) -> wire.CommandSuite:
    prefix = f"{suite.name}::" if suite.name else ""
    names = {command.name for command in suite.commands}
    specs, tasks = [], []
    for command in suite.commands:
        place = f"command {command.name[:100]!r}"
        if "::" in command.name or not command.name.isprintable():
            raise _bad(f"{place}: a name is printable and has no '::'")
        for text in (*command.argv, command.directory):
            _refuse_nul(text, place)
        if not command.argv[0]:
            raise _bad(f"{place}: argv begins with the program to run")
        _check_environment(command.environment, place)
        missing = [name for name in command.depends_on if name not in names]
        if missing:
            raise _bad(f"{place}: depends_on: this suite has no command {missing[0][:100]!r}")
        specs.append(_spec(command))
        tasks.append(_task(command, suite.name, prefix, place))
    _refuse_cycles(tasks)
    return wire.CommandSuite(name=suite.name, commands=tuple(specs), tasks=tuple(tasks))


def _spec(command: Command) -> wire.CommandSpec:
    return wire.CommandSpec(
        name=command.name,
        argv=tuple(command.argv),
        directory=command.directory,
        environment=command.environment,
        timeout_s=command.timeout_s,
        expected_exit_status=command.expected_exit_status,
    )


def _task(command: Command, suite: str, prefix: str, place: str) -> TaskSpec:
    for key in _NOT_NEEDS:
        if key in command.needs:
            raise _bad(f"{place}: needs: {key} stands beside it, not in it")
    try:
        options = parse_options(command.needs) if command.needs else _NO_OPTIONS
    except RequirementError as error:
        raise _bad(f"{place}: needs: {error}") from error
    return TaskSpec(
        task_id=TaskId(prefix + command.name),
        suite=suite,
        group=options.group or "",
        keep_together=bool(options.group),
        requirements=options.requirements,
        priority=command.priority,
        timeout_s=command.timeout_s,
        retries=command.retries,
        backoff_s=options.backoff_s or 0.0,
        hedge=options.hedge is not False,
        each=options.each or "",
        depends_on=tuple(TaskId(prefix + name) for name in command.depends_on),
    )


def _refuse_cycles(tasks: Sequence[TaskSpec]) -> None:
    waits_for = {task.task_id: len(task.depends_on) for task in tasks}
    dependants: dict[TaskId, list[TaskId]] = {}
    for task in tasks:
        for name in task.depends_on:
            dependants.setdefault(name, []).append(task.task_id)
    free = [task_id for task_id, count in waits_for.items() if not count]
    while free:
        task_id = free.pop()
        del waits_for[task_id]
        for other in dependants.get(task_id, ()):
            waits_for[other] -= 1
            if not waits_for[other]:
                free.append(other)
    if waits_for:
        raise _bad(f"depends_on: these commands wait for each other: {', '.join(list(waits_for)[:5])}")


def _check_environment(variables: dict[str, str], place: str) -> None:
    for name, value in variables.items():
        if not name or "=" in name or "\0" in name or "\0" in value:
            raise _bad(f"{place}: environment: {name[:100]!r} cannot be a variable")


def _refuse_nul(text: str, place: str) -> None:
    if "\0" in text:
        raise _bad(f"{place}: a NUL character")


def _bad(detail: str) -> Problem:
    return Problem(422, "bad_submission", detail)
