"""Which states each worker was in, and when: also of workers that are gone, for as long as the coordinator lives."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from fleetest.api import answers
from fleetest.api.answers import utc
from fleetest.api.fleet import Fleet
from fleetest.api.live_index import LiveIndex
from fleetest.core import commands, events
from fleetest.core.entities import Worker
from fleetest.core.lifecycle import WorkerState
from fleetest.core.model import Instant, WorkerId

LOOK_EVERY_S = 2.0
CHANGES_MAX = 500
"""Changes that are kept of one worker, the latest."""
GONE_MAX = 1000
"""Workers that are gone and remembered; of more, those that have been gone longest are forgotten."""
_STATES = {state.value: state for state in WorkerState} | {"joined": WorkerState.HEALTHY}


@dataclass(slots=True)
class _Change:
    state: WorkerState
    at: Instant
    reason: str


@dataclass(slots=True, eq=False)
class _Record:
    session: Worker | None = None
    """The one that is followed; None once it is gone and read to its end."""
    read_until: Instant = float("-inf")
    read_at_once: int = 0
    """Changes of this session that were read at ``read_until``: several may share an instant."""
    changes: deque[_Change] = field(default_factory=lambda: deque(maxlen=CHANGES_MAX))

    def follow(self, session: Worker) -> None:
        self.leave()
        self.session, self.read_until, self.read_at_once = session, float("-inf"), 0

    def leave(self) -> None:
        if self.session is not None:
            self.catch_up()
        self.session = None

    def catch_up(self) -> None:
        """What the story of the session says beyond what was read of it."""
        assert self.session is not None
        known = self.read_at_once
        for at, state, reason in _told(self.session):
            if at < self.read_until:
                continue
            if at == self.read_until and known:
                known -= 1
                continue
            self.changes.append(_Change(state, at, reason))
            self.read_at_once = self.read_at_once + 1 if at == self.read_until else 1
            self.read_until, known = at, 0


class WorkerStates:
    """Reads the stories of workers, which tell every change with its instant, before they forget it.

    A look costs a comparison per worker whose story did not grow; events cause one, every ``LOOK_EVERY_S`` at most.
    """

    def __init__(self, fleet: Fleet, index: LiveIndex) -> None:
        self._fleet = fleet
        self._index = index
        self._records: dict[WorkerId, _Record] = {}
        self._gone: dict[WorkerId, None] = {}
        """In the order in which they went."""
        self._entries: dict[WorkerId, tuple[object, ...]] = {}
        """What was read of those that are here: stories are replaced when they grow."""
        self._looked_at: Instant = float("-inf")
        fleet.observe(self._observe)

    def of(self, worker_id: WorkerId) -> answers.StateHistory | None:
        """None if no such worker was ever seen."""
        self._look()
        record = self._records.get(worker_id)
        if record is None:
            return None
        # One moment for all: a change ends one span and begins the next at the same time.
        origin = self._index.to_wall(0.0)
        starts = [utc(origin + change.at) for change in record.changes]
        spans = [
            answers.StateSpan(state=change.state.value, since=since, until=until, reason=change.reason)
            for change, since, until in zip(record.changes, starts, [*starts[1:], None], strict=True)
            if since is not None
        ]
        return answers.StateHistory(is_here=record.session is not None, spans=spans)

    def lost(self) -> list[answers.LostWorker]:
        """Those that were given up and did not come back, the latest first; not those that said goodbye."""
        self._look()
        found = []
        for worker_id in reversed(self._gone):
            last = self._records[worker_id].changes[-1]
            since = utc(self._index.to_wall(last.at))
            if last.state is WorkerState.LOST and since is not None:
                found.append(
                    answers.LostWorker(worker_id=worker_id, state=last.state.value, since=since, reason=last.reason)
                )
        return found

    def _observe(self, event: events.Event, commanded: Sequence[commands.Command]) -> None:
        if type(event) is events.WorkerJoined:
            # It may be gone again before the next look.
            worker = self._fleet.state.cluster.workers.get(event.worker_id)
            if worker is not None:
                self._read(worker)
        elif self._fleet.now() - self._looked_at >= LOOK_EVERY_S:
            self._look()

    def _look(self) -> None:
        self._looked_at = self._fleet.now()
        here = self._fleet.state.cluster.workers
        for worker_id in [known for known in self._entries if known not in here]:
            self._take_leave(worker_id)
        for worker_id, worker in here.items():
            if self._entries.get(worker_id) is not worker.entries:
                self._read(worker)

    def _read(self, worker: Worker) -> None:
        worker_id = worker.worker_id
        record = self._records.setdefault(worker_id, _Record())
        if record.session is not worker:
            record.follow(worker)
            self._gone.pop(worker_id, None)
        record.catch_up()
        self._entries[worker_id] = worker.entries

    def _take_leave(self, worker_id: WorkerId) -> None:
        del self._entries[worker_id]
        self._records[worker_id].leave()
        self._gone[worker_id] = None
        while len(self._gone) > GONE_MAX:
            longest = next(iter(self._gone))
            del self._gone[longest], self._records[longest]


def _told(worker: Worker) -> Iterator[tuple[Instant, WorkerState, str]]:
    entries = iter(worker.entries)
    for at, what, detail in zip(entries, entries, entries, strict=True):
        state = _STATES.get(what)
        if state is not None:
            yield at, state, "joined" if what == "joined" else str(detail)
