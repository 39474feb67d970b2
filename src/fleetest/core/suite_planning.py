"""Which collection of a suite becomes its plan, and what each further collection means for its worker.

The first worker that collected the suite is asked for its plan, and only what that worker says of the collection
reaches the client. A worker with the same fingerprint is ready at once; one with another fingerprint is asked for
its plan too, and lacks what the plan has and it has not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from fleetest.core.model import TaskId, WorkerId


def fingerprint_of(task_ids: Iterable[TaskId]) -> str:
    """Fingerprint of an ordered collection: SHA-256 over the ids joined by line feeds, 64 hex digits."""
    return hashlib.sha256("\n".join(task_ids).encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class AskPlan:
    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class AdoptPlan:
    """The plan that this worker just sent is the suite's plan."""

    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class Ready:
    worker_id: WorkerId
    missing: frozenset[TaskId] = frozenset()


@dataclass(frozen=True, slots=True)
class Unavailable:
    worker_id: WorkerId
    reason: str


@dataclass(frozen=True, slots=True)
class Refuse:
    """The suite ends without a plan; ``worker_id`` is the worker whose failure the client is told."""

    worker_id: WorkerId
    reason: str


Step: TypeAlias = AskPlan | AdoptPlan | Ready | Unavailable | Refuse


@dataclass(slots=True)
class SuitePlanning:
    """Planning of one suite of one run. Every method returns what is to be done now, in order."""

    spokesman: WorkerId | None = None
    """The worker whose collection is told to the client, once it is known."""
    fingerprint: str | None = None
    """Of the plan; None until there is one."""
    is_refused: bool = False
    planned_ids: frozenset[TaskId] = frozenset()
    _collected: dict[WorkerId, str] = field(default_factory=dict)
    """Fingerprints of live workers that wait for the plan, the asked one included, in order of arrival."""
    _asked: set[WorkerId] = field(default_factory=set)

    @classmethod
    def with_plan(cls, task_ids: Sequence[TaskId]) -> SuitePlanning:
        """A suite whose tasks came with the submission."""
        return cls(fingerprint=fingerprint_of(task_ids), planned_ids=frozenset(task_ids))

    @property
    def is_open(self) -> bool:
        """True until there is a plan or a refusal."""
        return self.fingerprint is None and not self.is_refused

    def collected(self, worker_id: WorkerId, fingerprint: str) -> list[Step]:
        if self.is_refused:
            return []
        self._asked.discard(worker_id)
        if self.fingerprint is not None:
            if fingerprint == self.fingerprint:
                return [Ready(worker_id)]
            return self._ask(worker_id)
        self._collected[worker_id] = fingerprint
        if self.spokesman is None or self.spokesman == worker_id:
            return self._ask_as_spokesman(worker_id)
        return []

    def was_asked(self, worker_id: WorkerId) -> bool:
        return worker_id in self._asked

    def plan_arrived(self, worker_id: WorkerId, fingerprint: str, task_ids: Sequence[TaskId]) -> list[Step]:
        """The answer of a worker that was asked."""
        self._asked.discard(worker_id)
        if self.is_refused:
            return []
        if self.fingerprint is not None:
            return [Ready(worker_id, self.planned_ids.difference(task_ids))]
        self.fingerprint = fingerprint
        self.planned_ids = frozenset(task_ids)
        waiting, self._collected = self._collected, {}
        waiting.pop(worker_id, None)
        steps: list[Step] = [AdoptPlan(worker_id), Ready(worker_id)]
        for other, its_fingerprint in waiting.items():
            steps += [Ready(other)] if its_fingerprint == fingerprint else self._ask(other)
        return steps

    def failed(self, worker_id: WorkerId, reason: str, *, only_here: bool) -> list[Step]:
        """This worker's collection ended without a plan. ``only_here``: others may well succeed."""
        if self.is_refused:
            return []
        if self.is_open and not only_here and self.spokesman in {None, worker_id}:
            self.spokesman = worker_id
            self.is_refused = True
            return [Refuse(worker_id, reason)]
        return [Unavailable(worker_id, reason), *self.worker_gone(worker_id)]

    def worker_gone(self, worker_id: WorkerId) -> list[Step]:
        """It answers no more; if it was the one that was asked, the next takes its place."""
        self._collected.pop(worker_id, None)
        self._asked.discard(worker_id)
        if not self.is_open or self.spokesman != worker_id:
            return []
        self.spokesman = None
        if self._collected:
            return self._ask_as_spokesman(next(iter(self._collected)))
        return []

    def _ask_as_spokesman(self, worker_id: WorkerId) -> list[Step]:
        self.spokesman = worker_id
        return self._ask(worker_id)

    def _ask(self, worker_id: WorkerId) -> list[Step]:
        self._asked.add(worker_id)
        return [AskPlan(worker_id)]
