"""Which collections of a suite become its plan, and what each further collection means for its worker.

The first collection in which everything was imported is the plan. One that lacks what could not be imported there
waits while another worker may still answer; if none has it all, the plan is put together: the collection with the
fewest import errors, and from others what they could import of that. Only what these workers say of the collection
reaches the client. A worker with the fingerprint of the plan is ready at once; one with another fingerprint is asked
for its plan too, and lacks what the plan has and it has not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from fleetest.core.model import TaskId, WorkerId

_EVERYTHING = frozenset({""})


def fingerprint_of(task_ids: Iterable[TaskId]) -> str:
    """Fingerprint of an ordered collection: SHA-256 over the ids joined by line feeds, 64 hex digits."""
    return hashlib.sha256("\n".join(task_ids).encode("utf-8", "surrogatepass")).hexdigest()


def is_within(node_id: str, nodes: Collection[str]) -> bool:
    """True if a node of pytest is one of these or beneath one; every node is beneath the empty id and ``.``."""
    while node_id not in nodes:
        above = max(node_id.rfind("/"), node_id.rfind("::"))
        if above < 0:
            return "" in nodes or "." in nodes
        node_id = node_id[:above]
    return True


@dataclass(frozen=True, slots=True)
class AskPlan:
    worker_id: WorkerId


@dataclass(frozen=True, slots=True)
class PlanPart:
    """What the plan has from one worker: of its collection that which is within ``nodes``, and in no later part."""

    worker_id: WorkerId
    nodes: frozenset[str]


@dataclass(frozen=True, slots=True)
class AdoptPlan:
    """The plans that were sent make up the suite's plan, in this order: to be answered with ``adopted``."""

    parts: tuple[PlanPart, ...]


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


@dataclass(frozen=True, slots=True)
class _Collected:
    fingerprint: str
    unimported: frozenset[str]
    """Node ids of what could not be imported there."""


@dataclass(slots=True)
class SuitePlanning:
    """Planning of one suite of one run. Every method returns what is to be done now, in order."""

    spokesman: WorkerId | None = None
    """Whose failure the client is told, or whose part of the plan is the first, once that is known."""
    fingerprint: str | None = None
    """Of the plan; None until there is one."""
    is_refused: bool = False
    planned_ids: frozenset[TaskId] = frozenset()
    _collected: dict[WorkerId, _Collected] = field(default_factory=dict)
    """Live workers that wait for the plan, in order of arrival."""
    _expected: set[WorkerId] = field(default_factory=set)
    """Live workers that have not answered yet."""
    _is_patient: bool = True
    _asked: set[WorkerId] = field(default_factory=set)
    _author: WorkerId | None = None
    """While there is no plan: the worker whose answer is to be the next part."""
    _parts: list[PlanPart] = field(default_factory=list)
    _ids: dict[WorkerId, frozenset[TaskId]] = field(default_factory=dict)
    """All that live workers collected which a part is from."""
    _lacking: frozenset[str] = _EVERYTHING
    """What no part has."""

    @classmethod
    def with_plan(cls, task_ids: Collection[TaskId]) -> SuitePlanning:
        """A suite whose tasks came with the submission."""
        return cls(fingerprint=fingerprint_of(task_ids), planned_ids=frozenset(task_ids))

    @property
    def is_open(self) -> bool:
        """True until there is a plan or a refusal."""
        return self.fingerprint is None and not self.is_refused

    @property
    def is_waiting(self) -> bool:
        """There might be a plan, but others may have what it lacks."""
        return self.is_open and self._author is None and bool(self._collected)

    def expect(self, worker_id: WorkerId) -> None:
        """It was told of the suite and will answer, unless it goes."""
        if self.is_open and self._is_patient:
            self._expected.add(worker_id)

    def stop_waiting(self) -> list[Step]:
        """Whoever has not answered by now is no longer waited for."""
        self._is_patient = False
        self._expected.clear()
        return self._proceed()

    def collected(self, worker_id: WorkerId, fingerprint: str, unimported: Iterable[str] = ()) -> list[Step]:
        """``unimported`` are node ids of modules and folders that could not be imported there."""
        if self.is_refused:
            return []
        self._expected.discard(worker_id)
        if self.fingerprint is not None:
            return [Ready(worker_id)] if fingerprint == self.fingerprint else self._ask(worker_id)
        self._collected[worker_id] = _Collected(fingerprint, frozenset(unimported))
        return self._proceed()

    def was_asked(self, worker_id: WorkerId) -> bool:
        return worker_id in self._asked

    def plan_arrived(self, worker_id: WorkerId, task_ids: Iterable[TaskId]) -> list[Step]:
        """The answer of a worker that was asked."""
        self._asked.discard(worker_id)
        if self.is_refused:
            return []
        ids = frozenset(task_ids)
        if self.fingerprint is not None:
            return [Ready(worker_id, self.planned_ids - ids)]
        self._author = None
        self._ids[worker_id] = ids
        nodes = self._addable(worker_id) if self._parts else _EVERYTHING
        self._parts.append(PlanPart(worker_id, nodes))
        unimported = self._collected[worker_id].unimported
        self._lacking = (self._lacking - nodes) | {node for node in unimported if is_within(node, nodes)}
        return self._proceed()

    def adopted(self, fingerprint: str, task_ids: Iterable[TaskId]) -> list[Step]:
        """The plan as it was put together."""
        self.spokesman = self._parts[0].worker_id
        self.fingerprint = fingerprint
        self.planned_ids = frozenset(task_ids)
        waiting, self._collected = self._collected, {}
        steps: list[Step] = []
        for worker_id, collection in waiting.items():
            if collection.fingerprint == fingerprint:
                steps.append(Ready(worker_id))
            elif worker_id in self._ids:
                steps.append(Ready(worker_id, self.planned_ids - self._ids[worker_id]))
            else:
                steps += self._ask(worker_id)
        self._ids.clear()
        return steps

    def failed(self, worker_id: WorkerId, reason: str, *, only_here: bool) -> list[Step]:
        """This worker's collection ended without a plan. ``only_here``: others may well succeed."""
        if self.is_refused:
            return []
        if self.is_open and not only_here and self._would_decide(worker_id):
            self.spokesman = worker_id
            self.is_refused = True
            return [Refuse(worker_id, reason)]
        return [Unavailable(worker_id, reason), *self.worker_gone(worker_id)]

    def new_link(self, worker_id: WorkerId) -> None:
        """What it was asked on its older link it will not answer."""
        self._asked.discard(worker_id)
        if self._author == worker_id:
            self._author = None

    def worker_gone(self, worker_id: WorkerId) -> list[Step]:
        """It answers no more; if it was the one that was asked, the next takes its place."""
        self.new_link(worker_id)
        self._expected.discard(worker_id)
        self._collected.pop(worker_id, None)
        self._ids.pop(worker_id, None)
        return self._proceed()

    def _would_decide(self, worker_id: WorkerId) -> bool:
        """Of all that has come in yet, its answer is what counts."""
        if self._parts:
            return False
        return self._author == worker_id or (self._author is None and self._collected.keys() <= {worker_id})

    def _proceed(self) -> list[Step]:
        """Ask for the next part of the plan, if it is known whose that is."""
        if not self.is_open or self._author is not None:
            return []
        if self._parts:
            able = [worker_id for worker_id in self._collected if self._addable(worker_id)]
            if not able:
                return [AdoptPlan(tuple(self._parts))]
        else:
            able = list(self._collected)
        best = min(able, key=self._errors_of, default=None)
        if best is None or (not self._parts and self._expected and self._errors_of(best)):
            return []
        self._author = best
        return self._ask(best)

    def _errors_of(self, worker_id: WorkerId) -> int:
        return len(self._collected[worker_id].unimported)

    def _addable(self, worker_id: WorkerId) -> frozenset[str]:
        """What this worker could import of what the plan lacks."""
        unimported = self._collected[worker_id].unimported
        return frozenset(node for node in self._lacking if not is_within(node, unimported))

    def _ask(self, worker_id: WorkerId) -> list[Step]:
        if worker_id in self._asked:
            return []
        self._asked.add(worker_id)
        return [AskPlan(worker_id)]
