"""Tests that ran once on each value of a capability, as a table: a row per test, a column per value."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from fleetest.client.terminal_text import one_line
from fleetest.core.model import TaskId, TaskSpec, Verdict, base_id

ROWS_MAX = 20
"""With more tests than this only those are listed that did not succeed everywhere."""
LISTED_MAX = 100
_NAME_WIDTH_MAX = 60
_VALUE_WIDTH_MAX = 20


@dataclass(slots=True)
class VariantMatrix:
    """Fed with plans and final verdicts."""

    _variants: dict[TaskId, tuple[TaskId, str, str]] = field(default_factory=dict)
    """By task: the test, the name of the capability, the value."""
    _verdicts: dict[TaskId, Verdict] = field(default_factory=dict)

    def plan(self, tasks: Iterable[TaskSpec]) -> None:
        for task in tasks:
            if task.variant:
                name, _, value = task.variant.partition("=")
                self._variants[task.task_id] = (base_id(task.task_id, task.variant), name, value)

    def note(self, task_id: TaskId, verdict: Verdict) -> None:
        if task_id in self._variants:
            self._verdicts[task_id] = verdict

    def variant_of(self, task_id: TaskId) -> str:
        """``name=value``; empty for a task that is no variant."""
        known = self._variants.get(task_id)
        return f"{known[1]}={known[2]}" if known else ""

    def tables(self) -> list[tuple[str, list[str]]]:
        """For each capability: its name and the lines of its table; nothing if no test ran by variants."""
        rows: dict[str, dict[TaskId, dict[str, str]]] = {}
        values: dict[str, dict[str, None]] = {}
        for task_id, (test, name, value) in self._variants.items():
            verdict = self._verdicts.get(task_id)
            word = "-" if verdict is None else _word(verdict)
            rows.setdefault(name, {}).setdefault(test, {})[value] = word
            values.setdefault(name, {})[value] = None
        return [(name, _table(rows[name], list(values[name]))) for name in rows]


_GREEN = frozenset(verdict.value for verdict in Verdict if verdict.is_success)


def _word(verdict: Verdict) -> str:
    """Lower case is good news."""
    return verdict.value if verdict.is_success else verdict.value.upper().replace("_", " ")


def _table(rows: dict[TaskId, dict[str, str]], values: list[str]) -> list[str]:
    listed = list(rows.items())
    if len(listed) > ROWS_MAX:
        listed = [(test, words) for test, words in listed if not _GREEN.issuperset(words.values())]
    hidden = len(rows) - len(listed[:LISTED_MAX])
    cells = [["", *(one_line(value, _VALUE_WIDTH_MAX) for value in values)]]
    for test, words in listed[:LISTED_MAX]:
        cells.append([one_line(test, _NAME_WIDTH_MAX), *(words.get(value, "") for value in values)])
    good = [sum(words.get(value) in _GREEN for words in rows.values()) for value in values]
    planned = [sum(value in words for words in rows.values()) for value in values]
    cells.append(["successful", *(f"{count} of {total}" for count, total in zip(good, planned, strict=True))])
    widths = [max(len(line[column]) for line in cells) for column in range(len(cells[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    if hidden:
        how = "and more" if len(listed) > LISTED_MAX else "successful on every value"
        lines.insert(len(lines) - 1, f"({hidden} not listed: {how})")
    return lines
