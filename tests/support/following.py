"""Runs as a client sees them: what is submitted, what is heard of it, and waiting for that."""

from __future__ import annotations

import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from fleetest.client.background import BackgroundFleet, ClientLink
from fleetest.client.fleet import Fleet
from fleetest.core.model import RunId, TaskId, TaskSpec
from fleetest.core.requirements import parse_options
from fleetest.transport.websocket import connect_client
from fleetest.wire import messages as wire

PATIENCE_S = 60.0
"""A wait that is longer has failed; no test is faster or slower by it."""


@dataclass(frozen=True)
class Command:
    """One command that is a test, and its ``TaskSpec``."""

    spec: wire.CommandSpec
    task: TaskSpec


@dataclass(frozen=True)
class PytestTarget:
    """Arguments for pytest."""

    args: tuple[str, ...]


Work: TypeAlias = Command | PytestTarget


def command(
    name: str,
    argv: Sequence[str] | str,
    *,
    timeout_s: float | None = None,
    retries: int = 0,
    priority: int = 0,
    depends_on: Sequence[str] = (),
    hedge: bool = False,
    **needs: object,
) -> Command:
    """``argv`` as text is a Python program. ``needs`` as in a suite file: ``gpus=1``, ``requires="cuda>=12"``.

    It is not hedged unless asked for: whoever counts how often it ran would count that too.
    """
    line = (sys.executable, "-I", "-S", "-c", argv) if isinstance(argv, str) else tuple(argv)
    task = TaskSpec(
        TaskId(name),
        requirements=parse_options(needs).requirements,
        priority=priority,
        timeout_s=timeout_s,
        retries=retries,
        depends_on=tuple(TaskId(other) for other in depends_on),
        hedge=hedge,
    )
    return Command(wire.CommandSpec(name=name, argv=line, directory="", timeout_s=timeout_s), task)


def connect(url: str, token: str) -> Fleet:
    """A client link of its own, on a thread of its own; no pytest is needed for it."""

    @asynccontextmanager
    async def open_link(notices: list[str]) -> AsyncIterator[ClientLink]:
        link = await connect_client(url, token)
        try:
            yield link
        finally:
            await link.close()

    fleet = BackgroundFleet(open_link)
    fleet.wait_connected()
    return fleet


def submission(work: Sequence[Work], directory: Path) -> wire.SubmitRun:
    """All of it as one run in this directory."""
    suites: list[wire.Suite] = []
    commands = [item for item in work if isinstance(item, Command)]
    if commands:
        placed = [
            wire.CommandSpec(
                name=item.spec.name, argv=item.spec.argv, directory=str(directory), timeout_s=item.spec.timeout_s
            )
            for item in commands
        ]
        suites.append(wire.CommandSuite(commands=tuple(placed), tasks=tuple(item.task for item in commands)))
    for number, item in enumerate(item for item in work if isinstance(item, PytestTarget)):
        suites.append(wire.PytestSuite(name=f"pytest{number}", args=item.args, directory=str(directory)))
    return wire.SubmitRun(run_id=RunId(uuid.uuid4().hex), suites=tuple(suites), title="a test of the fleet")


class FollowedRun:
    """One run on its own client link."""

    def __init__(self, fleet: Fleet, run: wire.SubmitRun) -> None:
        self._fleet = fleet
        self._run = run
        self.run_id = run.run_id
        self.started: list[tuple[str, int, str]] = []
        """(task, attempt, worker), in the order in which it was heard."""
        self.outcomes: list[wire.Outcome] = []
        """Of every attempt, in the order in which it was heard."""
        self.failures: list[wire.SuiteFailed] = []
        self.counts: dict[str, int] | None = None
        """Set when the run is over."""

    def submit(self) -> None:
        self._fleet.submit(self._run)

    def leave(self) -> None:
        """The client goes away before the run is over."""
        self._fleet.close()

    def cancel(self, reason: str) -> None:
        self._fleet.cancel(reason, kill=True)

    @property
    def verdicts(self) -> dict[str, str]:
        """Final verdicts so far; two for one task are an error."""
        found: dict[str, str] = {}
        for outcome in self.outcomes:
            if outcome.is_final:
                assert outcome.task_id not in found, f"{outcome.task_id} has two verdicts"
                found[outcome.task_id] = outcome.verdict.value
        return found

    def outcome(self, name: str) -> wire.Outcome:
        """The final one."""
        return next(outcome for outcome in self.outcomes if outcome.is_final and outcome.task_id == name)

    def worker_of(self, name: str) -> str:
        """Where it was started last."""
        return next(worker for task, _, worker in reversed(self.started) if task == name)

    def wait_until(self, is_so: Callable[[], bool], what: str, timeout_s: float = PATIENCE_S) -> None:
        """Wait for news after which it is so. Raises AssertionError after ``timeout_s``."""
        give_up_at = time.monotonic() + timeout_s
        while not is_so():
            left_s = give_up_at - time.monotonic()
            if left_s <= 0:
                raise AssertionError(
                    f"not within {timeout_s:.0f} s: {what}; started {self.started}, verdicts {self.verdicts}"
                )
            for message in self._fleet.receive(left_s):
                self._take(message)

    def wait_for_start(self, *names: str) -> None:
        self.wait_until(lambda: {task for task, _, _ in self.started} >= set(names), f"{names} start")

    def wait_for_verdict(self, *names: str) -> None:
        self.wait_until(lambda: self.verdicts.keys() >= set(names), f"{names} have their verdicts")

    def wait_for_end(self) -> dict[str, str]:
        """The verdicts, when the run is over."""
        self.wait_until(lambda: self.counts is not None, "the run ends")
        return self.verdicts

    def _take(self, message: wire.CoordinatorToClient) -> None:
        if isinstance(message, wire.TasksStarted):
            self.started += [(str(task), attempt, worker) for task, attempt, worker, _ in message.tasks]
        elif isinstance(message, wire.TasksFinished):
            self.outcomes += message.outcomes
        elif isinstance(message, wire.SuiteFailed):
            self.failures.append(message)
        elif isinstance(message, wire.RunFinished):
            self.counts = message.counts
