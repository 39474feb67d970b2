"""The coordinator looks after itself: its disk, its history, its files. What it finds becomes an alert, and is over.

While its disk has too little room it takes no new runs, and the core starts nothing more of those that it has.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import Protocol

from fleetest.core import events
from fleetest.storage.slow_disk import ANSWER_WITHIN_S, DiskQuestion

LOOK_EVERY_S = 2.0
_log = logging.getLogger("fleetest.coordinator")


class Shell(Protocol):
    """The coordinator, as it is looked after."""

    takes_no_runs: str
    """Why it takes no new runs at the moment; empty if it does."""

    def apply(self, event: events.Event) -> None: ...


class SelfWatch:
    """Belongs to the coordinator's event loop: ``look`` before anything is served, then ``start``.

    Each of ``troubles``, by the cause of its alert, says what is wrong, in one line, or nothing. They are asked on
    threads, and one that does not answer is in trouble. ``no_room`` is the cause whose trouble stops new runs.
    """

    def __init__(self, shell: Shell, troubles: Mapping[str, Callable[[], str]], *, no_room: str) -> None:
        self._shell, self._no_room = shell, no_room
        self._troubles = {cause: DiskQuestion(ask) for cause, ask in troubles.items()}
        self._task: asyncio.Task[None] | None = None
        self._told: dict[str, bool] = {}

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._keep_looking())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def look(self) -> None:
        told = await asyncio.gather(*map(_answer, self._troubles.values()))
        found = dict(zip(self._troubles, told, strict=True))
        self._shell.takes_no_runs = found.get(self._no_room, "")
        for cause, trouble in found.items():
            # At first also what is well: an alert of an earlier coordinator may be over.
            if self._told.get(cause) is not bool(trouble):
                self._told[cause] = bool(trouble)
                self._shell.apply(events.CoordinatorChecked(cause, trouble))

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY_S)
            try:
                await self.look()
            except Exception:
                _log.exception("the coordinator could not look after itself")


async def _answer(question: DiskQuestion[str]) -> str:
    try:
        return await question.ask()
    except asyncio.TimeoutError:
        return f"no answer within {ANSWER_WITHIN_S:.0f} s: does the disk of the data directory hang?"
