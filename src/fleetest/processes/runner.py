"""One runner as its slot sees it, whether forked from a template or a process of its own."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Mapping
from pathlib import Path

from fleetest.core.model import GangPlace, TaskId
from fleetest.processes import stack_dumps, variant_file
from fleetest.processes.gang_place import MARK, write_place
from fleetest.processes.process_groups import kill_session, signal_group
from fleetest.processes.runner_channel import RunnerChannel


class Runner:
    """``on_change`` is called when it becomes able to take positions, and when it has exited."""

    def __init__(
        self,
        runner_id: str,
        scratch: Path,
        positions: Mapping[TaskId, int] | None,
        on_change: Callable[[], None],
    ) -> None:
        self.runner_id = runner_id
        self.channel = RunnerChannel()
        self.positions = positions
        """Where its collection has each task; None while a spawned runner still collects."""
        self.pid: int | None = None
        self.exited = asyncio.Event()
        self.status: int | None = None
        """As ``os.waitpid`` gives it; None if it could not be had (its template died)."""
        self.trouble = ""
        """Why it never came up, if that is no fault of a test: cannot fork, cannot collect."""
        self.note = ""
        """What is to be said of its end besides its status."""
        self.was_killed_by_us = False
        self._scratch = scratch
        self._on_change = on_change

    def join_gang(self, place: GangPlace, position: int) -> int:
        """The test at this position is executed with others: what to write into the channel for it. Raises OSError."""
        write_place(self._scratch / f"{self.runner_id}.gang", place)
        return position | MARK

    def note_variants(self, variants: Mapping[int, str]) -> None:
        """What the tests at these positions are executed for; before the positions are written. Raises OSError."""
        variant_file.append_variants(self._scratch / f"{self.runner_id}.variants", variants)

    def collected(self, positions: Mapping[TaskId, int]) -> None:
        self.positions = positions
        self._on_change()

    def has_started(self, pid: int) -> None:
        """Its process is there. If it was to be killed meanwhile, now is the time."""
        self.pid = pid
        if self.was_killed_by_us:
            self.kill()

    def has_exited(self, status: int | None, trouble: str = "") -> None:
        """Its process is gone (and reaped, unless the status is None)."""
        if self.exited.is_set():
            return
        self.status = status
        self.trouble = trouble or self.trouble
        if self.pid is not None:
            # Whatever it left behind goes with it. Where it ended in good order, its suite looks through the whole
            # session later, for all runners at once.
            if status == 0:
                signal_group(self.pid, signal.SIGKILL)
            else:
                kill_session(self.pid)
        self.exited.set()
        self._on_change()

    def terminate(self) -> None:
        self.was_killed_by_us = True
        if self.pid is not None and not self.exited.is_set():
            signal_group(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        """Kill its whole session. Before its pid is known there is nothing to kill: its tasks end, and so does it."""
        self.was_killed_by_us = True
        self.channel.end_tasks()
        if self.pid is not None and not self.exited.is_set():
            kill_session(self.pid)

    async def wait_exited(self, timeout_s: float) -> bool:
        try:
            await asyncio.wait_for(self.exited.wait(), timeout_s)
        except asyncio.TimeoutError:
            return False
        return True

    async def dump_stacks(self) -> str:
        if self.pid is None:
            return ""
        return await stack_dumps.dump_stacks(self.pid, self._stacks_file(self.pid))

    def read_stacks(self) -> str:
        return stack_dumps.read_stacks(self._stacks_file(self.pid)) if self.pid is not None else ""

    def _stacks_file(self, pid: int) -> Path:
        return stack_dumps.stacks_file(self._scratch, self.runner_id, pid)
