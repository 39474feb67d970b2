"""Which worker can run which task: readiness, matching, countable resources, locks.

Nothing is ever compared pairwise: tasks are known by class, workers by capability kind, and each pair of distinct
requirements and capabilities is matched once.
"""

from __future__ import annotations

from collections.abc import Iterator

from fleetest.core.entities import LiveLease, RequirementKind, Suite, Task, TaskClass, Worker
from fleetest.core.matching import matches, preference
from fleetest.core.model import Capabilities, Requirements, WorkerId


class Placement:
    """The index of capabilities and requirements, and who holds what."""

    def __init__(self, workers: dict[WorkerId, Worker]) -> None:
        self._workers = workers
        self._kind_of: dict[object, int] = {}
        self._capabilities: list[Capabilities] = []
        self._kinds: dict[Requirements, RequirementKind] = {}
        self._special: dict[int, tuple[int, int]] = {}
        self.accepting_slots = 0
        self.locks: dict[str, LiveLease] = {}

    # Kinds ---------------------------------------------------------------------------------------------------

    def capability_kind(self, capabilities: Capabilities) -> int:
        """A small number, the same for equal capabilities."""
        key = (
            tuple(sorted((name, tuple(values)) for name, values in capabilities.attributes.items())),
            tuple(sorted(capabilities.resources.items())),
        )
        kind = self._kind_of.setdefault(key, len(self._capabilities))
        if kind == len(self._capabilities):
            self._capabilities.append(capabilities)
        return kind

    def task_class(self, task: Task) -> TaskClass:
        """The class that the task belongs to now, made if it is the first of it."""
        kind = self.requirement_kind(task.requirements)
        key = (task.suite.name, task.requirements, task.lacking, task.avoid)
        classes = task.run.classes
        found = classes.get(key)
        if found is None:
            found = classes[key] = TaskClass(task.suite, kind, task.lacking, task.avoid)
        return found

    def requirement_kind(self, requirements: Requirements) -> RequirementKind:
        kind = self._kinds.get(requirements)
        if kind is None:
            kind = self._kinds[requirements] = RequirementKind(requirements)
        return kind

    def fits(self, kind: RequirementKind, capability_kind: int) -> bool:
        """True if a worker of that kind could run such a task if nothing else ran on it."""
        known = kind.fits.get(capability_kind)
        if known is None:
            known = kind.fits[capability_kind] = matches(kind.requirements, self._capabilities[capability_kind])
        return known

    def preference(self, kind: RequirementKind, capability_kind: int) -> float:
        """The share of such a task's preferences that a worker of that kind satisfies, from 0 to 1; 1 without any."""
        if not kind.requirements.prefers:
            return 1.0
        known = kind.preferences.get(capability_kind)
        if known is None:
            known = preference(kind.requirements, self._capabilities[capability_kind])
            kind.preferences[capability_kind] = known
        return known

    def specialness(self, capability_kind: int) -> int:
        """How many of the special requirements seen so far such a worker can serve: plain work goes to the least."""
        cached = self._special.get(capability_kind)
        if cached is None or cached[0] != len(self._kinds):
            special = sum(
                self.fits(kind, capability_kind) for kind in self._kinds.values() if not kind.requirements.is_plain
            )
            cached = self._special[capability_kind] = (len(self._kinds), special)
        return cached[1]

    # Readiness -----------------------------------------------------------------------------------------------

    def recount(self, worker: Worker) -> None:
        """Call after the worker's state or readiness changed: counts its slots where it now accepts work."""
        wanted = worker.ready_suites if worker.accepts else set()
        slots, kind = len(worker.slots), worker.capability_kind
        for suite in worker.counted_in - wanted:
            suite.ready_slots[kind] -= slots
        for suite in wanted - worker.counted_in:
            suite.ready_slots[kind] = suite.ready_slots.get(kind, 0) + slots
        worker.counted_in = set(wanted)
        if worker.accepts != worker.is_counted:
            self.accepting_slots += slots if worker.accepts else -slots
            worker.is_counted = worker.accepts

    def eligible_slots(self, task_class: TaskClass) -> int:
        """Slots of workers that accept work and could run tasks of this class."""
        suite, kind = task_class.suite, task_class.kind
        slots = sum(count for number, count in suite.ready_slots.items() if self.fits(kind, number))
        for worker_id in task_class.lacking:
            slots -= self._slots_of(worker_id, suite, kind)
        return slots

    def is_scarce(self, task_class: TaskClass) -> bool:
        """True if some worker that accepts work can never serve this class."""
        return not task_class.kind.requirements.is_plain and self.eligible_slots(task_class) < sum(
            task_class.suite.ready_slots.values()
        )

    def is_eligible(self, task_class: TaskClass, worker: Worker) -> bool:
        """True if the worker accepts work and could run this class when its resources are free."""
        if (
            task_class.suite not in worker.counted_in
            or worker.worker_id in task_class.lacking
            or not self.fits(task_class.kind, worker.capability_kind)
        ):
            return False
        return task_class.avoid != worker.worker_id or not self._has_other(task_class)

    def _has_other(self, task_class: TaskClass) -> bool:
        assert task_class.avoid is not None
        own = 0
        if task_class.avoid not in task_class.lacking:
            own = self._slots_of(task_class.avoid, task_class.suite, task_class.kind)
        return self.eligible_slots(task_class) > own

    def _slots_of(self, worker_id: WorkerId, suite: Suite, kind: RequirementKind) -> int:
        worker = self._workers.get(worker_id)
        if worker is None or suite not in worker.counted_in or not self.fits(kind, worker.capability_kind):
            return 0
        return len(worker.slots)

    # What is held ----------------------------------------------------------------------------------------------

    def shortages(self, worker: Worker, requirements: Requirements) -> Iterator[str]:
        """What is taken at the moment, for people; nothing if everything needed is free."""
        if worker.alone is not None:
            yield f"{worker.alone.task} has {worker.worker_id} for itself"
        for name, amount in requirements.resources:
            if worker.free.get(name, 0.0) < amount - 1e-9:
                yield f"{name} on {worker.worker_id} (needs {amount:g}, {worker.free.get(name, 0.0):g} free)"
        for name in requirements.locks:
            if name in self.locks:
                yield f"lock {name!r} (held by {self.locks[name].task})"

    def can_reserve(self, worker: Worker, requirements: Requirements) -> bool:
        """True if the resources and locks are free now (whether the worker must be idle is not looked at)."""
        if worker.alone is not None:
            return False
        free = worker.free
        return all(free.get(name, 0.0) >= amount - 1e-9 for name, amount in requirements.resources) and not any(
            name in self.locks for name in requirements.locks
        )

    def reserve(self, lease: LiveLease) -> None:
        """Hold what the lease's task needs. Everything must be free."""
        worker, requirements = lease.slot.worker, lease.task.requirements
        assert self.can_reserve(worker, requirements), f"{lease.task} reserves what is not free"
        for name, amount in requirements.resources:
            worker.free[name] = worker.free.get(name, 0.0) - amount
        for name in requirements.locks:
            self.locks[name] = lease
        if requirements.alone:
            worker.alone = lease

    def release(self, lease: LiveLease) -> None:
        worker, requirements = lease.slot.worker, lease.task.requirements
        for name, amount in requirements.resources:
            worker.free[name] += amount
            # Sums of fractions drift; a machine with nothing on it has all it has.
            if abs(worker.free[name] - worker.capabilities.resources.get(name, 0.0)) < 1e-9:
                worker.free[name] = worker.capabilities.resources.get(name, 0.0)
        for name in requirements.locks:
            if self.locks.get(name) is lease:
                del self.locks[name]
        if worker.alone is lease:
            worker.alone = None
