"""Keeps what a coordinator knows of its workers on disk, and gives it to the next one.

What an operator says is on the disk before it is acknowledged (``keep``); everything else follows within a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from fleetest.core import commands, events
from fleetest.core.cluster_state import ClusterState
from fleetest.core.memory import ClusterMemory
from fleetest.core.model import Instant

LINGER_S = 1.0
RETRY_MIN_S, RETRY_MAX_S = 1.0, 10.0
_log = logging.getLogger("fleetest.coordinator")


class Shell(Protocol):
    """The coordinator, as its memory sees it."""

    @property
    def state(self) -> ClusterState: ...
    def now(self) -> Instant: ...
    def observe(self, observer: Callable[[events.Event, Sequence[commands.Command]], None]) -> None: ...
    def apply(self, event: events.Event) -> None: ...


class Store(Protocol):
    """Where it is kept, with times of day; ``storage.memory_file.MemoryFile``."""

    def save(self, memory: ClusterMemory) -> None: ...


class FleetMemory:
    """Belongs to the coordinator's event loop: ``recall`` before anything is served, ``close`` at the end."""

    def __init__(self, shell: Shell, store: Store, *, wall: Callable[[], float] = time.time) -> None:
        self._shell, self._store, self._wall = shell, store, wall
        self._saved: ClusterMemory | None = None
        """What is on the disk; None after a failure: it may be the old or the new."""
        self._saving = asyncio.Lock()
        self._timer: asyncio.TimerHandle | None = None
        self._looking: asyncio.Task[str] | None = None
        self._is_closed = False
        self._retry_s = RETRY_MIN_S
        self.trouble = ""
        """Why what is known now would not outlive this process; empty if it would."""

    def recall(self, known: ClusterMemory) -> None:
        """Tell the core what the last coordinator knew, with times of day, and follow it from now on."""
        behind_s = self._wall() - self._shell.now()
        self._shell.apply(events.MemoryRecalled(known.at_other_times(lambda at: at - behind_s)))
        self._saved = self._shell.state.remember()
        self._shell.observe(self._observe)

    async def keep(self) -> str:
        """Returns when all that is known now is on the disk, or why it is not, in one line."""
        async with self._saving:
            memory = self._shell.state.remember()
            if memory != self._saved:
                ahead_s = self._wall() - self._shell.now()
                await self._save(memory, memory.at_other_times(lambda instant: instant + ahead_s))
        return self.trouble

    async def close(self) -> None:
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        if self._looking is not None:
            await asyncio.wait({self._looking})
        await self.keep()

    async def _save(self, memory: ClusterMemory, at_times_of_day: ClusterMemory) -> None:
        try:
            await asyncio.to_thread(self._store.save, at_times_of_day)
        except OSError as error:
            self._saved = None
            trouble = f"what is known of the workers cannot be kept: {error.strerror or error}"
            if trouble != self.trouble:
                _log.error("%s: quarantines, drains and alerts would not outlive this coordinator", trouble)
            self.trouble = trouble
            self._look_in(self._retry_s)
            self._retry_s = min(2.0 * self._retry_s, RETRY_MAX_S)
        else:
            self._saved = memory
            if self.trouble:
                _log.warning("what is known of the workers is kept again")
            self.trouble, self._retry_s = "", RETRY_MIN_S

    def _observe(self, event: events.Event, commanded: Sequence[commands.Command]) -> None:
        if self._timer is None:
            self._look_in(LINGER_S)

    def _look_in(self, delay_s: float) -> None:
        if self._timer is None and not self._is_closed:
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._looking is None or self._looking.done():
            self._looking = asyncio.get_running_loop().create_task(self.keep())
