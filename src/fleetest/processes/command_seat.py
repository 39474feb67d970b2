"""The commands of one suite in one slot, one after the other."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from fleetest.core.model import VARIANT_VARIABLE, AttemptResult, LeaseId, TaskId, Verdict
from fleetest.processes.command_process import (
    CannotStart,
    CommandProcess,
    copy_artifacts,
    describe_start_failure,
    judge,
)
from fleetest.processes.gang_place import environment_of
from fleetest.processes.orphan_watch import OrphanWatch
from fleetest.processes.out_of_memory import OomWatch
from fleetest.processes.reporting import ExecutionLimits, HeldLease, Reporter
from fleetest.wire.messages import CommandSpec, CommandSuite

_KILL_GRACE_MAX_S = 1.0


class CommandSeat:
    """See ``reporting.Seat``. ``on_progress`` is called when it can take the next lease."""

    def __init__(
        self,
        suite: CommandSuite,
        *,
        reporter: Reporter,
        oom_watch: OomWatch,
        orphan_watch: OrphanWatch,
        limits: ExecutionLimits,
        on_progress: Callable[[], None],
    ) -> None:
        self._specs: dict[TaskId, CommandSpec] = {
            task.task_id: spec for task, spec in zip(suite.tasks, suite.commands, strict=True)
        }
        self._artifact_directory = suite.artifact_directory
        self._reporter = reporter
        self._oom_watch = oom_watch
        self._orphan_watch = orphan_watch
        self._limits = limits
        self._on_progress = on_progress
        self._waiting: deque[HeldLease] = deque()
        self._current: HeldLease | None = None
        self._process: CommandProcess | None = None
        self._cancelled_because = ""
        self._task: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    @property
    def is_empty(self) -> bool:
        return self._current is None and not self._waiting

    @property
    def current(self) -> HeldLease | None:
        return self._current

    def held(self) -> list[LeaseId]:
        running = [self._current] if self._current is not None else []
        return [held.lease.lease_id for held in [*running, *self._waiting]]

    def capacity(self) -> int:
        return 1 if self.is_empty else 0

    def give(self, leases: Sequence[HeldLease]) -> None:
        self._waiting.extend(leases)
        self.advance()

    def nothing_follows(self) -> None:
        """A command has nothing to tear down."""

    def take_back(self, lease_ids: set[LeaseId] | None) -> list[HeldLease]:
        taken = [held for held in self._waiting if lease_ids is None or held.lease.lease_id in lease_ids]
        for held in taken:
            self._waiting.remove(held)
        return taken

    def kill(self, lease_ids: set[LeaseId], reason: str) -> None:
        for held in self.take_back(lease_ids):
            self._reporter.finished(held.result(Verdict.CANCELLED, evidence=reason))
        if self._current is not None and self._current.lease.lease_id in lease_ids and not self._cancelled_because:
            self._cancelled_because = reason
            if self._process is not None:
                self._ending = asyncio.get_running_loop().create_task(
                    self._process.end(min(self._limits.term_grace_s, _KILL_GRACE_MAX_S))
                )

    async def finish(self) -> None:
        self.close()
        if self._task is not None:
            await asyncio.wait([self._task], timeout=self._limits.term_grace_s)

    def close(self) -> None:
        self._waiting.clear()
        if self._current is not None:
            self._cancelled_because = self._cancelled_because or "the run is over"
        if self._process is not None:
            self._process.kill()

    def advance(self) -> None:
        if self._current is None and self._waiting:
            self._current = self._waiting.popleft()
            self._task = asyncio.get_running_loop().create_task(self._execute(self._current))

    async def _execute(self, held: HeldLease) -> None:
        try:
            await self._execute_one(held)
        finally:
            self._current = self._process = None
            self._cancelled_because = ""
            self._reporter.wake()
            self.advance()
            self._on_progress()

    async def _execute_one(self, held: HeldLease) -> None:
        spec = self._specs.get(held.lease.base_id)
        if spec is None:
            self._reporter.returned([held.lease.lease_id], not_collectable=True)
            return
        if held.lease.variant:
            environment = {**spec.environment, VARIANT_VARIABLE: held.lease.variant}
            spec = msgspec.structs.replace(spec, environment=environment)
        if held.lease.gang is not None:
            environment = {**spec.environment, **environment_of(held.lease.gang)}
            spec = msgspec.structs.replace(spec, environment=environment)
        if self._cancellation():
            self._reporter.finished(held.result(Verdict.CANCELLED, evidence=self._cancellation()))
            return
        try:
            process = CommandProcess(spec, self._limits.output_limit_bytes, self._orphan_watch)
        except CannotStart as error:
            self._reporter.infrastructure_failed([held.lease.lease_id], f"cannot start a process: {error}")
            return
        except (OSError, ValueError) as error:
            os_error = error if isinstance(error, OSError) else OSError(str(error))
            evidence = describe_start_failure(spec, os_error)
            self._reporter.finished(held.result(Verdict.ERROR, evidence=evidence))
            return
        self._process = process
        held.started_at = process.started_at
        self._reporter.wake()
        timeout_s = held.lease.timeout_s if held.lease.timeout_s is not None else spec.timeout_s
        is_overdue = not await process.wait(timeout_s) and not self._cancellation()
        if is_overdue:
            await process.end(self._limits.term_grace_s)
        outcome = await process.outcome()
        if self._cancellation():
            verdict, evidence = Verdict.CANCELLED, self._cancellation()
        elif is_overdue:
            verdict, evidence = Verdict.TIMEOUT, f"still running after its timeout of {timeout_s:g} s"
        else:
            verdict, evidence = judge(spec, outcome.status, self._oom_watch.rose())
        artifacts, trouble = await self._keep_artifacts(spec, held)
        self._reporter.finished(
            AttemptResult(
                held.lease.lease_id,
                verdict,
                started_at=process.started_at,
                duration_s=outcome.duration_s,
                call_s=outcome.duration_s,
                cpu_s=outcome.cpu_s,
                peak_memory_bytes=outcome.peak_memory_bytes,
                output=outcome.output,
                evidence="\n".join(filter(None, [evidence, trouble])),
                artifacts=artifacts,
            )
        )

    def _cancellation(self) -> str:
        """Why the current command is to end; it may come at any time."""
        return self._cancelled_because

    async def _keep_artifacts(self, spec: CommandSpec, held: HeldLease) -> tuple[tuple[str, ...], str]:
        if not spec.artifacts or self._artifact_directory is None:
            return (), ""
        folder = re.sub(r"[^A-Za-z0-9._-]+", "_", held.lease.task_id).lstrip(".") or "_"
        target = Path(self._artifact_directory, folder, f"attempt-{held.lease.attempt}")
        return await asyncio.to_thread(copy_artifacts, spec, target)
