"""What the API asks of the coordinator's shell, and nothing more: it can be served by any shell, or by a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from fleetest.core.cluster_state import ClusterState
from fleetest.core.commands import Command
from fleetest.core.events import Event
from fleetest.core.model import Instant, RunId, WorkerId
from fleetest.storage.history_queries import HistoryQueries
from fleetest.wire import messages as wire

T = TypeVar("T")

Observer = Callable[[Event, Sequence[Command]], None]
"""Called after each event with what it commanded; must be cheap and must not raise."""


class WorkerFacts(Protocol):
    """Of a worker whose link is open."""

    @property
    def host(self) -> str: ...
    @property
    def address(self) -> str: ...
    @property
    def joined_at(self) -> float:
        """Wall time, seconds since the epoch."""

    @property
    def load_average(self) -> float: ...
    @property
    def memory_available_bytes(self) -> int: ...


class RunFacts(Protocol):
    """Of a run from its submission on; whoever keeps it may read it after the run's end."""

    @property
    def submission(self) -> wire.SubmitRun: ...
    @property
    def submitter(self) -> str:
        """Id of the token that it was submitted with; empty if there was none."""

    @property
    def submitted_at(self) -> float:
        """Wall time, seconds since the epoch."""

    @property
    def outcome(self) -> str:
        """finished, cancelled or abandoned: how it ended, or would end now."""

    @property
    def notices(self) -> Sequence[str]:
        """What its suites had to say for people, once each: why a suite could not be collected, and the like."""


class Fleet(Protocol):
    """The coordinator as the API sees it. Everything is called on its event loop."""

    @property
    def state(self) -> ClusterState:
        """To be read, never to be changed."""

    @property
    def worker_facts(self) -> Mapping[WorkerId, WorkerFacts]: ...
    @property
    def run_facts(self) -> Mapping[RunId, RunFacts]:
        """Of runs that are not finished."""

    @property
    def client_count(self) -> int: ...

    def now(self) -> Instant:
        """The clock that decides; never wall time."""

    def observe(self, observer: Observer) -> None: ...

    def submit(self, submission: wire.SubmitRun, *, submitter: str) -> None:
        """Take in a run that no client follows. Raises RemoteProtocolError for one that cannot be meant, NotReady."""

    def cancel(self, run_id: RunId, reason: str, *, kill: bool) -> None:
        """End the run; nothing happens if it is over."""

    def apply(self, event: Event) -> None:
        """An operator's event."""


class History(Protocol):
    """The finished past. Its methods block: they are called on threads."""

    @property
    def trouble(self) -> str:
        """Why it cannot be used now; empty if it can."""

    def flush(self, timeout_s: float) -> bool:
        """Wait until what was recorded before can be asked for."""

    def query(self, question: Callable[[HistoryQueries], T], timeout_s: float | None = None) -> T:
        """Raises HistoryUnusable, HistoryTooSlow."""
