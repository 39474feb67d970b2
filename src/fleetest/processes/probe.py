"""The operator's probe: a command that must succeed before this machine gets work, and from time to time after that."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from fleetest.processes.command_process import CannotStart, CommandProcess
from fleetest.processes.orphan_watch import OrphanWatch
from fleetest.processes.process_groups import describe_status
from fleetest.wire.messages import CommandSpec

OUTPUT_BYTES = 64 * 1024
DETAIL_CHARACTERS = 300


@dataclass(frozen=True, slots=True)
class ProbeSettings:
    command: str
    """For ``/bin/sh -c``; it passes with exit status 0."""
    interval_s: float = 60.0
    """From the end of one to the start of the next."""
    timeout_s: float = 30.0


@dataclass(frozen=True, slots=True)
class ProbeResult:
    is_ok: bool
    detail: str
    """The last line that it printed; if there is none, how it ended; of one that took too long, both."""


class Probe:
    """Runs in the background as long as ``run`` is not cancelled; its process then is killed with all it started.

    ``on_change`` is called with the first result and with each that differs from the one before. The command gets the
    worker's environment without Fleetest's secrets; it is killed with its whole session when it takes too long.
    """

    def __init__(self, settings: ProbeSettings, on_change: Callable[[ProbeResult], None]) -> None:
        self._settings, self._on_change = settings, on_change
        self.result: ProbeResult | None = None
        """The latest; None until the first one is there."""

    async def run(self) -> None:
        orphan_watch = OrphanWatch()
        try:
            while True:
                result = await self._once(orphan_watch)
                has_changed, self.result = result != self.result, result
                if has_changed:
                    self._on_change(result)
                await asyncio.sleep(self._settings.interval_s)
        finally:
            orphan_watch.close()

    async def _once(self, orphan_watch: OrphanWatch) -> ProbeResult:
        settings = self._settings
        try:
            spec = CommandSpec(name="probe", argv=("/bin/sh", "-c", settings.command), directory=os.getcwd())
            process = CommandProcess(spec, OUTPUT_BYTES, orphan_watch)
        except (OSError, CannotStart) as error:
            return ProbeResult(False, f"it cannot be started: {error}")
        try:
            in_time = await process.wait(settings.timeout_s)
        finally:
            process.kill()
            outcome = await asyncio.shield(process.outcome())
        printed = last_line(outcome.output)
        if not in_time:
            said = f"; the last that it printed: {printed}" if printed else ""
            return ProbeResult(False, f"it took longer than {settings.timeout_s:g} s{said}")
        return ProbeResult(outcome.status == 0, printed or f"it {describe_status(outcome.status)}")


def last_line(output: str) -> str:
    """The last line with anything on it, without control characters, bounded."""
    for line in reversed(output.splitlines()):
        text = "".join(character for character in line if character.isprintable()).strip()
        if text:
            return text[:DETAIL_CHARACTERS]
    return ""
