"""How pytest-xdist 3.8 hands out tests, as a model in virtual time, to compare with.

Source of the method: the published schedulers ``load``, ``worksteal`` and ``loadfile`` (xdist.scheduler), the loop of
its worker, which begins a test only when it knows the next one or that there is none, and the controller's way of
ending nodes once everything is handed out. The tests of this module run the real schedulers against the models.
"""

from __future__ import annotations

import heapq
import random
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

KEPT_MIN = 2
"""A node below this many tests gets more: one runs, one is known to follow."""


@dataclass(slots=True, eq=False)
class Node:
    """One worker process. The controller's view and the process's own are apart: messages take time."""

    index: int
    slowness: float = 1.0
    pending: list[int] = field(default_factory=list)
    """The controller's: handed out and not heard of."""
    is_ending: bool = False
    """The controller has told it that nothing follows."""
    queue: deque[int] = field(default_factory=deque)
    """Its own: received and not begun."""
    current: int | None = None
    knows_end: bool = False


class Wire(Protocol):
    """What a scheduler can tell a node."""

    def run_tests(self, node: Node, tests: Sequence[int]) -> None: ...

    def steal(self, node: Node, tests: Sequence[int]) -> None: ...

    def end(self, node: Node) -> None: ...


class Scheduler(Protocol):
    def start(self) -> None: ...

    def complete(self, node: Node, test: int, duration_s: float) -> None: ...

    def unscheduled(self, node: Node, tests: Sequence[int]) -> None:
        """The answer to ``steal``: all of the tests, or none of them."""

    @property
    def is_finished(self) -> bool:
        """True if nothing is left to hand out: the nodes can be ended."""


class LoadScheduler:
    """``--dist load``: a quarter of the fair part at first, then half of the fair part of what is left."""

    def __init__(self, groups: Sequence[str], nodes: Sequence[Node], wire: Wire) -> None:
        self._left = deque(range(len(groups)))
        self._nodes, self._wire = nodes, wire

    def start(self) -> None:
        count = len(self._left)
        if count < KEPT_MIN * len(self._nodes):
            for position in range(count):
                self._hand_out(self._nodes[position % len(self._nodes)], 1)
        else:
            for node in self._nodes:
                self._hand_out(node, max(count // len(self._nodes) // 4, KEPT_MIN))
        if not self._left:
            for node in self._nodes:
                self._wire.end(node)

    def complete(self, node: Node, test: int, duration_s: float) -> None:
        node.pending.remove(test)
        if node.is_ending:
            return
        if not self._left:
            self._wire.end(node)
            return
        per_node = len(self._left) // len(self._nodes)
        held = len(node.pending)
        if held >= max(KEPT_MIN, per_node // 4) or (duration_s >= 0.1 and held >= KEPT_MIN):
            return
        self._hand_out(node, max(KEPT_MIN, per_node // 2) - held)

    def unscheduled(self, node: Node, tests: Sequence[int]) -> None:
        raise AssertionError("this mode never steals")

    @property
    def is_finished(self) -> bool:
        return not self._left and all(len(node.pending) < KEPT_MIN for node in self._nodes)

    def _hand_out(self, node: Node, count: int) -> None:
        tests = [self._left.popleft() for _ in range(min(count, len(self._left)))]
        if tests:
            node.pending += tests
            self._wire.run_tests(node, tests)


class StealScheduler:
    """``--dist worksteal``: equal parts in the order of collection, then half of the longest queue to who runs dry."""

    def __init__(self, groups: Sequence[str], nodes: Sequence[Node], wire: Wire) -> None:
        self._left = list(range(len(groups)))
        self._nodes, self._wire = nodes, wire
        self._victim: Node | None = None

    def start(self) -> None:
        if self._left:
            self._look()

    def complete(self, node: Node, test: int, duration_s: float) -> None:
        node.pending.remove(test)
        self._look()

    def unscheduled(self, node: Node, tests: Sequence[int]) -> None:
        assert node is self._victim
        self._victim = None
        gone = set(tests)
        node.pending = [test for test in node.pending if test not in gone]
        self._left += tests
        self._look()

    @property
    def is_finished(self) -> bool:
        return not self._left and self._victim is None and all(len(node.pending) < KEPT_MIN for node in self._nodes)

    def _idle(self) -> list[Node]:
        return [node for node in self._nodes if not node.is_ending and len(node.pending) < KEPT_MIN]

    def _look(self) -> None:
        idle = self._idle()
        if idle and self._left:
            for position, node in enumerate(idle):
                count = len(self._left) // (len(idle) - position)
                tests, self._left = self._left[:count], self._left[count:]
                if tests:
                    node.pending += tests
                    self._wire.run_tests(node, tests)
            idle = self._idle()
        if not idle or self._victim is not None:
            return
        richest = max((node for node in self._nodes if not node.is_ending), key=lambda node: len(node.pending))
        count = min(len(richest.pending) // 2, max(0, len(richest.pending) - KEPT_MIN))
        if count:
            self._victim = richest
            self._wire.steal(richest, richest.pending[-count:])
        else:
            for node in idle:
                self._wire.end(node)


class FileScheduler:
    """``--dist loadfile``: whole files, those with most tests first; a new one for who has two tests or fewer left."""

    def __init__(self, groups: Sequence[str], nodes: Sequence[Node], wire: Wire) -> None:
        files: dict[str, list[int]] = {}
        for test, group in enumerate(groups):
            files.setdefault(group, []).append(test)
        self._files = deque(sorted(files.values(), key=lambda tests: -len(tests)))
        self._nodes, self._wire = list(nodes), wire

    def start(self) -> None:
        while len(self._nodes) > len(self._files):
            self._wire.end(self._nodes.pop())
        for node in self._nodes:
            self._hand_out(node)
        for node in self._nodes:
            self._look(node)
        if not self._files:
            for node in self._nodes:
                self._wire.end(node)

    def complete(self, node: Node, test: int, duration_s: float) -> None:
        node.pending.remove(test)
        self._look(node)

    def unscheduled(self, node: Node, tests: Sequence[int]) -> None:
        raise AssertionError("this mode never steals")

    @property
    def is_finished(self) -> bool:
        return not self._files and all(len(node.pending) < KEPT_MIN for node in self._nodes)

    def _look(self, node: Node) -> None:
        if node.is_ending:
            return
        if not self._files:
            self._wire.end(node)
        elif len(node.pending) <= KEPT_MIN:
            self._hand_out(node)

    def _hand_out(self, node: Node) -> None:
        tests = self._files.popleft()
        node.pending += tests
        self._wire.run_tests(node, tests)


class RoundRobinScheduler:
    """Test i to node i modulo the number of nodes, once and for all: the baseline of every comparison."""

    def __init__(self, groups: Sequence[str], nodes: Sequence[Node], wire: Wire) -> None:
        self._count, self._nodes, self._wire = len(groups), nodes, wire

    def start(self) -> None:
        for node in self._nodes:
            node.pending = list(range(node.index, self._count, len(self._nodes)))
            self._wire.run_tests(node, node.pending)
            self._wire.end(node)

    def complete(self, node: Node, test: int, duration_s: float) -> None:
        node.pending.remove(test)

    def unscheduled(self, node: Node, tests: Sequence[int]) -> None:
        raise AssertionError("nothing is ever stolen")

    @property
    def is_finished(self) -> bool:
        return True


SchedulerFactory = Callable[[Sequence[str], Sequence[Node], Wire], Scheduler]
XDIST_MODES: Mapping[str, SchedulerFactory] = {
    "xdist load": LoadScheduler,
    "xdist worksteal": StealScheduler,
    "xdist loadfile": FileScheduler,
    "static round robin": RoundRobinScheduler,
}


@dataclass(frozen=True, slots=True)
class Ran:
    """Test number ``test`` ran on node number ``node``."""

    test: int
    node: int
    started_at: float
    ended_at: float


class NodeFleet:
    """The nodes and the controller's loop. ``durations_s`` are those on a node of slowness 1."""

    def __init__(
        self,
        make: SchedulerFactory,
        groups: Sequence[str],
        durations_s: Sequence[float],
        slownesses: Sequence[float],
        *,
        latency_s: tuple[float, float] = (0.0, 0.0),
        seed: int = 0,
    ) -> None:
        self.nodes = [Node(index, slowness) for index, slowness in enumerate(slownesses)]
        self.ran: list[Ran] = []
        self.now = 0.0
        self._durations_s, self._latency_s = durations_s, latency_s
        self._random = random.Random(seed)
        self._heap: list[tuple[float, int, Callable[..., None], tuple[object, ...]]] = []
        self._count = 0
        self._free_at: dict[tuple[int, bool], float] = {}
        self._scheduler = make(groups, self.nodes, self)

    def run(self) -> list[Ran]:
        """Everything, in order of ending."""
        self._scheduler.start()
        self._end_if_finished()
        while self._heap:
            self.now, _, call, args = heapq.heappop(self._heap)
            call(*args)
        return self.ran

    # Wire ------------------------------------------------------------------------------------------------------------

    def run_tests(self, node: Node, tests: Sequence[int]) -> None:
        self._message(node, True, self._received, node, list(tests))

    def steal(self, node: Node, tests: Sequence[int]) -> None:
        self._message(node, True, self._asked_back, node, list(tests))

    def end(self, node: Node) -> None:
        if not node.is_ending:
            node.is_ending = True
            self._message(node, True, self._told_end, node)

    def _message(self, node: Node, to_node: bool, call: Callable[..., None], *args: object) -> None:
        key = (node.index, to_node)
        when = max(self.now + self._random.uniform(*self._latency_s), self._free_at.get(key, 0.0))
        self._free_at[key] = when
        self._at(when, call, *args)

    def _at(self, when: float, call: Callable[..., None], *args: object) -> None:
        self._count += 1
        heapq.heappush(self._heap, (when, self._count, call, args))

    # On the node -----------------------------------------------------------------------------------------------------

    def _received(self, node: Node, tests: list[int]) -> None:
        node.queue += tests
        self._advance(node)

    def _told_end(self, node: Node) -> None:
        node.knows_end = True
        self._advance(node)

    def _asked_back(self, node: Node, tests: list[int]) -> None:
        # The first has been taken out of the queue already, to follow the running test or to wait for a successor.
        stealable = set(list(node.queue)[1:])
        if not stealable.issuperset(tests):
            tests = []
        gone = set(tests)
        node.queue = deque(test for test in node.queue if test not in gone)
        self._message(node, False, self._scheduler_event, self._scheduler.unscheduled, node, tests)

    def _advance(self, node: Node) -> None:
        if node.current is None and node.queue and (len(node.queue) > 1 or node.knows_end):
            node.current = node.queue.popleft()
            duration_s = self._durations_s[node.current] * node.slowness
            self._at(self.now + duration_s, self._ended, node, self.now)

    def _ended(self, node: Node, started_at: float) -> None:
        test = node.current
        assert test is not None
        node.current = None
        self.ran.append(Ran(test, node.index, started_at, self.now))
        duration_s = self.now - started_at
        self._message(node, False, self._scheduler_event, self._scheduler.complete, node, test, duration_s)
        self._advance(node)

    # At the controller -----------------------------------------------------------------------------------------------

    def _scheduler_event(self, take: Callable[..., None], *args: object) -> None:
        take(*args)
        self._end_if_finished()

    def _end_if_finished(self) -> None:
        if self._scheduler.is_finished:
            for node in self.nodes:
                self.end(node)
