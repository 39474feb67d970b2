"""One run as the coordinator's shell sees it: whom to tell, how its suites get planned, what its runners are called."""

from __future__ import annotations

import asyncio
import dataclasses
import math
import sys
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Protocol, TypeAlias, get_args

import msgspec

from fleetest.core import commands, events
from fleetest.core.model import Capabilities, RunId, TaskId, TaskSpec, WorkerId, base_id
from fleetest.core.suite_planning import AdoptPlan, AskPlan, PlanPart, Ready, Refuse, Step, SuitePlanning, Unavailable
from fleetest.core.variants import expand_each
from fleetest.errors import ExitStatus, RemoteProtocolError
from fleetest.storage import records
from fleetest.transport.link import Link
from fleetest.wire import messages as wire
from fleetest.wire.checks import check_plan
from fleetest.wire.plan_parts import join_plans, join_reports
from fleetest.wire.report_text import shorten

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
ABSENTEES_NAMED_MAX = 5
"""So many workers that take no part in a suite are named to the client."""
COLLECTION_WAIT_S = 300.0
"""So long a suite of which something could not be imported waits for workers that may have it but do not answer."""
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
        self._planning = {suite.name: SuitePlanning() for suite in submission.suites}
        self._only = frozenset(submission.only)
        self._task_ids: set[TaskId] = set()
        self._first_runner: dict[WorkerId, int] = {}
        self._reports: dict[tuple[str, WorkerId], list[wire.CollectionReports]] = {}
        """Held back until it is known whose collection the client is told."""
        self._failures: dict[tuple[str, WorkerId], wire.SuiteFailed] = {}
        self._absentees: dict[str, set[WorkerId]] = {}
        """Workers that the client was told take no part, by suite."""
        self._collected: dict[tuple[str, WorkerId], wire.SuiteCollected] = {}
        """By suite and worker."""
        self._drafts: dict[str, list[tuple[wire.SuitePlan, Sequence[wire.CollectionReports]]]] = {}
        """Of suites whose plan is being put together: what came for its parts, in their order."""
        self._waits: dict[str, asyncio.TimerHandle] = {}
        """Of suites that may wait for those who do not answer: its end."""
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
        """Its last message. A suite that no machine could collect has had no word yet of why."""
        self.is_over = True
        for wait in self._waits.values():
            wait.cancel()
        for suite, planning in self._planning.items():
            if planning.is_open:
                self._tell_uncollected(suite)
        self.tell(wire.RunFinished(run_id=self.run_id, counts=dict(counts)))

    @property
    def notices(self) -> Sequence[str]:
        """What was said for people, once each, in order: notices of suites, why one was not collected or is empty."""
        return tuple(self._notices)

    def _is_news(self, text: str) -> bool:
        if text in self._notices or len(self._notices) >= NOTICES_MAX:
            return False
        self._notices[text] = None
        return True

    def _tell_uncollected(self, suite: str) -> None:
        """No machine could collect it: what the (first) one with the fewest errors said.

        Nothing of a run that was stopped.
        """
        if self.outcome != "finished" or self._exit_was_requested:
            return
        failures = {worker_id: failure for (name, worker_id), failure in self._failures.items() if name == suite}
        told = min(failures, key=lambda worker_id: _distance(failures[worker_id]), default=None)
        if told is not None:
            self._tell_reports(suite, told)
            self._tell_failure(failures[told])
            return
        nobody = wire.SuiteFailed(
            run_id=self.run_id,
            suite=suite,
            kind="unavailable",
            text="no worker joined in time to collect the tests: start one, or wait longer for one",
            exit_status=ExitStatus.WORKER_UNFIT,
        )
        self._tell_failure(nobody)

    def _tell_failure(self, failure: wire.SuiteFailed) -> None:
        kind, text = failure.kind.replace("_", " "), shorten(failure.text, 4000)
        self._is_news(f"{_called(failure.suite)} was not collected ({kind}): {text}")
        self.tell(failure)

    def _tell_absentee(self, suite: str, worker_id: WorkerId) -> None:
        """Others run this suite: whoever follows it learns that this worker does not, and why."""
        told = self._absentees.setdefault(suite, set())
        if worker_id in told or len(told) >= ABSENTEES_NAMED_MAX:
            return
        told.add(worker_id)
        failure = self._failures[suite, worker_id]
        reason = shorten(failure.import_error or failure.text or failure.kind.replace("_", " "), 500)
        who = "" if reason.startswith(f"worker {worker_id} ") else f"worker {worker_id} cannot run it: "
        where = f"suite {suite!r}: " if suite else ""
        others = "the others go on without it"
        if len(told) == ABSENTEES_NAMED_MAX:
            others += ", and further ones like it are not named"
        self.publish_notice(f"{where}{who}{reason} ({others})")

    def client_left(self) -> None:
        self._client = None
        self.outcome = "abandoned"

    # What workers say ----------------------------------------------------------------------------------------

    def take(self, worker_id: WorkerId, message: RunMessage) -> None:
        """Raises RemoteProtocolError for what this run has not asked for."""
        if isinstance(message, wire.SuiteCollected):
            self._suite_collected(worker_id, message)
        elif isinstance(message, wire.SuitePlan):
            self._plan_arrived(worker_id, message)
        elif isinstance(message, wire.SuiteFailed):
            self._suite_failed(worker_id, message)
        elif isinstance(message, wire.CollectionReports):
            self._collection_reports(worker_id, message)
        elif isinstance(message, wire.RunNotice):
            # Every worker has the same to say of a suite; the user reads it once.
            if self._is_news(message.text):
                self.tell(message)
        elif isinstance(message, wire.ExitRequested):
            if not self._exit_was_requested:
                self._exit_was_requested = True
                self.tell(message)
                self._shell.apply(events.RunCancelled(self.run_id, message.reason, quiet=True))
        else:
            self.tell(message)

    # Planning ------------------------------------------------------------------------------------------------

    def plan_commands(self) -> None:
        """Plan the suites whose tasks came with the submission."""
        for suite in self.submission.suites:
            if isinstance(suite, wire.CommandSuite):
                ids = [task.task_id for task in suite.tasks]
                self._planning[suite.name] = SuitePlanning.with_plan(ids)
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
        for planning in self._planning.values():
            planning.expect(command.worker_id)
        return wire.PrepareRun(
            run_id=self.run_id,
            suites=self.submission.suites,
            first_runner=command.first_runner,
            runner_count=command.runner_count,
        )

    def _suite_collected(self, worker_id: WorkerId, message: wire.SuiteCollected) -> None:
        planning = self._planning_of(message.suite)
        self._collected[message.suite, worker_id] = message
        self._take(message.suite, planning.collected(worker_id, message.fingerprint, message.unimported))

    def _plan_arrived(self, worker_id: WorkerId, plan: wire.SuitePlan) -> None:
        planning = self._planning_of(plan.suite)
        if not planning.was_asked(worker_id):
            raise RemoteProtocolError(f"a plan of suite {plan.suite!r} that nobody asked for")
        loading = self._expected
        if planning.is_open and loading is not None and not loading.done():
            loading.add_done_callback(lambda _: self._resume_plan(worker_id, plan))
        else:
            self._resume_plan(worker_id, plan)

    def _suite_failed(self, worker_id: WorkerId, failure: wire.SuiteFailed) -> None:
        planning = self._planning_of(failure.suite)
        self._failures[failure.suite, worker_id] = failure
        reason = failure.import_error or failure.text or failure.kind
        only_here = failure.kind == "unavailable" or bool(failure.import_error)
        self._take(failure.suite, planning.failed(worker_id, reason, only_here=only_here))
        if planning.fingerprint is not None and not self.is_over:
            self._tell_absentee(failure.suite, worker_id)

    def _collection_reports(self, worker_id: WorkerId, reports: wire.CollectionReports) -> None:
        planning = self._planning_of(reports.suite)
        if planning.is_open:
            self._reports.setdefault((reports.suite, worker_id), []).append(reports)
        elif planning.spokesman == worker_id and not planning.was_asked(worker_id):
            self.tell(reports)

    def worker_gone(self, worker_id: WorkerId) -> None:
        """Its link is closed: whoever waits for its plan asks another."""
        for suite, planning in self._planning.items():
            self._take(suite, planning.worker_gone(worker_id))

    def worker_back(self, worker_id: WorkerId, *, is_same_session: bool) -> None:
        """A newer link. What the same session had said of a suite still holds, so it is not asked to say it again."""
        self._plan_each_command()
        for suite, planning in self._planning.items():
            key = (suite, worker_id)
            if not is_same_session:
                # The older one had gone, and this one will answer.
                self._collected.pop(key, None)
            elif key in self._collected:
                self._reports.pop(key, None)
                planning.new_link(worker_id)
                self._suite_collected(worker_id, self._collected[key])

    def _planning_of(self, suite: str) -> SuitePlanning:
        planning = self._planning.get(suite)
        if planning is None:
            raise RemoteProtocolError(f"the run has no suite {suite!r}")
        return planning

    def _resume_plan(self, worker_id: WorkerId, plan: wire.SuitePlan) -> None:
        suite, planning = plan.suite, self._planning[plan.suite]
        if self.is_over or not planning.was_asked(worker_id):
            return  # It left while the durations were loading; another one was asked.
        if planning.is_open:
            try:
                check_plan(plan, self._task_ids, self._tasks_max)
            except RemoteProtocolError as error:
                text = f"{worker_id} sent a plan that cannot be used: {error}"
                failure = wire.SuiteFailed(run_id=self.run_id, suite=plan.suite, kind="internal_error", text=text)
                self._suite_failed(worker_id, failure)
                return
            self._drafts.setdefault(suite, []).append((plan, self._reports.pop((suite, worker_id), ())))
        self._take(suite, planning.plan_arrived(worker_id, [task.task_id for task in plan.tasks]))

    def _take(self, suite: str, steps: list[Step]) -> None:
        for step in steps:
            if self.is_over:
                return
            if isinstance(step, AskPlan):
                self._shell.tell_worker(step.worker_id, wire.SendPlan(run_id=self.run_id, suite=suite))
            elif isinstance(step, Ready):
                self._shell.apply(events.SuiteReady(step.worker_id, self.run_id, suite, self._as_planned(step.missing)))
            elif isinstance(step, Unavailable):
                self._shell.apply(events.SuiteUnavailable(step.worker_id, self.run_id, suite, step.reason))
                self._see_if_refused(suite)
            elif isinstance(step, AdoptPlan):
                self._adopt(suite, step.parts)
            elif isinstance(step, Refuse):
                self._tell_reports(suite, step.worker_id)
                self._tell_failure(self._failures[suite, step.worker_id])
                self._shell.apply(events.SuiteRefused(self.run_id, suite, step.reason))
        if self._planning[suite].is_waiting and suite not in self._waits:
            loop = asyncio.get_running_loop()
            self._waits[suite] = loop.call_later(COLLECTION_WAIT_S, self._stop_waiting, suite)

    def _stop_waiting(self, suite: str) -> None:
        self._take(suite, self._planning[suite].stop_waiting())

    def _adopt(self, suite: str, parts: Sequence[PlanPart]) -> None:
        drafts = list(zip(self._drafts.pop(suite), parts, strict=True))
        plan = join_plans([(plan, part.nodes) for (plan, _), part in drafts])
        steps = self._planning[suite].adopted(plan.fingerprint, [task.task_id for task in plan.tasks])
        for reports in join_reports([(reports, part.nodes) for (_, reports), part in drafts]):
            self.tell(reports)
        self._forget_reports(suite)
        planned = self._wanted_part(self._with_variants(plan))
        self.tell(planned)
        if not planned.tasks:
            left_out = f" ({len(planned.deselected)} deselected)" if planned.deselected else ""
            self._is_news(f"{_called(suite)} has no test to run{left_out}")
        self._plan(suite, planned.tasks)
        for absentee in [worker_id for name, worker_id in self._failures if name == suite]:
            self._tell_absentee(suite, absentee)
        self._take(suite, steps)

    def _see_if_refused(self, suite: str) -> None:
        """That was the last worker that might have collected it; other suites of the run go on."""
        planning = self._planning[suite]
        if planning.is_open and not self.is_over and self._shell.is_refused(self.run_id, suite):
            planning.is_refused = True
            self._tell_uncollected(suite)

    def _tell_reports(self, suite: str, spokesman: WorkerId) -> None:
        for reports in self._reports.pop((suite, spokesman), ()):
            self.tell(reports)
        self._forget_reports(suite)

    def _forget_reports(self, suite: str) -> None:
        for key in [key for key in self._reports if key[0] == suite]:
            del self._reports[key]

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

    def _as_planned(self, task_ids: frozenset[TaskId]) -> frozenset[TaskId]:
        """What workers call by one id may be several tasks of the plan."""
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
        self._is_news(text)
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


def _distance(failure: wire.SuiteFailed) -> float:
    """The number of errors; more than any where pytest did not begin to collect, and most where it did not start."""
    if failure.kind == "unavailable":
        return math.inf
    return len(failure.unimported) or sys.maxsize


def _called(suite: str) -> str:
    return f"suite {suite!r}" if suite else "the suite"
