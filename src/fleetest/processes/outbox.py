"""Everything on its way to the coordinator: results of all slots in one message, kept while there is no link."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from fleetest.core.model import AttemptResult, LeaseId
from fleetest.processes.reporting import HeldLease
from fleetest.wire.messages import (
    AttemptsFinished,
    AttemptsStarted,
    InfrastructureFailed,
    LeasesReturned,
    RunOutput,
    WorkerMessage,
)

_KEPT_RESULTS_MAX = 20_000
_KEPT_RESULTS_S = 30.0
_WAITING_MESSAGES_MAX = 50_000
_RESULTS_PER_MESSAGE_MAX = 1_000
_BYTES_PER_MESSAGE_MAX = 4 * 1024 * 1024


class Outbox:
    """The ``Reporter`` of a worker.

    ``running`` gives what runs now, for AttemptsStarted. With ``keeps_sent`` the results that were sent last are
    kept for a while: a link that breaks says nothing of what still arrived, and the same result twice is harmless.
    """

    def __init__(self, running: Callable[[], Iterable[HeldLease]], *, keeps_sent: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._running = running
        self._keeps_sent = keeps_sent
        self._send: Callable[[WorkerMessage], None] | None = None
        self._messages: deque[WorkerMessage] = deque()
        self._results: list[AttemptResult] = []
        self._returned: list[LeaseId] = []
        self._not_collectable: list[LeaseId] = []
        self._sent: deque[tuple[float, list[AttemptResult]]] = deque()
        self._sent_count = 0
        self._is_awake = False

    # Reporter -----------------------------------------------------------------------------------------------------

    def finished(self, result: AttemptResult) -> None:
        self._results.append(result)

    def returned(self, lease_ids: Sequence[LeaseId], *, not_collectable: bool = False) -> None:
        (self._not_collectable if not_collectable else self._returned).extend(lease_ids)

    def infrastructure_failed(self, lease_ids: Sequence[LeaseId], reason: str, *, has_started: bool = False) -> None:
        self.tell(InfrastructureFailed(lease_ids=tuple(lease_ids), reason=reason, has_started=has_started))

    def tell(self, message: WorkerMessage) -> None:
        if self._send is None and isinstance(message, RunOutput):
            # Output of a time without anybody to read it is not worth the memory.
            return
        self._messages.append(message)
        while len(self._messages) > _WAITING_MESSAGES_MAX:
            self._messages.popleft()

    def wake(self) -> None:
        if not self._is_awake:
            self._is_awake = True
            # Not at once: other sockets that are readable in this turn of the loop add theirs.
            self._loop.call_soon(self.flush)

    # Link ---------------------------------------------------------------------------------------------------------

    def attach(self, send: Callable[[WorkerMessage], None]) -> None:
        """A link is there: what was sent just before the last one broke goes again, then everything that waited."""
        self._send = send
        sent = [result for _, results in self._sent for result in results]
        self._sent.clear()
        self._sent_count = 0
        self._results[:0] = sent
        self.flush()

    def detach(self) -> None:
        self._send = None

    def unconfirmed(self) -> list[LeaseId]:
        """Leases whose results may not have arrived yet."""
        sent = [result.lease_id for _, results in self._sent for result in results]
        return sent + [result.lease_id for result in self._results]

    def forget_all(self) -> None:
        """Another coordinator: nothing of this concerns it."""
        self._messages.clear()
        self._sent.clear()
        self._sent_count = 0
        self._results, self._returned, self._not_collectable = [], [], []

    def flush(self) -> None:
        """Send all of it. Messages go first: what they say of a run belongs before results that end it."""
        self._is_awake = False
        send = self._send
        if send is None:
            return
        while self._messages:
            send(self._messages.popleft())
        if self._returned:
            send(LeasesReturned(lease_ids=tuple(self._returned)))
            self._returned = []
        if self._not_collectable:
            send(LeasesReturned(lease_ids=tuple(self._not_collectable), not_collectable=True))
            self._not_collectable = []
        if self._results:
            results, self._results = self._results, []
            for batch in _batches(results):
                send(AttemptsFinished(results=batch))
            if self._keeps_sent:
                self._keep(results)
        self._announce(send)

    def _announce(self, send: Callable[[WorkerMessage], None]) -> None:
        started = []
        for held in self._running():
            if not held.is_announced and held.started_at is not None:
                held.is_announced = True
                started.append((held.lease.lease_id, held.started_at))
        if started:
            send(AttemptsStarted(leases=tuple(started)))

    def _keep(self, results: list[AttemptResult]) -> None:
        now = time.monotonic()
        self._sent.append((now, results))
        self._sent_count += len(results)
        while self._sent and (
            self._sent[0][0] < now - _KEPT_RESULTS_S or self._sent_count > _KEPT_RESULTS_MAX + len(results)
        ):
            self._sent_count -= len(self._sent.popleft()[1])


def _batches(results: list[AttemptResult]) -> Iterable[list[AttemptResult]]:
    """Cut into messages that fit a frame whatever the tests printed."""
    batch: list[AttemptResult] = []
    size = 0
    for result in results:
        size += len(result.output) + len(result.evidence) + (len(result.reports) if result.reports else 0)
        batch.append(result)
        if size > _BYTES_PER_MESSAGE_MAX or len(batch) >= _RESULTS_PER_MESSAGE_MAX:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
