"""One run as the coordinator's shell sees it: whom to tell, what its suites consist of, what its runners are called."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Protocol, TypeAlias, get_args

import msgspec

from fleetest.core import commands, events
from fleetest.core.model import Capabilities, RunId, TaskId, TaskSpec, WorkerId, base_id
from fleetest.core.suite_planning import SuitePlanning
from fleetest.core.variants import expand_each
from fleetest.errors import RemoteProtocolError
from fleetest.storage import records
from fleetest.suite_collection import SuiteCollection, called
from fleetest.transport.link import Link
from fleetest.wire import messages as wire
from fleetest.wire.checks import check_plan

ClientLink = Link[wire.ClientMessage, wire.CoordinatorToClient]
RunMessage: TypeAlias = (
    wire.SuiteCollected
    | wire.SuitePlan
    | wire.SuiteFailed
    | wire.CollectionReports
    | wire.RunNotice
    | wire.RunWarnings
    | wire.RunOutput
    | wire.ExitRequested
)
RUN_MESSAGES = get_args(RunMessage)
"""What a worker says of one run."""
NOTICES_MAX = 200
ExpectedDurations = asyncio.Future[Mapping[str, float]]


class Shell(Protocol):
    """What a live run needs of the coordinator."""

    def apply(self, event: events.Event) -> None: ...

    def tell_worker(self, worker_id: WorkerId, message: wire.CoordinatorMessage) -> None: ...

    def record(self, *rows: records.Record) -> None: ...

    def known_capabilities(self) -> list[Capabilities]:
        """Of the workers that are there."""

    def is_refused(self, run_id: RunId, suite: str) -> bool:
        """True if the suite of this run ended without a plan."""


class LiveRun:
    """From its submission to its last verdict. ``expected`` are the expected durations by task, being loaded.

    ``client`` None: nobody follows it.
    """

    def __init__(
        self,
        shell: Shell,
        submission: wire.SubmitRun,
        client: ClientLink | None,
        expected: ExpectedDurations | None,
        tasks_max: int,
        submitter: str = "",
    ) -> None:
        self.run_id: RunId = submission.run_id
        self.submission = submission
        self.submitter = submitter
        """Id of the token that it was submitted with."""
        self.submitted_at = time.time()
        self.outcome = "finished"
        """As history calls it: finished, cancelled or abandoned."""
        self._exit_was_requested = False
        self.is_over = False
        self._shell = shell
        self._client = client
        self._expected = expected
        self._tasks_max = tasks_max
        self._suites = {suite.name: SuiteCollection(suite.name, self, SuitePlanning()) for suite in submission.suites}
        self._only = frozenset(submission.only)
        self._task_ids: set[TaskId] = set()
        self._first_runner: dict[WorkerId, int] = {}
        self._notices: dict[str, None] = {}
        self._variants: dict[TaskId, list[TaskId]] = {}
        """Of tests that run once on each value of a capability, by the id under which workers know them."""
        self._unplanned: list[wire.CommandSuite] = []
        """Commands that are for each value of a capability, while there is no worker to have any."""

    # The client ----------------------------------------------------------------------------------------------

    def tell(self, message: wire.CoordinatorToClient) -> None:
        if self._client is not None:
            self._client.send(message)

    def finish(self, counts: Mapping[str, int]) -> None:
        """Its last message."""
        self.is_over = True
        for suite in self._suites.values():
            suite.finish()
        self.tell(wire.RunFinished(run_id=self.run_id, counts=dict(counts)))

    @property
    def notices(self) -> Sequence[str]:
        """What was said for people, once each, in order: notices of suites, why one was not collected or is empty."""
        return tuple(self._notices)

    def note(self, text: str) -> bool:
        """Keep what is for people. False if it was said before, or too much was."""
        if text in self._notices or len(self._notices) >= NOTICES_MAX:
            return False
        self._notices[text] = None
        return True

    @property
    def is_stopped(self) -> bool:
        """True if it ends before its time."""
        return self.outcome != "finished" or self._exit_was_requested

    def client_left(self) -> None:
        self._client = None
        self.outcome = "abandoned"

    # What workers say ----------------------------------------------------------------------------------------

    def take(self, worker_id: WorkerId, message: RunMessage) -> None:
        """Raises RemoteProtocolError for what this run has not asked for."""
        if isinstance(message, wire.SuiteCollected):
            self._suite(message.suite).collected(worker_id, message)
        elif isinstance(message, wire.SuitePlan):
            self._suite(message.suite).plan_arrived(worker_id, message)
        elif isinstance(message, wire.SuiteFailed):
            self._suite(message.suite).failed(worker_id, message)
        elif isinstance(message, wire.CollectionReports):
            self._suite(message.suite).reported(worker_id, message)
        elif isinstance(message, wire.RunNotice):
            # Every worker has the same to say of a suite; the user reads it once.
            if self.note(message.text):
                self.tell(message)
        elif isinstance(message, wire.ExitRequested):
            if not self._exit_was_requested:
                self._exit_was_requested = True
                self.tell(message)
                self._shell.apply(events.RunCancelled(self.run_id, message.reason, quiet=True))
        else:
            self.tell(message)

    # Its suites ----------------------------------------------------------------------------------------------

    def plan_commands(self) -> None:
        """Plan the suites whose tasks came with the submission."""
        for suite in self.submission.suites:
            if isinstance(suite, wire.CommandSuite):
                ids = [task.task_id for task in suite.tasks]
                self._suites[suite.name] = SuiteCollection(suite.name, self, SuitePlanning.with_plan(ids))
                if any(task.each for task in suite.tasks):
                    self._unplanned.append(suite)
                else:
                    self._plan(suite.name, [task for task in suite.tasks if self._is_wanted(task)])
        self._plan_each_command()

    def _plan_each_command(self) -> None:
        """Plan the commands that are for each value of a capability, once there is a worker."""
        if not self._shell.known_capabilities():
            return
        suites, self._unplanned = self._unplanned, []
        for suite in suites:
            tasks = [task for task in self._expand(suite.tasks) if self._is_wanted(task)]
            self.tell(wire.SuitePlan(run_id=self.run_id, suite=suite.name, fingerprint="", tasks=tasks, items=[]))
            self._plan(suite.name, tasks)

    def prepare(self, command: commands.PrepareRun) -> wire.PrepareRun:
        self._first_runner[command.worker_id] = command.first_runner
        for suite in self._suites.values():
            suite.expect(command.worker_id)
        return wire.PrepareRun(
            run_id=self.run_id,
            suites=self.submission.suites,
            first_runner=command.first_runner,
            runner_count=command.runner_count,
        )

    def worker_gone(self, worker_id: WorkerId) -> None:
        """Its link is closed: whoever waits for its plan asks another."""
        for suite in self._suites.values():
            suite.worker_gone(worker_id)

    def worker_back(self, worker_id: WorkerId, *, is_same_session: bool) -> None:
        """A newer link."""
        self._plan_each_command()
        for suite in self._suites.values():
            suite.worker_back(worker_id, is_same_session=is_same_session)

    def _suite(self, name: str) -> SuiteCollection:
        suite = self._suites.get(name)
        if suite is None:
            raise RemoteProtocolError(f"the run has no suite {name!r}")
        return suite

    # For its suites ------------------------------------------------------------------------------------------

    def apply(self, event: events.Event) -> None:
        self._shell.apply(event)

    def tell_worker(self, worker_id: WorkerId, message: wire.CoordinatorMessage) -> None:
        self._shell.tell_worker(worker_id, message)

    def is_refused(self, suite: str) -> bool:
        return self._shell.is_refused(self.run_id, suite)

    def when_durations_are_known(self, call: Callable[[], None]) -> None:
        loading = self._expected
        if loading is not None and not loading.done():
            loading.add_done_callback(lambda _: call())
        else:
            call()

    def check(self, plan: wire.SuitePlan) -> None:
        check_plan(plan, self._task_ids, self._tasks_max)

    def adopt(self, plan: wire.SuitePlan) -> None:
        planned = self._wanted_part(self._with_variants(plan))
        self.tell(planned)
        if not planned.tasks:
            left_out = f" ({len(planned.deselected)} deselected)" if planned.deselected else ""
            self.note(f"{called(plan.suite)} has no test to run{left_out}")
        self._plan(plan.suite, planned.tasks)

    # What a suite consists of --------------------------------------------------------------------------------

    def _with_variants(self, plan: wire.SuitePlan) -> wire.SuitePlan:
        """The plan with tests for each value of a capability as one test per value that the fleet has now."""
        if not any(task.each for task in plan.tasks):
            return plan
        tasks = self._expand(plan.tasks)
        items = {task.task_id: item for task, item in zip(plan.tasks, plan.items, strict=True)}
        copies = [items[base_id(task.task_id, task.variant)] for task in tasks]
        return msgspec.structs.replace(plan, tasks=tasks, items=copies)

    def _expand(self, tasks: Collection[TaskSpec]) -> list[TaskSpec]:
        expanded = expand_each(tasks, self._shell.known_capabilities())
        for task in expanded:
            if task.variant:
                self._variants.setdefault(base_id(task.task_id, task.variant), []).append(task.task_id)
        return expanded

    def as_planned(self, task_ids: frozenset[TaskId]) -> frozenset[TaskId]:
        if not self._variants or self._variants.keys().isdisjoint(task_ids):
            return task_ids
        return frozenset(planned for task_id in task_ids for planned in self._variants.get(task_id, (task_id,)))

    def _plan(self, suite: str, tasks: Collection[TaskSpec]) -> None:
        self._task_ids.update(task.task_id for task in tasks)
        rows = [(task.task_id, task.suite, task.group, position) for position, task in enumerate(tasks)]
        self._shell.record(records.TasksPlanned(self.run_id, rows))
        self._shell.apply(events.SuitePlanned(self.run_id, suite, self._with_durations(tasks)))

    def _is_wanted(self, task: TaskSpec) -> bool:
        return not self._only or task.task_id in self._only

    def _wanted_part(self, plan: wire.SuitePlan) -> wire.SuitePlan:
        """Workers collect all of a suite, so that ids and fixtures are the same; the rest is never handed out."""
        if not self._only:
            return plan
        kept = [(task, item) for task, item in zip(plan.tasks, plan.items, strict=True) if self._is_wanted(task)]
        left_out = tuple(
            item.node_id for task, item in zip(plan.tasks, plan.items, strict=True) if not self._is_wanted(task)
        )
        return msgspec.structs.replace(
            plan,
            tasks=[task for task, _ in kept],
            items=[item for _, item in kept],
            deselected=(*plan.deselected, *left_out),
        )

    def _with_durations(self, tasks: Collection[TaskSpec]) -> list[TaskSpec]:
        loading = self._expected
        known: Mapping[str, float] = {}
        if loading is not None and loading.done() and loading.exception() is None:
            known = loading.result()
        if not known:
            return list(tasks)
        return [
            task if expected_s is None else dataclasses.replace(task, expected_s=expected_s)
            for task, expected_s in ((task, _expected_s(task, known)) for task in tasks)
        ]

    # Outcomes ------------------------------------------------------------------------------------------------

    def publish_started(self, command: commands.PublishStarted) -> None:
        if self._client is not None:
            tasks = tuple(
                (task_id, attempt, str(worker_id), self._runner(worker_id, slot))
                for task_id, attempt, worker_id, slot in command.tasks
            )
            self._client.send(wire.TasksStarted(run_id=self.run_id, tasks=tasks))

    def publish_notice(self, text: str) -> None:
        """Something that somebody waits for, at once, as often as it is so."""
        self.note(text)
        self.tell(wire.RunNotice(run_id=self.run_id, text=text, is_urgent=True))

    def publish_outcomes(self, command: commands.PublishOutcomes) -> None:
        """Tell the client and history. What came under a stale lease is evidence for history alone."""
        told: list[wire.Outcome] = []
        rows: list[records.AttemptRecorded] = []
        for outcome in command.outcomes:
            rows += [
                self._row(member, f"rank {rank} of a gang of {len(outcome.members)}")
                for rank, member in enumerate(outcome.members)
            ]
            rows.append(
                self._row(outcome, f"superseded: {outcome.reason}" if outcome.is_superseded else outcome.reason)
            )
            if not outcome.is_superseded:
                told.append(self._outcome(outcome))
        if told:
            self.tell(wire.TasksFinished(run_id=self.run_id, outcomes=told))
        self._shell.record(*rows)

    def _row(self, outcome: commands.TaskOutcome, reason: str) -> records.AttemptRecorded:
        return records.AttemptRecorded(
            self.run_id,
            outcome.task_id,
            outcome.attempt,
            outcome.verdict,
            outcome.is_final,
            outcome.worker_id or "",
            self._runner_of(outcome),
            outcome.slot,
            reason,
            outcome.result,
        )

    def _outcome(self, outcome: commands.TaskOutcome) -> wire.Outcome:
        return wire.Outcome(
            task_id=outcome.task_id,
            attempt=outcome.attempt,
            verdict=outcome.verdict,
            is_final=outcome.is_final,
            worker=outcome.worker_id or "",
            runner=self._runner_of(outcome),
            result=outcome.result,
            reason=outcome.reason,
            members=tuple(map(self._outcome, outcome.members)),
        )

    def _runner_of(self, outcome: commands.TaskOutcome) -> str:
        if outcome.slot is None or not outcome.worker_id:
            return ""
        return self._runner(outcome.worker_id, outcome.slot)

    def _runner(self, worker_id: WorkerId, slot: int) -> str:
        return f"gw{self._first_runner.get(worker_id, 0) + slot}"


def _expected_s(task: TaskSpec, known: Mapping[str, float]) -> float | None:
    """From history; a variant that never ran is expected to take what the test took elsewhere."""
    expected_s = known.get(task.task_id)
    return known.get(base_id(task.task_id, task.variant)) if expected_s is None else expected_s
