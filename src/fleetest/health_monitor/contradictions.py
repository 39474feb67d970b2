"""Finds the machine that fails what others pass.

A failing test says nothing of the machine, and tests that fail stand together: in one file, behind one requirement,
which locality sends to one worker. So two things are counted that the machine alone explains, each against all others:

- **contradicted results**: a test failed here and the next attempt of the same run, on another worker, passed. Flaky
  tests do that too, but everywhere alike;
- **failing groups**: the groups (files) of tests without requirements that had a failure here, of all that ran here. A
  broken file counts once, however many tests it has.

Five or more, three times the share of the others, and a chance below one in a million (``statistics.is_worse``) raise
the finding. It is over when what ran since then (``TRIALS_TO_CLEAR`` results and ``GROUPS_TO_CLEAR`` groups) looks like
everybody else's.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field

from fleetest.core.alerts import Cause
from fleetest.core.entities import Task
from fleetest.core.model import TaskKey, WorkerId
from fleetest.core.policies import Finding
from fleetest.health_monitor.statistics import Comparison

TRIALS_TO_CLEAR = 50
GROUPS_TO_CLEAR = 5
FAILED_KEPT_MAX = 10_000
GROUPS_KEPT_MAX = 500
WORKERS_MAX = 10_000


@dataclass(slots=True, eq=False)
class _Seen:
    groups: dict[Hashable, bool] = field(default_factory=dict)
    """Groups that ran here lately, and whether one of their tests failed."""
    latest_run: str = ""
    latest_group: str = ""
    example: str = ""
    is_found: bool = False
    trials_since: int = 0
    groups_since: int = 0


class Contradictions:
    def __init__(self) -> None:
        self._results = Comparison()
        self._groups = Comparison()
        self._seen: dict[WorkerId, _Seen] = {}
        self._failed_on: dict[TaskKey, dict[WorkerId, None]] = {}
        """Tasks with another attempt to come, and where they have failed."""

    def finished(self, worker_id: WorkerId, task: Task, *, passed: bool, is_final: bool) -> list[Finding]:
        """One test ran to its end on the worker. Returns what that shows, of this worker and of others."""
        found: list[Finding] = []
        seen = self._seen_of(worker_id)
        self._results.add(worker_id, 1, 0)
        self._count_group(worker_id, seen, task, passed)
        if passed and not self._failed_on and not seen.is_found:
            return found  # Nearly always.
        key = (task.run.run_id, task.task_id)
        failed_on = self._failed_on.pop(key, None)
        if not passed and not is_final:
            failed_on = failed_on or {}
            failed_on[worker_id] = None
            while len(self._failed_on) >= FAILED_KEPT_MAX:
                del self._failed_on[next(iter(self._failed_on))]
            self._failed_on[key] = failed_on
        elif passed and failed_on:
            failed_on.pop(worker_id, None)
            for name in failed_on:
                self._results.add(name, 0, 1)
                self._seen_of(name).example = task.task_id
                found += self._judge(name)
        if not passed or seen.is_found:
            found += self._judge(worker_id)
        return found

    def forget(self, worker_id: WorkerId) -> list[Finding]:
        """Nothing that was seen of this worker counts any more."""
        seen = self._seen.pop(worker_id, None)
        if seen is None:
            return []
        self._start_anew(worker_id, seen)
        return [Finding(worker_id, Cause.FAILS_WHAT_OTHERS_PASS)] if seen.is_found else []

    def recall(self, worker_id: WorkerId) -> None:
        """It was found to fail what others pass: from now on only what follows counts."""
        self._seen_of(worker_id).is_found = True

    def _count_group(self, worker_id: WorkerId, seen: _Seen, task: Task, passed: bool) -> None:
        if seen.is_found:
            seen.trials_since += 1
        name, run_id = task.group.name, task.run.run_id
        if passed and name and name == seen.latest_group and run_id == seen.latest_run:
            return
        if not task.requirements.is_plain:
            return
        seen.latest_run, seen.latest_group = run_id, name
        group = (run_id, task.spec.suite, name or task.task_id)
        before = seen.groups.get(group)
        if before is None:
            if len(seen.groups) >= GROUPS_KEPT_MAX:
                del seen.groups[next(iter(seen.groups))]
            seen.groups[group] = not passed
            self._groups.add(worker_id, 1, not passed)
            seen.groups_since += seen.is_found
        elif not before and not passed:
            seen.groups[group] = True
            self._groups.add(worker_id, 0, 1)

    def _judge(self, worker_id: WorkerId) -> list[Finding]:
        seen = self._seen_of(worker_id)
        if not seen.is_found:
            message = self._message(worker_id, seen)
            if not message:
                return []
            seen.is_found = True
            self._start_anew(worker_id, seen)
            return [Finding(worker_id, Cause.FAILS_WHAT_OTHERS_PASS, message)]
        # Tests in one long file would never show another group.
        is_enough = seen.groups_since >= GROUPS_TO_CLEAR or seen.trials_since >= 10 * TRIALS_TO_CLEAR
        if seen.trials_since < TRIALS_TO_CLEAR or not is_enough:
            return []
        seen.is_found = bool(self._message(worker_id, seen))
        self._start_anew(worker_id, seen)
        return [] if seen.is_found else [Finding(worker_id, Cause.FAILS_WHAT_OTHERS_PASS)]

    def _start_anew(self, worker_id: WorkerId, seen: _Seen) -> None:
        """From now on only what follows counts."""
        self._results.reset(worker_id)
        self._groups.reset(worker_id)
        seen.groups.clear()
        seen.latest_run = seen.latest_group = ""
        seen.trials_since = seen.groups_since = 0

    def _message(self, worker_id: WorkerId, seen: _Seen) -> str:
        own, others = self._results.own(worker_id), self._results.others(worker_id)
        if self._results.is_worse(worker_id):
            return (
                f"{own.hits:.0f} of {own.trials:.0f} tests failed here and then passed elsewhere"
                f" ({others.hits:.0f} of {others.trials:.0f} on the other workers), the last one {seen.example}"
            )
        own, others = self._groups.own(worker_id), self._groups.others(worker_id)
        if self._groups.is_worse(worker_id):
            return (
                f"{own.hits:.0f} of {own.trials:.0f} test files or commands failed here"
                f" ({others.hits:.0f} of {others.trials:.0f} on the other workers)"
            )
        return ""

    def _seen_of(self, worker_id: WorkerId) -> _Seen:
        seen = self._seen.get(worker_id)
        if seen is None:
            if len(self._seen) >= WORKERS_MAX:
                self.forget(next(name for name, old in self._seen.items() if not old.is_found))
            seen = self._seen[worker_id] = _Seen()
        return seen
