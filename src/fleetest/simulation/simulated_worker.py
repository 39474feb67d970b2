"""A worker of a simulated cluster: executes leases in virtual time, as a real one would, over a link that may break."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from fleetest.core import commands, events
from fleetest.core.model import AttemptResult, Capabilities, Lease, LeaseId, RunId, TaskId, Verdict, WorkerId
from fleetest.simulation.virtual_clock import VirtualClock

KEPT_RESULTS_S = 30.0
"""So long results that were sent are kept: a link that breaks says nothing of what still arrived."""


@dataclass(slots=True)
class Behaviour:
    """What a task does when it is executed. ``duration_s`` is on a worker of slowness 1."""

    duration_s: float = 0.05
    verdict: Verdict = Verdict.PASSED
    kills_worker: bool = False


class Execution(NamedTuple):
    """One attempt as it happened. ``verdict`` is None if its worker died under it."""

    run_id: RunId
    task_id: TaskId
    attempt: int
    worker_id: WorkerId
    slot: int
    started_at: float
    ended_at: float
    verdict: Verdict | None


@dataclass(slots=True, eq=False)
class SimulatedSlot:
    index: int
    queue: deque[Lease] = field(default_factory=deque)
    running: Lease | None = None
    started_at: float = 0.0
    ended_at: float = 0.0
    is_done: bool = False
    """The running test has ended and waits in its teardown to hear of a successor."""
    is_told_idle: bool = False
    outcome: Verdict = Verdict.PASSED


@dataclass(slots=True, eq=False)
class Link:
    """One connection. Each direction keeps its order; what is on a held direction arrives once it is free again."""

    up_free_at: float = 0.0
    """Nothing arrives at the coordinator before."""
    down_free_at: float = 0.0


class Surroundings(Protocol):
    """What a simulated worker needs of the cluster around it."""

    clock: VirtualClock

    def behave(self, task_id: TaskId, attempt: int) -> Behaviour: ...

    def deliver(self, worker: SimulatedWorker, event: events.Event) -> None:
        """Over the link that the worker has, if it has one."""

    def collect(self, worker: SimulatedWorker, run_id: RunId) -> None:
        """The worker was told to prepare the run."""

    def die(self, worker: SimulatedWorker) -> None:
        """A test took the worker with it."""

    def record(self, execution: Execution) -> None: ...


@dataclass(slots=True, eq=False)
class SimulatedWorker:
    worker_id: WorkerId
    capabilities: Capabilities
    around: Surroundings
    slots: list[SimulatedSlot]
    slowness: float = 1.0
    """Durations are multiplied by it."""
    session: str = ""
    link: Link | None = None
    """As the worker sees it: the coordinator may know already, or not yet, that it is gone."""
    is_alive: bool = True
    is_paused: bool = False
    is_leaving: bool = False
    ignores_kills: bool = False
    was_disturbed: bool = False
    """Some fault has hit it: it may have missed what it was told."""
    unreachable_until: float = 0.0
    """No new link before."""
    runs: set[RunId] = field(default_factory=set)
    _inbox: list[commands.Command] = field(default_factory=list)
    _waiting: deque[events.Event] = field(default_factory=deque)
    """What could not be sent for want of a link."""
    _sent: deque[tuple[float, events.AttemptsFinished]] = field(default_factory=deque)
    _probed: events.WorkerProbed | None = None

    def held_leases(self) -> tuple[LeaseId, ...]:
        """What it executes or has queued, and what it has reported without being sure that it arrived."""
        held = []
        for slot in self.slots:
            if slot.running is not None:
                held.append(slot.running.lease_id)
            held += [lease.lease_id for lease in slot.queue]
        for event in self._unconfirmed():
            held += [result.lease_id for result in event.results]
        return tuple(held)

    def _unconfirmed(self) -> Iterator[events.AttemptsFinished]:
        oldest = self.around.clock.now - KEPT_RESULTS_S
        yield from (event for at, event in self._sent if at >= oldest)
        yield from (event for event in self._waiting if isinstance(event, events.AttemptsFinished))

    # Its link ------------------------------------------------------------------------------------------------------

    def tell(self, event: events.Event) -> None:
        """Send it, or keep it for the next link."""
        if isinstance(event, events.WorkerProbed):
            self._probed = event
        if self.link is None:
            self._waiting.append(event)
            return
        if isinstance(event, events.AttemptsFinished):
            now = self.around.clock.now
            self._sent.append((now, event))
            while self._sent[0][0] < now - KEPT_RESULTS_S:
                self._sent.popleft()
        self.around.deliver(self, event)

    def linked(self, link: Link) -> None:
        """The coordinator has welcomed it: results that may have been lost go again, then everything that waited.

        What its probe found last is said on every new link.
        """
        self.link = link
        others = (e for e in self._waiting if not isinstance(e, (events.AttemptsFinished, events.WorkerProbed)))
        again = [*self._unconfirmed(), *others, *([] if self._probed is None else [self._probed])]
        self._sent.clear()
        self._waiting.clear()
        for event in again:
            self.tell(event)
        if self.is_leaving:
            self.tell(events.WorkerDraining(self.worker_id))

    def start_anew(self, session: str) -> None:
        """Another process under the same name: it knows nothing of the earlier one."""
        self.session = session
        self.is_alive, self.is_paused, self.is_leaving = True, False, False
        self.runs.clear()
        self._inbox.clear()
        self._waiting.clear()
        self._sent.clear()
        self._probed = None
        self.slots[:] = [SimulatedSlot(slot.index) for slot in self.slots]

    # What the coordinator says ---------------------------------------------------------------------------------------

    def receive(self, command: commands.Command) -> None:
        if self.is_paused:
            self._inbox.append(command)
        elif isinstance(command, commands.GrantLeases):
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
                self.around.collect(self, command.run_id)
        elif isinstance(command, commands.EndRun):
            self._end_run(command.run_id)

    def _give_back(self, lease_ids: set[LeaseId]) -> None:
        back = []
        for slot in self.slots:
            back += [lease.lease_id for lease in slot.queue if lease.lease_id in lease_ids]
            slot.queue = deque(lease for lease in slot.queue if lease.lease_id not in lease_ids)
        if back:
            self.tell(events.LeasesReturned(self.worker_id, back))

    def _kill(self, lease_ids: set[LeaseId]) -> None:
        self._give_back(lease_ids)
        for slot in self.slots:
            if slot.running is not None and slot.running.lease_id in lease_ids:
                self._report(slot, Verdict.CANCELLED)

    def _end_run(self, run_id: RunId) -> None:
        for slot in self.slots:
            slot.queue = deque(lease for lease in slot.queue if lease.run_id != run_id)
            if slot.running is not None and slot.running.run_id == run_id:
                assert self.ignores_kills or self.was_disturbed, (
                    f"{run_id} ended while {slot.running} runs on {self.worker_id}"
                )
                self._stop(slot, None)
                self._advance(slot)

    def drain(self) -> None:
        """Start nothing more, give back what waits."""
        self.is_leaving = True
        self.tell(events.WorkerDraining(self.worker_id))
        self._give_back({lease.lease_id for slot in self.slots for lease in slot.queue})
        for slot in self.slots:
            slot.is_told_idle = True
            self._advance(slot)

    # Executing -----------------------------------------------------------------------------------------------------

    def _advance(self, slot: SimulatedSlot) -> None:
        if not self.is_alive or self.is_paused:
            return
        if slot.is_done and (slot.queue or slot.is_told_idle):
            self._report(slot, slot.outcome)
        elif slot.running is None and slot.queue and not self.is_leaving:
            self._start(slot)

    def _start(self, slot: SimulatedSlot) -> None:
        clock = self.around.clock
        lease = slot.running = slot.queue.popleft()
        slot.is_done = False
        slot.started_at = clock.now
        behaviour = self.around.behave(lease.task_id, lease.attempt)
        self.tell(events.AttemptsStarted(self.worker_id, (lease.lease_id,)))
        duration_s, verdict = behaviour.duration_s * self.slowness, behaviour.verdict
        if lease.gang is not None and lease.gang.rank:
            # The first member decides.
            verdict = Verdict.PASSED
        if lease.timeout_s is not None and duration_s > lease.timeout_s:
            duration_s, verdict = lease.timeout_s, Verdict.TIMEOUT
        clock.call_later(duration_s, self._ended, slot, lease, verdict, behaviour.kills_worker)

    def _ended(self, slot: SimulatedSlot, lease: Lease, verdict: Verdict, kills_worker: bool) -> None:
        if slot.running is not lease or slot.is_done or not self.is_alive:
            return
        if kills_worker:
            self.around.die(self)
            return
        slot.is_done, slot.outcome, slot.ended_at = True, verdict, self.around.clock.now
        self._advance(slot)

    def _report(self, slot: SimulatedSlot, verdict: Verdict) -> None:
        lease = slot.running
        assert lease is not None
        duration_s = self._stop(slot, verdict)
        self.tell(events.AttemptsFinished(self.worker_id, [AttemptResult(lease.lease_id, verdict, 0.0, duration_s)]))
        self._advance(slot)

    def _stop(self, slot: SimulatedSlot, verdict: Verdict | None) -> float:
        """The slot is free again. Returns how long its test took."""
        lease = slot.running
        assert lease is not None
        ended_at = slot.ended_at if slot.is_done else self.around.clock.now
        slot.running, slot.is_done = None, False
        self.around.record(
            Execution(
                lease.run_id,
                lease.task_id,
                lease.attempt,
                self.worker_id,
                slot.index,
                slot.started_at,
                ended_at,
                verdict,
            )
        )
        return ended_at - slot.started_at

    def died(self) -> None:
        """Its process is gone, and every test with it."""
        self.is_alive = False
        self.link = None
        for slot in self.slots:
            slot.queue.clear()
            if slot.running is not None:
                self._stop(slot, None)

    def fail_queue(self, slot: SimulatedSlot) -> None:
        """It cannot start what is queued in this slot."""
        if slot.queue:
            failed = [lease.lease_id for lease in slot.queue]
            slot.queue.clear()
            self.tell(events.InfrastructureFailed(self.worker_id, failed, "cannot fork"))

    @property
    def is_executing(self) -> bool:
        return any(slot.running is not None for slot in self.slots)

    def wake_up(self) -> None:
        """After a pause: everything that was due happens now."""
        self.is_paused = False
        for slot in self.slots:
            self._advance(slot)
        inbox = self._inbox[:]
        self._inbox.clear()
        for command in inbox:
            self.receive(command)
