"""One slot: a queue of leases, and one seat for each suite that has executed here; one seat works at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import TypeAlias

from fleetest.core.model import LeaseId, RunId, Verdict
from fleetest.processes.reporting import HeldLease, Reporter, Seat

SeatKey: TypeAlias = tuple[RunId, str]


class Slot:
    """``make_seat`` gives the seat for a run and suite in this slot, or None if this worker does not know them."""

    def __init__(
        self,
        index: int,
        *,
        make_seat: Callable[[Slot, SeatKey], Seat | None],
        reporter: Reporter,
    ) -> None:
        self.index = index
        self._make_seat = make_seat
        self._reporter = reporter
        self._queue: deque[HeldLease] = deque()
        self._seats: dict[SeatKey, Seat] = {}
        self._working: Seat | None = None
        self._nothing_follows = False
        self._is_pumping = False

    @property
    def is_empty(self) -> bool:
        return not self._queue and (self._working is None or self._working.is_empty)

    @property
    def running(self) -> HeldLease | None:
        return self._working.current if self._working is not None else None

    def held(self) -> list[LeaseId]:
        """All leases here, running or waiting."""
        working = self._working.held() if self._working is not None else []
        return working + [held.lease.lease_id for held in self._queue]

    def grant(self, leases: Iterable[HeldLease]) -> None:
        self._nothing_follows = False
        self._queue.extend(leases)
        self.pump()

    def nothing_follows(self) -> None:
        self._nothing_follows = True
        self.pump()

    def pump(self) -> None:
        """Hand out as much of the queue as its seat takes."""
        if self._is_pumping:
            return
        self._is_pumping = True
        try:
            while self._queue and self._hand_out():
                pass
            if not self._queue and self._nothing_follows and self._working is not None:
                self._working.nothing_follows()
        finally:
            self._is_pumping = False

    def _hand_out(self) -> bool:
        """Give leases of one suite from the head of the queue; False if nothing could be given."""
        lease = self._queue[0].lease
        key = (lease.run_id, lease.suite)
        seat = self.seat(key)
        if seat is None:
            self._reporter.returned([self._queue.popleft().lease.lease_id])
            self._reporter.wake()
            return True
        if self._working is not None and self._working is not seat and not self._working.is_empty:
            self._working.nothing_follows()
            return False
        self._working = seat
        room = seat.capacity()
        chosen: list[HeldLease] = []
        while self._queue and len(chosen) < room:
            lease = self._queue[0].lease
            if (lease.run_id, lease.suite) != key:
                break
            chosen.append(self._queue.popleft())
        if chosen:
            seat.give(chosen)
        return bool(chosen)

    def seat(self, key: SeatKey) -> Seat | None:
        """The seat of a suite, made when it is first asked for."""
        seat = self._seats.get(key)
        if seat is None:
            seat = self._make_seat(self, key)
            if seat is not None:
                self._seats[key] = seat
        return seat

    def wake_seat(self, key: SeatKey) -> None:
        """Runners of this suite can be made now."""
        if key in self._seats:
            self._seats[key].advance()
            self.pump()

    def revoke(self, lease_ids: set[LeaseId] | None) -> list[LeaseId]:
        """Remove those of these leases (None: of all) that have not started, and return them."""
        taken = [held for held in self._queue if lease_ids is None or held.lease.lease_id in lease_ids]
        if taken:
            gone = {held.lease.lease_id for held in taken}
            self._queue = deque(held for held in self._queue if held.lease.lease_id not in gone)
        working = self._working
        if working is not None and (lease_ids is None or not lease_ids.isdisjoint(working.held())):
            taken.extend(working.take_back(lease_ids))
        self.pump()
        return [held.lease.lease_id for held in taken]

    def kill(self, lease_ids: set[LeaseId], reason: str) -> None:
        """End those of these attempts that are here; each gets a result ``cancelled``."""
        for held in [held for held in self._queue if held.lease.lease_id in lease_ids]:
            self._queue.remove(held)
            self._reporter.finished(held.result(Verdict.CANCELLED, evidence=reason))
        if self._working is not None and not lease_ids.isdisjoint(self._working.held()):
            self._working.kill(lease_ids, reason)
        self._reporter.wake()
        self.pump()

    def is_done_with(self, run_id: RunId) -> bool:
        """True if no lease of this run is here."""
        return all(seat.is_empty for key, seat in self._seats.items() if key[0] == run_id) and all(
            held.lease.run_id != run_id for held in self._queue
        )

    def end_run(self, run_id: RunId) -> list[Seat]:
        """Forget the run and return its seats, which the caller ends. Its queued leases are returned unstarted."""
        for held in [held for held in self._queue if held.lease.run_id == run_id]:
            self._queue.remove(held)
            self._reporter.returned([held.lease.lease_id])
        ended = [self._seats.pop(key) for key in list(self._seats) if key[0] == run_id]
        if self._working in ended:
            self._working = None
        self.pump()
        return ended
