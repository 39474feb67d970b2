"""What is known of a suite run: the plan in order, one final outcome per task, and what else is worth telling."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from fleetest.client.variant_matrix import VariantMatrix
from fleetest.core.model import TaskId, TaskSpec, Verdict, base_id
from fleetest.errors import ExitStatus
from fleetest.wire.messages import (
    CollectionReports,
    CoordinatorToClient,
    ExitRequested,
    FleetChanged,
    ItemInfo,
    Outcome,
    RunAccepted,
    RunFinished,
    RunNotice,
    RunWarnings,
    SuiteFailed,
    SuitePlan,
    TasksFinished,
)
from fleetest.wire.portable_values import read_fields


@dataclass(frozen=True, slots=True)
class TaskResult:
    """One planned task and its verdict; ``outcome`` is None if the run ended without one (fleet lost)."""

    task_id: TaskId
    suite: str
    item: ItemInfo | None
    """None for commands."""
    outcome: Outcome | None
    earlier: tuple[Outcome, ...] = ()
    """Attempts before the one that counts."""
    variant: str = ""
    """``name=value`` if the test ran once on each value of a capability."""

    @property
    def verdict(self) -> Verdict:
        return Verdict.NOT_RUN if self.outcome is None else self.outcome.verdict


@dataclass(slots=True)
class SuiteResults:
    """Fed with every message of the run, in order."""

    slots: int = 0
    """Room in the fleet, as it was last."""
    is_finished: bool = False
    failures: list[SuiteFailed] = field(default_factory=list)
    exit_request: ExitRequested | None = None
    notices: list[str] = field(default_factory=list)
    collection_errors: list[tuple[str, bytes]] = field(default_factory=list)
    """(suite, serialised report) of collectors that failed."""
    warnings: list[bytes] = field(default_factory=list)
    matrix: VariantMatrix = field(default_factory=VariantMatrix)
    """Of what runs once on each value of a capability."""
    _planned: dict[TaskId, tuple[str, ItemInfo | None]] = field(default_factory=dict)
    _final: dict[TaskId, Outcome] = field(default_factory=dict)
    _earlier: dict[TaskId, list[Outcome]] = field(default_factory=dict)
    _uncollected: dict[str, None] = field(default_factory=dict)
    red_count: int = 0
    """Final verdicts that are no success. What was cancelled is none, nor what was not run because of another one."""
    _prerequisites: dict[TaskId, tuple[TaskId, ...]] = field(default_factory=dict)

    def plan(self, suite: str, tasks: list[TaskSpec], items: list[ItemInfo] | None = None) -> None:
        """These tasks belong to the run. Commands are planned by the submission itself."""
        for index, task in enumerate(tasks):
            if task.variant:
                # A command was known under the id of the test until its variants were.
                self._planned.pop(base_id(task.task_id, task.variant), None)
            self._planned[task.task_id] = (suite, items[index] if items else None)
            if task.depends_on:
                self._prerequisites[task.task_id] = task.depends_on
        self.matrix.plan(tasks)

    def expect_targets(self, names: Iterable[str]) -> None:
        """These pytest targets are still to be collected."""
        self._uncollected.update(dict.fromkeys(names))

    @property
    def uncollected(self) -> tuple[str, ...]:
        """Targets of which nobody has said yet what they contain."""
        return tuple(self._uncollected)

    @property
    def errors_beside_tests(self) -> list[tuple[str, bytes]]:
        """Of ``collection_errors`` those in spite of which the rest of the suite was collected."""
        failed = {failure.suite for failure in self.failures}
        return [(suite, report) for suite, report in self.collection_errors if suite not in failed]

    @property
    def waiting(self) -> list[TaskId]:
        """Planned tasks without a verdict."""
        return [task_id for task_id in self._planned if task_id not in self._final]

    @property
    def waiting_count(self) -> int:
        return len(self._planned) - len(self._final)

    def note(self, message: CoordinatorToClient) -> list[Outcome]:
        """Take one message into account; the outcomes in it that are news."""
        match message:
            case TasksFinished():
                return [outcome for outcome in message.outcomes if self._note_outcome(outcome)]
            case SuitePlan():
                self._uncollected.pop(message.suite, None)
                self.plan(message.suite, message.tasks, message.items)
            case RunAccepted():
                self.slots = message.slots
            case FleetChanged():
                self.slots = sum(slots for _worker, slots in message.workers)
            case SuiteFailed():
                self._uncollected.pop(message.suite, None)
                self.failures.append(message)
            case CollectionReports():
                failed = [report for report in message.reports if read_fields(report).get("outcome") == "failed"]
                self.collection_errors.extend((message.suite, report) for report in failed)
                self.warnings.extend(message.warnings)
            case RunWarnings():
                self.warnings.extend(message.warnings)
            case RunNotice():
                if message.text not in self.notices:
                    self.notices.append(message.text)
            case ExitRequested():
                self.exit_request = self.exit_request or message
            case RunFinished():
                self.is_finished = True
            case _:
                # The rest is for the live area.
                pass
        return []

    def _note_outcome(self, outcome: Outcome) -> bool:
        if outcome.task_id in self._final:
            return False
        if not outcome.is_final:
            self._earlier.setdefault(outcome.task_id, []).append(outcome)
            return True
        self._final[outcome.task_id] = outcome
        self.matrix.note(outcome.task_id, outcome.verdict)
        if not outcome.verdict.is_success and not self._is_consequence(outcome):
            self.red_count += 1
        return True

    def _is_consequence(self, outcome: Outcome) -> bool:
        """It says nothing that a failure before it, or whoever cancelled it, has not said."""
        if outcome.verdict is Verdict.NOT_RUN:
            before = [self._final.get(task_id) for task_id in self._prerequisites.get(outcome.task_id, ())]
            return any(known is not None and not known.verdict.is_success for known in before)
        return outcome.verdict is Verdict.CANCELLED

    def tasks(self) -> Iterator[TaskResult]:
        """Every planned task once, in the order of the plan."""
        for task_id, (suite, item) in self._planned.items():
            earlier = tuple(self._earlier.get(task_id, ()))
            variant = self.matrix.variant_of(task_id)
            yield TaskResult(task_id, suite, item, self._final.get(task_id), earlier, variant)

    def counts(self) -> Counter[Verdict]:
        return Counter(task.verdict for task in self.tasks())

    def exit_status(self, *, was_interrupted: bool = False) -> ExitStatus | int:
        """The truth in one number: a planned task without success is never 0."""
        if was_interrupted:
            return ExitStatus.INTERRUPTED
        if self.exit_request is not None:
            if self.exit_request.kind == "internal_error":
                return ExitStatus.INTERNAL_ERROR
            if self.exit_request.exit_status is not None:
                return self.exit_request.exit_status
            return ExitStatus.INTERRUPTED
        is_collected = not (self.failures or self._uncollected or self.collection_errors)
        if not is_collected or any(not task.verdict.is_success for task in self.tasks()):
            return ExitStatus.TESTS_FAILED
        return ExitStatus.OK if self._planned else ExitStatus.NO_TESTS_COLLECTED


def collection_error_text(serialised: bytes) -> str:
    """The text of a failed collect report."""
    report = read_fields(serialised)
    representation = report.get("longrepr")
    if isinstance(representation, str):
        return representation
    import pytest

    try:
        # pytest's own traceback; it came from the user's process and may be anything.
        return pytest.CollectReport._from_json(report).longreprtext
    except Exception:
        return str(report.get("nodeid", ""))


def warning_line(serialised: bytes) -> str:
    """``file:line: Category: message`` of a serialised warning; empty if it cannot be read."""
    warning = read_fields(serialised)
    if "message" not in warning:
        return ""
    place = f"{warning.get('filename')}:{warning.get('lineno')}"
    return f"{place}: {warning.get('category')}: {warning['message']}"
