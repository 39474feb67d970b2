"""A worker of a simulated cluster: executes leases in virtual time, as a real one would, over a link that may break."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from fleetest.core import commands, events
from fleetest.core.model import AttemptResult, Capabilities, Lease, LeaseId, RunId, TaskId, Verdict, WorkerId
from fleetest.testing.virtual_clock import VirtualClock


@dataclass(slots=True)
class Behaviour:
    """What a task does when it is executed."""

    duration_s: float = 0.05
    verdict: Verdict = Verdict.PASSED
    kills_worker: bool = False


@dataclass(slots=True)
class SimulatedSlot:
    queue: deque[Lease] = field(default_factory=deque)
    running: Lease | None = None
    is_done: bool = False
    """The running test has ended and waits in its teardown to hear of a successor."""
    is_told_idle: bool = False
    outcome: Verdict = Verdict.PASSED


@dataclass(slots=True)
class SimulatedWorker:
    """``deliver`` hands an event to the coordinator if the link generation still is the current one."""

    worker_id: WorkerId
    capabilities: Capabilities
    clock: VirtualClock
    random: random.Random
    behave: Callable[[TaskId, int], Behaviour]
    deliver: Callable[[SimulatedWorker, events.Event], None]
    collect: Callable[[SimulatedWorker, RunId], None]
    die: Callable[[SimulatedWorker], None]
    slots: list[SimulatedSlot]
    session: str = "0"
    link: int = 0
    """Generation of the link; a message of an earlier one is lost."""
    is_linked: bool = False
    is_alive: bool = True
    is_paused: bool = False
    ignores_kills: bool = False
    runs: set[RunId] = field(default_factory=set)

    def held_leases(self) -> tuple[LeaseId, ...]:
        held = []
        for slot in self.slots:
            if slot.running is not None:
                held.append(slot.running.lease_id)
            held += [lease.lease_id for lease in slot.queue]
        return tuple(held)

    def receive(self, command: commands.Command) -> None:
        if isinstance(command, commands.GrantLeases):
            slot = self.slots[command.slot]
            slot.queue.extend(command.leases)
            slot.is_told_idle = False
            self._advance(slot)
        elif isinstance(command, commands.SlotIdle):
            self.slots[command.slot].is_told_idle = True
            self._advance(self.slots[command.slot])
        elif isinstance(command, commands.RevokeLeases):
            self._give_back(set(command.lease_ids))
        elif isinstance(command, commands.KillLeases) and not self.ignores_kills:
            self._kill(set(command.lease_ids))
        elif isinstance(command, commands.PrepareRun):
            if command.run_id not in self.runs:
                self.runs.add(command.run_id)
                self.clock.call_later(self.random.uniform(0.01, 0.5), lambda: self.collect(self, command.run_id))
        elif isinstance(command, commands.EndRun):
            for slot in self.slots:
                assert slot.running is None or slot.running.run_id != command.run_id or self.ignores_kills, (
                    f"{command.run_id} ended while {slot.running} runs on {self.worker_id}"
                )

    def _give_back(self, lease_ids: set[LeaseId]) -> None:
        back = []
        for slot in self.slots:
            back += [lease.lease_id for lease in slot.queue if lease.lease_id in lease_ids]
            slot.queue = deque(lease for lease in slot.queue if lease.lease_id not in lease_ids)
        if back:
            self.deliver(self, events.LeasesReturned(self.worker_id, back))

    def _kill(self, lease_ids: set[LeaseId]) -> None:
        self._give_back(lease_ids)
        for slot in self.slots:
            if slot.running is not None and slot.running.lease_id in lease_ids:
                self._report(slot, Verdict.CANCELLED)

    def _advance(self, slot: SimulatedSlot) -> None:
        if not self.is_alive or self.is_paused:
            return
        if slot.is_done and (slot.queue or slot.is_told_idle):
            self._report(slot, slot.outcome)
        elif slot.running is None and slot.queue:
            self._start(slot)

    def _start(self, slot: SimulatedSlot) -> None:
        lease = slot.running = slot.queue.popleft()
        slot.is_done = False
        behaviour = self.behave(lease.task_id, lease.attempt)
        self.deliver(self, events.AttemptsStarted(self.worker_id, (lease.lease_id,)))
        self.clock.call_later(behaviour.duration_s, lambda: self._ended(slot, lease, behaviour))

    def _ended(self, slot: SimulatedSlot, lease: Lease, behaviour: Behaviour) -> None:
        if slot.running is not lease or slot.is_done or not self.is_alive:
            return
        if behaviour.kills_worker:
            self.die(self)
            return
        slot.is_done, slot.outcome = True, behaviour.verdict
        self._advance(slot)

    def _report(self, slot: SimulatedSlot, verdict: Verdict) -> None:
        lease, slot.running, slot.is_done = slot.running, None, False
        assert lease is not None
        duration_s = self.behave(lease.task_id, lease.attempt).duration_s
        result = AttemptResult(lease.lease_id, verdict, duration_s=duration_s)
        self.deliver(self, events.AttemptsFinished(self.worker_id, [result]))
        self._advance(slot)

    def wake_up(self) -> None:
        """After a pause: everything that was due happens now."""
        self.is_paused = False
        for slot in self.slots:
            self._advance(slot)
