"""From the records of the state and the rows of the history to what the API answers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from fleetest.api import answers
from fleetest.api.answers import as_utc, utc
from fleetest.api.live_index import IndexedRun, LiveIndex
from fleetest.core.entities import Run, Task
from fleetest.core.lifecycle import TaskState
from fleetest.core.model import VARIANT_SIGN, VARIANT_VARIABLE, RunId, Verdict
from fleetest.wire import messages as wire

_VARIANT = re.compile(rf"(.+){VARIANT_SIGN}([a-z][\w.-]*=[^\[\]]*)", re.DOTALL)
"""The id of a variant; a parameter that looks like one ends with a bracket."""

_SUPERSEDED = "superseded: "


def all_counts(counts: Mapping[Verdict, int]) -> dict[str, int]:
    return {verdict.value: counts.get(verdict, 0) for verdict in Verdict}


def is_success(counts: Mapping[str, int]) -> bool:
    """As the exit status of the run: something was run, and nothing ended badly."""
    return any(counts.values()) and all(Verdict(name).is_success for name, count in counts.items() if count)


def task_counts(runs: Iterable[Run]) -> answers.TaskCounts:
    """Of these runs together. Costs a look at every lease."""
    waiting = leased = running = finished = 0
    for run in runs:
        # Of several leases of one task the first stands for it.
        under_way = [lease.task for lease in run.leases.values() if lease.task.lease is lease]
        its_running = sum(task.state is TaskState.RUNNING for task in under_way)
        running += its_running
        leased += len(under_way) - its_running
        waiting += run.unfinished - len(under_way)
        finished += len(run.tasks) - run.unfinished
    return answers.TaskCounts(waiting=waiting, leased=leased, running=running, finished=finished)


def live_state(run: Run) -> str:
    """collecting, running or cancelling."""
    if run.cancellation is not None:
        return "cancelling"
    return "running" if run.tasks or all(suite.is_settled for suite in run.suites.values()) else "collecting"


def live_run(run: Run, indexed: IndexedRun, now_wall: float, remaining_s: float | None) -> answers.RunSummary:
    submission = indexed.facts.submission
    counts = all_counts(run.counts)
    is_over = run.is_finished
    ended_at = indexed.ended_at
    return answers.RunSummary(
        run_id=run.run_id,
        title=submission.title,
        owner=run.owner,
        directory=directory_of(submission),
        priority=run.priority,
        state="finished" if is_over else live_state(run),
        outcome=indexed.facts.outcome if is_over else None,
        is_live=not is_over,
        is_success=is_success(counts) if is_over else None,
        submitted_at=utc(indexed.facts.submitted_at),
        ended_at=utc(ended_at),
        duration_s=(ended_at or now_wall) - indexed.facts.submitted_at,
        tasks=len(run.tasks),
        states=task_counts([run]),
        counts=counts,
        cancel_reason=run.cancellation.reason if run.cancellation is not None else None,
        remaining_s=None if is_over else remaining_s,
    )


def past_run(row: Mapping[str, Any]) -> answers.RunSummary:
    """Of a row of the view ``runs``."""
    counts = {verdict.value: int(row[verdict.value]) for verdict in Verdict}
    tests = int(row["tests"])
    planned = int(row.get("planned") or tests)
    return answers.RunSummary(
        run_id=row["run_id"],
        title=row["title"] or "",
        owner=row["owner"] or "",
        directory=row["directory"] or "",
        priority=0,
        state="finished",
        outcome=row["outcome"],
        is_live=False,
        is_success=is_success(counts) and row["outcome"] == "finished",
        submitted_at=as_utc(row["started_at"]),
        ended_at=as_utc(row["ended_at"]),
        duration_s=row["duration_s"],
        tasks=planned,
        states=answers.TaskCounts(waiting=max(0, planned - tests), leased=0, running=0, finished=tests),
        counts=counts,
        cancel_reason=None,
        remaining_s=None,
    )


def directory_of(submission: wire.SubmitRun) -> str:
    return next((suite.directory for suite in submission.suites if isinstance(suite, wire.PytestSuite)), "")


def live_task(task: Task, indexed: IndexedRun, index: LiveIndex, now_wall: float) -> answers.TaskRow:
    row = indexed.final.get(task.task_id)
    worker: str | None = None
    started_at = duration_s = None
    if row is not None:
        worker, started_at, duration_s = row.worker or None, row.started_at, row.duration_s
    elif task.lease is not None:
        worker = str(task.lease.slot.worker.worker_id)
        if task.lease.is_started:
            started_at = indexed.started.get(task.task_id)
            duration_s = max(0.0, now_wall - started_at) if started_at is not None else None
    return answers.TaskRow(
        task_id=task.task_id,
        suite=task.suite.name,
        group=task.group.name,
        position=task.position,
        state=task.state.value,
        verdict=task.verdict.value if task.verdict is not None else None,
        attempts=task.attempts,
        duration_s=duration_s,
        expected_s=task.spec.expected_s,
        worker=worker,
        started_at=utc(started_at),
        reason=task.reason,
    )


def past_task(row: Mapping[str, Any], position: int) -> answers.TaskRow:
    """Of a row of the view ``tasks``."""
    return answers.TaskRow(
        task_id=row["task_id"],
        suite=row["suite"] or "",
        group=row["group_name"] or "",
        position=position,
        state=TaskState.FINISHED.value if row["verdict"] else TaskState.PENDING.value,
        verdict=row["verdict"],
        attempts=int(row["attempts"]),
        duration_s=row["duration_s"],
        expected_s=None,
        worker=row["worker"],
        started_at=None,
        reason=row["reason"] or "",
    )


def attempt(row: Mapping[str, Any]) -> answers.Attempt:
    """Of a row of the table ``attempts``."""
    reason = row["reason"] or ""
    return answers.Attempt(
        attempt=row["attempt"],
        verdict=row["verdict"],
        is_final=row["is_final"],
        is_superseded=reason.startswith(_SUPERSEDED),
        worker=row["worker"],
        runner=row["runner"],
        slot=row["slot"],
        started_at=as_utc(row["started_at"]),
        duration_s=row["duration_s"],
        setup_s=row["setup_s"],
        call_s=row["call_s"],
        teardown_s=row["teardown_s"],
        cpu_s=row["cpu_s"],
        peak_memory_bytes=row["peak_memory_bytes"],
        output=row["output"] or "",
        traceback=row["traceback"] or "",
        reason=reason,
        artifacts=list(row["artifacts"] or ()),
    )


def live_attempts(indexed: IndexedRun, task_id: str) -> list[answers.Attempt]:
    """What is known without a history: no texts."""
    return [
        answers.Attempt(
            attempt=row.attempt,
            verdict=row.verdict.value,
            is_final=row.is_final,
            is_superseded=False,
            worker=row.worker or None,
            runner=None,
            slot=row.slot,
            started_at=utc(row.started_at),
            duration_s=row.duration_s,
            setup_s=None,
            call_s=None,
            teardown_s=None,
            cpu_s=None,
            peak_memory_bytes=None,
            output="",
            traceback="",
            reason=row.reason,
            artifacts=[],
        )
        for row in indexed.attempts
        if row.task_id == task_id
    ]


def reproduce(submission: wire.SubmitRun | None, suite_name: str, task_id: str) -> str:
    """A command line that runs this test alone; without a submission the best guess there is."""
    full_id = task_id.removeprefix(f"{suite_name}::") if suite_name else task_id
    found = _VARIANT.fullmatch(full_id)
    own_id, variant = found.groups() if found is not None else (full_id, "")
    value = f"{VARIANT_VARIABLE}={shlex.quote(variant)} " if variant else ""
    suite = next((suite for suite in submission.suites if suite.name == suite_name), None) if submission else None
    if isinstance(suite, wire.CommandSuite):
        named = {spec.name: spec for spec in suite.commands if spec.name in (own_id, full_id)}
        spec = named.get(full_id) or named.get(own_id)
        if spec is None:
            return ""
        # Without its environment: that may hold what a viewer must not read.
        return f"cd {shlex.quote(spec.directory)} && {value if spec.name != full_id else ''}{shlex.join(spec.argv)}"
    if isinstance(suite, wire.PytestSuite):
        command = value + shlex.join([suite.python or "python", "-m", "pytest", own_id])
        return f"cd {shlex.quote(suite.directory)} && {command}" if suite.directory else command
    return value + shlex.join(["python", "-m", "pytest", own_id]) if "::" in own_id else ""


def run_url(run_id: RunId | str) -> str:
    return f"/api/v1/runs/{run_id}"


def story(lines: Iterable[str], index: LiveIndex) -> list[str]:
    """Lines of the state (``12.345 s: queued``) with the time of day: ``2026-01-31T09:30:00.123+00:00 queued``."""
    told = []
    for line in lines:
        instant, separator, what = line.partition(" s: ")
        at = utc(index.to_wall(float(instant))) if separator and _is_number(instant) else None
        told.append(f"{at.isoformat(timespec='milliseconds')} {what}" if at is not None else line)
    return told


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
