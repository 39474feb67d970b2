"""Everything that one worker executes: its slots, the runs it knows, and their suites."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from fleetest.core.model import Lease, LeaseId, RunId
from fleetest.core.suite_planning import fingerprint_of
from fleetest.errors import ExitStatus, RemoteProtocolError
from fleetest.processes.command_seat import CommandSeat
from fleetest.processes.launch import PrestartedTemplate, start_template_early
from fleetest.processes.orphan_watch import OrphanWatch
from fleetest.processes.out_of_memory import OomWatch
from fleetest.processes.outbox import Outbox
from fleetest.processes.read_pacer import ReadPacer
from fleetest.processes.reporting import ExecutionLimits, HeldLease, Seat
from fleetest.processes.runner_seat import RunnerSeat
from fleetest.processes.scratch import make_scratch
from fleetest.processes.slot import SeatKey, Slot
from fleetest.processes.suite_session import SuiteSession
from fleetest.wire.messages import CommandSuite, PrepareRun, PytestSuite, SuiteCollected, SuiteFailed

_RUN_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_FINISH_TIMEOUT_S = 20.0
_REST_S = 0.2
"""From the end of a run to that of its processes, for which nobody waits: the client may be on this machine, and writes
its summary then, and all of them would end at once."""
_SPARE_DELAY_S = 1.0
"""After the end of a run: until then others of this machine may be busy with that end."""


@dataclass(slots=True)
class _Run:
    suites: dict[str, SuiteSession | CommandSuite] = field(default_factory=dict)

    @property
    def sessions(self) -> list[SuiteSession]:
        return [suite for suite in self.suites.values() if isinstance(suite, SuiteSession)]


class Execution:
    """Belongs to the running event loop. What it has to say goes into ``outbox``.

    ``adopt`` is a template that was started already; it becomes this execution's. ``python`` is the interpreter for
    suites that name none, ``scratch`` the directory for stack dumps and the like (None: a temporary one). If it
    ``is_embedded`` in the client's process, no link can lose results, and the client waits for the end of its runners.
    With ``keeps_spare`` an interpreter with pytest imported waits for the next run whenever there is none.
    """

    def __init__(
        self,
        *,
        worker_name: str,
        slots: int,
        python: str | None,
        scratch: Path | None,
        limits: ExecutionLimits,
        is_embedded: bool,
        adopt: PrestartedTemplate | None,
        keeps_spare: bool = False,
    ) -> None:
        self._worker_name = worker_name
        self._python = python
        self._given_scratch = scratch
        self._scratch: Path | None = None
        self._limits = limits
        self._adopt = adopt
        self._is_embedded = is_embedded
        self._keeps_spare = keeps_spare
        self.oom_watch = OomWatch()
        self._orphan_watch = OrphanWatch()
        self.outbox = Outbox(self._running, keeps_sent=not is_embedded)
        self._pacer = ReadPacer()
        self._runs: dict[RunId, _Run] = {}
        self._slots = [Slot(index, make_seat=self._make_seat, reporter=self.outbox) for index in range(slots)]
        self._finishing: set[asyncio.Task[None]] = set()
        self._is_wanted = asyncio.Event()
        """Set when there is something else to do than to rest after a run."""
        self._takes_leases = True
        self._idle = asyncio.Event()

    # Leases -------------------------------------------------------------------------------------------------------

    def held(self) -> list[LeaseId]:
        """All leases here, running or waiting."""
        return [lease_id for slot in self._slots for lease_id in slot.held()]

    def _running(self) -> Iterator[HeldLease]:
        for slot in self._slots:
            held = slot.running
            if held is not None:
                yield held

    def _slot(self, index: int) -> Slot:
        if not 0 <= index < len(self._slots):
            raise RemoteProtocolError(f"there is no slot {index}: this worker has {len(self._slots)}")
        return self._slots[index]

    def grant(self, slot: int, leases: Iterable[Lease]) -> None:
        """Append leases to the queue of a slot. Raises RemoteProtocolError if there is no such slot."""
        chosen = self._slot(slot)
        if self._takes_leases:
            chosen.grant(map(HeldLease, leases))
        else:
            self.outbox.returned([lease.lease_id for lease in leases])
            self.outbox.wake()

    def nothing_follows(self, slot: int) -> None:
        self._slot(slot).nothing_follows()

    def revoke(self, lease_ids: set[LeaseId]) -> None:
        """Give back those of these leases that have not started."""
        for slot in self._slots:
            self.outbox.returned(slot.revoke(lease_ids))
        self.outbox.wake()

    def kill(self, lease_ids: set[LeaseId], reason: str) -> None:
        """End these attempts; each gets a result ``cancelled``."""
        for slot in self._slots:
            slot.kill(lease_ids, reason)

    async def drain(self, timeout_s: float) -> None:
        """Take no more leases, give back what has not started, wait for what runs."""
        self._takes_leases = False
        for slot in self._slots:
            self.outbox.returned(slot.revoke(None))
            slot.nothing_follows()
        self.outbox.wake()
        if not self._is_empty:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._idle.wait(), timeout_s)
        self.outbox.flush()

    @property
    def _is_empty(self) -> bool:
        return all(slot.is_empty for slot in self._slots)

    def _progressed(self, slot: Slot) -> None:
        slot.pump()
        if not self._takes_leases and self._is_empty:
            self._idle.set()

    # Runs ---------------------------------------------------------------------------------------------------------

    @property
    def run_ids(self) -> tuple[RunId, ...]:
        return tuple(self._runs)

    def prepare_run(self, message: PrepareRun) -> None:
        """Start to collect the run's suites. A run that is known goes on; what was said of it is said again."""
        run_id = message.run_id
        if run_id in self._runs:
            for known in self._runs[run_id].suites.values():
                if isinstance(known, CommandSuite):
                    self._tell_commands(run_id, known)
                else:
                    known.tell_conclusion()
            return
        if not _RUN_ID.fullmatch(run_id):
            # It becomes part of a path.
            raise RemoteProtocolError(f"not the id of a run: {run_id!r}")
        run = self._runs[run_id] = _Run()
        self._is_wanted.set()
        for number, suite in enumerate(message.suites):
            if isinstance(suite, CommandSuite):
                run.suites[suite.name] = suite
                self._tell_commands(run_id, suite)
                continue
            adopt = self._adoptable(run_id, suite)
            try:
                scratch = self._scratch_of(run_id, number)
            except OSError as error:
                where = f"in {os.path.dirname(error.filename)} " if error.filename else ""
                text = (
                    f"worker {self._worker_name} cannot make scratch files {where}({error.strerror or error}):"
                    " mend that there, or start it with another --scratch"
                )
                self._tell_unavailable(run_id, suite, text)
                continue
            session = run.suites[suite.name] = self._make_session(message, suite, scratch)
            session.start(adopt)

    def _make_session(self, message: PrepareRun, suite: PytestSuite, scratch: Path) -> SuiteSession:
        run_id, name = message.run_id, suite.name
        return SuiteSession(
            run_id,
            suite,
            worker_name=self._worker_name,
            python=self._python,
            scratch=scratch,
            first_runner=message.first_runner,
            runner_count=message.runner_count,
            reporter=self.outbox,
            limits=self._limits,
            on_ready=lambda: self._suite_ready(run_id, name),
        )

    def _scratch_of(self, run_id: RunId, number: int) -> Path:
        if self._scratch is None:
            given = self._given_scratch
            self._scratch = make_scratch() if given is None else given.resolve()
        return self._scratch / run_id / str(number)

    def _adoptable(self, run_id: RunId, suite: PytestSuite) -> PrestartedTemplate | None:
        """The prestarted template, if it is what this suite needs; it is used once."""
        adopt = self._adopt
        if adopt is None:
            return None
        fits = adopt.python == PrestartedTemplate.interpreter_of(suite.python or self._python)
        start = adopt.start
        if adopt.is_spare:
            # It has imported with the environment and the path that an interpreter of ours has by itself.
            fits = fits and not suite.environment and suite.path_entries is None
        if start is not None:
            wanted = (run_id, list(suite.args), suite.directory, suite.environment, suite.start_method)
            told = (start["run_uid"], start["args"], start["directory"], start["environment"], start["start_method"])
            fits = fits and told == wanted
        if not fits:
            return None
        self._adopt = None
        return adopt

    def get_ready(self) -> None:
        """Have an interpreter wait for the next run, if there is no run now and none waits yet."""
        if self._keeps_spare and self._takes_leases and self._adopt is None and not self._runs:
            # Without it the next run starts later, that is all.
            with contextlib.suppress(OSError):
                self._adopt = start_template_early(self._python, is_spare=True)

    def _tell_commands(self, run_id: RunId, suite: CommandSuite) -> None:
        lacking = [spec.directory for spec in suite.commands if not os.path.isdir(spec.directory)]
        if lacking and len(lacking) == len(suite.commands):
            text = f"worker {self._worker_name} does not see {lacking[0]}: make it available at the same path there"
            self._tell_unavailable(run_id, suite, text)
            return
        fingerprint = fingerprint_of(task.task_id for task in suite.tasks)
        self.outbox.tell(
            SuiteCollected(run_id=run_id, suite=suite.name, fingerprint=fingerprint, count=len(suite.tasks))
        )
        self.outbox.wake()

    def _tell_unavailable(self, run_id: RunId, suite: PytestSuite | CommandSuite, text: str) -> None:
        status = ExitStatus.WORKER_UNFIT
        self.outbox.tell(
            SuiteFailed(run_id=run_id, suite=suite.name, kind="unavailable", text=text, exit_status=status)
        )
        self.outbox.wake()

    def send_plan(self, run_id: RunId, suite: str) -> None:
        run = self._runs.get(run_id)
        session = run.suites.get(suite) if run is not None else None
        if isinstance(session, SuiteSession):
            session.send_plan()

    def _suite_ready(self, run_id: RunId, suite: str) -> None:
        run = self._runs.get(run_id)
        session = run.suites.get(suite) if run is not None else None
        if not isinstance(session, SuiteSession):
            return
        key = (run_id, suite)
        for slot in self._slots[: session.count]:
            seat = slot.seat(key)
            if slot.is_empty and session.is_ready and isinstance(seat, RunnerSeat):
                # Up before the first lease comes.
                seat.prepare()
        for slot in self._slots:
            slot.wake_seat(key)

    def _make_seat(self, slot: Slot, key: SeatKey) -> Seat | None:
        run_id, suite = key
        run = self._runs.get(run_id)
        if run is None or suite not in run.suites:
            return None
        source = run.suites[suite]
        if isinstance(source, CommandSuite):
            return CommandSeat(
                source,
                reporter=self.outbox,
                oom_watch=self.oom_watch,
                orphan_watch=self._orphan_watch,
                limits=self._limits,
                on_progress=lambda: self._progressed(slot),
            )
        return RunnerSeat(
            slot.index,
            source,
            reporter=self.outbox,
            pacer=self._pacer,
            oom_watch=self.oom_watch,
            limits=self._limits,
            on_progress=lambda: self._progressed(slot),
        )

    def end_run(self, run_id: RunId) -> None:
        """Forget the run now; its processes finish their sessions in the background, within bounds."""
        run = self._runs.pop(run_id, None)
        if run is None:
            return
        is_done = self._is_done_with(run_id)
        seats = [seat for slot in self._slots for seat in slot.end_run(run_id)]
        self.outbox.wake()
        task = asyncio.get_running_loop().create_task(self._finish_run(run_id, run, seats, is_done=is_done))
        self._finishing.add(task)
        task.add_done_callback(self._finishing.discard)

    def _is_done_with(self, run_id: RunId) -> bool:
        return all(slot.is_done_with(run_id) for slot in self._slots)

    async def _finish_run(self, run_id: RunId, run: _Run, seats: list[Seat], *, is_done: bool) -> None:
        if is_done and not (self._is_embedded or self._runs) and self._takes_leases:
            self._is_wanted.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._is_wanted.wait(), _REST_S)
        await asyncio.gather(*(seat.finish() for seat in seats))
        await asyncio.gather(*(session.finish() for session in run.sessions))
        if self._scratch is not None:
            shutil.rmtree(self._scratch / run_id, ignore_errors=True)
        asyncio.get_running_loop().call_later(_SPARE_DELAY_S, self.get_ready)

    def forget_everything(self) -> None:
        """These runs and leases mean nothing any more: another coordinator."""
        self.outbox.forget_all()
        for run_id in list(self._runs):
            self.end_run(run_id)
        self.outbox.forget_all()

    async def close(self) -> None:
        """No process is left. Runs without a lease here finish in good order within bounds, the others are killed."""
        self._takes_leases = False
        self._is_wanted.set()
        if self._adopt is not None:
            self._adopt.close()
            self._adopt = None
        for run_id in list(self._runs):
            if self._is_done_with(run_id):
                self.end_run(run_id)
        if self._finishing:
            await asyncio.wait(self._finishing, timeout=_FINISH_TIMEOUT_S)
        runs, self._runs = self._runs, {}
        for run_id, run in runs.items():
            seats = [seat for slot in self._slots for seat in slot.end_run(run_id)]
            for seat in seats:
                seat.close()
            for session in run.sessions:
                session.close()
            await asyncio.gather(*(seat.finish() for seat in seats if isinstance(seat, CommandSeat)))
            await asyncio.gather(*(session.wait_ended() for session in run.sessions))
        self._orphan_watch.close()
        if self._scratch is not None and self._given_scratch is None:
            shutil.rmtree(self._scratch, ignore_errors=True)
