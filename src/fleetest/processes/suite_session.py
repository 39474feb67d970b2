"""One pytest suite of one run on this worker: its template, its collection, and the runners made from it."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import sys
from collections.abc import Callable, Mapping
from enum import Enum
from pathlib import Path

from fleetest.core.model import RunId, TaskId
from fleetest.errors import ExitStatus
from fleetest.processes import frames
from fleetest.processes.import_failure import import_failure, unimported
from fleetest.processes.launch import PrestartedTemplate, start_frame, start_template_early
from fleetest.processes.output_forwarding import OutputForwarder
from fleetest.processes.process_groups import describe_returncode, kill_session
from fleetest.processes.reporting import ExecutionLimits, Reporter
from fleetest.processes.runner import Runner
from fleetest.processes.spawned_runner import SpawnedRunner
from fleetest.processes.suite_plan import Collection
from fleetest.processes.template_process import TemplateProcess
from fleetest.wire.messages import (
    CollectionReports,
    PytestSuite,
    RunNotice,
    SuiteCollected,
    SuiteFailed,
    SuitePlan,
)

_PYTEST_MAJOR_MIN = 7
_NO_ROOM = (errno.EAGAIN, errno.ENOMEM, errno.ENOSPC, errno.EMFILE, errno.ENFILE)
"""A process that cannot be started for one of these says nothing about its program."""
_MAY_BE_IMPORTS = frozenset({"collection_errors", "usage_error", "internal_error"})
_RESTARTS_MAX = 2
_TEMPLATE_END_S = 5.0


class _State(Enum):
    COLLECTING = "collecting"
    READY = "ready"
    FAILED = "failed"
    OVER = "over"


class SuiteSession:
    """Collects at once. ``on_ready`` is called when runners can be made (again, after a lost template was replaced)."""

    def __init__(
        self,
        run_id: RunId,
        suite: PytestSuite,
        *,
        worker_name: str,
        python: str | None,
        scratch: Path,
        first_runner: int,
        runner_count: int,
        reporter: Reporter,
        limits: ExecutionLimits,
        on_ready: Callable[[], None],
    ) -> None:
        self.run_id = run_id
        self._suite = suite
        self._worker_name = worker_name
        self._python = suite.python or python or sys.executable
        self._scratch = scratch
        self._first_runner = first_runner
        self._runner_count = runner_count
        self._reporter = reporter
        self._limits = limits
        self._on_ready = on_ready
        self._state = _State.COLLECTING
        self._template: TemplateProcess | None = None
        self._collection: Collection | None = None
        self._positions: Mapping[TaskId, int] = {}
        self._spawns = False
        self._forked: dict[int, Runner] = {}
        """By slot: runners whose exit the template will tell."""
        self._spawned: set[SpawnedRunner] = set()
        self._ended_leaders: set[int] = set()
        """Sessions whose leader ended in good order, moments ago: runners do so at the end of a run only."""
        self._reports: list[bytes] = []
        self._warnings: list[bytes] = []
        self._conclusion: SuiteCollected | SuiteFailed | None = None
        self._has_hello = False
        self._is_spare = False
        """The template waited for this run, and has not been heard of yet."""
        self._restarts = 0
        self._output = OutputForwarder(run_id, reporter)

    @property
    def is_ready(self) -> bool:
        return self._state is _State.READY

    @property
    def count(self) -> int:
        """Number of collected tests."""
        return len(self._positions)

    # Start --------------------------------------------------------------------------------------------------------

    def start(self, adopt: PrestartedTemplate | None = None) -> None:
        """Start the template, or take over one that the client started; what cannot be is told as SuiteFailed."""
        trouble = self._find_trouble()
        if trouble:
            if adopt is not None:
                adopt.close()
            status = ExitStatus.WORKER_UNFIT if self._is_unseen() else ExitStatus.INTERPRETER_UNUSABLE
            self._fail("unavailable", f"worker {self._worker_name} {trouble}", status)
            return
        if adopt is not None and adopt.start is not None:
            self._scratch = Path(adopt.start["scratch"])
        try:
            self._scratch.mkdir(parents=True, exist_ok=True)
            started = adopt or start_template_early(self._python)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            subject = error.filename or self._python
            is_interpreter = subject == self._python and error.errno not in _NO_ROOM
            status = ExitStatus.INTERPRETER_UNUSABLE if is_interpreter else ExitStatus.WORKER_UNFIT
            self._fail("unavailable", f"worker {self._worker_name} cannot use {subject}: {reason}", status)
            return
        self._is_spare = started.is_spare
        self._template = TemplateProcess(
            started, on_frame=self._take_frame, on_output=self._output.write, on_end=self._template_ended
        )
        if started.start is None:
            self._template.send(self._start_frame())

    def _is_unseen(self) -> bool:
        return not os.path.isdir(self._suite.directory)

    def _find_trouble(self) -> str:
        if self._is_unseen():
            return (
                f"does not see {self._suite.directory}: make the suite available at the same path there,"
                f" or run it on workers that have it"
            )
        if os.path.dirname(self._python) and not os.access(self._python, os.X_OK):
            return f"has no interpreter {self._python}: install it there or give another with --python"
        return ""

    def _start_frame(self, mode: str = "template", runner_id: str | None = None) -> dict[str, object]:
        basetemp = self._collection.collected.basetemp if self._collection is not None else None
        return start_frame(
            args=self._suite.args,
            directory=self._suite.directory,
            run_uid=self.run_id,
            runner_count=self._runner_count,
            scratch=str(self._scratch),
            mode=mode,
            environment=self._suite.environment,
            path_entries=self._suite.path_entries,
            start_method=self._suite.start_method,
            runner_id=runner_id,
            output_limit_bytes=self._limits.output_limit_bytes,
            basetemp=basetemp if mode == "runner" else None,
        )

    # What the template says ---------------------------------------------------------------------------------------

    def _take_frame(self, frame: frames.ControlFrame) -> None:
        if isinstance(frame, frames.Forked):
            runner = self._forked.get(frame.slot)
            if runner is not None:
                runner.has_started(frame.pid)
        elif isinstance(frame, frames.Exited):
            runner = self._forked.get(frame.slot)
            if runner is not None and runner.pid == frame.pid:
                del self._forked[frame.slot]
                if frame.status == 0:
                    self._ended_leaders.add(frame.pid)
                runner.has_exited(frame.status)
        elif isinstance(frame, frames.ForkFailed):
            runner = self._forked.pop(frame.slot, None)
            if runner is not None:
                runner.has_exited(None, f"worker {self._worker_name}: {frame.reason}")
        elif isinstance(frame, frames.Hello):
            self._take_hello(frame)
        elif isinstance(frame, frames.CollectReport):
            self._reports.append(bytes(frame.report))
        elif isinstance(frame, frames.CollectionWarning):
            self._warnings.append(bytes(frame.warning))
        elif isinstance(frame, frames.Collected):
            self._take_collection(frame)
        else:
            self._take_failure(frame)

    def _take_hello(self, hello: frames.Hello) -> None:
        self._has_hello, self._is_spare = True, False
        major = hello.pytest.partition(".")[0]
        if major.isdigit() and int(major) < _PYTEST_MAJOR_MIN:
            self._fail(
                "unavailable",
                f"worker {self._worker_name}: {self._python} has pytest {hello.pytest}, too old: install pytest >= 7",
                ExitStatus.INTERPRETER_UNUSABLE,
            )

    def _take_collection(self, frame: frames.Collected) -> None:
        if self._state is not _State.COLLECTING:
            return
        collection = Collection(self._suite, frame)
        if collection.errors:
            self._reports.extend(error.collect_report() for error in collection.errors)
            self._fail(
                "collection_errors",
                "\n".join(error.message for error in collection.errors),
                collected=len(collection.task_ids),
            )
            return
        is_first = self._collection is None
        self._collection = collection
        self._positions = collection.positions()
        self._spawns = frame.start_method == "spawn"
        self._state = _State.READY
        if is_first:
            if self._spawns and frame.reason:
                text = f"runners are started afresh instead of forked: {frame.reason}"
                self._reporter.tell(RunNotice(run_id=self.run_id, text=text))
            self._conclude(
                SuiteCollected(
                    run_id=self.run_id,
                    suite=self._suite.name,
                    fingerprint=collection.fingerprint,
                    count=len(collection.task_ids),
                    unimported=unimported(self._reports),
                )
            )
        self._on_ready()

    def _conclude(self, conclusion: SuiteCollected | SuiteFailed) -> None:
        self._conclusion = conclusion
        self.tell_conclusion()

    def tell_conclusion(self) -> None:
        """Say what came of the collection, if that is known: again, if it may have been lost with a link."""
        if self._conclusion is not None:
            self._reporter.tell(self._conclusion)
            self._reporter.wake()

    def _take_failure(self, failed: frames.Failed) -> None:
        if failed.kind == "no_pytest":
            text = (
                f"worker {self._worker_name}: {self._python} cannot import pytest ({failed.text}): install it with"
                f" `{self._python} -m pip install pytest`, or give another interpreter with --python"
            )
            self._fail("unavailable", text, ExitStatus.INTERPRETER_UNUSABLE)
        else:
            self._fail(failed.kind, failed.text, failed.exit_status, failed.collected)

    def _fail(self, kind: str, text: str, exit_status: int | None = None, collected: int = 0) -> None:
        if self._state is not _State.COLLECTING:
            return
        self._state = _State.FAILED
        self._tell_reports()
        self._conclude(
            SuiteFailed(
                run_id=self.run_id,
                suite=self._suite.name,
                kind=kind,
                text=text,
                exit_status=exit_status,
                collected=collected,
                import_error=import_failure(text, self._reports) if kind in _MAY_BE_IMPORTS else "",
                unimported=unimported(self._reports),
            )
        )
        if self._template is not None:
            self._template.finish()
        if self._restarts:
            # Seats wait for runners that will never be: they give their leases back now.
            self._on_ready()

    def _tell_reports(self) -> None:
        if self._reports or self._warnings:
            self._reporter.tell(
                CollectionReports(
                    run_id=self.run_id,
                    suite=self._suite.name,
                    reports=tuple(self._reports),
                    warnings=tuple(self._warnings),
                )
            )

    def send_plan(self) -> None:
        """Answer SendPlan: collect reports and warnings, then the plan."""
        collection = self._collection
        if collection is None:
            return
        self._tell_reports()
        self._reporter.tell(
            SuitePlan(
                run_id=self.run_id,
                suite=self._suite.name,
                fingerprint=collection.fingerprint,
                tasks=collection.tasks(),
                items=collection.items(),
                deselected=tuple(collection.collected.deselected),
                report_lines=tuple(collection.collected.report_lines),
            )
        )
        self._reporter.wake()

    def _template_ended(self, returncode: int | None) -> None:
        template, self._template = self._template, None
        assert template is not None
        self._output.say_what_was_dropped()
        forked, self._forked = self._forked, {}
        if self._state is _State.COLLECTING and self._is_spare:
            # What it had imported is not what would be imported now, or somebody killed it: nothing of it was used.
            self.start()
        elif self._state is _State.COLLECTING:
            how = describe_returncode(returncode)
            what = "the process that collects the tests" if self._has_hello else f"{self._python}"
            detail = f": {template.trouble}" if template.trouble else ""
            kind = "internal_error" if self._has_hello else "unavailable"
            status = None if self._has_hello else ExitStatus.INTERPRETER_UNUSABLE
            before = "before the collection was complete" if self._has_hello else "before it could run pytest"
            self._fail(kind, f"worker {self._worker_name}: {what} {how} {before}{detail}", status)
        elif self._state is _State.READY and not self._spawns:
            self._replace_template(describe_returncode(returncode))
        for runner in forked.values():
            # They die with their template (or are killed here); nobody can say how each of them ended.
            runner.kill()
            runner.has_exited(None)

    def _replace_template(self, how: str) -> None:
        self._restarts += 1
        if self._restarts > _RESTARTS_MAX:
            return
        text = f"the process that runners are forked from {how} on worker {self._worker_name}: it is started again"
        self._reporter.tell(RunNotice(run_id=self.run_id, text=text))
        self._state = _State.COLLECTING
        self._has_hello = False
        self.start()

    # Runners ------------------------------------------------------------------------------------------------------

    def start_runner(self, slot: int, on_change: Callable[[], None]) -> Runner | None:
        """See ``runner_seat.RunnerSource``."""
        if self._state is not _State.READY:
            return self._runner_that_cannot_be(slot, on_change) if self._state is _State.FAILED else None
        if self._spawns:
            return self._spawn(slot, on_change)
        if self._template is None:
            return self._runner_that_cannot_be(slot, on_change)
        runner = Runner(self._runner_id(slot), self._scratch, self._positions, on_change)
        self._forked[slot] = runner
        frame = {"type": "fork", "slot": slot, "runner_id": runner.runner_id}
        self._template.send(frame, runner.channel.far_ends)
        runner.channel.handed_over()
        return runner

    def _spawn(self, slot: int, on_change: Callable[[], None]) -> Runner:
        runner_id = self._runner_id(slot)
        runner = SpawnedRunner(runner_id, self._scratch, on_change, suite_name=self._suite.name)
        self._spawned.add(runner)
        runner.launch(self._python, self._start_frame("runner", runner_id), self._output.write, self._spawned.discard)
        return runner

    def _runner_that_cannot_be(self, slot: int, on_change: Callable[[], None]) -> Runner:
        runner = Runner(self._runner_id(slot), self._scratch, {}, on_change)
        trouble = f"worker {self._worker_name} has no template of the suite any more: it died too often"
        runner.channel.handed_over()
        runner.has_exited(None, trouble)
        return runner

    def _runner_id(self, slot: int) -> str:
        return f"gw{self._first_runner + slot}"

    # End ----------------------------------------------------------------------------------------------------------

    async def finish(self) -> None:
        """Every seat has ended: end the template in good order, within bounds, and leave nothing behind."""
        is_collecting = self._state is _State.COLLECTING
        self._state = _State.OVER
        template = self._template
        if template is not None:
            if is_collecting:
                template.kill()
            template.finish()
            if not await template.wait_ended(_TEMPLATE_END_S):
                template.kill()
                await template.wait_ended(_TEMPLATE_END_S)
        ends = [runner.wait_exited(_TEMPLATE_END_S) for runner in self._spawned]
        await asyncio.gather(*ends)
        if template is not None:
            self._ended_leaders.add(template.pid)
        kill_session(*self._ended_leaders)
        self.close()

    def close(self) -> None:
        """Kill at once what is left."""
        self._state = _State.OVER
        for runner in [*self._forked.values(), *self._spawned]:
            runner.kill()
        if self._template is not None:
            self._template.kill()
        shutil.rmtree(self._scratch, ignore_errors=True)

    async def wait_ended(self) -> None:
        """After ``close``: until every process is reaped, within bounds."""
        if self._template is not None:
            await self._template.wait_ended(_TEMPLATE_END_S)
        for runner in list(self._spawned):
            await runner.wait_exited(_TEMPLATE_END_S)
