"""Which worker can run which task: readiness, matching, countable resources, locks.

Nothing is ever compared pairwise: tasks are known by class, workers by capability kind, and each pair of distinct
requirements and capabilities is matched once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fleetest.core.entities import LiveLease, RequirementKind, Suite, Task, TaskClass, Worker
from fleetest.core.matching import format_amount, matches, preference
from fleetest.core.model import Capabilities, Requirements, WorkerId


class Placement:
    """The index of capabilities and requirements, and who holds what."""

    def __init__(self, workers: dict[WorkerId, Worker], slowest: Callable[[Worker, TaskClass], float]) -> None:
        self._workers = workers
        self.slowest = slowest
        """How many seconds a worker hardly exceeds for a second of predicted work, as the balancing policy says."""
        self._kind_of: dict[object, int] = {}
        self._capabilities: list[Capabilities] = []
        self._kinds: dict[Requirements, RequirementKind] = {}
        self._special: dict[int, tuple[int, int]] = {}
        self.accepting_slots = 0
        self.locks: dict[str, LiveLease] = {}
        self.claimed_locks: set[str] = set()
        """Locks that a gathering gang gets next."""
        self.generation = 0
        """Grows with every change of who accepts what."""

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

    def task_class(
        self,
        suite: Suite,
        requirements: Requirements,
        lacking: frozenset[WorkerId] = frozenset(),
        avoid: tuple[WorkerId, ...] = (),
    ) -> TaskClass:
        """The class of tasks of which these are true, made if it is the first of it."""
        key = (suite.name, requirements, lacking, avoid)
        run = suite.run
        found = run.classes.get(key)
        if found is None:
            base = self.task_class(suite, requirements, lacking) if avoid else None
            found = run.classes[key] = TaskClass(suite, self.requirement_kind(requirements), lacking, avoid, base)
        return found

    def file(self, task: Task) -> None:
        """Put the unfinished task into the class that it belongs to now."""
        suite = task.suite
        found = self.task_class(suite, task.requirements, task.lacking, task.avoid)
        if found is not task.task_class:
            suite.count_left(task, -1)
            task.task_class = found
            suite.count_left(task, 1)

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
        if not kind.has_preferences:
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
        self.generation += 1
        accepts = worker.accepts
        wanted = worker.ready_suites if accepts else set()
        slots = len(worker.slots)
        for suite in worker.counted_in - wanted:
            self._count_slots(suite, worker.capability_kind, -slots)
        for suite in wanted - worker.counted_in:
            self._count_slots(suite, worker.capability_kind, slots)
        worker.counted_in = set(wanted)
        if accepts != worker.is_counted:
            self.accepting_slots += slots if accepts else -slots
            worker.is_counted = accepts

    def _count_slots(self, suite: Suite, capability_kind: int, slots: int) -> None:
        suite.ready_slots[capability_kind] = suite.ready_slots.get(capability_kind, 0) + slots
        suite.ready_total += slots
        suite.ready_version += 1
        for kind in suite.fitting_slots:
            if self.fits(kind, capability_kind):
                suite.fitting_slots[kind] += slots

    def eligible_slots(self, task_class: TaskClass) -> int:
        """Slots of workers that accept work and could run tasks of this class."""
        if task_class.lacking:
            return self._known_slots(task_class)[1]
        return self._fitting_slots(task_class.suite, task_class.kind)

    def is_scarce(self, task_class: TaskClass) -> bool:
        """True if some worker that accepts work can never serve this class."""
        return not task_class.kind.is_plain and self.eligible_slots(task_class) < task_class.suite.ready_total

    def serves(self, task_class: TaskClass, worker: Worker) -> bool:
        """True if the worker accepts work and could run this class, also if others are preferred to it."""
        return (
            task_class.suite in worker.counted_in
            and worker.worker_id not in task_class.lacking
            and self.fits(task_class.kind, worker.capability_kind)
        )

    def is_eligible(self, task_class: TaskClass, worker: Worker) -> bool:
        """True if the worker accepts work and could run this class when its resources are free."""
        if (
            task_class.suite not in worker.counted_in
            or worker.worker_id in task_class.lacking
            or not self.fits(task_class.kind, worker.capability_kind)
        ):
            return False
        avoid = task_class.avoid
        return not avoid or worker.worker_id not in avoid or self._is_last_resort(task_class, worker)

    def _is_last_resort(self, task_class: TaskClass, worker: Worker) -> bool:
        """True if the class was tried on every worker that fits; on the latest one it is tried last."""
        _, eligible, untried = self._known_slots(task_class)
        if untried:
            return False
        latest = task_class.avoid[-1]
        return worker.worker_id != latest or eligible == self._slots_of(latest, task_class)

    def _fitting_slots(self, suite: Suite, kind: RequirementKind) -> int:
        slots = suite.fitting_slots.get(kind)
        if slots is None:
            slots = suite.fitting_slots[kind] = sum(
                count for number, count in suite.ready_slots.items() if self.fits(kind, number)
            )
        return slots

    def _known_slots(self, task_class: TaskClass) -> tuple[int, int, int]:
        """Counted once per change of the suite's ready slots: one class may leave out many workers."""
        version = task_class.suite.ready_version
        if task_class.known_slots[0] != version:
            eligible = self._fitting_slots(task_class.suite, task_class.kind)
            for worker_id in task_class.lacking:
                eligible -= self._slots_of(worker_id, task_class)
            untried = eligible
            for worker_id in task_class.avoid:
                if worker_id not in task_class.lacking:
                    untried -= self._slots_of(worker_id, task_class)
            task_class.known_slots = (version, eligible, untried)
        return task_class.known_slots

    def _slots_of(self, worker_id: WorkerId, task_class: TaskClass) -> int:
        worker = self._workers.get(worker_id)
        if (
            worker is None
            or task_class.suite not in worker.counted_in
            or not self.fits(task_class.kind, worker.capability_kind)
        ):
            return 0
        return len(worker.slots)

    # What is held ----------------------------------------------------------------------------------------------

    def shortages(self, worker: Worker, task: Task) -> Iterator[str]:
        """What the task needs and others have at the moment, for people; nothing if everything is free."""
        requirements = task.requirements
        if worker.alone is not None:
            yield f"worker {worker.worker_id} ({worker.alone.task.seen_from(task.run)} has it for itself)"
        for name, amount in requirements.resources:
            if worker.free.get(name, 0.0) < amount - 1e-9:
                needed, free = format_amount(name, amount), format_amount(name, worker.free.get(name, 0.0))
                yield f"{name} on {worker.worker_id} (needs {needed}, {free} free)"
        for name in requirements.locks:
            if name in self.locks:
                yield f"lock {name!r} (held by {self.locks[name].task.seen_from(task.run)})"
            elif name in self.claimed_locks and requirements.workers == 1:
                yield f"lock {name!r} (kept for a task that needs several workers)"

    def can_reserve(self, worker: Worker, requirements: Requirements) -> bool:
        """True if the resources and locks are free now (whether the worker must be idle is not looked at)."""
        gathering = worker.gathering
        if gathering is not None and _share_resources(gathering.task.requirements, requirements):
            return False
        if self.claimed_locks and not self.claimed_locks.isdisjoint(requirements.locks):
            return False
        return self.has_free(worker, requirements)

    def has_free(self, worker: Worker, requirements: Requirements) -> bool:
        """The same for a gang that they are kept for."""
        if worker.alone is not None:
            return False
        free = worker.free
        return all(free.get(name, 0.0) >= amount - 1e-9 for name, amount in requirements.resources) and not any(
            name in self.locks for name in requirements.locks
        )

    def reserve(self, lease: LiveLease) -> None:
        """Hold what the lease's task needs. Everything must be free."""
        worker, requirements = lease.slot.worker, lease.task.requirements
        # The first member of a gang holds its locks.
        locks = requirements.locks if lease.task.lease is lease else ()
        is_free = worker.alone is None and not any(name in self.locks for name in locks)
        assert is_free, f"{lease.task} reserves what is not free"
        for name, amount in requirements.resources:
            worker.free[name] = worker.free.get(name, 0.0) - amount
            assert worker.free[name] >= -1e-9 * max(1.0, amount), f"{lease.task} reserves {name} that is not free"
        for name in locks:
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
                if lease.task.lease is not None:
                    # The others of its gang go on.
                    self.locks[name] = lease.task.lease
        if worker.alone is lease:
            worker.alone = None


def _share_resources(one: Requirements, other: Requirements) -> bool:
    names = {name for name, _ in one.resources}
    return any(name in names for name, _ in other.resources)
