"""Failures whose tracebacks are alike, as one group: what differs from test to test is taken out before comparing."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fleetest.api import answers, describe
from fleetest.api.answers import as_utc

TASKS_SHOWN_MAX = 100
_LINES_COMPARED = 40
_VARIABLE = (
    (re.compile(r"0x[0-9a-fA-F]+"), "0x*"),
    (re.compile(r"\b[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}\b"), "*"),
    (re.compile(r"'[^'\n]{0,500}'|\"[^\"\n]{0,500}\""), "'*'"),
    (re.compile(r"(?:/[\w.+-]+){2,}/"), "/*/"),
    (re.compile(r"\b[0-9a-f]{12,}\b"), "*"),
    (re.compile(r"\d+(?:[.,]\d+)*"), "*"),
)
_ERROR_LINE = re.compile(r"^E\s{2,}", re.MULTILINE)
_PLACE = re.compile(r"^([^\s:][^:\n]*):\d+: ", re.MULTILINE)


def normalised(text: str) -> str:
    """``text`` without numbers, addresses, quoted values and directories."""
    for pattern, instead in _VARIABLE:
        text = pattern.sub(instead, text)
    return text


def signature_of(verdict: str, traceback: str, reason: str) -> str:
    """What alike failures have in common: the lines of the error and where it was raised, else the reason."""
    errors = [line[1:].strip() for line in traceback.splitlines() if _ERROR_LINE.match(line)]
    places = _PLACE.findall(traceback)[-1:]
    told = [*errors[:_LINES_COMPARED], *places] if errors else [reason or traceback[-2000:]]
    return "\n".join([verdict, *map(normalised, told)])


def group_failures(rows: Iterable[Mapping[str, Any]]) -> list[answers.FailureGroup]:
    """Groups of rows of ``attempts``, the largest first."""
    groups: dict[str, answers.FailureGroup] = {}
    runs: dict[str, set[str]] = {}
    for row in rows:
        signature = signature_of(row["verdict"], row["traceback"] or "", row["reason"] or "")
        group = groups.get(signature)
        at = as_utc(row["started_at"])
        runs.setdefault(signature, set()).add(row["run_id"])
        if group is None:
            groups[signature] = answers.FailureGroup(
                signature=hashlib.sha256(signature.encode("utf-8", "replace")).hexdigest()[:16],
                headline=row["reason"] or row["verdict"],
                count=1,
                task_ids=[row["task_id"]],
                example=describe.attempt(row),
                example_task_id=row["task_id"],
                reproduce="",
                first_at=at,
                last_at=at,
            )
            continue
        group.count += 1
        if len(group.task_ids) < TASKS_SHOWN_MAX and row["task_id"] not in group.task_ids:
            group.task_ids.append(row["task_id"])
        if at is not None:
            group.first_at = min(group.first_at or at, at)
            group.last_at = max(group.last_at or at, at)
    for signature, group in groups.items():
        group.runs = len(runs[signature])
    return sorted(groups.values(), key=lambda group: (-group.count, group.headline, group.example_task_id))
