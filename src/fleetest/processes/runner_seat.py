"""The leases of one pytest suite in one slot, and the runner that executes them: hand out, listen, replace, blame."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from fleetest.core.model import LeaseId, RunId, Verdict
from fleetest.errors import RemoteProtocolError
from fleetest.processes import variant_file
from fleetest.processes.deadline import RunningDeadline
from fleetest.processes.frames import (
    Exit,
    Finished,
    Passed,
    Reported,
    Row,
    Started,
    Waiting,
    WarningRow,
)
from fleetest.processes.gang_place import MARK as GANG_MARK
from fleetest.processes.out_of_memory import OomWatch
from fleetest.processes.process_groups import describe_status
from fleetest.processes.read_pacer import ReadPacer, ResultRate
from fleetest.processes.reporting import ExecutionLimits, HeldLease, Reporter
from fleetest.processes.runner import Runner
from fleetest.processes.runner_channel import NOTHING
from fleetest.processes.runner_end import Ending, end_runner, result_of_row, verdict_of_death
from fleetest.wire.messages import ExitRequested, RunWarnings

_AHEAD_MAX = 250
_BATCH_MIN = 25
_BOOT_FAILURES_MAX = 3
_SILENT_RUNNER_S = 2.0
_BOOT_TIMEOUT_S = 60.0
_MARKS = GANG_MARK | variant_file.MARK


class RunnerSource(Protocol):
    """Makes runners of one suite."""

    @property
    def run_id(self) -> RunId: ...

    def start_runner(self, slot: int, on_change: Callable[[], None]) -> Runner | None:
        """A new runner for the slot; None if it cannot be made now (``RunnerSeat.advance`` is called when it can)."""


class RunnerSeat:
    """See ``reporting.Seat``. ``on_progress`` is called after results came in, so that the slot hands out more."""

    def __init__(
        self,
        slot: int,
        source: RunnerSource,
        *,
        reporter: Reporter,
        pacer: ReadPacer,
        oom_watch: OomWatch,
        limits: ExecutionLimits,
        on_progress: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._slot = slot
        self._source = source
        self._reporter = reporter
        self._pacer = pacer
        self._oom_watch = oom_watch
        self._limits = limits
        self._on_progress = on_progress
        self._runner: Runner | None = None
        self._unwritten: deque[HeldLease] = deque()
        self._written: dict[int, HeldLease] = {}
        """By position, in the order written: what the runner has been told and not answered."""
        self._current: HeldLease | None = None
        self._waits_at = -1
        """Position in whose teardown the runner said that it waits for a successor; -1 if it did not."""
        self._nothing_follows = False
        self._nothing_sent = False
        self._results = 0
        self._boot_failures = 0
        self._ending: Ending | None = None
        self._doomed: dict[LeaseId, str] = {}
        """Why leases are to be ended as soon as they start."""
        self._has_exit_row = False
        self._has_finished = False
        self._is_over = False
        self._deadline = RunningDeadline(self._loop, self._overdue)
        self._rate = ResultRate(self._loop.time())
        self._background: set[asyncio.Task[None]] = set()

    # Seat ---------------------------------------------------------------------------------------------------------

    @property
    def is_empty(self) -> bool:
        return not (self._written or self._unwritten)

    @property
    def current(self) -> HeldLease | None:
        return self._current

    def held(self) -> list[LeaseId]:
        return [held.lease.lease_id for held in [*self._written.values(), *self._unwritten]]

    def capacity(self) -> int:
        ahead = len(self._written) + len(self._unwritten)
        # In batches: a write for each single test would cost more than the test.
        return _AHEAD_MAX - ahead if ahead <= _AHEAD_MAX - _BATCH_MIN else 0

    def give(self, leases: Sequence[HeldLease]) -> None:
        self._unwritten.extend(leases)
        self._nothing_follows = False
        self.advance()

    def nothing_follows(self) -> None:
        self._nothing_follows = True
        self._release()

    def take_back(self, lease_ids: set[LeaseId] | None) -> list[HeldLease]:
        self._recall_unread()
        if lease_ids is None:
            taken = list(self._unwritten)
            self._unwritten.clear()
        else:
            taken = [held for held in self._unwritten if held.lease.lease_id in lease_ids]
            if taken:
                self._unwritten = deque(held for held in self._unwritten if held.lease.lease_id not in lease_ids)
        for held in taken:
            held.position = -1
        self.advance()
        return taken

    def kill(self, lease_ids: set[LeaseId], reason: str) -> None:
        for held in self.take_back(lease_ids):
            self._reporter.finished(held.result(Verdict.CANCELLED, evidence=reason))
        for held in list(self._written.values()):
            if held is self._current and held.lease.lease_id in lease_ids:
                self._begin_ending(Ending(held, Verdict.CANCELLED, reason))
            elif held.lease.lease_id in lease_ids:
                # The runner has read it, but is still at its predecessor, which is not to suffer.
                self._doomed[held.lease.lease_id] = reason
        self._reporter.wake()

    async def finish(self) -> None:
        self._is_over = True
        for held in self.take_back(None):
            self._reporter.returned([held.lease.lease_id])
        runner = self._runner
        if runner is not None:
            runner.channel.end_tasks()
            if self._current is not None or not await runner.wait_exited(self._limits.finish_timeout_s):
                runner.kill()
                await runner.wait_exited(self._limits.term_grace_s)
        self.close()

    def close(self) -> None:
        self._is_over = True
        self._deadline.cancel()
        self._pacer.forget(self.read_now)
        for task in self._background:
            task.cancel()
        runner, self._runner = self._runner, None
        if runner is not None:
            runner.kill()
            self._close_channel(runner)

    # Handing out --------------------------------------------------------------------------------------------------

    def advance(self) -> None:
        """Write what can be written; start a runner if there is work for one."""
        if self._is_over or self._ending is not None or self._has_exit_row:
            return
        if self._runner is None and self._unwritten:
            self.prepare()
        runner = self._runner
        if runner is None or runner.positions is None or not self._unwritten:
            self._release()
            return
        lacking: list[LeaseId] = []
        chosen: list[HeldLease] = []
        while self._unwritten:
            held = self._unwritten[0]
            position = runner.positions.get(held.lease.base_id)
            if position in self._written:
                # The same test again, while its earlier attempt is still here: after that one.
                break
            self._unwritten.popleft()
            if position is None:
                lacking.append(held.lease.lease_id)
                continue
            held.position = position
            self._written[position] = held
            chosen.append(held)
        if lacking:
            self._reporter.returned(lacking, not_collectable=True)
            self._reporter.wake()
        if chosen:
            self._write(runner, chosen)
        else:
            self._release()

    def prepare(self) -> None:
        """Start the runner if there is none, so that it is up when work comes."""
        if self._runner is not None or self._is_over:
            return
        try:
            runner = self._source.start_runner(self._slot, self._runner_changed)
        except OSError as error:
            self._fail_unwritten(f"cannot make the sockets of a runner: {error}")
            return
        if runner is None:
            return
        self._runner = runner
        self._results = 0
        self._waits_at = -1
        self._nothing_sent = False
        self._has_finished = False
        self._loop.add_reader(runner.channel.results_descriptor, self.read_now)
        if runner.exited.is_set():
            self._runner_changed()
        elif runner.positions is not None:
            # A fork may inherit a lock that nobody will ever release.
            self._loop.call_later(_BOOT_TIMEOUT_S, self._kill_if_silent, runner)

    def _kill_if_silent(self, runner: Runner) -> None:
        if not runner.channel.is_ready and not runner.exited.is_set():
            runner.kill()

    def _fail_unwritten(self, reason: str) -> None:
        lost = [held.lease.lease_id for held in self._unwritten]
        self._unwritten.clear()
        if lost:
            self._reporter.infrastructure_failed(lost, reason)
            self._reporter.wake()

    def _write(self, runner: Runner, chosen: list[HeldLease]) -> None:
        try:
            variants = {held.position: held.lease.variant for held in chosen if held.lease.variant}
            if variants:
                runner.note_variants(variants)
            positions = [
                (held.position if held.lease.gang is None else runner.join_gang(held.lease.gang, held.position))
                | (variant_file.MARK if held.lease.variant else 0)
                for held in chosen
            ]
        except OSError as error:
            self._take_from_written(chosen)
            self._fail_unwritten(f"cannot write what a test is executed for, or with whom: {error}")
            return
        if not runner.channel.write(positions):
            # No room, or it is dying; its next rows or its end bring us here again.
            self._take_from_written(chosen)
            return
        self._deadline.resume()

    def _take_from_written(self, chosen: list[HeldLease]) -> None:
        for held in chosen:
            del self._written[held.position]
        self._unwritten.extendleft(reversed(chosen))

    def _release(self) -> None:
        """Tell a runner that waits in a teardown that nothing follows, if that is known.

        What is unwritten then is another attempt of the very test that waits: it follows after its teardown.
        """
        if self._runner is not None and self._is_waiting and (self._nothing_follows or self._unwritten):
            self._nothing_sent = self._runner.channel.write([NOTHING])
            self._deadline.resume()

    @property
    def _is_waiting(self) -> bool:
        # What it said is stale if something was written since: it will read that.
        return self._waits_at in self._written and len(self._written) == 1 and not self._nothing_sent

    def _recall_unread(self) -> None:
        """Take every position that the runner has not read back into ``_unwritten``, in order."""
        if self._runner is None:
            return
        recalled = []
        for position in self._runner.channel.take_back():
            if position == NOTHING:
                self._nothing_sent = False
                continue
            recalled.append(self._written.pop(position & ~_MARKS))
        self._unwritten.extendleft(reversed(recalled))

    # Listening ----------------------------------------------------------------------------------------------------

    def read_now(self) -> None:
        """Take in what the runner has sent: when it arrives, at a tick of the pacer, and before a deadline counts."""
        runner = self._runner
        if runner is None:
            return
        before = self._results
        if not self._take_rows(runner):
            return
        if self._unwritten:
            self.advance()
        self._on_progress()
        self._reporter.wake()
        if self._runner is not runner or runner.channel.is_eof:
            return
        descriptor = runner.channel.results_descriptor
        if self._rate.may_pause(self._results - before, len(self._written), self._loop.time()):
            self._loop.remove_reader(descriptor)
            self._pacer.pause(self.read_now)
        else:
            self._loop.add_reader(descriptor, self.read_now)

    def _take_rows(self, runner: Runner) -> bool:
        try:
            for row in runner.channel.read():
                self._take_row(row)
        except RemoteProtocolError as error:
            runner.note = f"it sent what is not a result, so it was killed: {error}"
            self._loop.remove_reader(runner.channel.results_descriptor)
            runner.kill()
            return False
        if runner.channel.is_eof:
            self._loop.remove_reader(runner.channel.results_descriptor)
            if not runner.exited.is_set():
                # It closed its results and lives: whatever it is now, it is no runner any more.
                self._loop.call_later(_SILENT_RUNNER_S, self._kill_if_alive, runner)
        return True

    def _kill_if_alive(self, runner: Runner) -> None:
        # At the end of the run it has a bound of its own.
        if not runner.exited.is_set() and not self._is_over:
            runner.kill()

    def _take_row(self, row: Row) -> None:
        if isinstance(row, Started):
            held = self._written.get(row.position)
            if held is not None:
                held.started_at = row.started_at
                self._current = held
                self._deadline.set(held.lease.timeout_s)
                if held.lease.lease_id in self._doomed:
                    reason = self._doomed.pop(held.lease.lease_id)
                    self._begin_ending(Ending(held, Verdict.CANCELLED, reason))
        elif isinstance(row, (Passed, Reported)):
            self._take_result(row)
        elif isinstance(row, Waiting):
            self._waits_at = row.position
            if self._is_waiting:
                self._deadline.suspend()
        elif isinstance(row, WarningRow):
            self._reporter.tell(RunWarnings(run_id=self._source.run_id, warnings=(bytes(row.warning),)))
        elif isinstance(row, Exit):
            self._take_exit(row)
        elif isinstance(row, Finished):
            self._has_finished = True

    def _take_result(self, row: Passed | Reported) -> None:
        if self._ending is not None and self._ending.held.position == row.position:
            # Its verdict is decided already.
            return
        if row.position == self._waits_at:
            # Its teardown has its answer, whichever that was.
            self._waits_at = -1
            self._nothing_sent = False
        held = self._written.pop(row.position, None)
        if held is None:
            return
        self._deadline.clear()
        self._current = None
        self._results += 1
        self._reporter.finished(result_of_row(held, row))

    def _take_exit(self, row: Exit) -> None:
        self._has_exit_row = True
        self._recall_unread()
        self._reporter.tell(
            ExitRequested(run_id=self._source.run_id, kind=row.kind, reason=row.reason, exit_status=row.exit_status)
        )
        held, self._current = self._current, None
        self._deadline.clear()
        if held is not None and self._written.pop(held.position, None) is not None:
            evidence = f"{row.kind}: {row.reason}"
            self._reporter.finished(held.result(Verdict.CANCELLED, evidence=evidence, ended_at=time.time()))

    # Ending -------------------------------------------------------------------------------------------------------

    def _overdue(self) -> None:
        self.read_now()
        held = self._current
        if held is None or not self._deadline.is_over or self._ending is not None:
            return
        if self._is_waiting:
            # It waits for us.
            self._deadline.suspend()
            return
        why = f"still running after its timeout of {held.lease.timeout_s:g} s"
        self._begin_ending(Ending(held, Verdict.TIMEOUT, why, with_stacks=True))

    def _begin_ending(self, ending: Ending) -> None:
        if self._ending is not None or self._runner is None:
            return
        # So that it does not go on to another test meanwhile.
        self._recall_unread()
        self._ending = ending
        task = self._loop.create_task(end_runner(self._runner, ending, self._limits.term_grace_s))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _runner_changed(self) -> None:
        runner = self._runner
        if runner is None:
            return
        if runner.exited.is_set():
            self._runner_exited(runner)
        else:
            self.advance()

    def _runner_exited(self, runner: Runner) -> None:
        self._take_rows(runner)
        while not runner.channel.is_eof:
            before = self._results, len(self._written), self._current
            self._take_rows(runner)
            if before == (self._results, len(self._written), self._current):
                break
        self._recall_unread()
        self._runner = None
        self._blame(runner)
        self._close_channel(runner)
        self._deadline.clear()
        # Read by the dead runner as successors, but never begun.
        self._unwritten.extendleft(reversed(self._written.values()))
        self._written.clear()
        self._cancel_doomed()
        for held in self._unwritten:
            held.position, held.started_at, held.is_announced = -1, None, False
        if not self._is_over:
            self._give_up_or_go_on(runner)
            self._on_progress()
        self._reporter.wake()

    def _cancel_doomed(self) -> None:
        doomed, self._doomed = self._doomed, {}
        for held in [held for held in self._unwritten if held.lease.lease_id in doomed]:
            self._unwritten.remove(held)
            self._reporter.finished(held.result(Verdict.CANCELLED, evidence=doomed[held.lease.lease_id]))

    def _blame(self, runner: Runner) -> None:
        """Give the test that was running its verdict; nobody else is blamed."""
        ending, self._ending = self._ending, None
        held, self._current = self._current, None
        if ending is not None:
            if self._written.pop(ending.held.position, None) is not None:
                self._finish_with(runner, ending.held, ending.verdict, ending.evidence)
        elif held is not None and held.position in self._written:
            del self._written[held.position]
            if runner.status is None or self._is_over:
                reason = runner.trouble or "the process that its runner was forked from died"
                self._reporter.infrastructure_failed([held.lease.lease_id], reason, has_started=True)
            else:
                killed_for_memory = not runner.was_killed_by_us and self._oom_watch.rose()
                verdict, why = verdict_of_death(runner, killed_for_memory)
                self._finish_with(runner, held, verdict, why)
            self._boot_failures = 0
        elif self._results:
            self._boot_failures = 0
        elif not self._has_finished and not self._has_exit_row:
            self._boot_failures += 1

    def _finish_with(self, runner: Runner, held: HeldLease, verdict: Verdict, evidence: str) -> None:
        output = runner.channel.read_output(self._limits.output_limit_bytes)
        self._reporter.finished(held.result(verdict, evidence=evidence, output=output, ended_at=time.time()))

    def _give_up_or_go_on(self, runner: Runner) -> None:
        if runner.trouble or self._boot_failures > _BOOT_FAILURES_MAX:
            how = describe_status(runner.status) if runner.status is not None else "was lost"
            times = self._boot_failures
            self._boot_failures = 0
            self._fail_unwritten(
                runner.trouble or f"a runner died {times} times before its first test; the last one {how}"
            )
        else:
            self.advance()

    def _close_channel(self, runner: Runner) -> None:
        if not runner.channel.is_closed:
            self._loop.remove_reader(runner.channel.results_descriptor)
            runner.channel.close()
        self._pacer.forget(self.read_now)
