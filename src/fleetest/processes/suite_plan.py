"""What a collection means: task ids, requirements from marks, groups, and errors in marks as pytest reports them."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from fleetest.core.model import TaskId, TaskSpec
from fleetest.core.quantities import RequirementError
from fleetest.core.requirements import TaskOptions, parse_marks
from fleetest.core.suite_planning import fingerprint_of
from fleetest.processes.frames import Collected, Item, from_portable
from fleetest.wire.messages import ItemInfo, PytestSuite

_NO_OPTIONS = TaskOptions()


@dataclass(slots=True)
class MarkError:
    """A ``fleet`` mark that cannot be understood, on one item."""

    item: Item
    text: str

    @property
    def message(self) -> str:
        where = self.item.path if self.item.line is None else f"{self.item.path}:{self.item.line + 1}"
        return f"{where}: fleet mark: {self.text}"

    def collect_report(self) -> bytes:
        """A failed collect report of the item's file as ``pytest_report_from_serializable`` takes it, as JSON."""
        report: dict[str, object] = {
            "$report_type": "CollectReport",
            "nodeid": self.item.node_id,
            "outcome": "failed",
            "longrepr": self.message,
            "result": None,
            "sections": [],
        }
        return msgspec.json.encode(report)


@dataclass(slots=True)
class Collection:
    """One collection, ready to be planned and executed."""

    suite: PytestSuite
    collected: Collected
    task_ids: list[TaskId] = field(init=False)
    """In collection order."""
    fingerprint: str = field(init=False)
    errors: list[MarkError] = field(init=False)
    _options: dict[int, TaskOptions] = field(init=False)

    def __post_init__(self) -> None:
        self.task_ids = task_ids_of(self.suite.name, self.collected.items)
        self.fingerprint = fingerprint_of(self.task_ids)
        errors: dict[str, MarkError] = {}
        self._options = {}
        for position, item in enumerate(self.collected.items):
            if item.fleet_marks:
                try:
                    self._options[position] = _options_of(item)
                except RequirementError as error:
                    mark_error = MarkError(item, str(error))
                    errors.setdefault(mark_error.message, mark_error)
        self.errors = list(errors.values())

    def positions(self) -> dict[TaskId, int]:
        return {task_id: position for position, task_id in enumerate(self.task_ids)}

    def tasks(self) -> list[TaskSpec]:
        """The planned tasks; defaults of the suite apply where no mark says otherwise."""
        suite, options = self.suite, self._options
        return [
            self._task(position, task_id, item, options.get(position, _NO_OPTIONS), suite)
            for position, (task_id, item) in enumerate(zip(self.task_ids, self.collected.items, strict=True))
        ]

    def _task(self, position: int, task_id: TaskId, item: Item, options: TaskOptions, suite: PytestSuite) -> TaskSpec:
        mark_group = item.mark_group or options.group
        return TaskSpec(
            task_id,
            suite.name,
            mark_group or item.node_id.partition("::")[0],
            mark_group is not None,
            options.requirements,
            suite.priority if options.priority is None else options.priority,
            suite.timeout_s if options.timeout_s is None else options.timeout_s,
            suite.retries if options.retries is None else options.retries,
            backoff_s=suite.backoff_s if options.backoff_s is None else options.backoff_s,
            hedge=suite.hedge and options.hedge is not False,
            each=suite.each if options.each is None else options.each,
        )

    def items(self) -> list[ItemInfo]:
        parents = [tuple(keywords) for keywords in self.collected.parents]
        return [
            ItemInfo(item.node_id, item.path, item.line, item.domain, parents[item.parent] + tuple(item.own_keywords))
            for item in self.collected.items
        ]


def task_ids_of(suite_name: str, items: list[Item]) -> list[TaskId]:
    """Ids unique within the run: the node id, after the suite's name if it has one; a repeated one is numbered."""
    prefix = f"{suite_name}::" if suite_name else ""
    seen: dict[str, int] = {}
    ids = []
    for item in items:
        task_id = prefix + item.node_id
        count = seen.get(task_id, 0) + 1
        seen[task_id] = count
        ids.append(TaskId(task_id if count == 1 else f"{task_id}#{count}"))
    return ids


def _options_of(item: Item) -> TaskOptions:
    return parse_marks([(from_portable(args), from_portable(kwargs)) for args, kwargs in item.fleet_marks])
