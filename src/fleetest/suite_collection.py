"""One suite of a live run while workers collect it: whose collection counts, and what the client is told of them."""

from __future__ import annotations

import asyncio
import math
import sys
from collections.abc import Callable, Sequence
from typing import Protocol

from fleetest.core import events
from fleetest.core.model import RunId, TaskId, WorkerId
from fleetest.core.suite_planning import AdoptPlan, AskPlan, PlanPart, Ready, Refuse, Step, SuitePlanning, Unavailable
from fleetest.errors import ExitStatus, RemoteProtocolError
from fleetest.wire import messages as wire
from fleetest.wire.plan_parts import join_plans, join_reports
from fleetest.wire.report_text import shorten

ABSENTEES_NAMED_MAX = 5
"""So many workers that take no part in a suite are named to the client."""
COLLECTION_WAIT_S = 300.0
"""So long a suite of which something could not be imported waits for workers that may have it but do not answer."""


class Host(Protocol):
    """What a suite needs of its run."""

    run_id: RunId
    is_over: bool

    @property
    def is_stopped(self) -> bool:
        """True if it ends before its time: nobody asks any more why a suite was not collected."""

    def apply(self, event: events.Event) -> None: ...

    def tell(self, message: wire.CoordinatorToClient) -> None: ...

    def tell_worker(self, worker_id: WorkerId, message: wire.CoordinatorMessage) -> None: ...

    def note(self, text: str) -> bool:
        """Keep what is for people. False if it was said before."""

    def publish_notice(self, text: str) -> None: ...

    def is_refused(self, suite: str) -> bool:
        """True if the suite ended without a plan."""

    def when_durations_are_known(self, call: Callable[[], None]) -> None: ...

    def check(self, plan: wire.SuitePlan) -> None:
        """Raises RemoteProtocolError for a plan that this run cannot have."""

    def adopt(self, plan: wire.SuitePlan) -> None:
        """These are the suite's tests: tell the client, and hand them out."""

    def as_planned(self, task_ids: frozenset[TaskId]) -> frozenset[TaskId]:
        """What workers call by one id may be several tasks of the plan."""


class SuiteCollection:
    """``planning``: what was decided until now, or that the tasks came with the submission."""

    def __init__(self, name: str, host: Host, planning: SuitePlanning) -> None:
        self._name = name
        self._host = host
        self._planning = planning
        self._reports: dict[WorkerId, list[wire.CollectionReports]] = {}
        """Held back until it is known whose collection the client is told."""
        self._failures: dict[WorkerId, wire.SuiteFailed] = {}
        self._absentees: set[WorkerId] = set()
        """Workers that the client was told take no part."""
        self._collected: dict[WorkerId, wire.SuiteCollected] = {}
        self._drafts: list[tuple[wire.SuitePlan, Sequence[wire.CollectionReports]]] = []
        """While the plan is being put together: what came for its parts, in their order."""
        self._wait: asyncio.TimerHandle | None = None
        """Once it may wait for those who do not answer: the end of that."""

    # What workers say ----------------------------------------------------------------------------------------

    def expect(self, worker_id: WorkerId) -> None:
        self._planning.expect(worker_id)

    def collected(self, worker_id: WorkerId, message: wire.SuiteCollected) -> None:
        self._collected[worker_id] = message
        self._take(self._planning.collected(worker_id, message.fingerprint, message.unimported))

    def plan_arrived(self, worker_id: WorkerId, plan: wire.SuitePlan) -> None:
        """Raises RemoteProtocolError if nobody asked for it."""
        if not self._planning.was_asked(worker_id):
            raise RemoteProtocolError(f"a plan of suite {plan.suite!r} that nobody asked for")
        if self._planning.is_open:
            self._host.when_durations_are_known(lambda: self._resume_plan(worker_id, plan))
        else:
            self._resume_plan(worker_id, plan)

    def failed(self, worker_id: WorkerId, failure: wire.SuiteFailed) -> None:
        self._failures[worker_id] = failure
        reason = failure.import_error or failure.text or failure.kind
        only_here = failure.kind == "unavailable" or bool(failure.import_error)
        self._take(self._planning.failed(worker_id, reason, only_here=only_here))
        if self._planning.fingerprint is not None and not self._host.is_over:
            self._tell_absentee(worker_id)

    def reported(self, worker_id: WorkerId, reports: wire.CollectionReports) -> None:
        planning = self._planning
        if planning.is_open:
            self._reports.setdefault(worker_id, []).append(reports)
        elif planning.spokesman == worker_id and not planning.was_asked(worker_id):
            self._host.tell(reports)

    def worker_gone(self, worker_id: WorkerId) -> None:
        """Its link is closed: whoever waits for its plan asks another."""
        self._take(self._planning.worker_gone(worker_id))

    def worker_back(self, worker_id: WorkerId, *, is_same_session: bool) -> None:
        """A newer link. What the same session had said still holds, so it is not asked to say it again."""
        if not is_same_session:
            # The older one had gone, and this one will answer.
            self._collected.pop(worker_id, None)
        elif worker_id in self._collected:
            self._reports.pop(worker_id, None)
            self._planning.new_link(worker_id)
            self.collected(worker_id, self._collected[worker_id])

    def finish(self) -> None:
        """The run is over. A suite that no machine could collect has had no word yet of why."""
        if self._wait is not None:
            self._wait.cancel()
        if self._planning.is_open:
            self._tell_uncollected()

    # What follows from it ------------------------------------------------------------------------------------

    def _resume_plan(self, worker_id: WorkerId, plan: wire.SuitePlan) -> None:
        planning, host = self._planning, self._host
        if host.is_over or not planning.was_asked(worker_id):
            return  # It left while the durations were loading; another one was asked.
        if planning.is_open:
            try:
                host.check(plan)
            except RemoteProtocolError as error:
                text = f"{worker_id} sent a plan that cannot be used: {error}"
                self.failed(
                    worker_id,
                    wire.SuiteFailed(run_id=host.run_id, suite=self._name, kind="internal_error", text=text),
                )
                return
            self._drafts.append((plan, self._reports.pop(worker_id, ())))
        self._take(planning.plan_arrived(worker_id, [task.task_id for task in plan.tasks]))

    def _take(self, steps: list[Step]) -> None:
        name, host = self._name, self._host
        for step in steps:
            if host.is_over:
                return
            if isinstance(step, AskPlan):
                host.tell_worker(step.worker_id, wire.SendPlan(run_id=host.run_id, suite=name))
            elif isinstance(step, Ready):
                host.apply(events.SuiteReady(step.worker_id, host.run_id, name, host.as_planned(step.missing)))
            elif isinstance(step, Unavailable):
                host.apply(events.SuiteUnavailable(step.worker_id, host.run_id, name, step.reason))
                self._see_if_refused()
            elif isinstance(step, AdoptPlan):
                self._adopt(step.parts)
            elif isinstance(step, Refuse):
                self._tell_reports(step.worker_id)
                self._tell_failure(self._failures[step.worker_id])
                host.apply(events.SuiteRefused(host.run_id, name, step.reason))
        if self._planning.is_waiting and self._wait is None:
            self._wait = asyncio.get_running_loop().call_later(COLLECTION_WAIT_S, self._stop_waiting)

    def _stop_waiting(self) -> None:
        self._take(self._planning.stop_waiting())

    def _adopt(self, parts: Sequence[PlanPart]) -> None:
        drafts = list(zip(self._drafts, parts, strict=True))
        plan = join_plans([(plan, part.nodes) for (plan, _), part in drafts])
        steps = self._planning.adopted(plan.fingerprint, [task.task_id for task in plan.tasks])
        for reports in join_reports([(reports, part.nodes) for (_, reports), part in drafts]):
            self._host.tell(reports)
        self._drafts.clear()
        self._reports.clear()
        self._host.adopt(plan)
        for absentee in list(self._failures):
            self._tell_absentee(absentee)
        self._take(steps)

    def _see_if_refused(self) -> None:
        """That was the last worker that might have collected it; other suites of the run go on."""
        planning, host = self._planning, self._host
        if planning.is_open and not host.is_over and host.is_refused(self._name):
            planning.is_refused = True
            self._tell_uncollected()

    # What the client is told ---------------------------------------------------------------------------------

    def _tell_uncollected(self) -> None:
        """No machine could collect it: what the (first) one with the fewest errors said."""
        if self._host.is_stopped:
            return
        failures = self._failures
        told = min(failures, key=lambda worker_id: _distance(failures[worker_id]), default=None)
        if told is not None:
            self._tell_reports(told)
            self._tell_failure(failures[told])
            return
        nobody = wire.SuiteFailed(
            run_id=self._host.run_id,
            suite=self._name,
            kind="unavailable",
            text="no worker joined in time to collect the tests: start one, or wait longer for one",
            exit_status=ExitStatus.WORKER_UNFIT,
        )
        self._tell_failure(nobody)

    def _tell_reports(self, spokesman: WorkerId) -> None:
        for reports in self._reports.pop(spokesman, ()):
            self._host.tell(reports)
        self._reports.clear()

    def _tell_failure(self, failure: wire.SuiteFailed) -> None:
        kind, text = failure.kind.replace("_", " "), shorten(failure.text, 4000)
        self._host.note(f"{called(failure.suite)} was not collected ({kind}): {text}")
        self._host.tell(failure)

    def _tell_absentee(self, worker_id: WorkerId) -> None:
        """Others run this suite: whoever follows it learns that this worker does not, and why."""
        told = self._absentees
        if worker_id in told or len(told) >= ABSENTEES_NAMED_MAX:
            return
        told.add(worker_id)
        failure = self._failures[worker_id]
        reason = shorten(failure.import_error or failure.text or failure.kind.replace("_", " "), 500)
        who = "" if reason.startswith(f"worker {worker_id} ") else f"worker {worker_id} cannot run it: "
        where = f"suite {self._name!r}: " if self._name else ""
        others = "the others go on without it"
        if len(told) == ABSENTEES_NAMED_MAX:
            others += ", and further ones like it are not named"
        self._host.publish_notice(f"{where}{who}{reason} ({others})")


def called(suite: str) -> str:
    """What people call it: the only suite of a run has no name."""
    return f"suite {suite!r}" if suite else "the suite"


def _distance(failure: wire.SuiteFailed) -> float:
    """The number of errors; more than any where pytest did not begin to collect, and most where it did not start."""
    if failure.kind == "unavailable":
        return math.inf
    return len(failure.unimported) or sys.maxsize
